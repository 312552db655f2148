"""The automatic dial: look at a plane, read its depth, limit the dial by evidence, say why.

Where the halves of the light share no detail, there is no dial. Else the optical depth is what the
model's estimator reads off the image, within the depths it was fitted on, and the dial is that or
what the verdict leaves of it (`limit`). The warning changes nothing.
"""

from __future__ import annotations

__all__ = ["NO_STRUCTURE", "Decision", "DialChoice", "choose_dial", "decide_dial"]

from typing import TYPE_CHECKING, NamedTuple

from deepcontrast_bmz.dial.consistency import CUT_OFF
from deepcontrast_bmz.dial.evidence import Evidence, weigh_dial
from deepcontrast_bmz.dial.features import image_features
from deepcontrast_bmz.dial.limit import limit_dial
from deepcontrast_bmz.dial.look import Look, look_at_plane
from deepcontrast_bmz.dial.optical_depth import DepthEstimate, estimate_depth
from deepcontrast_bmz.dial.say import say_dial, say_reading
from deepcontrast_bmz.dial.search import ROUND
from deepcontrast_bmz.dial.structure import shows_structure
from deepcontrast_bmz.dial.unusual import SMALLEST, score_window
from deepcontrast_bmz.settings import Fraction, NonNegative, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deepcontrast_bmz.dial.look import Run
    from deepcontrast_bmz.physics.noise import NoiseModel
    from deepcontrast_bmz.records import DepthEstimator, LoopDescription

NO_STRUCTURE = "no structure above the noise"
"""Why there is no dial, in words."""

_FEWEST = 64
"""Usable pixels below which a plane has nothing to choose a dial by."""

_HEADROOM = 0.5
"""How far beyond the dial that was read the evidence is looked at, in optical depth: smoothing and
sharing may raise a dial that far."""


class DialChoice(Record):
    """A dial, and why."""

    dial: NonNegative
    """Optical depth to remove."""
    reason: str
    """One short sentence, such as "dial 1.75 (optical depth 1.8, 80% within 1.5 to 2.1)"."""
    confidence: Fraction
    """Share of specimens of this kind, left out of the estimator's fit, whose depth it met within
    0.25 of a step; half of that for an unusual image, 0 where no depth could be read."""
    warning: str | None = None
    """One sentence where the image is unlike those the model was trained for."""
    empty: bool = False
    """Nothing is there whose depth could be read; says nothing of other planes."""
    optical_depth: NonNegative | None = None
    """What was read off the image; None where nothing could be."""
    interval: tuple[NonNegative, NonNegative] | None = None
    """What holds that of four in five, see `DepthEstimator`."""
    ood_score: NonNegative | None = None
    """How unusual the image is, see `dial.ood`; None where that cannot be said."""
    most: NonNegative | None = None
    """The largest dial that was looked at and is not refused: whoever smooths dials along z, or
    shares one among images, goes no further. None where nothing forbids more."""


class Decision(NamedTuple):
    """A dial, and all that it was decided by."""

    choice: DialChoice
    look: Look | None
    """None where the plane is constant."""
    description: LoopDescription

    def weigh(self, dial: float) -> Evidence:
        """Return what the recording says of any dial; nothing, where the plane is constant."""
        if self.look is None:
            return Evidence(dial)
        return weigh_dial(self.look, dial, self.description)


def choose_dial(
    raw: Tensor,
    run: Run,
    description: LoopDescription,
    *,
    widths_px: Sequence[float],
    noise: NoiseModel | None = None,
    offset: float | None = None,
    mask: Tensor | None = None,
) -> DialChoice:
    """Choose the dial for one plane from the image itself.

    Parameters
    ----------
    raw, run, description, widths_px, noise, offset, mask
        As for `decide_dial`.

    Returns
    -------
    DialChoice
    """
    return decide_dial(
        raw, run, description, widths_px=widths_px, noise=noise, offset=offset, mask=mask
    ).choice


