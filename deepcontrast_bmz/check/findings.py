"""The records of a check: what broke a rule, what was measured, and one row per program."""

from __future__ import annotations

__all__ = [
    "COLUMNS",
    "Column",
    "Finding",
    "Measured",
    "Report",
    "Row",
    "State",
    "Verdict",
]

from dataclasses import dataclass, field
from typing import Literal, get_args

from deepcontrast_bmz.check.zoo.records import Remark, ZooVerdict, align
from deepcontrast_bmz.settings import Record

State = Literal["passed", "failed", "skipped"]
Column = Literal["opens", "runs", "right_values", "any_size", "seams"]
COLUMNS: tuple[Column, ...] = get_args(Column)


class Finding(Remark):
    """One rule of a program broken by the package."""

    column: Column
    """What goes wrong."""
    sees: str
    """What a user of the program would see."""


class Verdict(Record):
    """One cell of the table."""

    state: State
    """`skipped` when nothing was broken but nothing was run either."""
    reasons: tuple[str, ...]
    """Why, in words."""
    not_run: tuple[str, ...] = ()
    """Parts that were left out although others ran, and why."""


class Row(Record):
    """What one program makes of the package."""

    program: str
    """Short name of the program."""
    title: str
    """The program and its versions."""
    opens: Verdict
    """Whether the description is read."""
    runs: Verdict
    """Whether the network runs."""
    right_values: Verdict
    """Whether its values are those of the package's test output."""
    any_size: Verdict
    """Whether images of every size go through."""
    seams: Verdict
    """Whether tiles join without a visible or measurable seam."""
    findings: tuple[Finding, ...]
    """Rules broken, errors first."""
    scripts: tuple[str, ...] = ()
    """What is said of attached scripts, which are never run here."""

    def verdict(self, column: Column) -> Verdict:
        """Return the cell of one column."""
        cell: Verdict = getattr(self, column)
        return cell

    @property
    def failed(self) -> bool:
        """Whether any column failed."""
        return any(self.verdict(column).state == "failed" for column in COLUMNS)

    @property
    def passed(self) -> bool | None:
        """False if a column failed, True if all passed, None if a part was not run."""
        if self.failed:
            return False
        cells = [self.verdict(column) for column in COLUMNS]
        return True if all(c.state == "passed" and not c.not_run for c in cells) else None


class Report(Record):
    """One row per program."""

    package: str
    """Name of the package that was checked."""
    engines: tuple[str, ...]
    """What was run; empty when only the files were read."""
    rows: tuple[Row, ...]
    """One per program."""
    zoo: ZooVerdict | None = None
    """What the BioImage Model Zoo will say, where that was asked."""

    @property
    def passed(self) -> bool:
        """Whether no row failed; parts that were not run are `skipped`, in words, in their row."""
        zoo = self.zoo is None or self.zoo.passed
        return zoo and not any(row.failed for row in self.rows)

    def row(self, program: str) -> Row:
        """Return the row of one program."""
        return next(row for row in self.rows if row.program == program)

    def to_text(self) -> str:
        """Return the report for a terminal: a table, then what is broken, then what was left out.

        A cell says `partly` where some weights formats passed and others were not run.
        """
        heads = ["program", *(column.replace("_", " ") for column in COLUMNS)]
        table = [heads]
        for row in self.rows:
            cells = [row.verdict(column) for column in COLUMNS]
            words = ["partly" if c.state == "passed" and c.not_run else c.state for c in cells]
            table.append([row.program, *words])
        lines = align(table)
        for row in self.rows:
            lines += ["", f"{row.title}"]
            for finding in row.findings:
                lines += [
                    f"  {finding.severity}: {finding.checks}, but met: {finding.met}",
                    f"    sees: {finding.sees}",
                    f"    mend: {finding.mend}  [{finding.rule}]",
                ]
            for column in COLUMNS:
                verdict = row.verdict(column)
                rules = tuple(f"{finding.rule}: " for finding in row.findings)
                said = [r for r in verdict.reasons if not (rules and r.startswith(rules))]
                words = column.replace("_", " ")
                lines += [f"  {words} {verdict.state}: {reason}" for reason in said]
                if verdict.state != "skipped":
                    lines += [f"  {words} skipped in part: {part}" for part in verdict.not_run]
            lines += [f"  script skipped: {said}" for said in row.scripts]
        failed = [row.program for row in self.rows if row.failed]
        lines += ["", f"failed: {', '.join(failed)}" if failed else "no row failed"]
        if self.zoo is not None:
            lines += ["", self.zoo.to_text()]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the report as JSON, with a key ``passed``."""
        import json

        record = self.model_dump(mode="json")
        for row, described in zip(self.rows, record["rows"], strict=True):
            described["passed"] = row.passed
        if self.zoo is None:
            del record["zoo"]
        else:
            record["zoo"]["passed"] = self.zoo.passed
        return json.dumps({"passed": self.passed, **record}, indent=2)


@dataclass
class Measured:
    """What running (or emulating) a program showed, column by column."""

    passed: dict[Column, list[str]] = field(default_factory=dict[Column, list[str]])
    failed: dict[Column, list[str]] = field(default_factory=dict[Column, list[str]])
    skipped: dict[Column, list[str]] = field(default_factory=dict[Column, list[str]])
    findings: list[Finding] = field(default_factory=list[Finding])

    def note(self, column: Column, state: State, reason: str) -> None:
        """Add one result."""
        store = {"passed": self.passed, "failed": self.failed, "skipped": self.skipped}[state]
        reasons = store.setdefault(column, [])
        if reason not in reasons:
            reasons.append(reason)
