"""The records of a check: a rule, what broke it, and one row per program."""

from __future__ import annotations

__all__ = [
    "COLUMNS",
    "Column",
    "Finding",
    "Program",
    "Report",
    "Row",
    "Rule",
    "Severity",
    "Verdict",
    "apply_rules",
    "build_row",
    "refused_row",
]

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from deepcontrast_bmz.settings import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from deepcontrast_bmz.check.engines.engine import Engine
    from deepcontrast_bmz.check.measure import Session
    from deepcontrast_bmz.package.files import Package

Severity = Literal["error", "warning"]
State = Literal["passed", "failed", "skipped"]
Column = Literal["opens", "runs", "right_values", "any_size", "seams"]
COLUMNS: tuple[Column, ...] = get_args(Column)


@dataclass(frozen=True)
class Rule:
    """One rule of one program, as data, with a pure function that says where it is broken."""

    name: str
    """Its id: program, dot, a few words."""
    checks: str
    """What must hold, as a sentence."""
    severity: Severity
    """An error fails the program's row, a warning does not."""
    column: Column
    """What goes wrong for the user if it is broken."""
    sees: str
    """What a user of the program would see."""
    mend: str
    """What to change in the package."""
    source: str
    """Where the behaviour was read in the program, or that it was observed when run."""
    find: Callable[[Package], Iterable[str]]
    """Returns the value met at every breach; nothing if the rule holds."""


class Finding(Record):
    """One rule broken by the package."""

    rule: str
    """Id of the rule."""
    severity: Severity
    """An error fails the row."""
    column: Column
    """What goes wrong."""
    met: str
    """The value met in the package."""
    checks: str
    """What must hold."""
    sees: str
    """What a user of the program would see."""
    mend: str
    """What to change."""
    source: str
    """Where the behaviour was read or observed."""


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

    def verdict(self, column: Column) -> Verdict:
        """Return the cell of one column."""
        cells = {
            "opens": self.opens,
            "runs": self.runs,
            "right_values": self.right_values,
            "any_size": self.any_size,
            "seams": self.seams,
        }
        return cells[column]

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

    @property
    def passed(self) -> bool:
        """Whether no row failed; parts that were not run are `skipped`, in words, in their row."""
        return not any(row.failed for row in self.rows)

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
        widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]
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
        failed = [row.program for row in self.rows if row.failed]
        lines += ["", f"failed: {', '.join(failed)}" if failed else "no row failed"]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the report as JSON, with a key ``passed``."""
        import json

        record = self.model_dump(mode="json")
        for row, described in zip(self.rows, record["rows"], strict=True):
            described["passed"] = row.passed
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


def apply_rules(rules: Sequence[Rule], package: Package) -> list[Finding]:
    """Return one finding per breach of the rules."""
    return [
        Finding(
            rule=rule.name,
            severity=rule.severity,
            column=rule.column,
            met=met,
            checks=rule.checks,
            sees=rule.sees,
            mend=rule.mend,
            source=rule.source,
        )
        for rule in rules
        for met in rule.find(package)
    ]


def build_row(program: Program, findings: Sequence[Finding], measured: Measured) -> Row:
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
    values: Mapping[str, Verdict] = cells
    return Row(
        program=program.name,
        title=program.title,
        opens=values["opens"],
        runs=values["runs"],
        right_values=values["right_values"],
        any_size=values["any_size"],
        seams=values["seams"],
        findings=tuple(ordered),
    )


def refused_row(program: Program, reason: str) -> Row:
    """Return the row of a program that does not take this kind of model: nothing was judged."""
    cell = Verdict(state="skipped", reasons=(reason,))
    return Row(
        program=program.name,
        title=program.title,
        opens=cell,
        runs=cell,
        right_values=cell,
        any_size=cell,
        seams=cell,
        findings=(),
    )
