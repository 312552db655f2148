"""QuPath 0.6 and 0.7, which read models through qupath-bioimageio-spec 0.2.0.

Tiles and border are those of the pixel classifier, read in QuPath v0.6.0 and v0.7.0 (the same in
both): `BioimageIoTools.buildPatchClassifierParams` and `updateLength` choose the side of a tile;
`PixelClassificationImageServer` steps by it without the halo; `ServerTools.getPaddedRequest` reads
a tile with its halo and repeats the edge pixel beyond the image; `OpenCVTools.applyTiled`, called
by `ImageOps.ML.DnnOp` with BORDER_REFLECT, fills up what is smaller than a tile, mirrored.
"""

from __future__ import annotations

__all__ = ["PROGRAM", "declared_halo", "handling", "measure", "refuses", "tile_size"]

from functools import partial
from typing import TYPE_CHECKING, Any

from deepcontrast_bmz.check import faults as breaches
from deepcontrast_bmz.check.engines.engine import Engine
from deepcontrast_bmz.check.engines.java import JAVA_ENGINES
from deepcontrast_bmz.check.program import Program, Rule
from deepcontrast_bmz.check.scripts import describe_scripts
from deepcontrast_bmz.check.tiling import MOST_TILES, Handling
from deepcontrast_bmz.package.description import as_list, as_map, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepcontrast_bmz.check.compare import Bench
    from deepcontrast_bmz.check.findings import Measured
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.package.description import ModelView
    from deepcontrast_bmz.package.files import Package

FORMATS = ("torchscript", "tensorflow_saved_model_bundle")
OPERATIONS = (
    "binarize",
    "clip",
    "ensure_dtype",
    "scale_linear",
    "scale_range",
    "sigmoid",
    "zero_mean_unit_variance",
)
KEYS = (
    "format_version",
    "authors",
    "description",
    "documentation",
    "license",
    "name",
    "inputs",
    "weights",
)
DECISIVE = ("format_version", "type", "inputs", "outputs", "weights")
"""Keys that decide what is run, and how."""
TILE = 512
"""Side that QuPath aims at."""


def declared_halo(package: Package) -> int:
    """Return the halo that QuPath honours: that of the first output as a whole, not of axes."""
    view = package.qupath_view
    if not view.outputs:
        return 0
    return max(view.outputs[0].tensor_halo or (0,))