def decide_dial(
    raw: Tensor,
    run: Run,
    description: LoopDescription,
    *,
    widths_px: Sequence[float],
    noise: NoiseModel | None = None,
    offset: float | None = None,
    mask: Tensor | None = None,
) -> Decision:
    """Decide the dial of one plane, and keep what it was decided by.

    Where no depth can be read, since the model has no estimator or the plane is too small, one
    iteration is a beginning, as far as the recording allows it.

    Parameters
    ----------
    raw : Tensor, (Y, X) or (Z, Y, X)
        Counts, as recorded, NaN allowed; for a model of stacks all planes that it sees, the plane
        in the middle.
    run : callable
        Makes iterations, see `dial.look.Run`.
    description : LoopDescription
        Step, kernel and estimator.
    widths_px : sequence of float
        Widths of the scattering kernel in this image's pixels.
    noise : NoiseModel, optional
        Noise of the raw image; estimated from it if left out.
    offset : float, optional
        Counts in the dark; estimated from the image if left out.
    mask : Tensor of bool, (Y, X), optional
        Pixels that may count; see `dial.usable.usable_pixels`.

    Returns
    -------
    Decision
    """
    plane = raw if raw.ndim == 2 else raw[len(raw) // 2]
    known = plane[plane.isfinite()]
    if not known.numel() or float(known.max() - known.min()) == 0:
        return Decision(_choose_none("the image is constant", 1.0), None, description)
    look = look_at_plane(raw, run, widths_px, noise=noise, offset=offset, mask=mask)
    return Decision(_choose(look, description), look, description)


def _choose_none(why: str, confidence: float, most: float | None = None) -> DialChoice:
    """Return the choice for a plane with nothing in it."""
    reason = say_dial(0.0, why)
    return DialChoice(dial=0.0, confidence=confidence, reason=reason, empty=True, most=most)


def _choose(look: Look, description: LoopDescription) -> DialChoice:
    """Choose the dial of a plane that was looked at."""
    small = min(look.raw.shape) < SMALLEST
    if not small and (
        int(look.usable.sum()) < _FEWEST or (look.noisy and not shows_structure(look.structure))
    ):
        return _choose_none(NO_STRUCTURE, 0.0, most=0.0)
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
    reading = _read_depth(look, description, estimator)
    wanted = min(round(reading.optical_depth / ROUND) * ROUND, estimator.deepest)
    # Beyond what was read, too: see `most`.
    limit = limit_dial(look, round(min(wanted + _HEADROOM, estimator.deepest), 6), description)
    dial = round(min(wanted, limit.dial), 6)
    by = limit.by if limit.dial < wanted else None
    if by is None and wanted >= estimator.deepest - ROUND:
        by = f"the model, which was fitted no deeper than {estimator.deepest:g}"
    score = score_window(look, description)
    warning = None if score is None else score.warning
    basis = say_reading(
        reading.optical_depth,
        reading.interval,
        noisy=look.noisy,
        black=look.black,
        cut_off=CUT_OFF,
    )
    return DialChoice(
        dial=dial,
        reason=say_dial(dial, basis, by),
        confidence=reading.confidence if warning is None else reading.confidence / 2,
        warning=warning,
        optical_depth=reading.optical_depth,
        interval=reading.interval,
        ood_score=None if score is None else score.score,
        most=limit.dial,
    )


def _find_why_unread(look: Look, description: LoopDescription) -> str | None:
    """Return why no depth can be read off a plane; None if one can."""
    if description.depth is None:
        return "the model has no estimator of it"
    if description.depth.iterations > description.iterations:
        return f"that takes {description.depth.iterations} iterations"
    if min(look.raw.shape) < SMALLEST:
        return f"the plane is smaller than {SMALLEST} pixels"
    return None


def _read_depth(
    look: Look, description: LoopDescription, estimator: DepthEstimator
) -> DepthEstimate:
    """Read the optical depth off a plane and its iterations."""
    step = description.step_optical_depth
    features = image_features(
        look.raw,
        look.iterate(estimator.iterations)[: estimator.iterations],
        widths_px=look.widths_px,
        weights=description.scatter.weights,
        step=step,
        noise=look.noise,
        offset=look.offset,
    )
    return estimate_depth(features, estimator, step=step, noisy=look.knows_offset)
