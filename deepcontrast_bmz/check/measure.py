"""Turns what engines did into the cells of the table."""

from __future__ import annotations

__all__ = ["attempt", "handle_whole", "judge", "run_emulated", "run_real"]

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deepcontrast_bmz.check.engines.engine import EngineError, EngineMissingError
from deepcontrast_bmz.check.engines.networks import explain_not_run
from deepcontrast_bmz.check.findings import Finding
from deepcontrast_bmz.check.processing import UnsupportedError
from deepcontrast_bmz.check.tiling import NotPossibleError
from deepcontrast_bmz.check.tolerances import BORDER_TOLERANCE, TILE_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from deepcontrast_bmz.check.compare import Batch, Bench, Comparison, Difference
    from deepcontrast_bmz.check.engines.engine import Engine, EngineRun
    from deepcontrast_bmz.check.findings import Column, Measured
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.check.tiling import Handling

log = logging.getLogger(__name__)

STALL = 1.5
"""A later run may take so many times the first at the same size."""
STALL_SECONDS = 1.0
"""And so much more, since other work on the machine takes time too."""


@contextmanager
def attempt(measured: Measured, columns: Sequence[Column], who: str) -> Generator[None]:
    """Do the work; what the package makes impossible is skipped, what breaks has failed."""
    try:
        yield
    except NotPossibleError as error:
        for column in columns:
            measured.note(column, "skipped", f"{who}: not compared: {error}")
    except UnsupportedError as error:
        for column in columns:
            measured.note(column, "skipped", f"{who}: not emulated: the operation {error}")
    except EngineMissingError as error:
        for column in columns:
            measured.note(column, "skipped", f"{who} was not run: {error}")
    except EngineError as error:
        measured.note("runs", "failed", f"{who}: {error}")
    except Exception as error:
        log.debug("the package broke its engine", exc_info=True)
        words = " ".join(str(error).split())[:300]
        measured.note(columns[0], "failed", f"{who}: the engine stopped: {words}")


_BORDERS = {
    "symmetric": "the border mirrored",
    "reflect": "the border mirrored without its edge pixel",
    "replicate": "the edge pixel repeated beyond the border",
}


def _describe(handling: Handling) -> str:
    """Return in words how a program pads and cuts."""
    if handling.tile is not None:
        sides, halo = (" x ".join(map(str, n)) for n in (handling.tile, handling.halo))
        return f"tiles of {sides}, halo {halo}, {_BORDERS[handling.border]}"
    if any(handling.halo):
        return f"whole image, {_BORDERS[handling.border]} by the halo"
    return "whole image"


def judge(
    measured: Measured, compared: Comparison, *, who: str, program: str, handling: Handling
) -> None:
    """Note what a comparison says: right values, any size, and seams where there are tiles."""
    _judge_test(measured, compared.test, f"{who}, {_describe(handling)}")
    border = max(d.border for d in (compared.test, *compared.sizes))
    # Nothing in a package changes how a program goes on beyond the border, unless it mirrors.
    if border > BORDER_TOLERANCE and handling.border == "symmetric":
        met = f"{border:.2g} of the range within the halo of the border ({who})"
        measured.findings.append(_border_finding(program, met))
    _judge_sizes(measured, compared, who, tiled=handling.tile is not None)


def _judge_test(measured: Measured, test: Difference, who: str) -> None:
    if not test.has_inside:
        words = f"{who}: no pixel of the test output lies farther from its border than the halo"
        measured.note("right_values", "skipped", f"{words} ({test.border:.2g} of the range off)")
        return
    said = (
        f"{who}: {test.within:.2g} of the range from the test output inside, "
        f"{test.border:.2g} at the border"
    )
    if test.within > TILE_TOLERANCE:
        measured.note("right_values", "failed", f"{said}; {TILE_TOLERANCE:g} is allowed inside")
    else:
        measured.note("right_values", "passed", said)


def _judge_sizes(measured: Measured, compared: Comparison, who: str, *, tiled: bool) -> None:
    column: Column = "seams" if tiled else "any_size"
    if compared.too_rigid:
        measured.note(column, "skipped", f"{who}: not compared: {compared.too_rigid}")
        return
    wrong = [found for found in compared.sizes if found.within > TILE_TOLERANCE]
    for found in wrong:
        words = (
            f"{who}, image of {found.words}: {found.within:.2g} of the range from the whole image"
        )
        measured.note(column, "failed", f"{words} inside; {TILE_TOLERANCE:g} is allowed")
    if not wrong:
        within = max(found.within for found in compared.sizes)
        border = max(found.border for found in compared.sizes)
        words = ", ".join(found.words for found in compared.sizes)
        said = f"{within:.2g} of the range from the whole image inside, {border:.2g} at the border"
        measured.note(column, "passed", f"{who}, images of {words}: {said}")
    if not tiled:
        return
    sizes = ", ".join(found.words for found in compared.sizes)
    measured.note("any_size", "passed", f"{who}: {sizes} went through")
    for found in compared.smaller:
        said = f"went through, filled up to a tile: {found.border:.2g} of the range at the border"
        words = f"{who}: {found.words}, below the smallest size, {said}"
        measured.note("any_size", "passed", words)


