from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from deepcontrast_bmz.check.check import check_package
from deepcontrast_bmz.check.programs.ilastik import tile_size
from deepcontrast_bmz.package.files import Package

from .spoilt_packages import Copy, save_descriptions, sha256

if TYPE_CHECKING:
    from pathlib import Path

HALO = {"z": 2, "y": 8, "x": 8}
SIZES = {"z": 6, "y": 40, "x": 40}


class Volume(nn.Module):
    """Means of neighbours in z, y and x; the margin is mirrored symmetrically inside."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        kernel = torch.zeros(2, 1, 3, 2 * reach + 1, 3)
        kernel[0, 0, :, reach, 1] = 1 / 3
        kernel[1, 0, 1, :, :] = 1 / (3 * (2 * reach + 1))
        self.kernel = nn.Parameter(kernel)
        self.reach = reach

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = nn.functional.pad(x, (1, 1, self.reach, self.reach, 1, 1), mode="replicate")
        return nn.functional.conv3d(wide, self.kernel)


def make_volume(folder: Path, rdf: dict[str, Any], reach: int) -> dict[str, Any]:
    """Turn the description of planes into one of stacks with TorchScript weights alone."""
    module = Volume(reach).eval()
    raw = torch.rand((1, 1, 9, 43, 45), generator=torch.Generator().manual_seed(3)) * 100
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, raw)
        assert isinstance(traced, torch.jit.ScriptModule)
        torch.jit.freeze(traced).save(str(folder / "weights.torchscript.pt"))
        np.save(folder / "test_input.npy", raw.numpy())
        np.save(folder / "test_output.npy", module(raw).numpy())
    for side in ("inputs", "outputs"):
        tensor = rdf[side][0]
        flat = tensor["axes"][:2]
        for name in ("z", "y", "x"):
            axis: dict[str, Any] = {"type": "space", "id": name}
            if side == "inputs":
                axis["size"] = {"min": SIZES[name], "step": 1}
            else:
                axis["size"] = {"tensor_id": "raw", "axis_id": name, "offset": 0}
                axis["halo"] = HALO[name]
            flat.append(axis)
        tensor["axes"] = flat
        tensor["test_tensor"]["sha256"] = sha256(folder / tensor["test_tensor"]["source"])
        tensor.pop("sample_tensor")
    rdf["outputs"][0]["axes"][1]["channel_names"] = ["along_z", "in_plane"]
    entry = rdf["weights"]["torchscript"]
    entry.pop("parent")
    entry["sha256"] = sha256(folder / entry["source"])
    rdf["weights"] = {"torchscript": entry}
    return rdf


@pytest.fixture
def volume(spoilt: Copy) -> Copy:
    """A package for stacks whose network sees less than the halo."""
    spoilt.rdf = make_volume(spoilt.folder, spoilt.rdf, reach=7)
    return spoilt


def test_volumes_go_through_core_jdll_and_ilastik_and_not_through_qupath(volume: Copy) -> None:
    report = volume.check("all")
    assert report.passed, report.to_text()
    for program in ("core", "fiji", "ilastik"):
        row = report.row(program)
        for column in ("right_values", "any_size", "seams"):
            assert row.verdict(column).state == "passed", (program, column, report.to_text())
    qupath = report.row("qupath")
    assert qupath.passed is None
    assert qupath.findings == ()
    for verdict in (qupath.opens, qupath.runs, qupath.seams):
        assert verdict.state == "skipped"
        assert "two-dimensional images only" in verdict.reasons[0]


def test_halo_that_is_too_small_for_the_network_makes_seams_in_volumes(spoilt: Copy) -> None:
    spoilt.rdf = make_volume(spoilt.folder, spoilt.rdf, reach=15)
    report = spoilt.check("ilastik", "blockwise")
    assert report.row("ilastik").seams.state == "failed"
    assert report.row("core").seams.state == "failed"
    # The error lies on the seams, not at the border of the whole image.
    assert "from the whole image inside" in report.row("ilastik").seams.reasons[0]


def test_tiles_of_ilastik_grow_until_one_axis_has_64_pixels(volume: Copy) -> None:
    package = Package(volume.folder, volume.folder, "rdf.yaml", volume.rdf, None)
    assert tile_size(package.view.inputs[0]) == {"z": 30, "y": 64, "x": 64}


def test_stack_of_one_plane_is_taken_by_qupath(volume: Copy) -> None:
    for side in (volume.input, volume.output):
        z = side["axes"][2]
        z.clear()
        z.update(type="space", id="z", size=1)
    save_descriptions(volume.folder, volume.rdf)
    report = check_package(volume.folder, run=["none"])
    assert report.row("qupath").opens.reasons[0] != report.row("fiji").opens.reasons[0]
    assert "two-dimensional images only" not in report.row("qupath").opens.reasons[0]
