"""The halo that foreign programs need: how far a loop really sees, measured on an image.

Blocks of our own are read with all that the network can see (`blocks.py`) and need no such figure.
"""

from __future__ import annotations

__all__ = ["measure_halo"]

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from deepcontrast_bmz.model.loop import extend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from deepcontrast_bmz.model.loop import Loop

_GRID = 8
"""Lateral halos are multiples of this."""

_ENOUGH_PIXELS = 64
"""A halo counts as tested only if this many pixels of a plane were seen with it."""


class _Part(NamedTuple):
    """A part of the sample that was run alone, mirrored where it was cut."""

    change: Tensor
    """((Z,) Y, X): largest change over the channels against the whole, over their range."""
    seen: tuple[Tensor, ...]
    """Real pixels between each pixel and the cut, along each axis."""


def measure_halo(loop: Loop, sample: Tensor, iterations: int, tolerance: float) -> tuple[int, ...]:
    """Return the effective radius of a loop along (z,) y, x: the halo that tiles need in practice.

    The exact radius counts every pixel that has any influence; that of most is far below what a
    sample's grey levels resolve. Here the sample (1, 1, (Z,) Y, X) is cut once along y and x, every
    part is run as a foreign program would run a tile, mirrored where it was cut, and compared with
    the sample run whole, at every iteration. A pixel h away from the nearest cut has been seen with
    h real neighbours; to measure h, the sample has about 2 h + 16 pixels, and 2 h + 2 planes. Of
    stacks the halo along z is measured after that, cut along all three axes.

    Returns
    -------
    tuple of int
        Along y and x the smallest multiple of 8 and of the pooling grid, at least 8, at which
        all pixels that far or farther from the cuts keep within the tolerance, over the range of
        their channel; along z the smallest number of planes, at least 1, that does so together with
        them. Where the sample is too small, or the loop too far-sighted, to find one: the exact
        radius, lateral ones rounded up likewise.
    """
    grid = int(np.lcm(_GRID, loop.multiple))
    exact = max(-(-iterations * loop.radius // grid) * grid, grid)
    planes = iterations * loop.radii[0] if loop.dims == 3 else 0
    unmeasured = (planes,) * (loop.dims - 2) + (exact, exact)
    cuts = [n // 2 // loop.multiple * loop.multiple for n in sample.shape[2:]]
    if min(cuts) == 0:
        return unmeasured
    with torch.inference_mode():
        whole = loop.iterate(extend(sample, loop.margins(iterations)), iterations)
        parts = _run_apart(loop, sample, whole, iterations, [0, *cuts[-2:]][-loop.dims :])
        lateral = _lateral_halo(parts, grid, exact, tolerance)
        if loop.dims == 2:
            return lateral, lateral
        parts = _run_apart(loop, sample, whole, iterations, cuts)
        return _axial_halo(parts, planes, lateral, cuts[0], tolerance), lateral, lateral


def _lateral_halo(parts: Iterator[_Part], grid: int, exact: int, tolerance: float) -> int:
    worst, tested = torch.zeros(exact + 1), torch.zeros(exact + 1)
    for change, seen in parts:
        beside = torch.minimum(seen[-2][:, None], seen[-1][None, :]).clamp_max(exact).flatten()
        largest = change.amax(0) if change.ndim == 3 else change
        worst.scatter_reduce_(0, beside, largest.flatten(), "amax")
        tested += torch.bincount(beside, minlength=exact + 1)
    worst_beyond = worst.flip(0).cummax(0).values.flip(0)
    tested_beyond = tested.flip(0).cumsum(0).flip(0)
    for halo in range(grid, exact, grid):
        if tested_beyond[halo] >= _ENOUGH_PIXELS and worst_beyond[halo] <= tolerance:
            return halo
    return exact


def _axial_halo(
    parts: Iterator[_Part], exact: int, lateral: int, cut: int, tolerance: float
) -> int:
    worst = torch.zeros(exact + 1)
    for change, (above, rows, columns) in parts:
        beside = torch.minimum(rows[:, None], columns[None, :])
        kept = torch.where(beside >= lateral, change, 0.0).amax((1, 2))
        worst.scatter_reduce_(0, above.clamp_max(exact), kept, "amax")
    worst_beyond = worst.flip(0).cummax(0).values.flip(0)
    for halo in range(1, min(exact, cut)):
        if worst_beyond[halo] <= tolerance:
            return halo
    return exact


def _run_apart(
    loop: Loop, sample: Tensor, whole: Tensor, iterations: int, cuts: list[int]
) -> Iterator[_Part]:
    """Run the parts of a sample alone; a cut at 0 is none."""
    inner = tuple(range(2, sample.ndim))
    spread = whole.amax(inner, keepdim=True) - whole.amin(inner, keepdim=True)
    sizes = sample.shape[2:]
    ranges = [
        [(0, n)] if cut == 0 else [(0, cut), (cut, n)] for cut, n in zip(cuts, sizes, strict=True)
    ]
    for bounds in itertools.product(*ranges):
        window = (slice(None), slice(None), *(slice(first, last) for first, last in bounds))
        alone = loop.iterate(extend(sample[window], loop.margins(iterations)), iterations)
        change = (alone - whole[window]).abs() / spread.clamp_min(1e-30)
        seen = tuple(
            _real_neighbours(first, last, n) for (first, last), n in zip(bounds, sizes, strict=True)
        )
        yield _Part(change.amax((0, 1)).cpu(), seen)


def _real_neighbours(first: int, last: int, length: int) -> Tensor:
    """Count the real pixels between each pixel of a part and the cut; all, where there is none."""
    position = torch.arange(first, last)
    below = position - first if first else torch.full_like(position, length)
    beyond = last - 1 - position if last < length else torch.full_like(position, length)
    return torch.minimum(below, beyond)
