"""The detector: photons to counts, counts to photons, and its noise read off an image."""

from __future__ import annotations

__all__ = ["Camera", "NoiseModel", "estimate_camera", "estimate_noise", "expose", "to_photons"]

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from deepcontrast_bmz.settings import NonNegative, Positive, Record


class Camera(Record):
    """A linear detector with shot noise and read noise.

    Quantum efficiency is one: photons here are detected photons, equal to electrons.
    """

    gain: Positive = 1.0
    """Electrons per count."""
    offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Counts recorded in the dark."""
    read_noise_electrons: NonNegative = 0.0
    """Standard deviation of the read noise, in electrons."""
    bit_depth: Annotated[int, Field(ge=1, le=32)] | None = None
    """Counts are rounded and clipped to 0 .. 2**bit_depth - 1; None leaves them real."""


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


def expose(photons: Tensor, camera: Camera, generator: torch.Generator) -> Tensor:
    """Record an image: shot noise, read noise, gain, offset, then bits.

    Parameters
    ----------
    photons : Tensor, any shape
        Expected photons per pixel; negative values count as 0.
    camera : Camera
    generator : torch.Generator
        Source of the noise.

    Returns
    -------
    Tensor, same shape
        Counts.
    """
    electrons = torch.poisson(photons.clamp_min(0), generator=generator)
    if camera.read_noise_electrons > 0:
        noise = torch.randn(
            photons.shape, generator=generator, dtype=photons.dtype, device=photons.device
        )
        electrons = electrons + camera.read_noise_electrons * noise
    counts = electrons / camera.gain + camera.offset
    if camera.bit_depth is not None:
        counts = counts.round().clamp(0, 2**camera.bit_depth - 1)
    return counts


def to_photons(counts: Tensor, camera: Camera) -> Tensor:
    """Convert counts to photons: remove the offset, multiply by the gain."""
    return (counts - camera.offset) * camera.gain


def _high_pass(image: Tensor) -> Tensor:
    """Second difference in x and y, scaled to leave the variance of white noise unchanged."""
    line = image.new_tensor([1.0, -2.0, 1.0])
    return F.conv2d(image[None, None], (torch.outer(line, line) / 6)[None, None])[0, 0]


def estimate_noise(image: Tensor, bins: int = 24, cell: int = 8) -> NoiseModel:
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

    Returns
    -------
    NoiseModel
        For an image without noise the slope is close to 0 and `floor` is tiny.
    """
    image = image.double()
    spread = float(image.max() - image.min()) if image.numel() else 0.0
    # A share of the spread, so that the unit of the image does not matter; 32 bits hold no less.
    tiny = max((spread or 1.0) ** 2 * 1e-12, 1e-30)
    if min(image.shape) < 3 * cell or spread == 0.0:
        variance = float(image.var()) if image.numel() > 1 else 0.0
        return NoiseModel(slope=0.0, intercept=variance, floor=max(variance, tiny))
    noise = _high_pass(image)
    level = F.avg_pool2d(image[None, None], 3, stride=1)[0, 0]
    local_variance = F.avg_pool2d((noise**2)[None, None], cell)[0, 0].flatten()
    local_level = F.avg_pool2d(level[None, None], cell)[0, 0].flatten()
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
    rounding = 1 / 12 if bool((image == image.round()).all()) else 0.0
    floor = max(float(y.min()) * 0.5, float(y.max()) * 0.01, rounding, tiny)
    return NoiseModel(slope=max(slope, 0.0), intercept=intercept, floor=floor)


def _robust_line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Fit y = slope x + intercept by the median of pairwise slopes (Theil-Sen), slope >= 0."""
    dx = x[:, None] - x[None, :]
    dy = y[:, None] - y[None, :]
    apart = dx > 0.05 * float(x.max() - x.min())
    if not bool(apart.any()):
        return 0.0, float(y.median())
    slope = max(float((dy[apart] / dx[apart]).median()), 0.0)
    return slope, float((y - slope * x).median())


def estimate_camera(image: Tensor) -> Camera:
    """Estimate gain, offset and read noise from one image.

    Gain is one over the slope of the noise variance. Offset and read noise cannot be told apart
    in one image: where the line crosses zero variance is the offset if there is no read noise,
    and the offset cannot lie above the darkest pixels (first permille). What remains of the
    variance at the offset is the read noise.

    Parameters
    ----------
    image : Tensor, (Y, X)
        Raw counts.

    Returns
    -------
    Camera
    """
    noise = estimate_noise(image)
    if noise.slope <= 0:
        return Camera(
            offset=float(torch.quantile(_sample(image), 0.001)),
            read_noise_electrons=math.sqrt(max(noise.intercept, 0.0)),
        )
    gain = 1.0 / noise.slope
    crossing = -noise.intercept / noise.slope
    offset = min(crossing, float(torch.quantile(_sample(image), 0.001)))
    read_variance = max(noise.slope * offset + noise.intercept, 0.0)
    return Camera(gain=gain, offset=offset, read_noise_electrons=math.sqrt(read_variance) * gain)


def _sample(image: Tensor, most: int = 1_000_000) -> Tensor:
    """Return at most `most` evenly spaced pixels: torch.quantile takes no more than 2**24."""
    flat = image.flatten().float()
    return flat[:: max(1, flat.numel() // most)]
