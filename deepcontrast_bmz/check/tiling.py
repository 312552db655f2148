"""How programs cut an image into what they hand to a network, on arrays of any number of axes."""

from __future__ import annotations

__all__ = [
    "Block",
    "Handling",
    "NotPossibleError",
    "cut",
    "join",
    "mirror_indices",
    "relative_difference",
    "take",
]

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Array = NDArray[Any]
Mode = Literal["symmetric", "reflect"]


class NotPossibleError(ValueError):
    """A comparison cannot be made with this package; the message says why."""


def mirror_indices(start: int, stop: int, size: int, mode: Mode) -> NDArray[np.intp]:
    """Return indices start to stop into an axis that goes on mirrored beyond its ends.

    ``symmetric`` repeats the edge pixel, ``reflect`` does not.
    """
    indices = np.arange(start, stop)
    if size == 1:
        return np.zeros_like(indices)
    period = 2 * size if mode == "symmetric" else 2 * size - 2
    folded = indices % period
    return np.where(folded < size, folded, period - folded - (mode == "symmetric"))


def relative_difference(
    first: Array, second: Array, channel: int | None, inside: Sequence[slice]
) -> tuple[float, float]:
    """Return the largest difference inside and outside of a region, over the range of `second`.

    Parameters
    ----------
    first, second : array
        Same shape.
    channel : int or None
        Position of the channel axis: every channel is measured over its own range.
    inside : sequence of slice
        The region, one slice per axis.

    Returns
    -------
    tuple of float
        Inside, and outside (0 if nothing is outside). Infinite if a value is not finite.
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
    mode: Mode
    """How the image goes on beyond its border."""
    tile: tuple[int, ...] | None = None
    """Sides of the tiles that the network is given; None for the whole image and its halo."""
    most: int | None = None
    """Most tiles along an axis that are run: the first, the last and those spread between."""


@dataclass(frozen=True)
class Block:
    """What the network is given at once: per spatial axis where it begins, and what is kept."""

    first: tuple[int, ...]
    """First pixel, before the image where negative."""
    side: tuple[int, ...]
    """Pixels."""
    kept: tuple[tuple[int, int], ...]
    """From where to where in the image its values are taken."""


def _tiles_along(size: int, side: int, halo: int, most: int | None) -> list[tuple[int, int, int]]:
    """Return (from, to, first pixel of the tile): small last tiles are centred in a full one."""
    inner = side - 2 * halo
    if inner <= 0:
        raise NotPossibleError(f"nothing is left of a tile of {side} pixels with a halo of {halo}")
    parts: list[tuple[int, int, int]] = []
    for start in range(0, size, inner):
        stop = min(start + inner, size)
        parts.append((start, stop, start - (side - (stop - start)) // 2))
    if most is None or len(parts) <= most:
        return parts
    chosen = np.linspace(0, len(parts) - 1, most).round().astype(int)
    return [parts[index] for index in chosen]


def cut(
    sizes: Sequence[int],
    handling: Handling,
    legal: Sequence[Callable[[int], int]] | None = None,
) -> list[Block]:
    """Return the blocks of an image.

    Tiles step by their side without halo, as those of QuPath and ilastik do; the last ones, which
    are smaller, are centred in a full tile, so that they lie off the grid of the others.

    Parameters
    ----------
    sizes : sequence of int
        The image's, along (z,) y, x.
    handling : Handling
    legal : sequence of callable, optional
        The smallest size that an axis may have, for whole images.

    Returns
    -------
    list of Block

    Raises
    ------
    NotPossibleError
        If a tile is all halo.
    """
    along: list[list[tuple[int, int, int, int]]] = []
    for index, (size, halo) in enumerate(zip(sizes, handling.halo, strict=True)):
        if handling.tile is None:
            side = size + 2 * halo if legal is None else legal[index](size + 2 * halo)
            along.append([(0, size, -halo, side)])
        else:
            side = handling.tile[index]
            parts = _tiles_along(size, side, halo, handling.most)
            along.append([(*part, side) for part in parts])
    return [
        Block(
            first=tuple(first for _, _, first, _ in spans),
            side=tuple(side for *_, side in spans),
            kept=tuple((start, stop) for start, stop, _, _ in spans),
        )
        for spans in product(*along)
    ]


def take(image: Array, axes: Sequence[int], block: Block, mode: Mode) -> Array:
    """Return what the network is given of an image; `axes` are the positions of (z,) y, x."""
    for axis, first, side in zip(axes, block.first, block.side, strict=True):
        indices = mirror_indices(first, first + side, image.shape[axis], mode)
        image = image.take(indices, axis=axis)
    return np.ascontiguousarray(image)


def join(
    outputs: Sequence[Array],
    blocks: Sequence[Block],
    axes: Sequence[int],
    sizes: Sequence[int],
    rest: Array | None = None,
) -> Array:
    """Return the image that the blocks' results make.

    Parameters
    ----------
    outputs : sequence of array
        One per block, as large as it along `axes`.
    blocks : sequence of Block
    axes : sequence of int
        Positions of (z,) y, x.
    sizes : sequence of int
        The image's, along these axes.
    rest : array, optional
        What stands where no block was run.

    Returns
    -------
    array

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
