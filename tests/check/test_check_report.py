from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from deepcontrast_bmz.check.check import ENGINES, PROGRAMS, check_package
from deepcontrast_bmz.check.engines import environments, java
from deepcontrast_bmz.check.engines.engine import EngineError, EngineMissingError
from deepcontrast_bmz.errors import InputError

from .spoilt_packages import Copy, sha256

if TYPE_CHECKING:
    from pathlib import Path

REAL = {name for name, engine in ENGINES.items() if engine.real}


def test_every_real_engine_belongs_to_a_program_that_uses_it() -> None:
    assert {*environments.ENVIRONMENTS, *java.JAVA_ENGINES} == REAL
    owners = {e.name: program.name for program in PROGRAMS for e in program.engines}
    assert owners["libtorch-2.0.0"] == owners["onnxruntime-java-1.12.1"] == "fiji"
    assert owners["libtorch-2.5.1"] == owners["libtorch-2.7.1"] == "qupath"
    assert owners["core-0.10.2"] == "ilastik"
    assert owners["core-0.10.4"] == "bioengine"
    assert owners["core-0.9.6"] == owners["onnxruntime-1.15"] == "core"


@pytest.mark.parametrize("asked", [["imagej"], ["all", "imagej"], ["none", "core"]])
def test_unknown_engine_is_refused(good: Path, asked: list[str]) -> None:
    with pytest.raises(InputError, match="engines are core") as caught:
        check_package(good, run=asked)
    assert "\n" not in str(caught.value)


def raises_missing(*_: object, **__: object) -> None:
    raise EngineMissingError("there is no network")


def test_missing_engine_is_skipped_with_its_reason_and_never_passed(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "run_in_environment", raises_missing)
    monkeypatch.setattr(environments, "check_in_environment", raises_missing)
    monkeypatch.setattr(java, "run_java", raises_missing)
    report = check_package(good, run=sorted(REAL))
    assert report.engines == tuple(name for name in ENGINES if name in REAL)
    assert report.passed
    for row in report.rows:
        assert row.passed is None
        for verdict in (row.runs, row.right_values, row.any_size):
            assert verdict.state == "skipped"
            assert any("there is no network" in reason for reason in verdict.reasons)
        assert row.seams.state == "skipped"


def test_engine_that_refuses_fails_the_row_of_its_program_in_its_own_words(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise EngineError("Unsupported model IR version: 11")

    monkeypatch.setattr(java, "run_java", refuses)
    report = check_package(good, run=["onnxruntime-java-1.12.1"])
    assert [row.program for row in report.rows if row.failed] == ["fiji"]
    assert report.row("fiji").runs.reasons == (
        "onnxruntime-java-1.12.1: Unsupported model IR version: 11",
    )
    assert report.row("fiji").right_values.state == "skipped"


def test_report_as_json_holds_everything(spoilt: Copy) -> None:
    readme = spoilt.folder / "README.md"
    spoilt.rdf["documentation"] = {"source": "README.md", "sha256": sha256(readme)}
    report = spoilt.check()
    read = json.loads(report.to_json())
    assert read["passed"] is False
    rows = {row["program"]: row for row in read["rows"]}
    assert rows["fiji"]["opens"]["state"] == "failed"
    assert rows["fiji"]["passed"] is False
    assert rows["fiji"]["findings"][0]["mend"]
    text = report.to_text()
    assert "failed: bioengine, fiji, qupath, ilastik" in text
    assert "documentation as a map" in text
