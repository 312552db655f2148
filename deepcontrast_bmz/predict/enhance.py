"""An image through a model, block by block: in memory, or lazily as a dask array."""

from __future__ import annotations

__all__ = [
    "Enhanced",
    "block_grids",
    "block_sides",
    "check_grey",
    "enhance",
    "labels_of",
    "run_box",
]

import contextlib
import itertools
import logging
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xarray as xr

from deepcontrast_bmz.dial.per_plane import choose_dials, needed, wanted, warn_if_unusual
from deepcontrast_bmz.errors import InputError, Unfinished
from deepcontrast_bmz.image import channel_names, check_pixels, pixel_size_um
from deepcontrast_bmz.image.blocks import Box, cut, piece, split
from deepcontrast_bmz.model.devices import memory_ran_out
from deepcontrast_bmz.model.loop import blend
from deepcontrast_bmz.model.model import LARGE_BLOCK, LARGE_VOLUME_BLOCK
from deepcontrast_bmz.model.units import Source
from deepcontrast_bmz.records import CHANNEL_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model

logger = logging.getLogger(__name__)

_BYTES_PER_PIXEL = {"strips": 64, "whole": 900, "stack": 1900}
"""Largest memory of a block, over its pixels with their surroundings, rounded up from what
``benchmarks/size.py --bytes`` measures: strips of rows, planes and stacks 43 to 61; all hidden
channels, U-Nets 670 to 850 and exported graphs 340 to 560; an exported graph of stacks 1440 and
more, as it mirrors by itself."""

_SHARE = 0.5
"""Of the memory at hand, for the blocks of all cores together."""

_SMALLEST = 64
"""Pixels: blocks are halved no further."""


@dataclass(frozen=True)
class Enhanced:
    """An enhanced image and the dials it was made with."""

    image: xr.DataArray
    """float32; dims, coordinates and attributes of the input, with `all_iterations` with a
    channel axis of iterations. A dask array where the input is one: computed when looked at."""
    dials: tuple[float, ...]
    """Optical depth removed from each plane, planes in the order of the leading dims; `LOCAL`
    where every pixel has its own."""
    reason: str
    """Where the dials come from, in one sentence."""


