"""Write docs/results.md from the stored records of the benchmarks.

python benchmarks/results.py
"""

from __future__ import annotations

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
"""


def page(records: Sequence[Record]) -> str:
    """Return the whole page."""
    parts = [HEAD]
    for record in records:
        versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        parts.append(f"## {record.title}\n\n`{record.command}` ({versions})\n")
        if record.text:
            parts.append(record.text + "\n")
        parts += [as_markdown(table) + "\n" for table in record.tables]
    return "\n".join(parts)


def main() -> None:
    with replace_whole(PAGE) as temporary:
        temporary.write_text(page(load_records()), encoding="utf-8")


if __name__ == "__main__":
    main()
