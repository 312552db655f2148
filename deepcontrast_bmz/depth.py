"""The optical depth of an image, read off its features.

A quadratic form (`quadratic`) is fitted to procedural specimens recorded at known depths, noisy
ones, resampled and cut-off ones, for no real recording tells its depth. How often it is right is
measured on specimens left out of the fit.
"""

from __future__ import annotations

__all__ = ["TOLERANCE", "DepthEstimate", "Example", "estimate_depth", "fit_depth"]

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcontrast_bmz.quadratic import fit_form, pack, read_form
from deepcontrast_bmz.settings import DepthEstimator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.features import FeatureVector

Double = NDArray[np.float64]

TOLERANCE = 0.25
"""In steps: an estimate this near to the truth counts as right."""

_UNUSED = ("shot", "white", "skewness", "gain1_", "stripes_")
"""Features that tell what kind of image it is rather than how deep."""

_FOLDS = 5


class Example(NamedTuple):
    """A recording of known depth."""

    features: FeatureVector
    optical_depth: float
    noisy: bool
    """Its noise can be measured, and black is not cut off."""


class DepthEstimate(NamedTuple):
    """An optical depth, and how sure it is."""

    optical_depth: float
    """Between 0 and the deepest specimen."""
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
        At least ten, of both kinds, in random order.
    iterations : int
        Iterations that the features were taken from.
    deepest : float
        Largest optical depth among them.
    step : float
        Optical depth of one iteration.
    """
    features = np.stack([e.features.select(_names(e.features)) for e in examples])
    depths = np.array([e.optical_depth for e in examples])
    noisy = np.array([e.noisy for e in examples])
    left_out = np.zeros(len(examples))
    fold = np.arange(len(examples)) % _FOLDS
    for k in range(_FOLDS):
        form = fit_form(features[fold != k], depths[fold != k])
        left_out[fold == k] = form(features[fold == k])
    right = np.abs(np.clip(left_out, 0, deepest) - depths) <= TOLERANCE * step
    return DepthEstimator(
        iterations=iterations,
        deepest=deepest,
        recordings=len(examples),
        within=float(right[noisy].mean()) if noisy.any() else 0.0,
        within_without_noise=float(right[~noisy].mean()) if not noisy.all() else 0.0,
        numbers=pack(fit_form(features, depths)),
    )


def estimate_depth(
    features: FeatureVector, estimator: DepthEstimator, *, noisy: bool
) -> DepthEstimate:
    """Return the optical depth of an image.

    Parameters
    ----------
    features : FeatureVector
        Taken from as many iterations as the estimator was fitted to.
    estimator : DepthEstimator
    noisy : bool
        Its noise can be measured, and black is not cut off.

    Raises
    ------
    ValueError
        If the estimator belongs to other features.
    """
    names = _names(features)
    form = read_form(estimator.numbers, len(names), estimator.recordings)
    found = float(form(features.select(names)[None])[0])
    return DepthEstimate(
        min(max(found, 0.0), estimator.deepest),
        estimator.within if noisy else estimator.within_without_noise,
    )
