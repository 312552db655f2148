"""Writes OME-Zarr: created first, filled in any order, described when complete.

Format 0.4 with Blosc is what the readers in Java know too. With shards it is format 0.5, since
only zarr 3 has them: many chunks in one file, for disks and archives that count files.
"""

from __future__ import annotations

__all__ = [
    "add_levels",
    "check_zarr",
    "create_zarr",
    "describe_zarr",
    "fill_zarr",
    "flush_part",
    "open_level",
    "write_zarr",
]

import itertools
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.atomic import flush, replace_whole
from deepcontrast_bmz.image.blocks import Box, choose_chunk, cut
from deepcontrast_bmz.image.labels import channel_names, known_sizes, lazy_planes
from deepcontrast_bmz.image.pyramid import count_levels, halve, shrink_shape
from deepcontrast_bmz.image.zarr_read import is_zarr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import xarray as xr
    import zarr

_CHUNK = 1024
# Side of a written chunk: 4 MB of float32, as viewers like it.

_CHUNK_PLANES = 16
# Planes of a chunk whose block has several.

_AXIS_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}

Ranges = dict[int, tuple[float, float]]


def check_zarr(path: Path) -> None:
    """Raise `InputError` if something else than an OME-Zarr lies at `path`."""
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not is_zarr(path)):
        raise InputError(
            "an OME-Zarr replaces only another OME-Zarr, but there is something else at "
            f"'{path}': give another name, or remove it"
        )


def write_zarr(image: xr.DataArray, path: Path, compression: str | None = None) -> None:
    """Write an image as an OME-Zarr with its pyramid, whole or not at all.

    Parameters
    ----------
    image : DataArray, dims a subset of (t, c, z, y, x), in that order
        Dask arrays are written piece by piece.
    path : Path
        Where to write.
    compression : {'none', 'zlib', 'zstd'}, optional
        How chunks are packed, by Blosc; left out, by its lz4.

    Raises
    ------
    InputError
        If something else than an OME-Zarr lies there, or the folder cannot be written.
    """
    check_zarr(path)
    with replace_whole(path) as temporary:
        ranges = fill_zarr(image, temporary, compression)
        describe_zarr(
            temporary,
            [str(dim) for dim in image.dims],
            known_sizes(image),
            channel_names(image),
            ranges,
            path.name,
        )


def fill_zarr(image: xr.DataArray, path: Path, compression: str | None = None) -> Ranges:
    """Write all resolutions of an image, without a description yet.

    Parameters
    ----------
    image : DataArray, dims a subset of (t, c, z, y, x), in that order
        Dask arrays are written piece by piece.
    path : Path
        Of the folder.
    compression : str, optional
        As for `write_zarr`.

    Returns
    -------
    dict of int to (float, float)
        Range of the finite grey values of every channel that has some.
    """
    create_zarr(path, image.shape, image.dtype, compression=compression)
    ranges = _fill(open_level(path, 0), image)
    add_levels(path)
    return ranges


def create_zarr(
    path: Path,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    pieces: Sequence[int] | None = None,
    *,
    sharded: bool = False,
    compression: str | None = None,
) -> None:
    """Create an OME-Zarr without pixels and without a description: nobody takes it for whole.

    Parameters
    ----------
    path : Path
        Of a folder, which is made.
    shape : sequence of int
        Of the image, (..., Y, X).
    dtype : dtype
    pieces : sequence of int, optional
        Lengths along each axis of what will be written at once: chunks divide them, and a shard
        is one. Single planes if left out.
    sharded : bool
        Many chunks to a file, in format 0.5 of zarr 3.
    compression : str, optional
        As for `write_zarr`; smaller resolutions follow.
    """
    import zarr

    zarr.open_group(store=path, mode="w", zarr_format=3 if sharded else 2)
    whole = tuple(int(n) for n in shape)
    if pieces is None:
        pieces = (1,) * (len(whole) - 2) + (_CHUNK, _CHUNK)
    packed = _packed(compression, sharded=sharded)
    _create(path, 0, whole, dtype, tuple(pieces), packed, sharded=sharded)


def _packed(compression: str | None, *, sharded: bool) -> Any:
    """Return what packs a chunk, as the format of zarr wants it; None for nothing."""
    if compression == "none":
        return None
    method: Any = compression or "lz4"
    if sharded:
        from zarr.codecs import BloscCodec

        return BloscCodec(cname=method, clevel=5, shuffle="shuffle")
    from numcodecs import Blosc

    return Blosc(cname=method, clevel=5, shuffle=Blosc.SHUFFLE)


def _create(
    path: Path,
    level: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    pieces: tuple[int, ...],
    packed: Any,
    *,
    sharded: bool,
) -> zarr.Array[Any]:
    import zarr

    largest = (*(_CHUNK_PLANES,) * (len(shape) - 2), _CHUNK, _CHUNK)
    fitting = [piece if sharded else min(piece, n) for piece, n in zip(pieces, shape, strict=True)]
    chunks = tuple(choose_chunk(n, most) for n, most in zip(fitting, largest, strict=True))
    group = zarr.open_group(store=path, mode="r+")
    if sharded:
        return group.create_array(
            str(level),
            shape=shape,
            chunks=chunks,
            shards=pieces,
            dtype=dtype,
            compressors=packed,
            overwrite=True,
        )
    return group.create_array(
        str(level),
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        compressors=packed,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        overwrite=True,
    )


