"""TIFF: read whole or not at all, and written for OME readers and for ImageJ at once."""

from __future__ import annotations

__all__ = ["TIFF_SUFFIXES", "read_tiff", "write_tiff"]

import uuid
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.labelled import (
    DIMS,
    channel_names,
    known_sizes,
    lazy_planes,
    planes,
)
from deepcontrast_bmz.image.reading import Found, fits_in_memory, named_axes, reading
from deepcontrast_bmz.image.tiff_header import AXES_NOTE, main_file, tiff_header
from deepcontrast_bmz.image.whole import replace_whole

if TYPE_CHECKING:
    from pathlib import Path

    import tifffile
    import xarray as xr

TIFF_SUFFIXES = (".tif", ".tiff")

_MAKE, _IMAGE_DESCRIPTION = 271, 270
# Codes of two tags; the first carries ImageJ's header until it is renamed.


def read_tiff(path: Path) -> Found:
    """Read the one image of a TIFF.

    Parameters
    ----------
    path : Path
        A plain TIFF, or one of ImageJ, OME or tifffile; of several OME files the main one.

    Raises
    ------
    InputError
        If the file is damaged, cut short or only a part, holds another number of images than
        one, or its axes are unknown.
    """
    import tifffile

    # As OME-TIFF, files of Micro-Manager tell their pixel size.
    with reading(path, "TIFF"), tifffile.TiffFile(path, is_mmstack=False) as tif:
        series = _only_series(tif, path)
        _check_whole(tif, series, path)
        dims, picks = named_axes(series.axes, series.shape, path)
        sizes, names, stated = tiff_header(tif, series)
        if fits_in_memory(series.nbytes):
            data = series.asarray()
        else:
            data = _lazy_tiff(path, series, tif.byteorder)
    data = data[picks]
    if names is not None and len(names) == 1:
        stated = (*stated, "c")
    for dim in stated:
        if dim in DIMS and dim not in dims:
            dims.insert(0, dim)
            data = data[np.newaxis]
    return Found(data, dims, names, sizes)


def _only_series(tif: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """Return the one image of a TIFF; refuse none, several, and a header that does not fit."""
    if tif.is_ome:
        main = main_file(tif.ome_metadata or "")
        if main is not None:
            raise InputError(
                f"an OME-TIFF of several files is opened by its main file, but '{path}' is only "
                f"a part of one: give '{main}' instead"
            )
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
        with reading(path, "TIFF"), tifffile.TiffFile(path, is_mmstack=False) as tif:
            pixels = tif.asarray(key=index, series=0)
        return pixels.reshape((1,) * len(leading_shape) + page)

    chunks = tuple((1,) * n for n in leading_shape) + tuple((n,) for n in page)
    return da.map_blocks(read, chunks=chunks, dtype=dtype, meta=np.empty((0,) * len(shape), dtype))


def write_tiff(image: xr.DataArray, path: Path) -> None:
    """Write an image as an OME-TIFF that ImageJ understands too, whole or not at all.

    Parameters
    ----------
    image : DataArray, dims a subset of (t, c, z, y, x), in that order
        Dask arrays are written plane by plane; half precision becomes single precision.
    path : Path
        Where to write.

    Raises
    ------
    InputError
        If the format cannot hold such pixels, or the file cannot be written there.
    """
    import tifffile

    if path.is_dir():
        raise InputError(
            f"a TIFF is written to a file, but '{path}' is a folder: give a name inside it"
        )
    dtype = np.dtype(np.float32) if image.dtype == np.float16 else image.dtype
    if dtype.itemsize > (8 if dtype.kind == "f" else 4):
        raise InputError(
            "an OME-TIFF holds integers of 8 to 32 bits and floating point numbers of 32 or 64, "
            f"but these pixels are {dtype}: convert them, or write an OME-Zarr"
        )
    # ImageJ counts channels before planes before times, whatever a header says.
    stack = image.transpose(*(dim for dim in ("t", "z", "c", "y", "x") if dim in image.dims))
    sizes = known_sizes(stack)
    big = stack.size * dtype.itemsize > 2**32 - 2**26
    imagej = not big and dtype.name in ("uint8", "uint16", "int16", "uint32", "int32", "float32")
    with replace_whole(path) as temporary:
        with tifffile.TiffWriter(temporary, bigtiff=big, byteorder="<", ome=True) as writer:
            writer.write(
                (plane.astype(dtype, copy=False) for _, plane in planes(stack)),
                shape=stack.shape,
                dtype=dtype,
                photometric="minisblack",
                metadata=_ome_metadata(stack, path.name),
                resolution=(1 / sizes["x"], 1 / sizes["y"]) if {"x", "y"} <= sizes.keys() else None,
                resolutionunit="NONE",
                extratags=_imagej_tags(stack) if imagej else (),
            )
        if imagej:
            _rename_tag(temporary)


def _ome_metadata(stack: xr.DataArray, name: str) -> dict[str, Any]:
    """Return what tifffile turns into OME-XML."""
    axes = "".join(str(dim) for dim in stack.dims).upper()
    names = channel_names(stack)
    metadata: dict[str, Any] = {"axes": axes}
    for dim, size in known_sizes(stack).items():
        metadata[f"PhysicalSize{dim.upper()}"] = size
        metadata[f"PhysicalSize{dim.upper()}Unit"] = "µm"
    if names is not None:
        metadata["Channel"] = {"Name": list(names)}
    # The name of a single channel says already that there is such an axis.
    leading = [dim for dim in stack.dims[:-2] if dim != "c" or names is None]
    if any(stack.sizes[dim] == 1 for dim in leading):
        metadata["MapAnnotation"] = {"Namespace": AXES_NOTE, "axes": axes}
    # A random identifier would make every copy of the same image a different file.
    metadata["UUID"] = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {stack.shape} {metadata}"))
    return metadata


def _imagej_tags(stack: xr.DataArray) -> list[tuple[int, int, Any, Any, bool]]:
    """Return ImageJ's header, under the code of another tag, and the labels of its slices."""
    import tifffile

    sizes, names = known_sizes(stack), channel_names(stack)
    calibration: dict[str, Any] = {"unit": "micron"} if sizes else {}
    if "z" in sizes:
        calibration["spacing"] = sizes["z"]
    axes = "".join(str(dim) for dim in stack.dims).upper()
    header = tifffile.imagej_description(stack.shape, axes=axes, rgb=False, **calibration)
    tags: list[tuple[int, int, Any, Any, bool]] = [(_MAKE, 2, 0, header, True)]
    if names is not None:
        labels = [names[place.get("c", 0)] for place, _ in lazy_planes(stack)]
        tags += tifffile.imagej_metadata_tag({"Labels": labels}, "<")
    return tags


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
