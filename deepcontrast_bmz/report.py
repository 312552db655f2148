"""The report: one HTML file that needs nothing else, and the tables and plots beside it.

The page is made to be sent by mail and opened years later: images are data URIs, plots are drawn
here as SVG, nothing is fetched, and without scripts it still shows the raw image, the automatic
dial and every number.
"""

from __future__ import annotations

__all__ = [
    "REFUSED",
    "Section",
    "data_uri",
    "evaluate_files",
    "render_report",
    "scores_csv",
    "summary",
    "write_evaluation",
]

import base64
import csv
import io
import math
import re
import shlex
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.evaluate import PRICES, DialScores, evaluate
from deepcontrast_bmz.image import read_image, replace_whole, select_channel
from deepcontrast_bmz.verdict import CONSISTENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from deepcontrast_bmz.evaluate import Evaluation, Preview
    from deepcontrast_bmz.model import Model
    from deepcontrast_bmz.verdict import Verdict

Section = tuple[str, "str | Sequence[Sequence[object]]"]
"""A heading with either text (paragraphs apart by an empty line, `code` in backticks) or the rows
of a table, the first of which is its head. Both are plain: markup in them is shown as it is."""

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"

SMALL_SIDE = 400
"""Pictures up to this side are stored without loss, larger ones as JPEG."""

MEANINGS: Mapping[Verdict, str] = {
    "ok": "nothing speaks against it",
    "over-enhanced": "more contrast than the recording or the reference supports",
    "inconsistent": "degraded again, it does not give the recording back",
    "unmeasurable": "neither a reference nor noise to judge by",
}


REFUSED: tuple[Verdict, ...] = ("over-enhanced", "inconsistent")
"""Verdicts that refuse an image."""


class _Column(NamedTuple):
    field: str
    heading: str
    digits: int
    needs_reference: bool = False
    unit: str = ""


COLUMNS = (
    _Column("contrast_gain", "Contrast gain", 2, unit=TIMES),
    _Column("contrast_recovery", "Contrast recovery", 2, needs_reference=True),
    _Column("reference_middle", "Detail vs reference", 2, needs_reference=True),
    _Column("detail_fine", "Detail, fine", 2),
    _Column("detail_coarse", "Detail, coarse", 2),
    _Column("forward_consistency", "Forward consistency", 2),
    _Column("systematic_misfit", "Systematic misfit", 2),
    _Column("psnr_after_fit", "PSNR after fit (dB)", 1, needs_reference=True),
    _Column("ssim", "SSIM", 2, needs_reference=True),
    _Column("average_precision", "Average precision", 2, needs_reference=True),
)

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
        "half of the recording, or 1-4 px structure with the reference; 1 is all of it. "
        "Unmeasurable where the recording holds more noise than structure.",
    ),
    (
        "Forward consistency",
        "The enhanced image is sent through the model tissue again and compared with the "
        "recording, in units of its noise. Around 1 it explains the recording up to its noise; "
        "below {low:g} it has kept some of the noise (0 is the raw image itself); above {high:g} "
        "it claims what the recording contradicts.",
    ),
    (
        "Systematic misfit",
        "The part of that which is not noise, measured on the two halves: 0 is none, 1 is as much "
        "as the noise itself.",
    ),
)


# -- words and numbers ------------------------------------------------------------------------


