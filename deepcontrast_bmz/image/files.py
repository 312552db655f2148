"""Files to labelled images and back.

What is written has the axes of what was read. An axis of length one therefore stays only where
the file states it: OME-Zarr always does, tifffile's own header does, an OME-TIFF does if its one
channel has a name (or a note of ours names the axis). ImageJ and OME headers cannot tell "one
plane" from "no such axis", so there an axis of length one is none.

Images up to `IN_MEMORY_BYTES` are read at once, larger ones only when they are looked at; `planes`
and `write_image` then hold one plane at a time. `open_image` reads nothing but the labels: parts
are read by whoever asks for them.
"""

from __future__ import annotations

__all__ = ["check_output", "open_image", "read_as", "read_image", "read_mask", "write_image"]

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.bioio_read import read_with_bioio
from deepcontrast_bmz.image.folder_read import read_folder
from deepcontrast_bmz.image.labels import (
    DIMS,
)
from deepcontrast_bmz.image.lazy_arrays import Arranged
from deepcontrast_bmz.image.lazy_image import OpenImage, label_image, open_found
from deepcontrast_bmz.image.masks import FieldMask
from deepcontrast_bmz.image.pixel_type import check_compression
from deepcontrast_bmz.image.pyramid import count_levels
from deepcontrast_bmz.image.reader import (
    AS_STATED,
    Reading,
    name_axes,
    override_axes,
    parse_axes,
    refuse_address,
)
from deepcontrast_bmz.image.tiff_open import HEADER_SUFFIXES
from deepcontrast_bmz.image.tiff_read import TIFF_SUFFIXES, read_tiff
from deepcontrast_bmz.image.tiff_write import check_tiff, needs_tiles, write_levels, write_tiff
from deepcontrast_bmz.image.zarr_read import ZARR_SUFFIXES, ZIP_SUFFIXES, is_zarr, read_zarr
from deepcontrast_bmz.image.zarr_write import check_zarr, fill_zarr, open_level, write_zarr

if TYPE_CHECKING:
    import xarray as xr

    from deepcontrast_bmz.image.reader import Found


def read_image(
    path: Path,
    *,
    axes: str | None = None,
    scene: str | int | None = None,
    mask: Path | None = None,
) -> xr.DataArray:
    """Read one image with its axes, channel names and pixel size.

    TIFF (.tif, .tiff; plain, ImageJ, OME, also OME of several files), OME-Zarr (.zarr; a folder of
    format 0.1 to 0.5, an image inside one, or a zip of one), a folder of TIFFs with one plane each,
    and whatever further readers of `bioio` are installed. A stack that says nothing about its third
    axis is z, y, x; colour samples become channels.

    Parameters
    ----------
    path : Path
        A file, the folder of an OME-Zarr, or a folder of planes.
    axes : str, optional
        Letters such as ``TYX``, in place of what the file says: for all its axes, or for those
        longer than one.
    scene : str or int, optional
        Name or number (from 0) of the image, where there are several.
    mask : Path, optional
        An image with zeros where this one is no part of the picture; such pixels are NaN, and all
        are floating point numbers then.

    Returns
    -------
    DataArray, dims a subset of (t, c, z, y, x)
        Pixels as in the file, in native byte order; large images are dask arrays.

    Raises
    ------
    InputError
        If the path is missing or of an unknown kind, the file is damaged or cut short, its axes
        are unknown or not those that were given, there is no such scene or several and none was
        chosen, its pixels are no real numbers, or the mask does not belong to it.
    """
    return read_as(path, Reading(axes, scene, mask))


def read_as(path: Path, how: Reading) -> xr.DataArray:
    """Read one image as `read_image` does.

    Parameters
    ----------
    path : Path
    how : Reading
        What the user says of it.

    Raises
    ------
    InputError
        As for `read_image`.
    """
    path = Path(path)
    image = label_image(_find(path, None, how), path)
    return image if how.mask is None else read_mask(how.mask).hide(image, path.name)


def read_mask(path: Path) -> FieldMask:
    """Read a mask from an image file, of numbers or of true and false; what is not zero counts.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        If it cannot be read.
    """
    path = Path(path)
    found = _find(path, False, AS_STATED, mask=True)
    return FieldMask.of(label_image(found, path, mask=True), path.name)


def open_image(path: Path, *, axes: str | None = None, scene: str | int | None = None) -> OpenImage:
    """Open an image whose pixels are read in parts, when they are asked for.

    Parameters
    ----------
    path, axes, scene
        As for `read_image`.

    Raises
    ------
    InputError
        As for `read_image`.
    """
    path = Path(path)
    return open_found(_find(path, True, Reading(axes, scene)), path)


