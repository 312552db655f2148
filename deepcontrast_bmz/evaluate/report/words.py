"""What the report says: verdicts, numbers and the outcome in plain words."""

from __future__ import annotations

__all__ = [
    "AGAINST_REFERENCE",
    "MEANINGS",
    "MINUS",
    "READING",
    "REFUSED",
    "TIMES",
    "dial_word",
    "number",
    "outcome",
    "place",
    "reason",
    "summary",
    "tick",
]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepcontrast_bmz.dial.verdict import Verdict
    from deepcontrast_bmz.evaluate.records import DialScores, Evaluation

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"

MEANINGS: Mapping[Verdict, str] = {
    "ok": "nothing speaks against it",
    "over-enhanced": "more contrast than the recording or the reference supports",
    "inconsistent": "degraded again, it does not give the recording back",
    "unmeasurable": "neither a reference nor noise off masks to judge by",
}
"""Verdicts in plain words."""

REFUSED: tuple[Verdict, ...] = ("over-enhanced", "inconsistent")
"""Verdicts that refuse an image."""

READING = (
    (
        "Dial",
        "Optical depth of tissue that is removed; 0 is the raw image. One whole iteration of the "
        "model removes {step:g}.",
    ),
    (
        "Contrast gain",
        "RMS contrast (spread over mean, camera offset removed) over that of the raw image, "
        "measured on two halves of the recording so that amplified noise does not count. "
        "Background subtraction or gamma gain contrast too: read it only beside the next ones.",
    ),
    (
        "Contrast recovery",
        "Contrast over that of the reference. 1 is the aim; above 1.15 is called over-enhanced.",
    ),
    (
        "Detail",
        "How much fine (0.7-1.6 px) and coarse (1.6-5 px) structure agrees with an independent "
        "half of the recording, or 1-4 px structure with the reference. The raw image itself "
        "stays below 1 as far as it holds noise: what counts is the distance from its row. "
        "Unmeasurable where the recording holds more noise than structure.",
    ),
    (
        "Forward consistency",
        "The enhanced image is sent through the model tissue again, with a kernel of the trained "
        "range that explains it, and compared with the recording, in units of its noise. Around 1 "
        "it explains the recording up to its noise; below {low:g} it has kept some of the noise "
        "(0 is the raw image itself); above {high:g} contrast is wrong, which the next score "
        "tells, or fine detail was lost.",
    ),
    (
        "Systematic misfit",
        "The part of that which is neither noise nor finer than 1.5 px, measured on the two "
        "halves: 0 is none, 1 is as much as the noise itself. Above {most} the recording "
        "contradicts the contrast: 0.2, and more where there is so much light that the tissue "
        "model itself is less exact than the recording.",
    ),
    (
        "PSNR, SSIM, precision",
        "Against the reference: peak signal-to-noise ratio and structural similarity after the "
        "best scale and offset; average precision of the brightness for the foreground of the "
        "reference (above its Otsu threshold).",
    ),
    (
        "Confidence",
        "How sure the automatic dial is, from 0 to 1: where the depth was read off the image, the "
        "share of test specimens of this kind whose depth was met within 0.25, half of that for "
        "an unusual image.",
    ),
    (
        "Plane",
        "One plane of the stack is judged: unless it was named, the one whose grey values vary "
        "most once noise is smoothed away. With the automatic dial, dcbmz predict looks at every "
        "plane and smooths the dials along z, so that its dial here may differ.",
    ),
)
"""How to read each score; braces are filled in by the page."""

AGAINST_REFERENCE = ("Contrast recovery", "PSNR, SSIM, precision")
"""Those of them that need a reference."""


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a fixed count of decimals and a true minus sign."""
    if value is None:
        return "unmeasurable"
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def dial_word(value: float) -> str:
    """Return a dial with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"


def tick(value: float) -> str:
    """Return a number as short as it goes, with a true minus sign."""
    return f"{value:g}".replace("-", MINUS)


def place(evaluation: Evaluation) -> str:
    """Return where in its stack the judged plane lies, counted from 0; empty for a single plane.

    Parameters
    ----------
    evaluation : Evaluation
    """
    return ", ".join(f"{dim} = {index}" for dim, index in evaluation.plane.items())


def reason(row: DialScores) -> str:
    """Return why a dial has its verdict.

    Parameters
    ----------
    row : DialScores
    """
    return row.why if row.verdict in REFUSED and row.why else MEANINGS[row.verdict]


def summary(evaluation: Evaluation) -> str:
    """Return the outcome and the verdict in plain words, one or two sentences without markup.

    Parameters
    ----------
    evaluation : Evaluation
    """
    row = evaluation.chosen
    said = outcome(evaluation)
    return said if row.dial == 0 else f"{said} Verdict: {row.verdict}, {reason(row)}."


def outcome(evaluation: Evaluation) -> str:
    """Return what the automatic dial gains and costs, one sentence without markup.

    Parameters
    ----------
    evaluation : Evaluation
    """
    row = evaluation.chosen
    if row.dial == 0:
        return f"The raw image should stay as it is: {evaluation.chosen_reason}."
    gain = "an unmeasurable number of" if row.contrast_gain is None else number(row.contrast_gain)
    parts = [
        f"At the automatic dial {dial_word(row.dial)} the contrast is {gain} times the raw image's"
    ]
    if row.contrast_recovery is not None:
        parts.append(f"{round(100 * row.contrast_recovery)} % of the reference's")
    before = evaluation.scores[0].reference_middle
    if row.reference_middle is not None and before is not None:
        parts.append(
            f"its structure agrees with the reference at {number(row.reference_middle)} "
            f"(raw {number(before)})"
        )
    elif evaluation.price != "forward_consistency":
        kept: float = getattr(row, evaluation.price)
        size = "fine" if evaluation.price == "detail_fine" else "coarse"
        parts.append(f"{size} detail is retained at {number(kept)}")
    else:
        parts.append("what that cost in detail is unmeasurable in this much noise")
    if row.forward_consistency is not None:
        parts.append(f"forward consistency is {number(row.forward_consistency)}")
    return f"{', '.join(parts)}."
