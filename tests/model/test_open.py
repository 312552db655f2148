"""Models open from runs, packages and names; what is broken or hostile is refused."""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
import os
import pickle
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from conftest import run_record, untrained_loop

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.weights import export_weights
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.model.run_folder import describe_run
from deepcontrast_bmz.package import files
from deepcontrast_bmz.records import LoopDescription
from deepcontrast_bmz.settings import Recipe, recipe_to_toml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from deepcontrast_bmz.model.loop import Loop

RECIPE = Recipe.model_validate(
    {"network": {"width": 2, "dilations": [1, 2]}, "loop": {"iterations": 3}}
)
RECORD = run_record()
FORMATS = ("pytorch_state_dict", "torchscript", "onnx")


def new_loop() -> Loop:
    return untrained_loop(RECIPE)


def write_rdf(folder: Path, rdf: dict[str, Any]) -> None:
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf), encoding="utf-8")


def read_rdf(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "rdf.yaml").read_text(encoding="utf-8"))


def replace_weights(folder: Path, name: str, data: bytes) -> None:
    """Exchange a weights file and its sha256 with it."""
    rdf = read_rdf(folder)
    (folder / rdf["weights"][name]["source"]).write_bytes(data)
    rdf["weights"][name]["sha256"] = hashlib.sha256(data).hexdigest()
    write_rdf(folder, rdf)


def zipped(folder: Path) -> Path:
    return type(folder)(shutil.make_archive(str(folder) + "_zipped", "zip", folder))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    loop = new_loop()
    record = export_weights(loop, folder, RECIPE.network)
    weights = {
        name: {
            "source": file,
            "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest(),
        }
        for name, file in record.weights.items()
    }
    described = describe_run(RECIPE, RECORD, loop).model_dump(mode="json")
    write_rdf(folder, {"name": "tiny", "weights": weights, "config": {"dcbmz": described}})
    return folder


@pytest.fixture
def package(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "package")


