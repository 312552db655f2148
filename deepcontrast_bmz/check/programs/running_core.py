"""bioimageio.core at work: its validator, its test, its blocks; this release and older ones."""

from __future__ import annotations

__all__ = [
    "compare_blocks",
    "compare_formats",
    "judge_halo",
    "run_old_core",
    "run_test",
    "validate",
]

import copy
import io
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any, cast

from deepcontrast_bmz.check.engines import environments
from deepcontrast_bmz.check.engines.environment_job import list_remarks
from deepcontrast_bmz.check.engines.networks import (
    RUNNABLE,
    explain_not_run,
    repeats_our_source,
)
from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.check.findings import Finding
from deepcontrast_bmz.check.halo import measure_reach
from deepcontrast_bmz.check.measure import attempt
from deepcontrast_bmz.check.tiling import NotPossibleError
from deepcontrast_bmz.check.tolerances import BORDER_TOLERANCE, FORMAT_TOLERANCE, TILE_TOLERANCE
from deepcontrast_bmz.package.description import as_list, as_map

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deepcontrast_bmz.check.compare import Bench
    from deepcontrast_bmz.check.engines.engine import Engine
    from deepcontrast_bmz.check.engines.environments import CoreTest, Remark
    from deepcontrast_bmz.check.findings import Column, Measured
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.package.files import Package

LARGEST_BLOCKED = 2**20
"""Pixels of the image that is run in blocks, which overlap by two halos."""


def _short(words: str) -> str:
    return " ".join(words.split())[:300]


def _judged(message: str, error: bool, where: str) -> Finding:
    return Finding(
        rule="core.validator" if error else "core.validator-warning",
        severity="error" if error else "warning",
        column="opens",
        met=_short(message),
        checks="the reference validator accepts the description"
        if error
        else "the reference validator has nothing to remark",
        sees="The model is refused as invalid." if error else "A warning.",
        mend="correct the key it names",
        source=where,
    )


def _has_github_user(rdf: dict[str, Any]) -> bool:
    people = [*as_list(rdf.get("authors")), *as_list(rdf.get("maintainers"))]
    return any(as_map(person).get("github_user") for person in people)


def validate(package: Package) -> list[Finding]:
    """Return what the reference validator says of the description, without looking at files."""
    with quiet():
        from bioimageio.spec import ValidationContext, validate_format

        context = ValidationContext(
            root=package.root, file_name=package.rdf_name, perform_io_checks=False
        )
        try:
            summary = validate_format(copy.deepcopy(package.rdf), context=context)
        except Exception as error:
            where = "bioimageio.spec validate_format, stopped by the description"
            return [_judged(f"{type(error).__name__}: {error}", True, where)]
    found: list[Finding] = []
    for remark in list_remarks(summary.details):
        finding = _judged(remark["words"], remark["error"], "bioimageio.spec validate_format")
        if finding not in found:
            found.append(finding)
    return found


# ----------------------------------------------------------------------------- its test


def _testable(
    session: Session, measured: Measured, who: str, formats: Sequence[str] = RUNNABLE
) -> list[str]:
    """Return the weights formats that may be run; note why others are not."""
    wanted: list[str] = []
    for name in session.package.view.weights:
        if name not in formats:
            if name not in RUNNABLE:
                words = f"{who}{name}: its engine is not among {', '.join(RUNNABLE)}"
                measured.note("runs", "skipped", words)
            continue
        refused = explain_not_run(session.package, name, run_code=session.run_code)
        if refused:
            for column in ("runs", "right_values"):
                measured.note(column, "skipped", f"{who}{refused}")
        else:
            wanted.append(name)
    named = session.package.references
    if any(reference.remote for reference in named if "weights" in reference.where):
        words = f"{who}weights lie at an address and are not downloaded"
        measured.note("runs", "skipped", words)
        return []
    return wanted


def run_test(session: Session, measured: Measured) -> None:
    """Run the reference test on every weights format and note what it says."""
    for name in _testable(session, measured, ""):
        _test(session.package, session.offline_copy, name, measured)


def _test(package: Package, description: Path, name: str, measured: Measured) -> None:
    test = environments.check_here(description, name)
    for remark in _note_test(measured, test, name, f"{name}: bioimageio.core", "ran it"):
        # The copy that is tested has no github_user, so this one remark is ours.
        ours = "github_user" in remark.words and _has_github_user(package.rdf)
        finding = _judged(remark.words, remark.error, "bioimageio.core 0.11 test_model")
        known = {(f.rule, f.met) for f in measured.findings}
        if (remark.error or not ours) and (finding.rule, finding.met) not in known:
            measured.findings.append(finding)


