"""Somebody else's packages: refused as they are, opened everywhere after the port."""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import tifffile
import torch
import torch.nn.functional as F
import yaml
from bioimageio.spec import save_bioimageio_package
from bioimageio.spec.model import v0_5
from torch import nn

from deepcontrast_bmz.check.check import check_package
from deepcontrast_bmz.check.engines.cache import make_cache_folder
from deepcontrast_bmz.cli import main
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.port.port import port_package
from deepcontrast_bmz.port.sizes import find_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deepcontrast_bmz.check.findings import Report

ARCHITECTURE = '''
import torch
from torch import nn


class Small(nn.Module):
    """Two convolutions."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.one = conv(1, 4, 3, padding=1)
        self.two = conv(4, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x)))
'''


class Small(nn.Module):
    """The same network as in the architecture file, under this project's roof."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.one = conv(1, 4, 3, padding=1)
        self.two = conv(4, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x)))


class Interpolated(nn.Module):
    """Scripting it without freezing carries all of torch.nn.functional.interpolate."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.inner(x), scale_factor=1.0, mode="nearest")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_network(dims: int = 2) -> Small:
    torch.manual_seed(3)
    return Small(dims).eval()


def traced(network: nn.Module, dims: int, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, 1, *[16] * dims)), path)


MEAN, STD = 50.0, 30.0


def saved_by_spec(folder: Path, dims: int = 2) -> Path:
    """A package as the installed bioimageio.spec saves it."""
    with warnings.catch_warnings():
        # It leaves files open.
        warnings.simplefilter("ignore", ResourceWarning)
        out = _saved_by_spec(folder, dims)
        gc.collect()
    return out


def _saved_by_spec(folder: Path, dims: int) -> Path:
    network = make_network(dims)
    (folder / "small.py").write_text(ARCHITECTURE)
    torch.save(network.state_dict(), folder / "state.pt")
    raw = 100 * np.random.default_rng(0).random((1, 1, *([9] * (dims - 2)), 72, 65))
    raw = raw.astype(np.float32)
    with torch.no_grad():
        result = network(torch.from_numpy((raw - MEAN) / STD)).numpy()
    np.save(folder / "in.npy", raw)
    np.save(folder / "out.npy", result)
    (folder / "doc.md").write_text("# Small\n\nNothing.\n")
    tifffile.imwrite(folder / "cover.tif", np.zeros((4, 8), np.uint8), photometric="minisblack")
    file = v0_5.FileDescr
    names = "zyx"[-dims:]
    weights: dict[str, Any] = {
        "pytorch_state_dict": v0_5.PytorchStateDictWeightsDescr(
            source=folder / "state.pt",
            architecture=v0_5.ArchitectureFromFileDescr(
                source=folder / "small.py", callable=v0_5.Identifier("Small"), kwargs={"dims": dims}
            ),
            pytorch_version=v0_5.Version("2.13.0+cu130"),
        )
    }
    traced(network, dims, folder / "net.pt")
    weights["torchscript"] = v0_5.TorchscriptWeightsDescr(
        source=folder / "net.pt",
        pytorch_version=v0_5.Version("2.13.0"),
        parent="pytorch_state_dict",
    )
    model = v0_5.ModelDescr(
        name="Small network",
        description="A small network.",
        authors=[v0_5.Author(name="Somebody")],
        cite=[v0_5.CiteEntry(text="nobody", doi=v0_5.Doi("10.48550/arXiv.2308.08365"))],
        license=v0_5.LicenseId("MIT"),
        documentation=file(source=folder / "doc.md"),
        tags=["2d"],
        inputs=[
            v0_5.InputTensorDescr(
                id=v0_5.TensorId("raw"),
                axes=[
                    v0_5.BatchAxis(),
                    v0_5.ChannelAxis(channel_names=[v0_5.Identifier("raw")]),
                    *(
                        v0_5.SpaceInputAxis(
                            id=v0_5.AxisId(name),
                            size=v0_5.ParameterizedSize(min=4 if name == "z" else 16, step=1),
                            scale=0.5,
                            unit="micrometer",
                        )
                        for name in names
                    ),
                ],
                preprocessing=[
                    v0_5.FixedZeroMeanUnitVarianceDescr(
                        kwargs=v0_5.FixedZeroMeanUnitVarianceKwargs(mean=MEAN, std=STD)
                    )
                ],
                test_tensor=file(source=folder / "in.npy"),
            )
        ],
        outputs=[
            v0_5.OutputTensorDescr(
                id=v0_5.TensorId("out"),
                axes=[
                    v0_5.BatchAxis(),
                    v0_5.ChannelAxis(channel_names=[v0_5.Identifier("a"), v0_5.Identifier("b")]),
                    *(
                        v0_5.SpaceOutputAxis(
                            id=v0_5.AxisId(name),
                            size=v0_5.SizeReference(
                                tensor_id=v0_5.TensorId("raw"), axis_id=v0_5.AxisId(name)
                            ),
                            scale=0.5,
                            unit="micrometer",
                        )
                        for name in names
                    ),
                ],
                test_tensor=file(source=folder / "out.npy"),
            )
        ],
        weights=v0_5.WeightsDescr(**weights),
    )
    out = folder / "saved.zip"
    save_bioimageio_package(model, output_path=out)
    return out


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BIOIMAGEIO_PERFORM_IO_CHECKS", "false")
    # TorchScript would be optimised anew for every size, which takes longer than running it.
    with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_by_spec(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, saved: Path) -> Path:
    """The ported package, unpacked: all formats, and no program objects to it."""
    folder = tmp_path_factory.mktemp("good")
    inside = tmp_path_factory.mktemp("unpacked")
    port_package(saved, folder / "good.zip", run_code=True)
    unpack(folder / "good.zip", inside)
    return inside