def _number(value: float | None, digits: int = 2) -> str:
    """Return a number with a fixed count of decimals and a true minus sign."""
    if value is None:
        return "unmeasurable"
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def _dial(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"


def _cell(row: DialScores, column: _Column) -> str:
    value: float | None = getattr(row, column.field)
    shown = _number(value, column.digits)
    return shown if value is None else shown + column.unit


def summary(evaluation: Evaluation) -> str:
    """Return the outcome in plain words, one or two sentences without markup.

    Parameters
    ----------
    evaluation : Evaluation
    """
    row = evaluation.chosen
    if row.dial == 0:
        return (
            "The automatic dial is 0: the raw image should stay as it is "
            f"({evaluation.chosen_reason})."
        )
    gain = "an unmeasurable number of" if row.contrast_gain is None else _number(row.contrast_gain)
    parts = [
        f"At the automatic dial {_dial(row.dial)} the contrast is {gain} times the raw image's"
    ]
    if row.contrast_recovery is not None:
        parts.append(f"{round(100 * row.contrast_recovery)} % of the reference's")
    before = evaluation.scores[0].reference_middle
    if row.reference_middle is not None and before is not None:
        parts.append(
            f"its structure agrees with the reference at {_number(row.reference_middle)} "
            f"(raw {_number(before)})"
        )
    elif evaluation.price != "forward_consistency":
        kept: float = getattr(row, evaluation.price)
        size = "fine" if evaluation.price == "detail_fine" else "coarse"
        parts.append(f"{size} detail is retained at {_number(kept)}")
    else:
        parts.append("what that cost in detail is unmeasurable in this much noise")
    if row.forward_consistency is not None:
        parts.append(f"forward consistency is {_number(row.forward_consistency)}")
    told = row.why if row.verdict in REFUSED and row.why else MEANINGS[row.verdict]
    return f"{', '.join(parts)}. Verdict: {row.verdict}, {told}."


def scores_csv(evaluation: Evaluation) -> str:
    """Return all scores as CSV, one row per dial; what cannot be measured stays empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = list(DialScores.model_fields)
    writer.writerow([*fields, "automatic"])
    for row in evaluation.scores:
        values: list[Any] = [getattr(row, field) for field in fields]
        cells = ["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in values]
        writer.writerow([*cells, int(row is evaluation.chosen)])
    return out.getvalue()


# -- pictures -----------------------------------------------------------------------------------


def data_uri(picture: Preview) -> str:
    """Return a picture as a data URI: PNG when small, else JPEG.

    Parameters
    ----------
    picture : Preview
        8-bit grey values.
    """
    pixels = np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width)
    small = max(pixels.shape) <= SMALL_SIDE
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if small else {"pil_kwargs": {"quality": 88}}
    # Three equal channels: a grey colour map would round the levels.
    colours = np.repeat(pixels[..., None], 3, axis=2)
    imsave(buffer, colours, format="png" if small else "jpg", **options)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


_PLOT = {"width": 460, "height": 320, "left": 66, "right": 16, "top": 16, "bottom": 50}


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers that cover low .. high."""
    rough = max(high - low, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * k, 10) for k in range(first, last + 1)]


