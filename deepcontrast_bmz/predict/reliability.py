"""Maps how far both halves of the recorded light agree on what was enhanced.

The recording is split by its measured noise into two images of independent noise, each like a
recording of half the light. Both are enhanced at the same dial. What the dial added to the one and
to the other is compared around every pixel: structure is in both, noise that was taken for
structure is not.
"""

from __future__ import annotations

__all__ = ["compare_detail", "correlate_detail", "map_reliability"]

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # its rooms load when they are used: reading this module must stay quick
import torch
import xarray as xr

from deepcontrast_bmz.dial.request import parse_dial_request
from deepcontrast_bmz.dial.usable import find_padding
from deepcontrast_bmz.image import check_pixels, pixel_size_um
from deepcontrast_bmz.image.blocks import Box
from deepcontrast_bmz.image.masks import FieldMask
from deepcontrast_bmz.model.units import Source
from deepcontrast_bmz.physics.noise import estimate_noise
from deepcontrast_bmz.predict.blocks import block_grids, block_sides, run_box
from deepcontrast_bmz.predict.plan import plan_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.physics.noise import NoiseModel
    from deepcontrast_bmz.predict.plan import Block, Plan

_BAND = (1.0, 4.0)
"""Widths of the Gaussians, in pixels, whose difference passes the detail that is compared."""

_WINDOW = 6.0
"""Width of the Gaussian, in pixels, that weighs the surroundings of a pixel."""

_SUPPORT = 4.0
"""How far a Gaussian reaches, in its widths."""

_CELL = 256
"""Side of the cells whose noise is drawn at once, in pixels."""

_SEED = 0

_NOISE_SIDE = 2048
"""The noise of a plane is read off a part of it of this side, at most, in pixels."""

_LEVEL = 1.0
"""Width of the Gaussian, in pixels, that the light of a pixel is read off with, for its noise."""


def map_reliability(
    model: Model,
    image: xr.DataArray,
    dial: float | str,
    *,
    mask: xr.DataArray | FieldMask | None = None,
    block: int | None = None,
) -> xr.DataArray:
    """Return, for every pixel, how far both halves of the light agree on what a dial added.

    Parameters
    ----------
    model : Model
    image : DataArray, dims out of (t, c, z, y, x)
        As it was given to `enhance`.
    dial : float or str
        As it was enhanced at: `Enhanced.dial`.
    mask : DataArray, optional
        As for `enhance`.
    block : int, optional
        As for `enhance`.

    Returns
    -------
    DataArray of float32
        Dims, coordinates and attributes of the image; 0 (chance) to 1 (the same detail in both
        halves), NaN where a pixel is no part of the picture. A dask array where the image is one.

    Raises
    ------
    InputError
        As for `enhance`.
    """
    name = str(image.name or "the image")
    if image.chunks is None:
        check_pixels(image, name, holes=True)
    field = FieldMask.of(mask) if isinstance(mask, xr.DataArray) else mask
    dims = [str(dim) for dim in image.dims]
    source = Source(image.data, dims, model, name, mask=field, find_padding=find_padding)
    wanted = parse_dial_request(model, dial)
    sides = block_sides(model, block)
    plan = plan_image(source, model, wanted, sides, pixel_size_um(image), look=False)
    halves = _Half(source, 1), _Half(source, -1)
    if image.chunks is not None:
        data = _compute_lazily(plan, halves)
    else:
        data = np.empty(plan.shape, np.float32)
        for number in range(plan.block_count):
            part = plan.block(number)
            data[plan.index(part)] = _map_block(plan, halves, part)
    return image.copy(data=data)


