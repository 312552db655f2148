"""What a recording says of an enhanced image: seen through the tissue again, it is the recording.

Up to its noise, that is. What of it can be measured depends on the recording: its noise, and where
black was cut off or masked.
"""

from __future__ import annotations

__all__ = [
    "COARSE",
    "CUT_OFF",
    "MODEL_ERROR",
    "find_comparable",
    "forward_residual",
    "kernel_border",
    "measure_noise_and_black",
    "model_error",
    "shared_misfit",
    "tissue_kernels",
]

import math
from typing import TYPE_CHECKING

import scipy  # its rooms load when they are used: reading this module must stay quick
import torch
import torch.nn.functional as F

from deepcontrast_bmz.dial.usable import usable_pixels
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deepcontrast_bmz.physics.noise import NoiseModel


_OUTLIERS = 0.001
"""Share of the largest residuals that is left out: hot pixels are not misfit."""

CUT_OFF = 0.01
"""Share of pixels at the smallest value from which black counts as cut off, or masked."""

MODEL_ERROR = 0.03
"""How far off the tissue model itself is taken to be, in shares of the recording's contrast: where
there is much light, the noise is less than that."""

COARSE = 1.5
"""Standard deviation of the Gaussian that residuals are smoothed by where contrast is judged, in
pixels: scattering has changed nothing finer, and what was lost there is loss of detail."""

_NOISE_FREE = 2e-3
"""Noise deviation over the range of grey levels below which there is nothing to compare with:
rounding to 8 bits alone makes 1.1e-3."""

_FEWEST = 0.01
"""Share of a plane that must be left to compare with the recording."""

_MASK_CELL = 4
"""Side of a cell that counts as masked if all of it is black, in pixels."""


def measure_noise_and_black(
    raw: Tensor, noise: NoiseModel, recorded: Tensor | None = None
) -> tuple[bool, float]:
    """Return whether the noise of a plane can be measured, and the share of cut-off black.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    noise : NoiseModel
        Of the raw image.
    recorded : Tensor of bool, (Y, X), optional
        Pixels that were not laid there afterwards; all of them if left out.
    """
    values = raw.flatten() if recorded is None or not bool(recorded.any()) else raw[recorded]
    spread = float(values.max() - values.min())
    typical = math.sqrt(float(noise.variance(values.median())))
    return typical >= _NOISE_FREE * spread, float((values <= values.min()).float().mean())


def _standardise(raw: Tensor, predicted: Tensor, noise: NoiseModel) -> Tensor:
    """Return what is left of the recording, in deviations of its noise."""
    return (raw - predicted) / noise.variance(predicted).sqrt()


def forward_residual(
    raw: Tensor,
    enhanced: Tensor,
    dial: float,
    *,
    widths_px: Sequence[float],
    weights: Sequence[float],
    noise: NoiseModel,
    used: Tensor | None = None,
    border: int | None = None,
) -> float:
    r"""Return how far the enhanced image, scattered again, is from the raw one.

    .. math:: \mathrm{mean}\,(y - H_D x_D)^2 / \mathrm{var}(H_D x_D)

    One where they differ by noise alone; less where x_D has kept part of the noise. A border as
    wide as the kernel, which sees mirrored surroundings, and the largest permille are left out.

    Parameters
    ----------
    raw, enhanced : Tensor, (Y, X)
        Counts.
    dial : float
        Optical depth that was removed.
    widths_px, weights : sequence of float
        The scattering kernel, in pixels.
    noise : NoiseModel
        Variance of the raw image's noise.
    used : Tensor of bool, (Y, X), optional
        Pixels that count; all of them if left out.
    border : int, optional
        Pixels along the border that do not; as wide as the kernel if left out.

    Returns
    -------
    float
        Dimensionless; 0 where no pixel counts.
    """
    predicted = scatter(enhanced, dial, widths_px, weights)
    misfit = _standardise(raw, predicted, noise) ** 2
    border = kernel_border(raw, widths_px) if border is None else border
    used = torch.ones_like(misfit, dtype=torch.bool) if used is None else used
    if border:
        misfit, used = (x[border:-border, border:-border] for x in (misfit, used))
    values = misfit[used]
    if not values.numel():
        return 0.0
    left_out = int(_OUTLIERS * values.numel())
    if left_out:
        values = values.sort().values[:-left_out]
    return float(values.double().mean())


