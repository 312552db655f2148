"""The zoo's test with deepImageJ: the sample through Fiji, compared with the test output.

Read in bioimage-io/collection at 0d660e5, scripts/check_compatibility_deepimagej.py and
scripts/deepimagej_jython_scripts/: halos are deleted, the sample of the first input is run (its
test tensor where there is none), and every pixel is compared with the test output.
"""

from __future__ import annotations

__all__ = [
    "ABSOLUTE",
    "ENGINE_DIFFERENCE",
    "RELATIVE",
    "breaks_criterion",
    "compute_allowed_difference",
    "judge_deepimagej",
    "measure_share_at_risk",
]

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from deepcontrast_bmz.check.engines.engine import EngineError, EngineMissingError
from deepcontrast_bmz.check.processing import UnsupportedError
from deepcontrast_bmz.check.programs.fiji import choose_weights
from deepcontrast_bmz.check.tiling import NotPossibleError
from deepcontrast_bmz.check.zoo.records import build_tool_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepcontrast_bmz.check.zoo.case import Case
    from deepcontrast_bmz.check.zoo.records import State, ZooRow

ABSOLUTE = 1.5e-4
RELATIVE = 1e-4
ENGINE_DIFFERENCE = 2e-5
"""By how much engines may differ that run the same network, over the range of the output."""
TITLE = (
    "deepImageJ: bioimage-io/collection 0d660e5, scripts/check_compatibility_deepimagej.py and "
    "deepimagej_check_outputs.py (every pixel within 1.5e-4 + 1e-4 |test|)"
)
REAL_ENGINES = {"torchscript": "libtorch-2.0.0", "onnx": "onnxruntime-java-1.12.1"}
"""Engines of JDLL 0.6.1, by weights format."""
MEND = "save test tensors of order 1, or the difference between engines is too large at some pixel"


_row = partial(build_tool_row, "deepimagej", TITLE)


# ---- the comparison, pixel by pixel: deepimagej_check_outputs.py


