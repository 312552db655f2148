"""Reads OME-Zarr 0.1 to 0.5, at once or in parts.

bioio-ome-zarr 3.8 ignores the units of the axes, invents channel names where there are none,
loses the pixel size where a translation comes before the scale, and fails on axes of formats
before 0.4 and on the layout of bioformats2raw. The zarr library does all that is needed.
"""

from __future__ import annotations

__all__ = ["ZARR_SUFFIXES", "is_zarr", "read_zarr"]

import logging
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.labels import DIMS
from deepcontrast_bmz.image.lazy_arrays import ZarrPixels
from deepcontrast_bmz.image.reader import Found, complete_names, fits_in_memory, reading
from deepcontrast_bmz.image.units import length_um, number

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

logger = logging.getLogger(__name__)

ZARR_SUFFIXES = (".zarr",)

_MARKERS = (".zgroup", ".zattrs", ".zarray", "zarr.json")


def is_zarr(path: Path) -> bool:
    """Say whether a folder is kept by the zarr library."""
    return any((path / marker).is_file() for marker in _MARKERS)


def read_zarr(path: Path, *, lazily: bool | None = None) -> Found:
    """Read the largest resolution of an OME-Zarr.

    Parameters
    ----------
    path : Path
        The folder of an image, or of a conversion by bioformats2raw with one image.
    lazily : bool, optional
        Whether pixels are read only when they are asked for; large ones are, if left out.

    Raises
    ------
    InputError
        If the folder is no OME-Zarr, is damaged, holds several images, or its axes are unknown.
    """
    if not is_zarr(path):
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
        scale = _scale(multiscale, dataset, len(dims), path)
        for dim, unit, step in zip(dims, units, scale, strict=True):
            # Many writers give the scale in micrometres and forget the unit; a bare 1 says nothing.
            guessed = "micrometer" if unit is None and step not in (None, 1.0) else unit
            sizes[dim] = length_um(step, guessed)
        channels = cast("list[dict[str, Any]]", attributes.get("omero", {}).get("channels", []))
        names = complete_names([channel.get("label") for channel in channels])
        fits = fits_in_memory(array.nbytes, lazily)
        data = np.asarray(array[...]) if fits else ZarrPixels(array, path, "OME-Zarr")
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


def _scale(
    multiscale: dict[str, Any], dataset: dict[str, Any], count: int, path: Path
) -> list[float | None]:
    """Return the scale of the largest resolution, None where none is given that can be used."""
    scale: list[float | None] = [None] * count
    for part in (dataset, multiscale):
        for transform in part.get("coordinateTransformations") or []:
            if transform.get("type", "scale") != "scale" or "scale" not in transform:
                continue
            factors = _factors(transform["scale"], count)
            if factors is None:
                logger.warning(
                    "%s: its scale is not one number for each of its %d axes, so the pixel size "
                    "is unknown",
                    path,
                    count,
                )
                return [None] * count
            scale = [f if s is None else s * f for s, f in zip(scale, factors, strict=True)]
    return scale


def _factors(stated: object, count: int) -> list[float] | None:
    """Return a scale as positive numbers, one for each axis; None if it is something else."""
    if not isinstance(stated, list):
        return None
    factors = [number(value) for value in cast("list[object]", stated)]
    usable = [f for f in factors if f is not None and 0 < f < math.inf]
    return usable if len(usable) == len(factors) == count else None
