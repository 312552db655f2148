"""Tables of the benchmarks: printed for people, kept as records, and made into one page.

A benchmark that is called with ``--record`` leaves ``benchmarks/records/NAME.json``;
``python benchmarks/results.py`` makes ``docs/results.md`` of them all.
"""

from __future__ import annotations

__all__ = [
    "FOLDER",
    "Record",
    "Table",
    "as_markdown",
    "load_records",
    "print_tables",
    "save",
    "write_json",
]

import dataclasses
import importlib.metadata
import json
import os
import platform
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcontrast_bmz.image import replace_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parent / "records"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of words: numbers come rounded as they are to be read."""

    caption: str
    """One sentence."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Record:
    """What one benchmark found."""

    title: str
    command: str
    """The command line that repeats it, from the root of the repository."""
    order: int
    """Place on the page, ascending."""
    text: str
    """A paragraph: what was measured, and what to see."""
    tables: tuple[Table, ...]
    versions: dict[str, str]
    """Of the libraries whose arithmetic it used, and the machine."""


def as_markdown(table: Table) -> str:
    """Return the caption and the table."""
    caption = textwrap.wrap(table.caption, 99, break_long_words=False, break_on_hyphens=False)
    lines = [*caption, ""] if caption else []
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("|---" * len(table.columns) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    return "\n".join(lines)


def print_tables(tables: Sequence[Table]) -> None:
    print("\n\n".join(as_markdown(table) for table in tables))


def save(
    name: str, tables: Sequence[Table], *, title: str, command: str, order: int, text: str
) -> Path:
    """Write a record under its name, whole or not at all."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    versions = {lib: importlib.metadata.version(lib) for lib in ("torch", "numpy", "scipy")}
    record = Record(title, command, order, text, tuple(tables), {**versions, "machine": machine})
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dataclasses.asdict(record))
    return path


def write_json(path: Path, values: object) -> None:
    """Write plain values as JSON, whole or not at all."""
    words = json.dumps(values, indent=1, ensure_ascii=False)
    with replace_whole(path) as temporary:
        temporary.write_text(words + "\n", encoding="utf-8")


def load_records(folder: Path = FOLDER) -> list[Record]:
    """Return all records in the order of the page."""
    found: list[Record] = []
    for path in sorted(folder.glob("*.json")):
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tables = tuple(
            Table(table["caption"], tuple(table["columns"]), tuple(map(tuple, table["rows"])))
            for table in values.pop("tables")
        )
        found.append(Record(**values, tables=tables))
    return sorted(found, key=lambda record: (record.order, record.title))
