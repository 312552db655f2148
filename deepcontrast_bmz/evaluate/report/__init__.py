"""The report: one HTML file that needs nothing else, and tables and plots beside it."""

from __future__ import annotations

__all__ = [
    "REFUSED",
    "Section",
    "data_uri",
    "evaluate_files",
    "render_report",
    "scores_csv",
    "summary",
    "view_file",
    "write_evaluation",
]

from deepcontrast_bmz.evaluate.report.files import evaluate_files, view_file, write_evaluation
from deepcontrast_bmz.evaluate.report.page import Section, render_report
from deepcontrast_bmz.evaluate.report.pictures import data_uri
from deepcontrast_bmz.evaluate.report.tables import scores_csv
from deepcontrast_bmz.evaluate.report.words import REFUSED, summary
