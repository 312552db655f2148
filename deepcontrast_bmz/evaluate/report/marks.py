"""One shape for each verdict: shapes differ, so that colour is not needed."""

from __future__ import annotations

__all__ = ["mark", "symbol"]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepcontrast_bmz.dial.verdict import Verdict


def mark(verdict: Verdict, x: float, y: float, *, size: float = 4.5) -> str:
    """Return the shape of a verdict around a place of a drawing, as SVG."""
    if verdict == "over-enhanced":
        corners = f"{x:.1f},{y - 1.3 * size:.1f} {x - 1.2 * size:.1f},{y + size:.1f} "
        corners += f"{x + 1.2 * size:.1f},{y + size:.1f}"
        return f'<polygon class="m over" points="{corners}"/>'
    if verdict == "inconsistent":
        return (
            f'<rect class="m off" x="{x - size:.1f}" y="{y - size:.1f}" '
            f'width="{2 * size:g}" height="{2 * size:g}"/>'
        )
    kind = "ok" if verdict == "ok" else "open"
    return f'<circle class="m {kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"/>'


def symbol(verdict: Verdict) -> str:
    """Return the shape of a verdict as a drawing of its own, for text."""
    return f'<svg viewBox="0 0 14 14" aria-hidden="true">{mark(verdict, 7, 7)}</svg>'
