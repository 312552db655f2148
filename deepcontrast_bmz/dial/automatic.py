"""The automatic dial: look at a plane, read its depth, limit the dial by evidence, say why.

The optical depth is what the model's estimator reads off the image, within the depths it was
fitted on. The recording limits the dial (`limit`), and so does an image unlike those trained for.
"""

from __future__ import annotations

__all__ = ["DialChoice", "choose_dial"]

from typing import TYPE_CHECKING

from deepcontrast_bmz.dial.consistency import CUT_OFF
from deepcontrast_bmz.dial.features import image_features
from deepcontrast_bmz.dial.limit import Limit, limit_dial
from deepcontrast_bmz.dial.look import Look, look_at_plane
from deepcontrast_bmz.dial.optical_depth import DepthEstimate, estimate_depth
from deepcontrast_bmz.dial.say import say_dial, say_reading
from deepcontrast_bmz.dial.search import ROUND
from deepcontrast_bmz.dial.unusual import SMALLEST, score_window
from deepcontrast_bmz.settings import Fraction, NonNegative, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deepcontrast_bmz.physics.noise import NoiseModel
    from deepcontrast_bmz.records import DepthEstimator, LoopDescription


class DialChoice(Record):
    """A dial, and why."""

    dial: NonNegative
    """Optical depth to remove."""
    reason: str
    """One short sentence, such as "dial 1.75 (optical depth 1.8 +- 0.3)"."""
    confidence: Fraction
    """Share of specimens of this kind, left out of the estimator's fit, whose depth it met within
    0.25 of a step; half of that for an unusual image, 0 where no depth could be read."""
    warning: str | None = None
    """One sentence where the image is unlike those the model was trained for."""
    empty: bool = False
    """Nothing is there whose depth could be read; says nothing of other planes."""


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

    Where no depth can be read, since the model has no estimator or the plane is too small, one
    iteration is a beginning, as far as the recording allows it.

    Parameters
    ----------
    raw : Tensor, (Y, X)
        Counts, as recorded.
    iterations : Tensor, (K, Y, X)
        Iterations 1 to K; the dial goes no further than these.
    description : LoopDescription
        Step, kernel and estimator.
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
    if float(raw.max() - raw.min()) == 0:
        reason = say_dial(0.0, "the image is constant")
        return DialChoice(dial=0.0, confidence=1.0, reason=reason, empty=True)
    look = look_at_plane(raw, iterations, widths_px, noise=noise, offset=offset)
    unread = _find_why_unread(look, description)
    if unread is not None:
        limit = limit_dial(look, description.step_optical_depth, description)
        basis = f"no optical depth read: {unread}"
        return DialChoice(
            dial=round(limit.dial, 6),
            confidence=0.0,
            reason=say_dial(limit.dial, basis, limit.by),
        )
    estimator = description.depth
    assert estimator is not None
    look = look._replace(iterations=look.iterations[: estimator.iterations])
    reading = _read_depth(look, description, estimator)
    dial = min(round(reading.optical_depth / ROUND) * ROUND, estimator.deepest)
    limit = limit_dial(look, dial, description)
    if limit.by is None and dial >= estimator.deepest - ROUND:
        limit = Limit(dial, f"the model, which was fitted no deeper than {estimator.deepest:g}")
    score = score_window(look.raw, look.iterations, description)
    warning = None if score is None else score.warning
    confidence = reading.confidence if warning is None else reading.confidence / 2
    if warning is not None and limit.dial > description.step_optical_depth:
        limit = Limit(description.step_optical_depth, "how unusual the image is, to one iteration")
    basis = say_reading(
        reading.optical_depth,
        reading.error,
        noisy=look.noisy,
        black=look.black,
        cut_off=CUT_OFF,
    )
    return DialChoice(
        dial=round(limit.dial, 6),
        reason=say_dial(round(limit.dial, 6), basis, limit.by),
        confidence=confidence,
        warning=warning,
    )


def _find_why_unread(look: Look, description: LoopDescription) -> str | None:
    """Return why no depth can be read off a plane; None if one can."""
    if description.depth is None:
        return "the model has no estimator of it"
    if description.depth.iterations > look.iterations.shape[0]:
        return f"that takes {description.depth.iterations} iterations"
    if min(look.raw.shape) < SMALLEST:
        return f"the plane is smaller than {SMALLEST} pixels"
    return None


def _read_depth(
    look: Look, description: LoopDescription, estimator: DepthEstimator
) -> DepthEstimate:
    """Read the optical depth off a plane and its iterations."""
    features = image_features(
        look.raw,
        look.iterations,
        widths_px=look.widths_px,
        weights=description.scatter.weights,
        step=description.step_optical_depth,
        noise=look.noise,
    )
    step = description.step_optical_depth
    return estimate_depth(features, estimator, step=step, noisy=look.knows_offset)
