"""Training sees no pixel that is no part of the picture."""

from __future__ import annotations

import numpy as np
import xarray as xr

from deepcontrast_bmz.train.holes import cut_without_holes
from deepcontrast_bmz.train.raw_planes import planes_of, stacks_of


def picture(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).poisson(300, shape).astype(np.float32)


def test_an_image_without_holes_is_left_as_it_is() -> None:
    image = picture(90, 100)
    (part,) = cut_without_holes(image)
    assert part is image


def test_the_largest_rectangles_between_holes_are_used() -> None:
    image = picture(96, 160)
    image[:40, :60] = np.nan
    first, second = cut_without_holes(image)
    # Cells of 8 x 8 pixels: columns 64 to 160 are whole, rows 40 to 96 beside them.
    assert np.array_equal(first, image[:, 64:])
    assert np.array_equal(second, image[40:, :64])


def test_padding_is_left_out_and_specks_are_filled() -> None:
    image = picture(96, 128)
    image[:, 88:] = 0
    image[20, 20] = np.inf
    (part,) = cut_without_holes(image)
    assert part.shape == (96, 88)
    assert np.isfinite(part).all()
    same = part == image[:, :88]
    assert (~same).sum() == 1
    assert part[20, 20] in image[19:22, 19:22]


def test_what_is_too_small_is_not_used() -> None:
    image = picture(96, 96)
    image[::24] = np.nan
    image[:, ::24] = np.nan
    assert cut_without_holes(image) == []
    assert cut_without_holes(np.full((64, 64), np.nan, np.float32)) == []


def test_planes_and_stacks_are_cut_alike() -> None:
    stack = picture(4, 96, 96)
    stack[1, :, 56:] = np.nan
    image = xr.DataArray(stack, dims=("z", "y", "x"))
    shapes = [plane.pixels.shape for plane in planes_of(image, 0, "a stack", (2.0,))]
    assert shapes == [(96, 96), (96, 56), (96, 96), (96, 96)]
    (block,) = stacks_of(image, 0, "a stack", (2.0,), fewest=3)
    assert np.array_equal(block.pixels, stack[:, :, :56])
