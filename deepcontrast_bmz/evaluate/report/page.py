"""The HTML page, made from templates: one file that needs nothing else."""

from __future__ import annotations

__all__ = ["Section", "render_report"]

import functools
import re
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deepcontrast_bmz.dial.verdict import CONSISTENT, LIMITS
from deepcontrast_bmz.evaluate.report import pictures, tables, words
from deepcontrast_bmz.evaluate.report.curve import HEIGHT, WIDTH, draw_plots
from deepcontrast_bmz.evaluate.report.drawing import draw_symbol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.evaluate.records import Evaluation

Section = tuple[str, "str | Sequence[Sequence[object]]"]
"""A heading with either text (paragraphs apart by an empty line, `code` in backticks) or the rows
of a table, the first of which is its head. Both are plain: markup in them is shown as it is."""

DETAIL_NAMES = {
    "reference_middle": "Detail vs reference",
    "detail_fine": "Detail, fine",
    "detail_coarse": "Detail, coarse",
    "forward_consistency": "Detail",
}
"""What stands beside the gain in the viewer, as the columns of the table are called."""


@functools.cache
def _environment() -> Environment:
    """Return the templates beside this file; whatever they are given is escaped."""
    environment = Environment(
        loader=PackageLoader("deepcontrast_bmz", "evaluate/report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {
        "dial": words.dial_word,
        "number": words.number,
        "score": tables.format_score,
        "data_uri": pictures.data_uri,
        "paragraphs": _split_paragraphs,
    }
    environment.filters.update(filters)
    environment.globals["symbol"] = draw_symbol
    return environment


def _read_asset(name: str) -> Markup:
    """Return a style sheet or script of this project, to stand in the page as it is."""
    loader = _environment().loader
    assert loader is not None
    return Markup(loader.get_source(_environment(), name)[0])


def _split_paragraphs(text: str) -> list[list[str]]:
    """Split plain text into paragraphs, and these into text and `code`, by turns."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    return [re.split(r"`([^`]+)`", part) for part in paragraphs]


def _list_facts(evaluation: Evaluation) -> dict[str, str]:
    """Return what was judged, by name."""
    where = words.place(evaluation)
    plane = evaluation.plane_reason
    estimated = " (estimated)" if evaluation.offset_estimated else ""
    facts = {
        "Image": evaluation.image,
        "Plane": f"{where}, counted from 0 ({plane})" if where else plane,
        "Size": _describe_size(evaluation),
        "Model": f"{evaluation.model} ({evaluation.weights_format})",
        "Camera offset": f"{words.tick(round(evaluation.offset, 2) + 0.0)} counts{estimated}",
    }
    if evaluation.pixel_size_um is not None:
        facts["Pixel"] = f"{evaluation.pixel_size_um:.4g} µm"
    if evaluation.reference is not None:
        facts["Reference"] = evaluation.reference
    return facts


def _describe_size(evaluation: Evaluation) -> str:
    """Return how much of the plane is judged."""
    top, left, height, width = evaluation.window
    size = f"{width} {words.TIMES} {height} px"
    if evaluation.plane_shape in (None, (height, width)):
        return size
    whole = f"{evaluation.plane_shape[1]} {words.TIMES} {evaluation.plane_shape[0]} px"
    return f"{size} of {whole}, from column {left} and row {top}: the part with the most content"


def _describe_familiarity(evaluation: Evaluation) -> str:
    """Return what the out-of-distribution score says."""
    if evaluation.ood_score is None:
        return (
            "Unknown: the model has no statistics of its training images, or the image is too "
            "small to compare."
        )
    if evaluation.warning is None:
        return (
            "The image is like those the model was trained for: out-of-distribution score "
            f"{words.number(evaluation.ood_score)}, limit 1."
        )
    return f"{evaluation.warning[0].upper()}{evaluation.warning[1:]}."


def _explain_scores(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return how to read the scores that the page shows."""
    limit = evaluation.misfit_limit
    values = {
        "step": evaluation.step_optical_depth,
        "low": CONSISTENT[0],
        "high": CONSISTENT[1],
        "most": words.number(LIMITS.misfit if limit is None else limit),
    }
    return [
        (name, text.format(**values))
        for name, text in words.READING
        if (evaluation.reference is not None or name not in words.AGAINST_REFERENCE)
        and (evaluation.plane or name != "Plane")
    ]


def _gather_pictures(evaluation: Evaluation) -> dict[str, Any]:
    """Return what the viewer and the further pictures show."""
    frames = pictures.make_frames(evaluation)
    # In units of noise: without measurable noise there is no map.
    measured = evaluation.chosen.forward_consistency is not None
    residual = evaluation.residual_preview if measured else None
    raw = evaluation.previews[0] if evaluation.previews else None
    return {
        "frames": frames,
        "stack": pictures.list_planes(evaluation),
        "tints": [pictures.tint_uri(one) for one in evaluation.agreement] if frames else [],
        "now": pictures.make_frame(evaluation, evaluation.chosen),
        "start": evaluation.scores.index(evaluation.chosen),
        "raw": raw,
        "crisp": raw is not None and pictures.is_small(raw),
        "detail_name": DETAIL_NAMES[evaluation.price],
        "scale_bar": pictures.make_scale_bar(evaluation),
        "residual": residual,
        "residual_words": pictures.describe_residual(evaluation),
    }


def render_report(
    evaluation: Evaluation,
    *,
    title: str | None = None,
    command: str | None = None,
    predict: str | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """Return the evaluation as one HTML page that needs no other file.

    Images are data URIs, plots are SVG, nothing is fetched, and without scripts the page still
    shows the raw image, the automatic dial and every number.

    Parameters
    ----------
    evaluation : Evaluation
        With its previews; read back from JSON it has none, and the page no pictures.
    title : str, optional
        Heading of the page; None: the image's and the model's name.
    command : str, optional
        Command line that makes this report again.
    predict : str, optional
        Command line that enhances the image, to which the page adds the dial.
    sections : sequence of (heading, text or rows)
        Further sections, see `Section`.

    Returns
    -------
    str
        HTML, UTF-8.
    """
    shown = {row.verdict for row in evaluation.scores}
    return (
        _environment()
        .get_template("page.html")
        .render(
            evaluation=evaluation,
            chosen=evaluation.chosen,
            title=title or f"{evaluation.image}: contrast by {evaluation.model}",
            outcome=words.outcome(evaluation),
            reason=words.reason(evaluation.chosen),
            refused=evaluation.chosen.verdict in words.REFUSED,
            facts=_list_facts(evaluation),
            plots=draw_plots(evaluation),
            plot_size=(WIDTH, HEIGHT),
            meanings={name: said for name, said in words.MEANINGS.items() if name in shown},
            columns=tables.choose_columns(evaluation),
            familiarity=_describe_familiarity(evaluation),
            sections=[(*section, isinstance(section[1], str)) for section in sections],
            command=command,
            predict=predict,
            explained=_explain_scores(evaluation),
            style=_read_asset("page.css"),
            script=_read_asset("page.js"),
            **_gather_pictures(evaluation),
        )
    )
