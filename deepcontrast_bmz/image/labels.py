"""Axes, channels, pixel sizes and planes of an image in memory.

An image is an ``xarray.DataArray`` whose dims are a subset of ``t, c, z, y, x`` in that order,
always with y and x. Channel names, when known, are the coordinate ``c``; the pixel size, in
micrometres, is ``attrs["pixel_size_um"]``, a dict with the known ones of z, y and x. Where a file
says so, there are further attributes: ``frame_interval`` with its ``time_unit``; ``length_unit``,
the unit as ImageJ's header spells it, which a TIFF is written with again; ``colour_samples``, true
if the channels are the colours of an RGB image.
"""

from __future__ import annotations

__all__ = [
    "DIMS",
    "LARGEST_VALUE",
    "as_float32",
    "channel_index",
    "channel_names",
    "check_pixels",
    "known_sizes",
    "label_channels",
    "lazy_planes",
    "pixel_size_um",
    "planes",
    "select_channel",
]

import re
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr
    from numpy.typing import NDArray

DIMS = ("t", "c", "z", "y", "x")
"""The axes an image may have, in their order."""

LARGEST_VALUE = 1e15
"""Of a pixel: beyond this, sums of squares do not fit 32 bits."""


def channel_names(image: xr.DataArray) -> tuple[str, ...] | None:
    """Return the names of the channels, None if they have no names.

    A channel that was selected keeps its name, though it has no channel axis any more.

    Parameters
    ----------
    image : DataArray
        Dims a subset of (t, c, z, y, x).
    """
    if "c" not in image.coords:
        return None
    return tuple(str(name) for name in np.atleast_1d(image.coords["c"].values))


def label_channels(names: Sequence[str] | None, dims: Sequence[str]) -> dict[str, Any]:
    """Return the coordinates that hold the names of the channels.

    Parameters
    ----------
    names : sequence of str or None
        None gives no coordinates.
    dims : sequence of str
        Of the image; without c, it is of the one channel that is named.
    """
    if names is None:
        return {}
    return {"c": list(names) if "c" in dims else names[0]}


def known_sizes(image: xr.DataArray) -> dict[str, float]:
    """Return the known pixel sizes in micrometres, of the axes that the image has.

    Parameters
    ----------
    image : DataArray
        Its ``attrs["pixel_size_um"]`` holds the known sizes.
    """
    sizes = cast("dict[str, float | None]", image.attrs.get("pixel_size_um", {}))
    return {
        dim: float(size)
        for dim in ("z", "y", "x")
        if dim in image.dims and (size := sizes.get(dim)) is not None
    }


def pixel_size_um(image: xr.DataArray) -> float | None:
    """Return the in-plane pixel size in micrometres, None if unknown or not square within 1 %.

    Parameters
    ----------
    image : DataArray
        Its ``attrs["pixel_size_um"]`` holds the known sizes.
    """
    sizes = known_sizes(image)
    y, x = sizes.get("y"), sizes.get("x")
    if y is None or x is None or abs(y - x) > 0.01 * max(y, x):
        return None
    return (y + x) / 2


def select_channel(image: xr.DataArray, channel: str | int | None) -> xr.DataArray:
    """Return one channel, without the channel axis; its name, where known, stays as `c`.

    Parameters
    ----------
    image : DataArray
        Dims a subset of (t, c, z, y, x).
    channel : str, int or None
        A name, or an index from 0 (also as text, if no channel is called so); None returns the
        image as it is, with all its channels.

    Returns
    -------
    DataArray, without dim c unless `channel` is None

    Raises
    ------
    InputError
        If there is no such channel, or several of that name.
    """
    if channel is None:
        return image
    index = channel_index(image, channel)
    return image.isel(c=index) if "c" in image.dims else image


