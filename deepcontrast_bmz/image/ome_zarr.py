"""OME-Zarr: formats 0.1 to 0.5 are read, 0.4 is written.

bioio-ome-zarr 3.8 ignores the units of the axes, invents channel names where there are none,
loses the pixel size where a translation comes before the scale, and fails on axes of formats
before 0.4 and on the layout of bioformats2raw. The zarr library does all that is needed.
"""

from __future__ import annotations

__all__ = ["ZARR_SUFFIXES", "read_zarr", "write_zarr"]

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.labelled import DIMS, channel_names, known_sizes, lazy_planes
from deepcontrast_bmz.image.reading import Found, complete_names, fits_in_memory, reading
from deepcontrast_bmz.image.units import length_um
from deepcontrast_bmz.image.whole import replace_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import xarray as xr
    import zarr

ZARR_SUFFIXES = (".zarr",)

_CHUNK = 1024
# Side of a written chunk: 4 MB of float32, as viewers like it.

_AXIS_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def read_zarr(path: Path) -> Found:
    """Read the largest resolution of an OME-Zarr.

    Parameters
    ----------
    path : Path
        The folder of an image, or of a conversion by bioformats2raw with one image.

    Raises
    ------
    InputError
        If the folder is no OME-Zarr, is damaged, holds several images, or its axes are unknown.
    """
    markers = (".zgroup", ".zattrs", ".zarray", "zarr.json")
    if not any((path / marker).is_file() for marker in markers):
        raise InputError(
            f"a folder is read if it is an OME-Zarr image, but '{path}' is not: give a file, or "
            "the folder that ends in .zarr"
        )
    with reading(path, "OME-Zarr"):
        group, attributes = _only_image(path)
        multiscale = cast("dict[str, Any]", attributes["multiscales"][0])
        dataset = cast("dict[str, Any]", multiscale["datasets"][0])
        array = _array(group, dataset["path"], path)
        dims, units = _axes(multiscale, array.shape, path)
        sizes: dict[str, float | None] = {}
        for dim, unit, step in zip(
            dims, units, _scale(multiscale, dataset, len(dims)), strict=True
        ):
            # Many writers give the scale in micrometres and forget the unit; a bare 1 says nothing.
            guessed = "micrometer" if unit is None and step not in (None, 1.0) else unit
            sizes[dim] = length_um(step, guessed)
        channels = cast("list[dict[str, Any]]", attributes.get("omero", {}).get("channels", []))
        names = complete_names([channel.get("label") for channel in channels])
        if fits_in_memory(array.nbytes):
            data = np.asarray(array[...])
        else:
            import dask.array as da

            data = da.from_array(array, chunks=cast("Any", array.chunks), name=False)
    return Found(data, dims, names, sizes)


def _only_image(path: Path) -> tuple[zarr.Group, dict[str, Any]]:
    """Return the group of the one image in a folder, with its OME metadata."""
    import zarr

    node = zarr.open(store=path, mode="r")
    if isinstance(node, zarr.Array):
        raise InputError(
            "an OME-Zarr is a group that describes its axes, but "
            f"'{path}' is a bare array: give the folder above it"
        )
    # Below `ome` since format 0.5, at the top before.
    top = cast("dict[str, Any]", node.attrs.asdict())
    attributes = cast("dict[str, Any]", top.get("ome", top))
    if "multiscales" in attributes:
        return node, attributes
    if "plate" in attributes or "well" in attributes:
        raise InputError(
            f"an image must be one field of a plate, but '{path}' holds many: give the "
            "folder of a field, such as A/1/0 inside it"
        )
    fields = sorted(name for name, _ in node.groups() if name.isdigit())
    if "bioformats2raw.layout" in attributes and len(fields) == 1:
        return _only_image(path / fields[0])
    if len(fields) > 1:
        raise InputError(
            f"an image file must hold one image, but '{path}' holds {len(fields)}: give "
            f"one of them, such as '{path / fields[0]}'"
        )
    raise InputError(
        "an OME-Zarr describes its axes under 'multiscales', but "
        f"'{path}' does not: convert it with a tool that writes OME-Zarr"
    )


def _array(group: zarr.Group, name: str, path: Path) -> zarr.Array[Any]:
    import zarr

    array = group[name]
    if not isinstance(array, zarr.Array):
        raise InputError(
            f"an OME-Zarr names an array for every resolution, but in '{path}' "
            f"'{name}' is none: convert it again"
        )
    return array


