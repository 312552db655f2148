from __future__ import annotations

import contextlib
import logging
import math
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import (
    DIMS,
    channel_names,
    check_pixels,
    image_sha256,
    open_image,
    pixel_size_um,
    planes,
    read_image,
    replace_whole,
    select_channel,
    write_image,
)
from deepcontrast_bmz.image import reader as image_reading
from deepcontrast_bmz.image.pyramid import count_levels, halve, shrink_shape
from deepcontrast_bmz.image.zarr_write import create_zarr

if TYPE_CHECKING:
    from collections.abc import Callable

LENGTHS = {"t": 2, "c": 3, "z": 4, "y": 5, "x": 7}
PLANE: Any = (1, 5, 7)
SIZES = {"z": 0.1 + 0.2, "y": 0.1051, "x": 0.1051}
DTYPES = ("uint8", "uint16", "int16", "float32")
SUFFIXES = (".ome.tif", ".tiff", ".ome.zarr")


def labelled(
    dims: str,
    dtype: str = "uint16",
    *,
    names: list[str] | None = None,
    sizes: dict[str, float] | None = None,
    lengths: dict[str, int] | None = None,
) -> xr.DataArray:
    shape = [(lengths or LENGTHS)[dim] for dim in dims]
    pixels = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    coords = {"c": names} if names is not None and "c" in dims else {}
    attrs = {"pixel_size_um": {d: s for d, s in (sizes or {}).items() if d in dims}}
    return xr.DataArray(pixels, dims=list(dims), coords=coords, attrs=attrs)


def refused(function: Callable[[], object], *words: str) -> str:
    """Return the message of an InputError, after checking that it is one sentence."""
    with pytest.raises(InputError) as caught:
        function()
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    assert ". " not in message
    assert ": " in message
    for word in words:
        assert word in message
    return message


# Reading what one has written


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", ["yx", "zyx", "cyx", "czyx", "tczyx"])
def test_reading_returns_what_was_written(
    tmp_path: Path, dims: str, dtype: str, suffix: str
) -> None:
    image = labelled(dims, dtype, names=["DNA", "a < b & c", "µ-tubule"], sizes=SIZES)
    write_image(image, tmp_path / f"image{suffix}")
    again = read_image(tmp_path / f"image{suffix}")
    xr.testing.assert_identical(again, image)
    assert again.dtype == np.dtype(dtype)