def unpack(archive: Path, folder: Path) -> dict[str, Any]:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return yaml.safe_load((folder / "rdf.yaml").read_text())


def errors(report: Report) -> dict[str, set[str]]:
    """Names of broken rules, by program."""
    return {
        row.program: {f.rule for f in row.findings if f.severity == "error"}
        for row in report.rows
        if row.failed
    }


def files_of(archive: Path) -> dict[str, str]:
    with zipfile.ZipFile(archive) as opened:
        return {n: hashlib.sha256(opened.read(n)).hexdigest() for n in opened.namelist()}


# ---- what others save


def test_package_saved_by_the_reference_library(saved: Path, tmp_path: Path) -> None:
    before = errors(check_package(saved, run=["none"]))
    assert {"fiji.plain-text", "fiji.axis-scale", "fiji.axis-ids"} <= before["fiji"]
    assert {"qupath.plain-text", "qupath.operations", "qupath.halo"} <= before["qupath"]
    assert {"ilastik.plain-text", "ilastik.halo"} <= before["ilastik"]
    given = sha256(saved)
    out = tmp_path / "ported.zip"
    record = port_package(saved, out)
    assert sha256(saved) == given
    report = check_package(out, run=["parity", "fiji", "qupath", "ilastik"])
    assert report.passed, report.to_text()
    assert errors(report) == {}
    for program in ("fiji", "qupath", "ilastik"):
        row = report.row(program)
        assert row.right_values.state == row.any_size.state == row.seams.state == "passed"
    assert record.left == ()
    assert len(record.unchecked) == 1
    assert "pytorch_state_dict" in record.unchecked[0]
    assert any("halo" in sentence and "8 along y" in sentence for sentence in record.changed)
    rdf = unpack(out, tmp_path / "x")
    assert rdf["config"]["dcbmz_port"]["axes"]["raw"]["y"] == {"unit": "micrometer", "scale": 0.5}
    assert rdf["weights"]["pytorch_state_dict"]["pytorch_version"] == "2.13.0"
    sample = tifffile.imread(tmp_path / "x" / "sample_input.tif")
    assert np.array_equal(sample, np.load(tmp_path / "x" / "in.npy")[0, 0])


