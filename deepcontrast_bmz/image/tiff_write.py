"""Writes TIFF: readable as OME and by ImageJ, or in tiles with a pyramid.

A plane that a program shows at once is written as it lies, with OME's header and ImageJ's. A
larger one is cut into tiles, with smaller resolutions as SubIFDs, as Bio-Formats and QuPath read
them; ImageJ without Bio-Formats reads no tiles. Of a file with ImageJ's header it reads only where
the first plane begins, the others being right behind it: packed planes have OME's header alone.
"""

from __future__ import annotations

__all__ = ["check_tiff", "needs_tiles", "write_levels", "write_tiff"]

import uuid
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.atomic import replace_whole
from deepcontrast_bmz.image.labels import channel_names, known_sizes, lazy_planes, planes
from deepcontrast_bmz.image.pyramid import count_levels, halve
from deepcontrast_bmz.image.tiff_header import AXES_NOTE
from deepcontrast_bmz.image.units import seconds, unit_um

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import xarray as xr

_MAKE, _IMAGE_DESCRIPTION = 271, 270
# Codes of two tags; the first carries ImageJ's header until it is renamed.

_TILE = 512
# Side of a tile: 1 MB of float32.

_LARGEST_PLANE = 4096
# Pixels: a plane with a longer side is written in tiles, with a pyramid.

_CLASSIC_BYTES = 2**32 - 2**26
# Pixels of a TIFF that is no BigTIFF.


def needs_tiles(shape: Sequence[int]) -> bool:
    """Say whether an image of a shape (..., Y, X) is written in tiles, with a pyramid."""
    return max(shape[-2:]) > _LARGEST_PLANE


def check_tiff(path: Path, dtype: np.dtype[Any], compression: str | None = None) -> np.dtype[Any]:
    """Return the type that pixels are written as.

    Raises
    ------
    InputError
        If there is a folder, the format cannot hold such pixels, or what packs them is missing.
    """
    # tifffile brings zlib along.
    if compression == "zstd" and find_spec("imagecodecs") is None:
        raise InputError(
            "zstd in a TIFF needs the package imagecodecs, which is not installed: install it with "
            "pip install imagecodecs, or use --compression zlib"
        )
    if path.is_dir():
        raise InputError(
            f"a TIFF is written to a file, but '{path}' is a folder: give a name inside it"
        )
    dtype = np.dtype(np.float32) if dtype == np.float16 else dtype
    if dtype.itemsize > (8 if dtype.kind == "f" else 4):
        raise InputError(
            "an OME-TIFF holds integers of 8 to 32 bits and floating point numbers of 32 or 64, "
            f"but these pixels are {dtype}: convert them, or write an OME-Zarr"
        )
    return dtype


def write_tiff(image: xr.DataArray, path: Path, compression: str | None = None) -> None:
    """Write an image as an OME-TIFF, whole or not at all.

    Planes up to 4096 pixels wide and high lie in the file as they are, and ImageJ understands
    them too; larger ones are written by `write_levels`.

    Parameters
    ----------
    image : DataArray, dims a subset of (t, c, z, y, x), in that order
        Dask arrays are written plane by plane; half precision becomes single precision.
    path : Path
        Where to write.
    compression : {'none', 'zlib', 'zstd'}, optional
        How planes are packed; not at all if left out. Packed ones have no header of ImageJ's.

    Raises
    ------
    InputError
        If the format cannot hold such pixels, or the file cannot be written there.
    """
    import tifffile

    dtype = check_tiff(path, image.dtype, compression)
    if needs_tiles(image.shape):
        levels = [np.asarray(image.data)]
        while len(levels) < count_levels(image.shape):
            levels.append(halve(levels[-1]))
        write_levels(image, levels, path, compression=compression)
        return
    stack = _in_order(image)
    big = stack.size * dtype.itemsize > _CLASSIC_BYTES
    packed = _packed(compression, dtype)
    imagej = not (big or packed) and dtype.name in (
        "uint8",
        "uint16",
        "int16",
        "uint32",
        "int32",
        "float32",
    )
    with replace_whole(path) as temporary:
        with tifffile.TiffWriter(temporary, bigtiff=big, byteorder="<", ome=True) as writer:
            writer.write(
                (plane.astype(dtype, copy=False) for _, plane in planes(stack)),
                shape=stack.shape,
                dtype=dtype,
                photometric="minisblack",
                metadata=_ome_metadata(stack, path.name),
                extratags=_imagej_tags(stack) if imagej else (),
                **packed,
                **_resolution(known_sizes(stack), _unit(stack) if imagej else "micron"),
            )
        if imagej:
            _rename_tag(temporary)