def _mark(verdict: Verdict, x: float, y: float, *, size: float = 4.5) -> str:
    """Return the symbol of a verdict; shapes differ, so that colour is not needed."""
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
    """Return a line plot with one mark per dial, the automatic one ringed."""
    p = _PLOT
    xs, ys = [q.x for q in points], [q.y for q in points]
    low, high = (min(ys), max(ys)) if band is None else (min(*ys, band[0]), max(*ys, band[1]))
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(low, high, 5)
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
    for tick in x_ticks:
        parts.append(
            f'<text class="tick" x="{at_x(tick):.1f}" y="{base + 18}" '
            f'text-anchor="middle">{_tick(tick)}</text>'
        )
    for tick in y_ticks:
        parts.append(
            f'<line class="grid" x1="{p["left"]}" x2="{p["width"] - p["right"]}" '
            f'y1="{at_y(tick):.1f}" y2="{at_y(tick):.1f}"/>'
            f'<text class="tick" x="{p["left"] - 8}" y="{at_y(tick) + 4:.1f}" '
            f'text-anchor="end">{_tick(tick)}</text>'
        )
    parts.append(
        f'<text class="axis" x="{p["left"] + inner_width / 2:g}" y="{p["height"] - 10}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="axis" transform="translate(12 {p["top"] + inner_height / 2:g}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    path = " ".join(f"{at_x(q.x):.1f},{at_y(q.y):.1f}" for q in points)
    parts.append(f'<polyline class="line" points="{path}"/>')
    for q in points:
        x, y = at_x(q.x), at_y(q.y)
        if q.chosen:
            parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="10"/>')
        parts.append(_mark(q.verdict, x, y))
        if label_dials and (q.chosen or abs(q.dial - round(q.dial)) < 1e-9):
            right = x < p["left"] + 0.8 * inner_width
            word = f"auto {_dial(q.dial)}" if q.chosen else _dial(q.dial)
            shift = 14 if q.chosen else 9
            parts.append(
                f'<text class="{"auto" if q.chosen else "tick"}" '
                f'x="{x + (shift if right else -shift):.1f}" y="{y - 7:.1f}" '
                f'text-anchor="{"start" if right else "end"}">{word}</text>'
            )
    parts.append("</svg>")
    return "".join(parts)


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", MINUS)


def _points(evaluation: Evaluation, x: str, y: str) -> list[_Point]:
    """Return the dials at which both quantities are known."""
    points: list[_Point] = []
    for row in evaluation.scores:
        at, height = getattr(row, x), getattr(row, y)
        if at is not None and height is not None:
            points.append(_Point(at, height, row.dial, row.verdict, row is evaluation.chosen))
    return points


def _curve_png(evaluation: Evaluation) -> bytes:
    """Return the contrast-detail curve as a PNG."""
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
            word = f"auto {_dial(q.dial)}" if q.chosen else _dial(q.dial)
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


# -- the page -----------------------------------------------------------------------------------

_STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5a6675;--paper:#f6f7f9;--card:#fff;
--line:#dde2e8;--accent:#0f766e;--warn:#b45309;--bad:#b91c1c;--tint:#e6f4f2}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9ba7b6;--paper:#11161d;
--card:#1a212b;--line:#2e3846;--accent:#5eead4;--warn:#fbbf24;--bad:#fca5a5;--tint:#17312f}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
header,main,footer{max-width:74rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.5rem}
h1{font-size:clamp(1.5rem,1rem + 2vw,2.1rem);line-height:1.2;margin:0 0 .6rem;
letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .8rem;letter-spacing:-.005em}
.lead{font-size:1.12rem;max-width:46em;margin:0 0 1.1rem}
.facts{display:flex;flex-wrap:wrap;gap:.35rem 1.6rem;margin:0;color:var(--soft);font-size:.88rem}
.facts div{display:flex;gap:.4em}.facts dt::after{content:":"}
.facts dd{margin:0;color:var(--ink);overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--line);border-radius:.8rem;
padding:1.25rem;margin:1.25rem 0}
figure{margin:0}figcaption{color:var(--soft);font-size:.88rem;margin-top:.5rem}
.viewer{display:grid;grid-template-columns:minmax(0,1fr) 17rem;gap:1.25rem;align-items:start}
.stage{position:relative;overflow:hidden;border-radius:.5rem;background:#000;width:100%;
touch-action:pan-y;--cut:50%}
.stage img{position:absolute;inset:0;width:100%;height:100%;display:block;user-select:none}
[hidden]{display:none!important}
.stage .crisp{image-rendering:pixelated}
.after{position:absolute;inset:0;clip-path:inset(0 0 0 var(--cut))}
.handle{position:absolute;top:0;bottom:0;left:var(--cut);width:2px;margin-left:-1px;
background:#fff;box-shadow:0 0 4px #000a;pointer-events:none}
.tag{position:absolute;top:.5rem;padding:.1rem .5rem;border-radius:1rem;background:#000b;
color:#fff;font-size:.8rem;pointer-events:none}
.tag.left{left:.5rem}.tag.right{right:.5rem}
.scale{position:absolute;right:.8rem;bottom:.7rem;border-bottom:4px solid #fff;color:#fff;
font-size:.8rem;line-height:1.5;text-align:center;text-shadow:0 0 3px #000,0 0 3px #000;
pointer-events:none;white-space:nowrap}
.panel label{display:flex;justify-content:space-between;font-weight:600;margin-top:.2rem}
.panel label span{font-weight:400;color:var(--soft)}
input[type=range]{width:100%;margin:.3rem 0 1rem;accent-color:var(--accent)}
button{font:inherit;font-size:.9rem;padding:.35rem .8rem;border-radius:.5rem;cursor:pointer;
border:1px solid var(--line);background:var(--paper);color:var(--ink)}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.readout{display:grid;grid-template-columns:1fr auto;gap:.15rem .8rem;margin:0 0 1rem;
font-size:.92rem}
.readout dt{color:var(--soft)}.readout dd{margin:0;text-align:right;
font-variant-numeric:tabular-nums}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.25rem}
svg{width:100%;height:auto;display:block;overflow:visible}
svg text{fill:var(--soft);font-size:12px}svg .axis{fill:var(--ink)}
svg .auto{fill:var(--ink);font-weight:600}
.grid{stroke:var(--line)}.line{fill:none;stroke:var(--soft);stroke-width:1.5}
.band{fill:var(--tint)}.m{stroke:var(--card);stroke-width:1}
.m.ok{fill:var(--accent)}.m.over{fill:var(--warn)}.m.off{fill:var(--bad)}
.m.open{fill:var(--card);stroke:var(--soft);stroke-width:1.5}
.ring{fill:none;stroke:var(--ink);stroke-width:1.5}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;padding:0;margin:.9rem 0 0;
font-size:.85rem;color:var(--soft)}.legend svg{width:1rem;height:1rem;display:inline-block;
vertical-align:-.15rem;margin-right:.4rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:.88rem;padding-bottom:.6rem}
th,td{padding:.4rem .5rem;text-align:right;border-bottom:1px solid var(--line);
vertical-align:bottom}
thead th{font-weight:600;font-size:.82rem;line-height:1.25}
tbody th{font-weight:600}th:first-child,td:first-child{text-align:left}
td.word,th.word{text-align:left}tbody td,tbody th{white-space:nowrap}
td.none{color:var(--soft);font-size:.82rem}
tr.chosen>*{background:var(--tint)}
.plain td,.plain th{text-align:left;white-space:normal}
.v{white-space:nowrap}.v svg{width:.85rem;height:.85rem;display:inline-block;
vertical-align:-.1rem;margin-right:.4rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,18rem),1fr));gap:1.25rem}
.pair figure{max-width:36rem}
.pair img{width:100%;height:auto;border-radius:.5rem;display:block;background:#000}
pre{background:var(--paper);border:1px solid var(--line);border-radius:.5rem;padding:.8rem;
overflow-x:auto;margin:0}code{font:.9em ui-monospace,"SF Mono",Menlo,Consolas,monospace}
dl.words{margin:0;display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.5rem 1.25rem}
dl.words dt{font-weight:600}dl.words dd{margin:0}
.warned{border-left:.3rem solid var(--warn);padding-left:.8rem}
footer{color:var(--soft);font-size:.85rem;padding-bottom:2.5rem}
@media (max-width:52rem){.viewer{grid-template-columns:minmax(0,1fr)}
dl.words{grid-template-columns:1fr;gap:.1rem}dl.words dd{margin-bottom:.6rem}}
@media print{body{background:#fff}section{break-inside:avoid}.panel input,button{display:none}}
"""

_SCRIPT = """
(function () {
  "use strict";
  var stage = document.getElementById("stage");
  var dial = document.getElementById("dial");
  var cut = document.getElementById("cut");
  var frames = Array.prototype.slice.call(document.querySelectorAll("[data-frame]"));
  var home = dial.value;
  function show() {
    var chosen = frames[Number(dial.value)];
    frames.forEach(function (frame) { frame.hidden = frame !== chosen; });
    ["dial", "gain", "detail", "fc", "verdict"].forEach(function (key) {
      document.getElementById("now-" + key).textContent = chosen.dataset[key];
    });
    document.getElementById("tag").textContent = "dial " + chosen.dataset.dial;
    dial.setAttribute("aria-valuetext", chosen.dataset.words);
  }
  function divide() {
    stage.style.setProperty("--cut", cut.value + "%");
    cut.setAttribute("aria-valuetext", cut.value + " percent raw");
    document.getElementById("now-cut").textContent = cut.value + " % raw";
  }
  function drag(event) {
    if (event.type === "pointermove" && event.buttons !== 1) { return; }
    var box = stage.getBoundingClientRect();
    var share = 100 * (event.clientX - box.left) / box.width;
    cut.value = String(Math.round(Math.min(100, Math.max(0, share))));
    divide();
  }
  dial.addEventListener("input", show);
  cut.addEventListener("input", divide);
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  document.getElementById("auto").addEventListener("click", function () {
    dial.value = home;
    show();
  });
  show();
  divide();
})();
"""


def _symbol(verdict: Verdict) -> str:
    return f'<svg viewBox="0 0 14 14" aria-hidden="true">{_mark(verdict, 7, 7)}</svg>'


def _facts(evaluation: Evaluation) -> str:
    place = ", ".join(f"{dim} = {index}" for dim, index in evaluation.plane.items())
    plane = f"{place} ({evaluation.plane_reason})" if place else evaluation.plane_reason
    _, _, height, width = evaluation.window
    facts = {
        "Image": evaluation.image,
        "Plane": plane,
        "Size": f"{width} {TIMES} {height} px",
        "Model": f"{evaluation.model} ({evaluation.weights_format})",
        "Camera offset": f"{_tick(round(evaluation.offset, 2))} counts",
    }
    if evaluation.pixel_size_um is not None:
        facts["Pixel"] = f"{evaluation.pixel_size_um:.4g} µm"
    if evaluation.reference is not None:
        facts["Reference"] = evaluation.reference
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{items}</dl>'


def _scale_bar(evaluation: Evaluation) -> str:
    """Return a bar of a round length, about a fifth of the image wide."""
    if evaluation.pixel_size_um is None:
        return ""
    width_um = evaluation.window[3] * evaluation.pixel_size_um
    power = 10.0 ** math.floor(math.log10(width_um / 5))
    length = max(power * m for m in (1, 2, 5) if power * m <= width_um / 5)
    share = 100 * length / width_um
    return f'<span class="scale" style="width:{share:.2f}%">{length:g} µm</span>'


def _detail_words(evaluation: Evaluation, row: DialScores) -> str:
    if evaluation.price == "forward_consistency":
        return "unmeasurable"
    return _number(getattr(row, evaluation.price))


def _viewer(evaluation: Evaluation) -> str:
    raw, *_ = evaluation.previews
    crisp = ' class="crisp"' if max(raw.height, raw.width) <= SMALL_SIDE else ""
    frames: list[str] = []
    start = 0
    for number, (row, picture) in enumerate(
        zip(evaluation.scores, evaluation.previews, strict=True)
    ):
        chosen = row is evaluation.chosen
        start = number if chosen else start
        values = {
            "dial": _dial(row.dial),
            "gain": _cell(row, COLUMNS[0]),
            "detail": _detail_words(evaluation, row),
            "fc": _number(row.forward_consistency),
            "verdict": row.verdict,
        }
        values["words"] = (
            f"dial {values['dial']}{', automatic' if chosen else ''}: contrast gain "
            f"{values['gain']}, detail {values['detail']}, {row.verdict}"
        )
        data = "".join(f' data-{key}="{escape(value)}"' for key, value in values.items())
        frames.append(
            f'<img{crisp} data-frame="{number}"{data} alt="Image at dial {values["dial"]}, '
            f'contrast gain {values["gain"]}, {row.verdict}" src="{data_uri(picture)}"'
            f"{'' if chosen else ' hidden'}>"
        )
    now = evaluation.chosen
    labels = {
        "dial": ("Dial", _dial(now.dial)),
        "gain": ("Contrast gain", _cell(now, COLUMNS[0])),
        "detail": ("Detail retention", _detail_words(evaluation, now)),
        "fc": ("Forward consistency", _number(now.forward_consistency)),
        "verdict": ("Verdict", now.verdict),
    }
    readout = "".join(
        f'<dt>{name}</dt><dd id="now-{key}">{escape(value)}</dd>'
        for key, (name, value) in labels.items()
    )
    auto = _dial(now.dial)
    return f"""
<section aria-labelledby="see">
<h2 id="see">Before and after</h2>
<div class="viewer">
<figure>
<div class="stage" id="stage" style="aspect-ratio:{raw.width}/{raw.height}">
<img{crisp} alt="Raw image" src="{data_uri(raw)}">
<div class="after">{"".join(frames)}</div>
<span class="handle" aria-hidden="true"></span>
<span class="tag left" aria-hidden="true">raw</span>
<span class="tag right" id="tag" aria-hidden="true">dial {auto}</span>
{_scale_bar(evaluation)}
</div>
<figcaption>Left of the divider the raw image, right of it the chosen dial; both between the same
black and white.</figcaption>
</figure>
<div class="panel">
<label for="dial">Dial <span>0 to {_dial(evaluation.scores[-1].dial)}</span></label>
<input type="range" id="dial" min="0" max="{len(evaluation.scores) - 1}" step="1" value="{start}"
 aria-label="Dial, optical depth removed" aria-valuetext="dial {auto}">
<label for="cut">Divider <span id="now-cut">50 % raw</span></label>
<input type="range" id="cut" min="0" max="100" step="1" value="50"
 aria-label="Divider between the raw and the enhanced image" aria-valuetext="50 percent raw">
<dl class="readout" aria-live="polite">{readout}</dl>
<button type="button" id="auto">Automatic dial {auto}</button>
<noscript><p>Moving the dial needs scripts; the automatic dial is shown.</p></noscript>
</div>
</div>
</section>"""


def _plots(evaluation: Evaluation) -> str:
    chosen = evaluation.chosen
    figures: list[str] = []
    price = _points(evaluation, "contrast_gain", evaluation.price)
    if price:
        words = (
            f"From dial {_dial(price[0].dial)} to {_dial(price[-1].dial)} the contrast gain goes "
            f"from {_number(price[0].x)} to {_number(price[-1].x)}, the "
            f"{PRICES[evaluation.price]} from {_number(price[0].y)} to {_number(price[-1].y)}. "
            f"The automatic dial is {_dial(chosen.dial)}."
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
            f"Forward consistency at the automatic dial {_dial(chosen.dial)} is "
            f"{_number(chosen.forward_consistency)}; above {CONSISTENT[1]:g} the recording "
            "contradicts."
        )
        shown = [q for q in consistency if q.y <= 3] or consistency
        drawing = _svg("agree", shown, "dial", "forward consistency", words, band=CONSISTENT)
        cut = "" if len(shown) == len(consistency) else " Values above 3 are not drawn."
        figures.append(
            f"<figure>{drawing}<figcaption>Agreement with the recording. In the shaded band it "
            f"is explained up to its noise; below, noise was kept; above, the recording "
            f"contradicts.{cut}</figcaption></figure>"
        )
    if not figures:
        return ""
    verdicts: list[Verdict] = [
        v for v in MEANINGS if any(r.verdict == v for r in evaluation.scores)
    ]
    legend = "".join(
        f"<li>{_symbol(verdict)}<strong>{verdict}</strong>: {MEANINGS[verdict]}</li>"
        for verdict in verdicts
    )
    return f"""
<section aria-labelledby="curve">
<h2 id="curve">Contrast and its price</h2>
<div class="plots">{"".join(figures)}</div>
<ul class="legend">{legend}</ul>
</section>"""


def _score_table(evaluation: Evaluation) -> str:
    columns = [c for c in COLUMNS if evaluation.reference is not None or not c.needs_reference]
    head = "".join(f'<th scope="col">{escape(c.heading)}</th>' for c in columns)
    rows: list[str] = []
    for row in evaluation.scores:
        chosen = row is evaluation.chosen
        mark = ' class="chosen" aria-current="true"' if chosen else ""
        cells = "".join(
            f"<td{' class=none' if getattr(row, c.field) is None else ''}>{_cell(row, c)}</td>"
            for c in columns
        )
        rows.append(
            f"<tr{mark}>"
            f'<th scope="row">{_dial(row.dial)}{" automatic" if chosen else ""}</th>{cells}'
            f'<td class="word"><span class="v" title="{escape(row.why)}">'
            f"{_symbol(row.verdict)}{row.verdict}</span></td></tr>"
        )
    reason = evaluation.chosen_reason
    return f"""
<section aria-labelledby="scores">
<h2 id="scores">Scores</h2>
<div class="wide" role="region" aria-labelledby="scores" tabindex="0">
<table>
<caption>One row per dial. The automatic dial is {_dial(evaluation.chosen_dial)}:
{escape(reason)} (confidence {_number(evaluation.chosen_confidence)}).</caption>
<thead><tr><th scope="col">Dial</th>{head}<th scope="col" class="word">Verdict</th></tr></thead>
<tbody>{"".join(rows)}</tbody>
</table>
</div>
</section>"""


def _familiarity(evaluation: Evaluation) -> str:
    """Return what the out-of-distribution score says."""
    if evaluation.ood_score is None:
        words = (
            "Whether the image is like those the model was trained for cannot be said: the model "
            "brings no statistics of them, or the image is too small."
        )
    elif evaluation.warning is None:
        words = (
            "The image is like those the model was trained for: out-of-distribution score "
            f"{_number(evaluation.ood_score)}, limit 1."
        )
    else:
        words = f"{evaluation.warning[0].upper()}{evaluation.warning[1:]}."
    mark = ' class="warned" role="note"' if evaluation.warning is not None else ""
    return f"""
<section aria-labelledby="familiar">
<h2 id="familiar">Is the model made for this image?</h2>
<p{mark}>{escape(words)}</p>
</section>"""


def _more_pictures(evaluation: Evaluation) -> str:
    figures: list[str] = []
    if evaluation.reference_preview is not None:
        figures.append(
            f'<figure><img alt="Reference image" src="{data_uri(evaluation.reference_preview)}">'
            "<figcaption>The reference, scaled to the grey values of the automatic dial."
            "</figcaption></figure>"
        )
    if evaluation.residual_preview is not None:
        dial = _dial(evaluation.chosen_dial)
        figures.append(
            f'<figure><img alt="Residual map at dial {dial}" '
            f'src="{data_uri(evaluation.residual_preview)}"><figcaption>What dial {dial} does not '
            f"explain of the recording, from {MINUS}6 (black) to 6 (white) standard deviations of "
            "noise. Even grey is good; outlines and patches are not.</figcaption></figure>"
        )
    if not figures:
        return ""
    return f"""
<section aria-labelledby="more">
<h2 id="more">To compare with</h2>
<div class="pair">{"".join(figures)}</div>
</section>"""


def _text(words: str) -> str:
    """Return plain text as paragraphs, with `code` in backticks."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", words) if part.strip()]
    marked = [re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(part)) for part in paragraphs]
    return "".join(f"<p>{part}</p>" for part in marked)


