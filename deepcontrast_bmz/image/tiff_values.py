"""What the stored numbers of a TIFF stand for, where they are not the intensities themselves."""

from __future__ import annotations

__all__ = ["find_meaning"]

from typing import TYPE_CHECKING, Any

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.reader import say_once
from deepcontrast_bmz.image.units import parse_number

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import tifffile

_STRAIGHT_LINE = 0
# ImageJ's number of the calibration c0 + c1 * stored.


def find_meaning(
    tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path
) -> tuple[Callable[[np.ndarray], np.ndarray], np.dtype[Any]] | None:
    """Return how stored numbers become values, with the type of these; None if they are values.

    ImageJ keeps signed 16-bit images as unsigned ones with a calibration; other straight lines
    are applied in float32. Where white is zero the numbers are turned round, except in ImageJ's
    files: there this says only how the image is shown.

    Parameters
    ----------
    tif : TiffFile
    page : TiffPage
        The first one of the image.
    path : Path
        Named in messages.

    Raises
    ------
    InputError
        If they are places in a list of colours that does not rise.
    """
    import tifffile

    if tif.is_imagej:
        return _calibration(tif.imagej_metadata or {}, np.dtype(page.dtype), path)
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and not _rises(page.colormap):
        raise InputError(
            f"the numbers of '{path}' are places in a list of colours, not intensities: save it as "
            "grey values"
        )
    if page.photometric != tifffile.PHOTOMETRIC.MINISWHITE or np.dtype(page.dtype).kind != "u":
        return None
    white = (1 << int(page.bitspersample)) - 1
    say_once(path, "white is zero in this file; its values are turned round")
    return lambda stored: np.asarray(white - stored, stored.dtype), np.dtype(page.dtype)


def _rises(colours: np.ndarray | None) -> bool:
    """Say whether no colour becomes darker from one entry to the next: then numbers are values."""
    return colours is None or bool((np.diff(colours.astype(np.int64), axis=-1) >= 0).all())


def _calibration(
    header: dict[str, Any], dtype: np.dtype[Any], path: Path
) -> tuple[Callable[[np.ndarray], np.ndarray], np.dtype[Any]] | None:
    function, start, slope = (parse_number(header.get(key)) for key in ("cf", "c0", "c1"))
    if function is None:
        return None
    if function != _STRAIGHT_LINE or start is None or slope is None:
        say_once(path, "its calibration is no straight line and is not applied")
        return None
    if (start, slope) == (0, 1):
        return None
    if (start, slope) == (-32768, 1) and dtype == np.uint16:
        return lambda stored: (stored.astype(np.int32) - 32768).astype(np.int16), np.dtype(np.int16)
    say_once(path, "its calibration %g + %g * value is applied", start, slope)
    return lambda stored: (start + slope * stored.astype(np.float64)).astype(np.float32), np.dtype(
        np.float32
    )
