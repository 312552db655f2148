"""What a program is: its rules, what can be run of it, and how both become one row."""

from __future__ import annotations

__all__ = ["Program", "build_refused_row", "build_row"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepcontrast_bmz.check.findings import COLUMNS, Finding, Row, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepcontrast_bmz.check.engines.engine import Engine
    from deepcontrast_bmz.check.findings import Measured
    from deepcontrast_bmz.check.rule import Rule
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.package.files import Package


@dataclass(frozen=True)
class Program:
    """A program that opens packages, and what it demands of them."""

    name: str
    title: str
    rules: tuple[Rule, ...]
    not_run: str
    """Why the program itself was not run."""
    engines: tuple[Engine, ...]
    """What can be run of it."""
    measure: Callable[[Session, Engine, Measured], None]
    """Runs one of the engines."""
    refuses: Callable[[Package], str] | None = None
    """Says why a package is of a kind that the program does not take at all; empty if it does."""
    inspect: Callable[[Package], list[Finding]] | None = None
    """Further findings from a judge outside the rules."""
    describe_scripts: Callable[[Package], tuple[str, ...]] | None = None
    """Says what is known of attached scripts for this program."""


def build_row(
    program: Program,
    findings: Sequence[Finding],
    measured: Measured,
    scripts: tuple[str, ...] = (),
) -> Row:
    """Join what the files say with what was measured into one row.

    A column fails if a rule with severity error is broken or a measurement failed; it passes if a
    measurement passed (for `opens`: if no rule is broken); else it is skipped.
    """
    # The validator and the runner of the same program may say the same.
    first: dict[tuple[str, str], Finding] = {}
    for finding in (*findings, *measured.findings):
        first.setdefault((finding.rule, finding.met), finding)
    everything = list(first.values())
    cells: dict[str, Verdict] = {}
    for column in COLUMNS:
        broken = [f for f in everything if f.column == column and f.severity == "error"]
        reasons = [f"{f.rule}: {f.checks}, but met {f.met}; {f.mend}" for f in broken]
        reasons += measured.failed.get(column, [])
        passed = measured.passed.get(column, [])
        left_out = measured.skipped.get(column, [])
        if reasons:
            cells[column] = Verdict(state="failed", reasons=tuple(reasons), not_run=tuple(left_out))
        elif passed:
            cells[column] = Verdict(state="passed", reasons=tuple(passed), not_run=tuple(left_out))
        elif column == "opens":
            words = f"the files break none of the {len(program.rules)} rules"
            cells[column] = Verdict(state="passed", reasons=(words,), not_run=tuple(left_out))
        else:
            cells[column] = Verdict(state="skipped", reasons=tuple(left_out) or (program.not_run,))
    ordered = sorted(everything, key=lambda f: f.severity != "error")
    return _row(program, cells, findings=tuple(ordered), scripts=scripts)


def _row(program: Program, cells: dict[str, Verdict], **more: tuple[Any, ...]) -> Row:
    return Row.model_validate({"program": program.name, "title": program.title, **cells, **more})


def build_refused_row(program: Program, reason: str) -> Row:
    """Return the row of a program that does not take this kind of model: nothing was judged."""
    cell = Verdict(state="skipped", reasons=(reason,))
    return _row(program, dict.fromkeys(COLUMNS, cell), findings=())
