"""Scores one plane at any dial, keeping everything that does not depend on the dial."""

from __future__ import annotations

__all__ = ["Candidate", "Scorer"]

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from deepcontrast_bmz.dial.consistency import (
    COARSE,
    CUT_OFF,
    find_comparable,
    forward_residual,
    kernel_border,
    measure_noise_and_black,
    model_error,
)
from deepcontrast_bmz.dial.darkness import measure_darkness
from deepcontrast_bmz.dial.verdict import LIMITS, judge
from deepcontrast_bmz.evaluate import metrics
from deepcontrast_bmz.evaluate.records import DialScores
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deepcontrast_bmz.physics.noise import NoiseModel

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

OUTLIERS = 0.001
"""Share of the pixels left out of a misfit: hot pixels are not structure."""


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _quotient(value: float, unit: float) -> float | None:
    return _finite(value / unit) if unit else None


class Candidate(NamedTuple):
    """The plane and its halves at one dial, in counts."""

    dial: float
    """Optical depth removed."""
    whole: Float32
    """(Y, X)."""
    one: Float32
    two: Float32


class _Agreement(NamedTuple):
    """An image degraded again, against the recording."""

    factor: float
    consistency: float
    misfit: float
    z: Float64
    """(Y, X), residual in deviations."""


class Scorer:
    """Everything about a plane that does not depend on the dial.

    Parameters
    ----------
    raw : ndarray, (Y, X)
        The plane as recorded, in counts.
    halves : pair of ndarray, (Y, X)
        The same with independent noise, from `physics.noise.split_gaussian`.
    noise : NoiseModel
        Of the plane.
    offset : float
        Counts in the dark.
    kernels : sequence of (float, widths)
        Factor and widths, in pixels, of the kernels that the tissue may have, the middle one first,
        from `dial.consistency.tissue_kernels`.
    weights : sequence of float
        Share of each Gaussian of a kernel.
    truth : ndarray, (Y, X), optional
        The reference, in any unit.
    truth_offset : float
        What its contrast is taken above.
    """

    def __init__(
        self,
        *,
        raw: Float32,
        halves: tuple[Float32, Float32],
        noise: NoiseModel,
        offset: float,
        kernels: Sequence[tuple[float, tuple[float, ...]]],
        weights: Sequence[float],
        truth: Float32 | None,
        truth_offset: float,
    ) -> None:
        self.raw, self.halves, self.noise, self.offset = raw, halves, noise, offset
        self.kernels, self.weights = kernels, weights
        # Nearer to the border than the kernel is wide, unknown surroundings shine in.
        self.border = kernel_border(torch.from_numpy(raw), kernels[0][1])
        self.inner = (slice(self.border, -self.border or None),) * 2
        self.noisy, black = measure_noise_and_black(torch.from_numpy(raw), noise)
        self.used = find_comparable(torch.from_numpy(raw), kernels[0][1]) if self.noisy else None
        self.model_error = 0.0
        if self.used is not None:
            self.model_error = model_error(torch.from_numpy(raw), noise, self.used)
        self.truth, self.truth_offset = truth, truth_offset
        self.signal, self.background = metrics.michelson_masks(raw)
        self.raw_contrast = metrics.split_half_contrast(*halves, offset)
        self.raw_michelson = metrics.michelson_contrast(raw, self.signal, self.background, offset)
        # Without noise, or with black cut off, the offset is a guess that nothing may rest on.
        self.cut_off = black > CUT_OFF or not self.noisy
        self.foreground: NDArray[np.bool_] | None = None
        if truth is not None and float(np.ptp(truth)) > 0:
            self.foreground = truth > threshold_otsu(truth)

    @property
    def misfit_limit(self) -> float | None:
        """Systematic misfit that is still accepted; None where it cannot be measured."""
        return None if self.used is None else LIMITS.misfit + self.model_error

    def reliability(self, band: metrics.Band) -> float:
        """Return the correlation of the raw halves in a band."""
        return metrics.split_half_detail(self.raw, *self.halves, band).reliability

    def _through_tissue(self, image: Float32, dial: float, widths: tuple[float, ...]) -> Float32:
        return scatter(torch.from_numpy(image), dial, widths, self.weights).numpy()

    def _agreement(self, candidate: Candidate, used: Tensor) -> _Agreement:
        """Return how well the nearest tissue that explains the recording does, else the best."""
        best: _Agreement | None = None
        # Nearest kernels first; the first that explains it will do.
        for factor, widths in self.kernels:
            found = self._agreement_by(factor, widths, candidate, used)
            if best is None or found.misfit < best.misfit:
                best = found
            if best.misfit <= LIMITS.misfit + self.model_error:
                break
        assert best is not None
        return best

    def _agreement_by(
        self, factor: float, widths: tuple[float, ...], candidate: Candidate, used: Tensor
    ) -> _Agreement:
        """Return how well tissue of one kernel does."""
        dial, whole, one, two = candidate
        predicted = self._through_tissue(whole, dial, widths)
        variance = self.noise.variance(torch.from_numpy(predicted)).double().numpy()
        z = metrics.residual_z(self.raw, predicted, variance)
        seen = [self._through_tissue(half, dial, widths) for half in (one, two)]
        first, second, seen_first, seen_second, spread = (
            part[self.inner] for part in (*self.halves, *seen, variance)
        )
        shared = metrics.split_half_consistency(
            first,
            second,
            seen_first,
            seen_second,
            spread,
            OUTLIERS,
            smoothing=COARSE,
            used=used[self.inner].numpy(),
        )
        consistency = forward_residual(
            torch.from_numpy(self.raw),
            torch.from_numpy(whole),
            dial,
            widths_px=widths,
            weights=self.weights,
            noise=self.noise,
            used=used,
            border=self.border,
        )
        return _Agreement(factor, consistency, shared - 1, z)

    def score(self, candidate: Candidate) -> tuple[DialScores, Float64]:
        """Return the scores of one dial and the map of its residual.

        Parameters
        ----------
        candidate : Candidate

        Returns
        -------
        DialScores
        ndarray, (Y, X)
            What the dial does not explain of the recording, in deviations of its noise.
        """
        dial, whole, one, two = candidate
        contrast = metrics.split_half_contrast(one, two, self.offset)
        michelson = metrics.michelson_contrast(whole, self.signal, self.background, self.offset)
        fine, coarse = (
            metrics.split_half_detail(one, *self.halves, band) for band in metrics.BANDS.values()
        )
        consistency = misfit = flagged = factor = None
        if self.used is not None:
            found = self._agreement(candidate, self.used)
            z, factor = found.z, found.factor
            consistency, misfit = found.consistency, found.misfit
            flagged = metrics.flagged_share(z[self.inner])
        else:
            predicted = self._through_tissue(whole, dial, self.kernels[0][1])
            variance = self.noise.variance(torch.from_numpy(predicted)).double().numpy()
            z = metrics.residual_z(self.raw, predicted, variance)
        against = self._against_truth(whole, contrast)
        gain = _quotient(contrast, self.raw_contrast)
        noise_gain = self._noise_gain(one, two) if self.noisy else None
        below = None if self.cut_off else measure_darkness(whole, self.offset, self.noise)
        finding = judge(
            against["contrast_recovery"],
            misfit,
            below_offset=below,
            noise_gain=noise_gain,
            contrast_gain=gain,
            model_error=self.model_error,
        )
        row = DialScores(
            dial=dial,
            contrast_gain=gain,
            contrast_gain_with_noise=_finite(metrics.contrast_gain(whole, self.raw, self.offset)),
            michelson_gain=_quotient(michelson, self.raw_michelson),
            detail_fine=fine.retention,
            detail_coarse=coarse.retention,
            transfer_fine=fine.transfer,
            transfer_coarse=coarse.transfer,
            forward_consistency=consistency,
            systematic_misfit=misfit,
            flagged_share=flagged,
            kernel_factor=factor,
            noise_gain=noise_gain,
            below_offset=None if below is None else below[1],
            verdict=finding.verdict,
            why=finding.why,
            **against,
        )
        return row, z

    def _noise_gain(self, one: Float32, two: Float32) -> float | None:
        """Return how much the noise grew: what the halves do not share, over the raw halves'."""
        before = float((self.halves[0] - self.halves[1]).std())
        return _quotient(float((one - two).std()), before)

    def _against_truth(self, whole: Float32, contrast: float) -> dict[str, float | None]:
        """Return all scores that need the reference, None without one."""
        names = [
            "contrast_recovery",
            "reference_fine",
            "reference_coarse",
            "reference_middle",
            "psnr",
            "psnr_after_fit",
            "ssim",
            "average_precision",
        ]
        truth = self.truth
        if truth is None or self.foreground is None:
            return dict.fromkeys(names)
        fitted = metrics.best_scale_and_offset(whole, truth)
        values = (
            contrast / metrics.rms_contrast(truth, self.truth_offset),
            metrics.band_correlation(whole, truth, metrics.BANDS["fine"]),
            metrics.band_correlation(whole, truth, metrics.BANDS["coarse"]),
            metrics.band_correlation(whole, truth, metrics.MIDDLE_BAND),
            metrics.psnr(whole, truth),
            metrics.psnr(fitted, truth),
            metrics.ssim(fitted, truth),
            metrics.average_precision(whole, self.foreground),
        )
        return {name: _finite(value) for name, value in zip(names, values, strict=True)}
