"""Fiji (deepImageJ 3.1) and Icy, which read and run models through JDLL 0.6.1.

The emulation was read in JDLL 0.6.1: `ModelWeight` and the engine table choose the weights
(`loads_first`), `TileCalculator` takes an image up to 50 megapixels as one tile, and `TileMaker`
mirrors it by the halo, the edge pixel repeated, and crops.
"""

from __future__ import annotations

__all__ = ["PROGRAM", "measure", "weights_to_load"]

from functools import partial
from typing import TYPE_CHECKING

from deepcontrast_bmz.check import faults as breaches
from deepcontrast_bmz.check.engines.engine import Engine
from deepcontrast_bmz.check.engines.java import JAVA_ENGINES
from deepcontrast_bmz.check.program import Program, Rule
from deepcontrast_bmz.check.scripts import describe_scripts
from deepcontrast_bmz.export.fiji_order import VERSION_KEYS, loads_first, shares_slot
from deepcontrast_bmz.package.description import as_map, text
from deepcontrast_bmz.package.weights import script_calls

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def weights_to_load(package: Package) -> str | None:
    """Return the weights format JDLL runs in Java, or None if there is none."""
    order = [name for name in loads_first(_versions(package)) if name in JAVA_FORMATS]
    return order[0] if order else None


def _wrong_name(package: Package) -> Iterator[str]:
    if package.rdf_name != "rdf.yaml":
        yield package.rdf_name


def _no_id(package: Package) -> Iterator[str]:
    if package.view.is_04 or "config" not in package.rdf or text(package.rdf.get("id")):
        return
    zoo = as_map(as_map(package.rdf["config"]).get("bioimageio"))
    if not text(zoo.get("nickname")):
        yield "neither id nor config.bioimageio.nickname"


def _axis_scale(package: Package) -> Iterator[str]:
    if package.view.is_04:
        return
    for tensor in package.view.tensors:
        for axis in tensor.spatial:
            if axis.scale != 1:
                yield f"scale {axis.scale:g} on axis {axis.name} of {tensor.name}"


def _offset(package: Package) -> Iterator[str]:
    for tensor in package.view.outputs:
        for axis in tensor.spatial:
            if axis.offset:
                yield f"offset {axis.offset:g} on axis {axis.name} of {tensor.name}"


def _data_dependent(package: Package) -> Iterator[str]:
    for tensor in package.view.tensors:
        for axis in tensor.axes:
            if axis.data_dependent:
                yield f"axis {axis.name} of {tensor.name}"


def _no_tiling(package: Package) -> Iterator[str]:
    config = as_map(package.rdf.get("config"))
    if package.view.is_04 or "deepimagej" not in config:
        return
    if as_map(config["deepimagej"]).get("allow_tiling") is not True:
        yield "config.deepimagej without allow_tiling: true"


def _one_bound(package: Package) -> Iterator[str]:
    for tensor, operation in breaches.steps(package.view):
        if operation.name == "clip":
            for key in ("min", "max"):
                if operation.kwargs.get(key) is None:
                    yield f"clip without {key} on {tensor.name}"


def _list_of_factors(package: Package) -> Iterator[str]:
    for tensor, operation in breaches.steps(package.view):
        for key in ("gain", "offset"):
            value = operation.kwargs.get(key)
            if operation.name == "scale_linear" and isinstance(value, list) and len(set(value)) > 1:
                yield f"scale_linear with {key} {value} on {tensor.name}"


def _subfolder(package: Package) -> Iterator[str]:
    for name, entry in package.view.weights.items():
        source = text(entry.get("source"))
        if "/" in source and "://" not in source:
            yield f"{source} ({name})"


def _onnx_first(package: Package) -> Iterator[str]:
    versions = _versions(package)
    if "onnx" in versions and "torchscript" in versions and weights_to_load(package) == "onnx":
        version = versions["torchscript"] or "missing"
        yield f"pytorch_version {version} with opset {versions['onnx']}"


