"""Checks a model package against the programs that will open it: one row per program.

The rules of each program are data in its own file and read the files only; values are then
compared by running the weights, in the reference runner and in emulations of how the other
programs pad and tile. What was not run is said to be `skipped`, never `passed`.
"""

from __future__ import annotations

__all__ = [
    "ENGINES",
    "PROGRAMS",
    "Finding",
    "Report",
    "Row",
    "Rule",
    "Verdict",
    "check_package",
]

import logging
from typing import TYPE_CHECKING

from deepcontrast_bmz.consumers import bioengine, core, fiji, ilastik, qupath
from deepcontrast_bmz.consumers.package_files import open_package
from deepcontrast_bmz.consumers.rules import (
    Finding,
    Measured,
    Report,
    Row,
    Rule,
    Verdict,
    apply_rules,
    build_row,
)
from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from deepcontrast_bmz.consumers.package_files import Package
    from deepcontrast_bmz.consumers.parity import Bench
    from deepcontrast_bmz.consumers.rules import Column

log = logging.getLogger(__name__)

PROGRAMS = (core.PROGRAM, bioengine.PROGRAM, fiji.PROGRAM, qupath.PROGRAM, ilastik.PROGRAM)
ENGINES = {
    "core": "the reference test of bioimageio.core, on every weights format",
    "parity": "the weights formats against each other, at several sizes",
    "fiji": "emulation: the weights JDLL loads, whole image mirrored by the halo",
    "qupath": "emulation: TorchScript in tiles of about 512 pixels",
    "ilastik": "emulation: TorchScript in tiles of 512 pixels",
}
"""What `run` may name."""


def _chosen(run: Sequence[str] | None) -> tuple[str, ...]:
    if run is None or list(run) == ["all"]:
        return tuple(ENGINES)
    if list(run) == ["none"]:
        return ()
    for name in run:
        if name not in ENGINES:
            raise InputError(
                f"engines are {', '.join(ENGINES)}, all or none, not {name!r}: name those to run"
            )
    return tuple(name for name in ENGINES if name in run)


def _warn(measured: Measured, rule: str, column: Column, met: str, sees: str, mend: str) -> None:
    measured.findings.append(
        Finding(
            rule=rule,
            severity="warning",
            column=column,
            met=met,
            checks="the border of an image is right",
            sees=sees,
            mend=mend,
            source="emulated",
        )
    )


def _try(measured: Measured, columns: tuple[Column, ...], work: Callable[[], None]) -> None:
    """Do the work; what the package makes impossible is skipped, what breaks has failed."""
    from deepcontrast_bmz.consumers.parity import NotPossibleError
    from deepcontrast_bmz.consumers.processing import UnsupportedError

    try:
        work()
    except NotPossibleError as error:
        for column in columns:
            measured.note(column, "skipped", f"not compared: {error}")
    except UnsupportedError as error:
        for column in columns:
            measured.note(column, "skipped", f"not emulated: the operation {error}")
    except Exception as error:
        log.debug("the package broke its engine", exc_info=True)
        words = " ".join(str(error).split())[:300]
        measured.note(columns[0], "failed", f"the engine stopped: {words}")


def _parity(bench: Bench, measured: Measured) -> None:
    from deepcontrast_bmz.consumers.parity import FORMAT_TOLERANCE, NotPossibleError

    present = [f for f in core.RUNNABLE if f in bench.package.view.weights]
    formats = [f for f in present if bench.run_code or not core.is_foreign_code(bench.package, f)]
    for name in present:
        if name not in formats:
            reason = core.is_foreign_code(bench.package, name)
            measured.note("any_size", "skipped", f"{name} was not run: {reason}")
    if not formats:
        raise NotPossibleError("there are no weights that may be run")
    worst: dict[str, tuple[float, str]] = {}
    for name, within, border, words in bench.compare_formats(formats):
        larger = max(within, border)
        if name not in worst or larger > worst[name][0]:
            place = "inside" if within >= border else "at the border"
            worst[name] = (larger, f"{larger:.2g} of the range, {place}, at {words}")
    sizes = ", ".join(" x ".join(map(str, s.values())) for s in bench.sizes())
    for name, (larger, words) in worst.items():
        if larger > FORMAT_TOLERANCE:
            said = f"{name} differs from {formats[0]} by {words}; {FORMAT_TOLERANCE:g} is allowed"
            measured.note("right_values", "failed", said)
        else:
            said = f"{name} and {formats[0]} agree to {larger:.1g} of the range"
            measured.note("right_values", "passed", said)
    measured.note("any_size", "passed", f"{', '.join(formats)} ran at {sizes}")


