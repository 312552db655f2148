"""Selects the pixels that are judged: a window of one plane, and the same of the reference.

A model of stacks is given the planes around it as well, all that it can see from there: what it
makes of the plane is then what it makes of it in the whole stack.
"""

from __future__ import annotations

__all__ = ["Judged", "select_judged", "select_reference"]

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from deepcontrast_bmz.dial.window import content_window
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import check_pixels
from deepcontrast_bmz.image.labels import as_float32
from deepcontrast_bmz.train.holes import find_without_holes

if TYPE_CHECKING:
    from collections.abc import Mapping

Float32 = NDArray[np.float32]

LARGEST_SIDE = 2048
"""Larger planes are evaluated on the window of this side with the most content, in pixels."""
SMALLEST_SIDE = 16
"""Smaller images have no statistics to speak of."""


@dataclass(frozen=True)
class Judged:
    """The part of an image that is judged."""

    image: xr.DataArray
    """float32, (y, x), or for a model of stacks (z, y, x); attributes of the whole image."""
    centre: int | None
    """Which of the planes of `image` is judged; None if it is the only one."""
    index: dict[str, int]
    """Where the plane lies along every axis of the whole image but y, x and c."""
    reason: str
    """Why this plane."""
    window: tuple[int, int, int, int]
    """First row, first column, rows, columns, in pixels."""

    @property
    def raw(self) -> Float32:
        """The judged plane, (Y, X)."""
        return self.image.values if self.centre is None else self.image.values[self.centre]


def select_judged(image: xr.DataArray, plane: int | None, reach: int | None = None) -> Judged:
    """Return the part of an image that is judged.

    Parameters
    ----------
    image : xarray.DataArray
        One channel; dims of "tzyx", y and x among them.
    plane : int, optional
        Which plane, counted over all axes but y and x; None: the one with the most content.
    reach : int, optional
        How many planes a model of stacks sees on either side; None for a model of planes.

    Raises
    ------
    InputError
        If the image has several channels or is too small, if the plane does not exist or is
        constant, or if pixels are not numbers that can be computed with.
    """
    if image.sizes.get("c", 1) > 1:
        raise InputError(
            f"{_name(image)} has {image.sizes['c']} channels, and one is evaluated at a time: "
            "choose one with --channel"
        )
    if min(image.sizes["y"], image.sizes["x"]) < SMALLEST_SIDE:
        raise InputError(
            f"{_name(image)} has {image.sizes['y']} x {image.sizes['x']} pixels, too few to "
            f"evaluate: give an image of at least {SMALLEST_SIDE} x {SMALLEST_SIDE}"
        )
    index, number, reason = _choose(image, plane)
    single = image.squeeze("c") if "c" in image.dims else image
    pixels = _pixels(single.isel(index))
    first = last = 0
    if reach is not None and "z" in index:
        first, last = max(index["z"] - reach, 0), min(index["z"] + reach + 1, image.sizes["z"])
        pixels = _pixels(single.isel(index | {"z": slice(first, last)}))
    centre = index["z"] - first if last else None
    judged, window = _without_holes(pixels, centre, image)
    raw = judged if centre is None else judged[centre]
    if float(np.ptp(raw)) == 0:
        raise InputError(
            f"plane {number} of {_name(image)} is constant, {float(raw[0, 0]):g} everywhere, and "
            "has no contrast: evaluate another image"
        )
    return Judged(_labelled(judged, image), centre, index, reason, window)


def _without_holes(
    pixels: Float32, centre: int | None, image: xr.DataArray
) -> tuple[Float32, tuple[int, int, int, int]]:
    """Return the window that is judged, of the largest part without NaN and padding, and its place.

    Where padding alone leaves no such part, it is judged with the padding.
    """
    check_pixels(_labelled(pixels, image), _name(image), holes=True)
    parts = find_without_holes(pixels)
    if not parts and np.isfinite(pixels).all():
        parts = [(pixels, (0, 0))]
    if not parts or min(parts[0][0].shape[-2:]) < SMALLEST_SIDE:
        raise InputError(
            f"{_name(image)} has no part without NaN that is large enough to evaluate: crop it"
        )
    part, (top, left) = parts[0]
    row, column, height, width = _window(part if centre is None else part[centre])
    cut = _cut(part, (row, column, height, width))
    return cut, (top + row, left + column, height, width)


