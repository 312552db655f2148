"""What the headers of a TIFF say: pixel size, channel names, axes of length one.

OME-XML, ImageJ's header, tifffile's JSON and the baseline resolution tags are read here, since
bioio-tifffile 1.3 reports 1 micrometre where the resolution has no unit, fails where ImageJ wrote
none, and takes unknown units for micrometres; bioio-ome-tiff 1.4 drops the unit, and may fetch an
older schema from the network. tifffile itself states the axes and the tags.
"""

from __future__ import annotations

__all__ = ["AXES_NOTE", "Header", "main_file", "tiff_header"]

import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from xml.etree import ElementTree

from deepcontrast_bmz.image.reader import complete_names
from deepcontrast_bmz.image.units import length_um, number, unit_um

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tifffile

AXES_NOTE = "deepcontrast_bmz/axes"
"""Namespace of the note that names the axes of length one, which OME-XML cannot tell from none."""

_PRINT_RESOLUTION_UM = 20.0
# Above this a baseline resolution tag speaks of paper or screen (72 dpi is 353 micrometres).


class Header(NamedTuple):
    """Pixel size, channel names, axes of length one that are stated, and further attributes."""

    sizes: Mapping[str, float | None] = {}
    """In micrometres, None where the header says nothing."""
    names: list[str] | None = None
    stated: tuple[str, ...] = ()
    notes: Mapping[str, Any] = {}
    """As `labels` lists them."""


def tiff_header(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Header:
    """Return what the header says, whoever wrote it; colour samples get the names of colours."""
    import tifffile

    page = series.keyframe
    if series.kind == "ome":
        header = _ome_header(tif.ome_metadata or "", _number(tif, series))
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
        header = header._replace(notes={**header.notes, "colour_samples": True})
    return header


def main_file(ome_xml: str) -> str | None:
    """Return the file that has the header, if a file of several OME-TIFFs only points to it."""
    for child in _parse_ome(ome_xml):
        if _tag(child) == "BinaryOnly":
            return child.get("MetadataFile", "the file with the header")
    return None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _parse_ome(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml.strip().rstrip("\0"))


def _number(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> int:
    """Return which of the images that the OME header describes this is, from 0."""
    return next((i for i, other in enumerate(tif.series) if other is series), 0)


def _ome_header(xml: str, number: int) -> Header:
    root = _parse_ome(xml)
    described = [e for e in root.iter() if _tag(e) == "Pixels"]
    if number >= len(described):
        return Header()
    pixels = described[number]
    sizes = {
        axis.lower(): length_um(
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
    time = _time_notes(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))
    if time.get("time_unit") == "s":
        # As ImageJ, whose header is written too, calls it.
        time["time_unit"] = "sec"
    return Header(sizes, complete_names(channels), stated, time)


def _imagej_header(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Header:
    """Read ImageJ's header; the slice labels of a stack of nothing but channels are names."""
    header = tif.imagej_metadata or {}
    unit = header.get("unit")
    sizes = {
        "z": length_um(header.get("spacing"), header.get("zunit", unit)),
        "y": length_um(_per_pixel(page, "YResolution"), header.get("yunit", unit)),
        "x": length_um(_per_pixel(page, "XResolution"), unit),
    }
    sizes = {dim: None if _printed(unit, size) else size for dim, size in sizes.items()}
    notes = _time_notes(header.get("finterval"), header.get("tunit", "sec"))
    if unit_um(unit) is not None:
        notes["length_unit"] = unit
    labels = header.get("Labels")
    if not labels or int(header.get("channels", 1)) != int(header.get("images", 1)):
        return Header(sizes, notes=notes)
    names = [str(label).strip() for label in labels]
    distinct = all(names) and len(set(names)) == len(names) > 1
    return Header(sizes, names if distinct else None, notes=notes)


def _time_notes(interval: object, unit: object) -> dict[str, Any]:
    """Return the time between frames and its unit, if the header says them."""
    length = number(interval)
    if length is None or not 0 < length < math.inf:
        return {}
    return {"frame_interval": length, "time_unit": str(unit)}


def _printed(unit: object, size_um: float | None) -> bool:
    """Say whether a size in inches or centimetres is the resolution of a print."""
    coarse = unit_um(unit) in (1e4, 25400.0)
    return coarse and size_um is not None and size_um > _PRINT_RESOLUTION_UM


def _shaped_header(tif: tifffile.TiffFile) -> Header:
    """Read tifffile's JSON header; axes of length one that it states are in the series already.

    Known keys: ``PhysicalSizeX`` (with ``PhysicalSizeXUnit``) and ``Channel: {Name: [...]}`` as
    tifffile takes them for OME-TIFF, and ``voxel_um``, a list (z, y, x).
    """
    headers = cast("tuple[dict[str, Any], ...]", tif.shaped_metadata or ())
    if not headers:
        return Header()
    header = headers[0]
    sizes: dict[str, float | None] = {}
    voxel = header.get("voxel_um")
    if isinstance(voxel, list):
        given = cast("list[object]", voxel)
        for dim, value in zip("xyz", reversed(given), strict=False):
            sizes[dim] = number(value)
    for axis in "ZYX":
        if f"PhysicalSize{axis}" in header:
            unit = header.get(f"PhysicalSize{axis}Unit", "µm")
            sizes[axis.lower()] = length_um(header[f"PhysicalSize{axis}"], unit)
    channel = header.get("Channel")
    names: list[str] | None = None
    if isinstance(channel, dict):
        listed = cast("dict[str, object]", channel).get("Name")
        names = complete_names(cast("list[object]", listed)) if isinstance(listed, list) else None
    return Header(sizes, names)


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
        dim: length_um(_per_pixel(page, f"{dim.upper()}Resolution"), name) for dim in ("y", "x")
    }
    return {dim: None if _printed(name, size) else size for dim, size in sizes.items()}
