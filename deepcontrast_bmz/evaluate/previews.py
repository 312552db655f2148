"""Shrinks planes to small 8-bit pictures for the report."""

from __future__ import annotations

__all__ = ["shrink"]

import math
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.evaluate.records import Preview

if TYPE_CHECKING:
    from deepcontrast_bmz.evaluate.metrics import Array

PREVIEW_SIDE = 1024
"""Largest side of a preview, in pixels."""


def shrink(plane: Array, black: float, white: float, largest: int | None = None) -> Preview:
    """Return a plane, averaged down to a small size, between two grey values.

    Parameters
    ----------
    plane : ndarray, (Y, X)
    black, white : float
        Grey values that become 0 and 255.
    largest : int, optional
        Largest side of the picture, in pixels; `PREVIEW_SIDE` if left out.
    """
    factor = math.ceil(max(plane.shape) / (largest or PREVIEW_SIDE))
    if factor > 1:
        height, width = (side // factor * factor for side in plane.shape)
        small = plane[:height, :width].reshape(height // factor, factor, width // factor, factor)
        plane = small.mean(axis=(1, 3))
    scaled = (np.asarray(plane, dtype=np.float64) - black) / max(white - black, 1e-30)
    pixels = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return Preview(height=pixels.shape[0], width=pixels.shape[1], pixels=pixels.tobytes())
