"""The page of results is what the stored records say, and a record comes back as it was saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark_scripts import FOLDER, load

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


ROOT = FOLDER.parent


def test_the_page_is_made_of_the_records() -> None:
    page = load("results").page(load("records").load_records())
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page


def test_the_page_of_ported_packages_is_made_of_its_record() -> None:
    ported, records = load("ported"), load("records")
    (record,) = records.load_records(records.FOLDER / "pages")
    page = (ROOT / "docs" / "ported.md").read_text(encoding="utf-8")
    assert page == ported.page(record)
    programs, rest, missing = ([row[0] for row in table.rows] for table in record.tables)
    assert programs == rest
    # Every kind is there, tried or with the reason why not.
    assert sorted([*programs, *missing]) == sorted(kind.what for kind in ported.KINDS)


def test_every_record_names_a_command_that_exists() -> None:
    for record in load("records").load_records():
        program, script = record.command.split()[:2]
        assert program == "python"
        assert (ROOT / script).is_file(), record.command


def test_a_record_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = load("records")
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    table = records.Table("One.", ("a", "b"), (("1", "2"), ("3", "4")))
    for name, order in (("late", 9), ("early", 2)):
        records.save(name, [table], title=name, command="python x.py", order=order, text="")
    found = records.load_records(tmp_path)
    assert [record.title for record in found] == ["early", "late"]
    assert found[0].tables == (table,)
    assert records.as_markdown(table).splitlines() == [
        "One.",
        "",
        "| a | b |",
        "|---|---|",
        "| 1 | 2 |",
        "| 3 | 4 |",
    ]
