"""How far a network sees, measured, and said where a package says nothing of it.

Without a halo QuPath and ilastik join tiles edge to edge, and every edge shows.
"""

from __future__ import annotations

__all__ = ["declare_halo"]

import logging
from typing import TYPE_CHECKING

from deepcontrast_bmz.check.halo import measure_reach
from deepcontrast_bmz.check.tolerances import HALO_TOLERANCE, SAME_TOLERANCE
from deepcontrast_bmz.export.facts import LARGEST_HALO, compute_shortest_side
from deepcontrast_bmz.package.description import as_map, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepcontrast_bmz.check.compare import Bench
    from deepcontrast_bmz.package.description import Axis
    from deepcontrast_bmz.port.draft import Draft

logger = logging.getLogger(__name__)

GRID = 8
"""Halos in y and x are multiples of this: then ilastik's tiles keep a multiple of 16 pixels."""


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
    return compute_shortest_side(halo, step) if name != "z" else -(-(2 * halo + 1) // step) * step


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


def _measure(bench: Bench, weights_format: str, axis: Axis) -> tuple[int | None, int, str]:
    """Return reach and halo of an axis, and why the halo cannot be declared, empty if it can.

    All that a network sees, where there is room for it: what is next to nothing on the test image
    may be more on another. Else what matters there.
    """
    reach, halo, reason = None, 0, ""
    for tolerance in (SAME_TOLERANCE, HALO_TOLERANCE):
        reach = measure_reach(bench, weights_format, axis, tolerance)
        if reach is None:
            continue
        # Of a network that looks at single pixels any halo is right, and programs want one.
        halo = _rounded(max(reach, 0 if axis.name == "z" else 1), axis)
        reason = _fits(bench, axis, halo)
        if not reason:
            break
    return reach, halo, reason


def declare_halo(draft: Draft, bench: Bench, weights_format: str) -> None:
    """Measure and declare a halo, with these weights, where the description has none."""
    if any(bench.halo):
        return
    found: dict[str, int] = {}
    for axis in bench.input.spatial:
        if axis.name not in bench.out_names or axis.size == 1:
            continue
        reach, halo, reason = _measure(bench, weights_format, axis)
        if reach is None:
            draft.leave(
                f"No halo is declared along {axis.name}, and none could be measured: either "
                "every pixel depends on the whole image, or the network takes no other size. Tiles "
                "show seams."
            )
            continue
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
