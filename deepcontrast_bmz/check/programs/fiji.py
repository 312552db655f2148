"""Fiji (deepImageJ 3.1) and Icy, which read and run models through JDLL 0.6.1.

The emulation was read in JDLL 0.6.1: `ModelWeight` and the engine table choose the weights
(`order_formats`), `TileCalculator` takes an image up to 50 megapixels as one tile, and `TileMaker`
mirrors it by the halo, the edge pixel repeated, and crops.
"""

from __future__ import annotations

__all__ = ["PROGRAM", "choose_weights", "measure"]

from functools import partial
from typing import TYPE_CHECKING

from deepcontrast_bmz.check import faults as breaches
from deepcontrast_bmz.check.engines.engine import read_engines
from deepcontrast_bmz.check.engines.java import JAVA_ENGINES
from deepcontrast_bmz.check.program import Program
from deepcontrast_bmz.check.rule import read_rules
from deepcontrast_bmz.check.scripts import describe_scripts
from deepcontrast_bmz.export.fiji_order import VERSION_KEYS, order_formats, shares_slot
from deepcontrast_bmz.package.description import as_map, text
from deepcontrast_bmz.package.weights import script_calls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepcontrast_bmz.check.engines.engine import Engine
    from deepcontrast_bmz.check.findings import Measured
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.package.files import Package

JAVA_FORMATS = ("torchscript", "onnx", "tensorflow_saved_model_bundle")
OPERATIONS = (
    "binarize",
    "clip",
    "ensure_dtype",
    "fixed_zero_mean_unit_variance",
    "scale_linear",
    "scale_range",
    "sigmoid",
    "zero_mean_unit_variance",
)
DATA_TYPES = ("uint8", "int32", "int64", "float32", "float64")


def _versions(package: Package) -> dict[str, str]:
    return {
        name: text(entry.get(VERSION_KEYS[name]))
        for name, entry in package.view.weights.items()
        if name in VERSION_KEYS
    }


def choose_weights(package: Package) -> str | None:
    """Return the weights format JDLL runs in Java, or None if there is none."""
    order = [name for name in order_formats(_versions(package)) if name in JAVA_FORMATS]
    return order[0] if order else None


def _find_wrong_name(package: Package) -> Iterator[str]:
    if package.rdf_name != "rdf.yaml":
        yield package.rdf_name


def _find_no_id(package: Package) -> Iterator[str]:
    if package.view.is_04 or "config" not in package.rdf or text(package.rdf.get("id")):
        return
    zoo = as_map(as_map(package.rdf["config"]).get("bioimageio"))
    if not text(zoo.get("nickname")):
        yield "neither id nor config.bioimageio.nickname"


def _find_axis_scale(package: Package) -> Iterator[str]:
    if package.view.is_04:
        return
    for tensor in package.view.tensors:
        for axis in tensor.spatial:
            if axis.scale != 1:
                yield f"scale {axis.scale:g} on axis {axis.name} of {tensor.name}"


def _find_offset(package: Package) -> Iterator[str]:
    for tensor in package.view.outputs:
        for axis in tensor.spatial:
            if axis.offset:
                yield f"offset {axis.offset:g} on axis {axis.name} of {tensor.name}"


def _find_data_dependent(package: Package) -> Iterator[str]:
    for tensor in package.view.tensors:
        for axis in tensor.axes:
            if axis.data_dependent:
                yield f"axis {axis.name} of {tensor.name}"


def _find_no_tiling(package: Package) -> Iterator[str]:
    config = as_map(package.rdf.get("config"))
    if package.view.is_04 or "deepimagej" not in config:
        return
    if as_map(config["deepimagej"]).get("allow_tiling") is not True:
        yield "config.deepimagej without allow_tiling: true"


def _find_one_bound(package: Package) -> Iterator[str]:
    for tensor, operation in breaches.steps(package.view):
        if operation.name == "clip":
            for key in ("min", "max"):
                if operation.kwargs.get(key) is None:
                    yield f"clip without {key} on {tensor.name}"


def _find_unlike_factors(package: Package) -> Iterator[str]:
    for tensor, operation in breaches.steps(package.view):
        for key in ("gain", "offset"):
            value = operation.kwargs.get(key)
            if operation.name == "scale_linear" and isinstance(value, list) and len(set(value)) > 1:
                yield f"scale_linear with {key} {value} on {tensor.name}"


def _find_subfolder(package: Package) -> Iterator[str]:
    for name, entry in package.view.weights.items():
        source = text(entry.get("source"))
        if "/" in source and "://" not in source:
            yield f"{source} ({name})"


def _find_onnx_first(package: Package) -> Iterator[str]:
    versions = _versions(package)
    if "onnx" in versions and "torchscript" in versions and choose_weights(package) == "onnx":
        version = versions["torchscript"] or "missing"
        yield f"pytorch_version {version} with opset {versions['onnx']}"


def _tie(package: Package) -> Iterator[str]:
    versions = _versions(package)
    if choose_weights(package) != "torchscript" or "onnx" not in versions:
        return
    if shares_slot(versions, "torchscript", "onnx"):
        yield f"pytorch_version {versions['torchscript']} with opset {versions['onnx']}"


def _find_major(package: Package) -> Iterator[str]:
    version = _versions(package).get("torchscript")
    if version is not None and version.split(".")[0] not in ("", "1", "2"):
        yield f"pytorch_version {version}"


