"""How far the recording lets the dial go, whatever depth was read off it."""

from __future__ import annotations

__all__ = ["Limit", "limit_dial"]

from typing import TYPE_CHECKING, NamedTuple

from deepcontrast_bmz.dial.evidence import judge_evidence, weigh_dial
from deepcontrast_bmz.dial.search import ROUND, find_largest_dial
from deepcontrast_bmz.dial.verdict import is_refused

if TYPE_CHECKING:
    from deepcontrast_bmz.dial.look import Look
    from deepcontrast_bmz.dial.verdict import Finding, Objection
    from deepcontrast_bmz.records import LoopDescription

_WORDS: dict[Objection, str] = {
    "contrast": "the reference",
    "misfit": "the recording, which more would not explain",
    "offset": "dark parts, which would fall below the camera offset",
    "zero": "dark parts, which would fall below zero",
    "noise": "noise, which would grow more than the contrast",
}


class Limit(NamedTuple):
    """A dial, and what keeps it from being larger."""

    dial: float
    by: str | None
    """In plain words; None where nothing does."""


def limit_dial(look: Look, dial: float, description: LoopDescription) -> Limit:
    """Return the largest dial up to `dial` that the verdict does not refuse.

    Parameters
    ----------
    look : Look
    dial : float
        Optical depth to begin with.
    description : LoopDescription
        Step, kernel and trained range.
    """
    refused: dict[float, Finding] = {}

    def is_kept(tried: float) -> bool:
        finding = judge_evidence(weigh_dial(look, tried, description))
        if is_refused(finding.verdict):
            refused[tried] = finding
        return tried not in refused

    found = round(find_largest_dial(dial, is_kept), 6)
    # Evidence need not fall in step with the dial: what is returned was looked at itself.
    while found > 0 and found != dial and not is_kept(found):
        found = round(max(found - ROUND, 0.0), 6)
    if not refused:
        return Limit(found, None)
    first = refused[min(refused)]
    return Limit(found, None if first.objection is None else _WORDS[first.objection])