ROUNDING = 1e-4
"""Images go up to 100: a few units in the last place of the largest grey values that the steps see.

Prediction asks for one kind of convolution kernel, the loop itself leaves the kind to torch.
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "recipe.toml").write_text(recipe_to_toml(RECIPE), encoding="utf-8")
    (folder / "run.json").write_text(RECORD.model_dump_json(), encoding="utf-8")
    torch.save(new_loop().state_dict(), folder / "weights.pt")
    return folder


def extended(iterations: int) -> Tensor:
    side = 12 + 2 * iterations * new_loop().radius
    return 100 * torch.rand(2, 1, side, side + 3, generator=torch.Generator().manual_seed(0))


def expected(iterations: int) -> Tensor:
    with torch.inference_mode():
        return new_loop().iterate(extended(iterations), iterations)


# ---- what opens


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("kind", ["folder", "zip", "rdf.yaml"])
def test_every_format_gives_the_same_values(
    exported: Path, weights: str, iterations: int, kind: str, tmp_path: Path
) -> None:
    path = exported
    if kind == "zip":
        path = type(exported)(shutil.make_archive(str(tmp_path / "package"), "zip", exported))
    elif kind == "rdf.yaml":
        path = exported / "rdf.yaml"
    model = open_model(path, weights=weights, device="cpu")
    assert (model.name, model.weights_format, model.device) == ("tiny", weights, "cpu")
    out = model.iterate(extended(iterations), iterations)
    assert (out - expected(iterations)).abs().max() <= 1e-4
    assert not out.requires_grad


def test_the_state_dict_is_the_default_and_has_no_last_iteration(package: Path) -> None:
    model = open_model(package, device="cpu")
    assert (model.weights_format, model.max_iterations) == ("pytorch_state_dict", None)
    torch.testing.assert_close(model.iterate(extended(6), 6), expected(6), rtol=0, atol=ROUNDING)


def test_without_a_state_dict_the_next_format_opens(package: Path) -> None:
    rdf = read_rdf(package)
    del rdf["weights"]["pytorch_state_dict"]
    write_rdf(package, rdf)
    assert open_model(package, device="cpu").weights_format == "torchscript"


def test_blocks_are_small_where_hidden_channels_are_held(package: Path) -> None:
    strips = open_model(package, device="cpu")
    graph = open_model(package, weights="onnx", device="cpu")
    assert graph.block < strips.block


@pytest.mark.parametrize("weights", ["torchscript", "onnx"])
def test_a_graph_has_only_its_own_iterations(package: Path, weights: str) -> None:
    model = open_model(package, weights=weights, device="cpu")
    assert model.max_iterations == 3
    with pytest.raises(InputError, match=r"hold 3 iterations and 4 .*pytorch_state_dict"):
        model.iterate(extended(4), 4)


def test_no_iteration_is_refused(package: Path) -> None:
    with pytest.raises(InputError, match="counted from 1"):
        open_model(package, device="cpu").iterate(extended(1), 0)


def test_a_finished_run_opens(run: Path) -> None:
    model = open_model(run, device="cpu")
    assert model.name == "my run"
    assert model.description.channels == ("iteration_1", "iteration_2", "iteration_3")
    assert model.description.radius_px == model.radius == new_loop().radius
    torch.testing.assert_close(model.iterate(extended(2), 2), expected(2), rtol=0, atol=ROUNDING)


def test_a_run_that_training_wrote_opens(tiny_run: Path) -> None:
    model = open_model(tiny_run, device="cpu")
    margin = 2 * model.radius
    out = model.iterate(torch.rand(1, 1, 8 + 2 * margin, 9 + 2 * margin), 2)
    assert out.shape == (1, 2, 8, 9)
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("installed", [True, False])
def test_a_shipped_model_opens_by_name(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    home = tmp_path / "root" / "deepcontrast_bmz"
    home.mkdir(parents=True)
    shutil.copytree(exported, home / "shipped" if installed else home.parent, dirs_exist_ok=True)

    def find(_: str) -> Path:
        return home

    monkeypatch.setattr(importlib.resources, "files", find)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deepcontrast").mkdir()  # a folder of that name is not meant
    model = open_model("deepcontrast", device="cpu")
    assert model.name == "deepcontrast"
    torch.testing.assert_close(model.iterate(extended(1), 1), expected(1), rtol=0, atol=ROUNDING)


def test_the_architecture_in_a_package_is_never_run(package: Path) -> None:
    trace = package / "was_run"
    code = f"from pathlib import Path\nPath({str(trace)!r}).touch()\n"
    (package / "architecture.py").write_text(code, encoding="utf-8")
    open_model(package, device="cpu").iterate(extended(1), 1)
    assert not trace.exists()


def test_packages_of_version_0_1_open(package: Path) -> None:
    rdf = read_rdf(package)
    rdf["config"]["dcbmz"] |= {"reinjection": 0.0, "local_dial": None}
    write_rdf(package, rdf)
    found = open_model(package, device="cpu").iterate(extended(2), 2)
    torch.testing.assert_close(found, expected(2), rtol=0, atol=ROUNDING)


def test_packages_of_version_0_1_that_reinject_are_refused(package: Path) -> None:
    rdf = read_rdf(package)
    rdf["config"]["dcbmz"]["reinjection"] = 0.5
    write_rdf(package, rdf)
    with pytest.raises(InputError, match=r"config\.dcbmz.*re-injection, which was removed in .* 0"):
        open_model(package, device="cpu")


def test_runs_of_version_0_1_open(run: Path) -> None:
    recipe = (run / "recipe.toml").read_text(encoding="utf-8")
    old = recipe.replace("[loop]\n", "[loop]\nreinjection = 0.0\nlocal_dial = false\n")
    assert old != recipe
    (run / "recipe.toml").write_text(old, encoding="utf-8")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(record | {"local_dial": None}), encoding="utf-8")
    assert open_model(run, device="cpu").description == describe_run(RECIPE, RECORD, new_loop())


def test_the_description_may_have_the_other_name_that_programs_read(package: Path) -> None:
    (package / "rdf.yaml").rename(package / "bioimageio.yaml")
    for path in (package, package / "bioimageio.yaml", zipped(package)):
        found = open_model(path, device="cpu")
        torch.testing.assert_close(
            found.iterate(extended(1), 1), expected(1), rtol=0, atol=ROUNDING
        )
        assert len(found.sha256) == 64


def test_a_package_zipped_within_its_folder_is_told_so(package: Path, tmp_path: Path) -> None:
    """As the Finder does it, with its own folder beside."""
    path = tmp_path / "finder.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in package.iterdir():
            archive.write(file, f"my model/{file.name}")
            archive.writestr(f"__MACOSX/my model/._{file.name}", b"\0\5\x16\7")
    told = r"finder\.zip must hold rdf\.yaml at its root.*my model/rdf\.yaml: pack the files"
    with pytest.raises(InputError, match=told):
        open_model(path)
    (tmp_path / "outer").mkdir()
    package.rename(tmp_path / "outer" / "inner")
    with pytest.raises(InputError, match="pack the files"):
        open_model(tmp_path / "outer")


# ---- what is refused


def test_an_unknown_name_is_told_what_a_model_may_be(tmp_path: Path) -> None:
    for name in ("deepkontrast", tmp_path / "nothing.zip", tmp_path):
        with pytest.raises(InputError, match=r"run folder.*package.*\(deepcontrast\)"):
            open_model(name)


def test_a_file_of_another_kind_is_no_model(run: Path) -> None:
    with pytest.raises(InputError, match="is none of them"):
        open_model(run / "weights.pt")


@pytest.mark.parametrize("missing", ["run.json", "weights.pt"])
def test_an_unfinished_run_is_told_to_resume(run: Path, missing: str) -> None:
    (run / missing).unlink()
    with pytest.raises(InputError, match=r"has not finished.*--resume"):
        open_model(run)


def test_a_run_has_no_graphs(run: Path) -> None:
    with pytest.raises(InputError, match="dcbmz export"):
        open_model(run, weights="onnx")


def test_a_broken_run_record_is_named(run: Path) -> None:
    (run / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"run\.json"):
        open_model(run)


def test_weights_of_another_network_are_refused(run: Path) -> None:
    text = recipe_to_toml(RECIPE).replace("width = 2", "width = 4")
    (run / "recipe.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="should be a tensor of"):
        open_model(run)


def test_an_unknown_format_is_refused(package: Path) -> None:
    with pytest.raises(InputError, match="pytorch_state_dict, torchscript, onnx"):
        open_model(package, weights="keras")


def test_a_format_that_is_not_there_is_refused(package: Path) -> None:
    rdf = read_rdf(package)
    del rdf["weights"]["onnx"]
    write_rdf(package, rdf)
    with pytest.raises(InputError, match="has weights pytorch_state_dict, torchscript, but onnx"):
        open_model(package, weights="onnx")


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("weights", FORMATS)
def test_exchanged_weights_are_refused(package: Path, weights: str, kind: str) -> None:
    file = package / read_rdf(package)["weights"][weights]["source"]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="sha256"):
        open_model(zipped(package) if kind == "zip" else package, weights=weights)


class Malicious:
    """Would touch a file when unpickled."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (self.trace,)


