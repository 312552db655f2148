"""Checks a model package against the programs that will open it: one row per program.

The rules of each program are data in its own file and read the files only; values are then
compared by running the weights: in this process, as the other programs pad and tile, or in those
programs' own engines. What was not run is said to be `skipped`, never `passed`.
"""

from __future__ import annotations

__all__ = [
    "ENGINES",
    "PROGRAMS",
    "Engine",
    "Finding",
    "Report",
    "Row",
    "Verdict",
    "check_package",
]

from typing import TYPE_CHECKING

from deepcontrast_bmz.check.engines.engine import Engine
from deepcontrast_bmz.check.findings import Finding, Measured, Report, Row, Verdict
from deepcontrast_bmz.check.measure import attempt
from deepcontrast_bmz.check.program import build_refused_row, build_row
from deepcontrast_bmz.check.programs import bioengine, core, fiji, ilastik, qupath
from deepcontrast_bmz.check.rule import apply_rules
from deepcontrast_bmz.check.session import Session
from deepcontrast_bmz.check.zoo.case import give_id
from deepcontrast_bmz.check.zoo.foretell import foretell, require_test_tensors
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.package.files import open_package

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deepcontrast_bmz.check.program import Program

PROGRAMS = (core.PROGRAM, bioengine.PROGRAM, fiji.PROGRAM, qupath.PROGRAM, ilastik.PROGRAM)
ENGINES: dict[str, Engine] = {e.name: e for program in PROGRAMS for e in program.engines}
"""What `run` may name."""


def _chosen(run: Sequence[str] | None) -> tuple[str, ...]:
    """Return names of engines in the order of `ENGINES`."""
    asked = ["all"] if run is None else list(run)
    if asked == ["none"]:
        return ()
    for name in asked:
        if name not in ENGINES and name not in ("all", "real"):
            raise InputError(
                f"engines are {', '.join(ENGINES)}, all (those of this process), real (every one) "
                f"or none, not {name!r}: name those to run"
            )
    here = [name for name, engine in ENGINES.items() if not engine.real]
    wanted = {*asked, *(here if "all" in asked else ()), *(ENGINES if "real" in asked else ())}
    return tuple(name for name in ENGINES if name in wanted)


def _measure(
    programs: Sequence[Program], session: Session, engines: Sequence[str]
) -> dict[str, Measured]:
    """Run what was chosen; the results by program."""
    found = {program.name: Measured() for program in programs}
    for program in programs:
        for engine in program.engines:
            if engine.name in engines:
                with attempt(found[program.name], engine.columns, engine.name):
                    program.measure(session, engine, found[program.name])
    return found


def _check(session: Session, engines: Sequence[str]) -> tuple[Row, ...]:
    """Return one row per program."""
    package = session.package
    refused = {
        program.name: program.refuses(package) if program.refuses is not None else ""
        for program in PROGRAMS
    }
    taking = [program for program in PROGRAMS if not refused[program.name]]
    measured = _measure(taking, session, engines)
    rows: list[Row] = []
    for program in PROGRAMS:
        if refused[program.name]:
            rows.append(build_refused_row(program, refused[program.name]))
            continue
        findings = apply_rules(program.rules, package, Finding)
        if program.inspect is not None:
            findings += program.inspect(package)
        scripts = program.describe_scripts(package) if program.describe_scripts else ()
        rows.append(build_row(program, findings, measured[program.name], scripts))
    return tuple(rows)


def check_package(
    path: Path,
    *,
    run: Sequence[str] | None = None,
    run_code: bool = False,
    zoo: bool = False,
    by_spec: bool = False,
) -> Report:
    """Check a model package against every program.

    Parameters
    ----------
    path : Path
        Zip, folder, or the description in a folder.
    run : sequence of str or None
        What to run beside reading the files: names of `ENGINES`, ``"all"`` for those of this
        process, ``"real"`` for every one, or ``["none"]``; None is all. Without running, torch is
        not imported. Engines of other programs are fetched the first time and kept.
    run_code : bool
        Whether weights that need Python code from the package are run. It is somebody's code:
        allow it for packages you trust.
    zoo : bool
        Whether to foretell what the BioImage Model Zoo will say, too. Every row is then about the
        package as the zoo has it: with an id.
    by_spec : bool
        Whether the zoo gets it through bioimageio.spec's upload, which refuses an id.

    Returns
    -------
    Report
        One row per program.

    Raises
    ------
    InputError
        If the path is no package, `run` names something unknown, or the zoo's verdict is asked for
        a package without test tensors.
    """
    engines = _chosen(run)
    with open_package(path) as package:
        if zoo:
            require_test_tensors(package)
        with Session(give_id(package) if zoo else package, run_code) as session:
            rows = _check(session, engines)
            verdict = foretell(package, session, rows, engines, by_spec=by_spec) if zoo else None
        return Report(package=path.name, engines=engines, rows=rows, zoo=verdict)
