"""Says a dial and its reason in one short sentence."""

from __future__ import annotations

__all__ = ["say_dial", "say_reading", "say_shared"]


def say_reading(
    optical_depth: float,
    interval: tuple[float, float],
    *,
    noisy: bool,
    black: float,
    cut_off: float,
) -> str:
    """Return what was read off an image.

    Parameters
    ----------
    optical_depth : float
        The reading.
    interval : (float, float)
        What holds the depth of four in five.
    noisy : bool
        Its noise can be measured.
    black, cut_off : float
        Share of cut-off black, and from which on it matters.

    Examples
    --------
    >>> say_reading(1.78, (1.51, 2.12), noisy=True, black=0.0, cut_off=0.01)
    'optical depth 1.8, 80% within 1.5 to 2.1'
    >>> say_reading(1.78, (1.4, 2.2), noisy=True, black=0.2, cut_off=0.01)
    'optical depth 1.8, 80% within 1.4 to 2.2, black cut off in 20%'
    """
    low, high = interval
    words = f"optical depth {optical_depth:.1f}, 80% within {low:.1f} to {high:.1f}"
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
    >>> say_dial(1.75, "optical depth 1.8, 80% within 1.5 to 2.1")
    'dial 1.75 (optical depth 1.8, 80% within 1.5 to 2.1)'
    """
    words = f"dial {dial:g} ({basis})"
    return words if limited_by is None else f"{words}, limited by {limited_by}"


def say_shared(
    dials: str,
    *,
    measured: int,
    empty: int,
    total: int,
    images: int,
    smooth: str | None,
    surest: str,
) -> str:
    """Return the reason of dials that several planes share.

    Parameters
    ----------
    dials : str
        In the form that can be given back.
    measured : int
        Planes that were looked at.
    empty : int
        How many of these hold nothing.
    total : int
        Planes that share the dials.
    images : int
        Images that share them.
    smooth : str or None
        Axis along which they are a smooth curve.
    surest : str
        What was said of the plane that is surest.

    Examples
    --------
    >>> say_shared("1.75", measured=9, empty=2, total=40, images=1, smooth=None, surest="dial 1.8")
    'dial 1.75, from 9 of 40 planes, 2 of them empty; the surest: dial 1.8'
    """
    words = f"dial {dials}"
    if smooth is not None:
        words += f", smooth along {smooth}"
    of = f"{measured} of {total}" if measured < total else f"{total}"
    words += f", from {of} planes"
    if images > 1:
        words += f" of {images} images that share it"
    if empty:
        words += f", {empty} of them empty"
    return f"{words}; the surest: {surest}"
