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
    find_comparable,
    forward_residual,
    kernel_border,
    measure_noise_and_black,
)
from deepcontrast_bmz.dial.evidence import judge_evidence
from deepcontrast_bmz.evaluate import metrics
from deepcontrast_bmz.evaluate.records import DialScores
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.dial.evidence import Evidence
    from deepcontrast_bmz.physics.noise import NoiseModel

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


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
    widths_px : sequence of float
        Widths of the middle kernel that the tissue may have, in pixels.
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
        widths_px: Sequence[float],
        weights: Sequence[float],
        truth: Float32 | None,
        truth_offset: float,
    ) -> None:
        self.raw, self.halves, self.noise, self.offset = raw, halves, noise, offset
        self.widths_px, self.weights = tuple(widths_px), weights
        # Nearer to the border than the kernel is wide, unknown surroundings shine in.
        self.border = kernel_border(torch.from_numpy(raw), widths_px)
        self.inner = (slice(self.border, -self.border or None),) * 2
        noisy, _ = measure_noise_and_black(torch.from_numpy(raw), noise)
        self.used = find_comparable(torch.from_numpy(raw), widths_px) if noisy else None
        self.truth, self.truth_offset = truth, truth_offset
        self.signal, self.background = metrics.michelson_masks(raw)
        self.raw_michelson = metrics.michelson_contrast(raw, self.signal, self.background, offset)
        self.foreground: NDArray[np.bool_] | None = None
        if truth is not None and float(np.ptp(truth)) > 0:
            self.foreground = truth > threshold_otsu(truth)

    def reliability(self, band: metrics.Band) -> float:
        """Return the correlation of the raw halves in a band."""
        return metrics.split_half_detail(self.raw, *self.halves, band).reliability

    def _through_tissue(self, image: Float32, dial: float, widths: tuple[float, ...]) -> Float32:
        return scatter(torch.from_numpy(image), dial, widths, self.weights).numpy()

    def score(self, candidate: Candidate, evidence: Evidence) -> tuple[DialScores, Float64]:
        """Return the scores of one dial and the map of its residual.

        Parameters
        ----------
        candidate : Candidate
        evidence : Evidence
            What the decision on the dial rests on: the verdict rests on the same.

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
        factor = evidence.kernel_factor
        widths = tuple((factor or 1.0) * width for width in self.widths_px)
        predicted = self._through_tissue(whole, dial, widths)
        variance = self.noise.variance(torch.from_numpy(predicted)).double().numpy()
        z = metrics.residual_z(self.raw, predicted, variance)
        against = self._against_truth(whole, contrast)
        finding = judge_evidence(evidence, against["contrast_recovery"])
        below = evidence.below_offset
        row = DialScores(
            dial=dial,
            contrast_gain=evidence.contrast_gain,
            contrast_gain_with_noise=_finite(metrics.contrast_gain(whole, self.raw, self.offset)),
            michelson_gain=_quotient(michelson, self.raw_michelson),
            detail_fine=fine.retention,
            detail_coarse=coarse.retention,
            transfer_fine=fine.transfer,
            transfer_coarse=coarse.transfer,
            forward_consistency=self._residual(whole, dial, widths),
            systematic_misfit=evidence.misfit,
            flagged_share=None if self.used is None else metrics.flagged_share(z[self.inner]),
            kernel_factor=factor,
            noise_gain=evidence.noise_gain,
            below_offset=None if below is None else below[1],
            verdict=finding.verdict,
            why=finding.why,
            **against,
        )
        return row, z

    def _residual(self, whole: Float32, dial: float, widths: tuple[float, ...]) -> float | None:
        """Return the forward residual; None where it cannot be measured."""
        if self.used is None:
            return None
        return forward_residual(
            torch.from_numpy(self.raw),
            torch.from_numpy(whole),
            dial,
            widths_px=widths,
            weights=self.weights,
            noise=self.noise,
            used=self.used,
            border=self.border,
        )

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
