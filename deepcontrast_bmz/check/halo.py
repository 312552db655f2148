"""How far a network sees, measured: what a halo has to be."""

from __future__ import annotations

__all__ = ["measure_reach", "reach_along"]

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from deepcontrast_bmz.check.engines.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from deepcontrast_bmz.check.compare import Bench
    from deepcontrast_bmz.package.description import Axis

logger = logging.getLogger(__name__)

WINDOWS = (96, 224, 512)
"""Lengths of the part that is run alone, the first in which the reach ends is taken."""

LARGEST_SCENE = 2**22


def reach_along(
    graph: Callable[[NDArray[Any]], NDArray[Any]],
    scene: NDArray[Any],
    axis: int,
    part: tuple[int, int],
    tolerance: float,
) -> int | None:
    """Return how many pixels from the cut ends of a part values are not those of the whole.

    Values are the same up to `tolerance` of the range. The graph's output is as large as its input
    along `axis`, and the scene goes on beyond the part at both ends. None if there is no place in
    the part that does not see its ends.
    """
    start, stop = part
    window = tuple(slice(start, stop) if i == axis else slice(None) for i in range(scene.ndim))
    whole, alone = graph(scene), graph(np.ascontiguousarray(scene[window]))
    if whole.shape[axis] != scene.shape[axis] or alone.shape[axis] != stop - start:
        return None
    expected = whole[window].astype(np.float64)
    span = float(expected.max() - expected.min())
    if not np.isfinite(span) or span == 0:
        return None
    others = tuple(i for i in range(expected.ndim) if i != axis)
    wrong = np.flatnonzero(np.abs(alone - expected).max(axis=others) > tolerance * span)
    length = stop - start
    left = wrong[wrong < length // 2]
    right = wrong[wrong >= length // 2]
    reach = max(
        int(left.max()) + 1 if left.size else 0, length - int(right.min()) if right.size else 0
    )
    return reach if reach < length // 2 - 1 else None


def measure_reach(bench: Bench, weights_format: str, axis: Axis, tolerance: float) -> int | None:
    """Return how many pixels along an axis of space the values of a network depend on, measured.

    Values are the same up to `tolerance` of the range. None where every pixel depends on the whole
    image, or no other size is taken.
    """
    graph = bench.load_graph(weights_format)
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
        scene = bench.preprocess(bench.make_scene(sizes))
        try:
            with quiet():
                reach = reach_along(graph, scene, index, (start, start + part), tolerance)
        # A network of one size only says so in its engine's own way.
        except Exception as error:
            logger.info("not measured along %s: %s", axis.name, error)
            return None
        if reach is not None:
            return reach
        if axis.size is not None:
            return None
    return None