def _section(number: int, section: Section) -> str:
    heading, content = section
    name = f"section-{number}"
    if isinstance(content, str):
        body = _text(content)
    else:
        head, *rest = [[escape(str(cell)) for cell in row] for row in content] or [[]]
        top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
        rows = "".join(
            "<tr>"
            + "".join(
                f'<th scope="row">{cell}</th>' if column == 0 else f"<td>{cell}</td>"
                for column, cell in enumerate(row)
            )
            + "</tr>"
            for row in rest
        )
        body = (
            f'<div class="wide" role="region" aria-labelledby="{name}" tabindex="0">'
            f'<table class="plain"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'
        )
    return f"""
<section aria-labelledby="{name}">
<h2 id="{name}">{escape(heading)}</h2>
{body}
</section>"""


def render_report(
    evaluation: Evaluation,
    *,
    title: str | None = None,
    command: str | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """Return the evaluation as one HTML page that needs no other file.

    Parameters
    ----------
    evaluation : Evaluation
        With its previews; read back from JSON it has none, and the page no pictures.
    title : str, optional
        Heading of the page; None: the image's and the model's name.
    command : str, optional
        Command line that makes this report again.
    sections : sequence of (heading, text or rows)
        Further sections, see `Section`.

    Returns
    -------
    str
        HTML, UTF-8.
    """
    title = title or f"{evaluation.image}: contrast by {evaluation.model}"
    low, high = CONSISTENT
    reading = "".join(
        f"<dt>{name}</dt>"
        f"<dd>{words.format(step=evaluation.step_optical_depth, low=low, high=high)}</dd>"
        for name, words in READING
        if evaluation.reference is not None or name != "Contrast recovery"
    )
    pictures = bool(evaluation.previews)
    parts = [
        _viewer(evaluation) if pictures else "",
        _plots(evaluation),
        _score_table(evaluation),
        _familiarity(evaluation),
        _more_pictures(evaluation),
        *(_section(number, section) for number, section in enumerate(sections, 1)),
    ]
    if command:
        parts.append(
            '\n<section aria-labelledby="again">\n<h2 id="again">How to reproduce</h2>\n'
            f"<pre><code>{escape(command)}</code></pre>\n</section>"
        )
    parts.append(
        '\n<section aria-labelledby="read">\n<h2 id="read">How to read this</h2>\n'
        f'<dl class="words">{reading}</dl>\n</section>'
    )
    script = f"<script>{_SCRIPT}</script>" if pictures else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="lead">{escape(summary(evaluation))}</p>
{_facts(evaluation)}
</header>
<main>{"".join(parts)}
</main>
<footer>
<p>The tissue model behind the forward consistency is this project's own: small-angle multiple
scattering of optical depth equal to the dial. deepcontrast_bmz {escape(evaluation.version)}.</p>
</footer>
{script}
</body>
</html>
"""


# -- files --------------------------------------------------------------------------------------


def write_evaluation(
    evaluation: Evaluation,
    folder: Path,
    *,
    title: str | None = None,
    command: str | None = None,
    sections: Sequence[Section] = (),
) -> list[Path]:
    """Write ``scores.csv``, ``scores.json``, ``curve.png`` and ``report.html``.

    Everything is made before anything is written, and each file appears whole or not at all.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        Created if missing; other files in it stay.
    title, command, sections
        See `render_report`.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        If the folder is a file, or cannot be made.
    """
    _check_folder(folder)
    page = render_report(evaluation, title=title, command=command, sections=sections)
    contents = {
        "scores.csv": scores_csv(evaluation).encode(),
        "scores.json": (evaluation.model_dump_json(indent=2) + "\n").encode(),
        "curve.png": _curve_png(evaluation),
        "report.html": page.encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"results need a folder that can be made, but {folder} cannot ({error.strerror}): "
            "give another place"
        ) from error
    for name, content in contents.items():
        with replace_whole(folder / name) as temporary:
            temporary.write_bytes(content)
    return [folder / name for name in contents]


def _check_folder(folder: Path) -> None:
    """Raise `InputError` if the folder, or one above it, is a file."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise InputError(
                f"results go into a folder, but {place} is a file: choose another name"
            )