def test_what_needs_no_mending_keeps_its_bytes_and_all_bytes_repeat(
    saved: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.zip", tmp_path / "two.zip"
    for out in (one, two):
        port_package(saved, out, run_code=True)
    assert one.read_bytes() == two.read_bytes()
    before, after = files_of(saved), files_of(one)
    for name in ("state.pt", "small.py", "in.npy", "out.npy"):
        assert after[name] == before[name], name
    # Its debug files held paths of this machine.
    assert after["net.pt"] != before["net.pt"]


def test_second_port_changes_nothing_but_says_so(good: Path, tmp_path: Path) -> None:
    record = port_package(good, tmp_path / "again.zip")
    assert record.changed == record.left == ()
    assert files_of(tmp_path / "again.zip") == {p.name: sha256(p) for p in good.iterdir()}


def test_volumes(tmp_path: Path) -> None:
    package = saved_by_spec(tmp_path, 3)
    before = errors(check_package(package, run=["none"]))
    assert {"fiji.axis-scale", "fiji.plain-text"} <= before["fiji"]
    assert "ilastik.halo" in before["ilastik"]
    out = tmp_path / "ported.zip"
    record = port_package(package, out)
    assert record.left == ()
    report = check_package(out, run=["parity", "fiji", "ilastik"])
    assert report.passed, report.to_text()
    assert report.row("ilastik").seams.state == "passed"
    rdf = unpack(out, tmp_path / "x")
    halos = {a["id"]: a.get("halo") for a in rdf["outputs"][0]["axes"] if a["type"] == "space"}
    assert halos == {"z": 2, "y": 8, "x": 8}
    assert not (tmp_path / "x" / "model.yaml").exists()


def old_package(folder: Path) -> Path:
    """A package of format 0.4, weights in a subfolder."""
    network = make_network()
    (folder / "weights").mkdir(parents=True)
    traced(network, 2, folder / "weights" / "net.pt")
    raw = 100 * np.random.default_rng(0).random((1, 1, 72, 65)).astype(np.float32)
    with torch.no_grad():
        result = network(torch.from_numpy((raw - MEAN) / STD)).numpy()
    np.save(folder / "in.npy", raw)
    np.save(folder / "out.npy", result)
    (folder / "README.md").write_text("# Old\n")
    rdf = {
        "format_version": "0.4.10",
        "type": "model",
        "name": "Old network",
        "description": "A network in an old description.",
        "authors": [{"name": "Somebody", "github_user": "no-such-user-on-any-list"}],
        "cite": [{"text": "nobody", "doi": "10.48550/arXiv.2308.08365"}],
        "documentation": "README.md",
        "license": "MIT",
        "tags": ["2d"],
        "timestamp": "2024-01-01T00:00:00",
        "test_inputs": ["in.npy"],
        "test_outputs": ["out.npy"],
        "inputs": [
            {
                "name": "raw",
                "axes": "bcyx",
                "data_type": "float32",
                "shape": {"min": [1, 1, 16, 16], "step": [0, 0, 1, 1]},
                "preprocessing": [
                    {
                        "name": "zero_mean_unit_variance",
                        "kwargs": {"mode": "fixed", "axes": "yx", "mean": MEAN, "std": STD},
                    }
                ],
            }
        ],
        "outputs": [
            {
                "name": "out",
                "axes": "bcyx",
                "data_type": "float32",
                "shape": {
                    "reference_tensor": "raw",
                    "scale": [1, 0, 1, 1],
                    "offset": [0, 1, 0, 0],
                },
            }
        ],
        "weights": {
            "torchscript": {
                "source": "weights/net.pt",
                "sha256": sha256(folder / "weights" / "net.pt"),
                "pytorch_version": "1.13.1",
            }
        },
        "config": {"deepimagej": {"prediction": {}}},
    }
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf, sort_keys=False))
    return folder


def test_old_description(tmp_path: Path) -> None:
    package = old_package(tmp_path / "old")
    before = errors(check_package(package, run=["none"]))
    assert "fiji.weights-subfolder" in before["fiji"]
    out = tmp_path / "ported.zip"
    record = port_package(package, out)
    report = check_package(out, run=["parity", "fiji", "qupath"])
    assert report.passed, report.to_text()
    rdf = unpack(out, tmp_path / "x")
    assert rdf["format_version"] == "0.5.4"
    assert rdf["authors"][0]["github_user"] == "no-such-user-on-any-list"
    assert rdf["weights"]["torchscript"]["source"] == "net.pt"
    assert "deepimagej" not in rdf["config"]
    assert any("0.5.4, not 0.4.10" in sentence for sentence in record.changed)


# ---- spoilt packages


