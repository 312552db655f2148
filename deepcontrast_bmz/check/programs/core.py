"""bioimageio.core 0.11, the reference: its validator, its runner, and rules of its own."""

from __future__ import annotations

__all__ = ["PROGRAM", "measure"]

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.check import architecture
from deepcontrast_bmz.check import faults as breaches
from deepcontrast_bmz.check.engines.engine import read_engines
from deepcontrast_bmz.check.program import Program
from deepcontrast_bmz.check.programs import running_core
from deepcontrast_bmz.check.rule import read_rules
from deepcontrast_bmz.package.description import as_list, as_map, text
from deepcontrast_bmz.package.files import load_tensor, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepcontrast_bmz.check.engines.engine import Engine
    from deepcontrast_bmz.check.findings import Measured
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.package.files import Package

STATISTICS = ("scale_range", "zero_mean_unit_variance", "scale_mean_variance")


def _find_missing_files(package: Package) -> Iterator[str]:
    for reference in package.references:
        if reference.remote:
            if not reference.where.startswith(("documentation", "covers", "attachments")):
                yield f"{reference.where} at an address, {reference.source}"
        elif package.file(reference.source) is None:
            yield f"{reference.where}: no file {reference.source!r}"


def _find_wrong_sha256(package: Package) -> Iterator[str]:
    for reference in package.references:
        path = package.file(reference.source)
        if path is None or reference.sha256 is None:
            continue
        actual = sha256_of(path)
        if actual != reference.sha256.lower():
            yield f"{reference.where}: {reference.sha256[:12]}... for a file of {actual[:12]}..."


def _find_no_sha256(package: Package) -> Iterator[str]:
    for reference in package.references:
        demanded = reference.where.startswith(("weights", "inputs", "outputs"))
        if demanded and reference.sha256 is None and ".dependencies" not in reference.where:
            yield f"{reference.where} ({reference.source})"


def _find_small_minimum(package: Package) -> Iterator[str]:
    halo = package.view.halo
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            margin, smallest = halo.get(axis.name, 0), axis.smallest
            if margin and smallest is not None and smallest <= 2 * margin:
                yield f"size from {smallest} and halo {margin} on axis {axis.name}"


def _find_halo_off_step(package: Package) -> Iterator[str]:
    halo = package.view.halo
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            if axis.step and (2 * halo.get(axis.name, 0)) % axis.step:
                yield f"step {axis.step} and halo {halo[axis.name]} on axis {axis.name}"


