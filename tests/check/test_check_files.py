from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from deepcontrast_bmz.check.check import check_package
from deepcontrast_bmz.check.findings import Report
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.port.port import port_package

if TYPE_CHECKING:
    from pathlib import Path


def test_zip_is_judged_like_its_folder(good: Path, tmp_path: Path) -> None:
    packed = tmp_path / "good.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in good.iterdir():
            archive.write(path, path.name)
    assert check_package(packed, run=["none"]).rows == check_package(good, run=["none"]).rows
    by_file = check_package(good / "rdf.yaml", run=["none"])
    assert by_file.rows == check_package(good, run=["none"]).rows


def write_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


MODEL = b"format_version: 0.5.4\ninputs: []\nweights: {}\n"


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil", "C:\\evil"])
def test_zip_that_writes_outside_is_refused(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "evil.zip", {"rdf.yaml": MODEL, name: b"x"})
    with pytest.raises(InputError, match="outside its folder"):
        check_package(path, run=["none"])
    assert [p.name for p in tmp_path.iterdir()] == ["evil.zip"]


def test_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "link.zip", {"rdf.yaml": MODEL})
    link = zipfile.ZipInfo("weights.pt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/hostname")
    with pytest.raises(InputError, match="a link"):
        check_package(path, run=["none"])


def test_zip_that_explodes_is_refused(tmp_path: Path) -> None:
    zeros = bytes(100 * 2**20)
    path = write_zip(tmp_path / "bomb.zip", {"rdf.yaml": MODEL, "weights.pt": zeros})
    with pytest.raises(InputError, match="would unpack from"):
        check_package(path, run=["none"])


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_zip_is_refused(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(0).bytes(4000)
    path = write_zip(tmp_path / "cut.zip", {"rdf.yaml": MODEL, "weights.pt": noise})
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match="not a complete zip"):
        check_package(path, run=["none"])


def test_damaged_zip_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(4000)
    path = write_zip(tmp_path / "bad.zip", {"rdf.yaml": MODEL, "weights.pt": noise})
    data = bytearray(path.read_bytes())
    data[2000] ^= 255
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a complete zip"):
        check_package(path, run=["none"])


@pytest.mark.parametrize("open_it", ["check", "port", "model"])
@pytest.mark.parametrize("mac", [False, True])
def test_zip_of_a_folder_is_refused_with_the_way_out(
    tmp_path: Path, open_it: str, mac: bool
) -> None:
    entries = {"my model/rdf.yaml": MODEL}
    if mac:
        entries |= {"__MACOSX/my model/._rdf.yaml": b"\0", "__MACOSX/rdf.yaml": b"\0"}
    path = write_zip(tmp_path / "nested.zip", entries)
    with pytest.raises(InputError, match=r"at its root.*in my model/rdf\.yaml: pack the files"):
        open_as(open_it, path)


def open_as(command: str, path: Path) -> object:
    """Open a package as check, port or the commands that take a MODEL do."""
    if command == "check":
        return check_package(path, run=["none"])
    if command == "port":
        return port_package(path, path.with_name("ported.zip"))
    return open_model(path)


@pytest.mark.parametrize("open_it", ["check", "port", "model"])
def test_files_of_a_mac_beside_the_description_do_no_harm(
    tmp_path: Path, exported: Path, open_it: str
) -> None:
    path = tmp_path / "mac.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/._rdf.yaml", b"\0\5\x16\7")
        for file in exported.iterdir():
            # The name that bioimage.io gives the description.
            name = {"rdf.yaml": "bioimageio.yaml"}.get(file.name, file.name)
            archive.write(file, name)
    opened = open_as(open_it, path)
    if isinstance(opened, Report):
        # Fiji finds no other name than rdf.yaml, and only that is amiss.
        assert {f.rule for row in opened.rows for f in row.findings if f.severity == "error"} == {
            "fiji.file-name"
        }


NO_MODELS = {
    "no YAML": "a: [1, 2",
    "text": "just words",
    "a list": "- 1\n- 2\n",
    "empty": "",
    "code": "!!python/object/apply:os.system ['true']",
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)
    ),
    "itself": "inputs: &a [*a]\n",
    "nested": "inputs: " + "[" * 5000,
    "another kind": "type: dataset\nformat_version: 0.3.0\n",
    "no model": "name: something\n",
}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_description_that_is_none_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    (tmp_path / "rdf.yaml").write_text(NO_MODELS[kind])
    with pytest.raises(InputError) as caught:
        check_package(tmp_path, run=["none"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_not_a_package(tmp_path: Path) -> None:
    image = tmp_path / "image.tif"
    tifffile.imwrite(image, np.zeros((4, 4), np.float32))
    with pytest.raises(InputError, match="not a complete zip"):
        check_package(image)
    with pytest.raises(InputError, match="does not exist"):
        check_package(tmp_path / "nothing.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no rdf"):
        check_package(tmp_path / "empty")
