"""Scores as tables: CSV, and the table of the page with each gain beside its price."""

from __future__ import annotations

__all__ = ["CONTRAST_GAIN", "Column", "choose_columns", "format_score", "scores_csv"]

import csv
import io
from typing import TYPE_CHECKING, Any, NamedTuple

from deepcontrast_bmz.evaluate.records import DialScores
from deepcontrast_bmz.evaluate.report.words import TIMES, number

if TYPE_CHECKING:
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


def choose_columns(evaluation: Evaluation) -> list[Column]:
    """Return the columns of the page's table: without a reference, none that needs one."""
    return [c for c in COLUMNS if evaluation.reference is not None or not c.needs_reference]


def format_score(row: DialScores, column: Column) -> str:
    """Return a score as a number with its unit, or "unmeasurable"."""
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
