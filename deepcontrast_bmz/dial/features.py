"""What an image and its iterations look like, in a few dozen numbers with names.

All are dimensionless and blind to gain, offset and size of the image: spectra in octaves, what
the model changes and what the tissue model makes of that, the tails of the grey values, and the
dials at which the two stop rules are broken. The optical depth (`depth`) and how unusual an image
is (`ood`) are both read off them.
"""

from __future__ import annotations

__all__ = ["BANDS", "FLAT", "FeatureVector", "image_features"]

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy  # its rooms load when they are used: reading this module must stay quick
import torch
from numpy.typing import NDArray

from deepcontrast_bmz.physics.camera import estimate_camera
from deepcontrast_bmz.physics.noise import NoiseModel, estimate_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Double = NDArray[np.float64]

BANDS = (0.004, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.35, 0.75)
"""Edges of the spectral bands, in cycles per pixel; the last reaches into the corners."""

FLAT = 1e-6
"""Share of the image's power below which a band counts as empty."""

_LEVELS = (0.5, 1.5, 4.0)
"""How many noise deviations the background may sink below the offset."""
_DEPTHS = (-0.02, 0.02, 0.06, 0.12)
"""The same, in shares of the brightness."""
_RESIDUALS = (0.7, 0.9, 1.1, 1.5, 3.0)
"""How many noise variances the forward residual may reach."""
_DIALS_PER_STEP = 4


class FeatureVector(NamedTuple):
    """Named numbers."""

    names: tuple[str, ...]
    values: Double

    def select(self, names: Sequence[str]) -> Double:
        """Return the values of some of the names, in their order."""
        place = {name: i for i, name in enumerate(self.names)}
        return self.values[[place[name] for name in names]]


def image_features(
    raw: Tensor,
    iterations: Tensor,
    *,
    widths_px: Sequence[float],
    weights: Sequence[float],
    step: float,
    noise: NoiseModel | None = None,
    offset: float | None = None,
) -> FeatureVector:
    """Describe a plane and what the loop makes of it.

    Parameters
    ----------
    raw : Tensor, (Y, X)
        Counts; not constant.
    iterations : Tensor, (K, Y, X)
        Iterations 1 to K.
    widths_px, weights : sequence of float
        The scattering kernel that one step undoes, in pixels.
    step : float
        Optical depth of one step.
    noise : NoiseModel, optional
        Noise of the raw image; estimated from it if left out.
    offset : float, optional
        Counts in the dark; estimated from the raw image if left out.

    Returns
    -------
    FeatureVector
        Finite numbers; the names depend on K alone.
    """
    # By a power of two, which rounds nothing: the unit of the image does not matter, however small.
    factor = 2.0 ** -math.frexp(float(raw.max() - raw.min()))[1]
    raw, iterations = raw * factor, iterations * factor
    noise = estimate_noise(raw.float()) if noise is None else noise.in_unit(factor)
    offset = estimate_camera(raw.float()).offset if offset is None else offset * factor
    images = [raw.double().numpy(), *(image.double().numpy() for image in iterations)]
    found = {
        **_Spectra(images, noise, widths_px, weights, step).features(),
        **_tails(images),
        **_rules(images, offset, noise, step),
    }
    values = np.nan_to_num(
        np.array(list(found.values()), dtype=np.float64), posinf=1e3, neginf=-1e3
    )
    return FeatureVector(tuple(found), values)


class _Spectra:
    """Power in bands of the raw image, the iterations, and what the tissue makes of them.

    In the cosine basis, whose mirrored borders are those of the loop, the tissue is a factor.
    """

    def __init__(
        self,
        images: Sequence[Double],
        noise: NoiseModel,
        widths_px: Sequence[float],
        weights: Sequence[float],
        step: float,
    ) -> None:
        height, width = images[0].shape
        self.size = height * width
        self.fy = (np.arange(height) / (2 * height))[:, None]
        self.fx = (np.arange(width) / (2 * width))[None, :]
        squared = self.fy**2 + self.fx**2
        self.band = np.digitize(np.sqrt(squared), BANDS)
        kernel = sum(
            weight * np.exp(-2 * math.pi**2 * sigma**2 * squared)
            for sigma, weight in zip(widths_px, weights, strict=True)
        )
        self.loss = 1 - np.asarray(kernel)
        self.step = step
        self.spectra = [np.asarray(scipy.fft.dctn(image, norm="ortho")) for image in images]
        self.raw = images[0]
        mean = torch.tensor(float(images[0].mean()))
        self.variance = float(noise.variance(mean))
        low, high = (float(v) for v in np.quantile(images[0], (0.01, 0.995)))
        ends = noise.variance(torch.tensor([low, high])).double().numpy()
        self.shot = math.log10(float(ends[1] / ends[0]))

    def power(self, spectrum: Double, weight: NDArray[np.bool_] | None = None) -> Double:
        """Return the power in each band, counts squared per pixel."""
        values = spectrum**2 if weight is None else spectrum**2 * weight
        counted = np.bincount(self.band.ravel(), values.ravel(), len(BANDS) + 1)
        return counted[1:-1] / self.size

    def features(self) -> dict[str, float]:
        """Return all that is read off the spectra."""
        powers = [self.power(spectrum) for spectrum in self.spectra]
        empty = FLAT * float(powers[0].sum()) / len(BANDS) + 1e-30
        white = np.bincount(self.band.ravel(), minlength=len(BANDS) + 1)[1:-1] / self.size
        noise = self.variance * white
        found: dict[str, float] = {"shot": self.shot}
        spread = float(np.subtract(*np.quantile(self.raw, (0.995, 0.01))))
        quotient = spread / math.sqrt(self.variance)
        found["snr"] = min(max(math.log10(max(quotient, 1e-9)), -1.0), 3.0)
        for i in (4, 5, 6):
            found[f"snr_band{i}"] = math.log10((powers[0][i] + empty) / (noise[i] + empty))
        signal = np.maximum(powers[0] - noise, 0.02 * powers[0])
        for i in range(len(BANDS) - 1):
            found[f"slope_band{i}"] = _log_ratio(signal[i], signal[2], empty)
        back = np.exp(-self.step * self.loss)
        for k in range(1, len(powers)):
            before, after = self.spectra[k - 1], self.spectra[k]
            residual = self.power(before - back * after)
            for i in range(1, 6):
                found[f"residual{k}_band{i}"] = _log_ratio(residual[i], powers[k - 1][i], empty)
        for i in range(1, 7):
            found[f"gain1_band{i}"] = _log_ratio(powers[1][i], powers[0][i], empty)
        return found | self._stripes(powers[0], empty) | self._residual_dials(white)

    def _stripes(self, powers: Double, empty: float) -> dict[str, float]:
        """Return how much of each band lies along one axis, beyond an even share."""
        found: dict[str, float] = {}
        raw = self.spectra[0]
        near = 0.1
        across = self.power(raw, self.fy < near * self.fx)
        along = self.power(raw, self.fx < near * self.fy)
        total = powers + empty
        for name, bands in (("coarse", slice(2, 4)), ("fine", slice(4, 7))):
            shares = [
                float((part[bands].sum() + empty) / total[bands].sum()) for part in (across, along)
            ]
            found[f"stripes_{name}"] = math.log(max(shares) + 0.02)
        return found

    def _residual_dials(self, white: Double) -> dict[str, float]:
        """Return the dials at which the forward residual exceeds multiples of the noise."""
        unit = self.variance * float(white.sum()) + 1e-30
        dials = _dials(len(self.spectra) - 1, self.step)
        residuals = [
            float(
                self.power(
                    self.spectra[0] - np.exp(-dial * self.loss) * _at(self.spectra, dial, self.step)
                ).sum()
            )
            / unit
            for dial in dials
        ]
        return {
            f"residual_dial_{limit:g}": _crossing(dials, residuals, limit) / self.step
            for limit in _RESIDUALS
        }


