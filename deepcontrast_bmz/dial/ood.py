"""How unlike the images a model was trained for an image is: one number, and what stands out.

Features of the training and validation patches, raw and degraded, and of specimens within the
trained range have a mean and a spread; the Mahalanobis distance tells how far from them an image
is, whatever it is. What is known to go wrong, light, depth, kernel, scale or detector beyond the
trained range, is also shown to a quadratic form that learns to tell it from what is within. Both
are taken over the value that three in a hundred familiar images exceed, and the score is the larger
of the two: above 1 the image is unusual. A warning waits until it is beyond what one in twenty
parts of real images has, whose specimen was left out of the fit.
"""

from __future__ import annotations

__all__ = ["OodScore", "fit_ood", "measure", "unusual"]

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcontrast_bmz.dial.features import FeatureVector, image_features
from deepcontrast_bmz.dial.quadratic_ridge import QuadraticForm, fit_form, pack, read_form, unpack
from deepcontrast_bmz.records import OodStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deepcontrast_bmz.records import LoopDescription

Double = NDArray[np.float64]

_DIRECTIONS = 16
_FOLDS = 4
_RIDGE = 20.0
"""Penalty of the form, in examples."""
_CURVED = 32
"""Directions that enter the form squared."""
_FEW = 0.03
"""Share of the training patches that may exceed the limit."""
_WARNED = 0.05
"""Share of the parts of real images left out of the fit that may be warned about."""
_FEWEST_IMAGES = 5
"""Fewer images say too little of what is usual."""
_LEAST = 0.02
"""Smallest spread of a direction that is believed, over the mean of all."""

_WORDS = (
    ("snr", "the signal over the noise"),
    ("shot", "how the noise grows with the brightness"),
    ("slope_band", "the spectrum"),
    ("residual_dial", "how far the dial can go before the recording contradicts"),
    ("residual", "how well the tissue model explains what was removed"),
    ("gain1", "how much the model changes it"),
    ("stripes", "stripes along one axis"),
    ("black", "the share of black pixels"),
    ("white", "the share of saturated pixels"),
    ("kurtosis", "how few pixels hold the light"),
    ("skewness", "how the grey values lean: dark on bright, or bright on dark"),
    ("floor", "how deep the dark parts sink"),
    ("depth_of_dark", "how deep the dark parts sink"),
    ("level_dial", "how soon the dark parts sink below the camera offset"),
    ("range_dial", "how soon the dark parts sink below the camera offset"),
)


class OodScore(NamedTuple):
    """How unusual an image is."""

    score: float
    """0 is typical; above 1 is beyond 97 of 100 training patches."""
    feature: str
    """What stands out most, in words."""
    limit: float = 1.0
    """From which on there is a warning."""

    @property
    def warning(self) -> str | None:
        """One sentence, or None where the image is no further off than real ones are."""
        if self.score <= self.limit:
            return None
        return (
            f"the image is unlike those the model was trained for (score {self.score:.1f}, limit "
            f"{self.limit:.1f}); what stands out most is {self.feature}: check the result against "
            "the raw image"
        )


class _Shape(NamedTuple):
    """The spread of the training images."""

    mean: Double
    scale: Double
    directions: Double
    rest: Double

    def distances(self, features: Double) -> Double:
        """Return the Mahalanobis distance of each row; what no direction holds counts as noise."""
        z = (features - self.mean) / self.scale
        t = z @ self.directions
        return np.sqrt((t**2).sum(axis=1) + self._beyond(z))

    def _beyond(self, z: Double) -> Double:
        unit = self.directions / np.linalg.norm(self.directions, axis=0)
        left = (z**2).sum(axis=1) - ((z @ unit) ** 2).sum(axis=1)
        return np.maximum(left, 0.0) / self.rest[0]

    def shares(self, features: Double) -> Double:
        """Return how much each feature alone has to do with the distance of one row."""
        z = (features - self.mean) / self.scale
        unit = self.directions / np.linalg.norm(self.directions, axis=0)
        pulled = self.directions @ (self.directions.T @ z)
        pulled += (z - unit @ (unit.T @ z)) / self.rest[0]
        return z * pulled


def _shapes(count: int, directions: int) -> list[tuple[int, ...]]:
    return [(count,), (count,), (count, directions), (1,)]