def _axes(
    multiscale: dict[str, Any], shape: tuple[int, ...], path: Path
) -> tuple[list[str], list[str | None]]:
    """Return our names of the axes and their units; formats 0.1 and 0.2 have all five axes."""
    stated = cast("list[Any]", multiscale.get("axes", DIMS))
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in stated]
    dims = [str(axis["name"]).lower() for axis in axes]
    distinct = len(set(dims)) == len(dims) == len(shape)
    if not (distinct and {"y", "x"} <= set(dims) <= set(DIMS)):
        raise InputError(
            "the axes of an image are y and x and perhaps t, c and z, but those of "
            f"'{path}' are {', '.join(dims)} for shape {shape}: convert it with a tool "
            "that writes OME-Zarr"
        )
    return dims, [axis.get("unit") for axis in axes]


def _scale(multiscale: dict[str, Any], dataset: dict[str, Any], count: int) -> list[float | None]:
    """Return the scale of the largest resolution, None where none is given."""
    scale: list[float | None] = [None] * count
    for part in (dataset, multiscale):
        for transform in part.get("coordinateTransformations", []):
            steps = transform.get("scale")
            if transform.get("type", "scale") == "scale" and isinstance(steps, list):
                factors = cast("list[float]", steps)
                scale = [
                    float(f) if s is None else s * float(f)
                    for s, f in zip(scale, factors, strict=True)
                ]
    return scale


def write_zarr(image: xr.DataArray, path: Path) -> None:
    """Write an image as an OME-Zarr of one resolution, whole or not at all.

    Parameters
    ----------
    image : DataArray, dims a subset of (t, c, z, y, x), in that order
        Dask arrays are written piece by piece.
    path : Path
        Where to write.

    Raises
    ------
    InputError
        If something else than an OME-Zarr lies there, or the folder cannot be written.
    """
    marks = (path / ".zgroup", path / "zarr.json")
    if path.is_file() or (
        path.is_dir() and any(path.iterdir()) and not any(mark.is_file() for mark in marks)
    ):
        raise InputError(
            "an OME-Zarr replaces only another OME-Zarr, but there is something else at "
            f"'{path}': give another name, or remove it"
        )
    with replace_whole(path) as temporary:
        _write_group(image, temporary, path.name)


def _write_group(image: xr.DataArray, path: Path, name: str) -> None:
    import zarr
    from numcodecs import Blosc

    # Format 0.4 and Blosc: what the readers in Java know too.
    group = zarr.open_group(store=path, mode="w", zarr_format=2)
    chunks = tuple(min(_CHUNK, n) if dim in ("y", "x") else 1 for dim, n in image.sizes.items())
    array = group.create_array(
        "0",
        shape=image.shape,
        chunks=chunks,
        dtype=image.dtype,
        compressors=Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE),
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    ranges = _fill(array, image)
    dims, sizes, names = [str(dim) for dim in image.dims], known_sizes(image), channel_names(image)
    attributes: dict[str, Any] = {
        "multiscales": [
            {
                "version": "0.4",
                "name": name,
                "axes": [
                    {"name": dim, "type": _AXIS_TYPES[dim]}
                    | ({"unit": "micrometer"} if dim in sizes else {})
                    for dim in dims
                ],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [sizes.get(dim, 1.0) for dim in dims]}
                        ],
                    }
                ],
            }
        ]
    }
    if names is not None:
        attributes["omero"] = {"version": "0.4", "channels": _omero_channels(names, ranges)}
    group.attrs.update(attributes)


def _fill(array: zarr.Array[Any], image: xr.DataArray) -> dict[int, tuple[float, float]]:
    """Write the pixels, and return the range of the finite ones of every channel that has some."""
    ranges: dict[int, tuple[float, float]] = {}
    for place, plane in lazy_planes(image):
        index = tuple(place.values())
        for top in range(0, image.sizes["y"], _CHUNK):
            rows = slice(top, top + _CHUNK)
            strip = np.asarray(plane[rows])
            array[(*index, rows)] = strip
            channel = place.get("c", 0)
            finite = strip[np.isfinite(strip)]
            if finite.size:
                low, high = ranges.get(channel, (math.inf, -math.inf))
                ranges[channel] = (min(low, float(finite.min())), max(high, float(finite.max())))
    return ranges


def _omero_channels(
    names: Sequence[str], ranges: dict[int, tuple[float, float]]
) -> list[dict[str, Any]]:
    """Return how viewers are to show the channels: one is white, several are in colours."""
    colours = ("FFFFFF",) if len(names) == 1 else ("00FF00", "FF00FF", "00FFFF", "FFFF00")
    channels: list[dict[str, Any]] = []
    for i, label in enumerate(names):
        low, high = ranges.get(i, (0.0, 1.0))
        channels.append(
            {
                "label": label,
                "active": True,
                "color": colours[i % len(colours)],
                "window": {"min": low, "max": high, "start": low, "end": high},
            }
        )
    return channels