def _find(path: Path, lazily: bool | None, how: Reading, *, mask: bool = False) -> Found:
    if how.axes is not None:
        parse_axes(how.axes)
    refuse_address(path)
    if not path.exists():
        raise InputError(
            f"an image must exist, but there is nothing at '{path}': check the spelling"
        )
    if path.is_dir():
        if is_zarr(path) or path.name.lower().endswith(ZARR_SUFFIXES):
            found = read_zarr(path, lazily=lazily, scene=how.scene, labels=mask)
            return _rename(found, how.axes, path)
        return _rename(read_folder(path, lazily=lazily, how=how), how.axes, path)
    if path.stat().st_size == 0:
        raise InputError(f"an image file has content, but '{path}' is empty: copy or save it again")
    if path.name.lower().endswith((*TIFF_SUFFIXES, *HEADER_SUFFIXES)):
        return read_tiff(path, lazily=lazily, how=how)
    if path.name.lower().endswith(ZIP_SUFFIXES):
        found = read_zarr(path, lazily=lazily, scene=how.scene, labels=mask)
        return _rename(found, how.axes, path)
    found = read_with_bioio(path, lazily=lazily, scene=how.scene)
    return _rename(found, how.axes, path)


def _rename(found: Found, axes: str | None, path: Path) -> Found:
    """Return what was found with the axes that the user names."""
    if axes is None:
        return found
    shape = tuple(int(n) for n in found.data.shape)
    dims, picks = name_axes(override_axes(axes, shape, path), shape, path)
    if isinstance(found.data, np.ndarray) or hasattr(found.data, "dask"):
        return found._replace(data=found.data[picks], dims=dims)
    kept = [i for i, pick in enumerate(picks) if isinstance(pick, slice)]
    return found._replace(data=Arranged(found.data, kept), dims=dims)


def write_image(image: xr.DataArray, path: Path, *, compression: str | None = None) -> None:
    """Write an image as OME-TIFF or as OME-Zarr (format 0.4), by the suffix; whole or not at all.

    An OME-TIFF also carries ImageJ's own header, so that ImageJ without Bio-Formats shows the
    same axes and pixel size; with `compression` it does not. Pixel sizes of axes that the image
    does not have are left out.

    Parameters
    ----------
    image : DataArray, dims a subset of (t, c, z, y, x), in that order
        Integers or floating point numbers; dask arrays are written piece by piece.
    path : Path
        Ends in .tif, .tiff (also .ome.tif) or .zarr (also .ome.zarr).
    compression : {'none', 'zlib', 'zstd'}, optional
        How pixels are packed, without loss; left out, not at all in TIFF and by lz4 in OME-Zarr.

    Raises
    ------
    InputError
        If the suffix or the compression is unknown, the folder is missing or cannot be written,
        a folder lies where a file is wanted or the reverse, or the format cannot hold pixels of
        that kind.
    ValueError
        If the dims are not a subset of (t, c, z, y, x) in that order with y and x, or there are
        no pixels, or they are not real numbers.
    """
    path = Path(path)
    check_compression(compression)
    dims = [str(dim) for dim in image.dims]
    if dims != [dim for dim in DIMS if dim in dims] or dims[-2:] != ["y", "x"]:
        raise ValueError(f"the dims of an image are a subset of {DIMS} in order, not {dims}")
    if image.dtype.kind not in "iuf" or image.size == 0:
        raise ValueError(f"an image has real pixels, not {image.dtype} of shape {image.shape}")
    name = path.name.lower()
    if name.endswith(ZARR_SUFFIXES):
        write_zarr(image, path, compression)
    elif not name.endswith(TIFF_SUFFIXES):
        raise InputError(
            "an image is written to .tif, .tiff, .ome.tif (OME-TIFF) or .zarr, .ome.zarr "
            f"(OME-Zarr), but '{path}' ends otherwise: change the suffix"
        )
    elif image.chunks is not None and needs_tiles(image.shape):
        # What is computed when it is looked at is looked at once, for all resolutions.
        check_tiff(path, image.dtype)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            fill_zarr(image, Path(folder))
            count = count_levels(image.shape)
            levels = [open_level(Path(folder), level) for level in range(count)]
            write_levels(image, levels, path, compression=compression)
    else:
        write_tiff(image, path, compression)


def check_output(path: Path) -> None:
    """Raise `InputError` if an output of this name could not be put in its place.

    Parameters
    ----------
    path : Path
        Ends in .tif, .tiff or .zarr.
    """
    if path.name.lower().endswith(ZARR_SUFFIXES):
        check_zarr(path)
    else:
        check_tiff(path, np.dtype(np.float32))