def _directions(samples: int, count: int) -> int:
    return max(1, min(_DIRECTIONS, samples // 8, count - 1))


def fit_ood(
    familiar: Sequence[FeatureVector],
    beyond: Sequence[FeatureVector],
    *,
    iterations: int,
    images: Sequence[int | None] | None = None,
) -> OodStatistics:
    """Fit the statistics.

    Parameters
    ----------
    familiar : sequence of FeatureVector
        Of training images and specimens within the trained range, at least eight, in random order.
    beyond : sequence of FeatureVector
        Of specimens beyond it, at least four, in random order.
    iterations : int
        Iterations that the features were taken from.
    images : sequence of int or None, optional
        Which real image each of the familiar ones is part of; None for specimens. With parts of
        five images or more the limit of the warning is measured on those left out.
    """
    inner = np.stack([vector.values for vector in familiar])
    outer = np.stack([vector.values for vector in beyond])
    # The limits come from images that nothing was fitted to: those it was fitted to are nearer
    # than any others.
    distances, opinions = np.zeros(len(inner)), np.zeros(len(inner))
    fold, outer_fold = (np.arange(len(part)) % _FOLDS for part in (inner, outer))
    for k in range(_FOLDS):
        left_out = inner[fold == k]
        distances[fold == k] = _shape(inner[fold != k]).distances(left_out)
        opinions[fold == k] = _form(inner[fold != k], outer[outer_fold != k])(left_out)
    usual = float(np.median(opinions))
    reach = max(float(np.quantile(opinions, 1 - _FEW)) - usual, _LEAST)
    limits = (float(np.quantile(distances, 1 - _FEW)), usual, reach)
    named = np.array([-1 if image is None else image for image in images or [None] * len(inner)])
    warn_above = _find_limit(inner, outer, named, limits)
    form = _form(inner, outer)
    found = OodStatistics(
        iterations=iterations,
        samples=len(inner),
        beyond=len(outer),
        numbers=pack(_shape(inner)),
        form=pack(form),
        limits=limits,
    )
    return found if warn_above is None else found.model_copy(update={"warn_above": warn_above})


def _find_limit(
    inner: Double, outer: Double, images: NDArray[np.int_], limits: tuple[float, float, float]
) -> float | None:
    """Return the score that few parts of images exceed that were left out; None of few images."""
    names = np.unique(images[images >= 0])
    if names.size < _FEWEST_IMAGES:
        return None
    far, usual, reach = limits
    scores: list[Double] = []
    for k in range(_FOLDS):
        left_out = np.isin(images, names[k::_FOLDS])
        own, others = inner[left_out], inner[~left_out]
        distances = _shape(others).distances(own) / far
        opinions = (_form(others, outer[np.arange(len(outer)) % _FOLDS != k])(own) - usual) / reach
        scores.append(np.maximum(distances, opinions))
    return max(1.0, float(np.quantile(np.concatenate(scores), 1 - _WARNED)))


def _form(inner: Double, outer: Double) -> QuadraticForm:
    """Return a form that is near 0 within and near 1 beyond."""
    targets = np.concatenate([np.zeros(len(inner)), np.ones(len(outer))])
    return fit_form(np.concatenate([inner, outer]), targets, ridge=_RIDGE, directions=_CURVED)


def _shape(features: Double) -> _Shape:
    count = _directions(*features.shape)
    mean = np.median(features, axis=0)
    scale = np.maximum(features.std(axis=0), 0.02)
    z = (features - mean) / scale
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    values, vectors = values[::-1], vectors[:, ::-1]
    least = _LEAST * values.mean()
    rest = max(float(values[count:].mean()), least)
    directions = vectors[:, :count] / np.sqrt(np.maximum(values[:count], least))
    return _Shape(mean, scale, directions, np.array([rest]))


def unusual(vector: FeatureVector, statistics: OodStatistics) -> OodScore:
    """Return how unusual an image is.

    Parameters
    ----------
    vector : FeatureVector
        From `measure`.
    statistics : OodStatistics

    Raises
    ------
    ValueError
        If the statistics belong to other features.
    """
    count = len(vector.names)
    shape = _Shape(
        *unpack(statistics.numbers, _shapes(count, _directions(statistics.samples, count)))
    )
    form = read_form(statistics.form, count)
    limit, usual, reach = statistics.limits
    far = float(shape.distances(vector.values[None])[0]) / limit
    alike = (float(form(vector.values[None])[0]) - usual) / reach
    shares = shape.shares(vector.values) if far >= alike else form.shares(vector.values)
    most = vector.names[int(np.argmax(shares))]
    words = next(words for prefix, words in _WORDS if most.startswith(prefix))
    return OodScore(max(far, alike, 0.0), words, statistics.warn_above)


def measure(raw: Tensor, iterations: Tensor, description: LoopDescription) -> FeatureVector:
    """Return the features that the score takes: of the middle of an image, with its own kernel.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    iterations : Tensor, (K, Y, X)
    description : LoopDescription
    """
    return image_features(
        raw,
        iterations,
        widths_px=description.scatter.widths,
        weights=description.scatter.weights,
        step=description.step_optical_depth,
    )
