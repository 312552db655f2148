"""TIFF read: whole or not at all, at once or in parts."""

from __future__ import annotations

__all__ = ["TIFF_SUFFIXES", "read_tiff"]

import logging
import weakref
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.labels import DIMS
from deepcontrast_bmz.image.lazy_arrays import (
    Arranged,
    Converted,
    MappedPixels,
    Pixels,
    Stacked,
    ZarrPixels,
)
from deepcontrast_bmz.image.reader import (
    AS_STATED,
    Found,
    Reading,
    choose_scene,
    fits_in_memory,
    named_axes,
    overridden_axes,
    reading,
)
from deepcontrast_bmz.image.tiff_header import main_file, tiff_header
from deepcontrast_bmz.image.tiff_values import stored_values

if TYPE_CHECKING:
    from pathlib import Path

    import tifffile

    from deepcontrast_bmz.image.lazy_arrays import Part

logger = logging.getLogger(__name__)

TIFF_SUFFIXES = (".tif", ".tiff")


def read_tiff(path: Path, *, lazily: bool | None = None, how: Reading = AS_STATED) -> Found:
    """Read the one image of a TIFF; of a pyramid the largest resolution.

    Parameters
    ----------
    path : Path
        A plain TIFF, or one of ImageJ, OME or tifffile; of several OME files the main one.
    lazily : bool, optional
        Whether pixels are read only when they are asked for; large ones are, if left out.
    how : Reading
        Which image is meant, where there are several, and its axes.

    Raises
    ------
    InputError
        If the file is damaged, cut short or only a part, holds another number of images than
        one, or its axes are unknown.
    """
    import tifffile

    with reading(path, "TIFF"):
        # As OME-TIFF, files of Micro-Manager tell their pixel size.
        tif = tifffile.TiffFile(path, is_mmstack=False)
        try:
            series = _chosen_series(tif, path, how)
            _check_whole(tif, series, path)
            dims, picks = _axes(series, path, how.axes)
            sizes, names, stated, notes = tiff_header(tif, series)
            data: Any
            if fits_in_memory(series.nbytes, lazily):
                data = series.asarray()
            else:
                data = _lazy_tiff(path, tif, series)
            opened = data
            if (meaning := stored_values(tif, series.keyframe, path)) is not None:
                convert, dtype = meaning
                if isinstance(data, np.ndarray):
                    data = convert(data)
                else:
                    data = Converted(data, convert, dtype)
        except BaseException:
            tif.close()
            raise
        if not isinstance(opened, ZarrPixels):
            tif.close()
    axes: list[int | None] = [i for i, pick in enumerate(picks) if isinstance(pick, slice)]
    if names is not None and len(names) == 1:
        stated = (*stated, "c")
    if how.axes is not None:
        stated = ()
    for dim in stated:
        if dim in DIMS and dim not in dims:
            dims.insert(0, dim)
            axes.insert(0, None)
    if isinstance(data, np.ndarray):
        data = data[picks]
        return Found(data[(np.newaxis,) * axes.count(None)], dims, names, sizes, notes)
    return Found(Arranged(data, axes), dims, names, sizes, notes)


def _axes(
    series: tifffile.TiffPageSeries, path: Path, axes: str | None
) -> tuple[list[str], tuple[slice | int, ...]]:
    """Return the names of the axes, and the index that drops those that are none; say a guess."""
    if axes is not None:
        return named_axes(overridden_axes(axes, series.shape, path), series.shape, path)
    dims, picks = named_axes(series.axes, series.shape, path)
    if "z" in dims and "Z" not in series.axes:
        logger.warning(
            "%s: its header does not say what its %d planes are, so they are read as a z-stack; "
            "--axes TYX or CYX says that they are times or channels",
            path,
            next(n for axis, n in zip(series.axes, series.shape, strict=True) if axis in "QI"),
        )
    return dims, picks


def _chosen_series(tif: tifffile.TiffFile, path: Path, how: Reading) -> tifffile.TiffPageSeries:
    """Return the image of a TIFF that is meant; refuse none, and a header that does not fit."""
    if tif.is_ome:
        main = main_file(tif.ome_metadata or "")
        if main is not None:
            raise InputError(
                f"an OME-TIFF of several files is opened by its main file, but '{path}' is only "
                f"a part of one: give '{main}' instead"
            )
    # Thumbnails and other reduced copies are no images of their own.
    found = [s for s in tif.series if not s.keyframe.is_reduced] or tif.series
    if not found:
        raise InputError(
            f"a TIFF must hold an image, but '{path}' holds none: copy or save it again"
        )
    names = [series.name if series.kind == "ome" else "" for series in found]
    series = found[choose_scene(names, how.scene, path)]
    unfit = tif.is_ome and how.axes is None
    if unfit and series.kind in ("generic", "uniform", "shaped") and len(series.shape) > 2:
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


def _lazy_tiff(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Pixels:
    """Return the pixels of a TIFF: mapped where they lie as they are, else decoded in parts."""
    import zarr

    page, shape = series.keyframe, series.shape
    dtype = np.dtype(series.dtype).newbyteorder(cast("Any", tif.byteorder))
    if series.dataoffset is not None:
        return MappedPixels(path, dtype, series.dataoffset, shape)
    offsets = _mapped_pages(tif, series)
    if offsets is not None:

        def read(number: int, part: Part) -> np.ndarray:
            return MappedPixels(path, dtype, offsets[number], page.shape)[part]

        return Stacked(read, shape[: len(shape) - len(page.shape)], page.shape, dtype)
    array = zarr.open_array(series.aszarr(level=0), mode="r")
    pixels = ZarrPixels(array, path, "TIFF")
    # The file stays open as long as somebody may read.
    weakref.finalize(pixels, tif.close)
    return pixels


def _mapped_pages(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[int] | None:
    """Return where every plane begins, if all lie in this file as they are."""
    page = series.keyframe
    if not page.is_memmappable or series.shape[series.ndim - len(page.shape) :] != page.shape:
        return None
    offsets: list[int] = []
    for found in series.pages:
        if found is None or found.parent is not tif:
            return None
        starts, counts = found.dataoffsets, found.databytecounts
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        if any(end != start for end, start in zip(ends, starts[1:], strict=False)):
            return None
        if ends[-1] - starts[0] != page.nbytes:
            return None
        offsets.append(starts[0])
    return offsets if len(offsets) * page.size == series.size else None