def shared_misfit(
    halves: tuple[Tensor, Tensor],
    enhanced: tuple[Tensor, Tensor],
    dial: float,
    *,
    widths_px: Sequence[float],
    weights: Sequence[float],
    noise: NoiseModel,
    used: Tensor,
) -> float:
    """Return how much of the recording an image misses, in noise variances: 0 for the truth.

    Both halves are scattered again. Their residuals have independent noise, so that what they
    share is misfit alone. They are smoothed before, the largest permille left out: what is finer
    than scattering is no wrong contrast, and a hot pixel is in both halves.

    Parameters
    ----------
    halves, enhanced : pair of Tensor, (Y, X)
        Images of independent noise, as recorded and enhanced, in counts.
    dial, widths_px, weights, noise
        As for `forward_residual`.
    used : Tensor of bool, (Y, X)
        Pixels that count; one at least.
    """
    seen = [scatter(half, dial, widths_px, weights) for half in enhanced]
    deviation = noise.variance((seen[0] + seen[1]) / 2).sqrt()
    residuals = [(raw - back) / deviation for raw, back in zip(halves, seen, strict=True)]
    left_out = int(_OUTLIERS * int(used.sum()))
    if left_out:
        # Before they are smeared over their surroundings.
        size = (residuals[0] * residuals[1]).abs()
        largest = size[used].sort().values[-left_out - 1]
        residuals = [torch.where(size <= largest, residual, 0) for residual in residuals]
    one, two = (
        torch.from_numpy(scipy.ndimage.gaussian_filter(residual.double().numpy(), COARSE))
        for residual in residuals
    )
    return float((one * two)[used].mean())


def kernel_border(raw: Tensor, widths_px: Sequence[float]) -> int:
    """Return how near to the border unknown surroundings shine in, in pixels."""
    return min(math.ceil(2 * max(widths_px)), min(raw.shape) // 4)


def tissue_kernels(
    widths_px: Sequence[float], width_factor: tuple[float, float]
) -> list[tuple[float, tuple[float, ...]]]:
    """Return (factor, widths) of kernels that the tissue may have, the middle one first.

    Nobody knows the kernel of a real specimen: what any kernel of the trained range explains does
    not contradict the recording.

    Parameters
    ----------
    widths_px : sequence of float
        Of the middle kernel, in pixels.
    width_factor : (float, float)
        The trained range of factors.
    """
    low, high = width_factor
    middle = min(max(1.0, low), high)
    factors = [middle]
    for end in (low, high):
        if abs(math.log(end / middle)) > 0.05:
            factors += [math.sqrt(middle * end), end]
    factors.sort(key=lambda factor: abs(math.log(factor)))
    return [(factor, tuple(factor * width for width in widths_px)) for factor in factors]


def model_error(raw: Tensor, noise: NoiseModel, used: Tensor) -> float:
    """Return the variance that an error of the tissue model may add, over that of the noise.

    Parameters
    ----------
    raw : Tensor, (Y, X)
        Counts.
    noise : NoiseModel
        Of the raw image.
    used : Tensor of bool, (Y, X)
        Pixels that count; the brightest permille of them is left out. Two at least.
    """
    values = raw[used].double().sort().values
    values = values[: values.numel() - int(_OUTLIERS * values.numel())]
    variance = float(noise.variance(values).mean())
    signal = max(float(values.var()) - variance, 0.0)
    return MODEL_ERROR**2 * signal / variance


def _find_explained(usable: Tensor, widths_px: Sequence[float]) -> Tensor:
    """Return which pixels the tissue model can be held to.

    Not those that are not usable, and none as near as the kernel reaches to cells of 4 x 4 without
    a usable pixel: what was masked was not scattered.

    Parameters
    ----------
    usable : Tensor of bool, (Y, X)
    widths_px : sequence of float
        Of the scattering kernel, in pixels.

    Returns
    -------
    Tensor of bool, (Y, X)
    """
    black = (~usable)[None, None].float()
    cells = F.avg_pool2d(black, _MASK_CELL, ceil_mode=True) >= 1
    side = 2 * math.ceil(2 * max(widths_px) / _MASK_CELL) + 1
    # Along y, then along x: a kernel in micrometres can be hundreds of pixels wide.
    near = F.max_pool2d(cells.float(), (side, 1), stride=1, padding=(side // 2, 0))
    near = F.max_pool2d(near, (1, side), stride=1, padding=(0, side // 2))
    wide = near.repeat_interleave(_MASK_CELL, 2).repeat_interleave(_MASK_CELL, 3)
    return usable & (wide[0, 0, : usable.shape[0], : usable.shape[1]] == 0)


def find_comparable(
    raw: Tensor, widths_px: Sequence[float], usable: Tensor | None = None
) -> Tensor | None:
    """Return which pixels an image can be held to: `_find_explained`, and off the border.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    widths_px : sequence of float
        Of the middle kernel, in pixels.
    usable : Tensor of bool, (Y, X), optional
        From `usable_pixels`; found here if left out.

    Returns
    -------
    Tensor of bool, (Y, X), or None
        None where they are less than a hundredth of the plane.
    """
    border = kernel_border(raw, widths_px)
    inner = (slice(border, -border or None),) * 2
    used = torch.zeros_like(raw, dtype=torch.bool)
    # Where black may be cut off nothing is explained, either.
    black = raw <= raw.min()
    known = (usable_pixels(raw) if usable is None else usable) & ~black
    used[inner] = _find_explained(known, widths_px)[inner]
    enough = int(used.sum()) >= max(2, _FEWEST * raw.numel())
    return used if enough else None
