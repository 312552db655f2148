"""QuPath 0.6 and 0.7, which read models through qupath-bioimageio-spec 0.2.0.

Tiles and border are those of the pixel classifier, read in QuPath v0.6.0 and v0.7.0 (the same in
both): `BioimageIoTools.buildPatchClassifierParams` and `updateLength` choose the side of a tile;
`PixelClassificationImageServer` steps by it without the halo; `ServerTools.getPaddedRequest` reads
a tile with its halo and repeats the edge pixel beyond the image; `OpenCVTools.applyTiled`, called
by `ImageOps.ML.DnnOp` with BORDER_REFLECT, fills up what is smaller than a tile, mirrored.
"""

from __future__ import annotations

__all__ = ["PROGRAM", "handling", "measure", "read_declared_halo", "refuses", "tile_size"]

from functools import partial
from typing import TYPE_CHECKING, Any

from deepcontrast_bmz.check import faults as breaches
from deepcontrast_bmz.check.engines.engine import read_engines
from deepcontrast_bmz.check.program import Program
from deepcontrast_bmz.check.rule import read_rules
from deepcontrast_bmz.check.scripts import describe_scripts
from deepcontrast_bmz.check.tiling import MOST_TILES, Handling
from deepcontrast_bmz.package.description import as_list, as_map, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepcontrast_bmz.check.compare import Bench
    from deepcontrast_bmz.check.engines.engine import Engine
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


def read_declared_halo(package: Package) -> int:
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


def _find_exactly_050(package: Package) -> Iterator[str]:
    for view in {id(v): v for v in (package.view, package.qupath_view)}.values():
        if view.version == "0.5.0":
            yield "format_version 0.5.0"
            return


def _find_keys_04(package: Package) -> Iterator[str]:
    if _view(package).is_04:
        keys = ("timestamp", "test_inputs", "test_outputs")
        yield from breaches.find_required_keys(package, keys=keys, qupath=True)


def _find_scalar_factors(package: Package) -> Iterator[str]:
    for tensor, operation in breaches.steps(_view(package)):
        if operation.name == "scale_linear":
            for key in ("gain", "offset"):
                value = operation.kwargs.get(key)
                if value is not None and not isinstance(value, list):
                    yield f"scale_linear with {key} {value} on {tensor.name}"


def _find_no_kwargs(package: Package) -> Iterator[str]:
    if _view(package).is_04:
        return
    for tensor, operation in breaches.steps(_view(package)):
        if operation.name == "zero_mean_unit_variance" and not operation.has_kwargs:
            yield f"zero_mean_unit_variance without kwargs on {tensor.name}"


def _find_no_tensor_halo(package: Package) -> Iterator[str]:
    if read_declared_halo(package) > 0:
        return
    axis_halo = max(package.view.halo.values(), default=0)
    where = "model.yaml" if package.qupath_rdf is not None else package.rdf_name
    known = f", only axis halos of {axis_halo}" if axis_halo else ""
    yield f"no halo on the output tensor in {where}{known}"


def _find_unlike_halo(package: Package) -> Iterator[str]:
    axis_halo = max(package.view.halo.values(), default=0)
    if 0 < read_declared_halo(package) < axis_halo:
        yield f"halo {read_declared_halo(package)} for QuPath and {axis_halo} in {package.rdf_name}"


def _find_larger_halo(package: Package) -> Iterator[str]:
    axis_halo = max(package.view.halo.values(), default=0)
    if package.qupath_rdf is not None and read_declared_halo(package) > axis_halo:
        yield f"halo {read_declared_halo(package)} for QuPath and {axis_halo} in {package.rdf_name}"


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


def _find_second_differs(package: Package, *, decisive: bool) -> Iterator[str]:
    if package.qupath_rdf is None:
        return
    first, second = _strip_halo(package.rdf), _strip_halo(package.qupath_rdf)
    for key in sorted({*first, *second}):
        if (key in DECISIVE) is decisive and first.get(key) != second.get(key):
            yield _first_difference(first.get(key), second.get(key), key)


def _find_not_flat(package: Package) -> Iterator[str]:
    for tensor in package.view.tensors:
        names = [axis.name for axis in tensor.axes]
        if "y" not in names or "x" not in names or names.index("x") != names.index("y") + 1:
            yield f"axes {', '.join(names)} in {tensor.name}"


def _find_unusable_source(package: Package) -> Iterator[str]:
    for name in FORMATS:
        source = text(package.view.weights.get(name, {}).get("source"))
        if "://" in source or source.endswith(".zip"):
            yield f"{source} ({name})"


def _find_multiplied_size(package: Package) -> Iterator[str]:
    for tensor in _view(package).inputs:
        for axis in tensor.spatial:
            if axis.size is not None and tile_size(axis.size) != axis.size:
                side = tile_size(axis.size)
                yield f"size {axis.size} on axis {axis.name}, for which tiles have {side}"


def _find_no_offset(package: Package) -> Iterator[str]:
    for tensor in _view(package).outputs:
        for axis in tensor.spatial:
            if axis.refers and axis.offset is None:
                yield f"no offset on axis {axis.name} of {tensor.name}"


RULES = read_rules(
    "qupath",
    {
        "required-keys": partial(breaches.find_required_keys, keys=KEYS, qupath=True),
        "required-keys-04": _find_keys_04,
        "format-version": _find_exactly_050,
        "plain-text": partial(breaches.find_maps_for_text, qupath=True),
        "channel-names": partial(breaches.find_channels_without_names, qupath=True),
        "scale-linear": _find_scalar_factors,
        "mean-std-kwargs": _find_no_kwargs,
        "one-tensor": partial(breaches.find_more_than_one_tensor, outputs=True),
        "weights-format": partial(breaches.find_no_such_weights, accepted=FORMATS),
        "weights-source": _find_unusable_source,
        "script-frozen": breaches.find_unfrozen_interpolate,
        "fixed-size": _find_multiplied_size,
        "batch": breaches.find_batch_sizes,
        "two-dimensional": _find_not_flat,
        "channel-count": breaches.find_no_whole_channel_count,
        "size-offset": _find_no_offset,
        "operations": partial(breaches.find_operations_outside, known=OPERATIONS),
        "percentiles": breaches.find_percentiles_missing,
        "reference-tensor": breaches.find_reference_tensor,
        "mean-std": partial(breaches.find_statistics, operations=("zero_mean_unit_variance",)),
        "percentiles-per-tile": partial(breaches.find_statistics, operations=("scale_range",)),
        "halo": _find_no_tensor_halo,
        "halo-agrees": _find_unlike_halo,
        "larger-halo": _find_larger_halo,
        "stale-description": partial(_find_second_differs, decisive=True),
        "second-description": partial(_find_second_differs, decisive=False),
    },
)


def handling(bench: Bench) -> Handling:
    """Return how QuPath cuts images: tiles near 512 pixels, the halo that it honours."""
    rigid = any(axis.size is not None for axis in bench.input.spatial)
    halo = 0 if rigid else read_declared_halo(bench.package)
    sides = tuple(tile_size(axis.smallest or 1) for axis in bench.input.spatial)
    return Handling((halo,) * len(sides), "replicate", sides, MOST_TILES, fill="symmetric")


def measure(session: Session, engine: Engine, measured: Measured) -> None:
    """Run one of QuPath's engines, or the weights here, in QuPath's tiles."""
    from deepcontrast_bmz.check.measure import run_emulated, run_real

    run = run_real if engine.real else run_emulated
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
    read_engines("qupath"),
    measure,
    refuses,
    describe_scripts=partial(describe_scripts, suffix=".groovy", needs="QuPath"),
)
