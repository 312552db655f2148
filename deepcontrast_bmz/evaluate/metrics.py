r"""Scores images: contrast, what it cost in detail, and whether the recording agrees.

Pure functions on arrays. Any contrast can be bought by gamma, by subtracting an offset or a
background, so a gain is only worth the scores beside it: `contrast_recovery`,
`band_correlation` or `split_half_detail`, and `split_half_consistency`.

Two notions recur. *Halves* are two images of one recording with independent noise, each on the
scale of the recording (`physics.noise.split_gaussian`); products across halves cancel noise.
*Variance* is that of the recording's noise, in its own unit squared, per pixel.
"""

from __future__ import annotations

__all__ = [
    "BANDS",
    "MIDDLE_BAND",
    "RELIABLE",
    "Array",
    "Band",
    "SplitHalfDetail",
    "average_precision",
    "band_correlation",
    "band_pass",
    "best_scale_and_offset",
    "contrast_gain",
    "contrast_recovery",
    "flagged_share",
    "michelson_contrast",
    "michelson_masks",
    "psnr",
    "psnr_after_fit",
    "residual_z",
    "rms_contrast",
    "split_half_consistency",
    "split_half_contrast",
    "split_half_detail",
    "ssim",
]

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Band = tuple[float, float]

BANDS: Mapping[str, Band] = {"fine": (0.7, 1.6), "coarse": (1.6, 5.0)}
"""Widths, in pixels, of the two Gaussians whose difference passes each band."""
MIDDLE_BAND: Band = (1.0, 4.0)
"""The band in which one correlation says most about legible structure."""
RELIABLE = 0.1
"""Correlation of the halves below which detail without a reference cannot be measured."""


def _double(image: Array) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64)