def _find_some_sizes_only(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            if axis.size is not None:
                yield f"size {axis.size} only, on axis {axis.name} of {tensor.name}"
            elif axis.step is not None and axis.step > 1:
                yield f"step {axis.step} on axis {axis.name} of {tensor.name}"


def _find_post_statistics(package: Package) -> Iterator[str]:
    for tensor in package.view.outputs:
        for operation in tensor.operations:
            if operation.name not in STATISTICS or operation.kwargs.get("mode") == "fixed":
                continue
            own_range = operation.name == "scale_range" and not operation.kwargs.get(
                "reference_tensor"
            )
            if own_range or operation.name == "scale_mean_variance":
                yield f"{operation.name} on {tensor.name}"


def _find_dataset_statistics(package: Package) -> Iterator[str]:
    if package.view.is_04:
        return
    for tensor in package.view.inputs:
        for operation in tensor.operations:
            if operation.name not in STATISTICS:
                continue
            axes = as_list(operation.kwargs.get("axes"))
            if not axes or "batch" in axes:
                yield f"{operation.name} with axes {axes or 'missing'} on {tensor.name}"


def _find_statistics_of_raw(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        changed = ""
        for operation in tensor.operations:
            if operation.name in STATISTICS and changed:
                yield f"{operation.name} after {changed} on {tensor.name}"
            if operation.name not in ("ensure_dtype", ""):
                changed = operation.name


def _find_integer_input(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        last = tensor.operations[-1] if tensor.operations else None
        ensured = last is not None and last.name == "ensure_dtype"
        if not tensor.data_type.startswith("float") and not ensured:
            yield f"{tensor.data_type} in {tensor.name} without a last ensure_dtype: float32"


def _find_no_channel_out(package: Package) -> Iterator[str]:
    for tensor in package.view.outputs:
        if tensor.axes and tensor.axis("channel") is None:
            yield f"axes {', '.join(a.name for a in tensor.axes)} of {tensor.name}"


def _find_no_cover(package: Package) -> Iterator[str]:
    if not as_list(package.rdf.get("covers")):
        yield "no covers"


def _find_no_validation(package: Package) -> Iterator[str]:
    value = package.rdf.get("documentation")
    source = text(as_map(value).get("source")) if isinstance(value, dict) else text(value)
    path = package.file(source)
    if path is None:
        return
    words = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not any(line.startswith("#") and "validation" in line.lower() for line in words):
        yield f"none in {source}"


def _find_unreadable_tensor(package: Package) -> Iterator[str]:
    for tensor in package.view.tensors:
        array = load_tensor(package, tensor.test_source)
        if array is None:
            yield f"{tensor.test_source or 'no test tensor'} for {tensor.name}"
        elif array.ndim != len(tensor.axes):
            yield f"{array.ndim} axes in {tensor.test_source}, {len(tensor.axes)} declared"


def _find_normalised_input(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        normalises = any(op.name in STATISTICS for op in tensor.operations)
        array = load_tensor(package, tensor.test_source) if normalises else None
        if array is None or array.size == 0 or not np.issubdtype(array.dtype, np.floating):
            continue
        centred = abs(float(array.mean())) < 0.05 and 0.9 < float(array.std()) < 1.1
        unit = -0.5 <= float(array.min()) < 0.05 and 0.9 < float(array.max()) <= 2.0
        if centred or unit:
            yield f"{tensor.test_source} with values from {array.min():.3g} to {array.max():.3g}"


def _find_tight_tolerance(package: Package) -> Iterator[str]:
    zoo = as_map(as_map(package.rdf.get("config")).get("bioimageio"))
    entries = [as_map(e) for e in as_list(zoo.get("reproducibility_tolerance"))]
    absolute = [e.get("absolute_tolerance") for e in entries]
    known = [float(a) for a in absolute if isinstance(a, int | float)]
    limit = max(known, default=1e-3)
    for tensor in package.view.outputs:
        array = load_tensor(package, tensor.test_source)
        if array is None or array.size == 0 or array.dtype.kind not in "fiu":
            continue
        scale = float(array.max()) - float(array.min())
        # float32 in another order of summation differs by about 1e-6 of the range.
        if scale > 0 and limit < 2e-6 * scale:
            yield f"absolute_tolerance {limit:g} for values over a range of {scale:.4g}"


def _find_channels_disagree(package: Package) -> Iterator[str]:
    for tensor in package.view.tensors:
        array = load_tensor(package, tensor.test_source)
        if array is None or array.ndim != len(tensor.axes):
            continue
        for axis, size in zip(tensor.axes, array.shape, strict=True):
            if axis.kind == "channel" and axis.size is not None and axis.size != size:
                yield f"{axis.size} channels declared, {size} in {tensor.test_source}"


RULES = read_rules(
    "core",
    {
        "format-version": partial(breaches.find_unlike_versions, accepted=("0.4", "0.5")),
        "files": _find_missing_files,
        "sha256": _find_wrong_sha256,
        "sha256-given": _find_no_sha256,
        "test-tensors": _find_unreadable_tensor,
        "channel-count": _find_channels_disagree,
        "min-halo": _find_small_minimum,
        "halo-step": _find_halo_off_step,
        "post-statistics": _find_post_statistics,
        "integer-input": _find_integer_input,
        "architecture-callable": architecture.find_unknown_callable,
        "architecture-arguments": architecture.find_unfit_arguments,
        "architecture-tensors": architecture.find_unfit_tensors,
        "architecture-iterations": architecture.find_unfit_outputs,
        "dataset-statistics": _find_dataset_statistics,
        "statistics-first": _find_statistics_of_raw,
        "raw-test-input": _find_normalised_input,
        "tolerance": _find_tight_tolerance,
        "any-size": _find_some_sizes_only,
        "onnx-dynamic": breaches.find_onnx_static,
        "blockwise-channel": _find_no_channel_out,
        "cover": _find_no_cover,
        "validation-heading": _find_no_validation,
        "local-paths": breaches.find_debug_paths,
    },
)


def measure(session: Session, engine: Engine, measured: Measured) -> None:
    """Run one of the engines."""
    from deepcontrast_bmz.check.measure import handle_whole, run_real

    if engine.name == "core":
        running_core.run_test(session, measured)
    elif engine.name == "parity":
        running_core.compare_formats(session, measured)
    elif engine.name == "blockwise":
        running_core.judge_halo(session, measured)
        running_core.compare_blocks(session, engine, measured)
    elif engine.name.startswith("core-"):
        running_core.run_old_core(session, engine, measured)
        handling = handle_whole(padded=False)
        run_real(session, measured, engine, ("torchscript", "onnx"), handling, program="core")
    else:
        handling = handle_whole(padded=False)
        run_real(session, measured, engine, ("onnx",), handling, program="core")


PROGRAM = Program(
    "core",
    "bioimageio.core 0.11 (bioimageio predict)",
    RULES,
    "bioimageio.core was not run (it was not asked for)",
    read_engines("core"),
    measure,
    inspect=running_core.validate,
)
