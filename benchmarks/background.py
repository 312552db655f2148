"""Rivals that remove haze as a background, without training and without a kernel.

Written anew from what the programs of their authors do; each names the file and version it was
read from. Both are swept over their settings by whoever compares them.
"""

from __future__ import annotations

__all__ = ["SEVERE", "SLIGHT", "dark_sectioning", "subtract_background_and_noise"]

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

Double = NDArray[np.float64]

SLIGHT = ((6.0, 3.0),)
"""Rounds of `dark_sectioning` against a moderate background: (smoothness, strength) of each."""
SEVERE = ((6.0, 3.0), (3.0, 2.0))
"""Against a severe one."""

_KEPT = 0.95
"""Share of the haze that is taken off."""
_BRIGHTEST = 0.01
"""Share of the pixels, brightest in the dark channel, that the haze is read from."""
_GUIDE_RADIUS, _GUIDE_FLOOR = 15, 1e-3
"""Of the guided filter that follows the edges: pixels, and grey values squared."""
_LEAST_TRANSMISSION = 0.1
_PADDING = 40
"""The image is mirrored by this part of its sides."""


def dark_sectioning(
    image: Double,
    resolution_px: float,
    *,
    rounds: tuple[tuple[float, float], ...] = SLIGHT,
    threshold: float = 50.0,
) -> Double:
    r"""Return the image with haze removed from its coarse half by the dark channel.

    The image is split at a fifth of the cut-off frequency. In the coarse half L the haze A is the
    coarsest part of the image, scaled between what the dark channel (a moving minimum) finds in the
    background and in all; with the transmission :math:`t = 1 - .95\,\mathrm{dark}(L / A)`, smoothed
    along the edges of L, it becomes :math:`(L - A) / \max(t, .1) + A`. The fine half is added
    again.

    Parameters
    ----------
    image : ndarray, (Y, X)
        Grey values; the scale does not matter.
    resolution_px : float
        Resolution, half the wavelength over the aperture and its extra factor, in pixels.
    rounds : sequence of (float, float)
        For every round how much coarser than L the haze is, and the factor on it.
    threshold : float
        Grey value, of 255, below which pixels are background.

    Returns
    -------
    ndarray, (Y, X)
        Not below zero; 255 is the brightest pixel of the input.

    References
    ----------
    Cao et al., Nature Methods (2025), doi 10.1038/s41592-025-02667-6. Read from
    ``MATLAB_Simplified_Fun/dark_sectioning.m`` and what it calls, Cao-ruijie/Dark-sectioning at
    3ca8def of 2025-06-12. That fills an oblong image up to a square with zeros; here it stays as
    it is, which its filters allow.
    """
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros_like(values)
    values = 255 * (values - low) / (high - low)
    pads = [(side // _PADDING + 1,) * 2 for side in values.shape]
    for smoothness, strength in rounds:
        padded = np.pad(values, pads, mode="symmetric")
        coarse, coarsest = _split(padded, resolution_px, smoothness)
        block = _choose_block(resolution_px)
        clear = _remove_haze(coarse, coarsest, block, strength, threshold)
        result = clear + padded - coarse
        values = result[tuple(slice(pad[0], -pad[1]) for pad in pads)]
    return np.maximum(values, 0.0)


def _cut_off(resolution_px: float, side: int) -> float:
    """Return the width of the low pass, in waves over a side of so many pixels."""
    return math.floor(0.2 * side / resolution_px) * 2 / 2.355


def _low_pass(shape: tuple[int, ...], width: float) -> Double:
    """Return a Gaussian of the frequency; its width is in waves over the second side."""
    fy, fx = (np.fft.fftfreq(side) * shape[1] for side in shape)
    return np.exp(-(fy[:, None] ** 2 + fx[None, :] ** 2) / max(width, 1e-9) ** 2)


def _split(image: Double, resolution_px: float, smoothness: float) -> tuple[Double, Double]:
    """Return the coarse half and the coarsest part of an image."""
    spectrum = np.fft.fft2(image)
    width = _cut_off(resolution_px, image.shape[1])
    parts = (
        np.real(np.asarray(np.fft.ifft2(spectrum * _low_pass(image.shape, each))))
        for each in (width, width / smoothness)
    )
    coarse, coarsest = parts
    return coarse, coarsest


def _choose_block(resolution_px: float) -> int:
    """Return the side of the dark channel's window: how far the coarse point spread reaches."""
    side = 256
    x = np.minimum(np.arange(side), side - np.arange(side))
    radius = np.pi / resolution_px * np.hypot(x[:, None], x[None, :])
    radius[0, 0] = 1.0
    airy = (2 * special.j1(radius) / radius) ** 2
    airy[0, 0] = 1.0
    low = _low_pass((side, side), _cut_off(resolution_px, side))
    reach = np.abs(np.asarray(np.fft.ifft2(np.fft.fft2(airy) * low)))[0, : side // 2]
    beyond = np.flatnonzero(reach < 0.01 * reach[0])
    return int(beyond[0]) + 1 if beyond.size else side // 2


def _find_darkest(image: Double, block: int) -> Double:
    """Return the dark channel: the least value in a window."""
    return np.asarray(ndimage.minimum_filter(image, block, mode="constant", cval=np.inf))


def _read_haze(image: Double, block: int) -> float:
    """Return the mean where the dark channel is brightest."""
    dark = _find_darkest(image, block).ravel()
    count = max(int(_BRIGHTEST * dark.size), 1)
    return float(image.ravel()[np.argsort(-dark, kind="stable")[:count]].mean())


def _remove_haze(
    coarse: Double, coarsest: Double, block: int, strength: float, threshold: float
) -> Double:
    least = _read_haze(np.where(coarse < threshold, coarse, 0.0), block)
    most = _read_haze(coarse, block)
    shape = coarsest - coarsest.min()
    shape = shape / max(float(shape.max()), 1e-12)
    # The program divides by it, and has nothing against the zero of a black background.
    haze = np.maximum(strength * (shape * (most - least) + least), 1e-6)
    through = 1 - _KEPT * _find_darkest(coarse / haze, block)
    through = _follow_edges(coarse, through)
    return (coarse - haze) / np.maximum(through, _LEAST_TRANSMISSION) + haze


def _follow_edges(guide: Double, target: Double) -> Double:
    """Return the target smoothed along the edges of the guide (guided filter)."""
    ones = ndimage.uniform_filter(np.ones_like(guide), 2 * _GUIDE_RADIUS + 1, mode="constant")

    def mean(values: Double) -> Double:
        summed = ndimage.uniform_filter(values, 2 * _GUIDE_RADIUS + 1, mode="constant")
        return np.asarray(summed) / ones

    by_guide, by_target = mean(guide), mean(target)
    slope = (mean(guide * target) - by_guide * by_target) / (
        mean(guide * guide) - by_guide**2 + _GUIDE_FLOOR
    )
    return mean(slope) * guide + mean(by_target - slope * by_guide)


def subtract_background_and_noise(
    image: Double, resolution_px: float, *, noise_levels: int = 1
) -> Double:
    """Return the image less a wavelet estimate of its background and of its noise (WBNS).

    Background are the means of blocks of just less than the resolution, smoothed; noise is what the
    means of blocks of 2 pixels (4, ...) leave, of which only the positive part up to two deviations
    is subtracted.

    Parameters
    ----------
    image : ndarray, (Y, X)
    resolution_px : float
        Full width at half maximum of the point spread function, above 1 pixel.
    noise_levels : int
        Scales that are noise, from the finest; 0 keeps it.

    Returns
    -------
    ndarray, (Y, X)
        Not below zero, in the unit of the image.

    References
    ----------
    Huepfel, Fernandez Merino, Bewersdorf, Kobitski, Nienhaus, Biomed. Opt. Express 12, 969 (2021),
    doi 10.1364/BOE.413181. Read from ``WBNS/python_script/WBNS.py``, NienhausLabKIT/HuepfelM at
    946c51f. Its wavelet is Haar's, whose approximations are means of blocks.
    """
    values = np.asarray(image, dtype=np.float64)
    levels = math.ceil(math.log2(resolution_px))
    background = ndimage.gaussian_filter(_average_blocks(values, levels - 1), 2.0**levels)
    noise = np.zeros_like(values)
    if noise_levels:
        noise = np.maximum(values - _average_blocks(values, noise_levels), 0.0)
        noise = np.minimum(noise, noise.mean() + 2 * noise.std())
    return np.maximum(values - background - noise, 0.0)


def _average_blocks(image: Double, levels: int) -> Double:
    """Return the image with every block of 2**levels pixels replaced by its mean.

    Where a side is odd, its last line counts twice, at every level.
    """
    if levels <= 0:
        return image
    height, width = image.shape
    even = np.pad(image, ((0, height % 2), (0, width % 2)), mode="edge")
    pairs = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean(axis=(1, 3))
    smooth = _average_blocks(pairs, levels - 1)
    return smooth.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
