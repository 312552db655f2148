"""The verdict on an enhanced image: whether the recording supports its contrast.

Contrast alone proves nothing: gamma, subtraction and sharpening gain it, too. An image is refused
if it has more contrast than a reference, if it shows less than no light, if degraded again it is
not the recording, or if it is noise that was amplified. Where nothing of that can be measured, it
says so.
"""

from __future__ import annotations

__all__ = [
    "CONSISTENT",
    "HIGHEST_RECOVERY",
    "LIMITS",
    "Finding",
    "Objection",
    "Verdict",
    "is_refused",
    "judge",
]

from typing import Literal, NamedTuple

from deepcontrast_bmz.dial.darkness import DARKNESS_SHARE, is_too_dark

Verdict = Literal["ok", "over-enhanced", "inconsistent", "unmeasurable"]

Objection = Literal["contrast", "misfit", "offset", "zero", "noise"]
"""What speaks against an image."""

HIGHEST_RECOVERY = 1.15
"""Contrast beyond this share of the reference's is over-enhanced."""
CONSISTENT = (0.9, 1.1)
"""Forward consistency of an image that explains the recording up to its noise. Above, contrast is
wrong, which the misfit tells, or detail was lost; below, the image has kept some of the noise, as
every small dial does. Neither alone is a reason to refuse it."""


class _Limits(NamedTuple):
    misfit: float = 0.2
    """Largest systematic misfit of structure coarser than noise hides, in noise variances."""
    noise: float = 1.25
    """How much more the noise may grow than the contrast."""


LIMITS = _Limits()


class Finding(NamedTuple):
    """A verdict and its reason."""

    verdict: Verdict
    why: str
    """What speaks against it, or what could not be measured, in plain words."""
    objection: Objection | None = None
    """What speaks against it, in a word; None where nothing does."""


def is_refused(verdict: Verdict) -> bool:
    """Return whether an image of that verdict is refused."""
    return verdict in ("over-enhanced", "inconsistent")


def judge(
    recovery: float | None,
    misfit: float | None,
    *,
    below_offset: tuple[float, float] | None = None,
    below_zero: float | None = None,
    noise_gain: float | None = None,
    contrast_gain: float | None = None,
    model_error: float = 0.0,
) -> Finding:
    """Return the verdict on one image.

    Parameters
    ----------
    recovery : float or None
        Contrast recovery; None without a reference.
    misfit : float or None
        Systematic misfit; None where the recording has no measurable noise off masks.
    below_offset : (float, float) or None
        From `measure_darkness`; None where the offset cannot be known.
    below_zero : float or None
        From `measure_below_zero`.
    noise_gain, contrast_gain : float or None
        How many times the deviation of the noise, and the contrast, are the recording's.
    model_error : float
        What the limit of the misfit is widened by, see `consistency.model_error`.

    Returns
    -------
    Finding
        *Over-enhanced* above a recovery of 1.15, with dark parts more than 4 deviations and 5 %
        below the offset or 5 % below zero counts, or where noise grew 1.25 times as much as
        contrast and at all; *inconsistent* above a misfit of 0.2, widened by the error of the
        tissue model; *unmeasurable* if neither recovery nor misfit is known.
    """
    if recovery is not None and recovery > HIGHEST_RECOVERY:
        return Finding(
            "over-enhanced", f"its contrast is {recovery:.2f} times the reference's", "contrast"
        )
    if misfit is not None and misfit > LIMITS.misfit + model_error:
        return Finding(
            "inconsistent",
            f"degraded again it misses the recording by a systematic {misfit:.2f} of its noise",
            "misfit",
        )
    if below_offset is not None and is_too_dark(below_offset):
        return Finding(
            "over-enhanced",
            f"its dark parts lie {below_offset[1]:.0%} of the brightness below no light at all",
            "offset",
        )
    if below_zero is not None and below_zero > DARKNESS_SHARE:
        return Finding(
            "over-enhanced",
            f"its dark parts lie {below_zero:.0%} of the brightness below zero counts",
            "zero",
        )
    if noise_gain is not None and contrast_gain is not None:
        growth = max(contrast_gain, 1.0)
        if noise_gain > LIMITS.noise * growth:
            return Finding(
                "over-enhanced",
                f"its noise grew {noise_gain:.1f} times, its contrast {contrast_gain:.1f} times",
                "noise",
            )
    if recovery is None and misfit is None:
        return Finding(
            "unmeasurable",
            "there is neither a reference nor measurable noise off masks to judge by",
        )
    return Finding("ok", "nothing measured speaks against it")