def _tie(package: Package) -> Iterator[str]:
    versions = _versions(package)
    if weights_to_load(package) != "torchscript" or "onnx" not in versions:
        return
    if shares_slot(versions, "torchscript", "onnx"):
        yield f"pytorch_version {versions['torchscript']} with opset {versions['onnx']}"


def _major(package: Package) -> Iterator[str]:
    version = _versions(package).get("torchscript")
    if version is not None and version.split(".")[0] not in ("", "1", "2"):
        yield f"pytorch_version {version}"


def _no_pytorch_version(package: Package) -> Iterator[str]:
    if _versions(package).get("torchscript") == "":
        yield "torchscript without pytorch_version"


def _min_step(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            if axis.minimum is not None and axis.step and axis.minimum % axis.step:
                yield f"min {axis.minimum} and step {axis.step} on axis {axis.name}"


def _coarse_step(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            if axis.step is not None and axis.step > 1:
                yield f"step {axis.step} on axis {axis.name} of {tensor.name}"


def _fixed_size(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            if axis.size is not None and axis.size > 1:
                yield f"size {axis.size} on axis {axis.name} of {tensor.name}"


def _quantile(package: Package) -> Iterator[str]:
    path = package.weights_file("torchscript")
    if path is not None:
        for function in ("quantile", "nanquantile"):
            if script_calls(path, function):
                yield f"torch.{function} in {path.name}"


def _data_type(package: Package) -> Iterator[str]:
    for tensor in package.view.outputs:
        if tensor.data_type not in DATA_TYPES:
            yield f"{tensor.data_type} in {tensor.name}"


def _no_sample(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        path = package.file(tensor.sample_source)
        if path is None or path.suffix.lower() not in (".tif", ".tiff", ".png", ".jpg", ".gif"):
            yield f"{tensor.sample_source or 'no sample_tensor'} for {tensor.name}"


def _halo_off_grid(package: Package) -> Iterator[str]:
    halo = package.view.halo
    for tensor in package.view.inputs:
        for axis in tensor.spatial:
            if axis.step and halo.get(axis.name, 0) % axis.step:
                yield f"halo {halo[axis.name]} and step {axis.step} on axis {axis.name}"


RULES: tuple[Rule, ...] = (
    Rule(
        "fiji.file-name",
        "the description is called rdf.yaml",
        "error",
        "opens",
        "The model does not appear in the list.",
        "rename the file to rdf.yaml",
        "JDLL ModelDescriptorFactory, observed",
        _wrong_name,
    ),
    Rule(
        "fiji.format-version",
        "format_version begins with 0.4 or 0.5",
        "error",
        "opens",
        "An exception when the model is read.",
        "write format_version 0.5.4",
        "JDLL ModelDescriptorFactory, observed with 0.6",
        partial(breaches.unlike_versions, accepted=("0.4", "0.5")),
    ),
    Rule(
        "fiji.required-keys",
        "name, inputs, outputs and weights are given",
        "error",
        "opens",
        "The model cannot be read.",
        "add the key",
        "JDLL ModelDescriptor, observed",
        partial(breaches.required_keys, keys=("name", "inputs", "outputs", "weights")),
    ),
    Rule(
        "fiji.id",
        "a 0.5 description with a config has an id",
        "error",
        "opens",
        "A NullPointerException: the model is missing from the list.",
        "add id",
        "JDLL ModelDescriptorV05, observed",
        _no_id,
    ),
    Rule(
        "fiji.plain-text",
        "documentation and covers are plain file names",
        "error",
        "opens",
        "A ClassCastException: the model is missing from the list.",
        f"write the file name alone, as RDF 0.5.4 does; {breaches.WAY_OUT}",
        "JDLL ModelDescriptorV05, observed",
        breaches.maps_for_text,
    ),
    Rule(
        "fiji.nulls",
        "no key holds null",
        "error",
        "opens",
        "A NullPointerException when the model is read or run.",
        "leave the key out",
        "JDLL ModelDescriptor, observed with timestamp and with axes of an operation",
        breaches.nulls,
    ),
    Rule(
        "fiji.channel-names",
        "every channel axis has channel_names",
        "error",
        "opens",
        "A NullPointerException: the model is missing from the list.",
        "add channel_names",
        "JDLL Axis (0.5), observed",
        breaches.channels_without_names,
    ),
    Rule(
        "fiji.axis-ids",
        "every axis has an explicit id",
        "error",
        "opens",
        "A NullPointerException: the model is missing from the list.",
        "add id, for example batch, channel, y, x",
        "JDLL Axis (0.5), reported by users of Fiji",
        breaches.axes_without_id,
    ),
    Rule(
        "fiji.channel-axis",
        "the input has a channel axis",
        "error",
        "runs",
        "An exception about index -1 when the model is run.",
        "add a channel axis of size 1",
        "JDLL TileMaker, observed",
        breaches.input_without_channel,
    ),
    Rule(
        "fiji.batch",
        "the batch axis takes one image",
        "error",
        "runs",
        "The network gets one image at a time and refuses it.",
        "leave the size of the batch axis out",
        "JDLL Axis (0.5): batch has min 1 and step 0, read",
        breaches.batch_sizes,
    ),
    Rule(
        "fiji.axis-types",
        "axes are batch, channel and space only",
        "error",
        "runs",
        "An exception when the model is run.",
        "use batch for what is looped over",
        "JDLL Axis (0.5): the id becomes part of the axes string, observed",
        partial(breaches.axis_types, refused=("time", "index")),
    ),
    Rule(
        "fiji.axis-scale",
        "axes of space have no scale other than 1",
        "error",
        "right_values",
        "A result of another size: 256 pixels in, 25 out.",
        "write the pixel size into config and leave scale out",
        "JDLL Axis (0.5): scale is read as output over input size, observed",
        _axis_scale,
    ),
    Rule(
        "fiji.size-offset",
        "output sizes have no offset to the input's",
        "error",
        "runs",
        "A wrong size or an exception when the model is run.",
        "pad inside the graph so that input and output agree",
        "JDLL TileMaker counts the offset twice, read",
        _offset,
    ),
    Rule(
        "fiji.data-dependent-size",
        "no size depends on the data",
        "error",
        "runs",
        "An exception when the model is run.",
        "return images",
        "JDLL Axis (0.5): step 0, read",
        _data_dependent,
    ),
    Rule(
        "fiji.allow-tiling",
        "config.deepimagej, if there, holds allow_tiling: true",
        "error",
        "runs",
        "Every run ends in an exception.",
        "remove config.deepimagej or add allow_tiling: true",
        "JDLL ModelDescriptor, observed",
        _no_tiling,
    ),
    Rule(
        "fiji.one-input",
        "the model has one input",
        "error",
        "runs",
        "The macro refuses the model; the dialog says that no data was provided.",
        "bake the other inputs into the graph",
        "deepImageJ DeepImageJ_Run.loadDescriptor, read",
        breaches.more_than_one_tensor,
    ),
    Rule(
        "fiji.operations",
        "pre- and postprocessing use only operations that JDLL has",
        "error",
        "runs",
        "An exception, Invalid method, at the first run, not when loading.",
        "compute it inside the graph",
        "JDLL TransformationInstance, observed",
        partial(breaches.operations_outside, known=OPERATIONS),
    ),
    Rule(
        "fiji.clip-bounds",
        "clip has both min and max",
        "error",
        "runs",
        "An exception at the first run.",
        "give both bounds",
        "JDLL ClipTransformation, observed",
        _one_bound,
    ),
    Rule(
        "fiji.mean-std",
        "no normalisation by the mean and deviation of the image",
        "error",
        "right_values",
        "On a stack every frame's numbers are applied to all frames.",
        "normalise by fixed numbers, or inside a graph that needs none",
        "JDLL ZeroMeanUnitVarianceTransformation, observed",
        partial(breaches.image_statistics, operations=("zero_mean_unit_variance",)),
    ),
    Rule(
        "fiji.scale-linear-list",
        "scale_linear has one gain and offset for all channels",
        "error",
        "right_values",
        "Every channel is scaled by the first channel's numbers.",
        "scale inside the graph",
        "JDLL ScaleLinearTransformation, observed",
        _list_of_factors,
    ),
    Rule(
        "fiji.reference-tensor",
        "no operation takes its statistics from another tensor",
        "error",
        "right_values",
        "A line in the log; the tensor's own percentiles are used.",
        "leave reference_tensor out",
        "JDLL ScaleRangeTransformation, observed",
        breaches.reference_tensor,
    ),
    Rule(
        "fiji.percentiles",
        "scale_range gives both percentiles",
        "warning",
        "right_values",
        "The program's own defaults are used.",
        "give min_percentile and max_percentile",
        "JDLL ScaleRangeTransformation, read",
        breaches.percentiles_missing,
    ),
    Rule(
        "fiji.weights-format",
        "there are TorchScript or ONNX weights",
        "error",
        "runs",
        "The program asks for a Python environment, or for an engine it cannot install.",
        "add TorchScript weights",
        "JDLL ModelWeight, read",
        partial(breaches.no_such_weights, accepted=JAVA_FORMATS),
    ),
    Rule(
        "fiji.weights-subfolder",
        "weights lie in the root of the package",
        "error",
        "runs",
        "Please install a compatible engine: the weights are not found.",
        f"move them beside rdf.yaml; {breaches.WAY_OUT}",
        "JDLL ModelWeight looks for the file name in the model folder, read",
        _subfolder,
    ),
    Rule(
        "fiji.loads-torchscript-first",
        "JDLL comes to TorchScript before ONNX",
        "error",
        "runs",
        "The ONNX binding takes the whole program down.",
        "declare a pytorch_version that sorts first, for example 2.0.0 or 2.15.0",
        "JDLL ModelWeight: order of a Java HashMap, observed",
        _onnx_first,
    ),
    Rule(
        "fiji.loads-first-tie",
        "the order of TorchScript and ONNX does not hang on the order in the file",
        "warning",
        "runs",
        "Whichever comes first in rdf.yaml is run.",
        "declare a pytorch_version that sorts first, for example 2.0.0 or 2.15.0",
        "JDLL ModelWeight: order of a Java HashMap, computed",
        _tie,
    ),
    Rule(
        "fiji.pytorch-major",
        "pytorch_version is 1.x or 2.x",
        "error",
        "runs",
        "Please install a compatible engine: there is none.",
        "declare the torch that the archive was tested with, 2.x",
        "JDLL engine table, read",
        _major,
    ),
    Rule(
        "fiji.pytorch-version",
        "TorchScript weights declare a pytorch_version",
        "warning",
        "runs",
        "The engine of PyTorch 1.13.1 is used.",
        "add pytorch_version",
        "JDLL engine table, observed",
        _no_pytorch_version,
    ),
    Rule(
        "fiji.onnx-version",
        "the ONNX file has opset 17 or lower, IR version 8 or lower, and both as declared",
        "error",
        "runs",
        "onnxruntime 1.12 or 1.13 refuses the file, as soon as ONNX is what is loaded.",
        "export with opset 17 and IR version 8",
        "JDLL engine table (opset 17: onnxruntime 1.12.1), read",
        partial(breaches.onnx_too_new, opset=17, ir_version=8),
    ),
    Rule(
        "fiji.onnx-one-file",
        "the ONNX file holds its weights",
        "error",
        "runs",
        "The second file is not found.",
        "export without external data",
        "JDLL OnnxInterface, read",
        breaches.external_onnx,
    ),
    Rule(
        "fiji.script-frozen",
        "TorchScript carries no function newer than libtorch 2.0",
        "error",
        "runs",
        "Unknown builtin op when the model is loaded.",
        "trace, or script and torch.jit.freeze",
        "libtorch 2.0.0, observed",
        breaches.unfrozen_interpolate,
    ),
    Rule(
        "fiji.channel-count",
        "the number of output channels is fixed",
        "error",
        "runs",
        "Tiles cannot be put together.",
        "write the number of channels",
        "JDLL TileMaker, read",
        breaches.no_whole_channel_count,
    ),
    Rule(
        "fiji.data-type",
        "outputs are uint8, int32, int64, float32 or float64",
        "error",
        "runs",
        "An exception when the result comes back from the engine.",
        "return float32",
        "JDLL ShmBuilder, read",
        _data_type,
    ),
    Rule(
        "fiji.min-step",
        "min is a multiple of step",
        "error",
        "any_size",
        "Every run ends in an exception.",
        "choose min as a multiple of step",
        "JDLL TileCalculator, observed",
        _min_step,
    ),
    Rule(
        "fiji.step",
        "step is 1",
        "warning",
        "any_size",
        "Images whose size is no multiple of step take four times as long.",
        "extend and crop inside the graph and declare step 1",
        "JDLL TileCalculator, observed",
        _coarse_step,
    ),
    Rule(
        "fiji.fixed-size",
        "the size is variable",
        "warning",
        "any_size",
        "Large images are cut into many tiles; those under a third of the size are refused.",
        "declare min and step",
        "JDLL TileCalculator, observed",
        _fixed_size,
    ),
    Rule(
        "fiji.halo-grid",
        "the halo is a multiple of step",
        "warning",
        "right_values",
        "A network that pools sees the image at another position of its grid: other values.",
        "choose the halo as a multiple of step",
        "JDLL TileMaker, observed",
        _halo_off_grid,
    ),
    Rule(
        "fiji.quantile",
        "the graph computes no quantile",
        "error",
        "any_size",
        "An exception above 4096 x 4096 pixels.",
        "take torch.quantile out of the graph",
        "torch.quantile, observed in torch 1.13 and 2.13",
        _quantile,
    ),
    Rule(
        "fiji.sample",
        "the input has a sample image that ImageJ reads",
        "warning",
        "opens",
        "The test button has no image to show.",
        "add a sample_tensor as TIFF",
        "JDLL ModelDescriptor, reported by users of Fiji",
        _no_sample,
    ),
)

ENGINES = (
    Engine(
        "fiji",
        "this process",
        "emulation: the weights JDLL loads first, whole image mirrored by the halo",
        ("right_values", "any_size"),
    ),
    *(
        Engine(
            name,
            "java",
            f"{'TorchScript' if record.kind == 'libtorch' else 'ONNX'} handled as JDLL does",
            ("runs", "right_values", "any_size"),
        )
        for name, record in JAVA_ENGINES.items()
        if name == "libtorch-2.0.0" or record.kind == "onnxruntime"
    ),
)


def measure(session: Session, engine: Engine, measured: Measured) -> None:
    """Run one of JDLL's engines, or the weights here, as JDLL does."""
    from deepcontrast_bmz.check.measure import emulated, run_real, whole_image

    padded = whole_image(padded=True)
    if engine.real:
        libtorch = JAVA_ENGINES[engine.name].kind == "libtorch"
        formats = ("torchscript",) if libtorch else ("onnx",)
        run_real(session, measured, engine, formats, padded, program="fiji")
    else:
        first = weights_to_load(session.package)
        if first is not None:
            emulated(session, measured, engine, (first,), padded, program="fiji")
    rigid = any(a.size is not None for t in session.package.view.inputs for a in t.spatial)
    if not rigid and (measured.passed.get("any_size") or measured.failed.get("any_size")):
        measured.note("seams", "passed", "by its tile rule, read: one tile up to 50 megapixels")


PROGRAM = Program(
    "fiji",
    "Fiji (deepImageJ 3.1) and Icy, through JDLL 0.6.1",
    RULES,
    "JDLL's engines were not run (--run libtorch-2.0.0,onnxruntime-java-1.12.1 does)",
    ENGINES,
    measure,
    describe_scripts=partial(describe_scripts, suffix=".ijm", needs="Fiji with deepImageJ"),
)