def enhance(
    model: Model,
    image: xr.DataArray,
    *,
    dial: float | Literal["auto"] | None = None,
    iterations: int | None = None,
    all_iterations: bool = False,
    block: int | None = None,
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
    dial : float or 'auto', optional
        Optical depth to remove; 0 returns the raw image, `auto` chooses it for every plane. In
        a z-stack the chosen dials are a smooth curve along z. `local` gives every pixel its own,
        if the model has a local dial.
    iterations : int, optional
        Whole iterations instead of a dial; with `all_iterations`, how many are returned.
    all_iterations : bool
        Return the iterations as channels ``iteration_1 .. iteration_K``. Channels that the image
        has itself come first: ``GFP iteration_1``, ``GFP iteration_2``, ...; those without a
        name are called ``channel_0``, ``channel_1``, ...
    block : int, optional
        Largest lateral side of the blocks in pixels; it bounds the memory, the result is the
        same. Left out, it is what suits the model and the memory at hand.
    progress : callable, optional
        Is given the share that is done, 0 to 1, after every block.

    Returns
    -------
    Enhanced

    Raises
    ------
    InputError
        If the choice of dial contradicts itself or is out of the model's reach, pixels are not
        numbers that can be computed with, the image is RGB, or a model of stacks is given an image
        without z.
    """
    sides = block_sides(model, block)
    choice = wanted(model, dial, iterations, all_iterations=all_iterations)
    name = str(image.name or "the image")
    lazy = image.chunks is not None
    check_grey(image, name)
    if not lazy:
        check_pixels(image, name)
    source = Source(image.data, [str(dim) for dim in image.dims], model, name)
    if choice.dial is None:
        dials, reason = choose_dials(model, source, pixel_size_um(image))
    else:
        dials = (choice.dial,) * int(np.prod(source.planes, dtype=int))
        reason = choice.reason
        if not (all_iterations or lazy):
            warn_if_unusual(model, source)
    task = _Task(model, source, dials, sides, choice.count, progress)
    data = task.run_lazily() if lazy else task.run()
    return Enhanced(_labelled(image, data, choice.count), dials, reason)


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


def block_sides(model: Model, block: int | None = None) -> tuple[int, ...]:
    """Return the largest sides of the blocks, along (z,) y, x.

    Parameters
    ----------
    model : Model
    block : int, optional
        Lateral side. Left out, it is what suits the model, halved until as many blocks as there
        are cores fit in half of the memory at hand.

    Raises
    ------
    InputError
        If a block would have no pixel.
    """
    if block is not None:
        if block < 1:
            raise InputError(f"a block has at least 1 pixel, not {block}: give more, or auto")
        return (*model.blocks[:-2], block, block)
    if model.device != "cpu":
        return model.blocks
    large = LARGE_VOLUME_BLOCK if model.dims == 3 else LARGE_BLOCK
    whole = "stack" if model.dims == 3 else "whole"
    kind = "strips" if model.block >= large else whole
    budget = _SHARE * _memory_at_hand() / (os.cpu_count() or 1)
    count = model.description.iterations
    sides = model.blocks
    while max(sides[-2:]) > 2 * _SMALLEST:
        extended = [n + 2 * count * r for n, r in zip(sides, model.radii, strict=True)]
        if float(np.prod(extended, dtype=float)) * _BYTES_PER_PIXEL[kind] <= budget:
            break
        sides = (*sides[:-2], sides[-2] // 2, sides[-1] // 2)
    if sides != model.blocks:
        logger.info("blocks of %s, since memory is short", " x ".join(map(str, sides)))
    return sides


def _memory_at_hand() -> float:
    """Return how many bytes can be taken now."""
    import psutil

    return float(psutil.virtual_memory().available)


def run_box(
    model: Model,
    source: Source,
    places: Sequence[tuple[int, ...]],
    dials: Sequence[float],
    box: Box,
    count: int | None = None,
    *,
    turn: AbstractContextManager[Any] | None = None,
) -> NDArray[np.float32]:
    """Run the loop on one box of some units; where memory does not suffice, on halves of it.

    Parameters
    ----------
    model : Model
    source : Source
    places : sequence of tuple of int
        Units that are run together.
    dials : sequence of float
        Optical depth to remove: one, or one for every plane of the box of a stack.
    box : Box
        Begins on the pooling grid.
    count : int, optional
        Return so many iterations instead.
    turn : context manager, optional
        Entered while the model runs, for those who share it.

    Returns
    -------
    ndarray of float32, (B, C, *box.shape)
        C is 1, or the count of iterations.

    Raises
    ------
    Unfinished
        If memory does not suffice for the smallest of boxes.
    """
    with contextlib.suppress(_OutOfMemory):
        return _run_box(model, source, places, dials, box, count, turn)
    # Here, outside, nothing of the failed attempt is held any more.
    if model.device == "cuda":
        torch.cuda.empty_cache()
    grids = block_grids(model)
    halves = split(box, grids, _SMALLEST)
    if not halves:
        raise Unfinished(
            f"memory does not suffice for a block of {' x '.join(map(str, box.shape))} pixels: "
            "end other programs, or take a machine with more"
        )
    logger.warning("memory is short: a block is halved to %s", halves[0].shape)
    result: NDArray[np.float32] | None = None
    for half in halves:
        inside = half.within(box)
        # A stack's dials are those of the planes of the half.
        own = dials[inside.starts[0] : inside.stops[0]] if len(dials) > 1 else dials
        part = run_box(model, source, places, own, half, count, turn=turn)
        if result is None:
            result = np.empty((*part.shape[:2], *box.shape), np.float32)
        result[(..., *inside.slices)] = part
    assert result is not None
    return result


class _OutOfMemory(Exception):  # noqa: N818 - it is caught here
    """A block did not fit."""


def _run_box(
    model: Model,
    source: Source,
    places: Sequence[tuple[int, ...]],
    dials: Sequence[float],
    box: Box,
    count: int | None,
    turn: AbstractContextManager[Any] | None,
) -> NDArray[np.float32]:
    step = model.description.step_optical_depth
    most = count if count is not None else max(needed(d, model.description) for d in dials)
    margins = [most * radius for radius in model.radii]
    try:
        window = np.stack([source.window(place, box, margins) for place in places])
        if most == 0:
            return window[:, None]
        extended = torch.from_numpy(window)[:, None]
        with turn if turn is not None else contextlib.nullcontext():
            kept = model.iterate(extended, most)
        if count is not None:
            return kept.numpy()
        inside = tuple(slice(m, n - m) for m, n in zip(margins, window.shape[1:], strict=True))
        raw = extended[(slice(None), 0, *inside)]
        if model.dims == 2 or len(set(dials)) == 1:
            return blend(raw, kept, dials[0], step, dims=model.dims)[:, None].numpy()
        planes = [blend(raw[:, z], kept[:, :, z], dial, step) for z, dial in enumerate(dials)]
        return torch.stack(planes, dim=1)[:, None].numpy()
    except (MemoryError, RuntimeError) as error:
        if memory_ran_out(error):
            raise _OutOfMemory from None
        raise


def block_grids(model: Model) -> tuple[int, ...]:
    """Return the pooling grid on which blocks begin, along (z,) y, x."""
    return (*(1,) * (model.dims - 2), model.multiple, model.multiple)


class _Task:
    """One image on its way through a model."""

    def __init__(
        self,
        model: Model,
        source: Source,
        dials: Sequence[float],
        sides: tuple[int, ...],
        count: int | None,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.model = model
        self.source = source
        self.sides = sides
        self.count = count
        self.progress = progress
        self.channels = 1 if count is None else count
        planes = np.array(dials, np.float64).reshape(source.planes)
        self.dials = {
            place: tuple(float(d) for d in np.atleast_1d(planes[place])) for place in source.places
        }
        self.boxes = cut(source.shape, sides, block_grids(model))

    def run(self) -> NDArray[np.float32]:
        """Return the whole: (leading..., *unit), or with iterations (leading..., K, *unit)."""
        result, target = self._empty()
        places = self.source.places
        total, done = len(places) * len(self.boxes), 0
        for dials, group in itertools.groupby(places, key=self.dials.__getitem__):
            members = list(group)
            batch = self._batch(dials)
            for first in range(0, len(members), batch):
                part = members[first : first + batch]
                for box in self.boxes:
                    own = dials[box.slices[0]] if self.model.dims == 3 else dials
                    found = run_box(self.model, self.source, part, own, box, self.count)
                    for place, values in zip(part, found, strict=True):
                        target[(*place, slice(None), *box.slices)] = values
                    done += len(part)
                    if self.progress is not None:
                        self.progress(done / total)
        return result

    def _batch(self, dials: Sequence[float]) -> int:
        """Return how many units go through together: as many as make up one block."""
        description = self.model.description
        most = self.count if self.count is not None else max(needed(d, description) for d in dials)
        margins = [most * radius for radius in self.model.radii]
        full = [n + 2 * m for n, m in zip(self.sides, margins, strict=True)]
        own = [n + 2 * m for n, m in zip(self.source.shape, margins, strict=True)]
        return max(1, int(np.prod(full, dtype=float) // np.prod(own, dtype=float)))

    def _empty(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return an array of the result's layout, and its view as (leading..., C, *unit)."""
        unit = -self.model.dims
        shape = (*self.source.leading, *self.source.shape)
        if self.count is None:
            result = np.empty(shape, np.float32)
            return result, np.expand_dims(result, unit - 1)
        before = self._axes_before_iterations()
        result = np.empty((*shape[:before], self.count, *shape[before:]), np.float32)
        return result, np.moveaxis(result, before, unit - 1)

    def _axes_before_iterations(self) -> int:
        """Return where the axis of iterations stands: behind t and c, before z."""
        return sum(dim in ("t", "c") for dim in self.source.dims)

    def run_lazily(self) -> Any:
        """Return what `run` does as a dask array, whose chunks are computed when looked at."""
        import dask.array as da

        shape, grids = self.source.shape, block_grids(self.model)
        lines = [
            [(a, min(a + step, n)) for a in range(0, n, step)]
            for n, step in (
                (n, piece(n, side, grid))
                for n, side, grid in zip(shape, self.sides, grids, strict=True)
            )
        ]
        leading = len(self.source.leading)
        total = len(self.source.places) * len(self.boxes)
        done, lock = itertools.count(1), threading.Lock()

        def compute(block_id: tuple[int, ...]) -> NDArray[np.float32]:
            place, number = block_id[:leading], block_id[leading + 1 :]
            edges = [line[i] for line, i in zip(lines, number, strict=True)]
            box = Box(tuple(a for a, _ in edges), tuple(b for _, b in edges))
            dials = self.dials[place]
            own = dials[box.slices[0]] if self.model.dims == 3 else dials
            found = run_box(self.model, self.source, [place], own, box, self.count)
            if self.progress is not None:
                with lock:
                    self.progress(min(1.0, next(done) / total))
            return found.reshape((1,) * leading + found.shape[1:])

        chunks = (
            *((1,) * n for n in self.source.leading),
            (self.channels,),
            *(tuple(b - a for a, b in line) for line in lines),
        )
        lazy = da.map_blocks(
            compute, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * len(chunks), np.float32)
        )
        unit = -self.model.dims
        if self.count is None:
            return lazy.squeeze(lazy.ndim + unit - 1)
        return da.moveaxis(lazy, unit - 1, self._axes_before_iterations())


