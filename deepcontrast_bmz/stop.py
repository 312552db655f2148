"""The automatic dial: how far to go before contrast is bought with invention.

Two rules look at the enhanced image x_D at dial D. *Residual*: seen through the tissue again,
H_D x_D must be the raw image up to its noise. *Background*: the darkest pixels must not sink
below the camera's offset, for there is no negative light. The smaller dial of the two is taken.
"""

from __future__ import annotations

__all__ = [
    "GRID",
    "WINDOW",
    "DialChoice",
    "background_level",
    "choose_dial",
    "content_window",
    "dial_grid",
    "forward_residual",
    "last_kept",
]

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from deepcontrast_bmz.loop import blend
from deepcontrast_bmz.physics.camera import NoiseModel, estimate_camera, estimate_noise
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.settings import Fraction, NonNegative, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from deepcontrast_bmz.settings import LoopDescription

GRID = 0.25
"""Distance between the dials that are tried, in optical depth."""

WINDOW = 768
"""Side of the part of a plane that the dial is chosen on, in pixels."""

_CELL = 32
"""Side of the cells that content is measured in, in pixels."""

_OUTLIERS = 0.001
"""Share of the largest residuals that is left out: hot pixels are not misfit."""

_CUT_OFF = 0.01
"""Share of pixels at the smallest value from which black counts as cut off, or masked."""

_NOISE_FREE = 2e-3
"""Noise deviation over the range of grey levels below which there is nothing to compare with:
rounding to 8 bits alone makes 1.1e-3."""


class DialChoice(Record):
    """A dial, and why."""

    dial: NonNegative
    """Optical depth to remove."""
    reason: str
    """One sentence."""
    confidence: Fraction
    """How far the two rules agree: 1 at the same dial, 0 two whole steps apart; at most 0.25
    where only one of them could be used."""
    residual_dial: NonNegative | None = None
    """What the residual rule allows; None where the image has no measurable noise."""
    background_dial: NonNegative | None = None
    """What the background rule allows."""


