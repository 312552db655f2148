"""Says a dial and its reason in one short sentence."""

from __future__ import annotations

__all__ = ["say_dial", "say_dials", "say_reading"]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def say_reading(
    optical_depth: float, error: float, *, noisy: bool, black: float, cut_off: float
) -> str:
    """Return what was read off an image.

    Parameters
    ----------
    optical_depth, error : float
        The reading and its standard error.
    noisy : bool
        Its noise can be measured.
    black, cut_off : float
        Share of cut-off black, and from which on it matters.

    Examples
    --------
    >>> say_reading(1.78, 0.31, noisy=True, black=0.0, cut_off=0.01)
    'optical depth 1.8 +- 0.3'
    >>> say_reading(1.78, 0.4, noisy=True, black=0.2, cut_off=0.01)
    'optical depth 1.8 +- 0.4, black cut off in 20%'
    """
    words = f"optical depth {optical_depth:.1f} +- {error:.1f}"
    if not noisy:
        return f"{words}, no noise to measure"
    return f"{words}, black cut off in {black:.0%}" if black > cut_off else words


def say_dial(dial: float, basis: str, limited_by: str | None = None) -> str:
    """Return the reason of a dial.

    Parameters
    ----------
    dial : float
        Optical depth to remove.
    basis : str
        What it rests on.
    limited_by : str, optional
        What keeps it from being larger.

    Examples
    --------
    >>> say_dial(1.75, "optical depth 1.8 +- 0.3")
    'dial 1.75 (optical depth 1.8 +- 0.3)'
    """
    words = f"dial {dial:g} ({basis})"
    return words if limited_by is None else f"{words}, limited by {limited_by}"


def say_dials(dials: Sequence[float], measured: int, surest: str, *, smoothed: bool = False) -> str:
    """Return the reason of the dials of several planes.

    Parameters
    ----------
    dials : sequence of float
        One for every plane.
    measured : int
        Planes that were looked at; the others got the dial of the nearest.
    surest : str
        What was said of the plane that is surest.
    smoothed : bool
        They were smoothed along z.
    """
    low, high = min(dials), max(dials)
    words = f"dial {low:g}" if low == high else f"dials {low:g} to {high:g}"
    if smoothed:
        words += ", smooth along z,"
    of = f"{measured} of {len(dials)}" if measured < len(dials) else f"{len(dials)}"
    return f"{words} from {of} planes; the surest: {surest}"
