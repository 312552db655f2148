"""Finds the largest dial that something allows."""

from __future__ import annotations

__all__ = ["ROUND", "find_largest_dial"]

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROUND = 0.05
"""The estimated dial is rounded to this, in optical depth."""


def find_largest_dial(dial: float, kept_at: Callable[[float], bool]) -> float:
    """Return the largest dial up to `dial` that is allowed, in steps of `ROUND`.

    Parameters
    ----------
    dial : float
        Optical depth to begin with.
    kept_at : callable
        Says whether a dial is allowed; if one is, all below it are.
    """
    if kept_at(dial):
        return dial
    kept, broken = 0.0, dial
    while broken - kept > ROUND:
        middle = (kept + broken) / 2
        if kept_at(middle):
            kept = middle
        else:
            broken = middle
    return math.floor(kept / ROUND + 1e-6) * ROUND
