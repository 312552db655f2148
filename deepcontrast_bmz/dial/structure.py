"""Whether a recording shows structure: detail that both halves of its light have in common.

Noise of the halves is independent, so that it correlates by nothing, whatever it looks like.
Brightness that changes over tens of pixels, a ramp, haze, one wide blob, is no detail: the bands
pass none of it.
"""

from __future__ import annotations

__all__ = ["STRUCTURE_BANDS", "measure_structure", "shows_structure"]

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import scipy  # its rooms load when they are used: reading this module must stay quick
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Double = NDArray[np.float64]

STRUCTURE_BANDS = ((1.0, 4.0), (2.0, 8.0))
"""Widths, in pixels, of the Gaussian that smooths and of the one that takes away what is wider."""

_ORDER = 4
"""How often what is wider is taken away: of a blob three times as wide a millionth is left."""

_LEAST = 0.1
"""Correlation of the halves from which on detail is structure: a measure of the noise that is off
by a tenth looks like half as much."""

_SURE = 4.0
"""How many deviations of chance that correlation is away from none, at least."""

_FEWEST = 400
"""Pixels that it is measured on, at least."""

_ROUNDING = 1 / 12
"""Variance of rounding, in steps squared: an image in whole steps has no finer structure."""

_MOST_STEPS = 4096
"""Values that an image in whole steps has, at most, in the sample that is looked at."""


def measure_structure(first: Tensor, second: Tensor, usable: Tensor) -> float:
    """Return how much of the detail of two halves is the same, in the band where it is most.

    Parameters
    ----------
    first, second : Tensor, (Y, X)
        Halves of independent noise, without holes.
    usable : Tensor of bool, (Y, X)
        Pixels that count.

    Returns
    -------
    float
        Correlation over the one from which on it is structure: 1 and above is structure, 0 noise
        alone or too few pixels to tell.
    """
    one, two = (half.double().numpy() for half in (first, second))
    step = _find_step((one + two)[usable.numpy()] / 2)
    return max(_measure_band(one, two, usable.numpy(), band, step) for band in STRUCTURE_BANDS)


def shows_structure(strength: float) -> bool:
    """Return whether what `measure_structure` found is structure."""
    return strength >= 1.0


def _measure_band(
    one: Double, two: Double, usable: NDArray[np.bool_], band: tuple[float, float], step: float
) -> float:
    """Return the correlation of one band over the one from which on it is structure."""
    narrow, wide = band
    # Near the border the mirrored surroundings of a ramp look like an edge.
    border = min(math.ceil(2 * wide), min(one.shape) // 8)
    counted = np.zeros_like(usable)
    inner = (slice(border, -border or None),) * 2
    counted[inner] = usable[inner]
    count = int(counted.sum())
    if count < _FEWEST:
        return 0.0
    first, second = (_pass_band(half, narrow, wide)[counted] for half in (one, two))
    shared = float((first * second).mean())
    # No lens draws the finest of all: what is shared there is noise that was taken for too little.
    finest = [_differentiate(half)[counted] for half in (one, two)]
    shared -= _gain(band) * max(float((finest[0] * finest[1]).mean()), 0.0)
    power = math.sqrt(float((first**2).mean()) * float((second**2).mean()))
    if shared <= _ROUNDING * step**2 or power <= 0:
        return 0.0
    # Noise in a band is alike over as many pixels as the Gaussian covers.
    independent = count / (8 * math.pi * narrow**2)
    chance = _SURE / math.sqrt(independent)
    return shared / power / max(_LEAST, chance)


def _pass_band(image: Double, narrow: float, wide: float) -> Double:
    """Return what is neither finer nor wider than a band."""
    found = np.asarray(scipy.ndimage.gaussian_filter(image - image.mean(), narrow))
    for _ in range(_ORDER):
        found = found - np.asarray(scipy.ndimage.gaussian_filter(found, wide))
    return found


def _differentiate(image: Double) -> Double:
    """Return the second difference in y and x, which leaves the power of white noise unchanged."""
    line = np.array([1.0, -2.0, 1.0]) / math.sqrt(6)
    for axis in (0, 1):
        image = np.asarray(scipy.ndimage.convolve1d(image, line, axis=axis))
    return image


@functools.cache
def _gain(band: tuple[float, float]) -> float:
    """Return the share of the power of white noise that a band passes."""
    side = 2 * math.ceil(6 * band[1]) + 1
    point = np.zeros((side, side))
    point[side // 2, side // 2] = 1.0
    # The mean is taken off before: of so many pixels it is next to nothing.
    return float((_pass_band(point, *band) ** 2).sum())


def _find_step(values: Double) -> float:
    """Return the step that grey values were rounded to; 0 where they were not."""
    sample = values[:: max(1, values.size // 100_000)]
    levels = np.unique(sample.astype(np.float32))
    if levels.size < 2:
        return 0.0
    gaps = np.diff(levels).astype(np.float64)
    # Whole multiples of one step, in few values, or rounding of 32 bits alone.
    step = float(gaps.min())
    rounded = np.abs(gaps / step - np.rint(gaps / step)).max() < 0.01
    return step if rounded and levels.size <= _MOST_STEPS else 0.0
