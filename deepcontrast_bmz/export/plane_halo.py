"""The halo that foreign programs need: how far a loop really sees, measured on an image.

Blocks of our own are read with all that the network can see (`blocks.py`) and need no such figure.
"""

from __future__ import annotations

__all__ = ["measure_halo"]

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepcontrast_bmz.model.loop import extend_symmetric

if TYPE_CHECKING:
    from torch import Tensor

    from deepcontrast_bmz.model.loop import Loop

_ENOUGH_PIXELS = 64
"""A halo counts as tested only if this many pixels were seen with it."""


def measure_halo(loop: Loop, sample: Tensor, iterations: int, tolerance: float) -> int:
    """Return the effective radius of a loop: the halo that tiles need in practice.

    The exact radius counts every pixel that has any influence; that of most is far below what a
    sample's grey levels resolve. Here the sample is cut once along each axis, every part is run
    as a foreign program would run a tile, mirrored where it was cut, and compared with the
    sample run whole. A pixel h away from the nearest cut has been seen with h real neighbours.

    Parameters
    ----------
    loop : Loop
    sample : Tensor, (1, 1, Y, X)
        A typical image; to measure up to h pixels, sides of about 2 h + 16.
    iterations : int
        Number of iterations; every one of them is tested.
    tolerance : float
        Largest change of an output pixel, over the range of its channel.

    Returns
    -------
    int
        Smallest multiple of 8 and of the pooling grid, at least 8, at which all pixels that far
        or farther from the cuts keep within the tolerance. Where the sample is too small, or the
        loop too far-sighted, to find one: the exact radius, rounded up likewise.
    """
    grid = int(np.lcm(8, loop.multiple))
    exact = max(-(-iterations * loop.radius // grid) * grid, grid)
    margin = iterations * loop.radius
    height, width = sample.shape[-2:]
    cut_y = height // 2 // loop.multiple * loop.multiple
    cut_x = width // 2 // loop.multiple * loop.multiple
    if min(cut_y, cut_x) == 0:
        return exact
    worst = torch.zeros(exact + 1)
    tested = torch.zeros(exact + 1)
    with torch.inference_mode():
        run = partial(loop.iterate, iterations=iterations)
        whole = run(extend_symmetric(sample, margin))
        spread = whole.amax((2, 3), keepdim=True) - whole.amin((2, 3), keepdim=True)
        for rows in (slice(0, cut_y), slice(cut_y, height)):
            for columns in (slice(0, cut_x), slice(cut_x, width)):
                part = sample[:, :, rows, columns]
                alone = run(extend_symmetric(part, margin))
                change = (alone - whole[:, :, rows, columns]).abs() / spread.clamp_min(1e-30)
                seen = torch.minimum(
                    _neighbours(rows, cut_y)[:, None], _neighbours(columns, cut_x)[None, :]
                )
                seen = seen.clamp_max(exact).flatten()
                worst.scatter_reduce_(0, seen, change.amax((0, 1)).flatten().cpu(), "amax")
                tested += torch.bincount(seen, minlength=exact + 1)
    worst_beyond = worst.flip(0).cummax(0).values.flip(0)
    tested_beyond = tested.flip(0).cumsum(0).flip(0)
    for halo in range(grid, exact, grid):
        if tested_beyond[halo] >= _ENOUGH_PIXELS and worst_beyond[halo] <= tolerance:
            return halo
    return exact


def _neighbours(part: slice, cut: int) -> Tensor:
    """Count the real pixels between each pixel of a part and the cut."""
    position = torch.arange(part.start, part.stop)
    return cut - 1 - position if part.start < cut else position - cut