def _border_finding(program: str, met: str) -> Finding:
    return Finding(
        rule=f"{program}.border",
        severity="warning",
        column="right_values",
        met=met,
        checks="the border of an image is right",
        sees="Values at the border differ from those in other programs.",
        mend="pad symmetrically by the halo inside the graph and crop",
        source="measured",
    )


def handle_whole(*, padded: bool) -> Callable[[Bench], Handling]:
    """Return what programs do that run images whole; `padded`: mirrored by the halo before."""
    return lambda bench: bench.handle_whole(padded=padded)


def _first_allowed(session: Session, formats: Sequence[str], *, own: bool) -> str:
    """Return the first weights format that the package has and that may be run.

    `own`: whether a state dict of this project, which needs none of the package's code, will do.
    """
    present = [f for f in formats if f in session.package.view.weights]
    if not present:
        raise NotPossibleError(f"there are no {' or '.join(formats)} weights")
    reason = ""
    for name in present:
        reason = explain_not_run(session.package, name, run_code=session.run_code, own=own)
        if not reason:
            return name
    raise NotPossibleError(reason)


def run_emulated(
    session: Session,
    measured: Measured,
    engine: Engine,
    formats: Sequence[str],
    handle: Callable[[Bench], Handling],
    *,
    program: str,
) -> None:
    """Run weights in this process, handled as the program does.

    The first of the formats that is there is run; `handle` says how the program pads and cuts.
    """
    with attempt(measured, engine.columns, "emulation"):
        name = _first_allowed(session, formats, own=True)
        bench = session.bench
        how = bench.describe_stand_in(name)
        who = f"emulated ({name}, {how})" if how else f"emulated ({name})"
        handling = handle(bench)
        compared = bench.compare(bench.run_here(name), name, handling)
        judge(measured, compared, who=who, program=program, handling=handling)


def run_real(
    session: Session,
    measured: Measured,
    engine: Engine,
    formats: Sequence[str],
    handle: Callable[[Bench], Handling],
    *,
    program: str,
) -> None:
    """Run weights in a real engine, handled as the program does; else as `run_emulated`."""
    with attempt(measured, engine.columns, engine.name):
        name = _first_allowed(session, formats, own=False)
        who = f"{engine.name} ({name})"
        path = session.package.weights_file(name)
        if path is None:
            raise NotPossibleError(f"there is no file with {name} weights")
        bench = session.bench
        smallest: list[NDArray[np.float32]] = []

        def network(arrays: Sequence[Any]) -> list[Any]:
            smallest.append(min(arrays, key=lambda x: int(x.size)))
            return [run.output for run in _run(engine, path, arrays)]

        def whole_model(arrays: Sequence[Any]) -> list[Any]:
            runs = _run(engine, session.offline_copy, arrays, weights_format=name)
            return [run.output for run in runs]

        core = engine.name.startswith("core-")
        batch: Batch = whole_model if core else bench.wrap(network)
        handling = handle(bench)
        compared = bench.compare(batch, name, handling)
        measured.note("runs", "passed", f"{who} ran it")
        judge(measured, compared, who=who, program=program, handling=handling)
        if smallest:
            (run,) = _run(engine, path, smallest[:1], repeats=3)
            _note_stall(measured, program, who, run)


def _run(
    engine: Engine, path: Path, arrays: Sequence[NDArray[np.float32]], **options: Any
) -> list[EngineRun]:
    if engine.where == "java":
        from deepcontrast_bmz.check.engines.java import run_java

        return run_java(engine.name, path, arrays, **options)
    from deepcontrast_bmz.check.engines.environments import run_in_environment

    return run_in_environment(engine.name, path, arrays, **options)


def _note_stall(measured: Measured, program: str, who: str, run: EngineRun) -> None:
    first, *later = run.seconds
    if later and max(later) > STALL * first + STALL_SECONDS:
        shown = ", ".join(f"{s:.1f} s" for s in run.seconds)
        measured.findings.append(
            Finding(
                rule=f"{program}.stall",
                severity="warning",
                column="runs",
                met=f"{shown} for the same image ({who})",
                checks="later images of a size take no longer than the first",
                sees="A pause of many seconds at the second image of every new size.",
                mend="fold elementwise factors into convolutions, so that no fuser compiles them",
                source="measured",
            )
        )
