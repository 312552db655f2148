"""The optical depth of an image, read off its features.

A quadratic form (`quadratic`) is fitted to procedural specimens recorded at known depths, noisy
ones, resampled and cut-off ones, for no real recording tells its depth. Real images, degraded by
known amounts, can go with them: what depth each had before is fitted, too. How often the form is
right is measured on specimens left out of the fit.
"""

from __future__ import annotations

__all__ = ["COVERAGE", "TOLERANCE", "DepthEstimate", "Example", "estimate_depth", "fit_depth"]

from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcontrast_bmz.dial.quadratic_ridge import QuadraticForm, fit_form, pack, read_form
from deepcontrast_bmz.records import DepthEstimator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.dial.features import FeatureVector

Double = NDArray[np.float64]

COVERAGE = 0.8
"""Share of the depths that an interval is to hold."""

TOLERANCE = 0.25
"""In steps: an estimate this near to the truth counts as right."""

_UNUSED = ("shot", "white", "skewness", "gain1_", "stripes_")
"""Features that tell what kind of image it is rather than how deep."""

_FOLDS = 5

_OWN_WEIGHT = 30.0
"""How strongly the depth that a raw image had before is held at 0, in examples: most of it, since
images are trained on for their contrast, yet some were recorded in tissue."""
_ROUNDS = 30
_SETTLED = 0.005
"""Change of such a depth, in steps, below which the fit is done."""


class Example(NamedTuple):
    """A recording of known depth."""

    features: FeatureVector
    optical_depth: float
    noisy: bool
    """Its noise can be measured, and black is not cut off."""
    image: int | None = None
    """Which raw image it was made of; the depth is then what was added. None: a specimen."""


class DepthEstimate(NamedTuple):
    """An optical depth, and how sure it is."""

    optical_depth: float
    """Between 0 and the deepest specimen."""
    interval: tuple[float, float]
    """What holds the depth of four in five of those left out of the fit."""
    confidence: float
    """Share of the specimens of its kind that such an estimate met within the tolerance."""


def _names(vector: FeatureVector) -> list[str]:
    return [name for name in vector.names if not name.startswith(_UNUSED)]


def fit_depth(
    examples: Sequence[Example], *, iterations: int, deepest: float, step: float
) -> DepthEstimator:
    """Fit the estimator, and measure how often it is right on specimens left out.

    Parameters
    ----------
    examples : sequence of Example
        At least ten specimens, of both kinds, in random order.
    iterations : int
        Iterations that the features were taken from.
    deepest : float
        Largest optical depth that it may read; some specimens may lie deeper, so that it knows
        what is beyond.
    step : float
        Optical depth of one iteration.
    """
    specimens = [e for e in examples if e.image is None]
    real = [e for e in examples if e.image is not None]
    depths = np.array([e.optical_depth for e in specimens])
    noisy = np.array([e.noisy for e in specimens])
    read = np.zeros(len(specimens))
    fold = np.arange(len(specimens)) % _FOLDS
    for k in range(_FOLDS):
        kept = [e for e, own in zip(specimens, fold, strict=True) if own != k]
        left_out = [e for e, own in zip(specimens, fold, strict=True) if own == k]
        read[fold == k] = _fitted([*kept, *real], step)(_features(left_out))
    off = np.abs(np.clip(read, 0, deepest) - depths)
    right = off <= TOLERANCE * step
    within = depths <= deepest
    noisy, noiseless = within & noisy, within & ~noisy
    off_real, noisy_real = _leave_images_out(specimens, real, step, deepest)
    return DepthEstimator(
        iterations=iterations,
        deepest=deepest,
        recordings=len(examples),
        within=float(right[noisy].mean()) if noisy.any() else 0.0,
        within_without_noise=float(right[noiseless].mean()) if noiseless.any() else 0.0,
        half_width=_cover([off[noisy], off_real[noisy_real]]),
        half_width_without_noise=_cover([off[noiseless], off_real[~noisy_real]]),
        numbers=pack(_fitted([*specimens, *real], step)),
    )


