"""The scores as tables: CSV, and a table of the page that gives each gain beside its price."""

from __future__ import annotations

__all__ = ["CONTRAST_GAIN", "Column", "cell", "plain_table", "score_table", "scores_csv"]

import csv
import io
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from deepcontrast_bmz.evaluate.records import DialScores
from deepcontrast_bmz.evaluate.report.marks import symbol
from deepcontrast_bmz.evaluate.report.words import TIMES, dial_word, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.evaluate.records import Evaluation


class Column(NamedTuple):
    """A score that the table shows."""

    field: str
    heading: str
    digits: int
    needs_reference: bool = False
    unit: str = ""


CONTRAST_GAIN = Column("contrast_gain", "Contrast gain", 2, unit=TIMES)
COLUMNS = (
    CONTRAST_GAIN,
    Column("contrast_recovery", "Contrast recovery", 2, needs_reference=True),
    Column("reference_middle", "Detail vs reference", 2, needs_reference=True),
    Column("detail_fine", "Detail, fine", 2),
    Column("detail_coarse", "Detail, coarse", 2),
    Column("forward_consistency", "Forward consistency", 2),
    Column("systematic_misfit", "Systematic misfit", 2),
    Column("psnr_after_fit", "PSNR after fit (dB)", 1, needs_reference=True),
    Column("ssim", "SSIM", 2, needs_reference=True),
    Column("average_precision", "Average precision", 2, needs_reference=True),
)


def cell(row: DialScores, column: Column) -> str:
    """Return a score in words."""
    value: float | None = getattr(row, column.field)
    shown = number(value, column.digits)
    return shown if value is None else shown + column.unit


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


def score_table(evaluation: Evaluation) -> str:
    """Return the section with one row per dial.

    Parameters
    ----------
    evaluation : Evaluation
    """
    columns = [c for c in COLUMNS if evaluation.reference is not None or not c.needs_reference]
    head = "".join(f'<th scope="col">{escape(c.heading)}</th>' for c in columns)
    rows: list[str] = []
    for row in evaluation.scores:
        chosen = row is evaluation.chosen
        mark = ' class="chosen" aria-current="true"' if chosen else ""
        cells = "".join(
            f"<td{' class=none' if getattr(row, c.field) is None else ''}>{cell(row, c)}</td>"
            for c in columns
        )
        rows.append(
            f"<tr{mark}>"
            f'<th scope="row">{dial_word(row.dial)}{" automatic" if chosen else ""}</th>{cells}'
            f'<td class="word"><span class="v" title="{escape(row.why)}">'
            f"{symbol(row.verdict)}{row.verdict}</span></td></tr>"
        )
    reason = evaluation.chosen_reason
    return f"""
<section aria-labelledby="scores">
<h2 id="scores">Scores</h2>
<div class="wide" role="region" aria-labelledby="scores" tabindex="0">
<table>
<caption>One row per dial. The automatic dial is {dial_word(evaluation.chosen_dial)}:
{escape(reason)}. Confidence: {number(evaluation.chosen_confidence)}.</caption>
<thead><tr><th scope="col">Dial</th>{head}<th scope="col" class="word">Verdict</th></tr></thead>
<tbody>{"".join(rows)}</tbody>
</table>
</div>
</section>"""


def plain_table(rows: Sequence[Sequence[object]], name: str) -> str:
    """Return any table as HTML.

    Parameters
    ----------
    rows : sequence of sequences
        Plain values, the head first.
    name : str
        Id of the heading that names it.
    """
    head, *rest = [[escape(str(value)) for value in row] for row in rows] or [[]]
    top = "".join(f'<th scope="col">{words}</th>' for words in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{words}</th>' if column == 0 else f"<td>{words}</td>"
            for column, words in enumerate(row)
        )
        + "</tr>"
        for row in rest
    )
    return (
        f'<div class="wide" role="region" aria-labelledby="{name}" tabindex="0">'
        f'<table class="plain"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )
