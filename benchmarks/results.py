"""Write docs/results.md from the stored records of the benchmarks.

python benchmarks/results.py
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from records import Record, as_markdown, load_records

from deepcontrast_bmz.image import replace_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = Path(__file__).parent.parent / "docs" / "results.md"

HEAD = """# Results

Made by `python benchmarks/results.py` from the records in `benchmarks/records/`; each table
can be made anew by the command above it. Figures of speed are in [performance](performance.md),
what was chosen because of them in [decisions](decisions.md).

## Summary
"""

WIDTH = 99
"""Longest line of the page outside of tables, in characters."""


def wrapped(text: str) -> str:
    """Return a paragraph or an item of a list in lines of `WIDTH`."""
    indent = "  " if text.startswith("- ") else ""
    lines = textwrap.wrap(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


def page(records: Sequence[Record]) -> str:
    """Return the whole page."""
    parts = [HEAD]
    for record in records:
        # The first sentences say what was found; all figures follow below.
        parts.append(wrapped(f"- **{record.title}.** {record.text}") + "\n")
    for record in records:
        versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        parts.append(wrapped(f"## {record.title}") + f"\n\n`{record.command}`\n\n({versions})\n")
        parts += [as_markdown(table) + "\n" for table in record.tables]
    return "\n".join(parts)


def main() -> None:
    with replace_whole(PAGE) as temporary:
        temporary.write_text(page(load_records()), encoding="utf-8")


if __name__ == "__main__":
    main()
