"""The part of a plane that its dial is chosen on: tissue, and nothing that was laid round it."""

from __future__ import annotations

__all__ = ["find_tissue"]

from typing import TYPE_CHECKING

import numpy as np
import scipy  # its rooms load when they are used: reading this module must stay quick
import torch
from numpy.typing import NDArray

from deepcontrast_bmz.dial.usable import fill_pixels
from deepcontrast_bmz.dial.window import WINDOW, content_window

if TYPE_CHECKING:
    from torch import Tensor

    from deepcontrast_bmz.dial.usable import PixelMask

Mask = NDArray[np.bool_]

_CELL = 8
"""Side of the cells that a rectangle is made of, in pixels."""

_SMALLEST_PATCH = 3
"""Side of a broken patch that is more than hot pixels and dead lines, in pixels."""

_FILLED = 0.125
"""Share of the field up to which broken patches are filled from their rim: a rectangle beside a
small corner gives up far more tissue than the corner holds."""

_LEAST = 0.25
"""Share of the tissue that a rectangle without broken patches must hold to be worth it."""


def find_tissue(raw: Tensor, pixels: PixelMask, size: int = WINDOW) -> tuple[slice, slice]:
    """Return rows and columns of the part of a plane that tells most of its tissue.

    Borders without a usable pixel are cut off. Where large corners or holes are broken, the largest
    rectangle beside them is taken, unless that leaves too little. Of what is left, the window with
    the most content.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    pixels : PixelMask
    size : int
        Largest side of the window in pixels.
    """
    usable = pixels.usable.numpy()
    if not usable.any():
        return content_window(torch.nan_to_num(raw), size)
    rows, columns = (_ends(np.flatnonzero(usable.any(axis))) for axis in (1, 0))
    holes = scipy.ndimage.binary_opening(
        pixels.broken.numpy()[rows, columns], np.ones((_SMALLEST_PATCH, _SMALLEST_PATCH), bool)
    )
    if holes.mean() > _FILLED:
        top, left, tall, wide = _find_rectangle(~holes)
        if tall * wide >= _LEAST * usable.sum():
            rows = slice(rows.start + top, rows.start + top + tall)
            columns = slice(columns.start + left, columns.start + left + wide)
    filled = fill_pixels(raw[rows, columns], ~pixels.broken[rows, columns])
    down, across = content_window(filled, size)
    return (
        slice(rows.start + down.start, rows.start + down.stop),
        slice(columns.start + across.start, columns.start + across.stop),
    )


def _ends(found: NDArray[np.intp]) -> slice:
    """Return from the first to the last of some places, rising."""
    return slice(int(found[0]), int(found[-1]) + 1)


def _find_rectangle(free: Mask) -> tuple[int, int, int, int]:
    """Return (top, left, rows, columns) of the largest rectangle of free cells; zeros if none."""
    height, width = (length // _CELL for length in free.shape)
    cells = free[: height * _CELL, : width * _CELL].reshape(height, _CELL, width, _CELL)
    whole: Mask = np.asarray(cells.all(axis=(1, 3)))
    best, heights = (0, 0, 0, 0), np.zeros(width, int)
    for row in range(height):
        heights = np.where(whole[row], heights + 1, 0)
        for tall in np.unique(heights[heights > 0]):
            # Runs of columns that are free over so many rows.
            runs = np.diff(np.concatenate([[0], heights >= tall, [0]]))
            starts, stops = np.flatnonzero(runs == 1), np.flatnonzero(runs == -1)
            longest = int((stops - starts).argmax())
            wide = int(stops[longest] - starts[longest])
            if tall * wide > best[2] * best[3]:
                best = (row - int(tall) + 1, int(starts[longest]), int(tall), wide)
    top, left, tall, wide = (n * _CELL for n in best)
    # The lines beyond the last whole cell belong to it where they are free, too.
    bottom = free.shape[0] if top + tall == height * _CELL else top + tall
    right = free.shape[1] if left + wide == width * _CELL else left + wide
    if not free[top:bottom, left:right].all():
        bottom, right = top + tall, left + wide
    return top, left, bottom - top, right - left
