"""The zoo's score, as arithmetic on numbers.

Read in bioimage-io/collection at 0d660e5, src/backoffice/compatibility.py, and, for the order of
the list, in aicell-lab/bioengine at 03b490c, apps/model-runner/entry.py.
"""

from __future__ import annotations

__all__ = [
    "COUNTED_TOOLS",
    "PARTNERS",
    "SHARE",
    "add_up",
    "choose_partners",
    "compute_rank",
    "count_core_points",
    "count_partner_points",
]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHARE = 0.25
"""Of each of the four parts: format, completeness, bioimageio.core, partner tools."""
PARTNERS = ("ilastik", "deepimagej", "icy", "biapy", "careamics")
"""Tools whose reports count."""
COUNTED_TOOLS = 3
"""How many of them: the best."""


def count_partner_points(scores: Mapping[str, float]) -> float:
    """Return the mean of the best three partner tools; a missing report counts as 0."""
    best = sorted((v for k, v in scores.items() if k in PARTNERS), reverse=True)[:COUNTED_TOOLS]
    return sum(best) / COUNTED_TOOLS


def choose_partners(
    scores: Mapping[str, tuple[float, float]], preferred: Sequence[str] = PARTNERS
) -> list[str]:
    """Return the three tools that count, or are nearest to it, by lowest and highest score.

    `preferred` is the order among equals.
    """
    order = {name: index for index, name in enumerate(preferred)}
    ranked = sorted(scores, key=lambda k: (-scores[k][1], -scores[k][0], order.get(k, len(order))))
    return [name for name in ranked if name in PARTNERS][:COUNTED_TOOLS]


def count_core_points(*, valid: bool, reproduced: bool) -> float:
    """Return the score of bioimageio.core's report: one weights format that reproduces is enough.

    Read in scripts/check_compatibility_bioimageio_core.py.
    """
    if reproduced:
        return 1.0
    return 0.5 if valid else 0.0


def add_up(*, valid: bool, completeness: float, core: float, partners: float) -> float:
    """Return the score, 0 to 1, from its four parts."""
    return SHARE * (float(valid) + completeness + core + partners)


def compute_rank(*, valid: bool, served: bool, passed: bool, completeness: float) -> float:
    """Return the number by which bioimage.io sorts its list, 0 to 8.

    `valid`: BioEngine's bioimageio.core accepts the description; `served`: the model runs on its
    test input in BioEngine's own environment; `passed`: all of BioEngine's test passes.
    """
    if not (valid or passed):
        return 0.0
    return 1.0 + 2.0 * served + 4.0 * passed + completeness
