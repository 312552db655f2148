"""Reads OME-Zarr 0.1 to 0.5, at once or in parts.

bioio-ome-zarr 3.8 ignores the units of the axes, invents channel names where there are none,
loses the pixel size where a translation comes before the scale, and fails on axes of formats
before 0.4 and on the layout of bioformats2raw. The zarr library does all that is needed.
"""

from __future__ import annotations

__all__ = ["ZARR_SUFFIXES", "ZIP_SUFFIXES", "is_zarr", "read_zarr"]

import math
import zipfile
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.labels import DIMS
from deepcontrast_bmz.image.lazy_arrays import ZarrPixels
from deepcontrast_bmz.image.reader import (
    Found,
    choose_scene,
    complete_names,
    explain_failures,
    fits_in_memory,
    say_once,
)
from deepcontrast_bmz.image.units import convert_to_um, parse_number

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

ZARR_SUFFIXES = (".zarr",)
ZIP_SUFFIXES = (".zarr.zip", ".ozx")

_MARKERS = (".zgroup", ".zattrs", ".zarray", "zarr.json")


def is_zarr(path: Path) -> bool:
    """Say whether a folder is kept by the zarr library."""
    return any((path / marker).is_file() for marker in _MARKERS)


def read_zarr(
    path: Path,
    *,
    lazily: bool | None = None,
    scene: str | int | None = None,
    labels: bool = False,
) -> Found:
    """Read the largest resolution of an OME-Zarr.

    Parameters
    ----------
    path : Path
        A folder or a zip: an image, a conversion by bioformats2raw, a well or a plate.
    lazily : bool, optional
        Whether pixels are read only when they are asked for; large ones are, if left out.
    scene : str or int, optional
        Which image, where there are several: its place, such as ``A/1/0``, or its number.
    labels : bool
        It may hold numbers of objects, as for a mask.

    Raises
    ------
    InputError
        If the folder is no OME-Zarr, is damaged, holds several images and none was chosen, or its
        axes are unknown.
    """
    if path.is_dir() and not is_zarr(path):
        raise InputError(f"'{path}' is no OME-Zarr: give a file, or the folder that ends in .zarr")
    with explain_failures(path, "OME-Zarr"):
        root = _open(path)
        places = _list_images(root, path)
        chosen = places[choose_scene(places, scene, path)]
        group = _child(root, chosen, path) if chosen else root
        attributes = _describe(group)
        is_labels = "image-label" in attributes or path.absolute().parent.name == "labels"
        if is_labels and not labels:
            raise InputError(
                f"'{path}' holds numbers of objects (labels), not intensities: give the image above"
            )
        multiscale = cast("dict[str, Any]", attributes["multiscales"][0])
        dataset = cast("dict[str, Any]", multiscale["datasets"][0])
        array = _array(group, dataset["path"], path)
        dims, units = _axes(multiscale, array.shape, path)
        sizes: dict[str, float | None] = {}
        scale = _scale(multiscale, dataset, len(dims), path)
        for dim, unit, step in zip(dims, units, scale, strict=True):
            # Many writers give the scale in micrometres and forget the unit; a bare 1 says nothing.
            guessed = "micrometer" if unit is None and step not in (None, 1.0) else unit
            sizes[dim] = convert_to_um(step, guessed)
        channels = cast("list[dict[str, Any]]", attributes.get("omero", {}).get("channels", []))
        names = complete_names([channel.get("label") for channel in channels])
        fits = fits_in_memory(array.nbytes, lazily)
        data = np.asarray(array[...]) if fits else ZarrPixels(array, path, "OME-Zarr")
    return Found(data, dims, names, sizes)


def _open(path: Path) -> zarr.Group:
    """Open a folder, or a zip of a folder or of what is in it."""
    import zarr
    from zarr.storage import ZipStore

    if path.is_dir():
        node = zarr.open(store=path, mode="r")
    else:
        with zipfile.ZipFile(path) as archive:
            tops = {name.split("/")[0] for name in archive.namelist()}
        inside = "" if tops & set(_MARKERS) or len(tops) != 1 else tops.pop()
        node = zarr.open(store=ZipStore(path, mode="r"), path=inside, mode="r")
    if isinstance(node, zarr.Array):
        raise InputError(f"'{path}' is a bare array without axes: give the folder above it")
    return node


def _describe(group: zarr.Group) -> dict[str, Any]:
    """Return the OME metadata: below `ome` since format 0.5, at the top before."""
    top = cast("dict[str, Any]", group.attrs.asdict())
    return cast("dict[str, Any]", top.get("ome", top))


def _list_images(root: zarr.Group, path: Path) -> list[str]:
    """Return the places of the images in a group; empty for the group itself."""
    attributes = _describe(root)
    if "multiscales" in attributes:
        return [""]
    if "well" in attributes:
        found = [str(image["path"]) for image in attributes["well"]["images"]]
    elif "plate" in attributes:
        wells = [str(well["path"]) for well in attributes["plate"]["wells"]]
        found = [
            f"{well}/{place}"
            for well in wells
            for place in _list_images(_child(root, well, path), path)
        ]
    else:
        found = sorted((name for name, _ in root.groups() if name.isdigit()), key=int)
    if not found:
        raise InputError(
            f"'{path}' describes no image under 'multiscales': convert it with a tool that writes "
            "OME-Zarr"
        )
    return found


def _child(group: zarr.Group, name: str, path: Path) -> zarr.Group:
    import zarr

    child = group[name]
    if not isinstance(child, zarr.Group):
        raise InputError(f"'{name}' in the OME-Zarr '{path}' is no image: convert it again")
    return child


def _array(group: zarr.Group, name: str, path: Path) -> zarr.Array[Any]:
    import zarr

    from deepcontrast_bmz.image.zarr_whole import check_chunks

    array = group[name]
    if not isinstance(array, zarr.Array):
        raise InputError(f"'{name}' in the OME-Zarr '{path}' is no array: convert it again")
    return check_chunks(array)


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
            f"the axes of '{path}' are {', '.join(dims)} for shape {shape}, but must be y and x "
            "and perhaps t, c and z: convert it with a tool that writes OME-Zarr"
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
                say_once(
                    path,
                    "its scale is not one number for each of its %d axes, so the pixel size "
                    "is unknown",
                    count,
                )
                return [None] * count
            scale = [f if s is None else s * f for s, f in zip(scale, factors, strict=True)]
    return scale


def _factors(stated: object, count: int) -> list[float] | None:
    """Return a scale as positive numbers, one for each axis; None if it is something else."""
    if not isinstance(stated, list):
        return None
    factors = [parse_number(value) for value in cast("list[object]", stated)]
    usable = [f for f in factors if f is not None and 0 < f < math.inf]
    return usable if len(usable) == len(factors) == count else None
