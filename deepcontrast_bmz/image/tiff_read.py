"""TIFF read: whole or not at all, at once or in parts."""

from __future__ import annotations

__all__ = ["TIFF_SUFFIXES", "read_tiff"]

import weakref
from pathlib import Path
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
    explain_failures,
    fits_in_memory,
    name_axes,
    override_axes,
    say_once,
)
from deepcontrast_bmz.image.tiff_header import has_alpha, read_header
from deepcontrast_bmz.image.tiff_open import find_lengths, open_series
from deepcontrast_bmz.image.tiff_values import find_meaning

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tifffile

    from deepcontrast_bmz.image.lazy_arrays import Part

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
    with explain_failures(path, "TIFF"):
        tif, series, axes = open_series(path, how)
        try:
            lengths = find_lengths(series, path)
            _check_whole(tif, series, path)
            if has_alpha(series):
                samples = series.axes.index("S")
                lengths[samples] = series.shape[samples] - 1
                say_once(path, "its alpha channel is no intensity and is left out")
            dims, kept = _name_axes(series, lengths, path, axes)
            header = read_header(tif, series)
            fits = fits_in_memory(series.nbytes, lazily)
            stored: Any = series.asarray() if fits else _open_lazily(path, tif, series)
            data: Any = stored
            if (meaning := find_meaning(tif, series.keyframe, path)) is not None:
                convert, dtype = meaning
                data = convert(data) if fits else Converted(data, convert, dtype)
        except BaseException:
            tif.close()
            raise
        if not isinstance(stored, ZarrPixels):
            tif.close()
    stated = () if axes is not None else header.stated
    if axes is None and header.names is not None and len(header.names) == 1:
        stated = (*stated, "c")
    order: list[int | None] = list(kept)
    for dim in stated:
        if dim in DIMS and dim not in dims:
            dims.insert(0, dim)
            order.insert(0, None)
    if fits:
        picks = [slice(lengths.get(i, n)) if i in kept else 0 for i, n in enumerate(series.shape)]
        data = data[tuple(picks)][(np.newaxis,) * order.count(None)]
    else:
        data = Arranged(data, order, lengths=lengths)
    return Found(data, dims, header.names, header.sizes, header.notes)


def _name_axes(
    series: tifffile.TiffPageSeries, lengths: Mapping[int, int], path: Path, axes: str | None
) -> tuple[list[str], list[int]]:
    """Return the names of the axes, and which of the file these are; say a guess."""
    shape = tuple(lengths.get(i, n) for i, n in enumerate(series.shape))
    letters = series.axes if axes is None else override_axes(axes, shape, path)
    dims, picks = name_axes(letters, shape, path)
    if "z" in dims and "Z" not in letters:
        say_once(
            path,
            "its header does not say what its %d planes are, so they are read as a z-stack; "
            "--axes TYX or CYX says that they are times or channels",
            next(n for axis, n in zip(letters, shape, strict=True) if axis in "QI" and n > 1),
        )
    return dims, [i for i, pick in enumerate(picks) if isinstance(pick, slice)]


def _check_whole(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
    """Refuse a file that ends too early; tifffile would log it and fill the rest with zeros."""
    end = tif.filehandle.size
    if series.dataoffset is not None and series.dataoffset + series.nbytes > end:
        raise _ends_too_early(path)
    for page in series.pages:
        if page is None:
            continue
        fh = page.parent.filehandle
        segments = zip(page.dataoffsets, page.databytecounts, strict=False)
        if any(offset + count > fh.size for offset, count in segments):
            raise _ends_too_early(path if page.parent is tif else Path(fh.path))
    if not _chain_ends(tif):
        raise _ends_too_early(path)


def _ends_too_early(path: Path) -> InputError:
    return InputError(
        f"'{path}' ends too early, so planes that it announces are missing: copy or save it again"
    )


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


def _open_lazily(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Pixels:
    """Return the pixels of a TIFF: mapped where they lie as they are, else decoded in parts."""
    import zarr

    page, shape = series.keyframe, series.shape
    dtype = np.dtype(series.dtype).newbyteorder(cast("Any", tif.byteorder))
    if series.dataoffset is not None:
        return MappedPixels(path, dtype, series.dataoffset, shape)
    places = _mapped_pages(tif, series)
    if places is not None:

        def read(number: int, part: Part) -> np.ndarray:
            file, offset = places[number]
            return MappedPixels(file, dtype, offset, page.shape)[part]

        return Stacked(read, shape[: len(shape) - len(page.shape)], page.shape, dtype)
    array = zarr.open_array(series.aszarr(level=0), mode="r")
    pixels = ZarrPixels(array, path, "TIFF")
    # The file stays open as long as somebody may read.
    weakref.finalize(pixels, tif.close)
    return pixels


def _mapped_pages(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> list[tuple[Path, int]] | None:
    """Return in which file and where every plane begins, if all lie there as they are."""
    page = series.keyframe
    if not page.is_memmappable or series.shape[series.ndim - len(page.shape) :] != page.shape:
        return None
    places: list[tuple[Path, int]] = []
    for found in series.pages:
        if found is None or found.parent.byteorder != tif.byteorder:
            return None
        starts, counts = found.dataoffsets, found.databytecounts
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        if any(end != start for end, start in zip(ends, starts[1:], strict=False)):
            return None
        if ends[-1] - starts[0] != page.nbytes:
            return None
        places.append((Path(found.parent.filehandle.path), starts[0]))
    return places if len(places) * page.size == series.size else None
