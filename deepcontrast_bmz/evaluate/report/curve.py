"""Plots of the report: contrast against its price, and agreement with the recording."""

from __future__ import annotations

__all__ = ["Plot", "draw_plots", "price_png", "round_ticks"]

import math
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from deepcontrast_bmz.dial.verdict import CONSISTENT
from deepcontrast_bmz.evaluate.records import PRICES
from deepcontrast_bmz.evaluate.report.drawing import (
    PALETTE,
    PIXELS_PER_INCH,
    add_mark,
    as_png,
    as_svg,
    legend_entry,
    plain_style,
)
from deepcontrast_bmz.evaluate.report.words import MEANINGS, dial_word, number, tick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup
    from matplotlib.axes import Axes

    from deepcontrast_bmz.dial.verdict import Verdict
    from deepcontrast_bmz.evaluate.records import Evaluation

WIDTH, HEIGHT = 460, 320
"""Size of a plot, in pixels of the page."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 16, 16, 50
"""Margins around the axes, in pixels."""
_ROOM = (48.0, 26.0)
"""Nearer labels, along x and y, would overlap; in pixels."""
HIGHEST_CONSISTENCY = 3.0
"""Forward consistencies above are not drawn: they would flatten the others."""


class Plot(NamedTuple):
    """A plot of the page."""

    name: str
    """Starts the ids of its title and description."""
    title: str
    description: str
    """In words, for those who do not see it."""
    caption: str
    drawing: Markup
    """What stands in its ``svg`` element, `WIDTH` x `HEIGHT` pixels."""


class _Point(NamedTuple):
    x: float
    y: float
    dial: float
    verdict: Verdict
    chosen: bool


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers that cover low .. high, about `most` of them."""
    rough = max(high - low, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * k, 10) for k in range(first, last + 1)]


def _points(evaluation: Evaluation, x: str, y: str) -> list[_Point]:
    """Return the dials at which both quantities are known."""
    points: list[_Point] = []
    for row in evaluation.scores:
        at, height = getattr(row, x), getattr(row, y)
        if at is not None and height is not None:
            points.append(_Point(at, height, row.dial, row.verdict, row is evaluation.chosen))
    return points


def _add_axes(figure: Figure, xs: Sequence[float], ys: Sequence[float]) -> Axes:
    """Add axes of round numbers around all values, with lines across at those of y."""
    across, up = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    axes = figure.add_axes((_LEFT / WIDTH, _BOTTOM / HEIGHT, across / WIDTH, up / HEIGHT))
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    x_ticks, y_ticks = round_ticks(min(xs), max(xs)), round_ticks(min(ys), max(ys), 5)
    # All values may be one: axes need a length.
    axes.set_xlim(x_ticks[0], max(x_ticks[-1], x_ticks[0] + 1e-9))
    axes.set_ylim(y_ticks[0], max(y_ticks[-1], y_ticks[0] + 1e-9))
    axes.set_xticks(x_ticks, labels=[tick(value) for value in x_ticks])
    axes.set_yticks(y_ticks, labels=[tick(value) for value in y_ticks])
    axes.tick_params(length=0, pad=8)
    axes.grid(axis="y", color=PALETTE["line"], linewidth=1)
    for one in axes.yaxis.get_major_ticks():
        one.gridline.set_clip_on(False)
    return axes


