"""Files as microscopes and other programs write them: names, values, thumbnails, odd scales."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import deepcontrast_bmz.image.reader as image_reader
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import open_image, read_image
from deepcontrast_bmz.image.bioio_read import read_with_bioio
from deepcontrast_bmz.predict.targets import name_targets


def store(folder: Path, names: list[str]) -> None:
    """Write planes whose value is the number of their name in the list."""
    folder.mkdir()
    for value, name in enumerate(names):
        tifffile.imwrite(folder / name, np.full((5, 7), value, np.uint16))


CZ = [0, 2, 1, 3]
UUID = "F2A11CE-1B2C-4D3E-A1B2-0123456789AB"


@pytest.mark.parametrize(
    ("names", "dims", "values", "channels"),
    [
        (["e_w1DAPI_s1_t1.TIF", "e_w2GFP_s1_t1.TIF"], "cyx", [0, 1], ["DAPI", "GFP"]),
        (["e_w2_t1.TIF", "e_w1_t1.TIF", "e_w1_t2.TIF", "e_w2_t2.TIF"], "tcyx", [1, 0, 2, 3], None),
        (
            [f"r02c03f01p{p:02}-ch{c}sk1fk1fl1.tiff" for p in (1, 2) for c in (1, 2)],
            "czyx",
            [0, 2, 1, 3],
            None,
        ),
        (
            [
                f"img_channel{c:03}_position000_time000000000_z{z:03}.tif"
                for c in (0, 1)
                for z in (0, 1)
            ],
            "czyx",
            [0, 1, 2, 3],
            None,
        ),
        (
            [f"img_00000000{t}_{c}_000.tif" for t in (0, 1) for c in ("Cy5", "DAPI")],
            "tcyx",
            [0, 1, 2, 3],
            ["Cy5", "DAPI"],
        ),
        ([f"movie_frame{i}.tif" for i in (2, 10, 1)], "tyx", [2, 0, 1], None),
        # ZEN, LAS X, NIS-Elements, FLUOVIEW: words right behind the number of the one before.
        ([f"E 1_s1z{z:02}c{c}_ORG.tif" for z in (1, 2) for c in (1, 2)], "czyx", CZ, None),
        ([f"P_Series001_z{z:02}_ch{c:02}.tif" for z in (0, 1) for c in (0, 1)], "czyx", CZ, None),
        ([f"T 1--Z{z:02}--C{c:02}.tif" for z in (0, 1) for c in (0, 1)], "czyx", CZ, None),
        ([f"exp001xy1z{z}c{c}.tif" for z in (1, 2) for c in (1, 2)], "czyx", CZ, None),
        ([f"s_C{c:03}Z{z:03}T001.tif" for z in (1, 2) for c in (1, 2)], "czyx", CZ, None),
        # Yokogawa: rows of wells are no channels, and W beside C is a well.
        (
            [f"AP_C03_T0001F001L01A01Z{z:02}C{c:02}.tif" for z in (1, 2) for c in (1, 2)],
            "czyx",
            CZ,
            None,
        ),
        ([f"W1F001T0001Z{z:02}C{c}.tif" for z in (1, 2) for c in (1, 2)], "czyx", CZ, None),
        # ImageXpress: what is behind the wave is an identifier.
        ([f"P_B02_s1_w{w}8{UUID}.tif" for w in (1, 2)], "cyx", [0, 1], None),
        (
            [f"--W01--P01--Z0{z}--T00--{c}.tif" for z in (0, 1) for c in "ab"],
            "czyx",
            CZ,
            ["a", "b"],
        ),
        # IncuCyte: times of the day.
        ([f"VID1_A1_1_{d:02}d{h:02}h00m.tif" for d, h in ((1, 0), (0, 23))], "tyx", [1, 0], None),
        ([f"e_2024y0{m}m01d_00h00m.tif" for m in (7, 6)], "tyx", [1, 0], None),
        ([f"Fötus μ plane {i} #2 50% (copy).tif" for i in (1, 0)], "zyx", [1, 0], None),
    ],
)
def test_names_of_planes_say_their_axes(
    tmp_path: Path, names: list[str], dims: str, values: list[int], channels: list[str] | None
) -> None:
    store(tmp_path / "planes", names)
    image = read_image(tmp_path / "planes")
    assert "".join(str(dim) for dim in image.dims) == dims
    assert image.values[..., 0, 0].ravel().tolist() == values
    assert (list(image["c"].values) if "c" in image.coords else None) == channels


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["e_w1DAPI_s1.TIF", "e_w1DAPI_s2.TIF"], "2 separate ones (0: s1, 1: s2)"),
        (["r02c03f01p01-ch1sk1fk1fl1.tiff", "r02c03f02p01-ch1sk1fk1fl1.tiff"], "r02c03f02"),
        (["a_pos1.tif", "a_pos2.tif"], "0: pos1, 1: pos2"),
        (["a_xy1.tif", "a_xy2.tif"], "0: xy1, 1: xy2"),
        (["a_B02_z1.tif", "a_D02_z1.tif"], "0: B02, 1: D02"),
        (["e_s1z1c1.tif", "e_s2z1c1.tif"], "0: s1, 1: s2"),
        ([f"p_C0{w}_T0001F001L01A01Z01C01.tif" for w in (3, 4)], "0: C03 F001, 1: C04 F001"),
        (["fish3_a.tif", "fish4_b.tif"], "equal but for one number"),
        (["run1_5.tif", "run2_6.tif"], "equal but for one number"),
    ],
)
def test_separate_images_are_no_stack(tmp_path: Path, names: list[str], words: str) -> None:
    store(tmp_path / "planes", names)
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / "planes")
    assert words in str(caught.value)


def test_a_guessed_axis_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store(tmp_path / "planes", ["a1.tif", "a2.tif"])
    assert read_image(tmp_path / "planes").dims == ("z", "y", "x")
    said = "2 files are read as the planes of a z-stack"
    assert said in caplog.text
    # Once, though images are opened and then read.
    caplog.clear()
    assert open_image(tmp_path / "planes").shape == (2, 5, 7)
    assert said not in caplog.text


@pytest.mark.parametrize("limit", [0, 2**30])
def test_axes_are_overridden(
    tmp_path: Path,
    limit: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_reader, "IN_MEMORY_BYTES", limit)
    movie = np.arange(2 * 3 * 5 * 7, dtype=np.uint16).reshape(6, 5, 7)
    tifffile.imwrite(tmp_path / "i.tif", movie, metadata=None)
    assert read_image(tmp_path / "i.tif").dims == ("z", "y", "x")
    assert "6 planes" in caplog.text
    assert "--axes TYX" in caplog.text
    caplog.clear()
    for axes in ("TYX", "tyx"):
        image = read_image(tmp_path / "i.tif", axes=axes)
        assert image.dims == ("t", "y", "x")
        np.testing.assert_array_equal(image, movie)
    np.testing.assert_array_equal(
        read_image(tmp_path / "i.tif", axes="YXC"), np.moveaxis(movie, 2, 0)
    )
    assert open_image(tmp_path / "i.tif", axes="CYX").dims == ("c", "y", "x")
    store(tmp_path / "planes", ["a1.tif", "a2.tif"])
    assert read_image(tmp_path / "planes", axes="TYX").dims == ("t", "y", "x")
    assert not caplog.records
    group = zarr.open_group(tmp_path / "i.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=movie[None])
    named = [{"name": dim} for dim in "czyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": named, "datasets": [{"path": "0"}]}]
    for axes in ("TYX", "CTYX"):
        image = read_image(tmp_path / "i.zarr", axes=axes)
        assert image.sizes["t"] == 6
        np.testing.assert_array_equal(image.values.reshape(movie.shape), movie)
    for axes, words in (("ZZ", "at most once"), ("QYX", "t, c, z"), ("YX", "one letter for each")):
        with pytest.raises(InputError, match=words):
            read_image(tmp_path / "i.tif", axes=axes)


def test_a_scene_is_chosen(tmp_path: Path) -> None:
    content = [np.full((3, 8 + i, 9), i, np.uint16) for i in range(2)]
    with tifffile.TiffWriter(tmp_path / "i.ome.tif") as writer:
        for name, size, pixels in zip(("scene A", "B"), (0.5, 0.25), content, strict=True):
            about = {"axes": "ZYX", "Name": name, "PhysicalSizeX": size, "PhysicalSizeY": size}
            writer.write(pixels, photometric="minisblack", metadata=about)
    with pytest.raises(InputError, match=r"2 separate ones \(0: scene A, 1: B\).*--scene"):
        read_image(tmp_path / "i.ome.tif")
    for scene, number in (("scene A", 0), ("B", 1), (1, 1), ("1", 1)):
        image = read_image(tmp_path / "i.ome.tif", scene=scene)
        np.testing.assert_array_equal(image, content[number])
        assert image.attrs["pixel_size_um"]["x"] == (0.5, 0.25)[number]
    names = [f"e_w{wave}_s{s}.TIF" for s in (1, 2) for wave in ("1DAPI", "2GFP")]
    store(tmp_path / "planes", names)
    image = read_image(tmp_path / "planes", scene="s2")
    assert image.values[:, 0, 0].tolist() == [2, 3]
    assert list(image["c"].values) == ["DAPI", "GFP"]
    assert read_image(tmp_path / "planes", scene=0).values[:, 0, 0].tolist() == [0, 1]
    for path in (tmp_path / "i.ome.tif", tmp_path / "planes"):
        with pytest.raises(InputError, match="'99' is none of"):
            read_image(path, scene="99")


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize(
    ("line", "meant", "dtype"),
    [
        ("cf=0\nc0=-32768.0\nc1=1.0\n", (-32768.0, 1.0), "int16"),
        ("cf=0\nc0=-5.0\nc1=0.5\n", (-5.0, 0.5), "float32"),
        ("cf=0\nc0=0.0\nc1=1.0\n", (0.0, 1.0), "uint16"),
        ("cf=8\nc0=1.0\nc1=2.0\n", (0.0, 1.0), "uint16"),
        ("", (0.0, 1.0), "uint16"),
    ],
)
def test_calibrated_values_of_imagej(
    tmp_path: Path,
    line: str,
    meant: tuple[float, float],
    dtype: str,
    limit: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_reader, "IN_MEMORY_BYTES", limit)
    stored = np.arange(32760, 32795, dtype=np.uint16).reshape(5, 7)
    tifffile.imwrite(
        tmp_path / "i.tif",
        stored.astype(">u2"),
        byteorder=">",
        metadata=None,
        description=f"ImageJ=1.54p\n{line}unit=micron\n",
    )
    image = read_image(tmp_path / "i.tif")
    assert image.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image.values, meant[0] + meant[1] * stored.astype(float))
    np.testing.assert_array_equal(
        open_image(tmp_path / "i.tif").pixels[1:3, 2:6], image.values[1:3, 2:6]
    )


def test_white_is_zero_is_turned_round(tmp_path: Path) -> None:
    stored = np.array([[0, 1], [254, 255]], np.uint8)
    tifffile.imwrite(tmp_path / "i.tif", stored, photometric="miniswhite")
    assert read_image(tmp_path / "i.tif").values.tolist() == [[255, 254], [1, 0]]


def test_places_in_a_list_of_colours_are_intensities_only_if_it_rises(tmp_path: Path) -> None:
    stored = np.arange(35, dtype=np.uint8).reshape(5, 7)
    ramp = (np.arange(256) * 257).astype(np.uint16)
    for colours, fine in (
        ([ramp, ramp, ramp], True),
        ([ramp, 0 * ramp, 0 * ramp], True),
        ([ramp, ramp[::-1], ramp], False),
    ):
        path = tmp_path / "i.tif"
        tifffile.imwrite(path, stored, photometric="palette", colormap=np.stack(colours))
        if fine:
            np.testing.assert_array_equal(read_image(path), stored)
        else:
            with pytest.raises(InputError, match="list of colours"):
                read_image(path)


def test_an_address_is_refused() -> None:
    address = Path("https://example.org/i.zarr")
    with pytest.raises(InputError, match="is an address: download it first"):
        read_image(address)
    with pytest.raises(InputError, match="is an address: download it first"):
        name_targets([address])


def test_a_thumbnail_is_no_image(tmp_path: Path) -> None:
    content = np.arange(48, dtype=np.uint16).reshape(6, 8)
    for first in (True, False):
        with tifffile.TiffWriter(tmp_path / "i.tif") as writer:
            if not first:
                writer.write(np.zeros((3, 4), np.uint8), subfiletype=1)
            writer.write(content)
            if first:
                writer.write(np.zeros((3, 4), np.uint8), subfiletype=1)
        np.testing.assert_array_equal(read_image(tmp_path / "i.tif"), content)


@pytest.mark.parametrize(
    ("top", "own", "sizes", "warned"),
    [
        ([1.0, 0.2, 0.2], [1, 1, 1, 1], {}, True),
        (None, [1, 0.5, None, 0.2], {}, True),
        (None, [1, 0.5, 0.0, 0.2], {}, True),
        (None, None, {}, False),
        ([1, 2, 1, 1], [1, 0.5, 0.2, 0.2], {"z": 1.0, "y": 0.2, "x": 0.2}, False),
    ],
)
def test_bad_scales_leave_the_pixel_size_unknown(
    tmp_path: Path,
    top: list[float] | None,
    own: list[float | None] | None,
    sizes: dict[str, float],
    warned: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = np.arange(24, dtype=np.uint16).reshape(1, 2, 3, 4)
    group = zarr.open_group(tmp_path / "i.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=content)

    def scaled(scale: Any) -> Any:
        return None if scale is None else [{"type": "scale", "scale": scale}]

    space = [{"name": dim, "type": "space", "unit": "micrometer"} for dim in "zyx"]
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": "c", "type": "channel"}, *space],
            "datasets": [{"path": "0", "coordinateTransformations": scaled(own)}],
            "coordinateTransformations": scaled(top),
        }
    ]
    image = read_image(tmp_path / "i.zarr")
    np.testing.assert_array_equal(image, content)
    assert image.attrs["pixel_size_um"] == sizes
    assert ("pixel size is unknown" in caplog.text) == warned


def describe_ome(
    axes: dict[str, int], names: list[str], order: str = "XYZCT", image: str = ""
) -> str:
    """Return an image of an OME header whose planes are in files of one plane each."""
    sizes = "".join(f'Size{axis}="{axes.get(axis, 1)}" ' for axis in "XYZCT")
    lines = [range(axes.get(axis, 1)) for axis in order[:1:-1]]
    firsts = [
        "".join(f'First{axis}="{i}" ' for axis, i in zip(order[:1:-1], at, strict=True))
        for at in itertools.product(*lines)
    ]
    data = "".join(
        f'<TiffData {first} IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{name}</UUID>'
        "</TiffData>"
        for first, name in zip(firsts, names, strict=True)
    )
    return (
        f'<Image ID="Image:{image}" Name="{image}"><Pixels DimensionOrder="{order}" Type="uint16" '
        f'{sizes} PhysicalSizeX="500" PhysicalSizeXUnit="nm" PhysicalSizeZ="2"><Channel '
        f'SamplesPerPixel="1" Name="GFP"/>{data}</Pixels></Image>'
    )


def store_parts(folder: Path, count: int, description: str) -> tuple[list[str], np.ndarray]:
    """Write files of one plane each, whose own description may name their header."""
    names = [f"emb_{i}.ome.tiff" for i in range(count)]
    content = np.arange(count * 35).reshape(count, 5, 7).astype("uint16")
    for name, plane in zip(names, content, strict=True):
        about = f'<OME UUID="urn:uuid:{name}">{description}</OME>'
        tifffile.imwrite(folder / name, plane, metadata=None, description=about)
    return names, content


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize("header", ["emb.companion.ome", "emb.ome.xml"])
def test_an_image_in_several_files_is_read_by_its_companion(
    tmp_path: Path, header: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "IN_MEMORY_BYTES", limit)
    names, content = store_parts(
        tmp_path, 6, f'<BinaryOnly MetadataFile="{header}" UUID="urn:uuid:all"/>'
    )
    image = describe_ome({"X": 7, "Y": 5, "Z": 3, "T": 2}, names)
    text = f'<?xml version="1.0" encoding="UTF-16"?><OME UUID="urn:uuid:all">{image}</OME>'
    (tmp_path / header).write_text(text, encoding="utf-16")
    found = read_image(tmp_path / header)
    assert found.dims == ("t", "c", "z", "y", "x")
    assert found.attrs["pixel_size_um"] == {"z": 2.0, "x": 0.5}
    assert list(found["c"].values) == ["GFP"]
    np.testing.assert_array_equal(found.values.reshape(content.shape), content)
    opened = open_image(tmp_path / header)
    np.testing.assert_array_equal(opened.pixels[1, 0, 2, 1:3, 2:6], content[5, 1:3, 2:6])
    # What a message recommends works.
    with pytest.raises(InputError, match=f"part of an image.*give '.*{header}'"):
        read_image(tmp_path / names[1])
    whole = (tmp_path / names[5]).read_bytes()
    (tmp_path / names[5]).write_bytes(whole[:-4])
    with pytest.raises(InputError, match=f"{names[5]}' ends too early"):
        read_image(tmp_path / header)
    (tmp_path / names[5]).unlink()
    (tmp_path / names[4]).unlink()
    with pytest.raises(InputError, match=f"of which '{names[4]}' and 1 more is missing"):
        read_image(tmp_path / header)
    for name in names[:4]:
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"of which '{names[0]}' and 5 more is missing"):
        read_image(tmp_path / header)
    (tmp_path / header).write_text("<OME/>")
    with pytest.raises(InputError, match=f"{header}' names no TIFF"):
        read_image(tmp_path / header)


def test_of_positions_in_files_of_their_own_each_is_its_own(tmp_path: Path) -> None:
    """As Micro-Manager writes them: the first file describes all positions."""
    names = ["emb_0.ome.tiff", "emb_1.ome.tiff"]
    images = "".join(
        describe_ome({"X": 7, "Y": 5}, [name], image=f"Pos{i}") for i, name in enumerate(names)
    )
    for whole in (f'<BinaryOnly MetadataFile="{names[0]}" UUID="urn:uuid:{names[0]}"/>', images):
        _, content = store_parts(tmp_path, 2, whole)
        about = f'<OME UUID="urn:uuid:{names[0]}">{images}</OME>'
        tifffile.imwrite(tmp_path / names[0], content[0], metadata=None, description=about)
        for name, plane in zip(names, content, strict=True):
            np.testing.assert_array_equal(read_image(tmp_path / name).squeeze(), plane)
        other = read_image(tmp_path / names[0], scene="Pos1").squeeze()
        np.testing.assert_array_equal(other, content[1])


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    "case",
    [
        ({"T": 10}, "XYZCT", 6, (6, 1, 1), "6 of 10 along t"),
        ({"T": 4, "Z": 3}, "XYZCT", 7, (2, 3, 1), "2 of 4 along t"),
        ({"T": 3, "Z": 4, "C": 2}, "XYCZT", 5, (1, 2, 2), "1 of 3 along t, 2 of 4 along z"),
        ({"Z": 4, "C": 2}, "XYZCT", 4, (1, 4, 1), "1 of 2 along c"),
    ],
)
def test_of_a_recording_that_was_stopped_early_what_is_whole_is_read(
    tmp_path: Path,
    case: tuple[dict[str, int], str, int, tuple[int, ...], str],
    compression: str | None,
    limit: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_reader, "IN_MEMORY_BYTES", limit)
    announced, order, count, shape, said = case
    lengths = [announced.get(axis, 1) for axis in order[:1:-1]]
    content = np.arange(np.prod(lengths) * 35, dtype=np.uint16).reshape(*lengths, 5, 7)
    every = range(int(np.prod(lengths)))
    text = describe_ome({"X": 7, "Y": 5, **announced}, ["" for _ in every], order)
    count_up = itertools.count()
    text = re.sub('IFD="0"', lambda _: f'IFD="{next(count_up)}"', text)
    text = re.sub(r"<UUID.*?</UUID>", "", text)
    with tifffile.TiffWriter(tmp_path / "i.ome.tif") as writer:
        for i, plane in enumerate(content.reshape(-1, 5, 7)[:count]):
            about = f"<OME>{text}</OME>" if i == 0 else None
            writer.write(
                plane, description=about, metadata=None, contiguous=False, compression=compression
            )
    image = read_image(tmp_path / "i.ome.tif")
    t, z, c = shape
    tzc = content.transpose([order[:1:-1].index(axis) for axis in "TZC"] + [3, 4])[:t, :z, :c]
    named = dict(zip("tzc", shape, strict=True))
    expected = tzc.transpose(0, 2, 1, 3, 4)
    np.testing.assert_array_equal(image.values.reshape(expected.shape), expected)
    assert {str(dim): n for dim, n in image.sizes.items() if str(dim) in "tz"} == {
        dim: n for dim, n in named.items() if announced.get(dim.upper()) and dim in "tz"
    }
    assert f"stopped early; what is whole is read ({said})" in caplog.text


def test_planes_missing_in_between_are_refused(tmp_path: Path) -> None:
    text = describe_ome({"X": 7, "Y": 5, "T": 3}, ["", "", ""])
    text = re.sub(r'<TiffData[^>]*FirstT="1".*?</TiffData>', "", text)
    text = re.sub(r"<UUID.*?</UUID>", "", text)
    with tifffile.TiffWriter(tmp_path / "i.ome.tif") as writer:
        for i in range(2):
            about = f"<OME>{text}</OME>" if i == 0 else None
            writer.write(np.ones((5, 7), np.uint16), description=about, metadata=None)
    with pytest.raises(InputError, match=r"planes in the middle of '.*i.ome.tif' are missing"):
        read_image(tmp_path / "i.ome.tif")


def test_a_folder_that_was_stopped_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store(tmp_path / "planes", ["a_t1_w1.tif", "a_t1_w2.tif", "a_t3_w1.tif", "a_t3_w2.tif"])
    tifffile.imwrite(tmp_path / "planes" / "a_t4_w1.tif", np.ones((5, 7), np.uint16))
    image = read_image(tmp_path / "planes")
    assert image.values[..., 0, 0].tolist() == [[0, 1], [2, 3]]
    assert "(2 of 3 along t)" in caplog.text
    assert "numbers along t leave some out" in caplog.text


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize(
    ("header", "dims"),
    [
        ("images=10\nframes=10\nhyperstack=true\n", "tyx"),
        ("images=4\nslices=4\n", "zyx"),
        ("images=10\nchannels=2\nframes=5\nhyperstack=true\n", "zyx"),
    ],
)
def test_an_imagej_header_of_other_planes_than_there_are(
    tmp_path: Path,
    header: str,
    dims: str,
    limit: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_reader, "IN_MEMORY_BYTES", limit)
    content = np.arange(6 * 35, dtype=np.uint16).reshape(6, 5, 7)
    with tifffile.TiffWriter(tmp_path / "i.tif") as writer:
        for i, plane in enumerate(content):
            about = f"ImageJ=1.54p\n{header}unit=um\n" if i == 0 else None
            writer.write(
                plane, description=about, metadata=None, contiguous=False, resolution=(4, 4)
            )
    image = read_image(tmp_path / "i.tif")
    assert "".join(str(dim) for dim in image.dims) == dims
    np.testing.assert_array_equal(image, content)
    assert image.attrs["pixel_size_um"] == {"y": 0.25, "x": 0.25}
    assert "the 6 that are there are read" in caplog.text
    assert read_image(tmp_path / "i.tif", axes="CYX").dims == ("c", "y", "x")


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize(
    ("shape", "told", "names", "colours"),
    [
        ((5, 7, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, "rgb", True),
        ((4, 5, 7), {"photometric": "rgb", "planarconfig": "separate"}, "rgb", True),
        ((5, 7, 4), {"photometric": "rgb", "extrasamples": ["unspecified"]}, "rgb+", True),
        ((2, 5, 7, 4), {"photometric": "rgb", "metadata": {"axes": "ZYXS"}}, "rgb", True),
        ((5, 7, 2), {"photometric": "minisblack", "extrasamples": ["assocalpha"]}, None, False),
        ((5, 7, 2), {"photometric": "minisblack", "extrasamples": ["unspecified"]}, "", False),
        ((5, 7, 4), {"photometric": "separated"}, "", True),
        ((16, 16, 3), {"photometric": "ycbcr", "compression": "jpeg"}, "rgb", True),
    ],
)
def test_alpha_is_no_channel(
    tmp_path: Path,
    shape: tuple[int, ...],
    told: dict[str, Any],
    names: str | None,
    colours: bool,
    limit: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_reader, "IN_MEMORY_BYTES", limit)
    content = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    told = {"planarconfig": "contig", **told}
    tifffile.imwrite(tmp_path / "i.tif", content, **told)
    image = read_image(tmp_path / "i.tif")
    known = {"r": "red", "g": "green", "b": "blue", "+": "extra_1"}
    found = list(image["c"].values) if "c" in image.coords else []
    assert found == [known[letter] for letter in names or ""]
    assert image.attrs.get("colour_samples", False) == colours
    channels = content if told["planarconfig"] == "separate" else np.moveaxis(content, -1, 0)
    if "c" not in image.dims:
        channels = channels[0]
    elif image.sizes["c"] < len(channels):
        channels = channels[:3]
    if told["photometric"] != "ycbcr":
        np.testing.assert_array_equal(image, channels)
    left_out = names is None or (names == "rgb" and shape[-1 if shape[-1] < 5 else 0] == 4)
    assert ("alpha channel is no intensity and is left out" in caplog.text) == left_out


def store_zarr_image(group: zarr.Group, content: np.ndarray, scale: float = 0.5) -> None:
    """Write an image of format 0.5."""
    group.create_array("0", data=content)
    axes = [{"name": dim, "type": "space", "unit": "micrometer"} for dim in "yx"]
    sizes = [{"type": "scale", "scale": [scale, scale]}]
    levels = [{"path": "0", "coordinateTransformations": sizes}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize(
    ("suffix", "inside"), [(".zarr.zip", ""), (".ozx", ""), (".zarr.zip", "i")]
)
def test_a_zipped_ome_zarr_is_read(
    tmp_path: Path, suffix: str, inside: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "IN_MEMORY_BYTES", limit)
    content = np.arange(35, dtype=np.uint16).reshape(5, 7)
    folder = tmp_path / "top" / inside
    store_zarr_image(zarr.open_group(folder, mode="w", zarr_format=3), content)
    shutil.make_archive(str(tmp_path / "made"), "zip", tmp_path / "top")
    path = (tmp_path / "made.zip").rename(tmp_path / f"i{suffix}")
    image = read_image(path)
    np.testing.assert_array_equal(image, content)
    assert image.attrs["pixel_size_um"] == {"y": 0.5, "x": 0.5}
    assert [one.name for one in name_targets([path])] == ["i_enhanced.ome.tif"]
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match=f"i{suffix}' is not"):
        read_image(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_field_of_a_plate_is_chosen(tmp_path: Path, zipped: bool) -> None:
    """Labels beside an image are no image of their own."""
    plate = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=3)
    wells = ["A/1", "B/3"]
    plate.attrs["ome"] = {"version": "0.5", "plate": {"wells": [{"path": w} for w in wells]}}
    content = {
        f"{well}/{field}": np.full((5, 7), 10 * i + field, np.uint16)
        for i, well in enumerate(wells)
        for field in range(2)
    }
    for well in wells:
        fields = [{"path": "0"}, {"path": "1"}]
        plate.create_group(well).attrs["ome"] = {"well": {"images": fields}}
    for place, pixels in content.items():
        store_zarr_image(plate.create_group(place), pixels)
    labels = plate.create_group("A/1/0/labels/cells")
    store_zarr_image(labels, np.ones((5, 7), np.uint32))
    if zipped:
        shutil.make_archive(str(tmp_path / "p.zarr"), "zip", tmp_path / "p.zarr")
    path = tmp_path / ("p.zarr.zip" if zipped else "p.zarr")
    with pytest.raises(InputError, match=r"4 separate ones \(0: A/1/0, 1: A/1/1, 2: B/3/0"):
        read_image(path)
    for number, (place, pixels) in enumerate(content.items()):
        for scene in (place, number, str(number)):
            np.testing.assert_array_equal(read_image(path, scene=scene), pixels)
    with pytest.raises(InputError, match="'C/1/0' is none of"):
        read_image(path, scene="C/1/0")
    if not zipped:
        np.testing.assert_array_equal(read_image(path / "B" / "3", scene=1), content["B/3/1"])
        np.testing.assert_array_equal(read_image(path / "B" / "3" / "0"), content["B/3/0"])
        with pytest.raises(InputError, match=r"numbers of objects \(labels\)"):
            read_image(path / "A" / "1" / "0" / "labels" / "cells")


def install_reader(folder: Path, code: str) -> None:
    """Install a reader for .czi, as bioio finds them: by its metadata."""
    about = folder / "bioio_stub-1.0.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: bioio-stub\nVersion: 1.0\nRequires-Dist: bioio-base (>=1.0)\n"
    )
    (about / "entry_points.txt").write_text("[bioio.readers]\nbioio-stub = bioio_stub\n")
    (folder / "bioio_stub.py").write_text(code)


STUB = """
class ReaderMetadata:
    @staticmethod
    def get_supported_extensions():
        return [".czi"]
    @staticmethod
    def get_reader():
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import libnobody", "bioio-stub is installed but does not work (No module named 'libnob"),
        (f"{STUB}        import libnobody", "bioio-stub is installed but does not work (No module"),
        (
            f"{STUB}        from bioio_stub import Reader\n        return Reader",
            "(Expected 1 scene)",
        ),
    ],
)
def test_a_broken_reader_is_named(
    tmp_path: Path, code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = (
        "class Reader:\n    @staticmethod\n    def is_supported_image(image, fs_kwargs={}):\n"
        "        raise ValueError('Expected 1 scene')\n"
    )
    install_reader(tmp_path, code + "\n" + reader)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bioio_stub", raising=False)
    (tmp_path / "i.czi").write_bytes(b"pixels")
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / "i.czi")
    assert words in str(caught.value)
    assert "bioio-stub" in str(caught.value)
    assert "i.czi" in str(caught.value)
    sys.modules.pop("bioio_stub", None)