class Copy:
    """A copy of the good package to be spoilt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rdf: dict[str, Any] = yaml.safe_load((folder / "rdf.yaml").read_text())

    @property
    def input(self) -> dict[str, Any]:
        return self.rdf["inputs"][0]

    @property
    def output(self) -> dict[str, Any]:
        return self.rdf["outputs"][0]

    @property
    def weights(self) -> dict[str, Any]:
        return self.rdf["weights"]

    def path(self, name: str) -> Path:
        return self.folder / self.weights[name]["source"]

    def rehash(self, name: str) -> None:
        self.weights[name]["sha256"] = sha256(self.path(name))

    def save(self, *, second: bool = True) -> None:
        (self.folder / "rdf.yaml").write_text(yaml.safe_dump(self.rdf, sort_keys=False))
        other = copy.deepcopy(self.rdf)
        for output in other["outputs"]:
            output["halo"] = [axis.get("halo", 0) for axis in output["axes"]]
        path = self.folder / "model.yaml"
        if second:
            path.write_text(yaml.safe_dump(other, sort_keys=False))
        else:
            path.unlink()


@pytest.fixture
def spoilt(good: Path, tmp_path: Path) -> Copy:
    shutil.copytree(good, tmp_path / "spoilt")
    return Copy(tmp_path / "spoilt")


def documentation_as_map(c: Copy) -> None:
    c.rdf["documentation"] = {"source": "doc.md", "sha256": sha256(c.folder / "doc.md")}


def cover_as_map(c: Copy) -> None:
    c.rdf["covers"] = [{"source": c.rdf["covers"][0]}]


def a_null(c: Copy) -> None:
    c.rdf["timestamp"] = None


def no_id(c: Copy) -> None:
    del c.rdf["id"]


def no_channel_names(c: Copy) -> None:
    del c.output["axes"][1]["channel_names"]


def no_axis_id(c: Copy) -> None:
    del c.input["axes"][0]["id"]


def axis_scale(c: Copy) -> None:
    for side in (c.input, c.output):
        side["axes"][2].update(scale=0.5, unit="micrometer")


def weights_in_subfolder(c: Copy) -> None:
    (c.folder / "weights").mkdir()
    path = c.path("torchscript")
    path.rename(c.folder / "weights" / path.name)
    c.weights["torchscript"]["source"] = f"weights/{path.name}"


def opset_18(c: Copy) -> None:
    from onnx import version_converter

    newer = version_converter.convert_version(onnx.load(c.path("onnx")), 18)
    onnx.save(newer, c.path("onnx"))
    c.weights["onnx"]["opset_version"] = 18
    c.rehash("onnx")


def newer_ir(c: Copy) -> None:
    newer = onnx.load(c.path("onnx"))
    newer.ir_version = 11
    onnx.save(newer, c.path("onnx"))
    c.rehash("onnx")


def second_file(c: Copy) -> None:
    onnx.save(
        onnx.load(c.path("onnx")),
        c.path("onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    entry = {"source": "weights.bin", "sha256": sha256(c.folder / "weights.bin")}
    c.weights["onnx"]["external_data"] = entry
    c.rehash("onnx")


def one_image_at_a_time(c: Copy) -> None:
    graph = onnx.load(c.path("onnx"))
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, c.path("onnx"))
    c.rehash("onnx")


def one_size(c: Copy) -> None:
    for axis, size in zip(c.input["axes"][2:], (72, 65), strict=True):
        axis["size"] = size


def opset_not_as_declared(c: Copy) -> None:
    c.weights["onnx"]["opset_version"] = 16


def unfrozen_interpolate(c: Copy) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Interpolated(make_network()).eval())
        torch.jit.save(scripted, c.path("torchscript"))
    c.rehash("torchscript")


def onnx_first(c: Copy) -> None:
    c.weights["torchscript"]["pytorch_version"] = "2.13.0"


def only_state_dict(c: Copy) -> None:
    for name in ("torchscript", "onnx"):
        c.path(name).unlink()
        del c.weights[name]


def wrong_sha256(c: Copy) -> None:
    c.weights["torchscript"]["sha256"] = "0" * 64


def deepimagej_config(c: Copy) -> None:
    c.rdf["config"]["deepimagej"] = {"prediction": {}}


def one_bound(c: Copy) -> None:
    c.input["preprocessing"].insert(0, {"id": "clip", "kwargs": {"min": 0.0}})


def scalar_gain(c: Copy) -> None:
    for step in c.input["preprocessing"]:
        if step["id"] == "scale_linear":
            step["kwargs"] = {k: v[0] for k, v in step["kwargs"].items() if k != "axis"}


def fixed_normalisation(c: Copy) -> None:
    kwargs = {"mean": MEAN, "std": STD}
    c.input["preprocessing"] = [{"id": "fixed_zero_mean_unit_variance", "kwargs": kwargs}]


def no_halo(c: Copy) -> None:
    for axis in c.output["axes"]:
        axis.pop("halo", None)


def exactly_050(c: Copy) -> None:
    c.rdf["format_version"] = "0.5.0"


def padded_input(c: Copy) -> None:
    c.input["pad"] = {"mode": "symmetric"}


def missing_cover(c: Copy) -> None:
    c.rdf["covers"] = ["of_another.png"]


SPOILT: list[tuple[Callable[[Copy], None], dict[str, str], str]] = [
    (
        documentation_as_map,
        {p: f"{p}.plain-text" for p in ("fiji", "qupath", "ilastik", "bioengine")},
        "documentation is a file name",
    ),
    (cover_as_map, {"fiji": "fiji.plain-text"}, "covers are file names"),
    (a_null, {"fiji": "fiji.nulls"}, "hold null are left out: timestamp"),
    (no_id, {"fiji": "fiji.id"}, "has an id, small-network"),
    (
        no_channel_names,
        {"fiji": "fiji.channel-names", "qupath": "qupath.channel-names"},
        "channels of out have names",
    ),
    (no_axis_id, {"fiji": "fiji.axis-ids"}, "Every axis has an id"),
    (axis_scale, {"fiji": "fiji.axis-scale"}, "scale of axes"),
    (weights_in_subfolder, {"fiji": "fiji.weights-subfolder"}, "lies in the root"),
    (opset_18, {"fiji": "fiji.onnx-version"}, "opset 17 and IR 8, not 18"),
    (
        newer_ir,
        {"fiji": "fiji.onnx-version", "bioengine": "bioengine.onnx-version"},
        "IR 8, not 17 and 11",
    ),
    (second_file, {"fiji": "fiji.onnx-one-file"}, "are one file"),
    (one_image_at_a_time, {"core": "core.onnx-dynamic"}, "The batch is of one image"),
    (one_size, {"qupath": "qupath.fixed-size"}, "in steps of 1 are declared, not 72 x 65 alone"),
    (opset_not_as_declared, {"fiji": "fiji.onnx-version"}, "opset_version is 17"),
    (
        unfrozen_interpolate,
        {p: f"{p}.script-frozen" for p in ("fiji", "qupath", "ilastik", "bioengine")},
        "are frozen",
    ),
    (onnx_first, {"fiji": "fiji.loads-torchscript-first"}, "is 2.5.1, not 2.13.0"),
    (
        only_state_dict,
        {"fiji": "fiji.weights-format", "qupath": "qupath.weights-format"},
        "traced from the state dict",
    ),
    (wrong_sha256, {"core": "core.sha256"}, "make sure that it is the right file"),
    (deepimagej_config, {"fiji": "fiji.allow-tiling"}, "config.deepimagej"),
    (one_bound, {"fiji": "fiji.clip-bounds"}, "clip says its max"),
    (scalar_gain, {"qupath": "qupath.scale-linear"}, "lists gain and offset"),
    (fixed_normalisation, {"qupath": "qupath.operations"}, "written as scale_linear"),
    (
        no_halo,
        {"qupath": "qupath.halo", "ilastik": "ilastik.halo"},
        "halo is declared, measured with the weights: 8 along y, 8 along x",
    ),
    (exactly_050, {"qupath": "qupath.format-version"}, "0.5.4, not 0.5.0"),
    (padded_input, {"bioengine": "bioengine.new-input-keys"}, "pad, which older programs refuse"),
    (missing_cover, {"core": "core.files"}, "which is not in the package"),
]


@pytest.mark.parametrize(
    ("spoil", "expected", "sentence"), SPOILT, ids=[s.__name__ for s, _, _ in SPOILT]
)
def test_what_can_be_mended_is_mended_and_said(
    spoilt: Copy,
    tmp_path: Path,
    spoil: Callable[[Copy], None],
    expected: dict[str, str],
    sentence: str,
) -> None:
    spoil(spoilt)
    spoilt.save(second=spoil is not no_halo)
    broken = errors(check_package(spoilt.folder, run=["none"]))
    for program, rule in expected.items():
        assert rule in broken[program], broken
    before = {p: sha256(p) for p in sorted(spoilt.folder.rglob("*")) if p.is_file()}
    out = tmp_path / "ported.zip"
    record = port_package(spoilt.folder, out, run_code=spoil is only_state_dict)
    assert {p: sha256(p) for p in before} == before, "the given package is never changed"
    assert any(sentence in words for words in record.changed), record
    assert record.left == ()
    report = check_package(out, run=["parity", "fiji"])
    assert report.passed, report.to_text()
    assert not any(f.severity == "error" for row in report.rows for f in row.findings)
    assert report.row("fiji").right_values.state == "passed"
    # What was not spoilt in the weights has its bytes still.
    after = files_of(out)
    touched = {
        "opset_18": "onnx",
        "newer_ir": "onnx",
        "second_file": "onnx",
        "unfrozen_interpolate": "torchscript",
    }.get(spoil.__name__)
    for name, entry in spoilt.weights.items():
        same = after[Path(entry["source"]).name] == sha256(spoilt.path(name))
        assert same is (name != touched), name


def pooled(image: Any) -> Any:
    """Means of 4 x 4 pixels, brought back to the size; other sizes are refused."""
    if image.shape[-1] % 4:
        raise ValueError("a multiple of 4")
    height, width = (n // 4 for n in image.shape[-2:])
    means = image.reshape(1, 1, height, 4, width, 4).mean(axis=(3, 5))
    return means.repeat(4, axis=2).repeat(4, axis=3)


def doubled(image: Any) -> Any:
    return 2 * image


def of_the_whole(image: Any) -> Any:
    return image - image.mean()


def cut_to_32(image: Any) -> Any:
    return image[..., :32, :32]


def of_32_alone(image: Any) -> Any:
    return image.reshape(1, 1, 32, 32)


@pytest.mark.parametrize(
    ("network", "step"),
    [
        (doubled, 1),
        (pooled, 4),
        (of_the_whole, None),
        (cut_to_32, None),
        (of_32_alone, None),
    ],
)
def test_the_step_of_the_sizes_is_found_by_trying(network: Any, step: int | None) -> None:
    image = np.random.default_rng(0).random((1, 1, 32, 32)).astype(np.float32)
    assert find_step([network], image, [2, 3]) == step
    assert find_step([network, pooled], image, [2, 3]) == (step and 4)


def test_code_of_a_package_is_not_run_unasked(spoilt: Copy, tmp_path: Path) -> None:
    only_state_dict(spoilt)
    trap = tmp_path / "it_ran"
    source = spoilt.folder / "small.py"
    source.write_text(f"open({str(trap)!r}, 'w').close()\n" + ARCHITECTURE)
    spoilt.weights["pytorch_state_dict"]["architecture"]["sha256"] = sha256(source)
    spoilt.save()
    out = tmp_path / "ported.zip"
    record = port_package(spoilt.folder, out)
    assert not trap.exists()
    assert any("--run-code" in sentence for sentence in record.left)
    assert set(errors(check_package(out, run=["none"]))) == {"fiji", "qupath"}
    port_package(spoilt.folder, out, run_code=True)
    assert trap.exists()


# bioimageio.core leaves the file open that it could not import.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_library_that_is_missing_is_named(spoilt: Copy, tmp_path: Path) -> None:
    only_state_dict(spoilt)
    source = spoilt.folder / "small.py"
    source.write_text("import no_such_library\n" + ARCHITECTURE)
    spoilt.weights["pytorch_state_dict"]["architecture"]["sha256"] = sha256(source)
    spoilt.save()
    record = port_package(spoilt.folder, tmp_path / "ported.zip", run_code=True)
    said = [sentence for sentence in record.left if "did not run here" in sentence]
    assert len(said) == 1
    assert "No module named 'no_such_library'" in said[0]


def test_statistics_of_the_image_are_said_to_be_left(spoilt: Copy, tmp_path: Path) -> None:
    spoilt.input["preprocessing"] = [{"id": "zero_mean_unit_variance", "kwargs": {}}]
    raw = np.load(spoilt.folder / "in.npy")
    with torch.no_grad():
        result = make_network()(torch.from_numpy((raw - raw.mean()) / (raw.std() + 1e-6)))
    np.save(spoilt.folder / "out.npy", result.numpy())
    spoilt.output["test_tensor"]["sha256"] = sha256(spoilt.folder / "out.npy")
    spoilt.save()
    out = tmp_path / "ported.zip"
    record = port_package(spoilt.folder, out)
    kwargs = unpack(out, tmp_path / "x")["inputs"][0]["preprocessing"][0]["kwargs"]
    assert kwargs == {"eps": 1e-6, "axes": ["channel", "y", "x"]}
    assert any("zero_mean_unit_variance on raw" in sentence for sentence in record.left)
    assert errors(check_package(out, run=["none"])) == {
        "fiji": {"fiji.mean-std"},
        "qupath": {"qupath.mean-std"},
        "ilastik": {"ilastik.mean-std"},
    }


def test_operator_that_opset_17_lacks_is_said_to_be_left(spoilt: Copy, tmp_path: Path) -> None:
    newer = onnx.load(spoilt.path("onnx"))
    result = newer.graph.output[0].name
    for node in newer.graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = "before" if name == result else name
    newer.graph.node.append(
        onnx.helper.make_node("Resize", ["before", "", "scales"], [result], antialias=1)
    )
    scales = np.ones(4, np.float32)
    newer.graph.initializer.append(onnx.numpy_helper.from_array(scales, "scales"))
    newer.opset_import[0].version = 18
    onnx.save(newer, spoilt.path("onnx"))
    spoilt.weights["onnx"]["opset_version"] = 18
    spoilt.rehash("onnx")
    spoilt.save()
    record = port_package(spoilt.folder, tmp_path / "ported.zip")
    assert any("Resize" in sentence and "antialias" in sentence for sentence in record.left)


def test_weights_that_are_another_network_are_said(spoilt: Copy, tmp_path: Path) -> None:
    torch.manual_seed(99)
    traced(Small().eval(), 2, spoilt.path("torchscript"))
    spoilt.rehash("torchscript")
    spoilt.save()
    record = port_package(spoilt.folder, tmp_path / "ported.zip")
    assert any("torchscript differ from the test output" in words for words in record.left)


# ---- bad input


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["port", *map(str, arguments)])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("dcbmz: ")
    assert "\n" not in said
    return said


def test_test_output_that_no_weights_give_is_refused(
    spoilt: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(spoilt.folder / "out.npy", 1.02 * np.load(spoilt.folder / "out.npy"))
    spoilt.output["test_tensor"]["sha256"] = sha256(spoilt.folder / "out.npy")
    spoilt.save()
    out = tmp_path / "ported.zip"
    assert "find out first which is right" in refused(capsys, spoilt.folder, "-o", out)
    assert not out.exists()


def test_what_is_no_package_is_refused_in_one_sentence(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.zip"
    given = tmp_path / "given.zip"
    shutil.copyfile(saved, given)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(saved.read_bytes()[:3000])
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "folder.zip").mkdir()
    assert "does not exist" in refused(capsys, tmp_path / "none.zip", "-o", out)
    assert "not a complete zip" in refused(capsys, broken, "-o", out)
    assert "not a model package" in refused(capsys, empty, "-o", out)
    assert "not changed" in refused(capsys, given, "-o", given)
    assert "is a folder" in refused(capsys, given, "-o", tmp_path / "folder.zip")
    assert "does not end in .zip" in refused(capsys, given, "-o", tmp_path / "out")
    assert "no '" in refused(capsys, given, "-o", tmp_path / "nowhere" / "out.zip")
    assert given.read_bytes() == saved.read_bytes()
    assert not out.exists()
    left = {"given.zip", "broken.zip", "empty", "folder.zip"}
    assert {p.name for p in tmp_path.iterdir()} == left


def test_missing_files_are_refused_in_one_sentence(
    spoilt: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.zip"
    inside = spoilt.folder / "out.zip"
    assert "lies in its folder" in refused(capsys, spoilt.folder, "-o", inside)
    spoilt.path("torchscript").unlink()
    said = refused(capsys, spoilt.folder, "-o", out)
    assert "weights.torchscript" in said
    assert "add the file" in said
    spoilt.weights["torchscript"]["source"] = "https://example.org/weights.pt"
    spoilt.save()
    assert "download the package whole" in refused(capsys, spoilt.folder, "-o", out)
    del spoilt.rdf["weights"]
    spoilt.save()
    assert "has weights" in refused(capsys, spoilt.folder, "-o", out)
    spoilt.rdf["format_version"] = "0.6.0"
    spoilt.save()
    assert "0.4 or 0.5" in refused(capsys, spoilt.folder, "-o", out)
    assert not out.exists()


def test_unreadable_test_tensor_is_refused(spoilt: Copy, tmp_path: Path) -> None:
    (spoilt.folder / "in.npy").write_bytes(b"no array")
    spoilt.save()
    with pytest.raises(InputError, match=r"save it with numpy\.save"):
        port_package(spoilt.folder, tmp_path / "out.zip")


def test_command_says_what_was_changed_and_left(
    spoilt: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_state_dict(spoilt)
    no_id(spoilt)
    spoilt.save()
    with pytest.raises(SystemExit) as ended:
        main(["port", str(spoilt.folder), "-o", str(tmp_path / "out.zip")])
    assert not ended.value.code
    said = capsys.readouterr().out
    changed, left = said.index("changed:"), said.index("could not be mended:")
    assert changed < said.index("has an id, small-network") < left < said.index("--run-code")


# ---- CAREamics

CAREAMICS = ("careamics==0.3.5", "torchmetrics<1.9", "microssim==0.0.5", "torchvision")
TRAIN = """
import sys
from pathlib import Path