def open_level(path: Path, level: int) -> zarr.Array[Any]:
    """Return the array of a level, to be read and written.

    Parameters
    ----------
    path : Path
        Made by `create_zarr`.
    level : int
        0 is the largest resolution.
    """
    import zarr

    return zarr.open_array(store=path / str(level), mode="r+")


def flush_part(path: Path, array: zarr.Array[Any], index: Sequence[int | slice]) -> None:
    """Have a part of level 0, which was just written, on the disk itself.

    Parameters
    ----------
    path : Path
        Made by `create_zarr`.
    array : zarr.Array
        Its level 0.
    index : sequence of int and slice
        Of the part, an item for every axis; slices have both ends.

    Raises
    ------
    OSError
        If the disk cannot take it.
    """
    sides = array.shards if array.shards is not None else array.chunks
    lines = [
        range(at.start // side, -(-at.stop // side)) if isinstance(at, slice) else [at // side]
        for at, side in zip(index, sides, strict=True)
    ]
    root = path / "0"
    folders = {root}
    for place in itertools.product(*lines):
        file = root / array.metadata.encode_chunk_key(place)
        if file.exists():  # nothing is written where all pixels are zero
            flush(file)
            folders.update(above for above in file.parents if root in above.parents)
    # The innermost first: a name counts only once what it names is there.
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        flush(folder)


def add_levels(path: Path, progress: Callable[[float], None] | None = None) -> None:
    """Make the smaller resolutions of an OME-Zarr, each from the one before, in parts.

    Parameters
    ----------
    path : Path
        Made by `create_zarr` and filled.
    progress : callable, optional
        Is given the share that is done, 0 to 1.
    """
    above = open_level(path, 0)
    count = count_levels(above.shape)
    for level in range(1, count):
        shape = shrink_shape(tuple(above.shape), 1)
        shards = above.shards
        below = _create(
            path,
            level,
            shape,
            above.dtype,
            tuple(shards if shards is not None else above.chunks),
            above.compressors or None,
            sharded=shards is not None,
        )
        written = below.shards if below.shards is not None else below.chunks
        leading = [range(0, n, step) for n, step in zip(shape[:-2], written[:-2], strict=True)]
        parts = cut(shape[-2:], [2 * step for step in written[-2:]], written[-2:])
        for starts in itertools.product(*leading):
            index = tuple(slice(a, a + n) for a, n in zip(starts, written[:-2], strict=True))
            for part in parts:
                fine = Box(
                    tuple(2 * a for a in part.starts),
                    tuple(min(2 * b, n) for b, n in zip(part.stops, above.shape[-2:], strict=True)),
                )
                pixels = np.asarray(above[(*index, *fine.slices)])
                below[(*index, *part.slices)] = halve(pixels)
        above = below
        if progress is not None:
            progress(1 - 0.25**level)
    if progress is not None:
        progress(1.0)


def describe_zarr(
    path: Path,
    dims: Sequence[str],
    sizes: Mapping[str, float],
    names: Sequence[str] | None,
    ranges: Ranges,
    name: str,
) -> None:
    """Write what makes an array an image; the last step, all levels being there.

    Parameters
    ----------
    path : Path
        Made by `create_zarr`, filled, its levels added.
    dims : sequence of str
        Of the image.
    sizes : mapping of str to float
        Known pixel sizes in micrometres.
    names : sequence of str or None
        Of the channels.
    ranges : dict of int to (float, float)
        Smallest and largest grey value of each channel.
    name : str
        Of the image.
    """
    import zarr

    group = zarr.open_group(store=path, mode="r+")
    sharded = group.metadata.zarr_format == 3
    count = count_levels(cast("zarr.Array[Any]", group["0"]).shape)
    multiscale: dict[str, Any] = {
        "name": name,
        "axes": [
            {"name": dim, "type": _AXIS_TYPES[dim]}
            | ({"unit": "micrometer"} if dim in sizes else {})
            for dim in dims
        ],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": _transformations(dims, sizes, level),
            }
            for level in range(count)
        ],
    }
    if count > 1:
        multiscale |= {"type": "mean", "metadata": {"description": "mean of 2 x 2 pixels"}}
    omero: dict[str, Any] = (
        {} if names is None else {"omero": {"channels": _omero_channels(names, ranges)}}
    )
    if sharded:
        group.attrs.update({"ome": {"version": "0.5", "multiscales": [multiscale], **omero}})
        return
    if omero:
        omero["omero"]["version"] = "0.4"
    group.attrs.update({"multiscales": [{"version": "0.4", **multiscale}], **omero})


def _transformations(
    dims: Sequence[str], sizes: Mapping[str, float], level: int
) -> list[dict[str, Any]]:
    """Return where the pixels of a level are: their size, and how far the first one is moved."""
    factors = [2**level if dim in ("y", "x") else 1 for dim in dims]
    steps = [sizes.get(dim, 1.0) for dim in dims]
    scale = [step * factor for step, factor in zip(steps, factors, strict=True)]
    found: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if level:
        # The centre of the first pixel lies between those it is the mean of.
        moved = [step * (factor - 1) / 2 for step, factor in zip(steps, factors, strict=True)]
        found.append({"type": "translation", "translation": moved})
    return found


def _fill(array: zarr.Array[Any], image: xr.DataArray) -> Ranges:
    """Write the pixels, and return the range of the finite ones of every channel that has some."""
    ranges: Ranges = {}
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


def _omero_channels(names: Sequence[str], ranges: Ranges) -> list[dict[str, Any]]:
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