def _find_no_pytorch_version(package: Package) -> Iterator[str]:
    if _versions(package).get("torchscript") == "":
        yield "torchscript without pytorch_version"


def _find_min_step(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            if axis.minimum is not None and axis.step and axis.minimum % axis.step:
                yield f"min {axis.minimum} and step {axis.step} on axis {axis.name}"


def _find_coarse_step(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            if axis.step is not None and axis.step > 1:
                yield f"step {axis.step} on axis {axis.name} of {tensor.name}"


def _find_fixed_size(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            if axis.size is not None and axis.size > 1:
                yield f"size {axis.size} on axis {axis.name} of {tensor.name}"


def _find_quantile(package: Package) -> Iterator[str]:
    path = package.weights_file("torchscript")
    if path is not None:
        for function in ("quantile", "nanquantile"):
            if script_calls(path, function):
                yield f"torch.{function} in {path.name}"


def _find_data_type(package: Package) -> Iterator[str]:
    for tensor in package.view.outputs:
        if tensor.data_type not in DATA_TYPES:
            yield f"{tensor.data_type} in {tensor.name}"


def _find_no_sample(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        path = package.file(tensor.sample_source)
        if path is None or path.suffix.lower() not in (".tif", ".tiff", ".png", ".jpg", ".gif"):
            yield f"{tensor.sample_source or 'no sample_tensor'} for {tensor.name}"


def _find_halo_off_grid(package: Package) -> Iterator[str]:
    halo = package.view.halo
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            if axis.step and halo.get(axis.name, 0) % axis.step:
                yield f"halo {halo[axis.name]} and step {axis.step} on axis {axis.name}"


RULES = read_rules(
    "fiji",
    {
        "file-name": _find_wrong_name,
        "format-version": partial(breaches.find_unlike_versions, accepted=("0.4", "0.5")),
        "required-keys": partial(
            breaches.find_required_keys, keys=("name", "inputs", "outputs", "weights")
        ),
        "id": _find_no_id,
        "plain-text": breaches.find_maps_for_text,
        "nulls": breaches.find_nulls,
        "channel-names": breaches.find_channels_without_names,
        "axis-ids": breaches.find_axes_without_id,
        "channel-axis": breaches.find_input_without_channel,
        "batch": breaches.find_batch_sizes,
        "axis-types": partial(breaches.find_axis_types, refused=("time", "index")),
        "axis-scale": _find_axis_scale,
        "size-offset": _find_offset,
        "data-dependent-size": _find_data_dependent,
        "allow-tiling": _find_no_tiling,
        "one-input": breaches.find_more_than_one_tensor,
        "operations": partial(breaches.find_operations_outside, known=OPERATIONS),
        "clip-bounds": _find_one_bound,
        "mean-std": partial(breaches.find_statistics, operations=("zero_mean_unit_variance",)),
        "scale-linear-list": _find_unlike_factors,
        "reference-tensor": breaches.find_reference_tensor,
        "percentiles": breaches.find_percentiles_missing,
        "weights-format": partial(breaches.find_no_such_weights, accepted=JAVA_FORMATS),
        "weights-subfolder": _find_subfolder,
        "loads-torchscript-first": _find_onnx_first,
        "loads-first-tie": _tie,
        "pytorch-major": _find_major,
        "pytorch-version": _find_no_pytorch_version,
        "onnx-version": partial(breaches.find_onnx_too_new, opset=17, ir_version=8),
        "onnx-one-file": breaches.find_external_onnx,
        "script-frozen": breaches.find_unfrozen_interpolate,
        "channel-count": breaches.find_no_whole_channel_count,
        "data-type": _find_data_type,
        "min-step": _find_min_step,
        "step": _find_coarse_step,
        "fixed-size": _find_fixed_size,
        "halo-grid": _find_halo_off_grid,
        "quantile": _find_quantile,
        "sample": _find_no_sample,
    },
)


def measure(session: Session, engine: Engine, measured: Measured) -> None:
    """Run one of JDLL's engines, or the weights here, as JDLL does."""
    from deepcontrast_bmz.check.measure import handle_whole, run_emulated, run_real

    padded = handle_whole(padded=True)
    if engine.real:
        libtorch = JAVA_ENGINES[engine.name].kind == "libtorch"
        formats = ("torchscript",) if libtorch else ("onnx",)
        run_real(session, measured, engine, formats, padded, program="fiji")
    else:
        first = choose_weights(session.package)
        if first is not None:
            run_emulated(session, measured, engine, (first,), padded, program="fiji")
    rigid = any(a.size is not None for t in session.package.view.inputs for a in t.spatial)
    if not rigid and (measured.passed.get("any_size") or measured.failed.get("any_size")):
        measured.note("seams", "passed", "by its tile rule, read: one tile up to 50 megapixels")


PROGRAM = Program(
    "fiji",
    "Fiji (deepImageJ 3.1) and Icy, through JDLL 0.6.1",
    RULES,
    "JDLL's engines were not run (--run libtorch-2.0.0,onnxruntime-java-1.12.1 does)",
    read_engines("fiji"),
    measure,
    describe_scripts=partial(describe_scripts, suffix=".ijm", needs="Fiji with deepImageJ"),
)
