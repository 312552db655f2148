"""Files to labelled images and back.

An image is an ``xarray.DataArray`` whose dims are a subset of ``t, c, z, y, x`` in that order,
always with y and x. Channel names, when known, are the coordinate ``c``; the pixel size, in
micrometres, is ``attrs["pixel_size_um"]``, a dict with the known ones of z, y and x.

What is written has the axes of what was read. An axis of length one therefore stays only where
the file states it: OME-Zarr always does, tifffile's own header does, an OME-TIFF does if its one
channel has a name (or a note of ours names the axis). ImageJ and OME headers cannot tell "one
plane" from "no such axis", so there an axis of length one is none.

Images up to `IN_MEMORY_BYTES` are read at once, larger ones (and chunks of a large OME-Zarr)
only when they are looked at; `planes` and `write_image` then hold one plane at a time.
"""

from __future__ import annotations

__all__ = [
    "DIMS",
    "IN_MEMORY_BYTES",
    "channel_names",
    "check_pixels",
    "image_sha256",
    "pixel_size_um",
    "planes",
    "read_image",
    "replace_whole",
    "select_channel",
    "write_image",
]

import contextlib
import errno
import hashlib
import logging
import math
import os
import re
import secrets
import shutil
import threading
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from xml.etree import ElementTree

import numpy as np
import xarray as xr

from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    import tifffile

logger = logging.getLogger(__name__)

DIMS = ("t", "c", "z", "y", "x")
"""The axes an image may have, in their order."""

IN_MEMORY_BYTES = 2**30
"""Images with more bytes than this are read plane by plane, when needed."""

TIFF_SUFFIXES = (".tif", ".tiff")
ZARR_SUFFIXES = (".zarr",)

PRINT_RESOLUTION_UM = 20.0
# Above this a baseline resolution tag speaks of paper or screen (72 dpi is 353 micrometres).

AXES_NOTE = "deepcontrast_bmz/axes"
# Namespace of the note that names the axes of length one, which OME-XML cannot tell from none.

ZARR_CHUNK = 1024
# Side of a written chunk: 4 MB of float32, as viewers like it.

_UM_PER_UNIT = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "angstrom": 1e-4,
    "å": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "dm": 1e5,
    "decimeter": 1e5,
    "m": 1e6,
    "meter": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}


class _Found(NamedTuple):
    """What a file says of its image, before it is put in our order."""

    data: Any
    dims: list[str]
    names: list[str] | None
    sizes: Mapping[str, float | None]


def read_image(path: Path) -> xr.DataArray:
    """Read one image with its axes, channel names and pixel size.

    TIFF (.tif, .tiff; plain, ImageJ, OME), OME-Zarr (.zarr; a folder of format 0.1 to 0.5, or an
    image inside one) and whatever further readers of `bioio` are installed. A stack that says
    nothing about its third axis is z, y, x; colour samples become channels.

    Parameters
    ----------
    path : Path
        A file, or the folder of an OME-Zarr.

    Returns
    -------
    DataArray, dims a subset of (t, c, z, y, x)
        Pixels as in the file, in native byte order; large images are dask arrays.

    Raises
    ------
    InputError
        If the path is missing or of an unknown kind, the file is damaged or cut short, its axes
        are unknown, or its pixels are no real numbers.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"an image must exist, but there is nothing at '{path}': check the spelling"
        )
    if path.is_dir():
        return _finish(_read_zarr(path), path)
    if path.stat().st_size == 0:
        raise InputError(f"an image file has content, but '{path}' is empty: copy or save it again")
    if path.name.lower().endswith(TIFF_SUFFIXES):
        return _finish(_read_tiff(path), path)
    return _finish(_read_with_bioio(path), path)


def _finish(found: _Found, path: Path) -> xr.DataArray:
    """Check what was read and put it into our order and byte order."""
    data, dims, names, sizes = found
    dtype = np.dtype(data.dtype)
    if dtype.kind not in "iuf":
        kinds = {"b": "true and false (a mask)", "c": "complex numbers"}
        raise InputError(
            f"pixels must be integers or floating point numbers, but '{path}' holds "
            f"{kinds.get(dtype.kind, str(dtype))}: save it as an intensity image"
        )
    if 0 in data.shape:
        raise InputError(
            f"an image has at least one pixel along every axis, but '{path}' has shape "
            f"{tuple(data.shape)}: save it again"
        )
    if not dtype.isnative:
        data = data.astype(dtype.newbyteorder("="))
    coords: dict[str, list[str]] = {}
    if names is not None and "c" in dims and len(names) == data.shape[dims.index("c")]:
        coords["c"] = names
    known = {
        dim: float(size)
        for dim in ("z", "y", "x")
        if dim in dims and (size := sizes.get(dim)) is not None and 0 < size < math.inf
    }
    image = xr.DataArray(data, dims=dims, coords=coords, attrs={"pixel_size_um": known})
    # xarray would call the image as dask calls the array, by chance.
    image.name = None
    return image.transpose(*(dim for dim in DIMS if dim in dims))


_ONE_READER = threading.RLock()
# Warnings and loggers belong to the whole process: two threads that quieten them at once, as
# dask's do, would leave them quiet for good.


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Generator[None]:
    """Turn whatever a reader raises into one sentence, and what it mutters into debug messages.

    Damaged files raise nearly every exception there is (struct, zlib, codecs, XML, zarr).
    """
    with _ONE_READER:
        yield from _listening(path, kind)


def _listening(path: Path, kind: str) -> Generator[None]:
    speakers = [logging.getLogger(name) for name in ("tifffile", "zarr", "bioio")]
    listener = _Listener()
    before = [(speaker, speaker.propagate) for speaker in speakers]
    for speaker in speakers:
        speaker.addHandler(listener)
        speaker.propagate = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            logger.debug("%s: %s", path, warning.message)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        reason = reason.rstrip(".").replace(". ", "; ")
        raise InputError(
            f"an image must be a whole, readable {kind}, but '{path}' is not ({reason}): "
            "copy or save it again"
        ) from error
    finally:
        for speaker, propagate in before:
            speaker.removeHandler(listener)
            speaker.propagate = propagate


class _Listener(logging.Handler):
    """Passes the messages of another library on as debug messages of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("%s", record.getMessage())


