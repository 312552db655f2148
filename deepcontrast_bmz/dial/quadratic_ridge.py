"""A quadratic form of many features, fitted by ridge regression, and kept in a few kilobytes.

Linear in all features, quadratic in their leading directions: enough for features that bend, and
little enough for some hundred examples.
"""

from __future__ import annotations

__all__ = ["QuadraticForm", "fit_form", "pack", "read_form", "unpack"]

import base64
import binascii
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Double = NDArray[np.float64]

_DIRECTIONS = 10
"""Leading directions that also enter squared; fewer where there are few examples. With more, the
reading of images that are left out rises less than their depth."""
_RIDGE = 100.0
"""Weight of the squared coefficients, in examples."""
_QUADRATIC = 0.5
"""Weight of products of directions beside single features."""
_EDGE = 0.005
"""Share of the examples beyond which a feature counts as no more extreme, on either side."""


class QuadraticForm(NamedTuple):
    """The fit: features are cut to low .. high, shifted and scaled, then turned."""

    low: Double
    high: Double
    mean: Double
    scale: Double
    directions: Double
    linear: Double
    quadratic: Double
    constant: Double

    def __call__(self, features: Double) -> Double:
        """Return one number for each row of features."""
        z = (np.clip(features, self.low, self.high) - self.mean) / self.scale
        t = z @ self.directions
        i, j = np.triu_indices(self.directions.shape[1])
        found: Double = z @ self.linear + (t[:, i] * t[:, j]) @ self.quadratic + self.constant[0]
        return found

    def shares(self, features: Double) -> Double:
        """Return how much each feature alone adds to the value of one row."""
        z = (np.clip(features, self.low, self.high) - self.mean) / self.scale
        t = z @ self.directions
        count = self.directions.shape[1]
        i, j = np.triu_indices(count)
        products = np.zeros((count, count))
        products[i, j] = self.quadratic
        return z * (self.linear + self.directions @ (products @ t))


def _directions(examples: int, features: int, most: int) -> int:
    """Return how many directions so many examples can tell apart."""
    return max(2, min(most, examples // 14, features))


def _shapes(count: int, directions: int) -> list[tuple[int, ...]]:
    pairs = directions * (directions + 1) // 2
    return [(count,)] * 4 + [(count, directions), (count,), (pairs,), (1,)]


def fit_form(
    features: Double, targets: Double, *, ridge: float = _RIDGE, directions: int = _DIRECTIONS
) -> QuadraticForm:
    """Fit the form by least squares with a penalty on its coefficients.

    Parameters
    ----------
    features : ndarray, (N, F)
    targets : ndarray, (N,)
    ridge : float
        Weight of the penalty, in examples.
    directions : int
        Leading directions that also enter squared, at most.
    """
    directions = _directions(features.shape[0], features.shape[1], directions)
    mean = features.mean(axis=0)
    scale = np.maximum(features.std(axis=0), 1e-3)
    low, high = np.quantile(features, (_EDGE, 1 - _EDGE), axis=0)
    z = (np.clip(features, low, high) - mean) / scale
    _, vectors = np.linalg.eigh(z.T @ z)
    turned = vectors[:, ::-1][:, :directions]
    turned = turned / np.maximum((z @ turned).std(axis=0), 1e-3)
    t = z @ turned
    i, j = np.triu_indices(directions)
    terms = np.hstack([z, _QUADRATIC * t[:, i] * t[:, j]])
    centre = terms.mean(axis=0)
    moments = (terms - centre).T @ (terms - centre) + ridge * np.eye(terms.shape[1])
    weights = np.linalg.solve(moments, (terms - centre).T @ (targets - targets.mean()))
    count = features.shape[1]
    return QuadraticForm(
        low,
        high,
        mean,
        scale,
        turned,
        weights[:count],
        _QUADRATIC * weights[count:],
        np.array([targets.mean() - centre @ weights]),
    )


def read_form(text: str, features: int) -> QuadraticForm:
    """Return the form that was packed; its length tells how many directions it has.

    Parameters
    ----------
    text : str
        From `pack`.
    features : int
        How many features it takes.

    Raises
    ------
    ValueError
        If the text does not hold such a form.
    """
    length = len(_decode(text)) / 2
    for directions in range(1, features + 1):
        shapes = _shapes(features, directions)
        if sum(math.prod(shape) for shape in shapes) == length:
            return QuadraticForm(*unpack(text, shapes))
    raise ValueError(f"numbers were expected for {features} features, not {length:g} numbers")


def pack(arrays: Sequence[Double]) -> str:
    """Return arrays as base64 of little-endian half-precision numbers, one after the other.

    Half precision holds three digits, more than such statistics have, in a third of the text.
    """
    flat = np.concatenate([np.asarray(array, dtype=np.float64).ravel() for array in arrays])
    return base64.b64encode(flat.astype("<f2").tobytes()).decode("ascii")


def unpack(text: str, shapes: Sequence[tuple[int, ...]]) -> list[Double]:
    """Return the arrays that `pack` wrote.

    Parameters
    ----------
    text : str
    shapes : sequence of tuple
        Shape of each array.

    Raises
    ------
    ValueError
        If the text holds another count of numbers, or some that are not finite.
    """
    data = _decode(text)
    sizes = [math.prod(shape) for shape in shapes]
    if len(data) != 2 * sum(sizes):
        raise ValueError(f"{sum(sizes)} numbers were expected, not {len(data) / 2:g}")
    flat = np.frombuffer(data, "<f2").astype(np.float64)
    if not bool(np.isfinite(flat).all()):
        raise ValueError("finite numbers were expected")
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"numbers were expected in base64, but {error}") from error
