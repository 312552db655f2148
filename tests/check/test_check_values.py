from __future__ import annotations

import shutil
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from deepcontrast_bmz.check.check import ENGINES, check_package

from .spoilt_packages import (
    Brighter,
    Copy,
    only_state_dict,
    save_descriptions,
    save_script,
    script,
    sha256,
)

if TYPE_CHECKING:
    from pathlib import Path

SQUARE = 8


@pytest.mark.slow
def test_good_package_passes_everywhere_and_the_state_dict_is_not_called_passed(
    good: Path,
) -> None:
    report = check_package(good)
    assert report.engines == tuple(name for name, engine in ENGINES.items() if not engine.real)
    assert report.passed, report.to_text()
    core = report.row("core")
    for column in ("runs", "right_values", "any_size"):
        verdict = core.verdict(column)
        assert verdict.state == "passed"
        assert not any(reason.startswith("pytorch_state_dict") for reason in verdict.reasons)
        assert any("pytorch_state_dict was not run" in part for part in verdict.not_run)
    assert core.seams.state == "passed"
    assert "with --blockwise=" in core.seams.reasons[0]
    for program in ("qupath", "ilastik", "fiji"):
        row = report.row(program)
        # The program itself was not run, however well its emulation went.
        assert row.runs.state == "skipped"
        assert row.right_values.state == row.any_size.state == row.seams.state == "passed"
        assert row.seams.reasons[0].startswith(("emulated", "by its tile rule"))
        assert row.passed is None
    assert report.row("bioengine").right_values.state == "skipped"
    # The only warnings are measured ones: descriptions and weights are clean.
    assert {f.source for row in report.rows for f in row.findings} <= {"measured"}
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


def test_halo_of_eight_makes_seams(spoilt: Copy) -> None:
    for axis in spoilt.space(spoilt.output):
        axis["halo"] = 8
    report = spoilt.check("qupath", "ilastik", "blockwise")
    for program in ("qupath", "ilastik", "core"):
        row = report.row(program)
        assert row.seams.state == "failed"
        assert any("from the whole image" in reason for reason in row.seams.reasons)
        assert row.right_values.state == ("skipped" if program == "core" else "passed")


def test_whole_and_blocks_differ_where_statistics_of_the_image_are_used(spoilt: Copy) -> None:
    kwargs = {"axes": ["channel", "y", "x"], "min_percentile": 1.0, "max_percentile": 99.0}
    spoilt.input["preprocessing"] = [{"id": "scale_range", "kwargs": kwargs}]
    core = spoilt.check("blockwise").row("core")
    # This reference pads the whole image before it takes the percentiles, blocks afterwards.
    assert core.seams.state == "failed"


class Pooled(nn.Module):
    """Sees means over squares of 8 pixels: values depend on where an image begins."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        coarse = F.interpolate(F.avg_pool2d(x, 8, ceil_mode=True), scale_factor=8.0)
        coarse = coarse[:, :, : x.shape[2], : x.shape[3]]
        return torch.cat([x, coarse, x - coarse, x + coarse], dim=1)


@pytest.mark.parametrize("halo", [2 * SQUARE, 2 * SQUARE + 4])
def test_network_with_pooling_needs_a_halo_on_its_grid(spoilt: Copy, halo: int) -> None:
    module = Pooled().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(script(module))
    save_script(spoilt, frozen)
    raw = np.load(spoilt.folder / "test_input.npy")[..., :64, :64]
    np.save(spoilt.folder / "test_input.npy", raw)
    np.save(spoilt.folder / "test_output.npy", module(torch.from_numpy(raw)).numpy())
    spoilt.rehash(spoilt.input["test_tensor"])
    spoilt.rehash(spoilt.output["test_tensor"])
    for axis in spoilt.space(spoilt.output):
        axis["halo"] = halo
    for axis in spoilt.space(spoilt.input):
        axis["size"] = {"min": 64, "step": SQUARE}
    report = spoilt.check("fiji", "blockwise")
    on_grid = halo % SQUARE == 0
    rules = {f.rule for f in report.row("fiji").findings}
    assert ("fiji.halo-grid" in rules) is not on_grid
    fiji = report.row("fiji")
    assert (fiji.right_values.state == "passed") is on_grid
    assert (fiji.any_size.state == "passed") is on_grid
    if not on_grid:
        assert "of the range from the test output inside" in fiji.right_values.reasons[0]


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


def test_exported_run_breaks_no_rule_and_its_formats_agree(exported: Path) -> None:
    report = check_package(exported, run=["parity", "fiji"])
    assert report.passed, report.to_text()
    assert [f for row in report.rows for f in row.findings] == []
    core = report.row("core")
    assert core.any_size.state == "passed"
    # The architecture file is this version's own source, and nothing of the package is run.
    assert core.any_size.not_run == ()
    said = next(r for r in core.right_values.reasons if r.startswith("pytorch_state_dict"))
    assert "the architecture file repeats word for word) and torchscript agree" in said
    assert report.row("fiji").right_values.state == "passed"


def test_state_dict_of_another_network_is_noticed_without_running_code(
    exported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "exchanged"
    shutil.copytree(exported, folder)
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    entry = rdf["weights"]["pytorch_state_dict"]
    state = torch.load(folder / entry["source"], weights_only=True)
    other = {name: tensor * 1.1 for name, tensor in state.items()}
    torch.save(other, folder / entry["source"])
    entry["sha256"] = sha256(folder / entry["source"])
    # Code that would show that it was run.
    file = folder / entry["architecture"]["source"]
    file.write_text(f"{file.read_text()}\nraise SystemExit('I was run')\n")
    entry["architecture"]["sha256"] = sha256(file)
    save_descriptions(folder, rdf)
    core = check_package(folder, run=["parity"]).row("core")
    assert core.right_values.state == "failed"
    (said,) = core.right_values.reasons
    assert said.startswith("pytorch_state_dict (in this project's network with architecture.kwargs")
    assert "was not run) differs from torchscript" in said
    assert core.any_size.state == "passed"
    assert not any("pytorch_state_dict" in reason for reason in core.any_size.reasons)
    assert any("pytorch_state_dict was run only" in part for part in core.any_size.not_run)
