"""Computes smaller resolutions of an image: means of 2 x 2 pixels of the level before.

Planes shrink along y and x, a stack keeps its planes. A last row or column without a partner is
the mean of what is there, so that a pixel of level k is always as wide as 2^k pixels.
"""

from __future__ import annotations

__all__ = ["SMALLEST", "count_levels", "halve", "shrink_shape"]

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST = 1024
"""Pixels: levels are added until both sides of the last one are at most this long."""


def shrink_shape(shape: tuple[int, ...], level: int) -> tuple[int, ...]:
    """Return the shape of a level, 0 being the image itself.

    Parameters
    ----------
    shape : tuple of int, (..., Y, X)
    level : int
    """
    return (*shape[:-2], *(-(-n // 2**level) for n in shape[-2:]))


def count_levels(shape: tuple[int, ...]) -> int:
    """Return how many resolutions an image of a shape (..., Y, X) gets, itself included."""
    count = 1
    while max(shrink_shape(shape, count - 1)[-2:]) > SMALLEST:
        count += 1
    return count


def halve(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the mean of 2 x 2 pixels: (..., Y, X) to (..., ceil(Y / 2), ceil(X / 2)).

    Integers are rounded to the nearest one.

    Parameters
    ----------
    pixels : ndarray, (..., Y, X)
        Begins on an even row and column of its image.
    """
    odd = [(0, n % 2) for n in pixels.shape[-2:]]
    if any(after for _, after in odd):
        # Edge pixels repeated: their mean is themselves.
        pixels = np.pad(pixels, ((0, 0),) * (pixels.ndim - 2) + tuple(odd), mode="edge")
    kind = np.float32 if pixels.dtype.itemsize <= 4 and pixels.dtype.kind == "f" else np.float64
    rows = np.add(pixels[..., ::2, :], pixels[..., 1::2, :], dtype=kind)
    means = (rows[..., ::2] + rows[..., 1::2]) * kind(0.25)
    if pixels.dtype.kind in "iu":
        means = np.rint(means)
    return means.astype(pixels.dtype, copy=False)