def _choose(image: xr.DataArray, plane: int | None) -> tuple[dict[str, int], int, str]:
    """Return the index of the plane to judge along the other axes, its number, and why it."""
    others = [str(dim) for dim in image.dims if dim not in ("c", "y", "x")]
    lengths = [image.sizes[dim] for dim in others]
    count = math.prod(lengths)

    def index(number: int) -> dict[str, int]:
        position = np.unravel_index(number, lengths) if lengths else ()
        return {dim: int(i) for dim, i in zip(others, position, strict=True)}

    if plane is not None:
        if not 0 <= plane < count:
            raise InputError(
                f"{_name(image)} has planes 0 to {count - 1}, not {plane}: choose one of them"
            )
        return index(plane), plane, "chosen by the user"
    if count == 1:
        return index(0), 0, "the only plane"
    single = image.squeeze("c") if "c" in image.dims else image
    content = [_content(_pixels(single.isel(index(number)))) for number in range(count)]
    chosen = int(np.argmax(content))
    return index(chosen), chosen, f"the plane with the most content of {count}"


def _name(image: xr.DataArray, else_called: str = "the image") -> str:
    """Return what an image is called in messages: its file, where it has one."""
    return else_called if image.name is None else str(image.name)


def _pixels(image: xr.DataArray) -> Float32:
    """Return a plane, or a stack, as (..., Y, X)."""
    return as_float32(np.asarray(image.transpose(..., "y", "x")), _name(image))


def _content(plane: Float32) -> float:
    """Spread of what is left when single-pixel noise is smoothed away."""
    known = np.isfinite(plane)
    if not known.all():
        plane = np.where(known, plane, np.median(plane[known]) if known.any() else 0)
    return float(ndimage.gaussian_filter(plane, 2.0).std())


def _window(plane: Float32) -> tuple[int, int, int, int]:
    rows, columns = content_window(torch.from_numpy(plane), LARGEST_SIDE)
    return rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start


def _labelled(pixels: Float32, image: xr.DataArray) -> xr.DataArray:
    """Return a plane or a stack as an image of its own, with the pixel sizes of the whole."""
    dims = ("z", "y", "x")[-pixels.ndim :]
    return xr.DataArray(pixels, dims=dims, attrs=dict(image.attrs), name=image.name)


def _cut(pixels: Float32, window: tuple[int, int, int, int]) -> Float32:
    top, left, height, width = window
    return np.ascontiguousarray(pixels[..., top : top + height, left : left + width])


def select_reference(reference: xr.DataArray, image: xr.DataArray, judged: Judged) -> Float32:
    """Return the part of the reference that belongs to the judged one, (Y, X).

    Parameters
    ----------
    reference : xarray.DataArray
        One plane, or as many as the image.
    image : xarray.DataArray
        The whole image.
    judged : Judged
        The part of it.

    Raises
    ------
    InputError
        If the reference does not match the image, or its pixels are not numbers that can be
        computed with.
    """
    plane = _reference_plane(reference, image, judged.index)
    part = _cut(plane, judged.window)
    check_pixels(_labelled(part, reference), _name(reference, "the reference"))
    return part


def _reference_plane(
    reference: xr.DataArray, image: xr.DataArray, index: Mapping[str, int]
) -> Float32:
    """Return the plane of the reference that belongs to the evaluated one."""
    single = reference.squeeze([d for d in reference.dims if reference.sizes[d] == 1])
    if set(single.dims) != {"y", "x"}:
        single = reference.isel({d: i for d, i in index.items() if d in reference.dims})
        single = single.squeeze([d for d in single.dims if single.sizes[d] == 1])
    sizes = (image.sizes["y"], image.sizes["x"])
    matches = set(single.dims) == {"y", "x"} and (single.sizes["y"], single.sizes["x"]) == sizes
    planes_match = all(
        reference.sizes[d] in (1, image.sizes[d]) for d in index if d in reference.dims
    )
    if not matches or not planes_match:
        shape = " x ".join(f"{d} {n}" for d, n in reference.sizes.items())
        raise InputError(
            f"{_name(reference, 'the reference')} has {shape}, but a reference of "
            f"{_name(image)} has {sizes[0]} x {sizes[1]} pixels, in one plane or in as many "
            "planes: cut it to the image"
        )
    pixels = np.asarray(single.transpose("y", "x"))
    return as_float32(pixels, _name(reference, "the reference"))
