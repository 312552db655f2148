from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import pytest
import tifffile
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter1d
from torch import nn

from deepcontrast_bmz.consumers import ENGINES, PROGRAMS, check_package, parity
from deepcontrast_bmz.consumers.description import ModelView, Operation
from deepcontrast_bmz.consumers.package_files import Package
from deepcontrast_bmz.consumers.processing import UnsupportedError, apply_operations
from deepcontrast_bmz.consumers.rules import apply_rules
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export import export_weights
from deepcontrast_bmz.jdll_order import java_hash, loads_first, shares_slot
from deepcontrast_bmz.loop import Loop
from deepcontrast_bmz.network import build_network
from deepcontrast_bmz.package import export_run
from deepcontrast_bmz.settings import NetworkSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deepcontrast_bmz.consumers import Finding, Report

HALO = 24
CHANNELS = 4
SMALL = (600, 80)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def describe(folder: Path, names: dict[str, str], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The description of a package that follows every rule."""

    def entry(name: str) -> dict[str, Any]:
        return {"source": name, "sha256": sha256(folder / name)}

    def axes(channels: list[str], size: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {"type": "batch", "id": "batch"},
            {"type": "channel", "id": "channel", "channel_names": channels},
            {"type": "space", "id": "y", **size("y")},
            {"type": "space", "id": "x", **size("x")},
        ]

    reference = {"tensor_id": "raw", "offset": 0}
    return {
        "format_version": "0.5.4",
        "type": "model",
        "id": "tiny-loop",
        "name": "tiny loop",
        "description": "A network of a few weights, iterated four times.",
        "covers": ["cover.png"],
        "documentation": "README.md",
        "authors": [{"name": "Somebody", "github_user": "no-such-user-on-any-list"}],
        "maintainers": [{"name": "Somebody", "github_user": "no-such-user-on-any-list"}],
        "cite": [{"text": "Nobody", "doi": "10.48550/arXiv.2308.08365"}],
        "license": "MIT",
        "tags": ["2d", "restoration"],
        "timestamp": "2024-01-01T00:00:00Z",
        "inputs": [
            {
                "id": "raw",
                "description": "image",
                "axes": axes(["intensity"], lambda _: {"size": {"min": 56, "step": 1}}),
                "data": {"type": "float32"},
                "preprocessing": [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}],
                "test_tensor": entry("test_input.npy"),
                "sample_tensor": entry("sample_input.tif"),
            }
        ],
        "outputs": [
            {
                "id": "enhanced",
                "description": "iterations",
                "axes": axes(
                    [f"iteration_{k + 1}" for k in range(CHANNELS)],
                    lambda axis: {"size": {**reference, "axis_id": axis}, "halo": HALO},
                ),
                "data": {"type": "float32"},
                "test_tensor": entry("test_output.npy"),
                "sample_tensor": entry("sample_output.tif"),
            }
        ],
        "weights": {
            "pytorch_state_dict": {
                **entry(names["pytorch_state_dict"]),
                "architecture": {
                    **entry(names["architecture"]),
                    "callable": "DeepContrastLoop",
                    "kwargs": kwargs,
                },
                "pytorch_version": "2.5.1",
            },
            "torchscript": {
                **entry(names["torchscript"]),
                "parent": "pytorch_state_dict",
                "pytorch_version": "2.5.1",
            },
            "onnx": {
                **entry(names["onnx"]),
                "parent": "pytorch_state_dict",
                "opset_version": 17,
            },
        },
        "config": {
            "bioimageio": {
                "reproducibility_tolerance": [
                    {"relative_tolerance": 1e-3, "absolute_tolerance": 0.1}
                ]
            }
        },
    }


def save_descriptions(folder: Path, rdf: dict[str, Any]) -> None:
    """Write rdf.yaml, and model.yaml with the halo where QuPath looks for it."""
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf, sort_keys=False))
    outputs: list[dict[str, Any]] = []
    for output in rdf["outputs"]:
        halo = [axis.get("halo", 0) for axis in output["axes"]]
        outputs.append({**output, "halo": halo} if any(halo) else output)
    text = yaml.safe_dump({**rdf, "outputs": outputs}, sort_keys=False)
    (folder / "model.yaml").write_text(text)


@pytest.fixture(autouse=True)
def _unoptimised() -> Iterator[None]:
    """TorchScript would be optimised anew for every size, which takes longer than running it."""
    with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
        yield


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that no program objects to."""
    folder = tmp_path_factory.mktemp("good")
    generator = torch.Generator().manual_seed(1)
    settings = NetworkSettings(width=4, dilations=(1, 2, 1))
    torch.manual_seed(0)
    loop = Loop(build_network(settings), CHANNELS).eval()
    with torch.no_grad():
        for parameter in loop.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    exported = export_weights(loop, folder, settings)
    raw = 100 + 900 * torch.rand((1, 1, 72, 65), generator=generator)
    with torch.no_grad():
        enhanced = loop(raw)
    np.save(folder / "test_input.npy", raw.numpy())
    np.save(folder / "test_output.npy", enhanced.numpy())
    tifffile.imwrite(folder / "sample_input.tif", raw.numpy()[0, 0], photometric="minisblack")
    tifffile.imwrite(folder / "sample_output.tif", enhanced.numpy()[0], photometric="minisblack")
    # A grey 4 x 2 PNG.
    (folder / "cover.png").write_bytes(
        bytes.fromhex(
            "89504e470d0a1a0a0000000d494844520000000400000002080000000009c5caff"
            "0000000d49444154789c6368606860000003040101ecca4a4f0000000049454e44ae426082"
        )
    )
    (folder / "README.md").write_text("# Tiny loop\n\nNothing.\n\n# Validation\n\nNone.\n")
    names: dict[str, str] = {**exported.weights, "architecture": exported.architecture}
    save_descriptions(folder, describe(folder, names, dict(exported.architecture_kwargs)))
    return folder


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

    def space(self, side: dict[str, Any]) -> list[dict[str, Any]]:
        return [axis for axis in side["axes"] if axis["type"] == "space"]

    def weights(self, name: str) -> Path:
        return self.folder / self.rdf["weights"][name]["source"]

    def rehash(self, entry: dict[str, Any]) -> None:
        entry["sha256"] = sha256(self.folder / entry["source"])

    def check(self, *run: str) -> Report:
        save_descriptions(self.folder, self.rdf)
        return check_package(self.folder, run=run or ("none",))


@pytest.fixture
def spoilt(good: Path, tmp_path: Path) -> Copy:
    folder = tmp_path / "spoilt"
    shutil.copytree(good, folder)
    return Copy(folder)


def errors(report: Report) -> dict[str, set[str]]:
    """Names of the broken rules, by program."""
    return {
        row.program: {f.rule for f in row.findings if f.severity == "error"}
        for row in report.rows
        if row.failed
    }


def found(report: Report, rule: str) -> Finding:
    return next(f for row in report.rows for f in row.findings if f.rule == rule)


def test_files_of_a_good_package_break_no_rule(good: Path) -> None:
    report = check_package(good, run=["none"])
    assert report.passed
    assert [f for row in report.rows for f in row.findings] == []
    assert all(row.opens.state == "passed" for row in report.rows)
    for row in report.rows:
        assert row.passed is None
        assert row.runs.state == row.right_values.state == "skipped"
        assert row.runs.reasons


def test_good_package_passes_everywhere_and_the_state_dict_is_not_called_passed(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "TILED_IMAGE", SMALL)
    report = check_package(good)
    assert report.engines == tuple(ENGINES)
    assert report.passed, report.to_text()
    core = report.row("core")
    for column in ("runs", "right_values", "any_size"):
        verdict = core.verdict(column)
        assert verdict.state == "passed"
        assert not any(reason.startswith("pytorch_state_dict") for reason in verdict.reasons)
        assert any("pytorch_state_dict was not run" in part for part in verdict.not_run)
    for program in ("qupath", "ilastik", "fiji"):
        row = report.row(program)
        # The program itself was not run, however well its emulation went.
        assert row.runs.state == "skipped"
        assert row.right_values.state == row.any_size.state == row.seams.state == "passed"
        assert row.seams.reasons[0].startswith(("emulated", "by its tile rule"))
        assert row.passed is None
    assert report.row("bioengine").right_values.state == "skipped"
    # The only warnings are emulated ones: descriptions and weights are clean.
    assert {f.source for row in report.rows for f in row.findings} <= {"emulated"}
    assert "partly" in report.to_text()


def test_code_of_the_package_runs_when_allowed(spoilt: Copy) -> None:
    only_state_dict(spoilt)
    save_descriptions(spoilt.folder, spoilt.rdf)
    core = check_package(spoilt.folder, run=["core"]).row("core")
    assert core.runs.state == core.right_values.state == "skipped"
    assert core.passed is None
    core = check_package(spoilt.folder, run=["core", "parity"], run_code=True).row("core")
    for verdict in (core.runs, core.right_values, core.any_size):
        assert verdict.state == "passed"
        assert verdict.reasons[0].startswith("pytorch_state_dict")
        assert verdict.not_run == ()


def test_zip_is_judged_like_its_folder(good: Path, tmp_path: Path) -> None:
    packed = tmp_path / "good.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in good.iterdir():
            archive.write(path, path.name)
    assert check_package(packed, run=["none"]).rows == check_package(good, run=["none"]).rows
    by_file = check_package(good / "rdf.yaml", run=["none"])
    assert by_file.rows == check_package(good, run=["none"]).rows


# ---- spoilt packages, read only


def documentation_as_map(c: Copy) -> None:
    c.rdf["documentation"] = {"source": "README.md", "sha256": sha256(c.folder / "README.md")}


def cover_as_map(c: Copy) -> None:
    c.rdf["covers"] = [{"source": "cover.png", "sha256": sha256(c.folder / "cover.png")}]


def no_channel_names(c: Copy) -> None:
    del c.input["axes"][1]["channel_names"]


def no_axis_id(c: Copy) -> None:
    del c.input["axes"][0]["id"]


def change_onnx(c: Copy, change: Callable[[onnx.ModelProto], None]) -> None:
    path = c.weights("onnx")
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    c.rehash(c.rdf["weights"]["onnx"])


def opset_18(c: Copy) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 18

    change_onnx(c, change)
    c.rdf["weights"]["onnx"]["opset_version"] = 18


def opset_not_as_declared(c: Copy) -> None:
    c.rdf["weights"]["onnx"]["opset_version"] = 16


def ir_11(c: Copy) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.ir_version = 11

    change_onnx(c, change)


def external_data(c: Copy) -> None:
    path = c.weights("onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    c.rehash(c.rdf["weights"]["onnx"])


def onnx_of_noise(c: Copy) -> None:
    c.weights("onnx").write_bytes(b"not a graph at all")
    c.rehash(c.rdf["weights"]["onnx"])


def mean_std(c: Copy) -> None:
    step = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}
    c.input["preprocessing"] = [step]


def mean_std_without_kwargs(c: Copy) -> None:
    c.input["preprocessing"] = [{"id": "zero_mean_unit_variance"}]


def percentiles_by_default(c: Copy) -> None:
    c.input["preprocessing"] = [{"id": "scale_range", "kwargs": {"axes": ["y", "x"]}}]


def scalar_gain(c: Copy) -> None:
    c.input["preprocessing"] = [{"id": "scale_linear", "kwargs": {"gain": 2.0, "offset": 0.0}}]


def one_bound(c: Copy) -> None:
    c.input["preprocessing"] = [{"id": "clip", "kwargs": {"min": 0.0}}]


def softmax(c: Copy) -> None:
    c.output["postprocessing"] = [{"id": "softmax", "kwargs": {"axis": "channel"}}]


def statistics_afterwards(c: Copy) -> None:
    kwargs = {"axes": ["channel", "y", "x"], "min_percentile": 1.0, "max_percentile": 99.0}
    c.output["postprocessing"] = [{"id": "scale_range", "kwargs": kwargs}]


def axis_scale(c: Copy) -> None:
    c.space(c.input)[0].update(scale=0.5, unit="micrometer")


def no_halo(c: Copy) -> None:
    for axis in c.space(c.output):
        del axis["halo"]


def halo_of_a_tile(c: Copy) -> None:
    for axis in c.space(c.input):
        axis["size"]["min"] = 512
    for axis in c.space(c.output):
        axis["halo"] = 256


def min_below_two_halos(c: Copy) -> None:
    for axis in c.space(c.input):
        axis["size"]["min"] = 48


def step_16(c: Copy) -> None:
    for axis in c.space(c.input):
        axis["size"] = {"min": 64, "step": 16}


def min_off_step(c: Copy) -> None:
    for axis in c.space(c.input):
        axis["size"] = {"min": 72, "step": 16}


def wrong_sha256(c: Copy) -> None:
    c.rdf["weights"]["torchscript"]["sha256"] = "0" * 64


def no_id(c: Copy) -> None:
    del c.rdf["id"]


def only_state_dict(c: Copy) -> None:
    for name in ("torchscript", "onnx"):
        del c.rdf["weights"][name]


def only_onnx(c: Copy) -> None:
    for name in ("torchscript", "pytorch_state_dict"):
        del c.rdf["weights"][name]
    del c.rdf["weights"]["onnx"]["parent"]


def weights_in_subfolder(c: Copy) -> None:
    (c.folder / "weights").mkdir()
    path = c.weights("torchscript")
    path.rename(c.folder / "weights" / path.name)
    c.rdf["weights"]["torchscript"]["source"] = f"weights/{path.name}"


def a_null(c: Copy) -> None:
    c.rdf["timestamp"] = None


def a_null_in_an_operation(c: Copy) -> None:
    c.input["preprocessing"][0]["kwargs"]["axes"] = None


class Upsampled(nn.Module):
    """Scripting it without freezing carries all of torch.nn.functional.interpolate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, CHANNELS, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.conv(x), scale_factor=1.0, mode="nearest")


def save_script(c: Copy, module: torch.jit.ScriptModule) -> None:
    module.save(str(c.weights("torchscript")))
    c.rehash(c.rdf["weights"]["torchscript"])


def script(module: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(module.eval())
    assert isinstance(scripted, torch.jit.ScriptModule)
    return scripted


def unfrozen_interpolate(c: Copy) -> None:
    save_script(c, script(Upsampled()))


class Median(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - torch.quantile(x, 0.5)


def quantile(c: Copy) -> None:
    save_script(c, script(Median()))


def onnx_first(c: Copy) -> None:
    c.rdf["weights"]["torchscript"]["pytorch_version"] = "2.13.0"


def torch_3(c: Copy) -> None:
    c.rdf["weights"]["torchscript"]["pytorch_version"] = "3.0.0"


def missing_file(c: Copy) -> None:
    c.rdf["covers"] = ["cover_of_another.png"]


def file_outside(c: Copy) -> None:
    (c.folder.parent / "README.md").write_text("# Validation\n")
    c.rdf["documentation"] = "../README.md"


def absolute_file(c: Copy) -> None:
    c.rdf["documentation"] = str((c.folder / "README.md").resolve())


def batch_of_four(c: Copy) -> None:
    for side in (c.input, c.output):
        side["axes"][0]["size"] = 4


def one_size_of_onnx(c: Copy) -> None:
    def change(model: onnx.ModelProto) -> None:
        for dim in model.graph.input[0].type.tensor_type.shape.dim:
            dim.dim_value = 64

    change_onnx(c, change)


def time_axis(c: Copy) -> None:
    c.input["axes"][0] = {"type": "time", "id": "time", "size": 1}


def index_axis(c: Copy) -> None:
    c.input["axes"][0] = {"type": "index", "id": "index", "size": 1}


def version_050(c: Copy) -> None:
    c.rdf["format_version"] = "0.5.0"


def version_06(c: Copy) -> None:
    c.rdf["format_version"] = "0.6.0"


def deepimagej_config(c: Copy) -> None:
    c.rdf["config"]["deepimagej"] = {"prediction": {}}


def two_inputs(c: Copy) -> None:
    c.rdf["inputs"].append({**c.input, "id": "second"})


def no_license(c: Copy) -> None:
    del c.rdf["license"]


def padded_input(c: Copy) -> None:
    c.input["pad"] = {"mode": "symmetric"}


def unsigned_output(c: Copy) -> None:
    c.output["data"] = {"type": "uint16"}


def fewer_channels(c: Copy) -> None:
    del c.output["axes"][1]["channel_names"][-1]


def tensor_of_text(c: Copy) -> None:
    (c.folder / "test_input.npy").write_bytes(b"0 1 2 3")
    c.rehash(c.input["test_tensor"])


def pickled_tensor(c: Copy) -> None:
    np.save(c.folder / "test_input.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    c.rehash(c.input["test_tensor"])


SPOILT: list[tuple[Callable[[Copy], None], dict[str, str]]] = [
    (
        documentation_as_map,
        {p: f"{p}.plain-text" for p in ("fiji", "qupath", "ilastik", "bioengine")},
    ),
    (cover_as_map, {p: f"{p}.plain-text" for p in ("fiji", "qupath", "ilastik", "bioengine")}),
    (no_channel_names, {"fiji": "fiji.channel-names", "qupath": "qupath.channel-names"}),
    (no_axis_id, {"fiji": "fiji.axis-ids"}),
    (opset_18, {"fiji": "fiji.onnx-version"}),
    (opset_not_as_declared, {"fiji": "fiji.onnx-version", "bioengine": "bioengine.onnx-version"}),
    (ir_11, {"fiji": "fiji.onnx-version", "bioengine": "bioengine.onnx-version"}),
    (external_data, {"fiji": "fiji.onnx-one-file"}),
    (onnx_of_noise, {"fiji": "fiji.onnx-version", "bioengine": "bioengine.onnx-version"}),
    (mean_std, {p: f"{p}.mean-std" for p in ("fiji", "qupath", "ilastik")}),
    (
        mean_std_without_kwargs,
        {
            "qupath": "qupath.mean-std-kwargs",
            "fiji": "fiji.mean-std",
            "ilastik": "ilastik.mean-std",
        },
    ),
    (percentiles_by_default, {"qupath": "qupath.percentiles"}),
    (scalar_gain, {"qupath": "qupath.scale-linear"}),
    (one_bound, {"fiji": "fiji.clip-bounds"}),
    (softmax, {"fiji": "fiji.operations", "qupath": "qupath.operations"}),
    (statistics_afterwards, {"core": "core.post-statistics"}),
    (axis_scale, {"fiji": "fiji.axis-scale"}),
    (no_halo, {"qupath": "qupath.halo", "ilastik": "ilastik.halo"}),
    (halo_of_a_tile, {"ilastik": "ilastik.halo-fits", "core": "core.min-halo"}),
    (min_below_two_halos, {"core": "core.min-halo"}),
    (step_16, {"core": "core.any-size"}),
    (min_off_step, {"fiji": "fiji.min-step"}),
    (wrong_sha256, {"core": "core.sha256"}),
    (no_id, {"fiji": "fiji.id"}),
    (only_state_dict, {"fiji": "fiji.weights-format", "qupath": "qupath.weights-format"}),
    (only_onnx, {"qupath": "qupath.weights-format", "ilastik": "ilastik.weights-format"}),
    (weights_in_subfolder, {"fiji": "fiji.weights-subfolder"}),
    (a_null, {"fiji": "fiji.nulls"}),
    (a_null_in_an_operation, {"fiji": "fiji.nulls"}),
    (
        unfrozen_interpolate,
        {p: f"{p}.script-frozen" for p in ("fiji", "qupath", "ilastik", "bioengine")},
    ),
    (quantile, {"fiji": "fiji.quantile"}),
    (onnx_first, {"fiji": "fiji.loads-torchscript-first"}),
    (torch_3, {"fiji": "fiji.pytorch-major"}),
    (missing_file, {"core": "core.files"}),
    (file_outside, {"core": "core.files"}),
    (absolute_file, {"core": "core.files"}),
    (batch_of_four, {"fiji": "fiji.batch", "qupath": "qupath.batch"}),
    (one_size_of_onnx, {"core": "core.onnx-dynamic"}),
    (time_axis, {"fiji": "fiji.axis-types"}),
    (index_axis, {"fiji": "fiji.axis-types", "ilastik": "ilastik.axis-names"}),
    (version_050, {"qupath": "qupath.format-version"}),
    (version_06, {"fiji": "fiji.format-version", "core": "core.format-version"}),
    (deepimagej_config, {"fiji": "fiji.allow-tiling"}),
    (
        two_inputs,
        {
            "fiji": "fiji.one-input",
            "qupath": "qupath.one-tensor",
            "ilastik": "ilastik.one-tensor",
        },
    ),
    (no_license, {"qupath": "qupath.required-keys"}),
    (padded_input, {"bioengine": "bioengine.new-input-keys"}),
    (unsigned_output, {"fiji": "fiji.data-type"}),
    (fewer_channels, {"core": "core.channel-count"}),
    (tensor_of_text, {"core": "core.test-tensors"}),
    (pickled_tensor, {"core": "core.test-tensors"}),
]


@pytest.mark.parametrize(("spoil", "expected"), SPOILT, ids=[s.__name__ for s, _ in SPOILT])
def test_spoilt_package_is_refused_for_the_right_program_and_reason(
    spoilt: Copy, spoil: Callable[[Copy], None], expected: dict[str, str]
) -> None:
    spoil(spoilt)
    report = spoilt.check()
    assert not report.passed
    broken = errors(report)
    for program, rule in expected.items():
        assert rule in broken[program], (program, broken)
    # No other program is blamed, but the reference validator may object as well.
    assert set(broken) <= {*expected, "core"}, broken
    for program, rule in expected.items():
        row = report.row(program)
        finding = next(f for f in row.findings if f.rule == rule)
        verdict = row.verdict(finding.column)
        assert verdict.state == "failed"
        assert any(finding.met in reason and finding.mend in reason for reason in verdict.reasons)


def test_axis_halo_alone_is_nothing_to_qupath(spoilt: Copy) -> None:
    save_descriptions(spoilt.folder, spoilt.rdf)
    (spoilt.folder / "model.yaml").unlink()
    report = check_package(spoilt.folder, run=["none"])
    assert errors(report) == {"qupath": {"qupath.halo"}}
    assert "only axis halos of 24" in found(report, "qupath.halo").met


def test_second_description_that_says_something_else_is_remarked(spoilt: Copy) -> None:
    path = spoilt.folder / "model.yaml"
    other = yaml.safe_load(path.read_text())
    other["name"] = "another loop"
    path.write_text(yaml.safe_dump(other))
    report = check_package(spoilt.folder, run=["none"])
    assert report.passed
    assert "name differs" in found(report, "qupath.second-description").met


def test_paths_of_the_writing_machine_are_remarked(spoilt: Copy) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Upsampled().eval(), torch.zeros(1, 1, 64, 64))
    assert isinstance(traced, torch.jit.ScriptModule)
    save_script(spoilt, traced)
    report = spoilt.check()
    assert report.passed
    assert ".py in weights.torchscript.pt" in found(report, "core.local-paths").met


REMARKS: list[tuple[str, Callable[[Copy], object]]] = [
    ("core.cover", lambda c: c.rdf.pop("covers")),
    ("core.validation-heading", lambda c: (c.folder / "README.md").write_text("# Nothing\n")),
    ("core.sha256-given", lambda c: c.rdf["weights"]["onnx"].pop("sha256")),
    ("core.tolerance", lambda c: c.rdf["config"].pop("bioimageio")),
    ("core.validator-warning", lambda c: c.rdf.pop("cite")),
    ("ilastik.grid", lambda c: [axis.update(halo=25) for axis in c.space(c.output)]),
    ("fiji.sample", lambda c: c.input.pop("sample_tensor")),
    ("fiji.pytorch-version", lambda c: c.rdf["weights"]["torchscript"].pop("pytorch_version")),
    (
        "fiji.loads-first-tie",
        lambda c: c.rdf["weights"]["torchscript"].update(pytorch_version="2.9.0"),
    ),
    ("qupath.size-offset", lambda c: c.space(c.output)[0]["size"].pop("offset")),
    ("bioengine.format-version", lambda c: c.rdf.update(format_version="0.5.14")),
]


@pytest.mark.parametrize(("rule", "change"), REMARKS, ids=[rule for rule, _ in REMARKS])
def test_blemish_is_a_warning(spoilt: Copy, rule: str, change: Callable[[Copy], object]) -> None:
    change(spoilt)
    if rule == "core.tolerance":
        np.save(spoilt.folder / "test_output.npy", 1e5 * np.load(spoilt.folder / "test_output.npy"))
        spoilt.rehash(spoilt.output["test_tensor"])
    report = spoilt.check()
    assert found(report, rule).severity == "warning"


# ---- spoilt values


def test_output_two_percent_off(spoilt: Copy) -> None:
    np.save(spoilt.folder / "test_output.npy", 1.02 * np.load(spoilt.folder / "test_output.npy"))
    spoilt.rehash(spoilt.output["test_tensor"])
    assert spoilt.check().passed
    # The core is slow with TorchScript; one format is enough here.
    del spoilt.rdf["weights"]["torchscript"]
    report = spoilt.check("core", "fiji")
    core = report.row("core")
    assert core.right_values.state == "failed"
    assert core.right_values.reasons[0].startswith("onnx")
    assert core.runs.state == "passed"
    assert report.row("fiji").right_values.state == "failed"


class Brighter(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.05 * self.inner(x)


def test_torchscript_five_percent_off(spoilt: Copy) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner = torch.jit.load(str(spoilt.weights("torchscript")))
        brighter = torch.jit.freeze(script(Brighter(inner)))
    save_script(spoilt, brighter)
    report = spoilt.check("core", "parity", "fiji")
    core = report.row("core")
    assert core.right_values.state == "failed"
    assert core.right_values.reasons[0].startswith("torchscript")
    assert not any(reason.startswith("onnx:") for reason in core.right_values.reasons)
    assert any("onnx differs from torchscript" in reason for reason in core.right_values.reasons)
    fiji_row = report.row("fiji")
    assert fiji_row.right_values.state == "failed"
    assert "torchscript" in fiji_row.right_values.reasons[0]


def test_halo_of_eight_makes_seams(spoilt: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TILED_IMAGE", SMALL)
    for axis in spoilt.space(spoilt.output):
        axis["halo"] = 8
    report = spoilt.check("qupath", "ilastik")
    for program in ("qupath", "ilastik"):
        row = report.row(program)
        assert row.seams.state == "failed"
        assert "from the whole image" in row.seams.reasons[0]
        assert row.right_values.state == "passed"


def test_custom_postprocessing_is_not_run(spoilt: Copy) -> None:
    spoilt.output["postprocessing"] = [{"id": "custom", "kwargs": {"x": 1}}]
    report = spoilt.check("core", "fiji")
    assert any("custom" in reason for reason in report.row("core").runs.reasons)
    assert report.row("fiji").right_values.state == "skipped"


def test_engine_that_stops_is_a_failure_and_not_a_crash(spoilt: Copy) -> None:
    spoilt.weights("torchscript").write_bytes(b"no archive")
    spoilt.rehash(spoilt.rdf["weights"]["torchscript"])
    report = spoilt.check("core", "qupath")
    assert report.row("core").runs.state == "failed"
    assert report.row("core").runs.reasons[0].startswith("torchscript:")
    assert report.row("qupath").right_values.state == "failed"


# ---- what is no package


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


def test_zip_of_a_folder_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "nested.zip", {"model/rdf.yaml": MODEL})
    with pytest.raises(InputError, match="at its root, but has it in model"):
        check_package(path, run=["none"])


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


def test_unknown_engine_is_refused(good: Path) -> None:
    with pytest.raises(InputError, match="'imagej'"):
        check_package(good, run=["imagej"])


# ---- the rules themselves


def test_rules_are_complete_and_named_after_their_program() -> None:
    names = [rule.name for program in PROGRAMS for rule in program.rules]
    assert len(names) == len(set(names))
    for program in PROGRAMS:
        for rule in program.rules:
            assert rule.name.startswith(f"{program.name}.")
            assert all((rule.checks, rule.sees, rule.mend, rule.source))


def every_place(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a nested record."""
    places = [path] if path else []
    if isinstance(value, dict):
        for key, entry in value.items():
            places += every_place(entry, (*path, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            places += every_place(entry, (*path, index))
    return places


JUNK: tuple[Any, ...] = (None, [], {}, 7, -1.5, "words", [None], {"source": 3}, [[1]], True)


def test_no_description_makes_a_rule_crash(spoilt: Copy) -> None:
    original = json.dumps(spoilt.rdf)
    places = every_place(spoilt.rdf)
    assert len(places) > 100
    for index, place in enumerate(places):
        junk = JUNK[index % len(JUNK)]
        rdf = json.loads(original)
        inner = rdf
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = junk
        package = Package(spoilt.folder, spoilt.folder, "rdf.yaml", rdf, rdf)
        for program in PROGRAMS:
            for finding in apply_rules(program.rules, package):
                assert finding.met, (place, junk, finding.rule)


def test_rules_need_neither_torch_nor_long(good: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nstart = time.process_time()\n"
        "from deepcontrast_bmz.consumers import check_package\n"
        f"assert check_package(Path({str(good)!r}), run=['none']).passed\n"
        "assert 'torch' not in sys.modules and 'bioimageio.core' not in sys.modules\n"
        "assert time.process_time() - start < 5\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_report_as_json_holds_everything(spoilt: Copy) -> None:
    documentation_as_map(spoilt)
    report = spoilt.check()
    read = json.loads(report.to_json())
    assert read["passed"] is False
    rows = {row["program"]: row for row in read["rows"]}
    assert rows["fiji"]["opens"]["state"] == "failed"
    assert rows["fiji"]["passed"] is False
    assert rows["fiji"]["findings"][0]["mend"]
    text = report.to_text()
    assert "failed: bioengine, fiji, qupath, ilastik" in text
    assert "documentation as a map" in text


def test_old_description_is_read_in_the_same_words() -> None:
    rdf = {
        "format_version": "0.4.10",
        "inputs": [
            {
                "name": "raw",
                "axes": "bcyx",
                "shape": {"min": [1, 1, 64, 64], "step": [0, 0, 16, 16]},
                "data_type": "float32",
                "preprocessing": [
                    {"name": "zero_mean_unit_variance", "kwargs": {"mode": "fixed", "mean": [1.0]}}
                ],
            }
        ],
        "outputs": [
            {
                "name": "out",
                "axes": "bcyx",
                "shape": {
                    "reference_tensor": "raw",
                    "scale": [1, 0, 1, 1],
                    "offset": [0, 1.5, 0, 0],
                },
                "halo": [0, 0, 8, 8],
            }
        ],
        "test_inputs": ["in.npy"],
        "test_outputs": ["out.npy"],
    }
    view = ModelView.read(rdf)
    assert view.is_04
    assert [a.kind for a in view.inputs[0].axes] == ["batch", "channel", "space", "space"]
    y = view.inputs[0].axis("y")
    assert y is not None
    assert (y.minimum, y.step) == (64, 16)
    assert [y.legal(n) for n in (1, 64, 65, 80, 81)] == [64, 64, 80, 80, 96]
    assert view.outputs[0].channel is not None
    assert view.outputs[0].channel.size == 3
    assert view.halo == {"y": 8, "x": 8}
    assert view.outputs[0].tensor_halo == (0, 0, 8, 8)
    assert view.inputs[0].test_source == "in.npy"


# ---- values


@given(st.integers(1, 9), st.integers(0, 30))
def test_mirrored_indices_are_those_of_numpy(size: int, margin: int) -> None:
    line = np.arange(size)
    modes: tuple[Literal["symmetric", "reflect"], ...] = ("symmetric", "reflect")
    for mode in modes:
        expected = np.pad(line, margin, mode=mode)
        assert np.array_equal(parity.mirror_indices(-margin, size + margin, size, mode), expected)


def blur(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return uniform_filter1d(uniform_filter1d(x, 5, axis=2), 5, axis=3)


@given(st.integers(20, 60), st.integers(20, 60), st.sampled_from(["symmetric", "reflect"]))
def test_tiles_with_enough_halo_are_the_whole_image(
    height: int, width: int, mode: Literal["symmetric", "reflect"]
) -> None:
    image = np.random.default_rng(0).random((1, 1, height, width))
    whole = blur(image)
    joined = parity.tiled(blur, image, (2, 3), tile=(24, 21), halo=2, mode=mode)
    assert np.allclose(joined[..., 2:-2, 2:-2], whole[..., 2:-2, 2:-2])
    short = parity.tiled(blur, image, (2, 3), tile=(24, 19), halo=1, mode=mode)
    if height > 40:
        assert not np.allclose(short[..., 2:-2, 2:-2], whole[..., 2:-2, 2:-2])


def test_of_many_tiles_some_are_run_and_the_rest_is_left() -> None:
    image = np.random.default_rng(0).random((1, 1, 100, 100))
    count = 0

    def negative(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        nonlocal count
        count += 1
        return -x

    joined = parity.tiled(
        negative, image, (2, 3), tile=(14, 14), halo=2, mode="reflect", rest=image, most=3
    )
    assert count == 9
    assert np.array_equal(joined[..., :10, :10], -image[..., :10, :10])
    assert np.array_equal(joined[..., 90:, 90:], -image[..., 90:, 90:])
    assert np.array_equal(joined[..., 10:40, :], image[..., 10:40, :])


def test_difference_is_over_the_range_of_each_channel() -> None:
    second = np.stack([np.linspace(0, 1, 100), np.linspace(0, 1000, 100)])[None]
    first = second.copy()
    first[0, 0, 50] += 0.1
    first[0, 1, 0] += 10
    inside = [slice(None), slice(None), slice(10, 90)]
    within, border = parity.relative_difference(first, second, 1, inside)
    assert within == pytest.approx(0.1)
    assert border == pytest.approx(0.01)
    first[0, 0, 50] = np.nan
    assert parity.relative_difference(first, second, 1, inside)[0] == np.inf


def test_operations_do_what_they_are_called() -> None:
    x = np.random.default_rng(0).random((1, 2, 8, 8)) * 50 + 7
    axes = ("batch", "channel", "y", "x")

    def apply(name: str, **kwargs: Any) -> np.ndarray[Any, Any]:
        return apply_operations([Operation(name, kwargs, True)], x, axes)

    normal = apply("zero_mean_unit_variance", axes=["y", "x"])
    assert np.allclose(normal.mean(axis=(2, 3)), 0, atol=1e-5)
    assert np.allclose(normal.std(axis=(2, 3)), 1, atol=1e-4)
    ranged = apply("scale_range", min_percentile=0, max_percentile=100)
    assert np.allclose([ranged.min(), ranged.max()], [0, 1], atol=1e-5)
    by_channel = apply("scale_linear", gain=[2.0, 3.0], offset=1.0, axis="channel")
    assert np.allclose(by_channel[:, 1], 3 * x[:, 1] + 1, rtol=1e-5)
    assert apply("clip", min=10, max=20).max() == 20
    assert np.allclose(apply("sigmoid"), 1 / (1 + np.exp(-x)), atol=1e-6)
    assert set(np.unique(apply("binarize", threshold=30.0))) == {0, 1}
    fixed = apply("fixed_zero_mean_unit_variance", mean=7.0, std=50.0)
    assert np.allclose(fixed, (x - 7) / 50, atol=1e-5)
    with pytest.raises(UnsupportedError, match="cellpose"):
        apply("cellpose_flow_dynamics")


# Versions of PyTorch with opset 17 that were tried in the program itself.
@pytest.mark.parametrize("version", ["2.0.0", "2.2.0", "2.4.0", "2.5.1", "2.15.0", "2.16.0"])
def test_java_comes_to_torchscript_first(version: str) -> None:
    weights = {"onnx": "17", "torchscript": version}
    assert loads_first(weights)[0] == "torchscript"
    assert not shares_slot(weights, "onnx", "torchscript")


@pytest.mark.parametrize("version", ["2.7.1", "2.8.0", "2.10.0", "2.12.0", "2.13.0", "2.14.0"])
def test_java_comes_to_onnx_first(version: str) -> None:
    assert loads_first({"torchscript": version, "onnx": "17"})[0] == "onnx"


def test_java_leaves_a_tie_to_the_file() -> None:
    for order in (("onnx", "torchscript"), ("torchscript", "onnx")):
        versions = {"onnx": "17", "torchscript": "2.9.0"}
        weights = {name: versions[name] for name in order}
        assert shares_slot(weights, "onnx", "torchscript")
        assert loads_first(weights) == list(order)


def test_java_hash_is_that_of_java() -> None:
    # Values of String.hashCode() from the Java language's documentation and common use.
    assert java_hash("") == 0
    assert java_hash("a") == 97
    assert java_hash("hello") == 99162322
    assert java_hash("polygenelubricants") == 2**31


def test_exported_run_breaks_no_rule_and_its_formats_agree(tiny_run: Path, tmp_path: Path) -> None:
    packed = export_run(tiny_run, tmp_path / "tiny.zip", maintainer="Somebody:no-such-user")
    report = check_package(packed, run=["parity", "fiji"])
    assert report.passed, report.to_text()
    assert [f for row in report.rows for f in row.findings] == []
    assert report.row("core").any_size.state == "passed"
    assert report.row("fiji").right_values.state == "passed"