# TIFF. bioio-tifffile 1.3 reports 1 micrometre where the resolution has no unit, fails where
# ImageJ wrote none, and takes unknown units for micrometres; bioio-ome-tiff 1.4 drops the unit,
# and may fetch an older schema from the network. tifffile itself states the axes and the tags.


class _Header(NamedTuple):
    """Pixel size, channel names, and the axes of length one that the header states."""

    sizes: Mapping[str, float | None] = {}
    names: list[str] | None = None
    stated: tuple[str, ...] = ()


def _read_tiff(path: Path) -> _Found:
    import tifffile

    # As OME-TIFF, files of Micro-Manager tell their pixel size.
    with _reading(path, "TIFF"), tifffile.TiffFile(path, is_mmstack=False) as tif:
        series = _only_series(tif, path)
        _check_whole(tif, series, path)
        dims, picks = _tiff_dims(series.axes, series.shape, path)
        sizes, names, stated = _tiff_header(tif, series)
        small = series.nbytes <= IN_MEMORY_BYTES
        data = series.asarray() if small else _lazy_tiff(path, series, tif.byteorder)
    data = data[picks]
    if names is not None and len(names) == 1:
        stated = (*stated, "c")
    for dim in stated:
        if dim in DIMS and dim not in dims:
            dims.insert(0, dim)
            data = data[np.newaxis]
    return _Found(data, dims, names, sizes)


