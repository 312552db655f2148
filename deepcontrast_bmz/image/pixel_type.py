"""What pixels are written as: which numbers, and how they are packed; both as the user asks."""

from __future__ import annotations

__all__ = [
    "COMPRESSIONS",
    "PIXEL_TYPES",
    "check_compression",
    "check_fits",
    "check_pixel_type",
    "choose_type",
    "describe_change",
    "fit_pixels",
]

from typing import TYPE_CHECKING, Any

import numpy as np

from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

PIXEL_TYPES = ("float32", "same", "uint16")
"""What pixels can be written as; ``same`` is what the input has."""

COMPRESSIONS = ("none", "zlib", "zstd")
"""How pixels can be packed; none of them loses anything."""

_FEWEST_LEVELS = 16
"""Fractions over a smaller range than this are no image any more as whole numbers."""


def check_pixel_type(asked: str) -> None:
    """Raise `InputError` if pixels cannot be written as that."""
    if asked not in PIXEL_TYPES:
        raise InputError(
            f"--dtype is {asked!r}, but pixels are written as {', '.join(PIXEL_TYPES)}: "
            "choose one of them"
        )


def check_compression(asked: str | None) -> None:
    """Raise `InputError` if pixels cannot be packed like that; None leaves it to the format."""
    if asked is not None and asked not in COMPRESSIONS:
        raise InputError(
            f"--compression is {asked!r}, but pixels are packed by {', '.join(COMPRESSIONS)}: "
            "choose one of them"
        )


def choose_type(asked: str, given: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that a result is written as.

    Parameters
    ----------
    asked : {'float32', 'same', 'uint16'}
    given : dtype
        Of the input; half precision is computed and written in single precision.
    """
    if asked == "same":
        return given if given.kind in "iu" or given.itemsize > 4 else np.dtype(np.float32)
    return np.dtype(asked)


def check_fits(image: xr.DataArray, written: np.dtype[Any], name: str) -> None:
    """Refuse an image whose own values a type of whole numbers cannot hold.

    Parameters
    ----------
    image : DataArray
        The input; of a dask array all pixels are read, where its type does not tell.
    written : dtype
        What the result is to be written as.
    name : str
        What to call the image in an error.

    Raises
    ------
    InputError
        If pixels are below or above what the type holds, are no numbers, or would be rounded to a
        handful of levels.
    """
    if written.kind == "f" or np.can_cast(image.dtype, written):
        return
    limits = np.iinfo(written)
    low, high = (float(end) for end in (image.min(skipna=False), image.max(skipna=False)))
    what = f"{name} has values from {low:g} to {high:g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        what = f"{name} has pixels that are NaN or infinite"
    elif low >= limits.min and high <= limits.max:
        if image.dtype.kind != "f" or high - low >= _FEWEST_LEVELS:
            return
        raise InputError(
            f"{written} holds whole numbers, but {what}, which would be rounded to a few levels: "
            "leave out --dtype, or multiply the image first"
        )
    raise InputError(
        f"{written} holds whole numbers from {limits.min} to {limits.max}, but {what}: leave out "
        "--dtype, or shift the image first"
    )


def fit_pixels(
    pixels: NDArray[np.floating[Any]], written: np.dtype[Any]
) -> tuple[NDArray[Any], int]:
    """Return pixels as a type, rounded and clipped where it asks for that, and how many were cut.

    Parameters
    ----------
    pixels : ndarray
        Finite, where the type is one of whole numbers.
    written : dtype
    """
    if written.kind == "f":
        return pixels.astype(written, copy=False), 0
    limits = np.iinfo(written)
    whole = np.rint(pixels.astype(np.float64))
    clipped = int(np.count_nonzero((whole < limits.min) | (whole > limits.max)))
    return np.clip(whole, limits.min, limits.max).astype(written), clipped


def describe_change(written: np.dtype[Any], clipped: int, total: int) -> str:
    """Return what writing as a type did to the values, in words; nothing where it did nothing.

    Parameters
    ----------
    written : dtype
    clipped : int
        Pixels beyond what the type holds.
    total : int
        Pixels in all.
    """
    if written.kind == "f":
        return ""
    limits = np.iinfo(written)
    text = f"values are rounded to whole numbers ({written})"
    if clipped:
        text += (
            f"; {clipped} of {total} pixels lay beyond {limits.min} to {limits.max} "
            "and were set to the nearer end"
        )
    return text
