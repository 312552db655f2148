"""Enhances an image in memory, or lazily as a dask array."""

from __future__ import annotations

__all__ = ["Enhanced", "check_grey", "enhance", "enhance_as"]

import itertools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from deepcontrast_bmz.dial.request import parse_dial_request
from deepcontrast_bmz.dial.usable import find_padding
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import channel_names, check_pixels, pixel_size_um
from deepcontrast_bmz.image.masks import FieldMask
from deepcontrast_bmz.model.units import Source
from deepcontrast_bmz.predict.blocks import block_sides
from deepcontrast_bmz.predict.plan import plan_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from deepcontrast_bmz.dial.request import DialRequest
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.predict.plan import Plan


@dataclass(frozen=True)
class Enhanced:
    """An enhanced image and the dials it was made with."""

    image: xr.DataArray
    """float32; dims, coordinates and attributes of the input, with `all_iterations` with a
    channel axis of iterations. A dask array where the input is one: computed when looked at."""
    dials: tuple[float, ...]
    """Optical depth removed from each plane, planes in the order of the leading dims."""
    dial: str
    """The same in the form in which `enhance` and ``--dial`` take it."""
    reason: str
    """Where the dials come from, in one sentence."""
    change: str = ""
    """What rounding and clipping did to the values that were written, if that was asked for."""


def enhance(
    model: Model,
    image: xr.DataArray,
    *,
    dial: float | str | None = None,
    iterations: int | None = None,
    all_iterations: bool = False,
    block: int | None = None,
    mask: xr.DataArray | None = None,
    progress: Callable[[float], None] | None = None,
) -> Enhanced:
    """Run the loop on an image, block by block: on its planes, or on stacks if the model does.

    Without `dial`, `iterations` and `all_iterations` the dial that the model recommends is
    taken, and `auto` where it recommends none.

    Parameters
    ----------
    model : Model
    image : DataArray, dims out of (t, c, z, y, x)
        Grey values in any unit and of any integer or real type.
    dial : float, 'auto' or other text, optional
        Optical depth to remove; 0 returns the raw image. Text gives one for each channel, as in
        ``c0=1.75,c1=1.2``, or a curve along z, as in ``z0=1,z20=1.75``. `auto` chooses one for
        each channel from the image: the same for all frames, a smooth curve along z.
    iterations : int, optional
        Whole iterations instead of a dial; with `all_iterations`, how many are returned.
    all_iterations : bool
        Return the iterations as channels ``iteration_1 .. iteration_K``. Channels that the image
        has itself come first: ``GFP iteration_1``, ``GFP iteration_2``, ...; those without a
        name are called ``channel_0``, ``channel_1``, ...
    block : int, optional
        Largest lateral side of the blocks in pixels; it bounds the memory, the result is the
        same. Left out, it is what suits the model and the memory at hand.
    mask : DataArray, dims (y, x) or more of the image's, optional
        Pixels that are not zero are part of the picture. The others, those that are NaN or
        infinite, and what was laid round the field by stitching or shifting, take no part in
        anything and come out as they went in.
    progress : callable, optional
        Is given the share that is done, 0 to 1, after every block.

    Returns
    -------
    Enhanced

    Raises
    ------
    InputError
        If the choice of dial contradicts itself or is out of the model's reach, pixels are not
        numbers that can be computed with, the image is RGB, the mask is of another shape, or a
        model of stacks is given an image without z.
    """
    sides = block_sides(model, block)
    request = parse_dial_request(model, dial, iterations, all_iterations=all_iterations)
    field = None if mask is None else FieldMask.of(mask)
    return enhance_as(model, image, request, sides, mask=field, progress=progress)


def enhance_as(
    model: Model,
    image: xr.DataArray,
    request: DialRequest,
    sides: tuple[int, ...],
    *,
    mask: FieldMask | None = None,
    progress: Callable[[float], None] | None = None,
) -> Enhanced:
    """Do what `enhance` does, dial and blocks being settled.

    Parameters
    ----------
    model, image, progress
        As in `enhance`.
    request : DialRequest
        The dial that was asked for.
    sides : tuple of int
        Largest sides of the blocks, of `block_sides`.
    mask : FieldMask, optional
        Pixels that are part of the picture.
    """
    name = str(image.name or "the image")
    lazy = image.chunks is not None
    check_grey(image, name)
    if not lazy:
        check_pixels(image, name, holes=True)
    dims = [str(dim) for dim in image.dims]
    source = Source(image.data, dims, model, name, mask=mask, find_padding=find_padding)
    plan = plan_image(
        source,
        model,
        request,
        sides,
        pixel_size_um(image),
        names=channel_names(image),
        look=request.count is None and not lazy,
    )
    data = _compute_lazily(plan, progress) if lazy else _compute_now(plan, progress)
    return Enhanced(_label(image, data, plan), plan.dials, plan.dial, plan.reason)


def check_grey(image: xr.DataArray, name: str) -> None:
    """Refuse an RGB image, as the scripts for Fiji and QuPath do.

    Parameters
    ----------
    image : DataArray
        One channel of an RGB image is a grey image.
    name : str
        What the image is called in the error.

    Raises
    ------
    InputError
        If its channels are the colours of an RGB image.
    """
    if "c" in image.dims and image.attrs.get("colour_samples"):
        colours = ", ".join(channel_names(image) or map(str, range(image.sizes["c"])))
        raise InputError(
            f"'{name}' is RGB, but the model is made for grey values: choose one of its channels "
            f"with --channel ({colours}), or save it with grey channels"
        )


def _compute_now(plan: Plan, progress: Callable[[float], None] | None) -> NDArray[np.float32]:
    """Return the whole result."""
    result = np.empty(plan.shape, np.float32)
    done = 0
    for blocks in plan.batches():
        for block, values in zip(blocks, plan.run(blocks), strict=True):
            plan.put(result, block, values)
        done += len(blocks)
        if progress is not None:
            progress(done / plan.block_count)
    return result


def _compute_lazily(plan: Plan, progress: Callable[[float], None] | None) -> Any:
    """Return the result as a dask array, whose chunks are computed when looked at."""
    import dask.array as da

    done, lock = itertools.count(1), threading.Lock()

    def compute(block_id: tuple[int, ...]) -> NDArray[np.float32]:
        values = plan.run([plan.block_at(block_id)])[0]
        if progress is not None:
            with lock:
                progress(min(1.0, next(done) / plan.block_count))
        return values.reshape(
            [lengths[i] for lengths, i in zip(plan.chunks, block_id, strict=True)]
        )

    chunks = plan.chunks
    empty = np.empty((0,) * len(chunks), np.float32)
    return da.map_blocks(compute, chunks=chunks, dtype=np.float32, meta=empty)


def _label(image: xr.DataArray, data: Any, plan: Plan) -> xr.DataArray:
    """Put the input's dims, coordinates and attributes on the result."""
    coords = dict(image.coords.items())
    if plan.count is not None:
        coords = {name: value for name, value in coords.items() if "c" not in value.dims}
        _ = coords.pop("c", None)
        names = plan.channel_names(channel_names(image))
        coords["c"] = xr.DataArray(list(names or ()), dims="c")
    attributes = dict(image.attrs)
    return xr.DataArray(data, dims=plan.dims, coords=coords, attrs=attributes, name=image.name)
