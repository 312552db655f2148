"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

__all__ = ["Section", "render_report"]

import re
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from deepcontrast_bmz.dial.verdict import CONSISTENT, LIMITS
from deepcontrast_bmz.evaluate.report.curve import plots
from deepcontrast_bmz.evaluate.report.marks import symbol
from deepcontrast_bmz.evaluate.report.pictures import more_pictures, viewer
from deepcontrast_bmz.evaluate.report.tables import plain_table, score_table
from deepcontrast_bmz.evaluate.report.words import (
    AGAINST_REFERENCE,
    READING,
    REFUSED,
    TIMES,
    number,
    outcome,
    place,
    reason,
    tick,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.evaluate.records import Evaluation

Section = tuple[str, "str | Sequence[Sequence[object]]"]
"""A heading with either text (paragraphs apart by an empty line, `code` in backticks) or the rows
of a table, the first of which is its head. Both are plain: markup in them is shown as it is."""


def _part(name: str) -> str:
    """Return a file that lies beside this one."""
    return files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def _facts(evaluation: Evaluation) -> str:
    where = place(evaluation)
    plane = (
        f"{where}, counted from 0 ({evaluation.plane_reason})" if where else evaluation.plane_reason
    )
    estimated = " (estimated)" if evaluation.offset_estimated else ""
    facts = {
        "Image": evaluation.image,
        "Plane": plane,
        "Size": _size(evaluation),
        "Model": f"{evaluation.model} ({evaluation.weights_format})",
        "Camera offset": f"{tick(round(evaluation.offset, 2) + 0.0)} counts{estimated}",
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


def _size(evaluation: Evaluation) -> str:
    """Return how much of the plane is judged."""
    top, left, height, width = evaluation.window
    size = f"{width} {TIMES} {height} px"
    if evaluation.plane_shape in (None, (height, width)):
        return size
    whole = f"{evaluation.plane_shape[1]} {TIMES} {evaluation.plane_shape[0]} px"
    return f"{size} of {whole}, from column {left} and row {top}: the part with the most content"


def _verdict(evaluation: Evaluation) -> str:
    row = evaluation.chosen
    if row.dial == 0:
        return ""
    refused = " refused" if row.verdict in REFUSED else ""
    said = f"<strong>Verdict: {row.verdict}</strong>, {escape(reason(row))}."
    return f'<p class="verdict{refused}">{symbol(row.verdict)}{said}</p>'


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
            f"{number(evaluation.ood_score)}, limit 1."
        )
    else:
        words = f"{evaluation.warning[0].upper()}{evaluation.warning[1:]}."
    mark = ' class="warned" role="note"' if evaluation.warning is not None else ""
    return f"""
<section aria-labelledby="familiar">
<h2 id="familiar">Is the model made for this image?</h2>
<p{mark}>{escape(words)}</p>
</section>"""


def _text(words: str) -> str:
    """Return plain text as paragraphs, with `code` in backticks."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", words) if part.strip()]
    marked = [re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(part)) for part in paragraphs]
    return "".join(f"<p>{part}</p>" for part in marked)


def _section(n: int, section: Section) -> str:
    heading, content = section
    name = f"section-{n}"
    body = _text(content) if isinstance(content, str) else plain_table(content, name)
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
    limit = evaluation.misfit_limit
    values = {
        "step": evaluation.step_optical_depth,
        "low": low,
        "high": high,
        "most": number(LIMITS.misfit if limit is None else limit),
    }
    reading = "".join(
        f"<dt>{name}</dt><dd>{words.format(**values)}</dd>"
        for name, words in READING
        if (evaluation.reference is not None or name not in AGAINST_REFERENCE)
        and (evaluation.plane or name != "Plane")
    )
    pictures = bool(evaluation.previews)
    parts = [
        viewer(evaluation) if pictures else "",
        plots(evaluation),
        score_table(evaluation),
        _familiarity(evaluation),
        more_pictures(evaluation),
        *(_section(n, section) for n, section in enumerate(sections, 1)),
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
    script = f"<script>{_part('page.js')}</script>" if pictures else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_part("page.css")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="lead">{escape(outcome(evaluation))}</p>
{_verdict(evaluation)}
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