def _tails(images: Sequence[Double]) -> dict[str, float]:
    """Return how the grey values are spread, lightly smoothed so that noise counts less."""
    found: dict[str, float] = {}
    raw = images[0]
    found["black"] = math.log10(float((raw <= raw.min()).mean()) + 1e-3)
    found["white"] = math.log10(float((raw >= raw.max()).mean()) + 1e-3)
    smooth = [_smooth(image) for image in images]
    low, high = (float(v) for v in np.quantile(smooth[0], (0.01, 0.995)))
    spread = max(high - low, 1e-30)
    for k, image in enumerate(smooth):
        deviation = max(float(image.std()), 1e-30)
        z = (image - image.mean()) / deviation
        darkest, middle = (float(v) for v in np.quantile(image, (0.01, 0.5)))
        found[f"kurtosis{k}"] = math.log(max(float((z**4).mean()), 1.0))
        if k in (0, 1):
            found[f"skewness{k}"] = float(np.clip((z**3).mean(), -5, 10))
        if k:
            found[f"floor{k}"] = (low - darkest) / spread
            found[f"depth_of_dark{k}"] = (middle - darkest) / deviation
    return found


def _rules(
    images: Sequence[Double], offset: float, noise: NoiseModel, step: float
) -> dict[str, float]:
    """Return the dials at which the darkest pixels sink below the camera offset."""
    dark = math.sqrt(float(noise.variance(torch.tensor(offset))))
    dials = _dials(len(images) - 1, step)
    by_noise: list[float] = []
    by_range: list[float] = []
    for dial in dials:
        low, high = (float(v) for v in np.quantile(_at(images, dial, step), (0.01, 0.99)))
        by_noise.append((offset - low) / dark)
        by_range.append((offset - low) / max(high - offset, 1e-30))
    return {
        **{f"level_dial_{c:g}": _crossing(dials, by_noise, c) / step for c in _LEVELS},
        **{f"range_dial_{c:g}": _crossing(dials, by_range, c) / step for c in _DEPTHS},
    }


def _dials(count: int, step: float) -> list[float]:
    return [step * i / _DIALS_PER_STEP for i in range(_DIALS_PER_STEP * count + 1)]


def _at(images: Sequence[Double], dial: float, step: float) -> Double:
    """Return the image, or its spectrum, at a dial: `loop.blend` on arrays."""
    k = min(int(dial / step + 1e-9), len(images) - 2)
    alpha = math.expm1(dial - k * step) / math.expm1(step)
    return images[k] + alpha * (images[k + 1] - images[k])


def _crossing(dials: Sequence[float], values: Sequence[float], limit: float) -> float:
    """Return the dial at which a curve first exceeds a limit, between the dials by a line."""
    for i in range(1, len(dials)):
        if values[i] > limit:
            if values[i - 1] >= limit:
                return dials[i - 1]
            share = (limit - values[i - 1]) / (values[i] - values[i - 1])
            return dials[i - 1] + share * (dials[i] - dials[i - 1])
    return dials[-1]


def _log_ratio(power: float, unit: float, empty: float) -> float:
    """Return the logarithm of a quotient of amplitudes."""
    return 0.5 * math.log((power + empty) / (unit + empty))


def _smooth(image: Double) -> Double:
    """Return the image after a Gaussian of one pixel, borders mirrored."""
    return np.asarray(scipy.ndimage.gaussian_filter(image, 1.0))
