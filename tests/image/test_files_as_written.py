"""Files as microscopes and other programs write them: names, values, thumbnails, odd scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import deepcontrast_bmz.image.reader as image_reader
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import open_image, read_image
from deepcontrast_bmz.predict.targets import name_targets


def store(folder: Path, names: list[str]) -> None:
    """Write planes whose value is the number of their name in the list."""
    folder.mkdir()
    for value, name in enumerate(names):
        tifffile.imwrite(folder / name, np.full((5, 7), value, np.uint16))


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
    assert "2 files are read as the planes of a z-stack" in caplog.text


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
