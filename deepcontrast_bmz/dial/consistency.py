"""What a recording says of an enhanced image, and how far the dial may go before it objects.

Seen through the tissue again, the image must be the recording up to its noise, and there is no
negative light. What of it can be measured depends on the recording: its noise, and where black was
cut off or masked.
"""

from __future__ import annotations

__all__ = [
    "COARSE",
    "CUT_OFF",
    "MODEL_ERROR",
    "ROUND",
    "background_level",
    "coarse_misfit",
    "comparable",
    "dial_grid",
    "explained",
    "forward_residual",
    "kernel_border",
    "largest_kept",
    "last_kept",
    "measurable",
    "model_error",
    "not_below_zero",
    "tissue_kernels",
]

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from scipy import ndimage

from deepcontrast_bmz.model.loop import blend
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from deepcontrast_bmz.physics.noise import NoiseModel

_GRID = 0.25
"""Distance between the dials that are tried, in optical depth."""

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

ROUND = 0.05
"""The estimated dial is rounded to this, in optical depth."""

_BELOW_ZERO = 0.05
"""How far the dark parts may lie below zero counts, in shares of the brightness."""

_FEW_CELLS = 0.05
"""Share of the image, off masked parts, below which that cannot be said."""


def measurable(raw: Tensor, noise: NoiseModel) -> tuple[bool, float]:
    """Return whether the noise of a plane can be measured, and the share of cut-off black.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    noise : NoiseModel
        Of the raw image.
    """
    spread = float(raw.max() - raw.min())
    typical = math.sqrt(float(noise.variance(raw.median())))
    return typical >= _NOISE_FREE * spread, float((raw <= raw.min()).float().mean())


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
    misfit = (raw - predicted) ** 2 / noise.variance(predicted)
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


def coarse_misfit(
    raw: Tensor,
    enhanced: Tensor,
    dial: float,
    *,
    widths_px: Sequence[float],
    weights: Sequence[float],
    noise: NoiseModel,
    used: Tensor,
) -> float:
    """Return how much of the forward residual is coarser than noise explains, in noise variances.

    The residual is smoothed, its largest permille left out before, and what is left of the noise
    after that is taken off, as if the enhanced image had kept none of it. From split halves it
    would be exact (`metrics.split_half_consistency`); this needs one image.

    Parameters
    ----------
    raw, enhanced, dial, widths_px, weights, noise
        As for `forward_residual`.
    used : Tensor of bool, (Y, X)
        Pixels that count; one at least.
    """
    predicted = scatter(enhanced, dial, widths_px, weights)
    residual = (raw - predicted) / noise.variance(predicted).sqrt()
    left_out = int(_OUTLIERS * int(used.sum()))
    if left_out:
        # Before they are smeared over their surroundings.
        largest = residual[used].abs().sort().values[-left_out - 1]
        residual = torch.where(residual.abs() <= largest, residual, 0)
    smooth = torch.from_numpy(ndimage.gaussian_filter(residual.double().numpy(), COARSE))
    return float((smooth[used] ** 2).mean()) - 1 / (4 * math.pi * COARSE**2)


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