def test_a_pickle_that_would_run_code_is_refused(package: Path, tmp_path: Path) -> None:
    trace = tmp_path / "was_run"
    buffer = io.BytesIO()
    torch.save({"network": Malicious(str(trace))}, buffer)
    for data in (buffer.getvalue(), pickle.dumps(Malicious(str(trace)))):
        replace_weights(package, "pytorch_state_dict", data)
        with pytest.raises(InputError, match="plain tensors"):
            open_model(package)
    assert not trace.exists()


@pytest.mark.parametrize("data", [b"", b"abc", b"PK\x03\x04xx", b"\x80\x02X", bytes(300)])
@pytest.mark.parametrize("weights", FORMATS)
def test_garbage_is_refused(package: Path, weights: str, data: bytes) -> None:
    replace_weights(package, weights, data)
    with pytest.raises(InputError, match="cannot be loaded"):
        open_model(package, weights=weights, device="cpu")


def test_state_dicts_that_do_not_fit_are_refused(package: Path) -> None:
    good = new_loop().state_dict()
    some = next(iter(good))
    wrong: list[tuple[object, str]] = [
        ([1, 2], "do not hold the tensors"),
        ({**good, "more": torch.zeros(1)}, "do not hold the tensors"),
        ({k: v for k, v in good.items() if k != some}, "do not hold the tensors"),
        ({**good, some: torch.zeros(1)}, "should be a tensor of"),
        ({**good, some: 3}, "should be a tensor of"),
        ({**good, some: good[some] * torch.nan}, "NaN"),
    ]
    for state, message in wrong:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        replace_weights(package, "pytorch_state_dict", buffer.getvalue())
        with pytest.raises(InputError, match=message):
            open_model(package)


def test_weights_that_make_no_finite_values_are_refused(package: Path) -> None:
    buffer = io.BytesIO()
    torch.save({k: v * 1e30 for k, v in new_loop().state_dict().items()}, buffer)
    replace_weights(package, "pytorch_state_dict", buffer.getvalue())
    model = open_model(package, device="cpu")
    side = 8 + 2 * model.radius
    noise = torch.rand((1, 1, side, side), generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="finite"):
        model.iterate(noise, 1)


@pytest.mark.parametrize(
    "source", ["../weights.pt", "/etc/passwd", "a/../../weights.pt", "C:\\w.pt", "..\\w.pt", ""]
)
def test_weights_outside_the_package_are_refused(package: Path, source: str) -> None:
    shutil.copy(package / "weights.pt", package.parent / "weights.pt")
    rdf = read_rdf(package)
    rdf["weights"]["pytorch_state_dict"]["source"] = source
    write_rdf(package, rdf)
    for path in (package, zipped(package)):
        with pytest.raises(InputError, match="holds no such file inside it"):
            open_model(path)


