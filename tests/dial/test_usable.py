"""Pixels that tell nothing of tissue are found, and no others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcontrast_bmz.dial.usable import fill_pixels, inspect_pixels, usable_pixels
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.phantoms import Kind, phantom
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 150


def recording(kind: Kind = "membranes", photons: float = 300, bits: int = 16) -> Tensor:
    truth = torch.from_numpy(phantom(kind, (SIDE, SIDE), np.random.default_rng(1))).double()
    seen = scatter(truth, 1.0, (4.0, 12.0), (0.7, 0.3)).clamp_min(0) * photons
    camera = Camera(gain=1.0, offset=10.0, read_noise_electrons=1.5, bit_depth=bits)
    return expose(seen, camera, torch.Generator().manual_seed(0)).float()


def bordered(value: float, *, top: int = 0, left: int = 0) -> Callable[[Tensor], Tensor]:
    def change(raw: Tensor) -> Tensor:
        raw[:top] = value
        raw[:, :left] = value
        return raw

    return change


def cornered(value: float) -> Callable[[Tensor], Tensor]:
    def change(raw: Tensor) -> Tensor:
        y, x = np.mgrid[:SIDE, :SIDE]
        raw[torch.from_numpy(y + x < SIDE // 2)] = value
        return raw

    return change


def specked(value: float) -> Callable[[Tensor], Tensor]:
    def change(raw: Tensor) -> Tensor:
        rows, columns = np.random.default_rng(2).choice(np.arange(5, 145, 3), (2, 12))
        raw[rows, columns] = value
        return raw

    return change


def hot_twins(raw: Tensor) -> Tensor:
    raw[70, 40:42] = 5000
    return raw


def dead_lines(raw: Tensor) -> Tensor:
    raw[:, 31], raw[90] = 0, 700
    return raw


@pytest.mark.parametrize(
    "change",
    [
        bordered(0, top=1),
        bordered(0, top=3),
        bordered(10, left=2),
        bordered(10, top=50, left=20),
        bordered(math.nan, left=50),
        bordered(65535, top=4),
        cornered(0),
        cornered(math.nan),
        specked(9000),
        specked(math.inf),
        hot_twins,
        dead_lines,
    ],
)
def test_what_is_no_tissue_is_found_and_nothing_else(change: Callable[[Tensor], Tensor]) -> None:
    raw = recording()
    changed = change(raw.clone())
    touched = changed != raw
    mask = inspect_pixels(changed)
    assert not bool((mask.usable & touched).any())
    # A few pixels where a patch of one value ends are lost with it.
    lost = ~mask.usable & ~touched
    assert int(lost.sum()) <= 0.002 * raw.numel()
    assert bool((mask.broken | ~touched).all()) or float(changed[touched][0]) == 10
    filled = fill_pixels(changed, ~mask.broken)
    assert bool(filled.isfinite().all())
    assert torch.equal(filled[~mask.broken], changed[~mask.broken])
    specks = touched & mask.broken
    if int(touched.sum()) < 100:
        # As near to what was there as noise and neighbours allow.
        assert float((filled - raw)[specks].abs().max()) < 150


@pytest.mark.parametrize("kind", ["membranes", "tubes", "nuclei"])
@pytest.mark.parametrize("photons", [3.0, 40.0, 2000.0])
def test_of_an_ordinary_recording_all_is_usable(kind: Kind, photons: float) -> None:
    assert float(usable_pixels(recording(kind, photons)).float().mean()) > 0.999


def test_a_hot_pixel_is_found_among_specks_that_are_the_specimen() -> None:
    raw = recording()
    rows, columns = np.random.default_rng(3).integers(3, SIDE - 3, (2, 300))
    raw[rows, columns] += 600
    assert float(usable_pixels(raw).float().mean()) > 0.999
    raw[70, 40] = 60000
    mask = inspect_pixels(raw)
    assert torch.equal(~mask.usable, raw == 60000)


def test_saturation_is_not_usable_but_not_broken_either() -> None:
    raw = recording()
    top = float(raw.flatten().sort().values[-200])
    mask = inspect_pixels(raw.clamp_max(top))
    assert torch.equal(~mask.usable, raw >= top)
    assert not bool(mask.broken.any())


def test_cut_off_black_is_not_usable_but_not_broken_either() -> None:
    raw = recording("nuclei")
    cut = raw.clamp_min(float(raw.quantile(0.4)))
    mask = inspect_pixels(cut)
    assert 0.1 < float((~mask.usable).float().mean()) < 0.45
    assert float(mask.broken.float().mean()) < 0.01


def test_the_mask_of_somebody_who_knows_counts_too() -> None:
    raw = recording()
    known = torch.ones_like(raw, dtype=torch.bool)
    known[:60, :60] = False
    mask = inspect_pixels(raw, known)
    assert torch.equal(mask.usable, known)
    assert torch.equal(mask.broken, ~known)


@pytest.mark.parametrize("raw", [torch.full((30, 40), math.nan), torch.full((30, 40), 7.0)])
def test_nothing_is_usable_of_nothing(raw: Tensor) -> None:
    assert not bool(usable_pixels(raw).any())


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3), (10, 10)])
def test_tiny_images_have_a_mask(shape: tuple[int, int]) -> None:
    raw = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    assert usable_pixels(raw).shape == shape
