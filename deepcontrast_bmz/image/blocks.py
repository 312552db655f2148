"""Cuts an image into blocks, and reads a block with its surroundings.

Planes are cut along y and x, stacks along z, y and x. The cut depends on the shape, the block's
side and the grid alone: never on how many work on it, where they stopped, or what is in memory.
All blocks but the last along an axis are of one size, so that the chunks of an output can divide
them: no two blocks ever touch one chunk.
"""

from __future__ import annotations

__all__ = [
    "Border",
    "Box",
    "choose_chunk",
    "cut",
    "measure_piece",
    "mirror_indices",
    "read_box",
    "split",
]

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_FINEST, _COARSEST = 8, 256
"""A block's side is rounded up to an eighth of what was asked for, at most to 256 pixels: round
numbers make round chunks."""


@dataclass(frozen=True)
class Box:
    """Part of an image: along every axis from `starts` to `stops`, ends excluded."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """Return all of an image."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along each axis."""
        return tuple(b - a for a, b in zip(self.starts, self.stops, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of it in the image."""
        return tuple(slice(a, b) for a, b in zip(self.starts, self.stops, strict=True))

    def within(self, other: Box) -> Box:
        """Return the same part, counted from the start of another that holds it."""
        return Box(
            tuple(a - o for a, o in zip(self.starts, other.starts, strict=True)),
            tuple(b - o for b, o in zip(self.stops, other.starts, strict=True)),
        )


def measure_piece(length: int, block: int, grid: int = 1) -> int:
    """Return the length of the pieces that a line is cut into; the last may be shorter.

    Parameters
    ----------
    length : int
        Of the line, in pixels.
    block : int
        Largest length of a piece; rounded down to the grid, at least one step of it.
    grid : int
        Pooling grid on which every piece begins.
    """
    side = max(block // grid, 1) * grid
    count = -(-length // side)
    # The fewest pieces, all of about one length.
    step = grid
    while step * 2 <= min(side // _FINEST, _COARSEST * grid) and side % (step * 2) == 0:
        step *= 2
    return -(-length // (count * step)) * step


def cut(shape: Sequence[int], sides: Sequence[int], grids: Sequence[int]) -> list[Box]:
    """Cut an image into boxes that do not overlap, the last axis fastest.

    Parameters
    ----------
    shape : sequence of int
        Of the image, in pixels.
    sides : sequence of int
        Largest side of a box along each axis.
    grids : sequence of int
        Pooling grid along each axis.

    Returns
    -------
    list of Box
    """
    edges: list[list[tuple[int, int]]] = []
    for length, side, grid in zip(shape, sides, grids, strict=True):
        step = measure_piece(length, side, grid)
        edges.append([(a, min(a + step, length)) for a in range(0, length, step)])
    return [
        Box(tuple(a for a, _ in place), tuple(b for _, b in place))
        for place in itertools.product(*edges)
    ]


def split(box: Box, grids: Sequence[int], smallest: int) -> list[Box]:
    """Halve a box along its longest axis, on the grid; an empty list where it is small enough.

    Parameters
    ----------
    box : Box
        Begins on the grid.
    grids : sequence of int
        Pooling grid along each axis.
    smallest : int
        No axis shorter than twice this is halved.
    """
    axis = int(np.argmax(box.shape))
    length, grid = box.shape[axis], grids[axis]
    half = -(-length // (2 * grid)) * grid
    if length < 2 * smallest or half >= length:
        return []
    middle = box.starts[axis] + half
    return [
        Box(box.starts, (*box.stops[:axis], middle, *box.stops[axis + 1 :])),
        Box((*box.starts[:axis], middle, *box.starts[axis + 1 :]), box.stops),
    ]


def choose_chunk(length: int, largest: int) -> int:
    """Return the longest chunk that divides a piece of this length evenly.

    Parameters
    ----------
    length : int
        Of a piece.
    largest : int
        Chunks are no longer, as far as the length has divisors; never shorter than a quarter.
    """
    for count in range(max(1, -(-length // largest)), length + 1):
        if length % count == 0:
            chunk = length // count
            return chunk if 4 * chunk >= min(length, largest) else length
    return length


Border = Literal["symmetric", "reflect", "replicate"]
"""How a line goes on beyond its ends: mirrored with or without its last pixel, or that repeated."""


def mirror_indices(
    start: int, stop: int, length: int, border: Border = "symmetric"
) -> NDArray[np.intp]:
    """Return indices start to stop on a line of `length` pixels that goes on beyond its ends.

    Mirrored, it is its own mirror image again and again, however far start and stop lie outside.
    """
    index = np.arange(start, stop)
    if border == "replicate":
        return index.clip(0, length - 1)
    if border == "reflect":
        if length == 1:
            return np.zeros_like(index)
        period = 2 * length - 2
        index %= period
        return np.where(index < length, index, period - index)
    index %= 2 * length
    return np.where(index < length, index, 2 * length - 1 - index)


def read_box(
    read: Callable[[tuple[slice, ...]], NDArray[np.float32]],
    shape: Sequence[int],
    box: Box,
    margins: Sequence[int],
) -> NDArray[np.float32]:
    """Return a part of an image with its real surroundings, mirrored at the border of the image.

    Parameters
    ----------
    read : callable
        Takes slices along the axes of `shape` to pixels (..., *lengths).
    shape : sequence of int
        Of the image.
    box : Box
    margins : sequence of int
        Pixels added on both sides of each axis; may be larger than the image, which is then
        mirrored again and again.

    Returns
    -------
    ndarray, (..., *(side + 2 margin)), contiguous
    """
    wanted: list[slice] = []
    order: list[NDArray[np.intp] | None] = []
    for start, stop, margin, length in zip(box.starts, box.stops, margins, shape, strict=True):
        if start >= margin and stop + margin <= length:
            wanted.append(slice(start - margin, stop + margin))
            order.append(None)
        else:
            indices = mirror_indices(start - margin, stop + margin, length)
            first = int(indices.min())
            wanted.append(slice(first, int(indices.max()) + 1))
            order.append(indices - first)
    pixels = read(tuple(wanted))
    for axis, indices in enumerate(order, start=pixels.ndim - len(order)):
        if indices is not None:
            pixels = pixels.take(indices, axis)
    return np.ascontiguousarray(pixels)