def test_weights_on_the_web_are_not_fetched(package: Path) -> None:
    rdf = read_rdf(package)
    rdf["weights"]["pytorch_state_dict"]["source"] = "https://example.org/weights.pt"
    write_rdf(package, rdf)
    with pytest.raises(InputError, match="download the whole package"):
        open_model(package)


def test_a_link_out_of_the_package_is_refused(package: Path) -> None:
    (package / "weights.pt").rename(package.parent / "elsewhere.pt")
    (package / "weights.pt").symlink_to(package.parent / "elsewhere.pt")
    with pytest.raises(InputError, match="holds no such file inside it"):
        open_model(package)


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil", "..\\evil"])
def test_a_zip_that_points_outside_is_refused(package: Path, name: str) -> None:
    path = zipped(package)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(InputError, match="would be written outside its folder"):
        open_model(path)


def test_a_zip_bomb_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(package)
    monkeypatch.setattr(files, "ZIP_BYTES", 1000)
    with pytest.raises(InputError, match="would unpack from"):
        open_model(path)


def test_a_broken_zip_is_refused(package: Path) -> None:
    path = zipped(package)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="is not a complete zip file"):
        open_model(path)


def test_a_zip_without_rdf_is_refused(package: Path) -> None:
    (package / "rdf.yaml").unlink()
    with pytest.raises(InputError, match=r"holds no rdf\.yaml"):
        open_model(zipped(package))


def test_a_missing_weights_file_is_named(package: Path) -> None:
    (package / "weights.pt").unlink()
    for path in (package, zipped(package)):
        with pytest.raises(InputError, match=r"weights\.pt"):
            open_model(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "cannot be read as YAML"),
        ("- 1", "must hold a map"),
        ("", "must hold a map"),
        ("!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("[" * 1200, "cannot be read as YAML"),
        ("name: x", "does not describe a model"),
        ("weights: {}", "bioimageio predict"),
        ("{weights: {}, config: 3}", "bioimageio predict"),
        ("{weights: {}, config: {other: 3}}", "bioimageio predict"),
    ],
)
def test_another_rdf_is_refused(package: Path, text: str, message: str) -> None:
    (package / "rdf.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        open_model(package)


def test_an_rdf_that_is_no_text_is_refused(package: Path) -> None:
    (package / "rdf.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as YAML"):
        open_model(package)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("step_optical_depth", -1, "step_optical_depth"),
        ("nonsense", 1, "unknown key 'nonsense'"),
        ("radius_px", 11, "radius_px .* is 4, not 11"),
        ("network", {"width": 10**6}, "width.* less than or equal to 1024"),
        ("channels", ["iteration_1"], "1 channels for 3 iterations"),
    ],
)
def test_a_wrong_description_is_named(package: Path, key: str, value: object, message: str) -> None:
    rdf = read_rdf(package)
    rdf["config"]["dcbmz"][key] = value
    write_rdf(package, rdf)
    with pytest.raises(InputError, match=message):
        open_model(package)


@pytest.mark.parametrize("weights", [None, {}, [1], {"keras": {}}, {"onnx": 3}, {"onnx": {}}])
def test_broken_weights_entries_are_refused(package: Path, weights: object) -> None:
    rdf = read_rdf(package)
    rdf["weights"] = weights
    write_rdf(package, rdf)
    with pytest.raises(InputError, match="weights"):
        open_model(package)


def test_a_graph_that_contradicts_its_description_is_refused(package: Path) -> None:
    rdf = read_rdf(package)
    described = LoopDescription.model_validate(rdf["config"]["dcbmz"])
    rdf["config"]["dcbmz"] = described.model_copy(
        update={"iterations": 2, "channels": described.channels[:2]}
    ).model_dump(mode="json")
    write_rdf(package, rdf)
    model = open_model(package, weights="torchscript", device="cpu")
    with pytest.raises(InputError, match="inconsistent"):
        model.iterate(extended(1), 1)


# ---- devices


def test_onnx_on_cuda_needs_a_runtime_that_can(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def chosen(_device: str) -> str:
        return "cuda"

    monkeypatch.setattr("deepcontrast_bmz.model.open.choose_device", chosen)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert open_model(package, weights="onnx", device="auto").device == "cpu"
    with pytest.raises(InputError, match="onnxruntime-gpu"):
        open_model(package, weights="onnx", device="cuda")