def write_levels(
    image: xr.DataArray,
    levels: Sequence[Any],
    path: Path,
    progress: Callable[[float], None] | None = None,
    *,
    compression: str | None = None,
) -> None:
    """Write an image with its pyramid as an OME-TIFF in tiles, whole or not at all.

    Parameters
    ----------
    image : DataArray, dims a subset of (t, c, z, y, x), in that order
        Says how the axes, channels and pixel sizes are; its pixels are not looked at.
    levels : sequence of arrays
        The image and its smaller resolutions, from which a band of rows is read at a time.
    path : Path
        Where to write.
    progress : callable, optional
        Is given the share of the largest resolution that is done, 0 to 1.
    compression : str, optional
        As for `write_tiff`.

    Raises
    ------
    InputError
        If the format cannot hold such pixels, or the file cannot be written there.
    """
    import tifffile

    dtype = check_tiff(path, image.dtype, compression)
    stack = _in_order(image)
    # A third for the smaller resolutions.
    big = stack.size * dtype.itemsize * 4 // 3 > _CLASSIC_BYTES
    common: dict[str, Any] = {
        "dtype": dtype,
        "photometric": "minisblack",
        "tile": (_TILE, _TILE),
        **_packed(compression, dtype),
    }
    with (
        replace_whole(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=big, byteorder="<", ome=True) as writer,
    ):
        for level, pixels in enumerate(levels):
            only: dict[str, Any] = {"subfiletype": 1}
            sizes = {dim: size * 2**level for dim, size in known_sizes(stack).items()}
            if level == 0:
                metadata = _ome_metadata(stack, path.name)
                only = {"subifds": len(levels) - 1, "metadata": metadata}
            writer.write(
                _tiles(image, stack, pixels, dtype, progress if level == 0 else None),
                shape=(*stack.shape[:-2], *pixels.shape[-2:]),
                **common,
                **only,
                **_resolution(sizes),
            )


def _packed(compression: str | None, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the arguments of tifffile that pack planes; none where they lie as they are."""
    if compression in (None, "none"):
        return {}
    # Differences of neighbours pack better; of floating point numbers, few programs know them.
    return {"compression": compression, "predictor": dtype.kind in "iu"}


def _tiles(
    image: xr.DataArray,
    stack: xr.DataArray,
    pixels: Any,
    dtype: np.dtype[Any],
    progress: Callable[[float], None] | None,
) -> Iterator[np.ndarray]:
    """Yield the tiles of all planes in the order of the stack, reading a band of them at a time."""
    height, width = pixels.shape[-2:]
    leading = [str(dim) for dim in image.dims[:-2]]
    total = int(np.prod(stack.shape[:-2]))
    for done, (place, _) in enumerate(lazy_planes(stack)):
        index = tuple(place[dim] for dim in leading)
        for top in range(0, height, _TILE):
            band = np.asarray(pixels[(*index, slice(top, top + _TILE), slice(None))])
            band = band.astype(dtype, copy=False)
            for left in range(0, width, _TILE):
                tile = band[:, left : left + _TILE]
                missing = (_TILE - tile.shape[0], _TILE - tile.shape[1])
                if any(missing):
                    tile = np.pad(tile, ((0, missing[0]), (0, missing[1])))
                yield np.ascontiguousarray(tile)
            if progress is not None:
                progress(min(1.0, (done + min(1.0, (top + _TILE) / height)) / total))


def _in_order(image: xr.DataArray) -> xr.DataArray:
    """Return the image as TIFF orders it; ImageJ counts channels before planes before times."""
    return image.transpose(*(dim for dim in ("t", "z", "c", "y", "x") if dim in image.dims))


def _unit(stack: xr.DataArray) -> str:
    """Return the unit of length that ImageJ is told, by the name that the input had for it."""
    return str(stack.attrs.get("length_unit", "micron"))


def _resolution(sizes: Mapping[str, float], unit: str = "micron") -> dict[str, Any]:
    """Return the baseline tags of the pixel size, without the unit, which the headers state."""
    known = {"x", "y"} <= sizes.keys()
    per_um = unit_um(unit) or 1.0
    return {
        "resolution": (per_um / sizes["x"], per_um / sizes["y"]) if known else None,
        "resolutionunit": "NONE",
    }


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
    interval, second = stack.attrs.get("frame_interval"), seconds(stack.attrs.get("time_unit"))
    if "t" in stack.dims and interval is not None and second is not None:
        metadata |= {"TimeIncrement": interval * second, "TimeIncrementUnit": "s"}
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
    calibration: dict[str, Any] = {"unit": _unit(stack)} if sizes else {}
    if "z" in sizes:
        calibration["spacing"] = sizes["z"] / (unit_um(_unit(stack)) or 1.0)
    if "t" in stack.dims and "frame_interval" in stack.attrs:
        calibration["finterval"] = stack.attrs["frame_interval"]
        if stack.attrs.get("time_unit", "sec") != "sec":
            calibration["tunit"] = stack.attrs["time_unit"]
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
