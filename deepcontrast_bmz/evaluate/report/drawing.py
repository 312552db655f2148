"""Figures of the report, as SVG in the page's own colours and as PNG; one shape per verdict."""

from __future__ import annotations

__all__ = [
    "PALETTE",
    "PIXELS_PER_INCH",
    "add_mark",
    "as_png",
    "as_svg",
    "draw_symbol",
    "legend_entry",
    "plain_style",
]

import functools
import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import matplotlib.style
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, ScaledTranslation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes

    from deepcontrast_bmz.dial.verdict import Verdict

PALETTE: Mapping[str, str] = {
    "ink": "#1b2430",
    "soft": "#5a6675",
    "card": "#ffffff",
    "line": "#dde2e8",
    "accent": "#0f766e",
    "warn": "#b45309",
    "bad": "#b91c1c",
    "tint": "#e6f4f2",
}
"""The page's variables with their light values; on the page a drawing follows the variables."""

_VARIABLES = {colour: f"var(--{name})" for name, colour in PALETTE.items()}

PIXELS_PER_INCH = 72
"""What the SVG of matplotlib counts in: sizes below are pixels of the page."""
PNG_PIXELS_PER_INCH = 180


class _Shape(NamedTuple):
    path: Path
    fill: str
    edge: str
    name: str
    """Its class in the SVG."""


_CIRCLE = Path.unit_circle()
# Shapes differ, so that colour is not needed.
_SHAPES: Mapping[Verdict, _Shape] = {
    "ok": _Shape(_CIRCLE, "accent", "card", "m ok"),
    "over-enhanced": _Shape(
        Path([(0, 1.3), (-1.2, -1), (1.2, -1), (0, 1.3)], closed=True), "warn", "card", "m over"
    ),
    "inconsistent": _Shape(
        Path([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)], closed=True), "bad", "card", "m off"
    ),
    "unmeasurable": _Shape(_CIRCLE, "card", "soft", "m open"),
}
MARK_SIZE = 4.5
"""Half the width of a mark, in pixels."""


def plain_style() -> AbstractContextManager[None]:
    """Return a context in which no settings of the user change how figures are drawn."""
    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "deepcontrast_bmz",
        "font.size": 12,
        "text.color": PALETTE["ink"],
        "axes.labelcolor": PALETTE["ink"],
        "xtick.labelcolor": PALETTE["soft"],
        "ytick.labelcolor": PALETTE["soft"],
    }
    return matplotlib.style.context(["default", settings])


def add_mark(axes: Axes, verdict: Verdict, x: float, y: float, *, chosen: bool = False) -> None:
    """Draw the shape of a verdict, ringed where the dial is the automatic one.

    Parameters
    ----------
    axes : Axes
    verdict : str
    x, y : float
        Place, in data coordinates.
    chosen : bool
    """
    shape = _SHAPES[verdict]
    to_inches = Affine2D().scale(1 / PIXELS_PER_INCH)
    data: Any = axes.transData  # its type is wider than the next one asks for
    place = axes.figure.dpi_scale_trans + ScaledTranslation(x, y, data)

    def add(path: Path, size: float, name: str, **look: Any) -> None:
        transform = Affine2D().scale(size) + to_inches + place
        look |= {"clip_on": False, "gid": f"class {name}", "zorder": 3}
        # Patches, for SVG draws each of them out, but markers as references to one.
        axes.add_artist(PathPatch(path, transform=transform, **look))

    if chosen:
        add(
            _CIRCLE, 10, "ring", facecolor="none", edgecolor=PALETTE["ink"], linewidth=1.5, zorder=3
        )
    look = {"facecolor": PALETTE[shape.fill], "edgecolor": PALETTE[shape.edge]}
    add(shape.path, MARK_SIZE, shape.name, linewidth=1, **look)


def legend_entry(verdict: Verdict) -> Line2D:
    """Return the shape of a verdict with its name, for a legend."""
    shape = _SHAPES[verdict]
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=shape.path,  # pyright: ignore[reportArgumentType] - a path may be a marker
        markersize=2 * MARK_SIZE,
        markerfacecolor=PALETTE[shape.fill],
        markeredgecolor=PALETTE[shape.edge],
        label=verdict,
    )


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG on white."""
    buffer = io.BytesIO()
    with plain_style():
        figure.savefig(
            buffer,
            format="png",
            dpi=PNG_PIXELS_PER_INCH,
            facecolor="white",
            bbox_inches="tight",
            pad_inches=0.1,
            metadata={"Software": None},
        )
    return buffer.getvalue()


def as_svg(figure: Figure) -> Markup:
    """Return what stands inside the ``svg`` element of a figure, to be part of an HTML page.

    Nothing in it refers to anything else: no namespaces, ids, styles for the whole page or
    references are left. A ``gid`` of "class NAME" becomes a class; colours of the palette become
    the variables of the page, and text has the page's typeface.
    """
    buffer = io.StringIO()
    with plain_style():
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "defs"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text = element.text if element.tag == "text" else None
        element.tail = None
        element.attrib = _page_attributes(element.attrib)
    drawn = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    return Markup(drawn)


def _page_attributes(given: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that an element of a drawing keeps on the page."""
    kept: dict[str, str] = {}
    for name, value in given.items():
        if name == "id":
            if value.startswith("class "):
                kept["class"] = value.removeprefix("class ")
        elif name == "style":
            value = re.sub(r"font-family: [^;]+; ", "", value)
            kept[name] = re.sub("#[0-9a-f]{6}", lambda found: _VARIABLES[found.group()], value)
        elif not value.startswith("rotate(-0 "):
            kept[name] = " ".join(value.split())
    return kept


@functools.cache
def draw_symbol(verdict: Verdict) -> Markup:
    """Return the shape of a verdict alone, in a box of 14 x 14 pixels around its middle."""
    with plain_style():
        side = 14 / PIXELS_PER_INCH
        figure = Figure(figsize=(side, side), dpi=PIXELS_PER_INCH)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        add_mark(axes, verdict, 0.5, 0.5)
        return as_svg(figure)