def tile_size(minimum: int) -> int:
    """Return the side of QuPath's tiles: the largest multiple of `minimum` up to 512.

    A fixed size is its own minimum, and is multiplied too.
    """
    return max(TILE // minimum, 1) * minimum


def _view(package: Package) -> ModelView:
    return package.qupath_view


def _exactly_050(package: Package) -> Iterator[str]:
    for view in {id(v): v for v in (package.view, package.qupath_view)}.values():
        if view.version == "0.5.0":
            yield "format_version 0.5.0"
            return


def _keys_04(package: Package) -> Iterator[str]:
    if _view(package).is_04:
        keys = ("timestamp", "test_inputs", "test_outputs")
        yield from breaches.required_keys(package, keys=keys, qupath=True)


def _scalar_factors(package: Package) -> Iterator[str]:
    for tensor, operation in breaches.steps(_view(package)):
        if operation.name == "scale_linear":
            for key in ("gain", "offset"):
                value = operation.kwargs.get(key)
                if value is not None and not isinstance(value, list):
                    yield f"scale_linear with {key} {value} on {tensor.name}"


def _no_kwargs(package: Package) -> Iterator[str]:
    if _view(package).is_04:
        return
    for tensor, operation in breaches.steps(_view(package)):
        if operation.name == "zero_mean_unit_variance" and not operation.has_kwargs:
            yield f"zero_mean_unit_variance without kwargs on {tensor.name}"


def _no_tensor_halo(package: Package) -> Iterator[str]:
    if declared_halo(package) > 0:
        return
    axis_halo = max(package.view.halo.values(), default=0)
    where = "model.yaml" if package.qupath_rdf is not None else package.rdf_name
    known = f", only axis halos of {axis_halo}" if axis_halo else ""
    yield f"no halo on the output tensor in {where}{known}"


def _unlike_halo(package: Package) -> Iterator[str]:
    axis_halo = max(package.view.halo.values(), default=0)
    if 0 < declared_halo(package) < axis_halo:
        yield f"halo {declared_halo(package)} for QuPath and {axis_halo} in {package.rdf_name}"


def _larger_halo(package: Package) -> Iterator[str]:
    axis_halo = max(package.view.halo.values(), default=0)
    if package.qupath_rdf is not None and declared_halo(package) > axis_halo:
        yield f"halo {declared_halo(package)} for QuPath and {axis_halo} in {package.rdf_name}"


def _strip_halo(rdf: dict[str, Any]) -> dict[str, Any]:
    outputs = rdf.get("outputs")
    if not isinstance(outputs, list):
        return rdf
    plain = [
        {k: v for k, v in o.items() if k != "halo"} if isinstance(o, dict) else o for o in outputs
    ]
    return {**rdf, "outputs": plain}


def _first_difference(first: Any, second: Any, where: str) -> str:
    """Return where two values differ first, with both."""
    if isinstance(first, dict) and isinstance(second, dict):
        one, two = as_map(first), as_map(second)
        for key in [*one, *(k for k in two if k not in one)]:
            if one.get(key) != two.get(key):
                return _first_difference(one.get(key), two.get(key), f"{where}.{key}")
    if isinstance(first, list) and isinstance(second, list):
        pairs = zip(as_list(first), as_list(second), strict=False)
        for index, (one, two) in enumerate(pairs):
            if one != two:
                return _first_difference(one, two, f"{where}[{index}]")
    return f"{where} {first!r:.60} in rdf.yaml and {second!r:.60} in model.yaml"


def _second_differs(package: Package, *, decisive: bool) -> Iterator[str]:
    if package.qupath_rdf is None:
        return
    first, second = _strip_halo(package.rdf), _strip_halo(package.qupath_rdf)
    for key in sorted({*first, *second}):
        if (key in DECISIVE) is decisive and first.get(key) != second.get(key):
            yield _first_difference(first.get(key), second.get(key), key)


def _not_flat(package: Package) -> Iterator[str]:
    for tensor in package.view.tensors:
        names = [axis.name for axis in tensor.axes]
        if "y" not in names or "x" not in names or names.index("x") != names.index("y") + 1:
            yield f"axes {', '.join(names)} in {tensor.name}"


def _unusable_source(package: Package) -> Iterator[str]:
    for name in FORMATS:
        source = text(package.view.weights.get(name, {}).get("source"))
        if "://" in source or source.endswith(".zip"):
            yield f"{source} ({name})"


def _multiplied_size(package: Package) -> Iterator[str]:
    for tensor in _view(package).inputs:
        for axis in tensor.spatial:
            if axis.size is not None and tile_size(axis.size) != axis.size:
                side = tile_size(axis.size)
                yield f"size {axis.size} on axis {axis.name}, for which tiles have {side}"


def _no_offset(package: Package) -> Iterator[str]:
    for tensor in _view(package).outputs:
        for axis in tensor.spatial:
            if axis.refers and axis.offset is None:
                yield f"no offset on axis {axis.name} of {tensor.name}"


RULES: tuple[Rule, ...] = (
    Rule(
        "qupath.required-keys",
        f"{', '.join(KEYS)} are given",
        "error",
        "opens",
        "The model is not read.",
        "add the key",
        "qupath-bioimageio-spec Model, observed",
        partial(breaches.required_keys, keys=KEYS, qupath=True),
    ),
    Rule(
        "qupath.required-keys-04",
        "a 0.4 description has timestamp, test_inputs and test_outputs",
        "error",
        "opens",
        "The model is not read.",
        "add the key",
        "qupath-bioimageio-spec Model, observed",
        _keys_04,
    ),
    Rule(
        "qupath.format-version",
        "format_version is not exactly 0.5.0",
        "error",
        "opens",
        "It is read as 0.4 and fails.",
        "write format_version 0.5.4",
        "qupath-bioimageio-spec Model, observed",
        _exactly_050,
    ),
    Rule(
        "qupath.plain-text",
        "documentation and covers are plain file names",
        "error",
        "opens",
        "The model is not read: a text was expected, a map was met.",
        f"write the file name alone, as RDF 0.5.4 does; {breaches.WAY_OUT}",
        "qupath-bioimageio-spec Resource, observed",
        partial(breaches.maps_for_text, qupath=True),
    ),
    Rule(
        "qupath.channel-names",
        "every channel axis has channel_names",
        "error",
        "opens",
        "A NullPointerException when the model is read.",
        "add channel_names",
        "qupath-bioimageio-spec ChannelAxis, observed",
        partial(breaches.channels_without_names, qupath=True),
    ),
    Rule(
        "qupath.scale-linear",
        "gain and offset of scale_linear are lists",
        "error",
        "opens",
        "The model is not read.",
        "write a list, or scale inside the graph",
        "qupath-bioimageio-spec Processing, observed",
        _scalar_factors,
    ),
    Rule(
        "qupath.mean-std-kwargs",
        "zero_mean_unit_variance has kwargs",
        "error",
        "opens",
        "A NullPointerException when the model is read.",
        "add kwargs",
        "qupath-bioimageio-spec Processing, observed",
        _no_kwargs,
    ),
    Rule(
        "qupath.one-tensor",
        "the model has one input and one output",
        "error",
        "runs",
        "The model is refused.",
        "return one tensor with several channels",
        "QuPath BioimageIoTools, read",
        partial(breaches.more_than_one_tensor, outputs=True),
    ),
    Rule(
        "qupath.weights-format",
        "there are TorchScript weights",
        "error",
        "runs",
        "No engine can run the model.",
        "add TorchScript weights",
        "QuPath BioimageIoTools.buildDnnModel, read",
        partial(breaches.no_such_weights, accepted=FORMATS),
    ),
    Rule(
        "qupath.weights-source",
        "weights are a file in the package, not an address and not a zip",
        "error",
        "runs",
        "The weights are skipped.",
        "put the file into the package",
        "QuPath BioimageIoTools.buildDnnModel, read",
        _unusable_source,
    ),
    Rule(
        "qupath.script-frozen",
        "TorchScript carries no function newer than libtorch 2.5",
        "error",
        "runs",
        "Unknown builtin op when the model is loaded.",
        "trace, or script and torch.jit.freeze",
        "libtorch 2.5.1 and 2.7.1, observed",
        breaches.unfrozen_interpolate,
    ),
    Rule(
        "qupath.fixed-size",
        "a fixed size is above 256 pixels",
        "error",
        "runs",
        "The network is given tiles of a multiple of its size, up to 512, and refuses them.",
        "declare min and step, or a fixed size of 512",
        "QuPath 0.6 and 0.7 BioimageIoTools.updateLength, read",
        _multiplied_size,
    ),
    Rule(
        "qupath.batch",
        "the batch axis takes one image",
        "error",
        "runs",
        "The network gets one image at a time and refuses it.",
        "leave the size of the batch axis out",
        "qupath-bioimageio-spec BatchAxis, read",
        breaches.batch_sizes,
    ),
    Rule(
        "qupath.two-dimensional",
        "images are two-dimensional, x right after y",
        "error",
        "runs",
        "The values are misplaced or the model is refused.",
        "use the axes batch, channel, y, x",
        "QuPath DjlTools.matToNDArray, read",
        _not_flat,
    ),
    Rule(
        "qupath.channel-count",
        "the number of output channels is fixed",
        "error",
        "runs",
        "The result has a wrong number of channels.",
        "write the number of channels",
        "QuPath BioimageIoTools, read",
        breaches.no_whole_channel_count,
    ),
    Rule(
        "qupath.size-offset",
        "an output size that refers to the input gives its offset",
        "warning",
        "runs",
        "A missing offset is read as 1.",
        "write offset: 0",
        "qupath-bioimageio-spec Size, observed",
        _no_offset,
    ),
    Rule(
        "qupath.operations",
        "pre- and postprocessing use only operations that QuPath has",
        "error",
        "right_values",
        "The operation is left out with a line in the log: the values are wrong.",
        "compute it inside the graph",
        "QuPath BioimageIoTools.transformToOp, read",
        partial(breaches.operations_outside, known=OPERATIONS),
    ),
    Rule(
        "qupath.percentiles",
        "scale_range gives both percentiles",
        "error",
        "right_values",
        "The missing ones are read as 100 and 0: the values are wrong.",
        "give min_percentile and max_percentile",
        "qupath-bioimageio-spec Processing, observed",
        breaches.percentiles_missing,
    ),
    Rule(
        "qupath.reference-tensor",
        "no operation takes its statistics from another tensor",
        "error",
        "right_values",
        "The reference is ignored: the values are wrong.",
        "leave reference_tensor out",
        "QuPath BioimageIoTools.transformToOp, read",
        breaches.reference_tensor,
    ),
    Rule(
        "qupath.mean-std",
        "no normalisation by the mean and deviation of the image",
        "error",
        "seams",
        "Every tile is normalised by itself: tiles of different brightness.",
        "normalise by fixed numbers, or inside a graph that needs none",
        "QuPath BioimageIoTools.transformToOp, read",
        partial(breaches.image_statistics, operations=("zero_mean_unit_variance",)),
    ),
    Rule(
        "qupath.percentiles-per-tile",
        "no normalisation by percentiles of the image",
        "warning",
        "seams",
        "Every tile is normalised by itself: tiles of different brightness.",
        "normalise by fixed numbers, or use a graph that needs none",
        "QuPath BioimageIoTools.transformToOp, read",
        partial(breaches.image_statistics, operations=("scale_range",)),
    ),
    Rule(
        "qupath.halo",
        "the description that QuPath reads has a halo on the output tensor",
        "error",
        "seams",
        "Tiles are joined without overlap: seams.",
        "add model.yaml, a copy of rdf.yaml with halo: [0, 0, 64, 64] on the output; "
        f"{breaches.WAY_OUT}",
        "qupath-bioimageio-spec drops the halo of axes, observed",
        _no_tensor_halo,
    ),
    Rule(
        "qupath.halo-agrees",
        "the halo for QuPath is at least that of the axes",
        "error",
        "seams",
        "Tiles overlap less than the network needs: seams.",
        "write the same halo into both descriptions",
        "qupath-bioimageio-spec, observed",
        _unlike_halo,
    ),
    Rule(
        "qupath.larger-halo",
        "the halo for QuPath is that of the axes",
        "warning",
        "seams",
        "Tiles overlap more than the other programs' do: model.yaml is of another model.",
        "write the same halo into both descriptions",
        "qupath-bioimageio-spec prefers model.yaml, observed",
        _larger_halo,
    ),
    Rule(
        "qupath.stale-description",
        "model.yaml describes the same tensors and weights as rdf.yaml",
        "error",
        "right_values",
        "QuPath runs another model than the other programs: other sizes, halos, steps or files.",
        "write both from one source",
        "qupath-bioimageio-spec prefers model.yaml, observed",
        partial(_second_differs, decisive=True),
    ),
    Rule(
        "qupath.second-description",
        "model.yaml says the same as rdf.yaml but for the halo",
        "warning",
        "opens",
        "QuPath shows other words than the other programs.",
        "write both from one source",
        "qupath-bioimageio-spec prefers model.yaml, observed",
        partial(_second_differs, decisive=False),
    ),
)

ENGINES = (
    Engine(
        "qupath",
        "this process",
        "emulation: TorchScript in tiles of about 512 pixels",
        ("right_values", "any_size", "seams"),
    ),
    *(
        Engine(
            name,
            "java",
            "TorchScript in QuPath's tiles",
            ("runs", "right_values", "any_size", "seams"),
        )
        for name, record in JAVA_ENGINES.items()
        if name != "libtorch-2.0.0" and record.kind == "libtorch"
    ),
)


def handling(bench: Bench) -> Handling:
    """Return how QuPath cuts images: tiles near 512 pixels, the halo that it honours."""
    rigid = any(axis.size is not None for axis in bench.input.spatial)
    halo = 0 if rigid else declared_halo(bench.package)
    sides = tuple(tile_size(axis.smallest or 1) for axis in bench.input.spatial)
    return Handling((halo,) * len(sides), "replicate", sides, MOST_TILES, fill="symmetric")


def measure(session: Session, engine: Engine, measured: Measured) -> None:
    """Run one of QuPath's engines, or the weights here, in QuPath's tiles."""
    from deepcontrast_bmz.check.measure import emulated, run_real

    run = run_real if engine.real else emulated
    run(session, measured, engine, ("torchscript",), handling, program="qupath")


def refuses(package: Package) -> str:
    """Say that QuPath takes no volumes, if this is what the model is for."""
    deep = any(
        axis.name == "z" and axis.size != 1 for t in package.view.tensors for axis in t.spatial
    )
    return "QuPath takes two-dimensional images only, and this model takes volumes" if deep else ""


PROGRAM = Program(
    "qupath",
    "QuPath 0.6 and 0.7",
    RULES,
    "QuPath's libtorch was not run (--run libtorch-2.5.1,libtorch-2.7.1 does)",
    ENGINES,
    measure,
    refuses,
    describe_scripts=partial(describe_scripts, suffix=".groovy", needs="QuPath"),
)
