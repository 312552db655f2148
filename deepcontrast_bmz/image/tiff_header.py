"""What the headers of a TIFF say: pixel size, channel names, axes of length one.

OME-XML, ImageJ's header, tifffile's JSON and the baseline resolution tags are read here, since
bioio-tifffile 1.3 reports 1 micrometre where the resolution has no unit, fails where ImageJ wrote
none, and takes unknown units for micrometres; bioio-ome-tiff 1.4 drops the unit, and may fetch an
older schema from the network. tifffile itself states the axes and the tags.
"""

from __future__ import annotations

__all__ = [
    "AXES_NOTE",
    "Header",
    "find_main_file",
    "find_pixels",
    "has_alpha",
    "name_files",
    "read_header",
]

import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from xml.etree import ElementTree

from deepcontrast_bmz.image.reader import complete_names
from deepcontrast_bmz.image.units import convert_to_um, parse_number, unit_um

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tifffile

AXES_NOTE = "deepcontrast_bmz/axes"
"""Namespace of the note that names the axes of length one, which OME-XML cannot tell from none."""

_COLOURS = ("red", "green", "blue")

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


def read_header(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Header:
    """Return what the header says, whoever wrote it; colour samples get the names of colours."""
    import tifffile

    page = series.keyframe
    if series.kind == "ome":
        header = _read_ome(tif, series)
    elif tif.is_imagej:
        header = _read_imagej(tif, page)
    else:
        header = _read_shaped(tif)
        if not header.sizes:
            header = header._replace(sizes=_resolution_tags(page))
    if "S" not in series.axes or page.photometric in (
        tifffile.PHOTOMETRIC.MINISBLACK,
        tifffile.PHOTOMETRIC.MINISWHITE,
    ):
        return header
    count = series.shape[series.axes.index("S")] - has_alpha(series)
    # One OME channel may have three samples; its name is then nobody's.
    if header.names is None or len(header.names) != count or count == 1:
        known = page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
        names = [*_COLOURS, *(f"extra_{i}" for i in range(1, count - 2))][:count] if known else None
        header = header._replace(names=names)
    return header._replace(notes={**header.notes, "colour_samples": True})


def has_alpha(series: tifffile.TiffPageSeries) -> bool:
    """Say whether the last sample of a pixel is how opaque it is, which is no intensity."""
    import tifffile

    extra = series.keyframe.extrasamples
    kinds = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
    return "S" in series.axes and bool(extra) and extra[-1] in kinds


def find_main_file(ome_xml: str) -> str | None:
    """Return the file that has the header, if a file of several OME-TIFFs only points to it."""
    for child in _parse_ome(ome_xml):
        if _tag(child) == "BinaryOnly":
            return child.get("MetadataFile")
    return None


def name_files(element: ElementTree.Element) -> list[str]:
    """Return the files that a part of an OME header names as holding planes, each once."""
    names = [e.get("FileName") for e in element.iter() if _tag(e) == "UUID"]
    return [name for name in dict.fromkeys(names) if name]


def find_pixels(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> ElementTree.Element | None:
    """Return the part of an OME header that describes an image; tifffile skips some images."""
    images = [e for e in _parse_ome(tif.ome_metadata or "") if _tag(e) == "Image"]
    described = iter([(e.get("Name") or "", p) for e in images for p in e if _tag(p) == "Pixels"])
    for other in tif.series:
        found = next((p for name, p in described if name == other.name and _fits(p, other)), None)
        if other is series:
            return found
    return None


def _fits(pixels: ElementTree.Element, series: tifffile.TiffPageSeries) -> bool:
    return math.prod(int(pixels.get(f"Size{axis}", 1)) for axis in "XYZCT") == series.size


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _parse_ome(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml.strip().rstrip("\0"))


def _read_ome(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Header:
    pixels = find_pixels(tif, series)
    if pixels is None:
        return Header()
    sizes = {
        axis.lower(): convert_to_um(
            pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        )
        for axis in "ZYX"
    }
    stated: tuple[str, ...] = ()
    for note in _parse_ome(tif.ome_metadata or "").iter():
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


def _read_imagej(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Header:
    """Read ImageJ's header; the slice labels of a stack of nothing but channels are names."""
    header = tif.imagej_metadata or {}
    unit = header.get("unit")
    sizes = {
        "z": convert_to_um(header.get("spacing"), header.get("zunit", unit)),
        "y": convert_to_um(_per_pixel(page, "YResolution"), header.get("yunit", unit)),
        "x": convert_to_um(_per_pixel(page, "XResolution"), unit),
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
    length = parse_number(interval)
    if length is None or not 0 < length < math.inf:
        return {}
    return {"frame_interval": length, "time_unit": str(unit)}


def _printed(unit: object, size_um: float | None) -> bool:
    """Say whether a size in inches or centimetres is the resolution of a print."""
    coarse = unit_um(unit) in (1e4, 25400.0)
    return coarse and size_um is not None and size_um > _PRINT_RESOLUTION_UM


def _read_shaped(tif: tifffile.TiffFile) -> Header:
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
            sizes[dim] = parse_number(value)
    for axis in "ZYX":
        if f"PhysicalSize{axis}" in header:
            unit = header.get(f"PhysicalSize{axis}Unit", "µm")
            sizes[axis.lower()] = convert_to_um(header[f"PhysicalSize{axis}"], unit)
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
        dim: convert_to_um(_per_pixel(page, f"{dim.upper()}Resolution"), name) for dim in ("y", "x")
    }
    return {dim: None if _printed(name, size) else size for dim, size in sizes.items()}