def _note_test(measured: Measured, test: CoreTest, name: str, who: str, ran: str) -> list[Remark]:
    """Note what a core's test says of running and of values; return what else it says."""
    told = [
        r for r in test.remarks if r.error and r.where.startswith(("Reproduce", "Run ", "test"))
    ]
    others = [remark for remark in test.remarks if remark not in told]
    broken: set[Column] = {"opens"} if any(remark.error for remark in others) else set()
    for remark in told:
        wrong = remark.where.startswith("Reproduce") and not remark.crash
        column: Column = "right_values" if wrong else "runs"
        broken.add(column)
        measured.note(column, "failed", f"{name}: {remark.words}")
    # The status of a failed inference is `valid-format`, which is no praise.
    if test.status != "passed" and not broken:
        broken.add("runs")
        measured.note("runs", "failed", f"{name}: the test ended as {test.status}")
    if not broken & {"opens", "runs"}:
        measured.note("runs", "passed", f"{who} {ran} at several sizes")
        if "right_values" not in broken:
            measured.note("right_values", "passed", f"{who} reproduced the test output")
    return others


def run_old_core(
    session: Session, engine: Engine, measured: Measured, formats: Sequence[str] = RUNNABLE
) -> None:
    """Run the test of a core that has an environment of its own, on these weights formats."""
    with attempt(measured, engine.columns, engine.name):
        wanted = _testable(session, measured, f"{engine.name}: ", formats)
        for name, test in session.test_in(engine.name, wanted).items():
            who = f"{engine.name} ({name})"
            for remark in _note_test(measured, test, who, who, "ran its own test"):
                if remark.error:
                    measured.note("opens", "failed", f"{who}: {remark.words}")


# ------------------------------------------------------------------- formats and blocks


def compare_formats(session: Session, measured: Measured) -> None:
    """Run all weights formats at several sizes and compare them with the first."""
    with attempt(measured, ("any_size",), "formats"):
        formats = _comparable(session, measured)
        if not formats:
            raise NotPossibleError("there are no weights that may be run")
        worst: dict[str, tuple[float, str]] = {}
        for name, found in session.bench.compare_formats(formats):
            larger = max(found.within, found.border)
            if name not in worst or larger > worst[name][0]:
                place = "inside" if found.within >= found.border else "at the border"
                worst[name] = (larger, f"{larger:.2g} of the range, {place}, at {found.words}")
        for name, (larger, words) in worst.items():
            stand_in = session.bench.describe_stand_in(name)
            who = f"{name} ({stand_in})" if stand_in else name
            if larger > FORMAT_TOLERANCE:
                said = (
                    f"{who} differs from {formats[0]} by {words}; {FORMAT_TOLERANCE:g} is allowed"
                )
                measured.note("right_values", "failed", said)
            else:
                said = f"{who} and {formats[0]} agree to {larger:.1g} of the range"
                measured.note("right_values", "passed", said)
        _note_sizes(session, measured, formats)


def _comparable(session: Session, measured: Measured) -> list[str]:
    """Return the weights formats that can be run here; note why others are not."""
    formats: list[str] = []
    for name in (f for f in RUNNABLE if f in session.package.view.weights):
        refused = explain_not_run(session.package, name, run_code=session.run_code, own=True)
        if refused:
            measured.note("any_size", "skipped", refused)
            continue
        if session.package.weights_file(name) is not None:
            try:
                session.bench.load_graph(name)
            except NotPossibleError as error:
                measured.note("runs", "failed", f"{name}: {error}")
                continue
        formats.append(name)
    return formats


def _note_sizes(session: Session, measured: Measured, formats: Sequence[str]) -> None:
    """Note at which sizes which formats ran, and what did not run as the package says."""
    sizes = ", ".join(" x ".join(map(str, s.values())) for s in session.bench.list_sizes())
    ran: list[str] = []
    for name in formats:
        stand_in = session.bench.describe_stand_in(name)
        if stand_in and not repeats_our_source(session.package):
            measured.note("any_size", "skipped", f"{name} was run only {stand_in}")
        else:
            ran.append(name)
    if ran:
        measured.note("any_size", "passed", f"{', '.join(ran)} ran at {sizes}")


