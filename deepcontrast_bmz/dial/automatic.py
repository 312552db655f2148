"""The automatic dial: how far to go before contrast is bought with invention.

Where the model brings an estimator of optical depth (`depth`), the dial is what it reads off the
image, within the depths it was fitted on, and no more than one iteration where the image is unlike
those trained for (`ood`). Else two rules look at the enhanced image x_D at dial D. *Residual*: seen
through the tissue again, H_D x_D must be the raw image up to its noise. *Background*: the darkest
pixels must not sink below the camera's offset, for there is no negative light. The smaller dial
of the two is taken.
"""

from __future__ import annotations

__all__ = ["DialChoice", "choose_dial", "look_at"]

from typing import TYPE_CHECKING

from deepcontrast_bmz.dial.consistency import (
    CUT_OFF,
    ROUND,
    background_level,
    coarse_misfit,
    comparable,
    dial_grid,
    forward_residual,
    largest_kept,
    last_kept,
    measurable,
    model_error,
    not_below_zero,
    tissue_kernels,
)
from deepcontrast_bmz.dial.features import image_features
from deepcontrast_bmz.dial.ood import measure, unusual
from deepcontrast_bmz.dial.optical_depth import TOLERANCE, estimate_depth
from deepcontrast_bmz.dial.verdict import LIMITS, darkness, too_dark
from deepcontrast_bmz.dial.window import content_window
from deepcontrast_bmz.model.loop import blend, extend
from deepcontrast_bmz.physics.camera import estimate_camera
from deepcontrast_bmz.physics.noise import NoiseModel, estimate_noise
from deepcontrast_bmz.settings import Fraction, NonNegative, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deepcontrast_bmz.dial.ood import OodScore
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.records import LoopDescription

_SMALLEST = 48
"""Side of a plane below which its spectrum tells no depth, in pixels."""

_OOD_SIDE = 256
"""Side of the window that the out-of-distribution score is taken from, in pixels."""


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


def choose_dial(
    raw: Tensor,
    iterations: Tensor,
    description: LoopDescription,
    *,
    widths_px: Sequence[float],
    noise: NoiseModel | None = None,
    offset: float | None = None,
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
    offset : float, optional
        Counts in the dark; estimated from the image if left out.

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
    offset = offset if offset is not None else estimate_camera(raw).offset
    rows, columns = content_window(raw)
    raw, iterations = raw[rows, columns], iterations[:, rows, columns].float()

    step = description.step_optical_depth
    limits = description.stop_rule
    above = raw > raw.min()
    noisy, cut_off = measurable(raw, noise)
    noise_free = not noisy
    read = _read_depth(raw, iterations, description, widths_px, noise, offset)
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
    if cut_off > CUT_OFF:
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


def _read_depth(
    raw: Tensor,
    iterations: Tensor,
    description: LoopDescription,
    widths_px: Sequence[float],
    noise: NoiseModel,
    offset: float,
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
    kind = noisy and cut_off <= CUT_OFF
    found = estimate_depth(features, estimator, noisy=kind)
    dial = min(round(found.optical_depth / ROUND) * ROUND, estimator.deepest)
    reason = f"the haze looks like an optical depth of {found.optical_depth:.2f}"
    if dial >= estimator.deepest - ROUND:
        reason += f", and {estimator.deepest:g} is as deep as the model was calibrated"
    possible = not_below_zero(raw, kept, dial, step)
    if possible < dial:
        dial = possible
        reason += f", but beyond {dial:g} the dark parts would shine less than not at all"
    if kind:
        light = largest_kept(
            dial,
            lambda tried: (
                not too_dark(darkness(blend(raw, kept, tried, step).numpy(), offset, noise))
            ),
        )
        if light < dial:
            dial = light
            reason += f", but beyond {dial:g} the dark parts would sink below the camera offset"
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


def _consistent(
    raw: Tensor,
    iterations: Tensor,
    dial: float,
    description: LoopDescription,
    widths_px: Sequence[float],
    noise: NoiseModel,
) -> float:
    """Return the largest dial up to `dial` that some tissue of the trained range explains."""
    used = comparable(raw, widths_px)
    if used is None:
        return dial
    kernels = tissue_kernels(widths_px, description.training_ranges.width_factor)
    limit = LIMITS.misfit + model_error(raw, noise, used)

    def explains(tried: float) -> bool:
        image = blend(raw, iterations, tried, description.step_optical_depth)
        weights = description.scatter.weights
        return any(
            coarse_misfit(
                raw, image, tried, widths_px=kernel, weights=weights, noise=noise, used=used
            )
            <= limit
            for _, kernel in kernels
        )

    return largest_kept(dial, explains)


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
    kept = model.iterate(extend(part[None, None], [count * model.radius] * 2), count)[0]
    return _score(part, kept, model.description)


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