def compute_allowed_difference(expected: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far a result may lie from the test output, per pixel, in its grey values."""
    # The zoo reads both as float32 and compares as double.
    return ABSOLUTE + RELATIVE * np.abs(np.asarray(expected, np.float32).astype(np.float64))


def breaks_criterion(actual: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels that differ by more than is allowed; a single one fails the model.

    Values that are not numbers break it here. The zoo's own comparison lets them pass.
    """
    difference = np.asarray(actual, np.float32).astype(np.float64)
    difference -= np.asarray(expected, np.float32).astype(np.float64)
    # Written so that a difference that is not a number counts as too large.
    return ~(np.abs(difference) <= compute_allowed_difference(expected))


def measure_share_at_risk(expected: NDArray[Any]) -> float:
    """Return the share of pixels that an engine would fail by `ENGINE_DIFFERENCE` of the range."""
    values = np.asarray(expected, np.float32).astype(np.float64)
    if values.size == 0:
        return 0.0
    return float(np.mean(ENGINE_DIFFERENCE * np.ptp(values) > compute_allowed_difference(expected)))


# ---- the test


def _obstacles(case: Case) -> list[str]:
    """Say what in the files keeps Fiji from opening or running the model."""
    row = case.rows.get("fiji")
    if row is None:
        return []
    return [
        f"{f.rule}: {f.checks}, but met {f.met}; {f.mend}"
        for f in row.findings
        if f.severity == "error" and f.column in ("opens", "runs") and f.source != "measured"
    ]


def _given_image(case: Case) -> NDArray[Any]:
    """Return what the zoo runs, in the axes of the test input.

    Refused if the sample has another size than the test input, whose output it is compared with.
    """
    test = case.session.bench.test_input
    source = case.package.view.inputs[0].sample_source
    path = case.package.file(source)
    if not source or path is None or path.suffix.lower() not in (".tif", ".tiff"):
        return np.asarray(test, np.float32)
    import tifffile

    try:
        sample = np.squeeze(tifffile.imread(path))
    except (tifffile.TiffFileError, ValueError, OSError) as error:
        raise EngineError(f"the sample {source} cannot be read: {error}") from error
    if sample.shape != np.squeeze(test).shape:
        raise EngineError(
            f"the zoo runs the sample {source} {sample.shape} and compares with the output of the "
            f"test input {np.squeeze(test).shape}: make them the same image"
        )
    return np.asarray(sample, np.float32).reshape(test.shape)


def _run(case: Case, weights_format: str, x: NDArray[Any]) -> tuple[NDArray[Any], str, str]:
    """Return the result, who computed it, and why that was not Fiji's engine."""
    bench = case.session.bench
    engine = REAL_ENGINES.get(weights_format, "")
    path = case.package.weights_file(weights_format)
    missing = f"Fiji's engine was not run (--run {engine} does)"
    if engine in case.engines and path is not None:
        from deepcontrast_bmz.check.engines.java import run_java

        try:
            (run,) = run_java(engine, path, [bench.preprocess(x)])
        except EngineMissingError as error:
            missing = f"Fiji's engine, {engine}, was not run: {error}"
        else:
            return bench.postprocess(run.output), f"{engine} ({weights_format})", ""
    if "fiji" not in case.engines:
        raise NotPossibleError(missing)
    (out,) = bench.run_here(weights_format)([x])
    return out, f"{weights_format} in this process", missing


def _compare(
    out: NDArray[Any], expected: NDArray[Any], who: str, missing: str
) -> tuple[State, list[str], list[str]]:
    """Return state, reasons and notes."""
    if out.shape != expected.shape:
        return "failed", [f"{who} gives {out.shape}, the test output is {expected.shape}"], []
    broken = breaks_criterion(out, expected)
    difference = np.abs(np.asarray(out, np.float64) - np.asarray(expected, np.float64))
    count = int(broken.sum())
    if count:
        first = tuple(int(i[0]) for i in np.nonzero(broken))
        allowed = compute_allowed_difference(expected)[first]
        words = (
            f"{who}: {count} of {broken.size} pixels differ by more than is allowed, the first at "
            f"{first} by {difference[first]:.3g} where {allowed:.3g} "
            f"is: {MEND}"
        )
        return "failed", [words], []
    said = f"{who}: no pixel differs by more than is allowed, the most by {difference.max():.2g}"
    risk = measure_share_at_risk(expected)
    warned = (
        f"an engine that differs by {ENGINE_DIFFERENCE:g} of the range would fail {risk:.1%} of "
        f"the pixels: {MEND}"
    )
    if risk and missing:
        # The engine of this process made the test output: its agreement decides nothing.
        return "skipped", [said, warned], []
    return "passed", [said], [warned] if risk else []


def judge_deepimagej(case: Case) -> ZooRow:
    """Return what the zoo's test with deepImageJ says."""
    inputs = len(case.package.view.inputs)
    if inputs > 1:
        return _row("failed", [f"it takes one input, not {inputs}"])
    obstacles = _obstacles(case)
    if obstacles:
        return _row("failed", obstacles)
    chosen = choose_weights(case.package)
    if chosen is None or chosen not in REAL_ENGINES:
        words = f"Fiji would run {chosen or 'none'} of the weights, which is not emulated"
        return _row("skipped", [words])
    refused = case.formats.get(chosen, "")
    if refused:
        return _row("skipped", [refused])
    try:
        out, who, missing = _run(case, chosen, _given_image(case))
    except (NotPossibleError, UnsupportedError) as error:
        return _row("skipped", [str(error)])
    except EngineError as error:
        return _row("failed", [str(error)])
    except Exception as error:  # whatever the weights of others do
        return _row(
            "failed", [f"{chosen}: the engine stopped: {' '.join(str(error).split())[:300]}"]
        )
    state, reasons, notes = _compare(out, case.session.bench.test_output, who, missing)
    return _row(state, reasons, notes=notes, not_run=[missing] if missing else [])
