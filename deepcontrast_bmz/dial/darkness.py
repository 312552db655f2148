"""How dark is too dark: there is no negative light.

Where noise and camera offset are known, the dark parts must not sink below the offset
(`measure_darkness`). Where they are not, no offset lies below zero counts
(`measure_below_zero`). Both may be off by the same share of the brightness.
"""

from __future__ import annotations

__all__ = [
    "DARKNESS_SD",
    "DARKNESS_SHARE",
    "is_too_dark",
    "measure_below_zero",
    "measure_darkness",
]

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy  # its rooms load when they are used: reading this module must stay quick
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from deepcontrast_bmz.physics.noise import Array, NoiseModel

DARKNESS_SD = 4.0
"""How far the dark parts may sink below the offset, in noise deviations..."""

DARKNESS_SHARE = 0.05
"""... and in shares of the brightness: the offset itself is only known so well."""

_CELL = 4
"""Side of the cells over which means are taken, in which noise counts little, in pixels."""

_MOST_UNUSABLE = 0.5
"""Share of the pixels of a cell from which on black was cut off there."""

_FEW_CELLS = 0.05
"""Share of the image, off masked parts, below which that cannot be said."""


def measure_darkness(
    image: Array, offset: float, noise: NoiseModel, usable: Tensor | None = None
) -> tuple[float, float]:
    """Return how far the darkest percent lies below the camera offset: there is no negative light.

    The image is smoothed first, so that single noisy pixels do not count.

    Parameters
    ----------
    image : ndarray, (Y, X)
        Counts.
    offset : float
        Counts in the dark.
    noise : NoiseModel
        Of the recording.
    usable : Tensor of bool, (Y, X), optional
        Pixels that count; all of them if left out.

    Returns
    -------
    deviations, share : float
        In deviations of the recording's noise there, and in shares of the brightness; negative
        where all is lighter than the offset.
    """
    smooth = scipy.ndimage.gaussian_filter(np.asarray(image, dtype=np.float64), 2.0)
    counted = smooth if usable is None or not bool(usable.any()) else smooth[usable.numpy()]
    low, high = (float(v) for v in np.quantile(counted, (0.01, 0.99)))
    deviation = math.sqrt(float(noise.variance(torch.tensor(offset))))
    # Single precision has no variance of so small counts; the share still says all.
    return (offset - low) / max(deviation, 1e-30), (offset - low) / max(high - offset, 1e-30)


def is_too_dark(below_offset: tuple[float, float]) -> bool:
    """Return whether dark parts lie so far below the offset that it is no accident.

    Parameters
    ----------
    below_offset : (float, float)
        From `measure_darkness`.
    """
    deviations, share = below_offset
    return deviations > DARKNESS_SD and share > DARKNESS_SHARE


def measure_below_zero(raw: Tensor, image: Tensor, usable: Tensor) -> float | None:
    """Return how far the darkest percent lies below zero counts, in shares of the brightness.

    No camera offset lies below zero counts, or below the smallest value where some are negative:
    whatever the noise, the dark parts must not sink below.

    Parameters
    ----------
    raw : Tensor, (Y, X)
        Counts.
    image : Tensor, (Y, X)
        The same, enhanced.
    usable : Tensor of bool, (Y, X)
        Pixels that count.

    Returns
    -------
    float or None
        Negative where all is lighter; None where too little is left to say.
    """
    if min(raw.shape) < _CELL:
        return None
    least = min(float(raw.min()), 0.0)
    # Where black was cut off, and a little around it, the image was already there.
    cut = _means((~usable).float()) > _MOST_UNUSABLE
    cut = F.max_pool2d(cut[None, None].float(), 5, stride=1, padding=2)[0, 0] > 0
    if float((~cut).float().mean()) < _FEW_CELLS:
        return None
    cells = _means(image)[~cut].sort().values
    low, high = float(cells[cells.numel() // 100]), float(cells[-1 - cells.numel() // 100])
    return (least - low) / max(high - least, 1e-30)


def _means(image: Tensor) -> Tensor:
    """Return means over 4 x 4 pixels, in which noise counts little."""
    return F.avg_pool2d(image[None, None].float(), _CELL)[0, 0]