def labels_of(
    dims: Sequence[str], names: Sequence[str] | None, channels: int, count: int | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return dims and channel names of a result.

    Parameters
    ----------
    dims : sequence of str
        Of the input.
    names : sequence of str or None
        Of its channels.
    channels : int
        How many it has.
    count : int or None
        Iterations that become channels.
    """
    if count is None:
        return tuple(dims), None if names is None else tuple(names)
    steps = [f"{CHANNEL_PREFIX}{k}" for k in range(1, count + 1)]
    if "c" in dims:
        own = names or tuple(f"channel_{i}" for i in range(channels))
        steps = [f"{name} {step}" for name in own for step in steps]
    before = [dim for dim in dims if dim == "t"]
    after = [dim for dim in dims if dim not in ("t", "c")]
    return (*before, "c", *after), tuple(steps)


def _labelled(image: xr.DataArray, data: Any, count: int | None) -> xr.DataArray:
    """Put the input's dims, coordinates and attributes on the result."""
    coords = dict(image.coords.items())
    dims = [str(dim) for dim in image.dims]
    if count is not None:
        found, steps = labels_of(dims, channel_names(image), image.sizes.get("c", 1), count)
        if "c" in dims:
            at = dims.index("c")
            data = data.reshape((*data.shape[:at], len(steps or ()), *data.shape[at + 2 :]))
        dims = list(found)
        coords = {name: value for name, value in coords.items() if "c" not in value.dims}
        coords.pop("c", None)
        coords["c"] = xr.DataArray(list(steps or ()), dims="c")
    return xr.DataArray(data, dims=dims, coords=coords, attrs=dict(image.attrs), name=image.name)
