"""ilastik, which runs models through tiktorch 26.5 (bioimageio.core 0.10.2, torch 2.7).

Tiles and border were read in ilastik at ebbaf9b (1.4.2 and 28 commits):
`InputAxisUtils.get_best_tile_shape` in ilastik/utility/bioimageio_utils.py chooses the tile;
`OpBlockShape` in ilastik/applets/neuralNetwork/opNNclass.py steps by it without the halo;
`OpTikTorchClassifierPredict` in lazyflow/operators/tiktorch/operators.py enlarges what is smaller,
a small image too, on both sides to a tile, and pads beyond the image with numpy's ``reflect``.
"""

from __future__ import annotations

__all__ = ["PROGRAM", "handling", "measure", "tile_size"]

from functools import partial
from typing import TYPE_CHECKING

from deepcontrast_bmz.check import faults as breaches
from deepcontrast_bmz.check.engines.engine import read_engines
from deepcontrast_bmz.check.program import Program
from deepcontrast_bmz.check.rule import read_rules
from deepcontrast_bmz.check.tiling import MOST_TILES, Handling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepcontrast_bmz.check.compare import Bench
    from deepcontrast_bmz.check.engines.engine import Engine
    from deepcontrast_bmz.check.findings import Measured
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.package.description import Axis, TensorView
    from deepcontrast_bmz.package.files import Package

FORMATS = ("torchscript", "pytorch_state_dict")
AXES = ("batch", "time", "x", "y", "z", "channel")
GRID = 16


def tile_size(tensor: TensorView) -> dict[str, int]:
    """Return the tile by axis id: the smallest n for which any axis reaches 512 (3-D: 64)."""
    target = 64 if len(tensor.spatial) == 3 else 512
    counts = [
        max(0, -(-(target - axis.minimum) // axis.step))
        for axis in tensor.spatial
        if axis.minimum is not None and axis.step
    ]
    n = min(counts, default=0)

    def side(axis: Axis) -> int:
        if axis.minimum is None:
            return axis.size or target
        return axis.minimum + n * (axis.step or 0)

    return {axis.name: side(axis) for axis in tensor.spatial}


def _find_axis_names(package: Package) -> Iterator[str]:
    for tensor in package.view.tensors:
        for axis in tensor.axes:
            if axis.name not in AXES:
                yield f"axis {axis.name or axis.kind} of {tensor.name}"


def _find_axis_order(package: Package) -> Iterator[str]:
    if not package.view.inputs:
        return
    order = [axis.name for axis in package.view.inputs[0].axes]
    for tensor in package.view.outputs:
        names = [axis.name for axis in tensor.axes]
        if "channel" not in names:
            yield f"no channel axis in {tensor.name}"
        elif [n for n in names if n in order] != [n for n in order if n in names]:
            yield f"axes {', '.join(order)} in and {', '.join(names)} out"


def _halo_on_tiles(package: Package) -> Iterator[tuple[str, int, int]]:
    halo = package.view.halo
    for tensor in package.view.inputs[:1]:
        for name, side in tile_size(tensor).items():
            yield name, side, halo.get(name, 0)


def _find_nothing_left(package: Package) -> Iterator[str]:
    for name, side, halo in _halo_on_tiles(package):
        if side - 2 * halo <= 0:
            yield f"halo {halo} on axis {name}, whose tiles have {side} pixels"


def _find_no_halo(package: Package) -> Iterator[str]:
    found = [halo for _, _, halo in _halo_on_tiles(package)]
    if found and max(found) == 0:
        yield "no halo on any axis of the outputs"


def _find_off_grid(package: Package) -> Iterator[str]:
    for name, side, halo in _halo_on_tiles(package):
        if halo and name in ("y", "x") and (side - 2 * halo) % GRID:
            yield f"{side} - 2 x {halo} = {side - 2 * halo} on axis {name}"


def _find_small_volumes(package: Package) -> Iterator[str]:
    if not package.view.inputs or len(package.view.inputs[0].spatial) != 3:
        return
    halo = package.view.halo
    for axis in package.view.inputs[0].spatial:
        if axis.name in ("y", "x") and halo.get(axis.name, 0) and (axis.smallest or 0) < 128:
            yield f"min {axis.smallest} on axis {axis.name}"


def _find_not_float(package: Package) -> Iterator[str]:
    for tensor in package.view.inputs:
        if tensor.data_type != "float32":
            yield f"{tensor.data_type} in {tensor.name}"


RULES = read_rules(
    "ilastik",
    {
        "plain-text": breaches.find_maps_for_text,
        "format-version": breaches.find_new_patch_version,
        "one-tensor": partial(breaches.find_more_than_one_tensor, outputs=True),
        "axis-names": _find_axis_names,
        "axis-order": _find_axis_order,
        "weights-format": partial(breaches.find_no_such_weights, accepted=FORMATS),
        "script-frozen": breaches.find_unfrozen_interpolate,
        "halo-fits": _find_nothing_left,
        "data-type": _find_not_float,
        "small-volumes": _find_small_volumes,
        "halo": _find_no_halo,
        "mean-std": partial(breaches.find_statistics, operations=("zero_mean_unit_variance",)),
        "percentiles-per-tile": partial(breaches.find_statistics, operations=("scale_range",)),
        "grid": _find_off_grid,
    },
)


def handling(bench: Bench) -> Handling:
    """Return how ilastik cuts images: tiles of 512 (3-D: 64), mirrored without the edge pixel."""
    named = tile_size(bench.input)
    sides = tuple(named[axis.name] for axis in bench.input.spatial)
    return Handling(bench.halo, "reflect", sides, MOST_TILES)


def measure(session: Session, engine: Engine, measured: Measured) -> None:
    """Run tiktorch's core, or the weights here, in ilastik's tiles."""
    from deepcontrast_bmz.check.measure import run_emulated, run_real
    from deepcontrast_bmz.check.programs.running_core import run_old_core

    if engine.real:
        run_old_core(session, engine, measured, FORMATS)
        run_real(session, measured, engine, FORMATS, handling, program="ilastik")
    else:
        run_emulated(session, measured, engine, FORMATS, handling, program="ilastik")


PROGRAM = Program(
    "ilastik",
    "ilastik through tiktorch 26.5 (bioimageio.core 0.10.2, torch 2.7)",
    RULES,
    "tiktorch's core was not run (--run core-0.10.2 does)",
    read_engines("ilastik"),
    measure,
)