def _draw(
    points: Sequence[_Point],
    x_label: str,
    y_label: str,
    *,
    band: tuple[float, float] | None = None,
    label_dials: bool = False,
) -> Figure:
    """Return a line plot with one mark per dial, the automatic one ringed.

    Parameters
    ----------
    points : sequence of _Point
    x_label, y_label : str
    band : (float, float), optional
        Heights between which the plot is shaded.
    label_dials : bool
        Write dials above their marks; else the automatic one below.
    """
    with plain_style():
        figure = Figure(
            figsize=(WIDTH / PIXELS_PER_INCH, HEIGHT / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH
        )
        ys = [*(q.y for q in points), *(band or ())]
        axes = _add_axes(figure, [q.x for q in points] or [0, 1], ys or [0, 1])
        axes.set_xlabel(x_label, labelpad=8)
        axes.set_ylabel(y_label)
        # At one place, however wide the numbers are.
        axes.yaxis.set_label_coords((20 - _LEFT) / (WIDTH - _LEFT - _RIGHT), 0.5)
        if band is not None:
            axes.axhspan(*band, color=PALETTE["tint"], linewidth=0, zorder=0, clip_on=False)
        axes.plot(
            [q.x for q in points],
            [q.y for q in points],
            color=PALETTE["soft"],
            linewidth=1.5,
            clip_on=False,
            gid="class line",
        )
        for q in points:
            add_mark(axes, q.verdict, q.x, q.y, chosen=q.chosen)
        _label_points(axes, points, label_dials=label_dials)
    return figure


def _label_points(axes: Axes, points: Sequence[_Point], *, label_dials: bool) -> None:
    """Write the automatic dial, and whole dials where there is room for them.

    Far to the right, labels stand to the left of their mark.
    """
    wanted = [q for q in points if q.chosen]
    if label_dials:
        wanted += [q for q in points if not q.chosen and q.dial.is_integer()]
    taken: list[tuple[float, float]] = []
    for q in wanted:
        x, y = axes.transData.transform((q.x, q.y))
        if any(abs(x - other) < _ROOM[0] and abs(y - level) < _ROOM[1] for other, level in taken):
            continue
        taken.append((x, y))
        after = x < _LEFT + 0.8 * (WIDTH - _LEFT - _RIGHT)
        shift = (14 if q.chosen else 9) * (1 if after else -1)
        axes.annotate(
            f"auto {dial_word(q.dial)}" if q.chosen else dial_word(q.dial),
            (q.x, q.y),
            xytext=(shift, 7 if label_dials else -17),
            textcoords="offset points",
            horizontalalignment="left" if after else "right",
            verticalalignment="baseline",
            color=PALETTE["ink" if q.chosen else "soft"],
            fontweight="bold" if q.chosen else "normal",
            gid=f"class {'auto' if q.chosen else 'dial'}",
        )


def _draw_price(evaluation: Evaluation) -> Figure:
    """Return the plot of contrast against its price; without dials where neither is known."""
    points = _points(evaluation, "contrast_gain", evaluation.price)
    label = PRICES[evaluation.price].split(" (")[0]
    return _draw(points, "contrast gain", label, label_dials=True)


def price_png(evaluation: Evaluation) -> bytes:
    """Return the plot of contrast against its price, with a title and a legend, as a PNG.

    Parameters
    ----------
    evaluation : Evaluation
    """
    figure = _draw_price(evaluation)
    (axes,) = figure.axes
    with plain_style():
        title = f"{evaluation.image}: contrast gain against\n{PRICES[evaluation.price]}"
        # A name of a file may hold what would be taken for formulas.
        axes.set_title(title, fontsize=12, parse_math=False)
        verdicts = {q.verdict for q in _points(evaluation, "contrast_gain", evaluation.price)}
        if verdicts:
            axes.legend(
                handles=[legend_entry(verdict) for verdict in MEANINGS if verdict in verdicts],
                loc="upper center",
                bbox_to_anchor=(0.5, -0.18),
                ncols=len(verdicts),
                frameon=False,
                fontsize=10,
            )
    return as_png(figure)


def draw_plots(evaluation: Evaluation) -> list[Plot]:
    """Return the plots of the page: those of which something can be measured.

    Parameters
    ----------
    evaluation : Evaluation
    """
    plots: list[Plot] = []
    price = _points(evaluation, "contrast_gain", evaluation.price)
    auto = dial_word(evaluation.chosen.dial)
    if price:
        against = PRICES[evaluation.price]
        first, last = price[0], price[-1]
        plots.append(
            Plot(
                "price",
                f"{against.split(' (')[0]} against contrast gain",
                f"From dial {dial_word(first.dial)} to {dial_word(last.dial)} the contrast gain "
                f"goes from {number(first.x)} to {number(last.x)}, the {against} from "
                f"{number(first.y)} to {number(last.y)}. The automatic dial is {auto}.",
                f"Contrast gain against {against}. The numbers at the marks are dials.",
                as_svg(_draw_price(evaluation)),
            )
        )
    consistency = _points(evaluation, "dial", "forward_consistency")
    if consistency and evaluation.price != "forward_consistency":
        shown = [q for q in consistency if q.y <= HIGHEST_CONSISTENCY] or consistency
        cut = f" Values above {HIGHEST_CONSISTENCY:g} are not drawn."
        plots.append(
            Plot(
                "agree",
                "forward consistency against dial",
                f"Forward consistency at the automatic dial {auto} is "
                f"{number(evaluation.chosen.forward_consistency)}. Above {CONSISTENT[1]:g} the "
                "image differs from the recording by more than noise.",
                "Agreement with the recording. In the shaded band the recording is explained up "
                "to its noise. Below, noise was kept; above, the contrast is wrong or detail is "
                f"lost.{cut if len(shown) < len(consistency) else ''}",
                as_svg(_draw(shown, "dial", "forward consistency", band=CONSISTENT)),
            )
        )
    return plots
