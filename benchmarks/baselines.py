"""Classical rivals: what a biologist would try first, each one small function on an image.

Deconvolution is given what no user has, the true kernel, the true depth and, by the `best_*`
helpers, its best setting by the truth: a rival is to be beaten at its best.
"""

from __future__ import annotations

__all__ = [
    "Best",
    "Tissue",
    "best_by_truth",
    "clahe",
    "estimate_tissue",
    "gradient_consensus_iterates",
    "richardson_lucy",
    "richardson_lucy_iterates",
    "subtract_background_ball",
    "subtract_background_gaussian",
    "unsharp_mask",
    "wavelet_enhance",
    "wiener",
]

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage
from skimage.exposure import equalize_adapthist
from skimage.restoration import rolling_ball

from deepcontrast_bmz.evaluate.metrics import psnr_after_fit
from deepcontrast_bmz.physics.noise import split_gaussian
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from deepcontrast_bmz.evaluate.metrics import Array

Double = NDArray[np.float64]

_PATIENCE = 5
"""Iterations in a row that explain unseen noise worse, after which no better one is expected."""


class Best(NamedTuple):
    """The best of several settings, by the truth."""

    setting: float
    """The setting."""
    image: Double
    """What it gave."""
    psnr_after_fit: float
    """Its PSNR after the best scale and offset, in dB."""


def best_by_truth(candidates: Iterable[tuple[float, Array]], truth: Array) -> Best:
    """Return the candidate nearest to the truth after the best scale and offset.

    Parameters
    ----------
    candidates : iterable of (setting, image)
    truth : ndarray, (Y, X)

    Raises
    ------
    ValueError
        If there is no candidate.
    """
    best: Best | None = None
    for setting, image in candidates:
        score = psnr_after_fit(image, truth)
        if best is None or score > best.psnr_after_fit:
            best = Best(float(setting), np.array(image, dtype=np.float64), score)
    if best is None:
        raise ValueError("there is no candidate to choose from")
    return best


class Tissue(NamedTuple):
    """What deconvolution has to know."""

    optical_depth: float
    widths_px: tuple[float, ...]
    """Standard deviation of each Gaussian of the scattering kernel, in pixels."""
    weights: tuple[float, ...]
    """Share of each; they sum to one."""


class _Transfer:
    """H_tau as a diagonal in the cosine basis, where mirrored borders make it one."""

    def __init__(
        self,
        shape: tuple[int, ...],
        optical_depth: float,
        widths_px: Sequence[float],
        weights: Sequence[float],
    ) -> None:
        # The response to one corner pixel, none of whose cosine coefficients is zero, tells all.
        corner = np.zeros(shape)
        corner[0, 0] = 1.0
        seen = scatter(torch.from_numpy(corner), optical_depth, widths_px, weights).numpy()
        self.transfer: Double = self.analyse(seen) / self.analyse(corner)

    @staticmethod
    def analyse(image: Array) -> Double:
        return np.asarray(fft.dctn(image, type=2, norm="ortho"), dtype=np.float64)

    @staticmethod
    def filter(image: Array, transfer: Double) -> Double:
        spectrum = _Transfer.analyse(image) * transfer
        return np.asarray(fft.idctn(spectrum, type=2, norm="ortho"), dtype=np.float64)

    def __call__(self, image: Array) -> Double:
        return self.filter(image, self.transfer)


def richardson_lucy_iterates(
    photons: Array,
    optical_depth: float,
    widths_px: Sequence[float],
    weights: Sequence[float],
    iterations: int,
) -> Iterator[tuple[int, Double]]:
    r"""Yield Richardson-Lucy estimates 1 to `iterations`, each with its number.

    .. math:: x_{n+1} = x_n \cdot H_\tau (y / (H_\tau x_n))

    H_tau is its own adjoint and keeps sums. The start is an even image.

    Parameters
    ----------
    photons : ndarray, (Y, X)
        Recorded photons, offset removed; values below a tiny positive one count as it.
    optical_depth : float
        True optical depth.
    widths_px, weights : sequence of float
        True scattering kernel, in pixels.
    iterations : int

    References
    ----------
    Richardson, J. Opt. Soc. Am. 62, 55 (1972); Lucy, Astron. J. 79, 745 (1974).
    """
    tissue = _Transfer(photons.shape, optical_depth, widths_px, weights)
    for n, estimate, _ in _estimates(photons, tissue, iterations):
        yield n, estimate


