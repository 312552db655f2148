"""Contrast against its price, drawn: as SVG on the page, and as a PNG file."""

from __future__ import annotations

__all__ = ["curve_png", "plots", "ticks"]

import io
import math
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deepcontrast_bmz.dial.verdict import CONSISTENT
from deepcontrast_bmz.evaluate.records import PRICES
from deepcontrast_bmz.evaluate.report.marks import mark, symbol
from deepcontrast_bmz.evaluate.report.words import MEANINGS, dial_word, number, tick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.dial.verdict import Verdict
    from deepcontrast_bmz.evaluate.records import Evaluation

_PLOT = {"width": 460, "height": 320, "left": 66, "right": 16, "top": 16, "bottom": 50}
_ROOM = (48.0, 26.0)
"""Nearer labels, along x and y, would lie upon each other."""


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers that cover low .. high, about `most` of them."""
    rough = max(high - low, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * k, 10) for k in range(first, last + 1)]


class _Point(NamedTuple):
    x: float
    y: float
    dial: float
    verdict: Verdict
    chosen: bool


def _svg(
    name: str,
    points: Sequence[_Point],
    x_label: str,
    y_label: str,
    description: str,
    band: tuple[float, float] | None = None,
    label_dials: bool = False,
) -> str:
    """Return a line plot with one mark per dial, the automatic one ringed.

    With `label_dials` words stand above their marks, else the only one below.
    """
    p = _PLOT
    xs, ys = [q.x for q in points], [q.y for q in points]
    low, high = (min(ys), max(ys)) if band is None else (min(*ys, band[0]), max(*ys, band[1]))
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(low, high, 5)
    inner_width = p["width"] - p["left"] - p["right"]
    inner_height = p["height"] - p["top"] - p["bottom"]
    base = p["height"] - p["bottom"]

    def at_x(value: float) -> float:
        return p["left"] + inner_width * (value - x_ticks[0]) / max(x_ticks[-1] - x_ticks[0], 1e-9)

    def at_y(value: float) -> float:
        return base - inner_height * (value - y_ticks[0]) / max(y_ticks[-1] - y_ticks[0], 1e-9)

    parts = [
        f'<svg viewBox="0 0 {p["width"]} {p["height"]}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">',
        f'<title id="{name}-title">{escape(y_label)} against {escape(x_label)}</title>',
        f'<desc id="{name}-desc">{escape(description)}</desc>',
    ]
    if band is not None:
        parts.append(
            f'<rect class="band" x="{p["left"]}" y="{at_y(band[1]):.1f}" width="{inner_width}" '
            f'height="{at_y(band[0]) - at_y(band[1]):.1f}"/>'
        )
    for at in x_ticks:
        parts.append(
            f'<text class="tick" x="{at_x(at):.1f}" y="{base + 18}" '
            f'text-anchor="middle">{tick(at)}</text>'
        )
    for at in y_ticks:
        parts.append(
            f'<line class="grid" x1="{p["left"]}" x2="{p["width"] - p["right"]}" '
            f'y1="{at_y(at):.1f}" y2="{at_y(at):.1f}"/>'
            f'<text class="tick" x="{p["left"] - 8}" y="{at_y(at) + 4:.1f}" '
            f'text-anchor="end">{tick(at)}</text>'
        )
    parts.append(
        f'<text class="axis" x="{p["left"] + inner_width / 2:g}" y="{p["height"] - 10}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="axis" transform="translate(12 {p["top"] + inner_height / 2:g}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    path = " ".join(f"{at_x(q.x):.1f},{at_y(q.y):.1f}" for q in points)
    parts.append(f'<polyline class="line" points="{path}"/>')
    places = [(q, at_x(q.x), at_y(q.y)) for q in points]
    for q, x, y in places:
        if q.chosen:
            parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="10"/>')
        parts.append(mark(q.verdict, x, y))
    far = p["left"] + 0.8 * inner_width
    return "".join([*parts, *_labels(places, far, label_dials), "</svg>"])


def _labels(
    places: Sequence[tuple[_Point, float, float]], far: float, label_dials: bool
) -> list[str]:
    """Return the words at the automatic dial, and at whole dials where there is room for them.

    Beyond x = `far` they stand to the left of their mark.
    """
    wanted = [one for one in places if one[0].chosen]
    if label_dials:
        wanted += [one for one in places if not one[0].chosen and one[0].dial.is_integer()]
    taken: list[tuple[float, float]] = []
    labels: list[str] = []
    for q, x, y in wanted:
        if any(abs(x - other) < _ROOM[0] and abs(y - level) < _ROOM[1] for other, level in taken):
            continue
        taken.append((x, y))
        word = f"auto {dial_word(q.dial)}" if q.chosen else dial_word(q.dial)
        side, down = ("start" if x < far else "end"), (-7 if label_dials else 17)
        shift = (14 if q.chosen else 9) * (1 if x < far else -1)
        labels.append(
            f'<text class="{"auto" if q.chosen else "tick"}" x="{x + shift:.1f}" '
            f'y="{y + down:.1f}" text-anchor="{side}">{word}</text>'
        )
    return labels


def _points(evaluation: Evaluation, x: str, y: str) -> list[_Point]:
    """Return the dials at which both quantities are known."""
    points: list[_Point] = []
    for row in evaluation.scores:
        at, height = getattr(row, x), getattr(row, y)
        if at is not None and height is not None:
            points.append(_Point(at, height, row.dial, row.verdict, row is evaluation.chosen))
    return points


def curve_png(evaluation: Evaluation) -> bytes:
    """Return the contrast-detail curve as a PNG.

    Parameters
    ----------
    evaluation : Evaluation
    """
    figure = Figure(figsize=(6, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = _points(evaluation, "contrast_gain", evaluation.price)
    axes.plot([q.x for q in points], [q.y for q in points], color="0.6", linewidth=1.2, zorder=1)
    styles: dict[str, tuple[str, str]] = {
        "ok": ("o", "#0f766e"),
        "over-enhanced": ("^", "#b45309"),
        "inconsistent": ("s", "#b91c1c"),
        "unmeasurable": ("o", "#ffffff"),
    }
    for verdict, (marker, colour) in styles.items():
        those = [q for q in points if q.verdict == verdict]
        if those:
            axes.scatter(
                [q.x for q in those],
                [q.y for q in those],
                marker=marker,
                color=colour,
                edgecolors="0.3",
                label=verdict,
                zorder=2,
            )
    for q in points:
        if q.chosen:
            axes.scatter([q.x], [q.y], s=160, facecolors="none", edgecolors="0.1", zorder=3)
        if q.chosen or abs(q.dial - round(q.dial)) < 1e-9:
            word = f"auto {dial_word(q.dial)}" if q.chosen else dial_word(q.dial)
            axes.annotate(word, (q.x, q.y), xytext=(8, 6), textcoords="offset points", fontsize=9)
    axes.set_xlabel("contrast gain (times the raw image)")
    axes.set_ylabel(PRICES[evaluation.price], fontsize=9)
    axes.set_title(f"{evaluation.image}: contrast against its price", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if points:
        axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def plots(evaluation: Evaluation) -> str:
    """Return the section with both plots, empty if nothing can be measured.

    Parameters
    ----------
    evaluation : Evaluation
    """
    chosen = evaluation.chosen
    figures: list[str] = []
    price = _points(evaluation, "contrast_gain", evaluation.price)
    if price:
        words = (
            f"From dial {dial_word(price[0].dial)} to {dial_word(price[-1].dial)} the contrast "
            f"gain goes from {number(price[0].x)} to {number(price[-1].x)}, the "
            f"{PRICES[evaluation.price]} from {number(price[0].y)} to {number(price[-1].y)}. "
            f"The automatic dial is {dial_word(chosen.dial)}."
        )
        label = PRICES[evaluation.price].split(" (")[0]
        drawing = _svg("price", price, "contrast gain", label, words, label_dials=True)
        against = escape(PRICES[evaluation.price])
        figures.append(
            f"<figure>{drawing}<figcaption>Contrast gain against {against}; numbers are dials."
            "</figcaption></figure>"
        )
    consistency = _points(evaluation, "dial", "forward_consistency")
    if consistency and evaluation.price != "forward_consistency":
        words = (
            f"Forward consistency at the automatic dial {dial_word(chosen.dial)} is "
            f"{number(chosen.forward_consistency)}; above {CONSISTENT[1]:g} it misses more of the "
            "recording than noise."
        )
        shown = [q for q in consistency if q.y <= 3] or consistency
        drawing = _svg("agree", shown, "dial", "forward consistency", words, band=CONSISTENT)
        cut = "" if len(shown) == len(consistency) else " Values above 3 are not drawn."
        figures.append(
            f"<figure>{drawing}<figcaption>Agreement with the recording. In the shaded band it "
            f"is explained up to its noise; below, noise was kept; above, contrast is wrong or "
            f"detail lost.{cut}</figcaption></figure>"
        )
    if not figures:
        return ""
    verdicts: list[Verdict] = [
        v for v in MEANINGS if any(r.verdict == v for r in evaluation.scores)
    ]
    legend = "".join(
        f"<li>{symbol(verdict)}<strong>{verdict}</strong>: {MEANINGS[verdict]}</li>"
        for verdict in verdicts
    )
    return f"""
<section aria-labelledby="curve">
<h2 id="curve">Contrast and its price</h2>
<div class="plots">{"".join(figures)}</div>
<ul class="legend">{legend}</ul>
</section>"""