def _leave_images_out(
    specimens: Sequence[Example], real: Sequence[Example], step: float, deepest: float
) -> tuple[Double, NDArray[np.bool_]]:
    """Return how far fits without an image are off on it, and where its noise can be measured.

    What depth an image had before nobody knows: what all readings of it have in common is taken
    for that, if it is not less than none.
    """
    images = sorted({e.image for e in real if e.image is not None})
    off: list[Double] = []
    noisy: list[bool] = []
    for k in range(_FOLDS if len(images) >= _FOLDS else 0):
        left_out = set(images[k::_FOLDS])
        form = _fitted([*specimens, *(e for e in real if e.image not in left_out)], step)
        for image in sorted(left_out):
            own = [e for e in real if e.image == image]
            added = np.array([e.optical_depth for e in own])
            read = np.clip(form(_features(own)), 0, deepest)
            before = max(float(np.median(read - added)), 0.0)
            off.append(np.abs(read - np.clip(added + before, 0, deepest)))
            noisy += [e.noisy for e in own]
    return np.concatenate([*off, np.zeros(0)]), np.array(noisy, dtype=bool)


def _cover(parts: Sequence[Double]) -> float | None:
    """Return what covers four in five, of every part, however few it holds; None of nothing."""
    found = [
        float(np.quantile(part, min(1.0, COVERAGE * (1 + 1 / part.size))))
        for part in parts
        if part.size
    ]
    return max(found) if found else None


def _features(examples: Sequence[Example]) -> Double:
    return np.stack([e.features.select(_names(e.features)) for e in examples])


def _fitted(examples: Sequence[Example], step: float) -> QuadraticForm:
    """Fit the form, and with it the depth that each raw image had before, in turn."""
    features = _features(examples)
    added = np.array([e.optical_depth for e in examples])
    images = np.array([-1 if e.image is None else e.image for e in examples])
    before = {int(image): 0.0 for image in np.unique(images[images >= 0])}
    form = fit_form(features, added)
    for _ in range(_ROUNDS if before else 0):
        off = form(features) - added
        change = 0.0
        for image, known in before.items():
            own = off[images == image]
            before[image] = max(0.0, float(own.sum()) / (own.size + _OWN_WEIGHT))
            change = max(change, abs(before[image] - known))
        form = fit_form(features, added + np.array([before.get(int(i), 0.0) for i in images]))
        if change <= _SETTLED * step:
            break
    return form


def estimate_depth(
    features: FeatureVector, estimator: DepthEstimator, *, step: float, noisy: bool
) -> DepthEstimate:
    """Return the optical depth of an image.

    Parameters
    ----------
    features : FeatureVector
        Taken from as many iterations as the estimator was fitted to.
    estimator : DepthEstimator
    step : float
        Optical depth of one iteration.
    noisy : bool
        Its noise can be measured, and black is not cut off.

    Raises
    ------
    ValueError
        If the estimator belongs to other features.
    """
    names = _names(features)
    form = read_form(estimator.numbers, len(names))
    found = float(form(features.select(names)[None])[0])
    within = estimator.within if noisy else estimator.within_without_noise
    width = estimator.half_width if noisy else estimator.half_width_without_noise
    if width is None:
        width = NormalDist().inv_cdf((1 + COVERAGE) / 2) * _standard_error(within) * step
    depth = min(max(found, 0.0), estimator.deepest)
    interval = (max(depth - width, 0.0), min(depth + width, estimator.deepest))
    return DepthEstimate(depth, interval, within)


def _standard_error(within: float) -> float:
    """Return the standard error, in steps, of a Gaussian of which that share is within tolerance.

    The share is what was measured on specimens left out of the fit, and is what models store.
    """
    share = min(max(within, 0.02), 0.98)
    return TOLERANCE / NormalDist().inv_cdf((1 + share) / 2)
