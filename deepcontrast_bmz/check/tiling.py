"""How programs cut an image into what they hand to a network, on arrays of any number of axes."""

from __future__ import annotations

__all__ = [
    "MOST_TILES",
    "Block",
    "Handling",
    "NotPossibleError",
    "cut",
    "join",
    "measure_difference",
    "take",
]

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepcontrast_bmz.image.blocks import mirror_indices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepcontrast_bmz.image.blocks import Border

Array = NDArray[Any]

MOST_TILES = 3
"""Tiles along an axis that are run: a large halo would make hundreds of small ones."""


class NotPossibleError(ValueError):
    """A comparison cannot be made with this package; the message says why."""


def measure_difference(
    first: Array, second: Array, channel: int | None, inside: Sequence[slice]
) -> tuple[float, float]:
    """Return the largest difference inside and outside of a region, over the range of `second`.

    Every channel is measured over its own range. Outside is 0 if nothing is, and both are infinite
    if a value is not finite.
    """
    over = tuple(i for i in range(second.ndim) if i != channel)
    reference = second.astype(np.float64)
    if not (np.isfinite(reference).all() and np.isfinite(first).all()):
        return np.inf, np.inf
    scale = reference.max(axis=over, keepdims=True) - reference.min(axis=over, keepdims=True)
    largest = np.abs(reference).max(axis=over, keepdims=True)
    # A channel without range is measured over its value.
    scale = np.where(scale > 1e-12 * largest, scale, np.where(largest > 0, largest, 1.0))
    difference = np.abs(first.astype(np.float64) - reference) / scale
    region = difference[tuple(inside)]
    within = float(region.max()) if region.size else 0.0
    difference[tuple(inside)] = 0.0
    return within, float(difference.max())


@dataclass(frozen=True)
class Handling:
    """What a program does with an image before and after the network; sides along (z,) y, x."""

    halo: tuple[int, ...]
    """Pixels cropped from each side of what comes back."""
    border: Border
    """How the image goes on beyond its border."""
    tile: tuple[int, ...] | None = None
    """Sides of the tiles that the network is given; None for the whole image and its halo."""
    most: int | None = None
    """Most tiles along an axis that are run: the first, the last and those spread between."""
    fill: Border | None = None
    """How a part that is smaller than a tile is filled up, with its halo, to be one; None where
    more of the image is read instead, and the image goes on beyond its border."""


@dataclass(frozen=True)
class Block:
    """What the network is given at once, per spatial axis."""

    first: tuple[int, ...]
    """First pixel, before the image where negative."""
    side: tuple[int, ...]
    """Pixels."""
    kept: tuple[tuple[int, int], ...]
    """From where to where in the image its values are taken."""
    read: tuple[tuple[int, int], ...]
    """From where to where the image is read, beyond its border too; the rest is filled up."""


_Span = tuple[int, int, tuple[int, int], tuple[int, int]]
"""First pixel, side, what is kept and what is read, along one axis."""


def _tiles_along(size: int, index: int, handling: Handling) -> list[_Span]:
    """Return the tiles along an axis: small last ones are centred in a full one."""
    side = (handling.tile or ())[index]
    halo = handling.halo[index]
    inner = side - 2 * halo
    if inner <= 0:
        raise NotPossibleError(f"nothing is left of a tile of {side} pixels with a halo of {halo}")
    parts: list[_Span] = []
    for start in range(0, size, inner):
        stop = min(start + inner, size)
        missing = inner - (stop - start)
        read = (start - halo, stop + halo)
        if handling.fill is not None:
            parts.append((read[0] - missing // 2, side, (start, stop), read))
        else:
            # Of an odd number of missing pixels, one more is read before the part.
            first = read[0] - (missing + 1) // 2
            parts.append((first, side, (start, stop), (first, first + side)))
    if handling.most is None or len(parts) <= handling.most:
        return parts
    chosen = np.linspace(0, len(parts) - 1, handling.most).round().astype(int)
    return [parts[index] for index in chosen]


def cut(
    sizes: Sequence[int],
    handling: Handling,
    legal: Sequence[Callable[[int], int]] | None = None,
) -> list[Block]:
    """Return the blocks of an image of these sizes along (z,) y, x.

    Tiles step by their side without halo, as those of QuPath and ilastik do; the last ones, which
    are smaller, are centred in a full tile, so that they lie off the grid of the others. `legal`
    gives the smallest size that an axis of a whole image may have.

    Raises
    ------
    NotPossibleError
        If a tile is all halo.
    """
    along: list[list[_Span]] = []
    for index, (size, halo) in enumerate(zip(sizes, handling.halo, strict=True)):
        if handling.tile is None:
            side = size + 2 * halo if legal is None else legal[index](size + 2 * halo)
            along.append([(-halo, side, (0, size), (-halo, side - halo))])
        else:
            along.append(_tiles_along(size, index, handling))
    return [
        Block(
            first=tuple(span[0] for span in spans),
            side=tuple(span[1] for span in spans),
            kept=tuple(span[2] for span in spans),
            read=tuple(span[3] for span in spans),
        )
        for spans in product(*along)
    ]


def take(image: Array, axes: Sequence[int], block: Block, handling: Handling) -> Array:
    """Return what the network is given of an image; `axes` are the positions of (z,) y, x."""
    for axis, first, side, (start, stop) in zip(
        axes, block.first, block.side, block.read, strict=True
    ):
        indices = mirror_indices(start, stop, image.shape[axis], handling.border)
        if handling.fill is not None:
            # What was read is filled up, its surroundings beyond the border included.
            order = mirror_indices(first - start, first - start + side, stop - start, handling.fill)
            indices = indices[order]
        image = image.take(indices, axis=axis)
    return np.ascontiguousarray(image)


def join(
    outputs: Sequence[Array],
    blocks: Sequence[Block],
    axes: Sequence[int],
    sizes: Sequence[int],
    rest: Array | None = None,
) -> Array:
    """Return the image that the blocks' results make; `rest` stands where no block was run.

    `axes` are the positions of (z,) y, x, and `sizes` the image's along them.

    Raises
    ------
    NotPossibleError
        If a block comes back in another size.
    """
    result = None if rest is None else rest.copy()
    for done, block in zip(outputs, blocks, strict=True):
        met = tuple(done.shape[axis] for axis in axes)
        if met != block.side:
            raise NotPossibleError(f"a tile of {block.side} comes back as {met}")
        if result is None:
            shape = list(done.shape)
            for axis, size in zip(axes, sizes, strict=True):
                shape[axis] = size
            result = np.empty(shape, done.dtype)
        target: list[slice] = [slice(None)] * result.ndim
        source: list[slice] = [slice(None)] * result.ndim
        for axis, (start, stop), first in zip(axes, block.kept, block.first, strict=True):
            target[axis] = slice(start, stop)
            source[axis] = slice(start - first, stop - first)
        if result[tuple(target)].shape != done[tuple(source)].shape:
            raise NotPossibleError(
                f"a tile comes back as {done.shape} where {result.shape} is to be filled"
            )
        result[tuple(target)] = done[tuple(source)]
    if result is None:
        raise NotPossibleError("the image is empty")
    return result
