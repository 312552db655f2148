"""Pure functions that say where a package breaks something; several programs share them.

Each takes a `Package` (and choices, by keyword) and yields the value met at every breach.
"""

from __future__ import annotations

__all__ = [
    "find_axes_without_id",
    "find_axis_types",
    "find_batch_sizes",
    "find_channels_without_names",
    "find_debug_paths",
    "find_external_onnx",
    "find_input_without_channel",
    "find_maps_for_text",
    "find_more_than_one_tensor",
    "find_new_patch_version",
    "find_no_such_weights",
    "find_no_whole_channel_count",
    "find_nulls",
    "find_onnx_static",
    "find_onnx_too_new",
    "find_operations_outside",
    "find_percentiles_missing",
    "find_reference_tensor",
    "find_required_keys",
    "find_statistics",
    "find_unfrozen_interpolate",
    "find_unlike_versions",
    "steps",
]

from typing import TYPE_CHECKING, Any, cast

from deepcontrast_bmz.package.description import as_list, integer
from deepcontrast_bmz.package.weights import (
    find_local_paths,
    read_onnx_facts,
    script_defines_interpolate,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from deepcontrast_bmz.package.description import ModelView, Operation, TensorView
    from deepcontrast_bmz.package.files import Package


def _described(package: Package, qupath: bool) -> ModelView:
    return package.qupath_view if qupath else package.view


def steps(view: ModelView) -> Iterator[tuple[TensorView, Operation]]:
    """Yield every step of pre- and postprocessing with its tensor."""
    for tensor in view.tensors:
        for operation in tensor.operations:
            yield tensor, operation


def find_unlike_versions(package: Package, *, accepted: Collection[str]) -> Iterator[str]:
    """Yield a format version that begins with none of the accepted ones."""
    version = package.view.version
    if ".".join(version.split(".")[:2]) not in accepted:
        yield f"format_version {version or 'missing'}"


def find_new_patch_version(package: Package) -> Iterator[str]:
    """Yield a format version of 0.5 above 0.5.4."""
    parts = package.view.version.split(".")
    if parts[:2] == ["0", "5"] and len(parts) > 2 and parts[2].isdigit() and int(parts[2]) > 4:
        yield f"format_version {package.view.version}"


def find_required_keys(
    package: Package, *, keys: Collection[str], qupath: bool = False
) -> Iterator[str]:
    """Yield every top-level key that is absent or empty."""
    rdf = package.qupath_rdf if qupath and package.qupath_rdf is not None else package.rdf
    for key in keys:
        if rdf.get(key) in (None, "", [], {}):
            yield f"no {key}"


def find_maps_for_text(package: Package, *, qupath: bool = False) -> Iterator[str]:
    """Yield `documentation` and `covers` entries that are maps with a source."""
    rdf = package.qupath_rdf if qupath and package.qupath_rdf is not None else package.rdf
    if isinstance(rdf.get("documentation"), dict):
        yield "documentation as a map"
    for index, cover in enumerate(as_list(rdf.get("covers"))):
        if isinstance(cover, dict):
            yield f"covers[{index}] as a map"


def find_nulls(package: Package) -> Iterator[str]:
    """Yield where a key outside `config` holds null."""

    def walk(value: Any, where: str) -> Iterator[str]:
        if value is None:
            yield f"{where}: null"
        elif isinstance(value, dict):
            for key, entry in cast("dict[Any, Any]", value).items():
                if where or key != "config":
                    yield from walk(entry, f"{where}.{key}" if where else str(key))
        elif isinstance(value, list):
            for index, entry in enumerate(cast("list[Any]", value)):
                yield from walk(entry, f"{where}[{index}]")

    yield from walk(package.rdf, "")


def find_channels_without_names(package: Package, *, qupath: bool = False) -> Iterator[str]:
    """Yield 0.5 channel axes without `channel_names`."""
    view = _described(package, qupath)
    if view.is_04:
        return
    for tensor in view.tensors:
        for axis in tensor.axes:
            if axis.kind == "channel" and not axis.channel_names:
                yield f"no channel_names on the channel axis of {tensor.name}"


def find_axes_without_id(package: Package) -> Iterator[str]:
    """Yield 0.5 axes without an explicit `id`."""
    for tensor in package.view.tensors:
        for index, axis in enumerate(tensor.axes):
            if not axis.explicit_id:
                yield f"no id on axis {index} ({axis.kind}) of {tensor.name}"


def find_axis_types(package: Package, *, refused: Collection[str]) -> Iterator[str]:
    """Yield axes of a refused type."""
    for tensor in package.view.tensors:
        for axis in tensor.axes:
            if axis.kind in refused:
                yield f"a {axis.kind} axis in {tensor.name}"


def find_input_without_channel(package: Package) -> Iterator[str]:
    """Yield inputs without a channel axis."""
    for tensor in package.view.inputs:
        if tensor.axes and tensor.channel is None:
            yield f"no channel axis in {tensor.name}"


def find_more_than_one_tensor(package: Package, *, outputs: bool = False) -> Iterator[str]:
    """Yield a number of inputs (and, where asked, outputs) other than one."""
    if len(package.view.inputs) != 1:
        yield f"{len(package.view.inputs)} inputs"
    if outputs and len(package.view.outputs) != 1:
        yield f"{len(package.view.outputs)} outputs"


def find_no_whole_channel_count(package: Package) -> Iterator[str]:
    """Yield outputs whose channel count is not a fixed whole number."""
    for tensor in package.view.outputs:
        channel = tensor.channel
        if channel is not None and channel.size is None:
            yield f"the channel count of {tensor.name} is not fixed"


def find_operations_outside(package: Package, *, known: Collection[str]) -> Iterator[str]:
    """Yield operations that are not among the known ones."""
    for tensor, operation in steps(package.view):
        if operation.name not in known:
            yield f"{operation.name or 'an operation without name'} on {tensor.name}"


def find_statistics(package: Package, *, operations: Collection[str]) -> Iterator[str]:
    """Yield operations that take their numbers from the image (or the tile) at hand."""
    for tensor, operation in steps(package.view):
        if operation.name not in operations:
            continue
        kwargs = operation.kwargs
        # In 0.4 this name with a fixed mean is the fixed operation of 0.5.
        if kwargs.get("mode") == "fixed" or ("mean" in kwargs and "std" in kwargs):
            continue
        yield f"{operation.name} on {tensor.name}"


def find_percentiles_missing(package: Package) -> Iterator[str]:
    """Yield `scale_range` without both percentiles."""
    for tensor, operation in steps(package.view):
        if operation.name == "scale_range":
            for key in ("min_percentile", "max_percentile"):
                if key not in operation.kwargs:
                    yield f"scale_range without {key} on {tensor.name}"


def find_reference_tensor(package: Package) -> Iterator[str]:
    """Yield operations whose statistics come from another tensor."""
    for tensor, operation in steps(package.view):
        if operation.kwargs.get("reference_tensor"):
            yield f"{operation.name} with reference_tensor on {tensor.name}"


def find_no_such_weights(package: Package, *, accepted: Collection[str]) -> Iterator[str]:
    """Yield the formats present when none of them is accepted."""
    if not any(name in package.view.weights for name in accepted):
        yield f"only {', '.join(package.view.weights) or 'nothing'}"


def find_unfrozen_interpolate(package: Package) -> Iterator[str]:
    """Yield TorchScript files that carry `interpolate` with operators of a recent torch."""
    path = package.weights_file("torchscript")
    if path is not None and script_defines_interpolate(path):
        yield f"{path.name}, scripted and not frozen, with torch.nn.functional.interpolate"


def find_onnx_too_new(package: Package, *, opset: int, ir_version: int) -> Iterator[str]:
    """Yield an ONNX opset or IR version above what the program's onnxruntime reads."""
    path = package.weights_file("onnx")
    if path is None:
        return
    facts = read_onnx_facts(path)
    if facts.problem:
        yield facts.problem
        return
    if facts.opset > opset:
        yield f"opset {facts.opset} in {path.name}"
    if facts.ir_version > ir_version:
        yield f"IR version {facts.ir_version} in {path.name}"
    declared = integer(package.view.weights["onnx"].get("opset_version"))
    if declared is not None and declared != facts.opset:
        yield f"opset {facts.opset} in {path.name}, declared as {declared}"


def find_onnx_static(package: Package) -> Iterator[str]:
    """Yield axes of variable size that the ONNX graph takes in one size only."""
    path = package.weights_file("onnx")
    if path is None or not package.view.inputs:
        return
    axes = package.view.inputs[0].axes
    for axis, size in zip(axes, read_onnx_facts(path).input_shape, strict=False):
        free = axis.minimum is not None or (axis.kind == "batch" and axis.size is None)
        if free and size is not None:
            yield f"size {size} only, on axis {axis.name}, in {path.name}"


def find_batch_sizes(package: Package) -> Iterator[str]:
    """Yield batch axes of a fixed size other than 1."""
    for tensor in package.view.inputs:
        for axis in tensor.axes:
            if axis.kind == "batch" and axis.size not in (None, 1):
                yield f"batch of {axis.size} in {tensor.name}"


def find_external_onnx(package: Package) -> Iterator[str]:
    """Yield an ONNX file whose weights lie in a second file."""
    path = package.weights_file("onnx")
    if path is not None and read_onnx_facts(path).external_data:
        yield f"{path.name} with external data"


def find_debug_paths(package: Package) -> Iterator[str]:
    """Yield weights files that carry paths of the machine that wrote them."""
    for name in package.view.weights:
        path = package.weights_file(name)
        found = find_local_paths(path) if path is not None else []
        if found:
            yield f"{found[0]} in {path.name if path is not None else name}"
