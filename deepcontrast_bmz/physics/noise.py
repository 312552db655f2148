"""Estimates the noise of a recording, and splits it into halves of independent noise."""

from __future__ import annotations

__all__ = ["Array", "NoiseModel", "estimate_noise", "split_gaussian"]

import math
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from deepcontrast_bmz.settings import NonNegative, Positive, Record

Array = NDArray[np.floating[Any]]

_MOST_VALUES = 2**18
"""Pixels in which the step between grey values is looked for, at most."""


_FEWEST_CELLS = 16
"""Cells that the noise is read off, at least."""


class NoiseModel(Record):
    """Noise variance as a straight line over the signal: var = slope * counts + intercept."""

    slope: NonNegative
    """Counts of variance per count of signal: one over the gain."""
    intercept: Annotated[float, Field(allow_inf_nan=False)]
    """Variance at zero counts; negative where the camera adds an offset."""
    floor: Positive
    """Smallest variance the line is trusted to give, in counts squared."""

    def variance(self, counts: Tensor) -> Tensor:
        """Return the noise variance at a signal level, never below `floor`."""
        return (self.slope * counts + self.intercept).clamp_min(self.floor)

    def in_unit(self, factor: float) -> NoiseModel:
        """Return the noise of the same image with its counts times a factor."""
        return NoiseModel(
            slope=self.slope * factor,
            intercept=self.intercept * factor**2,
            floor=self.floor * factor**2,
        )


def _high_pass(image: Tensor) -> Tensor:
    """Second difference in x and y, scaled to leave the variance of white noise unchanged."""
    line = image.new_tensor([1.0, -2.0, 1.0])
    return F.conv2d(image[None, None], (torch.outer(line, line) / 6)[None, None])[0, 0]


def estimate_noise(
    image: Tensor, bins: int = 24, cell: int = 8, *, used: Tensor | None = None
) -> NoiseModel:
    """Read the noise variance off one image, by photon transfer within the image.

    The image is cut into cells. In each, the noise variance is that of the second difference,
    which smooth structure does not reach; over cells of like brightness a low quantile is taken,
    since structure can only add. A line is fitted through the bins.

    Parameters
    ----------
    image : Tensor, (Y, X)
        Raw counts.
    bins : int
        Brightness classes.
    cell : int
        Side of a cell in pixels.
    used : Tensor of bool, (Y, X), optional
        Pixels that count: cells with others in them are left out, unless that leaves hardly any.
        All of them if left out.

    Returns
    -------
    NoiseModel
        For an image without noise the slope is close to 0 and `floor` is tiny.
    """
    image = image.double()
    spread = float(image.max() - image.min()) if image.numel() else 0.0
    # A share of the spread, so that the unit of the image does not matter; 32 bits hold no less.
    largest = float(image.abs().max()) if image.numel() else 0.0
    tiny = (spread or largest or 1.0) ** 2 * 1e-12
    if min(image.shape) < 3 * cell or spread == 0.0:
        variance = float(image.var()) if image.numel() > 1 else 0.0
        return NoiseModel(slope=0.0, intercept=variance, floor=max(variance, tiny))
    noise = _high_pass(image)
    level = F.avg_pool2d(image[None, None], 3, stride=1)[0, 0]
    local_variance = F.avg_pool2d((noise**2)[None, None], cell)[0, 0].flatten()
    local_level = F.avg_pool2d(level[None, None], cell)[0, 0].flatten()
    whole = _find_whole_cells(used, cell)
    if whole is not None:
        local_variance, local_level = local_variance[whole], local_level[whole]
    order = torch.argsort(local_level)
    classes = torch.tensor_split(order, min(bins, max(2, order.numel() // 8)))
    # Mean of the lowest quarter of chi-square variables with the cell's degrees of freedom: the
    # second difference is correlated over 3 x 3 pixels, which leaves about a third of them.
    freedom = cell * cell / 3
    shrink = 1 - 1.27 * math.sqrt(2 / freedom)
    levels: list[Tensor] = []
    variances: list[Tensor] = []
    for members in classes:
        values = local_variance[members].sort().values
        low = values[: max(1, math.ceil(values.numel() / 4))]
        levels.append(local_level[members].mean())
        variances.append(low.mean() / shrink)
    x, y = torch.stack(levels), torch.stack(variances)
    slope, intercept = _robust_line(x, y)
    # Rounding to whole counts is noise too; and where black was cut off, the dark pixels show none
    # at all, which must not count as certainty.
    rounding = _smallest_step(image) ** 2 / 12
    floor = max(float(y.min()) * 0.5, float(y.max()) * 0.01, rounding, tiny)
    return NoiseModel(slope=max(slope, 0.0), intercept=intercept, floor=floor)


def _find_whole_cells(used: Tensor | None, cell: int) -> Tensor | None:
    """Return which cells see used pixels alone; None where all do, or too few to tell."""
    if used is None or bool(used.all()):
        return None
    # The second difference sees one pixel further on every side.
    seen = -F.max_pool2d((~used).float()[None, None], 3, stride=1)
    whole = (F.avg_pool2d(seen, cell)[0, 0] == 0).flatten()
    return whole if int(whole.sum()) >= _FEWEST_CELLS else None


def _smallest_step(image: Tensor) -> float:
    """Return the smallest difference of two grey values: one count, in whatever unit."""
    flat = image.flatten()
    values = flat[:: -(-flat.numel() // _MOST_VALUES)].unique()
    return float(values.diff().min()) if values.numel() > 1 else 0.0


def _robust_line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Fit y = slope x + intercept by the median of pairwise slopes (Theil-Sen), slope >= 0."""
    dx = x[:, None] - x[None, :]
    dy = y[:, None] - y[None, :]
    apart = dx > 0.05 * float(x.max() - x.min())
    if not bool(apart.any()):
        return 0.0, float(y.median())
    slope = max(float((dy[apart] / dx[apart]).median()), 0.0)
    return slope, float((y - slope * x).median())


def _in_double(image: Array) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64)


def split_gaussian(
    image: Array,
    variance: Array | float,
    rng: np.random.Generator,
    share: float = 0.5,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split any recording of known noise variance into two of independent noise.

    They are y + a z and y - z / a. z is Gaussian with the variance of the noise: the covariance of
    the parts' noise is then var(y) - var(z) = 0. With a^2 = (1 - share) / share the first part has
    1 / share times the variance, like that share of the photons brought back to scale, and the
    second 1 / (1 - share) times.

    Parameters
    ----------
    image : ndarray, any shape
    variance : ndarray or float
        Noise variance of each pixel, unit of the image squared.
    rng : numpy.random.Generator
    share : float, optional
        Of the light, between 0 and 1, that the first part stands for; halves if left out.
    """
    values = _in_double(image)
    spread = np.sqrt(np.maximum(_in_double(np.asarray(variance)), 0.0))
    added = spread * rng.standard_normal(values.shape)
    ratio = math.sqrt((1 - share) / share)
    return values + ratio * added, values - added / ratio
