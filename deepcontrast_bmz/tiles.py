"""Cutting planes into blocks that know their neighbours, and joining the results.

A block is read with a margin of real neighbours; at the border of the plane the margin is the
mirror image, the edge pixel repeated, as in `loop.extend_symmetric`. As long as the margin covers
what the network can see, and block origins lie on its pooling grid, the joined blocks are the
result of the whole plane. `InStrips` runs the default network without its large intermediate
results, so that a block may be large.
"""

from __future__ import annotations

__all__ = ["Block", "InStrips", "cut", "in_blocks", "measure_halo", "read_block"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcontrast_bmz.loop import extend_symmetric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.loop import Loop
    from deepcontrast_bmz.network import DilatedNetwork
    from deepcontrast_bmz.network.layers import AffineConv


_STRIP_PIXELS = 2**15
"""Pixels of a strip: 16 channels of them, 2 MB, stay in the cache from one layer to the next."""

_STRIP_ROWS = 16
"""Fewest rows of a strip: a layer keeps twice its dilation in rows from the strip before."""

_ENOUGH_PIXELS = 64
"""A halo counts as tested only if this many pixels were seen with it."""


@dataclass(frozen=True)
class Block:
    """A rectangle of a plane: rows `top` to `bottom`, columns `left` to `right`, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


def _edges(length: int, block: int, multiple: int) -> list[tuple[int, int]]:
    """Cut a line into the fewest pieces of at most `block` pixels, all of about one length."""
    count = -(-length // block)
    piece = -(-length // (count * multiple)) * multiple
    return [(start, min(start + piece, length)) for start in range(0, length, piece)]


def cut(height: int, width: int, block: int, multiple: int = 1) -> list[Block]:
    """Cut a plane into blocks that do not overlap, row by row.

    Parameters
    ----------
    height, width : int
        Size of the plane in pixels.
    block : int
        Largest side of a block in pixels; rounded down to a multiple of `multiple`, at least one.
    multiple : int
        Pooling grid on which every block begins.

    Returns
    -------
    list of Block
    """
    side = max(block // multiple, 1) * multiple
    return [
        Block(top, bottom, left, right)
        for top, bottom in _edges(height, side, multiple)
        for left, right in _edges(width, side, multiple)
    ]


def _mirrored(start: int, stop: int, length: int) -> slice | NDArray[np.intp]:
    """Return indices start to stop on a line that goes on as its own mirror image on both sides."""
    if start >= 0 and stop <= length:
        return slice(start, stop)
    index = np.arange(start, stop) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


def read_block(planes: NDArray[np.float32], block: Block, margin: int) -> NDArray[np.float32]:
    """Return a block with `margin` pixels of surroundings on each side.

    Parameters
    ----------
    planes : ndarray, (..., Y, X)
    block : Block
    margin : int
        May be larger than the plane, which is then mirrored again and again.

    Returns
    -------
    ndarray, (..., bottom - top + 2 margin, right - left + 2 margin)
        A view where no mirroring is needed.
    """
    rows = _mirrored(block.top - margin, block.bottom + margin, planes.shape[-2])
    columns = _mirrored(block.left - margin, block.right + margin, planes.shape[-1])
    return planes[..., rows, :][..., columns]


def in_blocks(
    planes: NDArray[np.float32],
    function: Callable[[Tensor], Tensor],
    out: Sequence[NDArray[np.float32]],
    *,
    block: int,
    margin: int,
    multiple: int = 1,
    part: Block | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Run a function over planes block by block and join the results.

    Parameters
    ----------
    planes : ndarray of float32, (B, Y, X)
    function : callable
        Takes (B, 1, Y + 2 margin, X + 2 margin) of a block to (B, C, Y, X).
    out : sequence of B ndarrays of float32, each (C, Y, X) of `part`
        They are filled.
    block : int
        Largest side of a block in pixels.
    margin : int
        Surroundings that the function needs, in pixels.
    multiple : int
        Pooling grid on which blocks begin.
    part : Block, optional
        Only this part of the planes, which begins on the grid; the whole if left out.
    progress : callable, optional
        Is given the share of the blocks that is done, after each.
    """
    whole = part if part is not None else Block(0, planes.shape[-2], 0, planes.shape[-1])
    pieces = cut(whole.bottom - whole.top, whole.right - whole.left, block, multiple)
    for done, piece in enumerate(pieces, start=1):
        place = Block(
            whole.top + piece.top,
            whole.top + piece.bottom,
            whole.left + piece.left,
            whole.left + piece.right,
        )
        window = np.ascontiguousarray(read_block(planes, place, margin))
        results = function(torch.from_numpy(window)[:, None]).numpy()
        for target, result in zip(out, results, strict=True):
            target[:, piece.top : piece.bottom, piece.left : piece.right] = result
        if progress is not None:
            progress(done / len(pieces))


class InStrips(nn.Module):
    """Computes what a dilated network computes, a few rows at a time, for inference on a CPU.

    Strips of rows go through all layers one after the other; every layer keeps the last rows it
    has seen, so nothing is computed twice and the values are the same. Hidden channels never
    exist for more than a strip: that saves nearly all memory, and about half of the time, which
    large intermediate results spend on their way between memory and cache.

    Parameters
    ----------
    network : DilatedNetwork
        Its present weights are used.
    rows : int, optional
        Rows per strip; chosen by the width if left out.

    Attributes
    ----------
    radius, multiple : int
        Those of the network.
    """

    def __init__(self, network: DilatedNetwork, rows: int | None = None) -> None:
        super().__init__()
        self.rows = rows
        self.radius = network.radius
        self.multiple = network.multiple
        with torch.no_grad():
            self.first = network.first.kernel()
            hidden = [cast("AffineConv", layer) for layer in network.hidden]
            self.hidden = [(layer.kernel(), layer.dilation) for layer in hidden]
            self.last = network.last.kernel() * network.scale

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step: (B, 1, Y, X) to (B, 1, Y - 2 radius, X - 2 radius)."""
        batch, _, height, width = x.shape
        rows = self.rows or max(_STRIP_ROWS, _STRIP_PIXELS // (batch * width))
        r = self.radius
        out = x[:, :, r:-r, r:-r].clone()
        seen: list[Tensor | None] = [None] * len(self.hidden)
        done = 0
        for top in range(0, height - 2, rows):
            g = self._hidden(F.conv2d(x[:, :, top : top + rows + 2], self.first), seen)
            if g is not None:
                out[:, :, done : done + g.shape[2]] += F.conv2d(g, self.last)
                done += g.shape[2]
        return out

    def _hidden(self, g: Tensor, seen: list[Tensor | None]) -> Tensor | None:
        """Send new rows through the hidden layers; None if they do not reach the end yet."""
        for i, (kernel, dilation) in enumerate(self.hidden):
            before = seen[i]
            if before is not None:
                g = torch.cat((before, g), dim=2)
            if g.shape[2] <= 2 * dilation:
                seen[i] = g
                return None
            # A copy, so that the rest of the strip is freed.
            seen[i] = g[:, :, -2 * dilation :].clone()
            first, second = F.conv2d(g, kernel, dilation=dilation).chunk(2, dim=1)
            half = first.shape[1]
            after = g.new_empty(g.shape[0], 2 * half, *first.shape[2:])
            torch.maximum(first, second, out=after[:, :half])
            torch.minimum(first, second, out=after[:, half:])
            g = after.add_(g[:, :, dilation:-dilation, dilation:-dilation])
        return g


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
        whole = loop.iterate(extend_symmetric(sample, margin), iterations)
        spread = whole.amax((2, 3), keepdim=True) - whole.amin((2, 3), keepdim=True)
        for rows in (slice(0, cut_y), slice(cut_y, height)):
            for columns in (slice(0, cut_x), slice(cut_x, width)):
                part = sample[:, :, rows, columns]
                alone = loop.iterate(extend_symmetric(part, margin), iterations)
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