@st.composite
def images(draw: st.DrawFn) -> xr.DataArray:
    dims = "".join(d for d in DIMS if d in "yx" or draw(st.booleans()))
    lengths = {d: draw(st.integers(1, 3)) for d in dims}
    alphabet = st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_categories=["Cc"])
    name = st.text(alphabet, min_size=1, max_size=6)
    count = lengths.get("c", 0)
    names = draw(st.none() | st.lists(name, min_size=count, max_size=count))
    length = st.floats(1e-3, 1e3)
    sizes = {d: draw(length) for d in ("z", "y", "x") if draw(st.booleans())}
    dtype = draw(st.sampled_from([*DTYPES, "int8", "uint32", "int32", "float64"]))
    return labelled(dims, dtype, names=names, sizes=sizes, lengths=lengths)


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
@settings(max_examples=30, deadline=None)
@given(image=images())
def test_reading_returns_any_image_that_was_written(suffix: str, image: xr.DataArray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image{suffix}"
        write_image(image, path)
        xr.testing.assert_identical(read_image(path), image)


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_a_lazy_image_is_read_and_written_plane_by_plane(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = labelled("tczyx", names=["a", "b", "c"], sizes=SIZES)
    write_image(image, tmp_path / f"in{suffix}")
    monkeypatch.setattr(image_reading, "IN_MEMORY_BYTES", 0)
    lazy = read_image(tmp_path / f"in{suffix}")
    assert isinstance(lazy.data, da.Array)
    assert max(lazy.data.chunks[0] + lazy.data.chunks[1] + lazy.data.chunks[2]) == 1
    write_image(lazy, tmp_path / f"out{suffix}")
    xr.testing.assert_identical(read_image(tmp_path / f"out{suffix}").compute(), image)


def test_a_chunk_of_a_large_zarr_image_is_a_square(tmp_path: Path) -> None:
    image = xr.DataArray(np.ones((1030, 2100), np.uint8), dims=["y", "x"])
    image[1025:, 2050:] = 7
    write_image(image, tmp_path / "image.zarr")
    stored = zarr.open_array(store=tmp_path / "image.zarr" / "0", mode="r")
    assert stored.chunks == (1024, 1024)
    np.testing.assert_array_equal(read_image(tmp_path / "image.zarr"), image)


# What other programs see


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_another_reader_sees_the_same_image(tmp_path: Path, suffix: str) -> None:
    import bioio

    image = labelled("czyx", "float32", names=["a", "b", "c"], sizes={"z": 2.0, "y": 0.5, "x": 0.5})
    write_image(image, tmp_path / f"image{suffix}")
    with warnings.catch_warnings():
        # bioio-ome-tiff 1.4 passes an argument to ome-types that is no longer used.
        warnings.filterwarnings("ignore", "As of version 0.4.0, the parser argument")
        other = bioio.BioImage(tmp_path / f"image{suffix}")
        np.testing.assert_array_equal(other.get_image_data("CZYX", T=0), image)
    assert other.channel_names == ["a", "b", "c"]
    size = other.physical_pixel_sizes
    assert (size.Z, size.Y, size.X) == (2.0, 0.5, 0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_imagej_finds_its_own_header_in_the_ome_tiff(tmp_path: Path, dtype: str) -> None:
    image = labelled("tczyx", dtype, names=["a", "b", "c"], sizes={"z": 2.0, "y": 0.5, "x": 0.5})
    write_image(image, tmp_path / "image.ome.tif")
    with tifffile.TiffFile(tmp_path / "image.ome.tif") as tif:
        page = tif.pages.first
        codes = [tag.code for tag in page.tags]
        assert codes == sorted(codes)
        assert codes.count(270) == 2
        assert page.description.startswith("<?xml")
        assert page.description1.startswith("ImageJ=")
        header = tif.imagej_metadata
        assert header is not None
        # ImageJ ignores the further pages: it takes `images` planes one after another.
        assert tif.series[0].dataoffset is not None
    assert [header[key] for key in ("images", "frames", "slices", "channels")] == [24, 2, 4, 3]
    assert (header["unit"], header["spacing"]) == ("micron", 2.0)
    assert page.tags["XResolution"].value == (2, 1)
    assert header["Labels"][:4] == ["a", "b", "c", "a"]
    # Its order of planes: channel, then slice, then frame.
    stored = tifffile.imread(tmp_path / "image.ome.tif")
    np.testing.assert_array_equal(stored, image.transpose("t", "z", "c", "y", "x"))


def test_ome_zarr_describes_axes_units_and_channels(tmp_path: Path) -> None:
    write_image(labelled("cyx", names=["a", "b", "c"], sizes={"y": 0.5}), tmp_path / "i.zarr")
    attributes = zarr.open_group(store=tmp_path / "i.zarr", mode="r").attrs.asdict()
    multiscale: Any = attributes["multiscales"]
    assert multiscale[0]["version"] == "0.4"
    assert multiscale[0]["axes"] == [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space"},
    ]
    transforms = multiscale[0]["datasets"][0]["coordinateTransformations"]
    assert transforms == [{"type": "scale", "scale": [1.0, 0.5, 1.0]}]
    omero: Any = attributes["omero"]
    assert [channel["label"] for channel in omero["channels"]] == ["a", "b", "c"]
    assert omero["channels"][1]["window"] == {"min": 35.0, "max": 69.0, "start": 35.0, "end": 69.0}


def test_the_range_of_an_ome_zarr_channel_ignores_what_is_not_finite(tmp_path: Path) -> None:
    image = labelled("cyx", "float32", names=["a", "b", "c"])
    image[0] = math.nan
    image[1, 0, 0] = math.inf
    write_image(image, tmp_path / "i.zarr")
    omero: Any = zarr.open_group(store=tmp_path / "i.zarr", mode="r").attrs["omero"]
    windows = [(c["window"]["min"], c["window"]["max"]) for c in omero["channels"]]
    assert windows == [(0.0, 1.0), (36.0, 69.0), (70.0, 104.0)]


def test_the_same_image_becomes_the_same_bytes(tmp_path: Path) -> None:
    image = labelled("czyx", names=["a", "b", "c"], sizes=SIZES)
    for suffix in (".tif", ".zarr"):
        digests: set[str] = set()
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_image(image, tmp_path / folder / f"image{suffix}")
            digests.add(image_sha256(tmp_path / folder / f"image{suffix}"))
        assert len(digests) == 1


def test_half_precision_becomes_single_precision_in_tiff(tmp_path: Path) -> None:
    image = labelled("yx", "float16")
    write_image(image, tmp_path / "i.tif")
    assert read_image(tmp_path / "i.tif").dtype == np.float32
    np.testing.assert_array_equal(read_image(tmp_path / "i.tif"), image)


# TIFF files of others


def pixels(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


TIFFS: dict[str, tuple[dict[str, Any], tuple[int, ...], str, dict[str, float], Any]] = {
    # what tifffile is told, shape, dims, pixel size, channel names
    "plane": ({"metadata": None}, (5, 7), "yx", {}, None),
    "plain stack": ({"metadata": None}, (4, 5, 7), "zyx", {}, None),
    "plain stack of one": ({"metadata": None}, (1, 5, 7), "yx", {}, None),
    "shape only": ({}, (4, 5, 7), "zyx", {}, None),
    "shape with ones": ({}, (1, 4, 5, 7), "zyx", {}, None),
    "shaped": ({"metadata": {"axes": "ZCYX"}}, (4, 3, 5, 7), "czyx", {}, None),
    "shaped with ones": ({"metadata": {"axes": "TZYX"}}, (1, 4, 5, 7), "tzyx", {}, None),
    "voxel_um": (
        {"metadata": {"axes": "ZYX", "voxel_um": [1.5, None, 0.2]}},
        (4, 5, 7),
        "zyx",
        {"z": 1.5, "x": 0.2},
        None,
    ),
    "shaped in nm": (
        {
            "metadata": {
                "axes": "CYX",
                "PhysicalSizeX": 250,
                "PhysicalSizeXUnit": "nm",
                "Channel": {"Name": ["a", "b"]},
            }
        },
        (2, 5, 7),
        "cyx",
        {"x": 0.25},
        ["a", "b"],
    ),
    "imagej": (
        {
            "imagej": True,
            "resolution": (4, 2),
            "metadata": {"axes": "TZCYX", "unit": "um", "spacing": 3.0},
        },
        (2, 4, 3, 5, 7),
        "tczyx",
        {"z": 3.0, "y": 0.5, "x": 0.25},
        None,
    ),
    "imagej in mm": (
        {
            "imagej": True,
            "resolution": (4000, 2000),
            "metadata": {"axes": "ZYX", "unit": "mm", "spacing": 0.003},
        },
        (4, 5, 7),
        "zyx",
        {"z": 3.0, "y": 0.5, "x": 0.25},
        None,
    ),
    "imagej with an escaped unit": (
        {"imagej": True, "resolution": (4, 4), "metadata": {"axes": "ZYX", "unit": "\\u00B5m"}},
        (4, 5, 7),
        "zyx",
        {"y": 0.25, "x": 0.25},
        None,
    ),
    "imagej in pixels": (
        {"imagej": True, "metadata": {"axes": "ZYX", "unit": "pixel", "spacing": 2.0}},
        (4, 5, 7),
        "zyx",
        {},
        None,
    ),
    "imagej without unit": (
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        (4, 5, 7),
        "zyx",
        {},
        None,
    ),
    "imagej at 72 dpi": (
        {
            "imagej": True,
            "resolution": (72, 72),
            "resolutionunit": "INCH",
            "metadata": {"axes": "ZYX", "unit": "inch"},
        },
        (4, 5, 7),
        "zyx",
        {},
        None,
    ),
    "imagej with labels": (
        {"imagej": True, "metadata": {"axes": "CYX", "Labels": ["DNA", "actin"]}},
        (2, 5, 7),
        "cyx",
        {},
        ["DNA", "actin"],
    ),
    "imagej labels of slices": (
        {"imagej": True, "metadata": {"axes": "ZYX", "Labels": ["1", "2", "3", "4"]}},
        (4, 5, 7),
        "zyx",
        {},
        None,
    ),
    "ome in nm": (
        {
            "ome": True,
            "metadata": {
                "axes": "ZCYX",
                "PhysicalSizeX": 250.0,
                "PhysicalSizeXUnit": "nm",
                "PhysicalSizeY": 0.5,
                "PhysicalSizeZ": 0.002,
                "PhysicalSizeZUnit": "mm",
                "Channel": {"Name": ["a", "b", "c"]},
            },
        },
        (4, 3, 5, 7),
        "czyx",
        {"z": 2.0, "y": 0.5, "x": 0.25},
        ["a", "b", "c"],
    ),
    "ome with one plane": (
        {"ome": True, "metadata": {"axes": "TCZYX"}},
        (1, 1, 1, 5, 7),
        "yx",
        {},
        None,
    ),
    "ome with one named channel": (
        {"ome": True, "metadata": {"axes": "CZYX", "Channel": {"Name": ["DAPI"]}}},
        (1, 4, 5, 7),
        "czyx",
        {},
        ["DAPI"],
    ),
    "ome with an unknown unit": (
        {"ome": True, "metadata": {"PhysicalSizeX": 3.0, "PhysicalSizeXUnit": "pixel"}},
        (5, 7),
        "yx",
        {},
        None,
    ),
    "rgb": ({"photometric": "rgb"}, (5, 7, 3), "cyx", {}, ["red", "green", "blue"]),
    "rgba": ({"photometric": "rgb"}, (5, 7, 4), "cyx", {}, ["red", "green", "blue"]),
    "planar rgb stack": (
        {"photometric": "rgb", "planarconfig": "separate", "metadata": {"axes": "ZSYX"}},
        (4, 3, 5, 7),
        "czyx",
        {},
        ["red", "green", "blue"],
    ),
    "ome rgb": (
        {"photometric": "rgb", "ome": True, "metadata": {"Channel": {"Name": "stain"}}},
        (5, 7, 3),
        "cyx",
        {},
        ["red", "green", "blue"],
    ),
    "tags in cm": (
        {"metadata": None, "resolution": (20000, 40000), "resolutionunit": "CENTIMETER"},
        (5, 7),
        "yx",
        {"y": 0.25, "x": 0.5},
        None,
    ),
    "tags of a print": (
        {"metadata": None, "resolution": (300, 300), "resolutionunit": "INCH"},
        (5, 7),
        "yx",
        {},
        None,
    ),
    "tags without unit": (
        {"metadata": None, "resolution": (3, 3), "resolutionunit": "NONE"},
        (5, 7),
        "yx",
        {},
        None,
    ),
    "big endian": ({"metadata": None, "byteorder": ">"}, (4, 5, 7), "zyx", {}, None),
    "compressed tiles": (
        {"metadata": None, "tile": (16, 16), "compression": "zlib"},
        (4, 5, 7),
        "zyx",
        {},
        None,
    ),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("case", TIFFS)
def test_a_tiff_of_another_program(
    tmp_path: Path, case: str, lazy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, shape, dims, sizes, names = TIFFS[case]
    # ImageJ and OME only know some kinds of pixels and colours; 16 bits are known to all.
    dtype = "uint8" if told.get("photometric") == "rgb" else "uint16"
    content = pixels(*shape, dtype=dtype)
    arguments: dict[str, Any] = {"photometric": "minisblack", **told}
    tifffile.imwrite(tmp_path / "i.tif", content, **arguments)
    if lazy:
        monkeypatch.setattr(image_reading, "IN_MEMORY_BYTES", 0)
    image = read_image(tmp_path / "i.tif")
    assert "".join(str(d) for d in image.dims) == dims
    assert image.attrs["pixel_size_um"] == pytest.approx(sizes, rel=1e-6)
    assert channel_names(image) == (None if names is None else tuple(names))
    assert image.dtype == np.dtype(dtype)
    assert image.dtype.isnative
    order = {"ZCYX": (1, 0, 2, 3), "TZCYX": (0, 2, 1, 3, 4), "ZSYX": (1, 0, 2, 3)}
    axes = str((told.get("metadata") or {}).get("axes", ""))
    # A fourth sample is alpha.
    expected = np.moveaxis(content, -1, 0)[:3] if dims == "cyx" and shape[-1] < 5 else content
    if axes in order:
        expected = content.transpose(order[axes])
    np.testing.assert_array_equal(image, expected.reshape(image.shape))


def test_micro_sign_is_understood_in_all_its_spellings(tmp_path: Path) -> None:
    for unit in ("µm", "μm", "Âµm", "micron", "microns", "um", "micrometre"):
        header = f"ImageJ=1.54f\nimages=2\nslices=2\nunit={unit}\nspacing=3.0\n"
        with tifffile.TiffWriter(tmp_path / "i.tif") as writer:
            writer.write(
                pixels(2, 5, 7),
                photometric="minisblack",
                description=header.encode(),
                metadata=None,
                resolution=(2, 2),
                resolutionunit="NONE",
            )
        image = read_image(tmp_path / "i.tif")
        assert image.attrs["pixel_size_um"] == {"z": 3.0, "y": 0.5, "x": 0.5}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("told", "notes"),
    [
        ({"finterval": 0.5}, {"frame_interval": 0.5, "time_unit": "sec"}),
        (
            {"finterval": 2, "tunit": "min", "unit": "nm"},
            {"frame_interval": 2.0, "time_unit": "min", "length_unit": "nm"},
        ),
        ({"finterval": 0, "unit": "furlong"}, {}),
        ({"unit": "micron"}, {"length_unit": "micron"}),
    ],
)
def test_an_imagej_header_comes_back_as_it_was(
    tmp_path: Path,
    told: dict[str, Any],
    notes: dict[str, Any],
    lazy: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interval and units, in ImageJ's header and, in seconds, in that of OME."""
    if lazy:
        monkeypatch.setattr(image_reading, "IN_MEMORY_BYTES", 0)
    content, path = pixels(3, 5, 7), tmp_path / "i.tif"
    tifffile.imwrite(
        path, content, imagej=True, resolution=(4, 2), metadata={"axes": "TYX", **told}
    )
    image = read_image(path)
    assert {key: image.attrs[key] for key in image.attrs if key != "pixel_size_um"} == notes
    write_image(image, tmp_path / "o.tif")
    with tifffile.TiffFile(tmp_path / "o.tif") as tif:
        page = tif.pages.first
        header = [tag.value for tag in page.tags if tag.code == 270][-1].splitlines()
        for key in ("finterval", "tunit"):
            wanted = [f"{key}={told[key]}"] if told.get(key) else []
            found = [line for line in header if line.startswith(f"{key}=")]
            assert [line.replace(".0", "") for line in found] == wanted
        if "length_unit" in notes:
            assert f"unit={told['unit']}" in header
            assert page.tags["XResolution"].value == (4, 1)
    again = read_image(tmp_path / "o.tif")
    assert again.attrs["pixel_size_um"] == pytest.approx(image.attrs["pixel_size_um"])
    seconds = {"sec": 1.0, "min": 60.0}
    if "frame_interval" in notes:
        interval = notes["frame_interval"] * seconds[notes["time_unit"]]
        assert (again.attrs["frame_interval"], again.attrs["time_unit"]) == (interval, "sec")


STRANGE_TIFFS: dict[str, tuple[dict[str, Any], tuple[int, ...], str]] = {
    "two unknown axes": ({}, (3, 4, 5, 7), "OME-TIFF"),
    "colour and channels": (
        {"photometric": "rgb", "metadata": {"axes": "CYXS"}},
        (2, 5, 7, 3),
        "OME-TIFF",
    ),
    "another axis": ({"metadata": {"axes": "EYX"}}, (4, 5, 7), "OME-TIFF"),
}


@pytest.mark.parametrize("case", STRANGE_TIFFS)
def test_a_tiff_with_axes_that_are_none_of_ours_is_refused(tmp_path: Path, case: str) -> None:
    told, shape, words = STRANGE_TIFFS[case]
    arguments: dict[str, Any] = {"photometric": "minisblack", **told}
    tifffile.imwrite(tmp_path / "i.tif", pixels(*shape, dtype="uint8"), **arguments)
    refused(lambda: read_image(tmp_path / "i.tif"), words, "i.tif")


def test_a_tiff_with_two_images_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "i.tif") as writer:
        writer.write(pixels(5, 7), photometric="minisblack")
        writer.write(pixels(9, 3), photometric="minisblack")
    refused(lambda: read_image(tmp_path / "i.tif"), "holds 2", "of its own", "--scene")


def test_an_ome_header_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for broken in ("<OME><Image></OME>", '<?xml version="1.0"?><OME></OME>'):
        tifffile.imwrite(
            tmp_path / "i.tif",
            pixels(4, 5, 7),
            photometric="minisblack",
            description=broken,
            metadata=None,
        )
        refused(lambda: read_image(tmp_path / "i.tif"), "i.tif")


def test_a_part_of_an_ome_tiff_whose_main_file_is_missing_is_read_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tifffile.imwrite(
        tmp_path / "part.ome.tif",
        pixels(5, 7),
        photometric="minisblack",
        metadata=None,
        description=(
            '<?xml version="1.0"?><OME><BinaryOnly MetadataFile="main.ome.tif" UUID="u"/></OME>'
        ),
    )
    np.testing.assert_array_equal(read_image(tmp_path / "part.ome.tif"), pixels(5, 7))
    assert "its header is in 'main.ome.tif', which is missing" in caplog.text


def test_an_ome_tiff_of_two_files_needs_both(tmp_path: Path) -> None:
    pages = pixels(2, 5, 7)
    names = ("one.ome.tif", "two.ome.tif")
    data = "".join(
        f'<TiffData FirstZ="{i}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{i}</UUID></TiffData>'
        for i, name in enumerate(names)
    )
    for i, name in enumerate(names):
        tifffile.imwrite(
            tmp_path / name,
            pages[i],
            photometric="minisblack",
            metadata=None,
            description=(
                f'<?xml version="1.0"?><OME UUID="urn:uuid:{i}"><Image><Pixels '
                'DimensionOrder="XYZCT" Type="uint16" SizeX="7" SizeY="5" SizeZ="2" SizeC="1" '
                f'SizeT="1"><Channel/>{data}</Pixels></Image></OME>'
            ),
        )
    image = read_image(tmp_path / names[0])
    assert image.dims == ("z", "y", "x")
    np.testing.assert_array_equal(image, pages)
    (tmp_path / names[1]).unlink()
    refused(lambda: read_image(tmp_path / names[0]), "'two.ome.tif' is missing")


WHOLE: dict[str, dict[str, Any]] = {
    "plain": {"metadata": None},
    "plain compressed": {"metadata": None, "compression": "zlib"},
    "strips": {"metadata": None, "rowsperstrip": 4},
    "big": {"metadata": None, "bigtiff": True},
    "big endian": {"metadata": None, "byteorder": ">"},
    "shaped": {},
    "shaped compressed": {"compression": "zlib"},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "imagej compressed": {"imagej": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "ome compressed": {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "lzw"},
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_tiff_cut_short_is_refused_or_gives_all_its_pixels(tmp_path: Path, case: str) -> None:
    content = np.random.default_rng(0).integers(0, 9999, (4, 12, 15)).astype("uint16")
    arguments: dict[str, Any] = {"photometric": "minisblack", **WHOLE[case]}
    tifffile.imwrite(tmp_path / "whole.tif", content, **arguments)
    whole = (tmp_path / "whole.tif").read_bytes()
    np.testing.assert_array_equal(read_image(tmp_path / "whole.tif"), content)
    refusals = 0
    for length in (1, 4, 8, 30, *range(60, len(whole), len(whole) // 25), len(whole) - 1):
        (tmp_path / "cut.tif").write_bytes(whole[:length])
        try:
            image = read_image(tmp_path / "cut.tif")
        except InputError:
            refusals += 1
            continue
        np.testing.assert_array_equal(image, content)
    assert refusals > 15


# OME-Zarr of others


def store_zarr(
    path: Path,
    axes: Any,
    shape: tuple[int, ...],
    *,
    scale: list[float] | None = None,
    version: str = "0.4",
    extra: dict[str, Any] | None = None,
    overall: list[dict[str, Any]] | None = None,
    before: list[dict[str, Any]] | None = None,
) -> np.ndarray:
    content = pixels(*shape)
    group = zarr.open_group(store=path, mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("s0", data=content)
    dataset: dict[str, Any] = {"path": "s0"}
    if scale is not None:
        steps = [*(before or []), {"type": "scale", "scale": scale}]
        dataset["coordinateTransformations"] = steps
    multiscale: dict[str, Any] = {"datasets": [dataset]}
    if axes is not None:
        multiscale["axes"] = axes
    if overall is not None:
        multiscale["coordinateTransformations"] = overall
    metadata: dict[str, Any] = {"multiscales": [multiscale], **(extra or {})}
    group.attrs.update({"ome": {"version": version, **metadata}} if version == "0.5" else metadata)
    return content


def axes_of(letters: str, unit: str | None = "micrometer") -> list[dict[str, str]]:
    kinds = {"t": "time", "c": "channel"}
    given_unit = {} if unit is None else {"unit": unit}
    return [
        {"name": d, "type": kinds.get(d, "space"), **(given_unit if d in "zyx" else {})}
        for d in letters
    ]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_of_another_program(tmp_path: Path, version: str) -> None:
    content = store_zarr(
        tmp_path / "i.zarr",
        axes_of("tczyx", "nanometer"),
        (1, 2, 3, 5, 7),
        scale=[1.0, 1.0, 2000.0, 500.0, 250.0],
        before=[{"type": "translation", "translation": [0.0] * 5}],
        overall=[{"type": "scale", "scale": [1.0, 1.0, 1.0, 1.0, 2.0]}],
        version=version,
        extra={"omero": {"channels": [{"label": "a"}, {}]}},
    )
    image = read_image(tmp_path / "i.zarr")
    # OME-Zarr states its axes, so the single time point stays.
    assert image.dims == ("t", "c", "z", "y", "x")
    assert image.attrs["pixel_size_um"] == pytest.approx({"z": 2.0, "y": 0.5, "x": 0.5})
    assert channel_names(image) == ("a", "channel_2")
    np.testing.assert_array_equal(image, content)


def test_axes_of_an_ome_zarr_are_put_in_our_order(tmp_path: Path) -> None:
    content = store_zarr(tmp_path / "i.zarr", axes_of("xyzc"), (7, 5, 3, 2), scale=[1, 2, 3, 1])
    image = read_image(tmp_path / "i.zarr")
    assert image.dims == ("c", "z", "y", "x")
    assert image.attrs["pixel_size_um"] == {"z": 3.0, "y": 2.0, "x": 1.0}
    np.testing.assert_array_equal(image, content.T)


@pytest.mark.parametrize(
    ("axes", "shape", "scale", "dims", "sizes"),
    [
        (axes_of("yx", None), (5, 7), [1.0, 1.0], "yx", {}),
        (axes_of("yx", None), (5, 7), [0.5, 0.5], "yx", {"y": 0.5, "x": 0.5}),
        (axes_of("yx", "pixel"), (5, 7), [0.5, 0.5], "yx", {}),
        (axes_of("yx"), (5, 7), None, "yx", {}),
        (["z", "y", "x"], (3, 5, 7), None, "zyx", {}),
        (None, (1, 2, 3, 5, 7), None, "tczyx", {}),
    ],
)
def test_older_and_sparser_ome_zarr(
    tmp_path: Path,
    axes: Any,
    shape: tuple[int, ...],
    scale: list[float] | None,
    dims: str,
    sizes: dict[str, float],
) -> None:
    store_zarr(tmp_path / "i.zarr", axes, shape, scale=scale)
    image = read_image(tmp_path / "i.zarr")
    assert "".join(str(d) for d in image.dims) == dims
    assert image.attrs["pixel_size_um"] == sizes


def test_the_one_image_of_a_bioformats2raw_folder_is_found(tmp_path: Path) -> None:
    root = zarr.open_group(store=tmp_path / "i.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    content = store_zarr(tmp_path / "i.zarr" / "0", axes_of("yx"), (5, 7))
    np.testing.assert_array_equal(read_image(tmp_path / "i.zarr"), content)
    np.testing.assert_array_equal(read_image(tmp_path / "i.zarr" / "0"), content)
    store_zarr(tmp_path / "i.zarr" / "1", axes_of("yx"), (5, 7))
    refused(lambda: read_image(tmp_path / "i.zarr"), "holds 2", "(0: 0, 1: 1)", "--scene")
    np.testing.assert_array_equal(read_image(tmp_path / "i.zarr", scene=1), content)


def test_folders_that_are_no_ome_zarr_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "i.zarr"
    path.mkdir()
    refused(lambda: read_image(path), "i.zarr", "OME-Zarr")
    zarr.open_group(store=path, mode="w", zarr_format=2)
    refused(lambda: read_image(path), "i.zarr", "multiscales")
    zarr.open_group(store=path, mode="w", zarr_format=2).attrs["plate"] = {"wells": []}
    refused(lambda: read_image(path), "i.zarr", "no image")
    zarr.create_array(store=tmp_path / "array.zarr", data=pixels(5, 7))
    refused(lambda: read_image(tmp_path / "array.zarr"), "array.zarr", "bare array")
    store_zarr(tmp_path / "axes.zarr", axes_of("zyx"), (5, 7))
    refused(lambda: read_image(tmp_path / "axes.zarr"), "z, y, x", "(5, 7)")
    store_zarr(tmp_path / "odd.zarr", [{"name": n} for n in ("angle", "y", "x")], (3, 5, 7))
    refused(lambda: read_image(tmp_path / "odd.zarr"), "angle, y, x")
    store_zarr(tmp_path / "torn.zarr", axes_of("yx"), (5, 7))
    (tmp_path / "torn.zarr" / "s0" / ".zarray").write_text("{")
    refused(lambda: read_image(tmp_path / "torn.zarr"), "torn.zarr")


# In parts


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
@pytest.mark.parametrize("dims", ["yx", "zyx", "cyx", "tczyx"])
def test_parts_of_an_open_image_are_those_of_the_image(
    tmp_path: Path, dims: str, suffix: str
) -> None:
    image = labelled(dims, names=["a", "b", "c"], sizes=SIZES)
    write_image(image, tmp_path / f"i{suffix}")
    opened = open_image(tmp_path / f"i{suffix}")
    assert opened.shape == image.shape
    assert opened.nbytes == image.nbytes
    xr.testing.assert_identical(opened.labelled().compute(), image)
    last = tuple(n - 1 for n in image.shape[:-2])
    np.testing.assert_array_equal(
        opened.pixels[(*last, slice(1, 4), slice(2, 7))],
        image.values[(*last, slice(1, 4), slice(2, 7))],
    )
    np.testing.assert_array_equal(opened.pixels[..., 3], image.values[..., 3])
    if "c" in dims:
        xr.testing.assert_identical(
            opened.channel("b").labelled().compute(), select_channel(image, "b")
        )


def test_a_part_of_a_tiled_tiff_decodes_no_more_than_its_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pixels(64, 96)
    tifffile.imwrite(tmp_path / "i.tif", content, tile=(16, 16), compression="zlib")
    opened = open_image(tmp_path / "i.tif")
    read: list[int] = []
    seek = tifffile.FileHandle.read_segments

    def count(self: Any, offsets: Any, *args: Any, **rest: Any) -> Any:
        read.append(len(offsets))
        return seek(self, offsets, *args, **rest)

    monkeypatch.setattr(tifffile.FileHandle, "read_segments", count)
    np.testing.assert_array_equal(opened.pixels[17:31, 33:47], content[17:31, 33:47])
    assert sum(read) <= 1


def test_an_uncompressed_tiff_is_mapped_where_it_lies(tmp_path: Path) -> None:
    from deepcontrast_bmz.image.lazy_arrays import MappedPixels, Stacked

    content = pixels(3, 50, 70)
    tifffile.imwrite(tmp_path / "i.tif", content, photometric="minisblack", byteorder=">")
    with tifffile.TiffWriter(tmp_path / "apart.tif") as writer:
        for plane in content:
            writer.write(plane, contiguous=False, metadata=None, extratags=())
    one, apart = (open_image(tmp_path / name) for name in ("i.tif", "apart.tif"))
    assert isinstance(one.pixels.pixels.pixels, MappedPixels)  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(apart.pixels.pixels.pixels, Stacked)  # pyright: ignore[reportAttributeAccessIssue]
    for image in (one, apart):
        assert image.pixels.dtype.isnative
        np.testing.assert_array_equal(image.pixels[1, 4:40, 7:9], content[1, 4:40, 7:9])


# Folders of planes


def store_planes(folder: Path, names: list[str]) -> np.ndarray:
    folder.mkdir()
    content = pixels(len(names), 5, 7)
    for name, plane in zip(names, content, strict=True):
        tifffile.imwrite(folder / name, plane, resolution=(2, 2), resolutionunit="MICROMETER")
    return content


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize(
    ("names", "dims", "shape"),
    [
        ([f"plane_{i}.tif" for i in range(8, 12)], "zyx", (4, 5, 7)),
        ([f"{i}.TIF" for i in range(4)], "zyx", (4, 5, 7)),
        ([f"run2_t{i:03}.tif" for i in range(4)], "tyx", (4, 5, 7)),
        ([f"a_z{z}_x.tif" for z in range(3)], "zyx", (3, 5, 7)),
        ([f"a_T{t}_Z{z:02}.tif" for t in (3, 7) for z in range(3)], "tzyx", (2, 3, 5, 7)),
        ([f"s1_c{c}_z{z}.tif" for c in range(2) for z in range(2)], "czyx", (2, 2, 5, 7)),
        (["only.tif"], "zyx", (1, 5, 7)),
    ],
)
def test_a_folder_of_planes_is_a_stack(
    tmp_path: Path,
    names: list[str],
    dims: str,
    shape: tuple[int, ...],
    lazily: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = store_planes(tmp_path / "planes", names)
    (tmp_path / "planes" / "notes.txt").write_text("ten years")
    if lazily:
        monkeypatch.setattr(image_reading, "IN_MEMORY_BYTES", 0)
    image = read_image(tmp_path / "planes")
    assert "".join(str(dim) for dim in image.dims) == dims
    np.testing.assert_array_equal(image, content.reshape(shape))
    assert image.attrs["pixel_size_um"] == {"y": 0.5, "x": 0.5}


def test_folders_that_are_no_stack_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(lambda: read_image(tmp_path / "empty"), "neither")
    store_planes(tmp_path / "gap", ["t0_z0.tif", "t1_z0.tif", "t1_z1.tif"])
    refused(lambda: read_image(tmp_path / "gap"), "2 t x 2 z", "3 planes")
    store_planes(tmp_path / "odd", ["a1.tif", "a2.tif"])
    tifffile.imwrite(tmp_path / "odd" / "a3.tif", pixels(6, 7))
    refused(lambda: read_image(tmp_path / "odd"), "a3.tif", "one size")
    store_planes(tmp_path / "stacks", ["a1.tif"])
    tifffile.imwrite(
        tmp_path / "stacks" / "a0.tif", pixels(2, 5, 7), photometric="minisblack", metadata=None
    )
    refused(lambda: read_image(tmp_path / "stacks"), "a0.tif", "one plane each")


# Pyramids


def test_a_level_is_the_mean_of_two_by_two() -> None:
    content = np.arange(20, dtype=np.float32).reshape(4, 5)
    expected = [[3.0, 5.0, 6.5], [13.0, 15.0, 16.5]]
    np.testing.assert_array_equal(halve(content), expected)
    assert halve(np.array([[0, 1], [1, 1]], np.uint8)).tolist() == [[1]]
    assert halve(np.full((3, 1, 1), 2**31, np.uint32)).tolist() == [[[2**31]]] * 3
    assert [count_levels((9, n, 5)) for n in (1, 1024, 1025, 4096, 4097)] == [1, 1, 2, 3, 4]
    assert shrink_shape((9, 2051, 5), 2) == (9, 513, 2)


def reduced(image: np.ndarray, level: int) -> np.ndarray:
    for _ in range(level):
        image = halve(image)
    return image


@pytest.mark.parametrize("lazy", [False, True])
def test_a_large_ome_zarr_has_levels_with_right_sizes(tmp_path: Path, lazy: bool) -> None:
    lengths = {"c": 2, "y": 2500, "x": 1501}
    image = labelled("cyx", "uint16", sizes={"y": 0.5, "x": 0.25}, lengths=lengths)
    written = image.chunk({"c": 1}) if lazy else image
    write_image(written, tmp_path / "i.zarr")
    group = zarr.open_group(store=tmp_path / "i.zarr", mode="r")
    multiscale: Any = group.attrs["multiscales"]
    datasets = multiscale[0]["datasets"]
    assert [dataset["path"] for dataset in datasets] == ["0", "1", "2"]
    assert multiscale[0]["type"] == "mean"
    assert datasets[2]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 2.0, 1.0]},
        {"type": "translation", "translation": [0.0, 0.75, 0.375]},
    ]
    for level in range(3):
        np.testing.assert_array_equal(group[str(level)], reduced(image.values, level))  # pyright: ignore[reportArgumentType]
    xr.testing.assert_identical(read_image(tmp_path / "i.zarr"), image)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dims", ["yx", "zcyx"])
def test_a_large_ome_tiff_is_a_pyramid_of_tiles(tmp_path: Path, dims: str, lazy: bool) -> None:
    lengths = {"z": 2, "c": 2, "y": 70, "x": 4200}
    order = "".join(dim for dim in "czyx" if dim in dims)
    image = labelled(order, "float32", names=["a", "b"], sizes=SIZES, lengths=lengths)
    write_image(image.chunk({"x": 700}) if lazy else image, tmp_path / "i.tif")
    xr.testing.assert_identical(read_image(tmp_path / "i.tif"), image)
    with tifffile.TiffFile(tmp_path / "i.tif") as tif:
        assert tif.is_ome
        assert tif.pages.first.is_tiled
        levels = tif.series[0].levels
        assert len(levels) == count_levels(image.shape) == 4
        expected = image.transpose(*(d for d in "zcyx" if d in dims)).values
        for level, series in enumerate(levels):
            np.testing.assert_array_equal(series.asarray(), reduced(expected, level))
    assert [p.name for p in tmp_path.iterdir()] == ["i.tif"]


def test_an_ome_zarr_without_a_description_is_none(tmp_path: Path) -> None:
    create_zarr(tmp_path / "i.zarr", (5, 7), np.dtype(np.float32))
    refused(lambda: read_image(tmp_path / "i.zarr"), "multiscales")


# Other formats


class FakeBioImage:
    """Speaks like bioio.BioImage with a reader that is not installed here."""

    def __init__(self, shape: tuple[int, ...], names: list[str], scenes: int = 1) -> None:
        content = da.from_array(pixels(*shape))
        coords = {"C": names}
        self.xarray_dask_data = xr.DataArray(content, dims=list("TCZYX"), coords=coords)
        self.scenes = tuple(f"Image:{i}" for i in range(scenes))
        self.reader = self

        class Sizes:
            Z, Y, X = None, 0.5, 0.25

        self.physical_pixel_sizes = Sizes()


def opens(image: FakeBioImage) -> Callable[[Path], FakeBioImage]:
    def open_path(_: Path) -> FakeBioImage:
        return image

    return open_path


@pytest.mark.parametrize(
    ("shape", "given_names", "dims", "names"),
    [
        ((1, 2, 3, 5, 7), ["a", "b"], "czyx", ("a", "b")),
        ((1, 1, 3, 5, 7), ["DAPI"], "czyx", ("DAPI",)),
        ((1, 1, 1, 5, 7), ["Channel:0:0"], "yx", None),
        ((2, 2, 1, 5, 7), ["Channel:0:0", "Channel:0:1"], "tcyx", None),
    ],
)
def test_formats_of_installed_bioio_readers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    given_names: list[str],
    dims: str,
    names: tuple[str, ...] | None,
) -> None:
    import bioio

    (tmp_path / "i.czi").write_bytes(b"pixels")
    monkeypatch.setattr(bioio, "BioImage", opens(FakeBioImage(shape, given_names)))
    image = read_image(tmp_path / "i.czi")
    assert "".join(str(d) for d in image.dims) == dims
    assert channel_names(image) == names
    assert image.attrs["pixel_size_um"] == {"y": 0.5, "x": 0.25}
    np.testing.assert_array_equal(image, pixels(*shape).reshape(image.shape))
    monkeypatch.setattr(bioio, "BioImage", opens(FakeBioImage(shape, given_names, 3)))
    refused(lambda: read_image(tmp_path / "i.czi"), "holds 3")


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    refused(lambda: read_image(tmp_path / "notes.txt"), ".tif", ".zarr", "notes.txt", "bioio")


def test_without_bioio_another_format_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bioio", None)
    (tmp_path / "i.czi").write_bytes(b"pixels")
    refused(lambda: read_image(tmp_path / "i.czi"), "i.czi", "deepcontrast_bmz[bioio]")


# Bad files


def test_bad_files_are_refused(tmp_path: Path) -> None:
    refused(lambda: read_image(tmp_path / "none.tif"), "none.tif", "spelling")
    (tmp_path / "empty.tif").touch()
    refused(lambda: read_image(tmp_path / "empty.tif"), "is empty")
    (tmp_path / "text.tif").write_text("x,y\n1,2\n")
    refused(lambda: read_image(tmp_path / "text.tif"), "text.tif", "TIFF")
    tifffile.imwrite(tmp_path / "mask.tif", np.ones((5, 7), bool))
    refused(lambda: read_image(tmp_path / "mask.tif"), "mask")
    tifffile.imwrite(tmp_path / "wave.tif", np.ones((5, 7), np.complex64))
    refused(lambda: read_image(tmp_path / "wave.tif"), "complex")
    store_zarr(tmp_path / "none.zarr", axes_of("zyx"), (0, 5, 7))
    refused(lambda: read_image(tmp_path / "none.zarr"), "(0, 5, 7)")


def test_bad_files_say_nothing_on_the_side(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A new process, since pytest itself listens to loggers."""
    tifffile.imwrite(tmp_path / "whole.tif", pixels(4, 50, 70), ome=True, photometric="minisblack")
    whole = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) * 2 // 3])
    script = (
        "import sys; from pathlib import Path\n"
        "from deepcontrast_bmz.image import read_image\n"
        "assert not {'torch', 'tifffile', 'zarr', 'bioio', 'dask'} & set(sys.modules)\n"
        "try: read_image(Path(sys.argv[1]))\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", script, str(tmp_path / "cut.tif")], check=True
    )
    assert done.returncode == 0
    out, err = capfd.readouterr()
    assert "ends too early" in out
    assert "cut.tif" in out
    assert err == ""


def test_reading_leaves_the_loggers_as_they_were(tmp_path: Path) -> None:
    speaker = logging.getLogger("tifffile")
    before = (speaker.propagate, list(speaker.handlers))
    (tmp_path / "text.tif").write_text("no image")
    refused(lambda: read_image(tmp_path / "text.tif"))
    assert (speaker.propagate, list(speaker.handlers)) == before


# Writing


def test_writing_where_it_cannot_be_is_refused(tmp_path: Path) -> None:
    image = labelled("yx")
    refused(lambda: write_image(image, tmp_path / "i.png"), ".tif", ".zarr", "i.png")
    refused(lambda: write_image(image, tmp_path / "none" / "i.tif"), "none", "create")
    (tmp_path / "folder.tif").mkdir()
    refused(lambda: write_image(image, tmp_path / "folder.tif"), "folder")
    (tmp_path / "file.zarr").touch()
    refused(lambda: write_image(image, tmp_path / "file.zarr"), "file.zarr")
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.txt").write_text("ten years")
    refused(lambda: write_image(image, tmp_path / "mine.zarr"), "mine.zarr")
    assert (tmp_path / "mine.zarr" / "thesis.txt").read_text() == "ten years"
    refused(lambda: write_image(labelled("yx", "int64"), tmp_path / "i.tif"), "int64")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["file.zarr", "folder.tif", "mine.zarr"]


@pytest.mark.parametrize(
    "image",
    [
        xr.DataArray(np.zeros((5, 7)), dims=["x", "y"]),
        xr.DataArray(np.zeros((2, 5, 7)), dims=["b", "y", "x"]),
        xr.DataArray(np.zeros((5, 7), bool), dims=["y", "x"]),
        xr.DataArray(np.zeros((0, 7)), dims=["y", "x"]),
    ],
)
def test_what_is_no_image_is_not_written(tmp_path: Path, image: xr.DataArray) -> None:
    with pytest.raises(ValueError, match="image"):
        write_image(image, tmp_path / "i.tif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_an_image_that_fails_while_it_is_written_leaves_the_old_one(
    tmp_path: Path, suffix: str
) -> None:
    def fail(block: np.ndarray, block_id: tuple[int, ...]) -> np.ndarray:
        if block_id[0] == 3:
            raise RuntimeError("the network fell over")
        return block

    old = labelled("zyx")
    path = tmp_path / f"i{suffix}"
    write_image(old, path)
    content = da.from_array(pixels(4, 5, 7), chunks=PLANE).map_blocks(fail, dtype="uint16")
    with pytest.raises(RuntimeError, match="fell over"):
        write_image(xr.DataArray(content, dims=["z", "y", "x"]), path)
    xr.testing.assert_identical(read_image(path), old)
    assert list(tmp_path.iterdir()) == [path]
    new = labelled("yx", "float32")
    write_image(new, path)
    xr.testing.assert_identical(read_image(path), new)
    assert list(tmp_path.iterdir()) == [path]


def test_replace_whole_makes_files_and_folders_at_once(tmp_path: Path) -> None:
    with replace_whole(tmp_path / "a.txt") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".txt"
        assert not temporary.exists()
        temporary.write_text("new")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "new"
    for content in ("first", "second"):
        with replace_whole(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["second"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "folder"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_replace_whole_leaves_nothing_on_failure(tmp_path: Path, kind: type[BaseException]) -> None:
    (tmp_path / "a.txt").write_text("old")

    def half_a_file() -> None:
        with replace_whole(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise kind

    def half_a_folder() -> None:
        with replace_whole(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / "half").touch()
            raise kind

    with pytest.raises(kind):
        half_a_file()
    with pytest.raises(kind):
        half_a_folder()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_replace_whole_refuses_a_file_for_a_folder_and_the_reverse(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")

    def file_for_folder() -> None:
        with replace_whole(tmp_path / "folder") as temporary:
            temporary.write_text("new")

    def folder_for_file() -> None:
        with replace_whole(tmp_path / "file") as temporary:
            temporary.mkdir()

    refused(file_for_folder, "is a folder already")
    refused(folder_for_file, "is a file already")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


def test_replace_whole_refuses_places_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write() -> None:
        with replace_whole(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")

    def full() -> None:
        with replace_whole(tmp_path / "a.txt"):
            raise OSError(28, "No space left on device")

    refused(full, "no room", "a.txt")

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", deny)
    refused(write, str(tmp_path), "Permission denied")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_comes_back_if_its_successor_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    rename = Path.rename

    def stumble(self: Path, target: Path) -> Path:
        if ".old." not in self.name and ".old." not in target.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stumble)
    with pytest.raises(OSError, match="Input/output"), replace_whole(tmp_path / "folder") as new:
        new.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "old").exists()


def test_replace_whole_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to(tmp_path / "elsewhere" / "a.txt")
    with replace_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "elsewhere" / "a.txt").read_text() == "new"


# Helpers


@pytest.mark.parametrize("left", [0, 3, 16, 0.5, -1])
def test_a_chunk_that_was_cut_short_is_refused(tmp_path: Path, left: float) -> None:
    """Blosc would take what stands in memory behind it for the rest."""
    image = labelled("yx").astype(np.uint16)
    write_image(image, tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr" / "0" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: int(left * len(whole)) if left == 0.5 else int(left)])
    refused(lambda: read_image(tmp_path / "a.zarr"), "a.zarr", "cut short")
    chunk.write_bytes(whole)
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr"), image)


@pytest.mark.parametrize("file", ["one.ome.tif", "one.tif"])
def test_a_selected_channel_keeps_its_name_in_a_file(tmp_path: Path, file: str) -> None:
    image = labelled("cyx", names=["DNA", "actin", "2"])
    write_image(select_channel(image, "actin"), tmp_path / file)
    again = read_image(tmp_path / file)
    assert again.dims[-2:] == ("y", "x")
    np.testing.assert_array_equal(again.squeeze(), image.values[1])
    if file.endswith("ome.tif"):
        assert channel_names(again) == ("actin",)


def test_a_channel_is_selected_by_name_or_index() -> None:
    image = labelled("tczyx", names=["DNA", "actin", "2"])
    assert select_channel(image, None) is image
    for channel, index in (("DNA", 0), ("actin", 1), (1, 1), ("1", 1), ("2", 2), ("0", 0)):
        chosen = select_channel(image, channel)
        assert chosen.dims == ("t", "z", "y", "x")
        assert channel_names(chosen) == (image.coords["c"].values[index],)
        np.testing.assert_array_equal(chosen, image.values[:, index])
    for channel in ("dna", 3, -1, "-1", "7", ""):
        refused(partial(select_channel, image, channel), "'DNA', 'actin', '2'", f"'{channel}'")
    twice = labelled("cyx", names=["a", "b", "a"])
    refused(lambda: select_channel(twice, "a"), "2 are called 'a'", "0 to 2")


def test_an_image_without_channels_has_one() -> None:
    image = labelled("zyx")
    assert select_channel(image, 0) is image
    refused(lambda: select_channel(image, 1), "1 channel:", "0 to 0")
    refused(lambda: select_channel(labelled("cyx"), "DNA"), "3 channels:")
    assert channel_names(image) is None
    assert channel_names(labelled("cyx")) is None


@pytest.mark.parametrize("dims", ["yx", "zyx", "tcyx", "tczyx"])
def test_planes_are_all_of_the_image_once(dims: str) -> None:
    image = labelled(dims)
    rebuilt = np.full(image.shape, 65535, np.uint16)
    seen: list[dict[str, int]] = []
    for place, plane in planes(image):
        assert plane.shape == (5, 7)
        assert list(place) == list(dims[:-2])
        rebuilt[tuple(place.values())] = plane
        seen.append(place)
    assert len(seen) == math.prod(image.shape[:-2])
    np.testing.assert_array_equal(rebuilt, image)


def test_planes_compute_one_plane_at_a_time() -> None:
    computed: list[int] = []

    def note(block: np.ndarray, block_id: tuple[int, ...]) -> np.ndarray:
        computed.append(block_id[0])
        return block

    content = da.from_array(pixels(4, 5, 7), chunks=PLANE).map_blocks(note, dtype="uint16")
    computed.clear()
    for count, (_, plane) in enumerate(planes(xr.DataArray(content, dims=["z", "y", "x"])), 1):
        assert isinstance(plane, np.ndarray)
        assert computed == list(range(count))


def test_pixels_that_cannot_be_computed_with_are_refused() -> None:
    image = labelled("zyx", "float32")
    check_pixels(image, "i.tif")
    check_pixels(labelled("yx", "uint8"), "i.tif")
    for value, shown in ((math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")):
        bad = image.copy()
        bad[2, 3, 4] = value
        refused(partial(check_pixels, bad, "i.tif"), shown, "z=2, y=3, x=4", "i.tif")
    refused(lambda: check_pixels(labelled("yx", "complex64"), "i.tif"), "complex64")
    refused(lambda: check_pixels(labelled("yx", "bool"), "i.tif"), "bool")
    refused(lambda: check_pixels(image[:0], "i.tif"), "(0, 5, 7)")


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ({}, None),
        ({"z": 1.0}, None),
        ({"y": 0.5}, None),
        ({"y": 0.5, "x": 0.5}, 0.5),
        ({"y": 0.5, "x": 0.504}, 0.502),
        ({"y": 0.5, "x": 0.51}, None),
    ],
)
def test_pixel_size_is_known_where_pixels_are_square(
    sizes: dict[str, float], size: float | None
) -> None:
    assert pixel_size_um(labelled("zyx", sizes=sizes)) == pytest.approx(size)


def test_image_sha256_depends_on_names_and_bytes_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert image_sha256(tmp_path / "a") == known
    digests: set[str] = set()
    trees = [{"x": b"1", "y": b"2"}, {"x": b"2", "y": b"1"}, {"x": b"12"}, {"x": b"1", "d/y": b"2"}]
    for i, tree in enumerate([*trees, trees[0]]):
        for name, content in tree.items():
            path = tmp_path / f"tree{i}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        digests.add(image_sha256(tmp_path / f"tree{i}"))
    assert len(digests) == len(trees)
    refused(lambda: image_sha256(tmp_path / "none"), "none")


def test_images_are_read_in_many_threads_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    image = labelled("zyx")
    write_image(image, tmp_path / "good.tif")
    (tmp_path / "bad.tif").write_text("no image")

    def read(name: str) -> int:
        with contextlib.suppress(InputError):
            return read_image(tmp_path / name).size
        return 0

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, ["good.tif", "bad.tif"] * 8))
    assert found == [image.size, 0] * 8
    assert logging.getLogger("tifffile").propagate
