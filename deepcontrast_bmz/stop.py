"""The automatic dial: how far to go before contrast is bought with invention.

Where the model brings an estimator of optical depth (`depth`), the dial is what it reads off the
image, within the depths it was fitted on, and no more than one iteration where the image is unlike
those trained for (`ood`). Else two rules look at the enhanced image x_D at dial D. *Residual*: seen
through the tissue again, H_D x_D must be the raw image up to its noise. *Background*: the darkest
pixels must not sink below the camera's offset, for there is no negative light. The smaller dial
of the two is taken.
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
    "explained",
    "forward_residual",
    "last_kept",
    "look_at",
    "measurable",
    "smooth_along_z",
]

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from deepcontrast_bmz.depth import TOLERANCE, estimate_depth
from deepcontrast_bmz.features import image_features
from deepcontrast_bmz.loop import blend, extend_symmetric
from deepcontrast_bmz.ood import measure, unusual
from deepcontrast_bmz.physics.camera import NoiseModel, estimate_camera, estimate_noise
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.settings import Fraction, NonNegative, Record
from deepcontrast_bmz.verdict import CONSISTENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from deepcontrast_bmz.model import Model
    from deepcontrast_bmz.ood import OodScore
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

_MASK_CELL = 4
"""Side of a cell that counts as masked if all of it is black, in pixels."""

_ROUND = 0.05
"""The estimated dial is rounded to this, in optical depth."""

_SMALLEST = 48
"""Side of a plane below which its spectrum tells no depth, in pixels."""

_OOD_SIDE = 256
"""Side of the window that the out-of-distribution score is taken from, in pixels."""

_BELOW_ZERO = 0.05
"""How far the dark parts may lie below zero counts, in shares of the brightness."""
_FEW_CELLS = 0.05
"""Share of the image, off masked parts, below which that cannot be said."""

_Z_REACH = 4.0
"""Planes on either side that smoothing along z looks at, at least."""
_Z_ROUNDS = 4
_LEAST_SURE = 0.05
"""Weight of a plane that nothing could be measured on."""


class DialChoice(Record):
    """A dial, and why."""

    dial: NonNegative
    """Optical depth to remove."""
    reason: str
    """One sentence."""
    confidence: Fraction
    """How sure it is. With an estimator: the share of specimens of this kind, left out of its fit,
    whose depth it met within 0.25 of a step; half of that for an unusual image. By the rules: 1 at
    the same dial, 0 two whole steps apart, at most 0.25 where only one of them could be used."""
    residual_dial: NonNegative | None = None
    """What the residual rule allows; None where the image has no measurable noise."""
    background_dial: NonNegative | None = None
    """What the background rule allows."""
    warning: str | None = None
    """One sentence where the image is unlike those the model was trained for."""


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

    With an estimator of optical depth in the description its reading is taken, rounded to 0.05.
    Else both rules go up a grid of 0.25 in optical depth and stop at the last dial before their
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
    noisy, cut_off = measurable(raw, noise)
    noise_free = not noisy
    read = _read_depth(raw, iterations, description, widths_px, noise)
    if read is not None:
        return read
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


def _read_depth(
    raw: Tensor,
    iterations: Tensor,
    description: LoopDescription,
    widths_px: Sequence[float],
    noise: NoiseModel,
) -> DialChoice | None:
    """Return what the estimator says; None where the model has none, or the plane is too small."""
    estimator, step = description.depth, description.step_optical_depth
    small = min(raw.shape) < _SMALLEST
    if estimator is None or estimator.iterations > iterations.shape[0] or small:
        return None
    kept = iterations[: estimator.iterations]
    features = image_features(
        raw, kept, widths_px=widths_px, weights=description.scatter.weights, step=step, noise=noise
    )
    noisy, cut_off = measurable(raw, noise)
    kind = noisy and cut_off <= _CUT_OFF
    found = estimate_depth(features, estimator, noisy=kind)
    dial = min(round(found.optical_depth / _ROUND) * _ROUND, estimator.deepest)
    reason = f"the haze looks like an optical depth of {found.optical_depth:.2f}"
    if dial >= estimator.deepest - _ROUND:
        reason += f", and {estimator.deepest:g} is as deep as the model was calibrated"
    possible = _not_below_zero(raw, kept, dial, step)
    if possible < dial:
        dial = possible
        reason += f", but beyond {dial:g} the dark parts would shine less than not at all"
    if noisy:
        consistent = _consistent(raw, kept, dial, description, widths_px, noise)
        if consistent < dial:
            dial = consistent
            reason += f", but beyond {dial:g} it would not explain the recording"
    if not kind:
        lost = "the noise is lost" if not noisy else f"black is cut off in {cut_off:.0%} of it"
        reason += f", less certain since {lost}"
    score = _score(raw, iterations, description)
    confidence, warning = found.confidence, None if score is None else score.warning
    if warning is not None:
        confidence /= 2
        if dial > step:
            reason += (
                f"; in so unusual an image the automatic dial stops at one iteration, {step:g}"
            )
            dial = step
    share = f"{found.confidence:.0%}"
    reason += f" (of specimens of this kind {share} were met within {TOLERANCE * step:g})"
    return DialChoice(dial=round(dial, 6), reason=reason, confidence=confidence, warning=warning)


def _not_below_zero(raw: Tensor, iterations: Tensor, dial: float, step: float) -> float:
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

    return _largest(dial, lambda tried: below(tried) <= _BELOW_ZERO)


def _consistent(
    raw: Tensor,
    iterations: Tensor,
    dial: float,
    description: LoopDescription,
    widths_px: Sequence[float],
    noise: NoiseModel,
) -> float:
    """Return the largest dial up to `dial` that the verdict does not call inconsistent."""
    used = explained(raw, widths_px)

    def explains(tried: float) -> bool:
        image = blend(raw, iterations, tried, description.step_optical_depth)
        weights = description.scatter.weights
        found = forward_residual(
            raw, image, tried, widths_px=widths_px, weights=weights, noise=noise, used=used
        )
        return found <= CONSISTENT[1]

    return _largest(dial, explains)


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


def _largest(dial: float, kept_at: Callable[[float], bool]) -> float:
    """Return the largest dial up to `dial` that is kept, if all below one that is kept are."""
    if kept_at(dial):
        return dial
    kept, broken = 0.0, dial
    while broken - kept > _ROUND:
        middle = (kept + broken) / 2
        if kept_at(middle):
            kept = middle
        else:
            broken = middle
    return math.floor(kept / _ROUND + 1e-6) * _ROUND


def _means(image: Tensor) -> Tensor:
    """Return means over 4 x 4 pixels, in which noise counts little."""
    return F.avg_pool2d(image[None, None].float(), 4)[0, 0]


def _score(raw: Tensor, iterations: Tensor, description: LoopDescription) -> OodScore | None:
    """Return how unusual the part of a plane with the most content is, where that can be said."""
    known = description.ood
    if known is None or known.iterations > iterations.shape[0] or min(raw.shape) < _SMALLEST:
        return None
    rows, columns = content_window(raw, _OOD_SIDE)
    part = raw[rows, columns]
    if float(part.max() - part.min()) == 0:
        return None
    return unusual(measure(part, iterations[: known.iterations, rows, columns], description), known)


def look_at(model: Model, raw: Tensor, iterations: Tensor | None = None) -> OodScore | None:
    """Return how unusual a plane is for a model, from its window with the most content.

    Parameters
    ----------
    model : Model
    raw : Tensor, (Y, X)
        Counts.
    iterations : Tensor, (K, Y, X), optional
        Iterations 1 to K, where they are at hand; else the window is run.

    Returns
    -------
    OodScore or None
        None where nothing can be said: the model has no statistics or works on stacks, or the
        plane is constant or smaller than they can tell.
    """
    known = model.description.ood
    if iterations is not None:
        return _score(raw.float(), iterations, model.description)
    enough = (
        model.max_iterations is None or known is None or known.iterations <= model.max_iterations
    )
    if known is None or model.dims != 2 or not enough or min(raw.shape) < _SMALLEST:
        return None
    part = raw[content_window(raw, _OOD_SIDE)].float()
    count = known.iterations
    kept = model.iterate(extend_symmetric(part[None, None], count * model.radius), count)[0]
    return _score(part, kept, model.description)


def smooth_along_z(
    dials: Sequence[float], confidences: Sequence[float] | None = None
) -> list[float]:
    """Return the dials of the planes of a stack as a smooth curve along z.

    Optical depth grows smoothly with depth, so single planes that stand out are wrong: a straight
    line is fitted around each plane, neighbours weighing less with distance and low confidence,
    and those far off the line next to nothing (Cleveland's robust local regression).

    Parameters
    ----------
    dials : sequence of float
        One per plane, in order, at even distances.
    confidences : sequence of float, optional
        0 to 1; equal if left out.

    Returns
    -------
    list of float
        Between the smallest and the largest of the dials.

    References
    ----------
    Cleveland, J. Am. Stat. Assoc. 74, 829 (1979), doi 10.1080/01621459.1979.10481038.
    """
    y = torch.as_tensor(list(dials), dtype=torch.float64)
    count = len(y)
    sure = torch.ones(count, dtype=torch.float64)
    if confidences is not None:
        sure = torch.as_tensor(list(confidences), dtype=torch.float64).clamp_min(_LEAST_SURE)
    if count < 3 or float(y.max() - y.min()) == 0:
        return [float(value) for value in y]
    z = torch.arange(count, dtype=torch.float64)
    reach = max(_Z_REACH, 0.3 * count)
    near = (1 - ((z[:, None] - z[None, :]).abs() / reach).clamp_max(1) ** 3) ** 3
    # The first guess is the running median, which a single outlier cannot bend.
    padded = torch.cat((y[:1], y, y[-1:]))
    fitted = padded.unfold(0, 3, 1).median(1).values
    for _ in range(_Z_ROUNDS):
        off = (y - fitted).abs()
        scale = 6 * max(float(off.median()), 1e-3)
        robust = ((1 - (off / scale).clamp_max(1) ** 2) ** 2).clamp_min(1e-3)
        weight = near * (sure * robust)[None, :]
        total = weight.sum(1)
        centre = (weight * z).sum(1) / total
        level = (weight * y).sum(1) / total
        lever = z[None, :] - centre[:, None]
        # A touch of ridge: neighbours that are all on one plane tell no slope.
        slope = (weight * lever * (y - level[:, None])).sum(1) / (
            (weight * lever**2).sum(1) + 1e-6 * total
        )
        fitted = level + slope * (z - centre)
    return [float(value) for value in fitted.clamp(float(y.min()), float(y.max()))]


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
