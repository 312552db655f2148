"""How dark is too dark: there is no negative light.

Where noise and camera offset are known, the dark parts must not sink below the offset
(`measure_darkness`). Where they are not, no offset lies below zero counts (`limit_to_light`). Both
may be off by the same share of the brightness.
"""

from __future__ import annotations

__all__ = [
    "DARKNESS_SD",
    "DARKNESS_SHARE",
    "is_too_dark",
    "limit_to_light",
    "measure_darkness",
]

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy  # its rooms load when they are used: reading this module must stay quick
import torch
import torch.nn.functional as F

from deepcontrast_bmz.dial.search import find_largest_dial
from deepcontrast_bmz.model.loop import blend

if TYPE_CHECKING:
    from torch import Tensor

    from deepcontrast_bmz.physics.noise import Array, NoiseModel

DARKNESS_SD = 4.0
"""How far the dark parts may sink below the offset, in noise deviations..."""

DARKNESS_SHARE = 0.05
"""... and in shares of the brightness: the offset itself is only known so well."""

_CELL = 4
"""Side of the cells over which means are taken, in which noise counts little, in pixels."""

_FEW_CELLS = 0.05
"""Share of the image, off masked parts, below which that cannot be said."""


def measure_darkness(image: Array, offset: float, noise: NoiseModel) -> tuple[float, float]:
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

    Returns
    -------
    deviations, share : float
        In deviations of the recording's noise there, and in shares of the brightness; negative
        where all is lighter than the offset.
    """
    smooth = scipy.ndimage.gaussian_filter(np.asarray(image, dtype=np.float64), 2.0)
    low, high = (float(v) for v in np.quantile(smooth, (0.01, 0.99)))
    deviation = math.sqrt(float(noise.variance(torch.tensor(offset))))
    return (offset - low) / deviation, (offset - low) / max(high - offset, 1e-30)


def is_too_dark(below_offset: tuple[float, float]) -> bool:
    """Return whether dark parts lie so far below the offset that it is no accident.

    Parameters
    ----------
    below_offset : (float, float)
        From `measure_darkness`.
    """
    deviations, share = below_offset
    return deviations > DARKNESS_SD and share > DARKNESS_SHARE


def limit_to_light(raw: Tensor, iterations: Tensor, dial: float, step: float) -> float:
    """Return the largest dial up to `dial` at which the dark parts stay above zero counts.

    No camera offset lies below zero counts, or below the smallest value where some are negative:
    whatever the noise, the rest of the dark parts must lie above.

    Parameters
    ----------
    raw : Tensor, (Y, X)
        Counts.
    iterations : Tensor, (K, Y, X)
    dial : float
        Optical depth to begin with.
    step : float
        Optical depth of one iteration.
    """
    if min(raw.shape) < _CELL:
        return dial
    least = min(float(raw.min()), 0.0)
    # Where black was cut off or masked, and a little around it, the image was already there.
    cut = _means((raw <= raw.min()).float()) > 0
    cut = F.max_pool2d(cut[None, None].float(), 5, stride=1, padding=2)[0, 0] > 0
    used = ~cut
    if float(used.float().mean()) < _FEW_CELLS:
        return dial

    def below(tried: float) -> float:
        cells = _means(blend(raw, iterations, tried, step))[used].sort().values
        low, high = float(cells[cells.numel() // 100]), float(cells[-1 - cells.numel() // 100])
        return (least - low) / max(high - least, 1e-30)

    return find_largest_dial(dial, lambda tried: below(tried) <= DARKNESS_SHARE)


def _means(image: Tensor) -> Tensor:
    """Return means over 4 x 4 pixels, in which noise counts little."""
    return F.avg_pool2d(image[None, None].float(), _CELL)[0, 0]
