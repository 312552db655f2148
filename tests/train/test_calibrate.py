"""What is fitted after training belongs to the run, its seed and its images."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import xarray as xr

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import write_image
from deepcontrast_bmz.model.run_folder import read_run
from deepcontrast_bmz.settings import Recipe
from deepcontrast_bmz.train import calibrate
from deepcontrast_bmz.train.raw_planes import RawPlane
from deepcontrast_bmz.train.run import recalibrate

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = Recipe.model_validate({"seed": 3})


def test_a_run_brings_its_statistics_and_they_belong_to_its_seed(
    tiny_run: Path, tiny_recipe: Recipe
) -> None:
    _, record, loop = read_run(tiny_run)
    assert record.depth is not None
    assert record.ood is not None
    assert (record.depth.recordings, record.depth.deepest) == (calibrate.FEWEST, 3.0)
    again = calibrate.fit_statistics(loop.eval(), tiny_recipe)
    assert again.depth == record.depth
    assert again.ood is not None
    # Without the training images only the specimens are familiar.
    assert again.ood.samples == calibrate.FEWEST
    assert record.ood.samples > again.ood.samples


@pytest.mark.parametrize(
    ("images", "procedural", "more"), [(5, False, 24), (4, False, 0), (5, True, 0)]
)
def test_five_raw_images_teach_the_depth_and_fewer_or_drawn_ones_do_not(
    tiny_run: Path, tiny_recipe: Recipe, images: int, *, procedural: bool, more: int
) -> None:
    _, _, loop = read_run(tiny_run)
    rng = np.random.default_rng(0)
    planes = [
        RawPlane(rng.poisson(90, (99, 99)).astype(np.float32), i, "raw", (5.5, 24.0), procedural)
        for i in range(images)
    ]
    found = calibrate._fit_depth(  # pyright: ignore[reportPrivateUsage]
        loop.eval(), tiny_recipe, planes, calibrate.FEWEST, calibrate.SMALL_SIDE
    )
    assert found.recordings == calibrate.FEWEST + more


def test_patches_of_raw_planes_keep_their_unit() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.poisson(200, (90, 120)).astype(np.float32) + 1000
    plane = RawPlane(pixels, 0, "raw", (5.5, 24.0))
    named = list(calibrate._patches(RECIPE, [plane], 4, 64))  # pyright: ignore[reportPrivateUsage]
    assert {image for image, _ in named} == {0}
    found = [patch for _, patch in named]
    assert [tuple(patch.shape) for patch in found] == [(64, 64)] * 4
    for patch in found:
        assert float(patch.mean()) == pytest.approx(1200, rel=0.05)
    assert torch.equal(found[0] % 1, torch.zeros(64, 64))
    assert not torch.equal(found[1] % 1, torch.zeros(64, 64))


def test_small_and_constant_planes_are_left_out() -> None:
    flat = RawPlane(np.full((90, 90), 7, np.float32), 0, "flat", (5.5, 24.0))
    small = RawPlane(np.eye(30, dtype=np.float32), 1, "small", (5.5, 24.0))
    assert not list(calibrate._patches(RECIPE, [flat, small], 6, 64))  # pyright: ignore[reportPrivateUsage]


def test_a_finished_run_is_calibrated_again(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    _, before, _ = read_run(folder)
    old = before.model_copy(update={"depth": None, "ood": None})
    (folder / "run.json").write_text(old.model_dump_json(), encoding="utf-8")
    assert recalibrate(folder) == before
    assert read_run(folder)[1] == before


def test_other_images_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    other = tmp_path / "other.tif"
    stack = np.arange(4 * 72 * 72, dtype=np.uint16).reshape(4, 72, 72)
    write_image(xr.DataArray(stack, dims=("z", "y", "x")), other)
    with pytest.raises(InputError, match="needs the images it began with"):
        recalibrate(folder, [other])
