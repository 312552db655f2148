"""The part of a plane that tells most about it."""

from __future__ import annotations

__all__ = ["WINDOW", "content_window"]

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 512
"""Side of the part of a plane that the dial is chosen on, in pixels."""

_CELL = 32
"""Side of the cells that content is measured in, in pixels."""


def content_window(raw: Tensor, size: int = WINDOW) -> tuple[slice, slice]:
    """Return rows and columns of the part of a plane with the most content.

    Content is how far cells of 32 x 32 pixels differ from the plane's median; among equals the
    window nearest to the centre is taken.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    size : int
        Largest side of the window in pixels.

    Returns
    -------
    tuple of slice
    """
    height, width = raw.shape
    tall, wide = min(size, height), min(size, width)
    if (tall, wide) == (height, width):
        return slice(0, height), slice(0, width)
    cell = min(_CELL, tall, wide)
    means = F.avg_pool2d(raw[None, None].float(), cell)
    content = (means - means.median()).abs()
    # The lines and columns beyond the last whole cell can be reached by no window: no matter.
    windows = (max(tall // cell, 1), max(wide // cell, 1))
    total = F.avg_pool2d(content, windows, stride=1)[0, 0]
    rows = torch.arange(total.shape[0]) - (total.shape[0] - 1) / 2
    columns = torch.arange(total.shape[1]) - (total.shape[1] - 1) / 2
    off_centre = rows[:, None] ** 2 + columns[None, :] ** 2
    best = total >= total.max() * (1 - 1e-3)
    place = int(torch.where(best.cpu(), -off_centre, -torch.inf).argmax())
    top = min(place // total.shape[1] * cell, height - tall)
    left = min(place % total.shape[1] * cell, width - wide)
    return slice(top, top + tall), slice(left, left + wide)
