"""The zoo's comparison of deepImageJ's result with the test output, pixel by pixel.

Read in bioimage-io/collection at 0d660e5,
scripts/deepimagej_jython_scripts/deepimagej_check_outputs.py.
"""

from __future__ import annotations

__all__ = [
    "ABSOLUTE",
    "ENGINE_DIFFERENCE",
    "RELATIVE",
    "breaks_criterion",
    "compute_allowed_difference",
    "measure_share_at_risk",
]

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ABSOLUTE = 1.5e-4
RELATIVE = 1e-4
ENGINE_DIFFERENCE = 2e-5
"""By how much engines may differ that run the same network, over the range of the output."""


def compute_allowed_difference(expected: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far a result may lie from the test output, per pixel, in its grey values."""
    # The zoo reads both as float32 and compares as double.
    return ABSOLUTE + RELATIVE * np.abs(np.asarray(expected, np.float32).astype(np.float64))


def breaks_criterion(actual: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels that differ by more than is allowed; a single one fails the model.

    Values that are not numbers break it here. The zoo's own comparison lets them pass.
    """
    difference = np.asarray(actual, np.float32).astype(np.float64)
    difference -= np.asarray(expected, np.float32).astype(np.float64)
    # Written so that a difference that is not a number counts as too large.
    return ~(np.abs(difference) <= compute_allowed_difference(expected))


def measure_share_at_risk(expected: NDArray[Any]) -> float:
    """Return the share of pixels that an engine would fail by `ENGINE_DIFFERENCE` of the range."""
    values = np.asarray(expected, np.float32).astype(np.float64)
    if values.size == 0:
        return 0.0
    return float(np.mean(ENGINE_DIFFERENCE * np.ptp(values) > compute_allowed_difference(expected)))
