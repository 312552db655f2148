"""The halo of a loop along every axis: what tiles need around them in practice.

Planes are measured in `tiles.measure_halo`. A stack is first cut along y and x, all planes being
there, then along z, too; its halo along z counts planes.
"""

from __future__ import annotations

__all__ = ["measure_halos"]

import itertools
from typing import TYPE_CHECKING

import torch

from deepcontrast_bmz.export.plane_halo import measure_halo
from deepcontrast_bmz.model.loop import extend_volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from deepcontrast_bmz.model.loop import Loop

_GRID = 8
"""Lateral halos are multiples of this; networks for stacks do not pool."""


def measure_halos(loop: Loop, sample: Tensor, iterations: int, tolerance: float) -> tuple[int, ...]:
    """Return the effective radius of a loop along (z,) y, x.

    Parameters
    ----------
    loop : Loop
    sample : Tensor, (1, 1, (Z,) Y, X)
        A typical image; to measure up to h pixels along an axis, about 2 h + 16 of them, and
        2 h + 2 planes.
    iterations : int
        Number of iterations; every one of them is tested.
    tolerance : float
        Largest change of an output pixel, over the range of its channel, when it is seen with no
        more neighbours than the halo has.

    Returns
    -------
    tuple of int
        Lateral halos as from `tiles.measure_halo`; along z the smallest number of planes, at
        least 1, that keeps the tolerance together with them. The exact radius where the sample
        is too small to find a smaller one.
    """
    if loop.dims == 2:
        return (measure_halo(loop, sample, iterations, tolerance),) * 2
    planes, lateral, _ = loop.margins(iterations)
    exact = max(-(-lateral // _GRID) * _GRID, _GRID)
    depth, height, width = sample.shape[2:]
    if min(depth, height, width) < 2:
        return planes, exact, exact
    with torch.inference_mode():
        whole = loop.iterate(extend_volume(sample, planes, lateral), iterations)
        halo = exact
        worst = torch.zeros(exact + 1)
        for change, _, beside in _cut_apart(loop, sample, whole, iterations, (0,)):
            worst.scatter_reduce_(
                0, beside.clamp_max(exact).flatten(), change.amax(0).flatten(), "amax"
            )
        farthest = min(height // 2, width // 2) - 1
        beyond = worst.flip(0).cummax(0).values.flip(0)
        for candidate in range(_GRID, min(exact, farthest + 1), _GRID):
            if beyond[candidate] <= tolerance:
                halo = candidate
                break
        depths = torch.zeros(planes + 1)
        for change, above, beside in _cut_apart(loop, sample, whole, iterations, (0, depth // 2)):
            kept = torch.where(beside >= halo, change, 0.0).amax((1, 2))
            depths.scatter_reduce_(0, above.clamp_max(planes), kept, "amax")
    beyond = depths.flip(0).cummax(0).values.flip(0)
    for candidate in range(1, min(planes, depth // 2)):
        if beyond[candidate] <= tolerance:
            return candidate, halo, halo
    return planes, halo, halo


def _cut_apart(
    loop: Loop, sample: Tensor, whole: Tensor, iterations: int, tops: tuple[int, ...]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Run the parts of a stack alone, mirrored where they were cut.

    Parameters
    ----------
    tops : tuple of int
        First plane of each layer of parts; y and x are cut in the middle.

    Yields
    ------
    change : Tensor, (Z, Y, X)
        Of each pixel of a part against the whole, over the range of the channel.
    above : Tensor, (Z,)
        Real planes between each plane and the nearest cut.
    beside : Tensor, (Y, X)
        Real pixels between each pixel and the nearest cut.
    """
    planes, lateral, _ = loop.margins(iterations)
    depth, height, width = sample.shape[2:]
    inner = (2, 3, 4)
    spread = whole.amax(inner, keepdim=True) - whole.amin(inner, keepdim=True)
    layers = itertools.pairwise((*tops, depth))
    sides = [((0, n // 2), (n // 2, n)) for n in (height, width)]
    for bounds in itertools.product(layers, *sides):
        place = tuple(slice(first, last) for first, last in bounds)
        window = (slice(None), slice(None), *place)
        part = extend_volume(sample[window], planes, lateral)
        alone = loop.iterate(part, iterations)
        change = (alone - whole[window]).abs() / spread.clamp_min(1e-30)
        above, rows, columns = (
            _real_neighbours(first, last, n)
            for (first, last), n in zip(bounds, (depth, height, width), strict=True)
        )
        beside = torch.minimum(rows[:, None], columns[None, :])
        yield change.amax((0, 1)).cpu(), above, beside


def _real_neighbours(first: int, last: int, length: int) -> Tensor:
    """Count the real pixels between each pixel of a part and the cut; all, where there is none."""
    position = torch.arange(first, last)
    below = position - first if first else torch.full_like(position, length)
    beyond = last - 1 - position if last < length else torch.full_like(position, length)
    return torch.minimum(below, beyond)