def channel_index(image: xr.DataArray, channel: str | int) -> int:
    """Return which channel is meant, from 0.

    Parameters
    ----------
    image : DataArray
        Dims a subset of (t, c, z, y, x).
    channel : str or int
        A name, or an index (also as text, if no channel is called so).

    Raises
    ------
    InputError
        If there is no such channel, or several of that name.
    """
    count = image.sizes.get("c", 1)
    names = channel_names(image)
    listed = "" if names is None else " (" + ", ".join(f"'{name}'" for name in names) + ")"
    there = f"the image has {count} channel{'s' if count > 1 else ''}{listed}"
    matches = [i for i, name in enumerate(names or ()) if name == channel]
    if len(matches) > 1:
        raise InputError(
            f"a channel is chosen by a name that only one has, but {len(matches)} are called "
            f"'{channel}' and {there}: give an index from 0 to {count - 1}"
        )
    if matches:
        return matches[0]
    index = int(channel) if isinstance(channel, int) or re.fullmatch(r"\d+", channel) else -1
    if not 0 <= index < count:
        raise InputError(
            f"a channel is chosen by its name or by an index from 0 to {count - 1}, "
            f"but '{channel}' is neither and {there}: choose one of them"
        )
    return index


def lazy_planes(image: xr.DataArray) -> Iterator[tuple[dict[str, int], Any]]:
    """Yield what `planes` does, with pixels that are not loaded yet.

    Parameters
    ----------
    image : DataArray, (..., y, x)

    Yields
    ------
    place : dict of str to int
        Index along each axis but y and x.
    plane : ndarray or dask array, (Y, X)
    """
    leading = [str(dim) for dim in image.dims[:-2]]
    for index in np.ndindex(*(image.sizes[dim] for dim in leading)):
        yield dict(zip(leading, index, strict=True)), image.data[index]


def planes(image: xr.DataArray) -> Iterator[tuple[dict[str, int], np.ndarray]]:
    """Yield every y, x plane with its place along the other axes, the last axis fastest.

    Parameters
    ----------
    image : DataArray, (..., y, x)

    Yields
    ------
    place : dict of str to int
        Index along each axis but y and x, in the order of the dims; empty for a single plane.
    plane : ndarray, (Y, X)
    """
    for place, plane in lazy_planes(image):
        yield place, np.asarray(plane)


def check_pixels(image: xr.DataArray, name: str, *, holes: bool = False) -> None:
    """Refuse pixels that cannot be computed with.

    Parameters
    ----------
    image : DataArray, (..., y, x)
    name : str
        What the user calls the image.
    holes : bool
        Pixels may be NaN or infinite: they are no part of the picture.

    Raises
    ------
    InputError
        If there is no pixel, the pixels are not real numbers, one is NaN or infinite and may not
        be, or all are.
    """
    if image.size == 0:
        raise InputError(
            f"an image has at least one pixel along every axis, but '{name}' has shape "
            f"{image.shape}: give another image"
        )
    if image.dtype.kind not in "iuf":
        raise InputError(
            "pixels must be integers or floating point numbers, but those of "
            f"'{name}' are {image.dtype}: give an intensity image"
        )
    if image.dtype.kind != "f":
        return
    if holes:
        if not any(np.isfinite(plane).any() for _, plane in planes(image)):
            raise InputError(f"'{name}' has no pixel that is a finite number: give another image")
        return
    for place, plane in planes(image):
        bad = ~np.isfinite(plane)
        if bad.any():
            y, x = (int(i) for i in np.argwhere(bad)[0])
            where = ", ".join(f"{dim}={i}" for dim, i in {**place, "y": y, "x": x}.items())
            raise InputError(
                f"pixels must be finite numbers, but '{name}' has {plane[y, x]} at {where}: "
                "replace or crop such pixels first"
            )


def as_float32(pixels: np.ndarray, name: str) -> NDArray[np.float32]:
    """Return finite pixels as contiguous float32, in which they can be computed with.

    Parameters
    ----------
    pixels : ndarray
        Integers or floating point numbers.
    name : str
        Name for messages.

    Raises
    ------
    InputError
        If one is so large that squares and sums of pixels leave the range of float32.
    """
    if pixels.size and pixels.dtype.kind == "f" and pixels.dtype.itemsize > 2:
        extreme = float(np.abs(pixels).max())
        if extreme > LARGEST_VALUE:
            raise InputError(
                f"pixels must lie between -{LARGEST_VALUE:g} and {LARGEST_VALUE:g}, but {name} "
                f"has one of {extreme:g}: rescale it"
            )
    return np.ascontiguousarray(pixels, dtype=np.float32)
