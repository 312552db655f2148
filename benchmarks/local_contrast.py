"""How far a result's local contrast is from that of a sharp image of the same structures.

One number for a whole image says nothing of the parts of it: an edge that is too sharp and a
centre that is still hazy cancel. This compares place by place.
"""

from __future__ import annotations

__all__ = ["local_contrast", "local_contrast_factor"]

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from deepcontrast_bmz.evaluate.metrics import MIDDLE_BAND, band_pass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]
    Mask = NDArray[np.bool_]

WINDOW = 16
"""Side of the window, in pixels."""
_DARK = 1e-2
"""Smallest local mean that is divided by, over the mean of the image."""


def local_contrast(image: Array, window: int = WINDOW) -> NDArray[np.float64]:
    r"""Return the RMS of the 1-4 px band over the mean, both in a moving window.

    .. math:: c = \sqrt{\langle (B * x)^2 \rangle_w} / \langle x \rangle_w

    Parameters
    ----------
    image : ndarray, (Y, X)
        Grey values, offset removed.
    window : int
        Side of the window in pixels.

    Returns
    -------
    ndarray, (Y, X)
        Dimensionless.
    """
    values = np.asarray(image, dtype=np.float64)
    power = ndimage.uniform_filter(band_pass(values, MIDDLE_BAND) ** 2, window)
    mean = ndimage.uniform_filter(values, window)
    least = _DARK * max(float(values.mean()), 1e-30)
    return np.sqrt(np.maximum(power, 0.0)) / np.maximum(mean, least)


def local_contrast_factor(
    result: Array, sharp: Array, *, valid: Mask | None = None, window: int = WINDOW
) -> float:
    r"""Return the typical factor between the local contrast of a result and of a sharp image.

    .. math:: \exp(\mathrm{median}\,|\ln (c_\mathrm{result} / c_\mathrm{sharp})|)

    over the pixels where the sharp image has structure: local contrast above its median.

    Parameters
    ----------
    result, sharp : ndarray, (Y, X)
        Grey values, offset removed; the units may differ.
    valid : ndarray of bool, (Y, X), optional
        Pixels that count; all of them if left out.
    window : int
        Side of the window in pixels.

    Returns
    -------
    float
        1 if they agree everywhere, 1.5 if the contrast is typically half as large again, or by as
        much too small.

    Raises
    ------
    ValueError
        If the shapes differ or no pixel counts.
    """
    if result.shape != sharp.shape:
        raise ValueError(f"the images must have one shape, not {result.shape} and {sharp.shape}")
    aim, found = local_contrast(sharp, window), local_contrast(result, window)
    used = np.ones(aim.shape, bool) if valid is None else valid
    if not used.any():
        raise ValueError("no pixel counts: valid is false everywhere")
    used = used & (aim >= np.median(aim[used]))
    ratio = np.maximum(found[used], 1e-12) / np.maximum(aim[used], 1e-12)
    return float(np.exp(np.median(np.abs(np.log(ratio)))))
