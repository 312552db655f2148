"""Scores beside PSNR: Fourier ring correlation, MicroSSIM, and nuclei found by a usual pipeline."""

from __future__ import annotations

__all__ = [
    "MICRO_SSIM_COMMAND",
    "correlate_rings",
    "find_cut_off",
    "find_nuclei",
    "has_micro_ssim",
    "micro_ssim",
    "score_nuclei",
]

import importlib
import importlib.util

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.segmentation import watershed

Double = NDArray[np.float64]
Labels = NDArray[np.int64]

MICRO_SSIM_COMMAND = "pip install --no-deps microssim"
"""Its release 0.0.5 asks for torch up to 2.14; it needs nothing of what changed since."""

CUT_OFF = 1 / 7
"""Ring correlation below which two images share no structure to speak of."""


def correlate_rings(first: Double, second: Double) -> Double:
    r"""Return the Fourier ring correlation of two images.

    .. math:: \mathrm{FRC}(r) = \frac{\sum_r F_1 F_2^*}{\sqrt{\sum_r |F_1|^2 \sum_r |F_2|^2}}

    Images are less their mean, and fall to zero at the border by a Hann window.

    Parameters
    ----------
    first, second : ndarray, (Y, X)
        In any unit: factor and offset do not matter.

    Returns
    -------
    ndarray, (n,)
        Real part in n rings of equal width, from frequency 0 to half a cycle per pixel; n is half
        the shorter side. Rings without power are 0.

    References
    ----------
    Nieuwenhuizen et al., Nature Methods 10, 557 (2013), doi 10.1038/nmeth.2448.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"the images must have one shape, not {first.shape} and {second.shape}")
    height, width = first.shape
    window = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    one, two = (np.fft.fft2((image - image.mean()) * window) for image in (first, second))
    rings = min(height, width) // 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    ring = np.floor(radius * 2 * rings).astype(np.int64).ravel()
    inside = ring < rings

    def total(values: Double) -> Double:
        return np.bincount(ring[inside], values.ravel()[inside], minlength=rings).astype(np.float64)

    power = total(np.abs(one) ** 2) * total(np.abs(two) ** 2)
    shared = total(np.real(one * np.conj(two)))
    return np.divide(shared, np.sqrt(power), out=np.zeros(rings), where=power > 0)


def find_cut_off(rings: Double, least: float = CUT_OFF) -> float:
    """Return the frequency up to which two images agree, in cycles per pixel.

    Parameters
    ----------
    rings : ndarray, (n,)
        Of `correlate_rings`.
    least : float
        Correlation that counts as agreement. A single ring below it, beside two above, is chance.

    Returns
    -------
    float
        0 to .5; one over it is the resolution in pixels.
    """
    smooth = ndimage.median_filter(rings[1:], 3, mode="nearest")
    below = np.flatnonzero(smooth < least)
    reach = int(below[0]) + 1 if below.size else rings.size
    return 0.5 * reach / rings.size


def has_micro_ssim() -> bool:
    """Return whether MicroSSIM is at hand."""
    return importlib.util.find_spec("microssim") is not None


def micro_ssim(image: Double, truth: Double) -> float:
    """Return the structural similarity made for microscopy: offsets and one factor are fitted.

    Parameters
    ----------
    image, truth : ndarray, (Y, X)

    References
    ----------
    Ashesh, Deschamps, Jug, arXiv 2408.08747; the library ``microssim``, 0.0.5.
    """
    library = importlib.import_module("microssim")
    return float(library.micro_structural_similarity(truth, image))


def find_nuclei(image: Double, *, smoothing: float = 1.5, least_px: int = 40) -> Labels:
    """Return nuclei as most people would find them: Otsu's threshold, then a watershed.

    Parameters
    ----------
    image : ndarray, (Y, X)
    smoothing : float
        Width of the Gaussian before the threshold, in pixels.
    least_px : int
        Smallest nucleus, in pixels.

    Returns
    -------
    ndarray of int, (Y, X)
        0 is background.
    """
    smooth = ndimage.gaussian_filter(np.asarray(image, dtype=np.float64), smoothing)
    if float(np.ptp(smooth)) == 0:
        return np.zeros(smooth.shape, np.int64)
    mask = ndimage.binary_fill_holes(smooth > threshold_otsu(smooth))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 1.0)
    parts = np.asarray(label(mask), dtype=np.int64)
    peaks = peak_local_max(distance, min_distance=5, labels=parts)
    seeds = np.zeros(smooth.shape, np.int64)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = np.asarray(watershed(-distance, seeds, mask=mask), dtype=np.int64)
    sizes = np.bincount(labels.ravel())
    return np.where(sizes[labels] >= least_px, labels, 0)


def score_nuclei(found: Labels, truth: Labels, least_overlap: float = 0.5) -> float:
    """Return the F1 score of nuclei: one is found if a label covers it, intersection over union.

    Parameters
    ----------
    found, truth : ndarray of int, (Y, X)
        0 is background.
    least_overlap : float
        Intersection over union from which two are one; above .5 pairs are unique.

    Returns
    -------
    float
        0 to 1; 1 if there is none to find and none was found.
    """
    pairs, counts = np.unique(np.stack([found.ravel(), truth.ravel()]), axis=1, return_counts=True)
    sizes = [
        dict(zip(*np.unique(each, return_counts=True), strict=True)) for each in (found, truth)
    ]
    matched = 0
    for (one, other), shared in zip(pairs.T, counts, strict=True):
        if one == 0 or other == 0:
            continue
        union = sizes[0][one] + sizes[1][other] - shared
        matched += bool(shared > least_overlap * union)
    total = sum(len(each) - (0 in each) for each in sizes)
    return 2 * matched / total if total else 1.0