def explained(raw: Tensor, widths_px: Sequence[float]) -> Tensor:
    """Return which pixels the tissue model can be held to.

    Not those at the smallest value, where black may be cut off, and none as near as the kernel
    reaches to cells of 4 x 4 that are black throughout: what was masked was not scattered.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    widths_px : sequence of float
        Of the scattering kernel, in pixels.

    Returns
    -------
    Tensor of bool, (Y, X)
    """
    black = raw <= raw.min()
    cells = F.avg_pool2d(black[None, None].float(), _MASK_CELL, ceil_mode=True) >= 1
    side = 2 * math.ceil(2 * max(widths_px) / _MASK_CELL) + 1
    # Along y, then along x: a kernel in micrometres can be hundreds of pixels wide.
    near = F.max_pool2d(cells.float(), (side, 1), stride=1, padding=(side // 2, 0))
    near = F.max_pool2d(near, (1, side), stride=1, padding=(0, side // 2))
    wide = near.repeat_interleave(_MASK_CELL, 2).repeat_interleave(_MASK_CELL, 3)
    return ~black & (wide[0, 0, : raw.shape[0], : raw.shape[1]] == 0)


def background_level(image: Tensor, offset: float, noise: NoiseModel) -> float:
    """Return the first percentile above the camera offset, in deviations of the noise there.

    Parameters
    ----------
    image : Tensor, (Y, X)
        Counts.
    offset : float
        Counts recorded in the dark.
    noise : NoiseModel
    """
    flat = image.flatten()
    darkest = float(flat.kthvalue(max(1, math.ceil(0.01 * flat.numel()))).values)
    return (darkest - offset) / math.sqrt(float(noise.variance(torch.tensor(offset))))


def not_below_zero(raw: Tensor, iterations: Tensor, dial: float, step: float) -> float:
    """Return the largest dial up to `dial` at which the dark parts stay above zero counts.

    No camera offset lies below zero counts, or below the smallest value where some are negative:
    whatever the noise, the rest of the dark parts must lie above.
    """
    least = min(float(raw.min()), 0.0)
    # Where black was cut off or masked, and a little around it, the image was already there.
    cut = _means((raw <= raw.min()).float()) > 0
    cut = F.max_pool2d(cut[None, None].float(), 5, stride=1, padding=2)[0, 0] > 0
    used = ~cut
    if float(used.float().mean()) < _FEW_CELLS:
        return dial

    def below(tried: float) -> float:
        cells = _means(blend(raw, iterations, tried, step))[used].sort().values
        low, high = float(cells[cells.numel() // 100]), float(cells[-1 - cells.numel() // 100])
        return (least - low) / max(high - least, 1e-30)

    return largest_kept(dial, lambda tried: below(tried) <= _BELOW_ZERO)


def comparable(raw: Tensor, widths_px: Sequence[float]) -> Tensor | None:
    """Return which pixels an image can be held to: `explained`, and off the border.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    widths_px : sequence of float
        Of the middle kernel, in pixels.

    Returns
    -------
    Tensor of bool, (Y, X), or None
        None where they are less than a hundredth of the plane.
    """
    border = kernel_border(raw, widths_px)
    inner = (slice(border, -border or None),) * 2
    used = torch.zeros_like(raw, dtype=torch.bool)
    used[inner] = explained(raw, widths_px)[inner]
    enough = int(used.sum()) >= max(2, _FEWEST * raw.numel())
    return used if enough else None


def _means(image: Tensor) -> Tensor:
    """Return means over 4 x 4 pixels, in which noise counts little."""
    return F.avg_pool2d(image[None, None].float(), 4)[0, 0]


def dial_grid(count: int, step: float) -> list[float]:
    """Return 0, every 0.25 and the whole iterations up to the last, in order.

    Parameters
    ----------
    count : int
        Iterations at hand.
    step : float
        Optical depth of one.
    """
    last = count * step
    grid = [_GRID * i for i in range(math.floor(last / _GRID + 1e-9) + 1)]
    wholes = [k * step for k in range(count + 1)]
    dials: list[float] = []
    for dial in sorted((*grid, *wholes)):
        if not dials or dial > dials[-1] + 1e-9:
            dials.append(dial)
    return dials


def last_kept(kept: Callable[[float], bool], dials: Sequence[float], step: float) -> float:
    """Return the last dial before a rule is broken; whole iterations first, to save work.

    Parameters
    ----------
    kept : callable
        Says whether the rule holds at a dial.
    dials : sequence of float
        As from `dial_grid`.
    step : float
        Optical depth of one iteration.
    """
    last, end = 0, len(dials)
    for i, dial in enumerate(dials):
        whole = abs(dial / step - round(dial / step)) < 1e-6
        if i == 0 or not whole:
            continue
        if not kept(dial):
            end = i
            break
        last = i
    for i in range(last + 1, end):
        if not kept(dials[i]):
            break
        last = i
    return dials[last]


def largest_kept(dial: float, kept_at: Callable[[float], bool]) -> float:
    """Return the largest dial up to `dial` that is kept, if all below one that is kept are."""
    if kept_at(dial):
        return dial
    kept, broken = 0.0, dial
    while broken - kept > ROUND:
        middle = (kept + broken) / 2
        if kept_at(middle):
            kept = middle
        else:
            broken = middle
    return math.floor(kept / ROUND + 1e-6) * ROUND
