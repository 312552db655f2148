"""Parts of an image without holes, to train on and to score: NaN and padding take no part."""

from __future__ import annotations

__all__ = ["cut_without_holes", "find_without_holes"]

from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.dial.usable import find_padding
from deepcontrast_bmz.image.masks import fill_by_mirroring

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CELL = 8
"""Side, in pixels, of the cells that rectangles are made of."""

_SPECKS = 3
"""Pixels of a cell that may be no numbers, and are filled from those around them."""

_MOST, _SMALLEST, _LEAST_SHARE = 4, 32, 0.1
"""Rectangles of a plane; their shortest side in pixels; the least share of what is there."""


def cut_without_holes(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the largest rectangles of a plane or stack that hold nothing but picture.

    Parameters
    ----------
    pixels : ndarray, (Y, X) or (Z, Y, X)
        NaN and infinity allowed.

    Returns
    -------
    list of ndarray
        All of it where it has no holes; none where it is all holes or what is between them is
        too small. No two share a pixel.
    """
    return [part for part, _ in find_without_holes(pixels)]


def find_without_holes(
    pixels: NDArray[np.float32],
) -> list[tuple[NDArray[np.float32], tuple[int, int]]]:
    """Return what `cut_without_holes` does, and first row and column of each, the largest first."""
    stack = pixels.reshape(-1, *pixels.shape[-2:])
    used = np.isfinite(stack)
    for plane, own in zip(stack, used, strict=True):
        padding = find_padding(plane)
        if padding is not None:
            own &= ~padding
    if used.all():
        return [(pixels, (0, 0))]
    free = _free_cells(np.logical_and.reduce(used, axis=0))
    found: list[tuple[NDArray[np.float32], tuple[int, int]]] = []
    total = int(free.sum())
    while len(found) < _MOST and free.any():
        top, left, bottom, right = _largest_rectangle(free)
        area = (bottom - top) * (right - left)
        if min(bottom - top, right - left) * _CELL < _SMALLEST or area < _LEAST_SHARE * total:
            break
        free[top:bottom, left:right] = False
        at = (slice(None), slice(top * _CELL, bottom * _CELL), slice(left * _CELL, right * _CELL))
        part = [
            fill_by_mirroring(plane, own, (1.0, 1.0))
            for plane, own in zip(stack[at], used[at], strict=True)
        ]
        cut = np.stack(part).reshape(*pixels.shape[:-2], *part[0].shape)
        found.append((cut, (top * _CELL, left * _CELL)))
    return found


def _free_cells(used: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which cells hold nothing but picture, a few pixels aside."""
    rows, columns = (length // _CELL for length in used.shape)
    cells = used[: rows * _CELL, : columns * _CELL].reshape(rows, _CELL, columns, _CELL)
    return (~cells).sum((1, 3)) <= _SPECKS


def _largest_rectangle(free: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return first row, first column, end row, end column of the largest rectangle."""
    best, place = 0, (0, 0, 0, 0)
    heights = np.zeros(free.shape[1], int)
    for row, line in enumerate(free):
        heights = np.where(line, heights + 1, 0)
        # Columns whose rectangle to the right still grows, rising in height.
        begun: list[tuple[int, int]] = []
        for column, height in enumerate([*(int(h) for h in heights), 0]):
            start = column
            while begun and begun[-1][1] >= height:
                start, high = begun.pop()
                if high * (column - start) > best:
                    best = high * (column - start)
                    place = (row + 1 - high, start, row + 1, column)
            begun.append((start, height))
    return place