def _block_parameter(bench: Bench) -> tuple[int, dict[str, int]]:
    """Return N of ``--blockwise=N``, and sizes of an image of several such blocks.

    One N goes for all axes: that with which blocks are about twice as large as their two halos.
    """
    n = 0
    for axis, halo in zip(bench.input.spatial, bench.halo, strict=True):
        if axis.step and axis.minimum is not None:
            n = max(n, -(-(4 * halo - axis.minimum) // axis.step))
    n = max(n, 1)
    sizes: dict[str, int] = {}
    for axis, halo in zip(bench.input.spatial, bench.halo, strict=True):
        if axis.size is not None or axis.minimum is None:
            raise NotPossibleError("the model takes one size only, which is its only block")
        block = axis.minimum + n * max(axis.step or 0, 0)
        # Off the grid of the blocks, by an odd number.
        sizes[axis.name] = axis.legal(block + max((block - 2 * halo) // 2, 1) | 1)
    voxels = 1
    for size in sizes.values():
        voxels *= size
    if voxels > LARGEST_BLOCKED:
        raise NotPossibleError(f"an image of several blocks has {voxels} pixels")
    return n, sizes


def judge_halo(session: Session, measured: Measured) -> None:
    """Measure how far the network sees, and note halos that are smaller."""
    with attempt(measured, ("seams",), "halo"):
        bench = session.bench
        allowed = _allowed(session)
        for axis in bench.input.spatial:
            halo = session.package.view.halo.get(axis.name, 0)
            if not halo or axis.name not in bench.out_names:
                continue
            reach = measure_reach(bench, allowed[0], axis, TILE_TOLERANCE)
            if reach is None:
                words = f"how far the network sees along {axis.name} could not be measured"
                measured.note("seams", "skipped", f"{allowed[0]}: {words}")
            elif reach > halo:
                measured.note(
                    "seams",
                    "failed",
                    f"halo {halo} on axis {axis.name}, but values change by more than "
                    f"{TILE_TOLERANCE:g} of the range up to {reach} pixels from a cut "
                    f"({allowed[0]}): declare at least {reach}",
                )


def _allowed(session: Session) -> list[str]:
    """Return the weights formats that may be run in the reference."""
    package, run_code = session.package, session.run_code
    formats = [f for f in RUNNABLE if f in package.view.weights]
    allowed = [f for f in formats if not explain_not_run(package, f, run_code=run_code)]
    if not allowed:
        raise NotPossibleError("there are no weights that may be run")
    return allowed


def compare_blocks(session: Session, engine: Engine, measured: Measured) -> None:
    """Compare ``bioimageio predict --blockwise=N`` with the whole image."""
    with attempt(measured, engine.columns, "--blockwise"):
        bench = session.bench
        if session.package.view.is_04:
            raise NotPossibleError("bioimageio.core cuts no image for a 0.4 description")
        allowed = _allowed(session)
        bench.find_positions()
        n, sizes = _block_parameter(bench)
        whole, blocks = _both_ways(session, allowed[0], n, bench.make_scene(sizes))
        found = bench.measure(blocks, whole, bench.halo)
        said = (
            f"{allowed[0]}, {found.words} with --blockwise={n}: {found.within:.2g} of the range "
            f"from the whole image inside, {found.border:.2g} at the border"
        )
        if found.within > TILE_TOLERANCE:
            measured.note("seams", "failed", f"{said}; {TILE_TOLERANCE:g} is allowed inside")
        else:
            measured.note("seams", "passed", said)
        if found.border > BORDER_TOLERANCE:
            measured.findings.append(
                Finding(
                    rule="core.blockwise-border",
                    severity="warning",
                    column="seams",
                    met=f"{found.border:.2g} of the range within the halo of the border",
                    checks="blocks at the border are those of the whole image",
                    sees="bioimageio predict gives other values there with --blockwise.",
                    mend="use no statistics of the image, and pad symmetrically inside the graph",
                    source="measured",
                )
            )


def _both_ways(session: Session, weights_format: str, n: int, image: Any) -> tuple[Any, Any]:
    """Run an image whole and in blocks through bioimageio.core."""
    import torch
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model, get_member_id
    from bioimageio.spec import load_model_description

    unoptimised = torch.jit.optimized_execution(  # pyright: ignore[reportPrivateImportUsage]
        False
    )
    # Its progress bars are for people who asked for them.
    with quiet(), unoptimised, redirect_stderr(io.StringIO()):
        description: Any = load_model_description(session.offline_copy, perform_io_checks=False)
        entry = get_member_id(description.inputs[0])
        leaves = get_member_id(description.outputs[0])
        devices = ["cpu"] if weights_format != "onnx" else ["CPUExecutionProvider"]
        pipeline = create_prediction_pipeline(
            description, weights_format=cast("Any", weights_format), devices=devices
        )
        results: list[Any] = []
        with pipeline:
            for blockwise in (False, True):
                sample = create_sample_for_model(description, inputs={entry: image})
                if blockwise:
                    done = pipeline.predict_sample_with_blocking(sample, ns=n)
                else:
                    done = pipeline.predict_sample_without_blocking(sample)
                results.append(done.members[leaves].data.values)
    return results[0], results[1]