def _same_shape(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape:
        raise ValueError(f"the images must have one shape, not {first.shape} and {second.shape}")


def _ratio(numerator: float, denominator: float) -> float:
    """Return the quotient, NaN where there is nothing to compare with."""
    return numerator / denominator if denominator else math.nan


# -- contrast -------------------------------------------------------------------------------


def rms_contrast(image: Array, offset: float = 0.0) -> float:
    r"""Return the RMS contrast, standard deviation over mean.

    .. math:: C = \sigma / (\mu - o)

    Parameters
    ----------
    image : ndarray, any shape
        Grey values.
    offset : float
        What the camera records in the dark, same unit; nothing else may be subtracted.

    Returns
    -------
    float
        Dimensionless; NaN if the mean is not above the offset.

    References
    ----------
    Peli, J. Opt. Soc. Am. A 7, 2032 (1990), doi 10.1364/JOSAA.7.002032.
    """
    values = _double(image)
    mean = float(values.mean()) - offset
    return float(values.std()) / mean if mean > 0 else math.nan


def split_half_contrast(first: Array, second: Array, offset: float = 0.0) -> float:
    r"""Return the RMS contrast that both halves share, so that noise is not contrast.

    .. math:: C^2 = \mathrm{Cov}(a_1, a_2) / ((\mu_1 - o) (\mu_2 - o))

    Parameters
    ----------
    first, second : ndarray, any one shape
        Two images with independent noise, of the same recording or enhanced from its halves.
    offset : float
        What the camera records in the dark.

    Returns
    -------
    float
        Equal to `rms_contrast` for two equal images; 0 if they share nothing; NaN if a mean is
        not above the offset.
    """
    _same_shape(first, second)
    one, two = _double(first), _double(second)
    mean_one, mean_two = float(one.mean()), float(two.mean())
    if mean_one <= offset or mean_two <= offset:
        return math.nan
    shared = float(((one - mean_one) * (two - mean_two)).mean())
    return math.sqrt(max(shared, 0.0) / ((mean_one - offset) * (mean_two - offset)))


def michelson_masks(raw: Array, smoothing: float = 1.5, darkest: float = 0.35) -> tuple[Mask, Mask]:
    """Return where the raw image shows signal and where background.

    The masks come from the raw image alone, so that no enhancement can choose its own.

    Parameters
    ----------
    raw : ndarray, (Y, X)
    smoothing : float
        Width of the Gaussian the image is smoothed with first, in pixels.
    darkest : float
        Share of the pixels called background.

    Returns
    -------
    signal, background : ndarray of bool, (Y, X)
        Above Otsu's threshold; the darkest share. They do not overlap; both are empty for a
        constant image.
    """
    smooth = ndimage.gaussian_filter(_double(raw), smoothing)
    if smooth.max() - smooth.min() <= 1e-12 * float(np.abs(smooth).max()):
        nothing = np.zeros(smooth.shape, bool)
        return nothing, nothing.copy()
    signal = smooth > threshold_otsu(smooth)
    background = (smooth <= np.quantile(smooth, darkest)) & ~signal
    return signal, background


def michelson_contrast(image: Array, signal: Mask, background: Mask, offset: float = 0.0) -> float:
    r"""Return the Michelson contrast of the mean signal S and the mean background B.

    .. math:: (S - B) / (S + B - 2 o)

    Parameters
    ----------
    image : ndarray, (Y, X)
    signal, background : ndarray of bool, (Y, X)
        From `michelson_masks` of the raw image.
    offset : float
        What the camera records in the dark.

    Returns
    -------
    float
        NaN if a mask is empty or the sum is not above zero.
    """
    if not signal.any() or not background.any():
        return math.nan
    values = _double(image)
    bright, dark = float(values[signal].mean()), float(values[background].mean())
    total = bright + dark - 2 * offset
    return (bright - dark) / total if total > 0 else math.nan


def contrast_gain(enhanced: Array, raw: Array, offset: float = 0.0) -> float:
    """Return how many times the RMS contrast of the raw image the enhanced one has.

    Never to be shown alone: unsharp masking gains as much as a perfect restoration.

    Parameters
    ----------
    enhanced, raw : ndarray, any shape
    offset : float
        What the camera records in the dark, in both.
    """
    return _ratio(rms_contrast(enhanced, offset), rms_contrast(raw, offset))


def contrast_recovery(
    enhanced: Array, reference: Array, offset: float = 0.0, reference_offset: float = 0.0
) -> float:
    """Return the RMS contrast over that of a reference: 1 is the aim, above 1.15 too much.

    Parameters
    ----------
    enhanced, reference : ndarray, any shape
    offset, reference_offset : float
        What the camera recorded in the dark in each; the units may differ.
    """
    return _ratio(rms_contrast(enhanced, offset), rms_contrast(reference, reference_offset))


# -- detail ---------------------------------------------------------------------------------


def band_pass(image: Array, band: Band) -> NDArray[np.float64]:
    """Return the difference of two Gaussian-smoothed images, borders mirrored.

    Parameters
    ----------
    image : ndarray, (Y, X)
    band : (float, float)
        Standard deviations of the narrow and the wide Gaussian, in pixels.
    """
    values = _double(image)
    narrow, wide = (ndimage.gaussian_filter(values, width) for width in band)
    return narrow - wide


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    one, two = first - first.mean(), second - second.mean()
    scale = math.sqrt(float((one**2).sum()) * float((two**2).sum()))
    return float((one * two).sum()) / scale if scale > 0 else math.nan


def band_correlation(image: Array, reference: Array, band: Band = MIDDLE_BAND) -> float:
    r"""Return the detail retention against a reference: correlation within one band.

    .. math:: DR_B = \mathrm{corr}(B * x, B * r)

    Parameters
    ----------
    image, reference : ndarray, (Y, X)
    band : (float, float)
        See `band_pass`.

    Returns
    -------
    float
        -1 .. 1, blind to scale and offset; NaN if an image has nothing in the band.
    """
    _same_shape(image, reference)
    return _correlation(band_pass(image, band), band_pass(reference, band))


class SplitHalfDetail(NamedTuple):
    """Detail of one band, measured without a reference."""

    reliability: float
    """Correlation of the two raw halves in the band: 0 is all noise, 1 no noise."""
    retention: float | None
    """Correlation with the noiseless raw image in the band; None where unmeasurable."""
    transfer: float | None
    """Amplitude against the raw image; below 1 detail was removed; None where unmeasurable."""


def split_half_detail(
    enhanced_first: Array, first: Array, second: Array, band: Band
) -> SplitHalfDetail:
    r"""Return the detail retention without a reference, from two halves y1 and y2.

    .. math::

        D_B = \frac{\mathrm{corr}(f(y_1)_B, y_{2,B})}{\sqrt{\mathrm{corr}(y_{1,B}, y_{2,B})}},
        \quad T_B = \frac{\langle f(y_1)_B\, y_{2,B} \rangle}{\langle y_{1,B}\, y_{2,B} \rangle}

    Noise of y1 that the enhancement copied is not in y2, so it earns nothing. Where the halves
    hardly agree the quotients are noise themselves, and None is returned for them.

    Parameters
    ----------
    enhanced_first : ndarray, (Y, X)
        The enhancement of the first half.
    first, second : ndarray, (Y, X)
        The halves.
    band : (float, float)
        See `band_pass`.
    """
    _same_shape(first, second)
    _same_shape(enhanced_first, first)
    one, two, after = (band_pass(image, band) for image in (first, second, enhanced_first))
    reliability = _correlation(one, two)
    if math.isnan(reliability) or reliability < RELIABLE:
        return SplitHalfDetail(0.0 if math.isnan(reliability) else reliability, None, None)
    agreement = _correlation(after, two)
    transfer = float((after * two).mean()) / float((one * two).mean())
    if math.isnan(agreement):
        return SplitHalfDetail(reliability, 0.0, transfer)
    return SplitHalfDetail(reliability, agreement / math.sqrt(reliability), transfer)


# -- agreement with the recording -----------------------------------------------------------


def split_half_consistency(
    first: Array,
    second: Array,
    predicted_first: Array,
    predicted_second: Array,
    variance: Array | float,
    left_out: float = 0.0,
    *,
    smoothing: float = 0.0,
    used: NDArray[np.bool_] | None = None,
) -> float:
    r"""Return how well an image, degraded again, explains the recording: 1.00 for the truth.

    .. math:: FC = 1 + \langle (y_1 - m_1) (y_2 - m_2) / \mathrm{var} \rangle

    The noise of the halves is independent, so what their residuals share is the systematic
    misfit alone, here in units of the noise variance of the whole recording. The truth scores
    1.00 as by the mean squared residual over the variance, and so does the untouched recording,
    which that would call too good. A wrong variance scales only the excess over 1.

    Parameters
    ----------
    first, second : ndarray, any one shape
        Halves of the recording.
    predicted_first, predicted_second : ndarray, same shape
        The enhancement of each half, degraded again.
    variance : ndarray or float
        Noise variance of the whole recording.
    left_out : float
        Share of the pixels with the largest products, of either sign, that are left out, before
        any smoothing: a hot pixel is in both halves.
    smoothing : float
        Standard deviation of a Gaussian, in pixels, by which the residuals are smoothed first:
        misfit of finer structure does not count then.
    used : ndarray of bool, same shape, optional
        Pixels that count; all of them if left out.
    """
    _same_shape(first, predicted_first)
    _same_shape(second, predicted_second)
    deviation = np.sqrt(_double(np.asarray(variance)))
    residuals = [
        (_double(half) - predicted) / deviation
        for half, predicted in ((first, predicted_first), (second, predicted_second))
    ]
    size = np.abs(residuals[0] * residuals[1])
    counted = np.ones(size.shape, bool) if used is None else used
    outliers = int(left_out * np.count_nonzero(counted))
    if outliers:
        kept = size <= np.partition(size[counted], -outliers - 1)[-outliers - 1]
        residuals = [np.where(kept, r, 0) for r in residuals]
        counted = counted if smoothing else counted & kept
    if smoothing:
        residuals = [np.asarray(ndimage.gaussian_filter(r, smoothing)) for r in residuals]
    return 1.0 + float((residuals[0] * residuals[1])[counted].mean())


def residual_z(
    recorded: Array, predicted: Array, variance: Array | float, smoothing: float = 2.0
) -> NDArray[np.float64]:
    """Return the smoothed residual in units of its own standard deviation.

    Beyond about 4 in absolute value the image shows, or misses, something that the recording
    does not support. Near the border, within the smoothing, the unit is slightly too small.

    Parameters
    ----------
    recorded, predicted : ndarray, (Y, X)
        The raw image, and the enhanced one seen through the tissue it is said to have lost.
    variance : ndarray or float
        Noise variance at the predicted level.
    smoothing : float
        Width of the Gaussian, in pixels.

    Returns
    -------
    ndarray, (Y, X)
        About standard normal where the recording is explained; positive where light is missing.
    """
    _same_shape(recorded, predicted)
    spread = np.sqrt(_double(np.asarray(variance)))
    whitened = (_double(recorded) - _double(predicted)) / spread
    reach = math.ceil(4 * smoothing)
    impulse = np.zeros(2 * reach + 1)
    impulse[reach] = 1.0
    kernel = ndimage.gaussian_filter1d(impulse, smoothing, mode="constant")
    # Each of the two axes keeps the sum of squares of its kernel of the variance of white noise.
    return ndimage.gaussian_filter(whitened, smoothing) / float((kernel**2).sum())


def flagged_share(z: Array, limit: float = 4.0) -> float:
    """Return the share of the pixels whose `residual_z` exceeds the limit in absolute value."""
    return float((np.abs(z) > limit).mean())


# -- against a reference --------------------------------------------------------------------


def best_scale_and_offset(image: Array, reference: Array) -> NDArray[np.float64]:
    """Return a * image + b that is nearest to the reference, by least squares.

    A negative scale is not allowed: an inverted image becomes the reference's mean.
    """
    _same_shape(image, reference)
    x, r = _double(image), _double(reference)
    centred = x - x.mean()
    power = float((centred**2).sum())
    scale = float((centred * r).sum()) / power if power > 0 else 0.0
    return max(scale, 0.0) * centred + r.mean()


def psnr(image: Array, reference: Array, data_range: float | None = None) -> float:
    r"""Return the peak signal-to-noise ratio in dB, nothing fitted.

    .. math:: 10 \log_{10} (R^2 / \langle (x - r)^2 \rangle)

    Parameters
    ----------
    image, reference : ndarray, any one shape
        In the same unit.
    data_range : float or None
        R; None: largest less smallest value of the reference.

    Returns
    -------
    float
        Infinite for equal images; NaN for a constant reference without `data_range`.
    """
    _same_shape(image, reference)
    r = _double(reference)
    span = float(r.max() - r.min()) if data_range is None else data_range
    if span <= 0:
        return math.nan
    error = float(((_double(image) - r) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(span**2 / error)


def psnr_after_fit(image: Array, reference: Array) -> float:
    """Return the PSNR in dB after `best_scale_and_offset`: blind to unit, gain and offset.

    Also blind to too much contrast, hence to be read beside `contrast_recovery`.
    """
    return psnr(best_scale_and_offset(image, reference), reference)


def ssim(image: Array, reference: Array, data_range: float | None = None) -> float:
    """Return the structural similarity with the Gaussian window of its authors (sd 1.5 px).

    Parameters
    ----------
    image, reference : ndarray, (Y, X)
        In the same unit, at least 11 pixels on each side.
    data_range : float or None
        None: largest less smallest value of the reference.

    References
    ----------
    Wang et al., IEEE Trans. Image Process. 13, 600 (2004), doi 10.1109/TIP.2003.819861.
    """
    _same_shape(image, reference)
    r = _double(reference)
    span = float(r.max() - r.min()) if data_range is None else data_range
    if span <= 0:
        return math.nan
    score: Any = structural_similarity(
        r,
        _double(image),
        data_range=span,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(score)


def average_precision(image: Array, truth: Mask) -> float:
    r"""Return how well brightness tells the true pixels from the others, at no threshold.

    .. math:: AP = \sum_n (R_n - R_{n-1}) P_n

    over falling thresholds, with precision P and recall R; pixels of equal brightness enter
    together.

    Parameters
    ----------
    image : ndarray, any shape
    truth : ndarray of bool, same shape

    Returns
    -------
    float
        1 if all true pixels are brighter than all others; the true share for a constant image;
        NaN if there is no true pixel.
    """
    _same_shape(image, truth)
    total = int(truth.sum())
    if total == 0:
        return math.nan
    order = np.argsort(-_double(image), axis=None, kind="stable")
    values = _double(image).ravel()[order]
    hits = np.cumsum(truth.ravel()[order])
    last_of_level = np.append(np.flatnonzero(np.diff(values)), values.size - 1)
    hits_there = hits[last_of_level]
    precision = hits_there / (last_of_level + 1)
    recalled = np.diff(np.concatenate(([0], hits_there))) / total
    return float((recalled * precision).sum())