def content_window(raw: Tensor, size: int = WINDOW) -> tuple[slice, slice]:
    """Return rows and columns of the part of a plane with the most content.

    Content is how far cells of 32 x 32 pixels differ from the plane's median; among equals the
    window nearest to the centre is taken.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    size : int
        Largest side of the window in pixels.

    Returns
    -------
    tuple of slice
    """
    height, width = raw.shape
    tall, wide = min(size, height), min(size, width)
    if (tall, wide) == (height, width):
        return slice(0, height), slice(0, width)
    cell = min(_CELL, tall, wide)
    means = F.avg_pool2d(raw[None, None].float(), cell)
    content = (means - means.median()).abs()
    # The lines and columns beyond the last whole cell can be reached by no window: no matter.
    windows = (max(tall // cell, 1), max(wide // cell, 1))
    total = F.avg_pool2d(content, windows, stride=1)[0, 0]
    rows = torch.arange(total.shape[0]) - (total.shape[0] - 1) / 2
    columns = torch.arange(total.shape[1]) - (total.shape[1] - 1) / 2
    off_centre = rows[:, None] ** 2 + columns[None, :] ** 2
    best = total >= total.max() * (1 - 1e-3)
    place = int(torch.where(best.cpu(), -off_centre, -torch.inf).argmax())
    top = min(place // total.shape[1] * cell, height - tall)
    left = min(place % total.shape[1] * cell, width - wide)
    return slice(top, top + tall), slice(left, left + wide)


def forward_residual(
    raw: Tensor,
    enhanced: Tensor,
    dial: float,
    *,
    widths_px: Sequence[float],
    weights: Sequence[float],
    noise: NoiseModel,
    used: Tensor | None = None,
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

    Returns
    -------
    float
        Dimensionless; 0 where no pixel counts.
    """
    predicted = scatter(enhanced, dial, widths_px, weights)
    misfit = (raw - predicted) ** 2 / noise.variance(predicted)
    border = min(math.ceil(2 * max(widths_px)), min(raw.shape) // 4)
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


def choose_dial(
    raw: Tensor,
    iterations: Tensor,
    description: LoopDescription,
    *,
    widths_px: Sequence[float],
    noise: NoiseModel | None = None,
) -> DialChoice:
    """Choose the dial for one plane from the image itself.

    Both rules go up a grid of 0.25 in optical depth and stop at the last dial before their
    limit is crossed; what lies beyond is not looked at.

    Parameters
    ----------
    raw : Tensor, (Y, X)
        Counts, as recorded.
    iterations : Tensor, (K, Y, X)
        Iterations 1 to K; the dial goes no further than these.
    description : LoopDescription
        Step, kernel and the calibrated limits.
    widths_px : sequence of float
        Widths of the scattering kernel in this image's pixels.
    noise : NoiseModel, optional
        Noise of the raw image; estimated from it if left out.

    Returns
    -------
    DialChoice
    """
    raw = raw.float()
    spread = float(raw.max() - raw.min())
    if spread == 0:
        return DialChoice(
            dial=0.0, confidence=1.0, reason="the image is constant: there is no contrast to gain"
        )
    noise = noise if noise is not None else estimate_noise(raw)
    offset = estimate_camera(raw).offset
    rows, columns = content_window(raw)
    raw, iterations = raw[rows, columns], iterations[:, rows, columns].float()

    step = description.step_optical_depth
    limits = description.stop_rule
    above = raw > raw.min()
    cut_off = 1 - float(above.float().mean())
    typical = math.sqrt(float(noise.variance(raw.median())))
    noise_free = typical < _NOISE_FREE * spread
    count = iterations.shape[0]
    dials = dial_grid(count, step)

    def background_kept(dial: float) -> bool:
        image = blend(raw, iterations, dial, step)
        return background_level(image, offset, noise) >= -limits.background_sd

    def residual_kept(dial: float) -> bool:
        residual = forward_residual(
            raw,
            blend(raw, iterations, dial, step),
            dial,
            widths_px=widths_px,
            weights=description.scatter.weights,
            noise=noise,
            used=above,
        )
        return residual <= limits.residual

    if noise_free:
        return DialChoice(
            dial=min(step, dials[-1]),
            confidence=0.0,
            reason=(
                "without noise in the image neither rule is measurable; one iteration is a "
                "beginning, no judgement: compare dials by eye"
            ),
        )
    # One rule alone has nothing to be checked against: it goes no further than one iteration.
    if cut_off > _CUT_OFF:
        residual = min(last_kept(residual_kept, dials, step), step)
        return DialChoice(
            dial=residual,
            residual_dial=residual,
            confidence=0.25,
            reason=(
                f"black is cut off or masked in {cut_off:.0%} of the pixels, which leaves the "
                f"background rule unmeasurable; the residual allows {residual:g}, and no more "
                "than one iteration is taken on its word: compare dials by eye"
            ),
        )
    background = last_kept(background_kept, dials, step)
    residual = last_kept(residual_kept, dials, step)
    return DialChoice(
        dial=min(residual, background),
        residual_dial=residual,
        background_dial=background,
        confidence=max(0.0, 1 - abs(residual - background) / (2 * step)),
        reason=_reason(residual, background, dials[-1]),
    )


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
    grid = [GRID * i for i in range(math.floor(last / GRID + 1e-9) + 1)]
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


def _reason(residual: float, background: float, most: float) -> str:
    if min(residual, background) >= most:
        return (
            f"neither the forward residual nor the background sets a limit up to {most:g}, all "
            "that was computed: more iterations may gain more"
        )
    if residual == background:
        return (
            f"up to {residual:g} the image seen through the tissue again is the raw one within "
            "its noise and the background keeps above the camera offset"
        )
    if residual < background:
        return (
            f"beyond {residual:g} the image seen through the tissue again is no longer the raw one "
            f"within its noise; the background would allow {background:g}"
        )
    return (
        f"beyond {background:g} the background sinks below the camera offset; "
        f"the forward residual would allow {residual:g}"
    )
