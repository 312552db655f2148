"""How far a network sees, measured, and said where a package says nothing of it.

Without a halo QuPath and ilastik join tiles edge to edge, and every edge shows.
"""

from __future__ import annotations

__all__ = ["declare_halo", "reach_along"]

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.check.tolerances import HALO_TOLERANCE
from deepcontrast_bmz.export.facts import LARGEST_HALO, shortest_side
from deepcontrast_bmz.package.description import as_map, text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from deepcontrast_bmz.check.compare import Bench
    from deepcontrast_bmz.package.description import Axis
    from deepcontrast_bmz.port.draft import Draft

logger = logging.getLogger(__name__)

GRID = 8
"""Halos in y and x are multiples of this: then ilastik's tiles keep a multiple of 16 pixels."""

WINDOWS = (96, 224, 512)
"""Lengths of the part that is run alone, the first in which the reach ends is taken."""

LARGEST_SCENE = 2**22


def reach_along(
    graph: Callable[[NDArray[Any]], NDArray[Any]],
    scene: NDArray[Any],
    axis: int,
    start: int,
    stop: int,
) -> int | None:
    """Return how many pixels from the cut ends of a part values are not those of the whole.

    Parameters
    ----------
    graph : callable
        The network; output as large as the input along `axis`.
    scene : array
        Larger than the part at both ends.
    axis : int
    start, stop : int
        The part that is run alone.

    Returns
    -------
    int or None
        None if there is no place in the part that does not see its ends.
    """
    window = tuple(slice(start, stop) if i == axis else slice(None) for i in range(scene.ndim))
    whole, alone = graph(scene), graph(np.ascontiguousarray(scene[window]))
    if whole.shape[axis] != scene.shape[axis] or alone.shape[axis] != stop - start:
        return None
    expected = whole[window].astype(np.float64)
    span = float(expected.max() - expected.min())
    if not np.isfinite(span) or span == 0:
        return None
    others = tuple(i for i in range(expected.ndim) if i != axis)
    wrong = np.flatnonzero(np.abs(alone - expected).max(axis=others) > HALO_TOLERANCE * span)
    length = stop - start
    left = wrong[wrong < length // 2]
    right = wrong[wrong >= length // 2]
    reach = max(
        int(left.max()) + 1 if left.size else 0, length - int(right.min()) if right.size else 0
    )
    return reach if reach < length // 2 - 1 else None


def _measure(bench: Bench, weights_format: str, axis: Axis) -> int | None:
    graph = bench.graph(weights_format)
    index = bench.in_names.index(axis.name)
    for wanted in WINDOWS:
        part = axis.legal(wanted)
        step = max(axis.step or 1, 1)
        # On the grid of a network that pools, as far as the description tells it.
        start = -(-max(part // 2, 16) // (16 * step)) * 16 * step
        sizes = {a.name: a.legal(min(a.smallest or 1, 64)) for a in bench.input.spatial}
        sizes[axis.name] = part + 2 * start
        if np.prod(list(sizes.values())) > LARGEST_SCENE:
            return None
        scene = bench.prepared(bench.scene(sizes))
        try:
            with quiet():
                reach = reach_along(graph, scene, index, start, start + part)
        # A network of one size only says so in its engine's own way.
        except Exception as error:
            logger.info("not measured along %s: %s", axis.name, error)
            return None
        if reach is not None:
            return reach
        if axis.size is not None:
            return None
    return None


def _rounded(reach: int, axis: Axis) -> int:
    """Round a reach up to a halo: on the grid, and twice the halo a multiple of step."""
    step = max(axis.step or 1, 1)
    grid = GRID if axis.name != "z" else 1
    halo = -(-reach // grid) * grid
    while (2 * halo) % step:
        halo += grid
    return halo


def _least(halo: int, name: str, step: int) -> int:
    """Return the smallest size to declare: something is left between two halos."""
    return shortest_side(halo, step) if name != "z" else -(-(2 * halo + 1) // step) * step


def _fits(bench: Bench, axis: Axis, halo: int) -> str:
    """Return why a halo cannot be declared, empty if it can."""
    tested = bench.test_input.shape[bench.in_names.index(axis.name)]
    if axis.name in ("y", "x") and halo > LARGEST_HALO:
        return f"ilastik's tiles leave room for {LARGEST_HALO} pixels"
    least = _least(halo, axis.name, max(axis.step or 1, 1))
    if axis.size is not None and axis.size <= 2 * halo:
        return f"the size is fixed at {axis.size}"
    if axis.size is None and tested < max(least, axis.minimum or 1):
        return f"the test image has {tested} pixels, and {least} would be the least"
    return ""


def declare_halo(draft: Draft, bench: Bench, weights_format: str) -> None:
    """Measure and declare a halo where the description has none.

    Parameters
    ----------
    draft : Draft
        Its description is changed.
    bench : Bench
        Of the package as it is so far.
    weights_format : str
        The weights to run.
    """
    if any(bench.halo):
        return
    found: dict[str, int] = {}
    for axis in bench.input.spatial:
        if axis.name not in bench.out_names or axis.size == 1:
            continue
        reach = _measure(bench, weights_format, axis)
        if reach is None:
            draft.leave(
                f"No halo is declared along {axis.name}, and none could be measured: either "
                "every pixel depends on the whole image, or the network takes no other size. Tiles "
                "show seams."
            )
            continue
        # Of a network that looks at single pixels any halo is right, and programs want one.
        halo = _rounded(max(reach, 0 if axis.name == "z" else 1), axis)
        reason = _fits(bench, axis, halo)
        if reason:
            draft.leave(
                f"No halo is declared along {axis.name}, but the network sees {reach} pixels far, "
                f"and a halo of {halo} does not fit: {reason}. Tiles show seams."
            )
            continue
        found[axis.name] = halo
    if any(found.values()):
        _write(draft, found)


def _write(draft: Draft, halo: Mapping[str, int]) -> None:
    source = draft.tensors("inputs")[0]
    for axis in draft.tensors("outputs")[0]["axes"]:
        wide = halo.get(text(axis.get("id")), 0)
        if wide:
            if "tensor_id" not in as_map(axis.get("size")):
                axis["size"] = {"tensor_id": source["id"], "axis_id": axis["id"], "offset": 0}
            axis["halo"] = wide
    for axis in source["axes"]:
        size = as_map(axis.get("size"))
        wide = halo.get(text(axis.get("id")), 0)
        if "min" in size and wide:
            step = max(int(size.get("step", 1)), 1)
            least = _least(wide, text(axis.get("id")), step)
            while size["min"] < least:
                size["min"] += step
            axis["size"] = size
    words = ", ".join(f"{wide} along {name}" for name, wide in halo.items() if wide)
    draft.change(f"A halo is declared, measured with the weights: {words} pixels.")