def _values(bench: Bench, weights_format: str, program: str, measured: Measured) -> None:
    from deepcontrast_bmz.consumers.parity import BORDER_TOLERANCE, TILE_TOLERANCE

    padded = program == "fiji"
    within, border = bench.against_test_output(weights_format, padded=padded)
    how = "whole image mirrored by the halo" if padded else "whole image"
    said = f"emulated ({weights_format}, {how}): {within:.2g} of the range from the test output"
    if within > TILE_TOLERANCE:
        measured.note("right_values", "failed", f"{said}; {TILE_TOLERANCE:g} is allowed")
    else:
        measured.note("right_values", "passed", said)
    if border > BORDER_TOLERANCE:
        _warn(
            measured,
            f"{program}.border",
            "right_values",
            f"{border:.2g} of the range from the test output within the halo of the border",
            "Values at the border differ from those in other programs.",
            "pad symmetrically by the halo inside the graph and crop",
        )


def _fiji(bench: Bench, measured: Measured) -> None:
    weights_format = fiji.weights_to_load(bench.package)
    if weights_format is None:
        return
    _try(
        measured,
        ("right_values",),
        lambda: _values(bench, weights_format, "fiji", measured),
    )

    def sizes() -> None:
        ran = [" x ".join(map(str, s.values())) for s in bench.sizes()]
        process = bench.process(weights_format)
        for size in bench.sizes():
            process(bench.image(size))
        measured.note("any_size", "passed", f"emulated ({weights_format}): {', '.join(ran)}")
        if not any(a.size is not None for a in bench.input.spatial):
            measured.note("seams", "passed", "by its tile rule, read: one tile up to 50 megapixels")

    _try(measured, ("any_size", "seams"), sizes)


def _in_tiles(bench: Bench, program: str, measured: Measured) -> None:
    from deepcontrast_bmz.consumers.parity import TILE_TOLERANCE

    weights_format = "torchscript"
    if weights_format not in bench.package.view.weights:
        weights_format = "pytorch_state_dict" if program == "ilastik" else ""
    if weights_format not in bench.package.view.weights:
        return
    _try(
        measured,
        ("right_values",),
        lambda: _values(bench, weights_format, program, measured),
    )

    def seams() -> None:
        bench.plane_axes()
        by_name = {axis.name: axis for axis in bench.input.spatial}
        if program == "qupath":
            sides = [qupath.tile_size(by_name[n].minimum or 1, by_name[n].size) for n in "yx"]
            halo = qupath.declared_halo(bench.package)
        else:
            named = ilastik.tile_size(bench.input)
            sides = [named[n] for n in "yx"]
            halo = bench.halo
        tile = (sides[0], sides[1])
        within, _ = bench.against_whole(
            weights_format,
            tile=tile,
            halo=halo,
            mode="symmetric" if program == "qupath" else "reflect",
        )
        image = bench.tiled_image(tile)
        said = (
            f"emulated ({weights_format}, {image['y']} x {image['x']} in tiles of "
            f"{tile[0]} x {tile[1]}, halo {halo}, edge tiles centred): "
            f"{within:.2g} of the range from the whole image"
        )
        if within > TILE_TOLERANCE:
            measured.note("seams", "failed", f"{said}; {TILE_TOLERANCE:g} is allowed")
        else:
            measured.note("seams", "passed", said)
        measured.note("any_size", "passed", "emulated: smaller tiles at the edge went through")

    _try(measured, ("seams", "any_size"), seams)


def _measure(package: Package, engines: Sequence[str], run_code: bool) -> dict[str, Measured]:
    """Run what was chosen; the results by program."""
    found = {program.name: Measured() for program in PROGRAMS}
    if not engines:
        return found
    if "core" in engines:
        core.measure(package, found["core"], run_code=run_code)
    from deepcontrast_bmz.consumers.parity import Bench, NotPossibleError

    try:
        bench = Bench(package, run_code)
    except NotPossibleError as error:
        for name in ("core", "fiji", "qupath", "ilastik"):
            for column in ("right_values", "any_size", "seams"):
                found[name].note(column, "skipped", f"not compared: {error}")
        return found
    if "parity" in engines:
        _try(found["core"], ("any_size",), lambda: _parity(bench, found["core"]))
    if "fiji" in engines:
        _fiji(bench, found["fiji"])
    for name in ("qupath", "ilastik"):
        if name in engines:
            _in_tiles(bench, name, found[name])
    return found


def check_package(
    path: Path, *, run: Sequence[str] | None = None, run_code: bool = False
) -> Report:
    """Check a model package against every program.

    Parameters
    ----------
    path : Path
        Zip, folder, or the description in a folder.
    run : sequence of str or None
        What to run beside reading the files: names of `ENGINES`, ``["all"]`` or ``["none"]``;
        None is all. Without running, torch is not imported.
    run_code : bool
        Whether weights that need Python code from the package are run. It is somebody's code:
        allow it for packages you trust.

    Returns
    -------
    Report
        One row per program.

    Raises
    ------
    InputError
        If the path is no package, or `run` names something unknown.
    """
    engines = _chosen(run)
    with open_package(path) as package:
        measured = _measure(package, engines, run_code)
        rows: list[Row] = []
        for program in PROGRAMS:
            findings = apply_rules(program.rules, package)
            if program.inspect is not None:
                findings += program.inspect(package)
            rows.append(build_row(program, findings, measured[program.name]))
    return Report(package=path.name, engines=engines, rows=tuple(rows))