def _estimates(
    photons: Array, tissue: _Transfer, iterations: int
) -> Iterator[tuple[int, Double, Double]]:
    """Yield the number, the estimate, and the estimate seen through the tissue."""
    floor = 1e-6 * max(float(np.abs(photons).max()), 1e-30)
    recorded = np.maximum(np.asarray(photons, dtype=np.float64), floor)
    estimate = np.full_like(recorded, recorded.mean())
    seen = estimate
    for n in range(1, iterations + 1):
        estimate = np.maximum(estimate * tissue(recorded / np.maximum(seen, floor)), 0.0)
        seen = tissue(estimate)
        yield n, estimate, seen


def gradient_consensus_iterates(
    photons: Array, tissue: Tissue, iterations: int, rng: np.random.Generator
) -> Iterator[tuple[int, Double]]:
    r"""Yield Richardson-Lucy estimates that change only where two halves of the light agree.

    In every iteration the photons are split anew, each to one side or the other by chance. Both
    halves propose a factor, u1 and u2; where :math:`H^T H ((u_1 - 1)(u_2 - 1))` is negative, the
    estimate stays as it is, for there the proposals follow noise.

    Parameters
    ----------
    photons : ndarray, (Y, X)
        Recorded photons, offset removed; rounded, and not below zero.
    tissue : Tissue
        What the light went through.
    iterations : int
    rng : numpy.random.Generator
        Of the splits.

    References
    ----------
    Manton and York, doi 10.5281/zenodo.10278919. Read from ``rlgc.py``, jdmanton/rlgc at 9ab9c2a of
    2024-08-31; its rules to stop are left out, since the best number of iterations is given.
    """
    through = _Transfer(photons.shape, *tissue)
    recorded = np.maximum(np.rint(np.asarray(photons, dtype=np.float64)), 0.0)
    estimate = np.full_like(recorded, recorded.mean())
    for n in range(1, iterations + 1):
        seen = np.maximum(through(estimate), 1e-12)
        first = rng.binomial(recorded.astype(np.int64), 0.5).astype(np.float64)
        one, two = (through(2 * half / seen) - 1 for half in (first, recorded - first))
        agreed = through(through(one * two)) >= 0
        factor = np.where(agreed, through(recorded / seen), 1.0)
        estimate = np.maximum(estimate * factor, 0.0)
        yield n, estimate