def compare_detail(
    one: NDArray[np.float32], two: NDArray[np.float32], used: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Return how far two images of the same detail agree around every pixel.

    Parameters
    ----------
    one, two : ndarray, (..., Y, X)
        What was added to either half of the light.
    used : ndarray of bool, same shape, optional
        Pixels that count; all of them if left out.

    Returns
    -------
    ndarray of float32, same shape
        Correlation of both, of detail between 1 and 4 pixels, over a Gaussian window of 6 pixels;
        as of the whole light, of which each is half (Spearman and Brown), clipped to 0 .. 1. 1
        where nothing was added to either.
    """
    correlation = correlate_detail(one, two, used)
    shared = np.clip(np.nan_to_num(correlation, nan=1.0), 0.0, 1.0)
    return (2 * shared / (1 + shared)).astype(np.float32)


def correlate_detail(
    one: NDArray[np.floating[Any]],
    two: NDArray[np.floating[Any]],
    used: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return the correlation of the detail of two images around every pixel.

    Parameters
    ----------
    one, two, used
        As for `compare_detail`.

    Returns
    -------
    ndarray, same shape
        Of detail between 1 and 4 pixels, over a Gaussian window of 6 pixels; NaN where one has
        none.
    """
    weight = np.ones(one.shape) if used is None else used.astype(np.float64)
    first, second = (_band(part, weight) for part in (one, two))
    product = _blur(first**2, _WINDOW) * _blur(second**2, _WINDOW)
    shown = product > 0
    both = _blur(first * second, _WINDOW) / np.sqrt(np.where(shown, product, 1.0))
    return np.where(shown, both, np.nan)


def _band(detail: NDArray[Any], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return detail between two widths, of what counts."""
    fine, coarse = (
        _blur(detail * weight, width) / np.maximum(_blur(weight, width), 1e-6) for width in _BAND
    )
    return (fine - coarse) * weight


def _blur(values: NDArray[Any], width: float) -> NDArray[np.float64]:
    """Return planes blurred by a Gaussian; beyond the border, there is nothing."""
    widths = [*(0.0,) * (values.ndim - 2), width, width]
    return np.asarray(
        scipy.ndimage.gaussian_filter(
            values.astype(np.float64), widths, mode="constant", truncate=_SUPPORT
        )
    )


class _Half(Source):
    """One half of the light of an image: the recording, and noise that the other has the less."""

    def __init__(self, source: Source, sign: int) -> None:
        self.__dict__.update(source.__dict__)
        self._whole = source
        self._sign = sign
        self._noises: dict[tuple[int, ...], NoiseModel] = {}

    def read(self, place: tuple[int, ...], part: tuple[slice, ...]) -> NDArray[np.float32]:
        """Return a part of a unit, the same pixels however it is cut."""
        pixels = self._whole.read(place, part)
        starts, stops = zip(
            *(line.indices(n)[:2] for line, n in zip(part, self.shape, strict=True)), strict=True
        )
        box = Box(starts, stops)
        around = int(_SUPPORT * _LEVEL)
        margins = [*(0,) * (self.spatial - 2), around, around]
        wide = self._whole.read_window(place, box, margins)
        inner = (..., slice(around, -around), slice(around, -around))
        level = torch.from_numpy(_blur(wide, _LEVEL)[inner])
        planes = level.reshape(-1, *level.shape[-2:])
        first = box.starts[0] if self.spatial == 3 else 0
        added = np.empty(planes.shape, np.float32)
        for z, plane in enumerate(planes):
            where = (*place, first + z) if self.spatial == 3 else place
            variance = self._noise_of(where).variance(plane).numpy()
            added[z] = np.sqrt(variance) * _draw(where, box.slices[-2:])
        return pixels + self._sign * added.reshape(pixels.shape)

    def _noise_of(self, plane: tuple[int, ...]) -> NoiseModel:
        """Return the noise of a plane, read off its middle."""
        if plane not in self._noises:
            middle = tuple(
                slice(max(0, (n - _NOISE_SIDE) // 2), (n + _NOISE_SIDE) // 2)
                for n in self.shape[-2:]
            )
            place, depth = plane[: len(self.leading)], plane[len(self.leading) :]
            lines = (*(slice(z, z + 1) for z in depth), *middle)
            pixels = self._whole.read_filled(place, lines)
            used = self._whole.find_used(place, lines)
            self._noises[plane] = estimate_noise(
                torch.from_numpy(pixels.reshape(pixels.shape[-2:])),
                used=None if used is None else torch.from_numpy(used.reshape(used.shape[-2:])),
            )
        return self._noises[plane]


def _draw(plane: tuple[int, ...], part: tuple[slice, ...]) -> NDArray[np.float32]:
    """Return normal numbers for a part of a plane, each cell of it drawn from its own seed."""
    rows, columns = part
    found = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    for i in range(rows.start // _CELL, -(-rows.stop // _CELL)):
        for j in range(columns.start // _CELL, -(-columns.stop // _CELL)):
            cell = np.random.default_rng([_SEED, 41, *plane, i, j])
            drawn = cell.standard_normal((_CELL, _CELL), np.float32)
            cut = [
                slice(max(line.start - k * _CELL, 0), min(line.stop - k * _CELL, _CELL))
                for line, k in ((rows, i), (columns, j))
            ]
            put = tuple(
                slice(c.start + k * _CELL - line.start, c.stop + k * _CELL - line.start)
                for c, k, line in zip(cut, (i, j), (rows, columns), strict=True)
            )
            found[put] = drawn[tuple(cut)]
    return found


def _map_block(plan: Plan, halves: tuple[_Half, _Half], block: Block) -> NDArray[np.float32]:
    """Return the map of a block."""
    reach = int(_SUPPORT * (_BAND[1] + _WINDOW)) + 1
    grids = block_grids(plan.model)
    starts, stops = list(block.box.starts), list(block.box.stops)
    for axis in (-2, -1):
        starts[axis] = max(0, starts[axis] - reach) // grids[axis] * grids[axis]
        stops[axis] = min(plan.source.shape[axis], stops[axis] + reach)
    wide = Box(tuple(starts), tuple(stops))
    used = plan.source.find_used(block.place, wide.slices)
    added: list[NDArray[np.float32]] = []
    for half in halves:
        enhanced = run_box(plan.model, half, [block.place], block.dials, wide)[0, 0]
        difference = enhanced - half.read(block.place, wide.slices)
        added.append(difference if used is None else np.where(used, difference, 0))
    found = compare_detail(added[0], added[1], used)
    if used is not None:
        found = np.where(used, found, np.float32(np.nan))
    return found[block.box.within(wide).slices]


def _compute_lazily(plan: Plan, halves: tuple[_Half, _Half]) -> Any:
    """Return the map as a dask array, whose chunks are computed when looked at."""
    import dask.array as da

    def compute(block_id: tuple[int, ...]) -> NDArray[np.float32]:
        values = _map_block(plan, halves, plan.block_at(block_id))
        shape = [lengths[i] for lengths, i in zip(plan.chunks, block_id, strict=True)]
        return values.reshape(shape)

    empty = np.empty((0,) * len(plan.chunks), np.float32)
    return da.map_blocks(compute, chunks=plan.chunks, dtype=np.float32, meta=empty)
