"""Random numbers that several modules draw alike."""

from __future__ import annotations

__all__ = ["draw_log_uniform"]

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def draw_log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform, so that halves are as likely as doubles.

    Parameters
    ----------
    rng : numpy.random.Generator
        One number is taken from it.
    low, high : float
        Above zero.

    Returns
    -------
    float
        Between `low` and `high`.
    """
    return math.exp(rng.uniform(math.log(low), math.log(high)))