import numpy as np
from careamics import CAREamist
from careamics.config import create_advanced_n2v_config

if __name__ == "__main__":
    work = Path(sys.argv[1])
    config = create_advanced_n2v_config(
        experiment_name="tiny", data_type="array", axes="YX", patch_size=(32, 32), batch_size=4,
        num_epochs=1, num_steps=3, num_workers=0, seed=1,
        model_params={"depth": 2, "num_channels_init": 8},
    )
    image = (200 + 50 * np.random.default_rng(0).random((96, 96))).astype(np.float32)
    careamist = CAREamist(config, work_dir=work, enable_progress_bar=False)
    careamist.train(train_data=image, val_data=image[:64, :64])
    careamist.export_to_bmz(
        path_to_archive=work / "n2v.zip", friendly_model_name="Tiny Noise2Void",
        input_array=image, authors=[{"name": "Somebody"}],
        general_description="A tiny Noise2Void.", data_description="Random numbers.",
    )
"""


def missing(reason: str) -> None:
    if os.environ.get("DCBMZ_ENGINES") == "required":
        pytest.fail(f"an engine is missing that may not be missing here: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def careamics() -> Path:
    """The python of an environment with CAREamics over the packages of this one.

    CAREamics pins an older torch, and a wheel of torch brings gigabytes: it is installed without
    what it asks for, which is here but for the packages named.
    """
    folder = make_cache_folder("environments") / "careamics-0.3.5"
    python = folder / "bin" / "python"
    stamp = folder / "ready"
    base = str(Path(np.__file__).parent.parent)
    if stamp.exists() and stamp.read_text() == base:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    commands = [
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"),
            *("--no-deps", "--disable-pip-version-check", *CAREAMICS),
        ],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            missing(f"CAREamics cannot be installed: {done.stderr.strip()[-300:]}")
    (site,) = folder.glob("lib/python*/site-packages")
    here = Path(__file__).parents[2]
    (site / "zz_base.pth").write_text(f"{base}\n{here}\n")
    stamp.write_text(base)
    return python


def in_environment(python: Path, *arguments: object) -> None:
    done = subprocess.run(
        [str(python), "-W", "ignore", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.engines
@pytest.mark.slow
def test_package_exported_by_careamics(careamics: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    in_environment(careamics, tmp_path / "train.py", tmp_path)
    exported = tmp_path / "n2v.zip"
    before = errors(check_package(exported, run=["none"]))
    assert {"fiji.id", "fiji.plain-text", "fiji.axis-ids", "fiji.weights-format"} <= before["fiji"]
    assert {"qupath.weights-format", "qupath.operations", "qupath.halo"} <= before["qupath"]
    assert {"ilastik.plain-text", "ilastik.halo"} <= before["ilastik"]
    assert before["core"] == {"core.any-size"}
    # Its network is a class of CAREamics: it is built where that is installed.
    out = tmp_path / "ported.zip"
    in_environment(careamics, "-m", "deepcontrast_bmz", "port", exported, "-o", out, "--run-code")
    assert files_of(out)["weights.pth"] == files_of(exported)["weights.pth"]
    report = check_package(out, run=["core", "parity", "fiji", "qupath", "ilastik"])
    # What is left lies in the network, which pools: one size, 96 x 96, was stated, but it takes any
    # multiple of 4.
    assert errors(report) == {"core": {"core.any-size"}, "qupath": set(), "ilastik": set()}
    for program in ("qupath", "ilastik"):
        # Where tiles meet, a few thousandths of the range; with its one size no tiles could be
        # compared.
        assert report.row(program).seams.state == "failed"
    for program in ("core", "fiji", "qupath", "ilastik"):
        row = report.row(program)
        assert row.opens.state == "passed"
        assert row.right_values.state == "passed", row.right_values.reasons
    without = port_package(exported, tmp_path / "without.zip", run_code=True)
    assert any("careamics" in sentence for sentence in without.left)