def _only_series(tif: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """Return the one image of a TIFF; refuse none, several, and a header that does not fit."""
    if tif.is_ome:
        _refuse_part(tif, path)
    count = len(tif.series)
    if count == 0:
        raise InputError(
            f"a TIFF must hold an image, but '{path}' holds none: copy or save it again"
        )
    if count > 1:
        raise InputError(
            f"an image file must hold one image, but '{path}' holds {count}: "
            "save the one you want as a file of its own"
        )
    series = tif.series[0]
    if tif.is_ome and series.kind in ("generic", "uniform", "shaped") and len(series.shape) > 2:
        raise InputError(
            f"the OME header of a TIFF must describe its pixels, but that of '{path}' "
            f"does not fit a stack of shape {series.shape}: export it again as OME-TIFF"
        )
    return series


def _tiff_header(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> _Header:
    """Return what the header says, whoever wrote it; colour samples get the names of colours."""
    import tifffile

    page = series.keyframe
    if series.kind == "ome":
        header = _ome_header(tif.ome_metadata or "")
    elif tif.is_imagej:
        header = _imagej_header(tif, page)
    else:
        header = _shaped_header(tif)
        if not header.sizes:
            header = header._replace(sizes=_resolution_tags(page))
    if page.photometric == tifffile.PHOTOMETRIC.RGB and "S" in series.axes:
        colours = ["red", "green", "blue", "alpha"][: series.shape[series.axes.index("S")]]
        # One OME channel may have three samples; its name is then nobody's.
        if header.names is None or len(header.names) != len(colours) > 1:
            header = header._replace(names=colours)
    return header


def _refuse_part(tif: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file of a multi-file OME-TIFF that only points to where the header is."""
    root = _parse_ome(tif.ome_metadata or "")
    for child in root:
        if _tag(child) == "BinaryOnly":
            main = child.get("MetadataFile", "the file with the header")
            raise InputError(
                f"an OME-TIFF of several files is opened by its main file, but '{path}' is only "
                f"a part of one: give '{main}' instead"
            )


def _check_whole(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
    """Refuse a file that ends too early; tifffile would log it and fill the rest with zeros."""
    end = tif.filehandle.size
    cut = InputError(
        f"a TIFF must hold all the planes it announces, but '{path}' ends too early: "
        "copy or save it again"
    )
    if any(page is None for page in series.pages):
        raise InputError(
            f"a TIFF must hold all the planes it announces, but some of '{path}' are missing: "
            "copy or save it again, with all its files if it has several"
        )
    if series.dataoffset is not None and series.dataoffset + series.nbytes > end:
        raise cut
    for page in series.pages:
        if page is None or page.parent is not tif:
            continue
        segments = zip(page.dataoffsets, page.databytecounts, strict=False)
        if any(offset + count > end for offset, count in segments):
            raise cut
    if not _chain_ends(tif):
        raise cut


def _chain_ends(tif: tifffile.TiffFile) -> bool:
    """Follow the chain of pages, and say whether it comes to its proper end."""
    layout, fh = tif.tiff, tif.filehandle
    order = "little" if tif.byteorder == "<" else "big"
    # The offset of the first page is the last thing in the header.
    place = 8 if layout.is_bigtiff else 4
    seen: set[int] = set()
    while True:
        fh.seek(place)
        link = fh.read(layout.offsetsize)
        offset = int.from_bytes(link, order)
        if len(link) < layout.offsetsize or offset in seen:
            return False
        if offset == 0:
            return True
        seen.add(offset)
        fh.seek(offset)
        count = fh.read(layout.tagnosize)
        if len(count) < layout.tagnosize:
            return False
        place = offset + layout.tagnosize + int.from_bytes(count, order) * layout.tagsize


def _tiff_dims(
    axes: str, shape: tuple[int, ...], path: Path
) -> tuple[list[str], tuple[slice | int, ...]]:
    """Return our names of tifffile's axes, and the index that drops those that are none."""
    letters = {"T": "t", "C": "c", "Z": "z", "Y": "y", "X": "x", "S": "c"}
    unknown = [
        i for i, (axis, n) in enumerate(zip(axes, shape, strict=True)) if n > 1 and axis in "QI"
    ]
    dims: list[str] = []
    picks: list[slice | int] = []
    for i, (axis, length) in enumerate(zip(axes, shape, strict=True)):
        name = letters.get(axis)
        if i in unknown and len(unknown) == 1 and "Z" not in axes:
            name = "z"
        # tifffile always keeps Y and X, and one sample per pixel is no axis.
        drop = length == 1 and (name is None or axis == "S")
        picks.append(0 if drop else slice(None))
        if drop:
            continue
        if name is None or name in dims:
            raise InputError(
                "a TIFF must say which of its axes is time, channel, z, y and x, but the axes of "
                f"'{path}' are {axes} with lengths {shape}: save it as OME-TIFF or as an ImageJ "
                "hyperstack, or split it"
            )
        dims.append(name)
    if not {"y", "x"} <= set(dims):
        raise InputError(
            f"an image has the axes y and x, but those of '{path}' are {axes}: save it again as "
            "an image"
        )
    return dims, tuple(picks)


def _lazy_tiff(path: Path, series: tifffile.TiffPageSeries, byteorder: str) -> Any:
    """Return a dask array over the planes of a TIFF; the file is opened when a plane is read."""
    import dask.array as da

    page, shape = series.keyframe.shape, series.shape
    dtype = np.dtype(series.dtype)
    if series.dataoffset is not None:
        stored = dtype.newbyteorder(cast("Any", byteorder))
        mapped = np.memmap(path, stored, "r", series.dataoffset, shape)
        leading = len(shape) - 2 - ("S" in series.axes)
        chunks = (1,) * leading + shape[leading:]
        return da.from_array(mapped, chunks=cast("Any", chunks), name=False)
    leading_shape = shape[: len(shape) - len(page)]

    def read(block_id: tuple[int, ...]) -> np.ndarray:
        import tifffile

        index = 0
        for i, n in zip(block_id, leading_shape, strict=False):
            index = index * n + i
        with _reading(path, "TIFF"), tifffile.TiffFile(path, is_mmstack=False) as tif:
            pixels = tif.asarray(key=index, series=0)
        return pixels.reshape((1,) * len(leading_shape) + page)

    chunks = tuple((1,) * n for n in leading_shape) + tuple((n,) for n in page)
    return da.map_blocks(read, chunks=chunks, dtype=dtype, meta=np.empty((0,) * len(shape), dtype))


def _unit_um(unit: object) -> float | None:
    """Return how many micrometres a unit of length has, None if it is unknown."""
    if not isinstance(unit, str):
        return None
    # ImageJ escapes the micro sign, Latin-1 readers of UTF-8 see a letter before it, and there
    # are two micro signs in Unicode.
    text = unit.strip().replace("\\u00B5", "u").replace("\\u00b5", "u").replace("Â", "")
    text = text.replace("\u00b5", "u").replace("\u03bc", "u").lower()
    text = re.sub("metres?$|meters$", "meter", text)
    text = {"microns": "micron", "inches": "inch", "angstroms": "angstrom"}.get(text, text)
    return _UM_PER_UNIT.get(text)


def _number(value: object) -> float | None:
    try:
        number = float(cast("Any", value))
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def _length_um(value: object, unit: object) -> float | None:
    number, factor = _number(value), _unit_um(unit)
    # Times one must give back the very number that was written.
    return None if number is None or factor is None else number * factor


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _parse_ome(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml.strip().rstrip("\0"))


def _ome_header(xml: str) -> _Header:
    root = _parse_ome(xml)
    pixels = next((e for e in root.iter() if _tag(e) == "Pixels"), None)
    if pixels is None:
        return _Header()
    sizes = {
        axis.lower(): _length_um(
            pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        )
        for axis in "ZYX"
    }
    stated: tuple[str, ...] = ()
    for note in root.iter():
        if _tag(note) == "MapAnnotation" and note.get("Namespace") == AXES_NOTE:
            axes = "".join(e.text or "" for e in note.iter() if e.get("K") == "axes")
            stated = tuple(
                dim for dim in reversed(axes.lower()) if pixels.get(f"Size{dim.upper()}") == "1"
            )
    channels = [e.get("Name") for e in pixels if _tag(e) == "Channel"]
    return _Header(sizes, _complete_names(channels), stated)


def _complete_names(names: Sequence[object]) -> list[str] | None:
    """Return channel names, the missing ones counted from one; None if all are missing."""
    if not any(names):
        return None
    return [str(name) if name else f"channel_{i}" for i, name in enumerate(names, start=1)]


def _imagej_header(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> _Header:
    """Read ImageJ's header; the slice labels of a stack of nothing but channels are names."""
    header = tif.imagej_metadata or {}
    unit = header.get("unit")
    sizes = {
        "z": _length_um(header.get("spacing"), header.get("zunit", unit)),
        "y": _length_um(_per_pixel(page, "YResolution"), header.get("yunit", unit)),
        "x": _length_um(_per_pixel(page, "XResolution"), unit),
    }
    sizes = {dim: None if _printed(unit, size) else size for dim, size in sizes.items()}
    labels = header.get("Labels")
    if not labels or int(header.get("channels", 1)) != int(header.get("images", 1)):
        return _Header(sizes)
    names = [str(label).strip() for label in labels]
    distinct = all(names) and len(set(names)) == len(names) > 1
    return _Header(sizes, names if distinct else None)


def _printed(unit: object, size_um: float | None) -> bool:
    """Say whether a size in inches or centimetres is the resolution of a print."""
    coarse = _unit_um(unit) in (1e4, 25400.0)
    return coarse and size_um is not None and size_um > PRINT_RESOLUTION_UM


def _shaped_header(tif: tifffile.TiffFile) -> _Header:
    """Read tifffile's JSON header; axes of length one that it states are in the series already.

    Known keys: ``PhysicalSizeX`` (with ``PhysicalSizeXUnit``) and ``Channel: {Name: [...]}`` as
    tifffile takes them for OME-TIFF, and ``voxel_um``, a list (z, y, x).
    """
    headers = cast("tuple[dict[str, Any], ...]", tif.shaped_metadata or ())
    if not headers:
        return _Header()
    header = headers[0]
    sizes: dict[str, float | None] = {}
    voxel = header.get("voxel_um")
    if isinstance(voxel, list):
        given = cast("list[object]", voxel)
        for dim, value in zip("xyz", reversed(given), strict=False):
            sizes[dim] = _number(value)
    for axis in "ZYX":
        if f"PhysicalSize{axis}" in header:
            unit = header.get(f"PhysicalSize{axis}Unit", "µm")
            sizes[axis.lower()] = _length_um(header[f"PhysicalSize{axis}"], unit)
    channel = header.get("Channel")
    names: list[str] | None = None
    if isinstance(channel, dict):
        listed = cast("dict[str, object]", channel).get("Name")
        names = _complete_names(cast("list[object]", listed)) if isinstance(listed, list) else None
    return _Header(sizes, names)


def _per_pixel(page: tifffile.TiffPage, tag: str) -> float | None:
    """Return the length of a pixel in units of a resolution tag."""
    value = page.tags.valueof(tag)
    if not isinstance(value, tuple) or len(cast("tuple[object, ...]", value)) != 2:
        return None
    pixels, lengths = cast("tuple[int, int]", value)
    return lengths / pixels if pixels and lengths else None


def _resolution_tags(page: tifffile.TiffPage) -> dict[str, float | None]:
    """Return the pixel size of baseline TIFF tags; without a unit they are only a ratio."""
    name = getattr(page.tags.valueof("ResolutionUnit"), "name", "NONE").lower()
    sizes = {
        dim: _length_um(_per_pixel(page, f"{dim.upper()}Resolution"), name) for dim in ("y", "x")
    }
    return {dim: None if _printed(name, size) else size for dim, size in sizes.items()}


# OME-Zarr. bioio-ome-zarr 3.8 ignores the units of the axes, invents channel names where there
# are none, loses the pixel size where a translation comes before the scale, fails on axes of
# formats before 0.4 and on the layout of bioformats2raw. The zarr library does all that is needed.


def _read_zarr(path: Path) -> _Found:
    import zarr

    markers = (".zgroup", ".zattrs", ".zarray", "zarr.json")
    if not any((path / marker).is_file() for marker in markers):
        raise InputError(
            f"a folder is read if it is an OME-Zarr image, but '{path}' is not: give a file, or "
            "the folder that ends in .zarr"
        )
    with _reading(path, "OME-Zarr"):
        node = zarr.open(store=path, mode="r")
        if isinstance(node, zarr.Array):
            raise InputError(
                "an OME-Zarr is a group that describes its axes, but "
                f"'{path}' is a bare array: give the folder above it"
            )
        attributes = _ome_attributes(node)
        if "multiscales" not in attributes:
            if "plate" in attributes or "well" in attributes:
                raise InputError(
                    f"an image must be one field of a plate, but '{path}' holds many: give the "
                    "folder of a field, such as A/1/0 inside it"
                )
            fields = sorted(name for name, _ in node.groups() if name.isdigit())
            if "bioformats2raw.layout" in attributes and len(fields) == 1:
                return _read_zarr(path / fields[0])
            if len(fields) > 1:
                raise InputError(
                    f"an image file must hold one image, but '{path}' holds {len(fields)}: give "
                    f"one of them, such as '{path / fields[0]}'"
                )
            raise InputError(
                "an OME-Zarr describes its axes under 'multiscales', but "
                f"'{path}' does not: convert it with a tool that writes OME-Zarr"
            )
        multiscale = cast("dict[str, Any]", attributes["multiscales"][0])
        dataset = cast("dict[str, Any]", multiscale["datasets"][0])
        array = node[dataset["path"]]
        if not isinstance(array, zarr.Array):
            raise InputError(
                f"an OME-Zarr names an array for every resolution, but in '{path}' "
                f"'{dataset['path']}' is none: convert it again"
            )
        stated = cast("list[Any]", multiscale.get("axes", ["t", "c", "z", "y", "x"]))
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in stated]
        dims = [str(axis["name"]).lower() for axis in axes]
        if (
            len(dims) != array.ndim
            or len(set(dims)) != len(dims)
            or not set(dims) <= set(DIMS)
            or not {"y", "x"} <= set(dims)
        ):
            raise InputError(
                "the axes of an image are y and x and perhaps t, c and z, but those of "
                f"'{path}' are {', '.join(dims)} for shape {array.shape}: convert it with a tool "
                "that writes OME-Zarr"
            )
        scale = _zarr_scale(multiscale, dataset, len(dims))
        sizes: dict[str, float | None] = {}
        for axis, dim, step in zip(axes, dims, scale, strict=True):
            unit = axis.get("unit")
            # Many writers give the scale in micrometres and forget the unit; a bare 1 says nothing.
            guessed = "micrometer" if unit is None and step not in (None, 1.0) else unit
            sizes[dim] = _length_um(step, guessed)
        channels = cast("list[dict[str, Any]]", attributes.get("omero", {}).get("channels", []))
        names = _complete_names([channel.get("label") for channel in channels])
        if array.nbytes <= IN_MEMORY_BYTES:
            data = np.asarray(array[...])
        else:
            import dask.array as da

            data = da.from_array(array, chunks=cast("Any", array.chunks), name=False)
    return _Found(data, dims, names, sizes)


def _ome_attributes(group: Any) -> dict[str, Any]:
    """Return the OME metadata of a group: below ``ome`` since 0.5, at the top before."""
    attributes = cast("dict[str, Any]", group.attrs.asdict())
    return cast("dict[str, Any]", attributes.get("ome", attributes))


def _zarr_scale(
    multiscale: dict[str, Any], dataset: dict[str, Any], count: int
) -> list[float | None]:
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


def _read_with_bioio(path: Path) -> _Found:
    """Read a format that an installed reader of bioio knows; its sizes are micrometres."""
    import bioio
    from bioio_base.exceptions import UnsupportedFileFormatError

    with _reading(path, "image"):
        try:
            scenes = bioio.BioImage(path)
        except UnsupportedFileFormatError as error:
            raise InputError(
                "an image is a TIFF (.tif, .tiff, .ome.tif), an OME-Zarr (.zarr, .ome.zarr) or a "
                f"format that an installed bioio reader knows, but '{path}' is none of them: "
                "convert it, or install the bioio reader of its format"
            ) from error
        if len(scenes.scenes) != 1:
            raise InputError(
                f"an image file must hold one image, but '{path}' holds {len(scenes.scenes)}: "
                "save the one you want as a file of its own"
            )
        pixels = scenes.xarray_dask_data
        if pixels.nbytes <= IN_MEMORY_BYTES:
            pixels = pixels.compute()
        sizes: dict[str, float | None] = {}
        # Its TIFF reader (for .lsm) says 1 micrometre where it does not know.
        if not type(scenes.reader).__module__.startswith("bioio_tifffile"):
            spacing = scenes.physical_pixel_sizes
            sizes = {dim: _number(getattr(spacing, dim.upper(), None)) for dim in ("z", "y", "x")}
        axes = "".join(str(dim) for dim in pixels.dims)
        names: list[str] | None = None
        if "C" in pixels.coords:
            given = [str(name) for name in pixels.coords["C"].values]
            # bioio invents names of this form where the file has none.
            names = _complete_names(["" if re.match(r"Channel:\d", n) else n for n in given])
    data = pixels.data
    kept: list[str] = []
    picks: list[slice | int] = []
    for axis, length in zip(axes, pixels.shape, strict=True):
        # bioio fills all five axes in; see the rule on top for what then counts as an axis.
        named = axis == "C" and names is not None
        drop = length == 1 and axis not in "YX" and not named
        picks.append(0 if drop else slice(None))
        if not drop:
            kept.append(axis)
    data = data[tuple(picks)]
    dims, more = _tiff_dims("".join(kept), data.shape, path)
    return _Found(data[more], dims, names, sizes)


def write_image(image: xr.DataArray, path: Path) -> None:
    """Write an image as OME-TIFF or as OME-Zarr (format 0.4), by the suffix; whole or not at all.

    An OME-TIFF also carries ImageJ's own header, so that ImageJ without Bio-Formats shows the
    same axes and pixel size. One resolution is written, uncompressed in TIFF. Pixel sizes of
    axes that the image does not have are left out.

    Parameters
    ----------
    image : DataArray, dims a subset of (t, c, z, y, x), in that order
        Integers or floating point numbers; dask arrays are written piece by piece.
    path : Path
        Ends in .tif, .tiff (also .ome.tif) or .zarr (also .ome.zarr).

    Raises
    ------
    InputError
        If the suffix is unknown, the folder is missing or cannot be written, a folder lies where
        a file is wanted or the reverse, or the format cannot hold pixels of that kind.
    ValueError
        If the dims are not a subset of (t, c, z, y, x) in that order with y and x, or there are
        no pixels, or they are not real numbers.
    """
    path = Path(path)
    dims = [str(dim) for dim in image.dims]
    if dims != [dim for dim in DIMS if dim in dims] or dims[-2:] != ["y", "x"]:
        raise ValueError(f"the dims of an image are a subset of {DIMS} in order, not {dims}")
    if image.dtype.kind not in "iuf" or image.size == 0:
        raise ValueError(f"an image has real pixels, not {image.dtype} of shape {image.shape}")
    name = path.name.lower()
    if name.endswith(TIFF_SUFFIXES):
        if path.is_dir():
            raise InputError(
                f"a TIFF is written to a file, but '{path}' is a folder: give a name inside it"
            )
        with replace_whole(path) as temporary:
            _write_tiff(image, temporary, path.name)
    elif name.endswith(ZARR_SUFFIXES):
        zarr_marks = (path / ".zgroup", path / "zarr.json")
        if path.is_file() or (
            path.is_dir() and any(path.iterdir()) and not any(m.is_file() for m in zarr_marks)
        ):
            raise InputError(
                "an OME-Zarr replaces only another OME-Zarr, but there is something else at "
                f"'{path}': give another name, or remove it"
            )
        with replace_whole(path) as temporary:
            _write_zarr(image, temporary, path.name)
    else:
        raise InputError(
            "an image is written to .tif, .tiff, .ome.tif (OME-TIFF) or .zarr, .ome.zarr "
            f"(OME-Zarr), but '{path}' ends otherwise: change the suffix"
        )


def _write_tiff(image: xr.DataArray, path: Path, name: str) -> None:
    import tifffile

    dtype = np.dtype(np.float32) if image.dtype == np.float16 else image.dtype
    if dtype.kind not in "iuf" or dtype.itemsize > (8 if dtype.kind == "f" else 4):
        raise InputError(
            "an OME-TIFF holds integers of 8 to 32 bits and floating point numbers of 32 or 64, "
            f"but these pixels are {dtype}: convert them, or write an OME-Zarr"
        )
    # ImageJ counts channels before planes before times, whatever a header says.
    order = [dim for dim in ("t", "z", "c", "y", "x") if dim in image.dims]
    stack = image.transpose(*order)
    axes = "".join(order).upper()
    sizes = _known_sizes(image)
    names = channel_names(image)
    single = [dim for dim in order if dim not in "yx" and image.sizes[dim] == 1]
    if names is not None and "c" in single:
        single.remove("c")
    metadata: dict[str, Any] = {"axes": axes}
    for dim, size in sizes.items():
        metadata[f"PhysicalSize{dim.upper()}"] = size
        metadata[f"PhysicalSize{dim.upper()}Unit"] = "µm"
    if names is not None:
        metadata["Channel"] = {"Name": list(names)}
    if single:
        metadata["MapAnnotation"] = {"Namespace": AXES_NOTE, "axes": axes}
    # A random identifier would make every copy of the same image a different file.
    metadata["UUID"] = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {stack.shape} {metadata}"))
    extratags: list[tuple[int, int, int, Any, bool]] = []
    imagej = dtype.name in ("uint8", "uint16", "int16", "uint32", "int32", "float32")
    big = stack.size * dtype.itemsize > 2**32 - 2**26
    if imagej and not big:
        calibration: dict[str, Any] = {"unit": "micron"} if sizes else {}
        if "z" in sizes:
            calibration["spacing"] = sizes["z"]
        header = tifffile.imagej_description(stack.shape, axes=axes, rgb=False, **calibration)
        extratags.append((_MAKE, 2, 0, header, True))
        if names is not None:
            labels = [names[place.get("c", 0)] for place, _ in _places(stack)]
            extratags += tifffile.imagej_metadata_tag({"Labels": labels}, "<")
    resolution = (1 / sizes["x"], 1 / sizes["y"]) if {"x", "y"} <= sizes.keys() else None
    with tifffile.TiffWriter(path, bigtiff=big, byteorder="<", ome=True) as writer:
        writer.write(
            (plane.astype(dtype, copy=False) for _, plane in planes(stack)),
            shape=stack.shape,
            dtype=dtype,
            photometric="minisblack",
            metadata=metadata,
            resolution=resolution,
            resolutionunit="NONE",
            extratags=extratags,
        )
    if imagej and not big:
        _rename_tag(path)


_MAKE, _IMAGE_DESCRIPTION = 271, 270


def _rename_tag(path: Path) -> None:
    """Turn the tag that carries ImageJ's header into a second image description.

    That is how Micro-Manager's files are OME-TIFFs and ImageJ hyperstacks in one: OME readers
    take the first description, ImageJ the last. tifffile refuses to write a second one itself.
    """
    import tifffile

    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.tags[_MAKE].offset
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(_IMAGE_DESCRIPTION.to_bytes(2, "little"))


def _write_zarr(image: xr.DataArray, path: Path, name: str) -> None:
    import zarr
    from numcodecs import Blosc

    dims = [str(dim) for dim in image.dims]
    sizes = _known_sizes(image)
    names = channel_names(image)
    # Format 0.4 and Blosc: what the readers in Java know too.
    group = zarr.open_group(store=path, mode="w", zarr_format=2)
    chunks = tuple(min(ZARR_CHUNK, image.sizes[dim]) if dim in ("y", "x") else 1 for dim in dims)
    array = group.create_array(
        "0",
        shape=image.shape,
        chunks=chunks,
        dtype=image.dtype,
        compressors=Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE),
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    ranges: dict[int, tuple[float, float]] = {}
    for place, plane in _places(image):
        index = tuple(place.values())
        for top in range(0, image.sizes["y"], ZARR_CHUNK):
            rows = slice(top, top + ZARR_CHUNK)
            strip = np.asarray(plane[rows])
            array[(*index, rows)] = strip
            channel = place.get("c", 0)
            finite = strip[np.isfinite(strip)]
            if finite.size:
                low, high = ranges.get(channel, (math.inf, -math.inf))
                ranges[channel] = (min(low, float(finite.min())), max(high, float(finite.max())))
    kinds = {"t": "time", "c": "channel"}
    axes: list[dict[str, str]] = []
    for dim in dims:
        axis = {"name": dim, "type": kinds.get(dim, "space")}
        if dim in sizes:
            axis["unit"] = "micrometer"
        axes.append(axis)
    attributes: dict[str, Any] = {
        "multiscales": [
            {
                "version": "0.4",
                "name": name,
                "axes": axes,
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
        colours = ("FFFFFF",) if len(names) == 1 else ("00FF00", "FF00FF", "00FFFF", "FFFF00")
        windows = [ranges.get(i, (0.0, 1.0)) for i in range(len(names))]
        attributes["omero"] = {
            "version": "0.4",
            "channels": [
                {
                    "label": label,
                    "active": True,
                    "color": colours[i % len(colours)],
                    "window": {
                        "min": windows[i][0],
                        "max": windows[i][1],
                        "start": windows[i][0],
                        "end": windows[i][1],
                    },
                }
                for i, label in enumerate(names)
            ],
        }
    group.attrs.update(attributes)


def _known_sizes(image: xr.DataArray) -> dict[str, float]:
    sizes = cast("dict[str, float | None]", image.attrs.get("pixel_size_um", {}))
    return {
        dim: float(size)
        for dim in ("z", "y", "x")
        if dim in image.dims and (size := sizes.get(dim)) is not None
    }


def channel_names(image: xr.DataArray) -> tuple[str, ...] | None:
    """Return the names of the channels, None if they have no names (or there is no channel axis).

    Parameters
    ----------
    image : DataArray
        Dims a subset of (t, c, z, y, x).
    """
    if "c" not in image.dims or "c" not in image.coords:
        return None
    return tuple(str(name) for name in image.coords["c"].values)


def select_channel(image: xr.DataArray, channel: str | int | None) -> xr.DataArray:
    """Return one channel, without the channel axis.

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
        index = matches[0]
    elif isinstance(channel, int) or re.fullmatch(r"\d+", channel):
        index = int(channel)
    else:
        index = -1
    if not 0 <= index < count:
        raise InputError(
            f"a channel is chosen by its name or by an index from 0 to {count - 1}, "
            f"but '{channel}' is neither and {there}: choose one of them"
        )
    return image.isel(c=index, drop=True) if "c" in image.dims else image


def _places(image: xr.DataArray) -> Iterator[tuple[dict[str, int], Any]]:
    """Yield the place and the pixels of every plane, which are not loaded yet."""
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
    for place, plane in _places(image):
        yield place, np.asarray(plane)


def check_pixels(image: xr.DataArray, name: str) -> None:
    """Refuse pixels that cannot be computed with.

    Parameters
    ----------
    image : DataArray, (..., y, x)
    name : str
        What the user calls the image.

    Raises
    ------
    InputError
        If there is no pixel, the pixels are not real numbers, or one is NaN or infinite.
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
    for place, plane in planes(image):
        bad = ~np.isfinite(plane)
        if bad.any():
            y, x = (int(i) for i in np.argwhere(bad)[0])
            where = ", ".join(f"{dim}={i}" for dim, i in {**place, "y": y, "x": x}.items())
            raise InputError(
                f"pixels must be finite numbers, but '{name}' has {plane[y, x]} at {where}: "
                "replace or crop such pixels first"
            )


def pixel_size_um(image: xr.DataArray) -> float | None:
    """Return the in-plane pixel size in micrometres, None if unknown or not square within 1 %.

    Parameters
    ----------
    image : DataArray
        Its ``attrs["pixel_size_um"]`` holds the known sizes.
    """
    sizes = _known_sizes(image)
    y, x = sizes.get("y"), sizes.get("x")
    if y is None or x is None or abs(y - x) > 0.01 * max(y, x):
        return None
    return (y + x) / 2


def image_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the sorted names and contents of a folder.

    Parameters
    ----------
    path : Path
        A file, or a folder such as an OME-Zarr; where it lies makes no difference.

    Raises
    ------
    InputError
        If there is nothing at `path`.
    """
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise InputError(
            f"an image must exist, but there is nothing at '{path}': check the spelling"
        )
    digest = hashlib.sha256()
    inside = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    for name in sorted(inside):
        content = image_sha256(inside[name])
        # Digests have one length, so no two folders run into the same bytes.
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def replace_whole(path: Path) -> Generator[Path]:
    """Yield a temporary sibling that becomes `path` if all goes well, and vanishes otherwise.

    Inside, create a file or a folder at the yielded path; its name is hidden and keeps the
    suffix. What lies at `path` stays untouched until the end. A file replaces a file, a folder a
    folder.

    Parameters
    ----------
    path : Path
        The final name, in a folder that exists.

    Yields
    ------
    Path
        Where to write; nothing lies there yet.

    Raises
    ------
    InputError
        If the folder is missing or cannot be written, the disk is full, or a folder lies where a
        file is wanted or the reverse.
    """
    # Through a link, the file it points to is replaced, not the link.
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise InputError(
            f"a file is written into a folder that exists, but there is no '{target.parent}': "
            "create it first"
        )
    temporary = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:
        raise InputError(
            f"a file is written where that is allowed, but in '{target.parent}' it is not "
            f"({error.strerror}): give another place"
        ) from error
    try:
        yield temporary
        _move(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"an output must fit on the disk, but there is no room for '{path}': "
                "free some, or give another place"
            ) from error
        raise
    finally:
        _remove(temporary)


def _move(temporary: Path, target: Path) -> None:
    """Put `temporary` under the name `target`, and what was there away."""
    folder = temporary.is_dir()
    if target.exists() and target.is_dir() != folder:
        kinds = ("a folder", "a file") if folder else ("a file", "a folder")
        raise InputError(
            f"the output is {kinds[0]}, but '{target}' is {kinds[1]} already: give another name"
        )
    if not (folder and target.exists()):
        temporary.replace(target)
        return
    # A folder cannot be renamed onto another: the old one steps aside, and back on failure.
    aside = target.with_name(f".{secrets.token_hex(4)}.old.{target.name}")
    target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        aside.rename(target)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