def richardson_lucy(
    photons: Array,
    optical_depth: float,
    widths_px: Sequence[float],
    weights: Sequence[float],
    iterations: int = 20,
) -> Double:
    """Return the Richardson-Lucy estimate; see `richardson_lucy_iterates`.

    Parameters
    ----------
    photons : ndarray, (Y, X)
    optical_depth : float
    widths_px, weights : sequence of float
    iterations : int
        At least 1.

    Raises
    ------
    ValueError
        If there is no iteration.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, not {iterations}")
    estimates = richardson_lucy_iterates(photons, optical_depth, widths_px, weights, iterations)
    return deque(estimates, maxlen=1).pop()[1]


def estimate_tissue(
    photons: Array,
    candidates: Iterable[Tissue],
    rng: np.random.Generator,
    *,
    read_noise: float = 0.0,
    iterations: int = 40,
) -> Tissue:
    r"""Return the tissue whose Richardson-Lucy estimate predicts noise it has not seen best.

    The recording is split into two halves of independent noise. Each candidate deconvolves one
    half; seen through it again, the estimate is compared with the other half, at the best number
    of iterations for it (after five in a row that were worse, no more are tried):

    .. math:: \min_n \langle (y_2 - H x_n(y_1))^2 / \mathrm{var} \rangle

    On the recording itself every candidate could be driven to fit the noise.

    Parameters
    ----------
    photons : ndarray, (Y, X)
        Recorded photons, offset removed.
    candidates : iterable of Tissue
    rng : numpy.random.Generator
        Of the noise that splits.
    read_noise : float
        Standard deviation of the read noise, in photons.
    iterations : int
        The largest number that is tried.

    Raises
    ------
    ValueError
        If there is no candidate.
    """
    values = np.asarray(photons, dtype=np.float64)
    variance = np.maximum(ndimage.gaussian_filter(values, 1.0), 0.0) + read_noise**2 + 1e-9
    first, second = split_gaussian(values, variance, rng)
    found: tuple[float, Tissue] | None = None
    for candidate in candidates:
        tissue = _Transfer(values.shape, *candidate)
        best, worse = np.inf, 0
        for _, _, seen in _estimates(first, tissue, iterations):
            misfit = float(((second - seen) ** 2 / variance).mean())
            worse = 0 if misfit < best else worse + 1
            best = min(best, misfit)
            if worse == _PATIENCE:
                break
        if found is None or best < found[0]:
            found = best, candidate
    if found is None:
        raise ValueError("there is no candidate to choose from")
    return found[1]


def wiener(
    image: Array,
    optical_depth: float,
    widths_px: Sequence[float],
    weights: Sequence[float],
    noise_to_signal: float = 0.01,
) -> Double:
    r"""Return the Wiener estimate with a constant noise-to-signal ratio.

    .. math:: X(f) = \frac{H_\tau(f)}{H_\tau(f)^2 + K} (1 + K)\, Y(f)

    The factor 1 + K keeps the mean.

    Parameters
    ----------
    image : ndarray, (Y, X)
    optical_depth : float
    widths_px, weights : sequence of float
    noise_to_signal : float
        K, power of the noise over that of the signal.
    """
    transfer = _Transfer(image.shape, optical_depth, widths_px, weights).transfer
    inverse = transfer / (transfer**2 + noise_to_signal) * (1 + noise_to_signal)
    return _Transfer.filter(image, inverse)


def unsharp_mask(image: Array, sigma: float = 5.0, amount: float = 1.0) -> Double:
    """Return the image plus `amount` times what a Gaussian of width `sigma` (px) removes."""
    values = np.asarray(image, dtype=np.float64)
    return values + amount * (values - ndimage.gaussian_filter(values, sigma))


def wavelet_enhance(image: Array, gains: Sequence[float] = (0.5, 1.5, 2.0, 2.0, 1.5)) -> Double:
    """Return the image with every scale of its a-trous wavelet transform multiplied by a gain.

    The transform is undecimated, with the cubic B-spline; what remains after the last scale is
    kept as it is, so gains of 1 return the image.

    Parameters
    ----------
    image : ndarray, (Y, X)
    gains : sequence of float
        Gain of each scale, finest first; scale j has a width of about 2**j pixels.

    References
    ----------
    Starck, Fadili, Murtagh, IEEE Trans. Image Process. 16, 297 (2007),
    doi 10.1109/TIP.2006.887733.
    """
    smooth = np.asarray(image, dtype=np.float64)
    result = np.zeros_like(smooth)
    for scale, gain in enumerate(gains):
        kernel = np.zeros(4 * 2**scale + 1)
        kernel[:: 2**scale] = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        smoother = smooth
        for axis in (0, 1):
            smoother = ndimage.convolve1d(smoother, kernel, axis=axis, mode="reflect")
        result += gain * (smooth - smoother)
        smooth = smoother
    return result + smooth


def clahe(image: Array, clip_limit: float = 0.01, tiles: int = 8) -> Double:
    """Return the contrast-limited adaptive histogram equalisation, on the range of the input.

    Parameters
    ----------
    image : ndarray, (Y, X)
    clip_limit : float
        0 .. 1, higher is more contrast.
    tiles : int
        Tiles along each side.
    """
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return values.copy()
    tile = [max(1, side // tiles) for side in values.shape]
    equalised = equalize_adapthist(
        (values - low) / (high - low), kernel_size=tile, clip_limit=clip_limit
    )
    return np.asarray(equalised, dtype=np.float64) * (high - low) + low


def subtract_background_gaussian(image: Array, sigma: float = 25.0, share: float = 0.9) -> Double:
    """Return the image less `share` of itself smoothed by a Gaussian of width `sigma` (px)."""
    values = np.asarray(image, dtype=np.float64)
    return values - share * ndimage.gaussian_filter(values, sigma)


def subtract_background_ball(image: Array, radius: float = 25.0) -> Double:
    """Return the image less the surface on which a ball rolls from below.

    Parameters
    ----------
    image : ndarray, (Y, X)
    radius : float
        Radius of the ball, in pixels and in grey values alike.

    References
    ----------
    Sternberg, Computer 16 (1), 22 (1983), doi 10.1109/MC.1983.1654163.
    """
    values = np.asarray(image, dtype=np.float64)
    background: Double = rolling_ball(values, radius=radius)
    return values - background
