"""What is foretold: one row per judge of the zoo, the score, and what an upload would send."""

from __future__ import annotations

__all__ = [
    "LostPoint",
    "Remark",
    "SentFile",
    "Severity",
    "State",
    "ZooRow",
    "ZooVerdict",
    "align",
    "build_tool_row",
]

from typing import TYPE_CHECKING, Literal

from deepcontrast_bmz.settings import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

State = Literal["passed", "failed", "skipped", "not applicable", "measured"]
Severity = Literal["error", "warning"]


class Remark(Record):
    """One rule that the package breaks."""

    rule: str
    """Id of the rule."""
    severity: Severity
    """An error fails the row, a warning does not."""
    met: str
    """The value met in the package."""
    checks: str
    """What must hold."""
    mend: str
    """What to change."""
    source: str
    """Where the rule was read, or the behaviour observed."""


class ZooRow(Record):
    """What one judge of the zoo will say."""

    name: str
    """Short name of the judge."""
    title: str
    """What it judges, and where that was read."""
    state: State
    """`skipped` where nothing was run; `measured` where there is a number and no verdict."""
    reasons: tuple[str, ...]
    """Why, in words."""
    not_run: tuple[str, ...] = ()
    """Parts that were left out although others ran, and why."""
    notes: tuple[str, ...] = ()
    """What else is worth saying, though it decides nothing."""
    remarks: tuple[Remark, ...] = ()
    """Rules broken, errors first."""
    low: float = 0.0
    """Smallest value that the score may count, 0 to 1; below `high` where parts were not run."""
    high: float = 0.0
    """Largest value that the score may count."""
    counted: bool = False
    """Whether the score counts it."""

    @property
    def failed(self) -> bool:
        """Whether the judge refuses the package."""
        return self.state == "failed"

    @property
    def word(self) -> str:
        """State for a table: `partly` where a part was not run."""
        return "partly" if self.state == "passed" and self.not_run else self.state


def build_tool_row(
    name: str,
    title: str,
    state: State,
    reasons: Sequence[str],
    *,
    notes: Sequence[str] = (),
    not_run: Sequence[str] = (),
) -> ZooRow:
    """Return the row of a tool: all points if it passed, none if it failed, else unknown."""
    low, high = {"passed": (1.0, 1.0), "skipped": (0.0, 1.0)}.get(state, (0.0, 0.0))
    return ZooRow(
        name=name,
        title=title,
        state=state,
        reasons=tuple(reasons),
        notes=tuple(notes),
        not_run=tuple(not_run),
        low=low,
        high=high,
        counted=True,
    )


class LostPoint(Record):
    """A part of the score that the package does not get, or may not get."""

    points: float
    """Of a score of 1."""
    judge: str
    """Row it belongs to."""
    what: str
    """What is missing."""
    mend: str
    """What brings it, or why it should stay lost."""
    certain: bool
    """False where nothing was run: the points may yet be there."""


class SentFile(Record):
    """A file that an upload would send."""

    name: str
    """Its name in the zoo."""
    size: int | None
    """Bytes; None for a file at an address, which is downloaded first."""
    sha256: str | None
    """Hash of a local file; None for ``rdf.yaml``, which is written anew, and for an address."""
    source: str
    """Where it is now."""


def align(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]


def _percent(value: float) -> str:
    # A point that is lost is never rounded up to a full score.
    return f"{int(value * 1000 + 1e-9) / 1000:.3f}"


class ZooVerdict(Record):
    """What the zoo will say of a package."""

    rows: tuple[ZooRow, ...]
    """One per judge."""
    lowest: float
    """Score if everything that was not run fails."""
    highest: float
    """Score if everything that was not run passes."""
    lost: tuple[LostPoint, ...]
    """What is missing to 1, largest first."""
    rank: tuple[float, float] | None
    """Smallest and largest number by which bioimage.io sorts its list (0 to 8)."""
    only_zoo: tuple[str, ...]
    """What only the zoo can add."""
    sent: tuple[SentFile, ...]
    """Files of an upload."""
    left_behind: tuple[str, ...]
    """Files of the package that no upload through bioimageio.spec sends."""

    @property
    def passed(self) -> bool:
        """Whether no row failed; what was not run is `skipped`, in words, in its row."""
        return not any(row.failed for row in self.rows)

    def row(self, name: str) -> ZooRow:
        """Return the row of one judge."""
        return next(row for row in self.rows if row.name == name)

    @property
    def score_words(self) -> str:
        """The score, as a range where parts were not run."""
        low, high = _percent(self.lowest), _percent(self.highest)
        return f"score {low}" if low == high else f"score {low} to {high}, parts were not run"

    def to_text(self) -> str:
        """Return the verdict for a terminal: a table, reasons, the score, what is missing."""
        table = [["zoo", "verdict", "in the score"]]
        for row in self.rows:
            low, high = f"{row.low:.3g}", f"{row.high:.3g}"
            counted = low if low == high else f"{low} to {high}"
            table.append([row.name, row.word, counted if row.counted else ""])
        lines = align(table)
        for row in self.rows:
            lines += ["", row.title]
            for remark in row.remarks:
                lines += [
                    f"  {remark.severity}: {remark.checks}, but met: {remark.met}",
                    f"    mend: {remark.mend}  [{remark.rule}; {remark.source}]",
                ]
            lines += [f"  {row.state}: {reason}" for reason in row.reasons]
            lines += [f"  not run: {part}" for part in row.not_run]
            lines += [f"  note: {note}" for note in row.notes]
        lines += ["", f"{self.score_words}; missing to 1:"]
        for point in self.lost:
            sign = "-" if point.certain else "?"
            lines.append(f"  {sign}{point.points:.4f}  {point.judge}: {point.what}: {point.mend}")
        if not self.lost:
            lines.append("  nothing")
        if self.rank is not None:
            low, high = f"{self.rank[0]:.2f}", f"{self.rank[1]:.2f}"
            span = low if low == high else f"{low} to {high}"
            lines += [f"bioimage.io sorts its list by {span} of 8"]
        lines += ["", "only the zoo can add:"]
        lines += [f"  - {sentence}" for sentence in self.only_zoo]
        failed = [row.name for row in self.rows if row.failed]
        lines += ["", f"zoo: failed: {', '.join(failed)}" if failed else "zoo: no row failed"]
        return "\n".join(lines)

    def upload_text(self) -> str:
        """Return the list of what an upload would send, for a terminal."""
        refused = [r for r in self.row("upload").remarks if r.severity == "error"]
        total = sum(file.size or 0 for file in self.sent)
        head = f"would send {len(self.sent)} files, {total / 1e6:.1f} MB:"
        if refused:
            head = f"would send nothing as long as the row upload fails; then {head[11:]}"
        lines = [head]
        for file in self.sent:
            size = "  (downloaded)" if file.size is None else f"{file.size:14,d}"
            digest = "" if file.sha256 is None else f"  sha256 {file.sha256[:16]}..."
            moved = "" if file.source == file.name else f"  from {file.source}"
            lines.append(f"  {size}  {file.name}{moved}{digest}")
        if self.left_behind:
            lines.append(f"would leave behind: {', '.join(self.left_behind)}")
        return "\n".join(lines)