def evaluate_files(
    model: Model,
    images: Sequence[Path],
    out: Path,
    *,
    reference: Path | None = None,
    channel: str | int | None = None,
    progress: Callable[[float], None] | None = None,
    finished: Callable[[Evaluation], None] | None = None,
) -> Iterator[str]:
    """Evaluate images from files, write each result, and yield what to tell the user.

    Parameters
    ----------
    model : Model
    images : sequence of Path
    out : Path
        Results folder; with several images each has its own folder in it.
    reference : Path, optional
        Image without haze, for a single image.
    channel : str or int, optional
        Name or index of the channel.
    progress : callable, optional
        Called with the share of each image that is done.
    finished : callable, optional
        Called with every evaluation that was written.

    Yields
    ------
    str
        One line for people per image, and one per folder written.

    Raises
    ------
    InputError
        If a reference is given for several images, or names of images collide.
    """
    if reference is not None and len(images) != 1:
        raise InputError(
            f"a reference belongs to one image, but {len(images)} are given: evaluate them one by "
            "one"
        )
    stems = [re.sub(r"(\.ome)?\.\w+$", "", path.name) for path in images]
    for stem in stems:
        if stems.count(stem) > 1:
            raise InputError(
                f"each image gets a folder of its name, but {stems.count(stem)} are called "
                f"'{stem}': evaluate them one by one"
            )
    _check_folder(out)
    truth = None
    if reference is not None:
        truth = read_image(reference)
        if truth.sizes.get("c", 1) > 1:
            truth = select_channel(truth, channel)
        truth.name = reference.name
    for path, stem in zip(images, stems, strict=True):
        image = select_channel(read_image(path), channel)
        image.name = path.name
        result = evaluate(model, image, reference=truth, progress=progress)
        folder = out if len(images) == 1 else out / stem
        words = ["dcbmz", "evaluate", model.name, path.name, "-o", folder.name]
        words += [] if reference is None else ["--reference", reference.name]
        words += [] if channel is None else ["--channel", str(channel)]
        written = write_evaluation(result, folder, command=shlex.join(words))
        if finished is not None:
            finished(result)
        yield f"{path.name}: {summary(result)}"
        if result.warning is not None:
            yield f"{path.name}: {result.warning}"
        yield f"{path.name}: see {written[-1]}"
