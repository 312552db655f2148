"""Pictures of further planes of a stack: raw and every iteration, between which a page blends."""

from __future__ import annotations

__all__ = ["add_stack"]

from typing import TYPE_CHECKING

import numpy as np
import torch

from deepcontrast_bmz.evaluate.previews import shrink
from deepcontrast_bmz.evaluate.records import PlanePictures
from deepcontrast_bmz.image.blocks import Box, cut
from deepcontrast_bmz.model.loop import blend
from deepcontrast_bmz.model.units import Source
from deepcontrast_bmz.predict.blocks import block_grids, block_sides, run_box

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from numpy.typing import NDArray

    from deepcontrast_bmz.evaluate.records import Evaluation
    from deepcontrast_bmz.model.model import Model

MOST_PLANES = 7
"""Planes at even distances, beside the judged one."""
SIDE = 512
"""Largest side of their pictures, in pixels: there are many of them."""
_SHOWN_RANGE = (0.003, 0.998)
"""Quantiles, halfway between raw and the last iteration, that are shown black and white."""


def add_stack(
    evaluation: Evaluation,
    model: Model,
    image: xr.DataArray,
    progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Return an evaluation with pictures of further planes; the same one where there are none.

    Parameters
    ----------
    evaluation : Evaluation
        Of one plane of the image.
    model : Model
        That it was made with.
    image : DataArray
        One channel; planes along z are shown, else those along t.
    progress : callable, optional
        Called with the share that is done.
    """
    axis = next((dim for dim in ("z", "t") if image.sizes.get(dim, 1) > 1), None)
    if axis is None:
        return evaluation
    single = image.squeeze("c") if "c" in image.dims else image
    length = single.sizes[axis]
    places = np.rint(np.linspace(0, length - 1, min(length, MOST_PLANES))).astype(int)
    shown = sorted({int(place) for place in places} - {evaluation.plane[axis]})
    planes: list[PlanePictures] = []
    for done, number in enumerate(shown, start=1):
        index = {**evaluation.plane, axis: number}
        planes.append(_picture(evaluation, model, single, index, number))
        if progress is not None:
            progress(done / len(shown))
    return evaluation.model_copy(update={"stack_axis": axis, "stack": tuple(planes)})


def _picture(
    evaluation: Evaluation, model: Model, image: xr.DataArray, index: dict[str, int], number: int
) -> PlanePictures:
    """Return the pictures of one plane, all between the same black and white."""
    found = _iterate(model, image, index, evaluation.window)
    raw, iterations = torch.from_numpy(found[0]), torch.from_numpy(found[1:])
    step = evaluation.step_optical_depth
    # Deeper planes need more than the judged one: half of the range shows them all.
    dial = max(evaluation.chosen_dial, 0.5 * evaluation.iterations * step)
    black, white = (float(v) for v in np.quantile(blend(raw, iterations, dial, step), _SHOWN_RANGE))
    return PlanePictures(
        number=number, pictures=tuple(shrink(plane, black, white, SIDE) for plane in found)
    )


def _iterate(
    model: Model, image: xr.DataArray, index: dict[str, int], window: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    """Return the raw plane and all its iterations, within a window: (1 + K, Y, X)."""
    dims = [str(dim) for dim in image.dims]
    source = Source(image.data, dims, model, str(image.name or "image"))
    plane = tuple(index[dim] for dim in dims[:-2])
    place, deep = plane[: len(source.leading)], plane[len(source.leading) :]
    top, left, height, width = window
    count = model.description.iterations
    found = np.empty((count + 1, height, width), np.float32)
    for part in cut((height, width), block_sides(model)[-2:], block_grids(model)[-2:]):
        (first, second), (last, end) = part.starts, part.stops
        box = Box(
            (*deep, top + first, left + second), (*(z + 1 for z in deep), top + last, left + end)
        )
        inside = (slice(None), *part.slices)
        raw = source.read(place, box.slices)
        run = run_box(model, source, [place], [0.0], box, count)[0]
        found[inside] = np.concatenate([raw[None], run]).reshape(count + 1, *part.shape)
    return found