@pytest.mark.parametrize("lazily", [False, True])
def test_scenes_of_an_installed_bioio_reader(tmp_path: Path, lazily: bool) -> None:
    """Of the real bioio, with its reader of OME-TIFF."""
    content = [np.full((3, 8, 9), i, np.uint16) for i in range(2)]
    with tifffile.TiffWriter(tmp_path / "i.ome.tif", ome=True) as writer:
        for name, pixels in zip(("A", "B"), content, strict=True):
            about = {"axes": "ZYX", "Name": name, "PhysicalSizeX": 0.5}
            writer.write(pixels, photometric="minisblack", metadata=about)
    with pytest.raises(InputError, match=r"2 separate ones \(0: Image:0, 1: Image:1\)"):
        read_with_bioio(tmp_path / "i.ome.tif")
    for scene in ("Image:1", 1, "1"):
        found = read_with_bioio(tmp_path / "i.ome.tif", lazily=lazily, scene=scene)
        assert found.dims == ["z", "y", "x"]
        assert found.sizes["x"] == 0.5
        np.testing.assert_array_equal(np.asarray(found.data), content[1])
    with pytest.raises(InputError, match="'99' is none of"):
        read_with_bioio(tmp_path / "i.ome.tif", scene="99")


# ---- packed in whatever way


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("uint16", {"compression": "lzw", "predictor": 2}),
        ("uint16", {"compression": "deflate", "predictor": 2}),
        ("uint16", {"compression": "zstd", "predictor": 2}),
        ("uint16", {"compression": "packbits"}),
        ("uint16", {"compression": "lzma"}),
        ("uint16", {"compression": "jpeg2000", "compressionargs": {"reversible": True}}),
        ("uint16", {"compression": "jpegxl", "compressionargs": {"lossless": True}}),
        ("uint16", {"compression": "lerc"}),
        ("float32", {"compression": "deflate", "predictor": 3}),
        ("float16", {"compression": "lzw"}),
        ("int16", {"compression": "lzw", "byteorder": ">", "bigtiff": True}),
        ("int32", {}),
        ("uint32", {"byteorder": ">"}),
        ("float64", {"byteorder": ">"}),
    ],
)
def test_pixels_of_every_type_and_packing(
    tmp_path: Path, kind: str, how: dict[str, Any], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imagecodecs")
    monkeypatch.setattr("deepcontrast_bmz.image.reader.IN_MEMORY_BYTES", limit)
    stored = np.random.default_rng(13).poisson(200, (3, 40, 50)).astype(kind)
    if kind in ("int16", "int32"):
        stored -= 200
    how |= {"tile": (32, 32), "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", stored, metadata={"axes": "ZYX"}, **how)
    image = read_image(tmp_path / "a.tif")
    assert image.dims == ("z", "y", "x")
    assert image.dtype == kind
    assert np.array_equal(image.values, stored)


def test_a_header_that_announces_more_planes_than_there_are(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for number in range(3):
            header = '{"shape": [10, 8, 8], "axes": "ZYX"}' if number == 0 else None
            plane = np.full((8, 8), number, np.uint16)
            writer.write(plane, metadata=None, description=header, contiguous=False)
    with pytest.raises(InputError, match=r"a\.tif' announces more planes than the file holds"):
        read_image(tmp_path / "a.tif")


def test_what_packs_the_pixels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.zeros((40, 50), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, compression="zlib")

    def lack(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", lack)
    with pytest.raises(InputError, match=r"a\.tif.*pip install imagecodecs$"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_numbers_of_fewer_bits_than_whole_bytes(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("imagecodecs")
    stored = np.random.default_rng(bits).integers(0, 2**bits, (40, 51)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, bitspersample=bits)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.pages.first.bitspersample == bits
    assert np.array_equal(read_image(tmp_path / "a.tif").values, stored)


@pytest.mark.parametrize("axes", ["CTZYX", "ZTCYX", "CZTYX", "ZCTYX"])
def test_any_order_of_ome(tmp_path: Path, axes: str) -> None:
    sizes = {"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 6}
    stored = np.arange(720, dtype=np.uint16).reshape([sizes[axis] for axis in axes])
    tifffile.imwrite(tmp_path / "a.ome.tif", stored, metadata={"axes": axes})
    expected = stored.transpose([axes.index(axis) for axis in "TCZYX"])
    assert np.array_equal(read_image(tmp_path / "a.ome.tif").values, expected)


def test_of_several_pyramids_one_is_chosen(tmp_path: Path) -> None:
    first, second = np.random.default_rng(0).poisson(200, (2, 64, 64)).astype(np.uint16)
    with tifffile.TiffWriter(tmp_path / "two.ome.tif") as writer:
        for name, level in (("A", first), ("B", second)):
            metadata = {"axes": "YX", "Name": name}
            writer.write(level, subifds=1, tile=(32, 32), metadata=metadata)
            writer.write(level[::2, ::2], subfiletype=1, tile=(32, 32))
    assert np.array_equal(read_image(tmp_path / "two.ome.tif", scene="B").values, second)
    with pytest.raises(InputError, match=r"holds 2 separate ones \(0: A, 1: B\)"):
        read_image(tmp_path / "two.ome.tif")
