"""What is no part of the picture: NaN, padding and masked pixels come out as they went in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from decisions import deciding

from deepcontrast_bmz.dial.automatic import DialChoice
from deepcontrast_bmz.dial.usable import find_padding
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import read_image, read_mask, write_image
from deepcontrast_bmz.image.masks import FieldMask, fill_by_mirroring
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.camera import Camera
from deepcontrast_bmz.physics.degrade import Degradation
from deepcontrast_bmz.physics.simulate import simulate
from deepcontrast_bmz.predict.enhance import enhance
from deepcontrast_bmz.predict.files import predict_files

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from deepcontrast_bmz.model.model import Model

DIMS = ("y", "x")


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Model:
    return open_model(str(tiny_run), device="cpu")


def picture(*shape: int) -> xr.DataArray:
    pixels = np.random.default_rng(5).poisson(300, shape or (90, 100)).astype(np.float32)
    return xr.DataArray(pixels, dims=("z", "y", "x")[-pixels.ndim :])


def holed() -> xr.DataArray:
    """The picture with a corner, an inner hole and single pixels that are no numbers."""
    image = picture()
    image[:30, :40] = np.nan
    image[50:60, 70:85] = np.nan
    image[80, 10] = np.inf
    image[81, 50] = -np.inf
    return image


def test_what_is_no_number_comes_out_as_it_went_in(model: Model) -> None:
    image = holed()
    out = enhance(model, image, dial=1.5).image
    bad = ~np.isfinite(image.values)
    assert np.array_equal(out.values[bad], image.values[bad], equal_nan=True)
    assert np.isfinite(out.values[~bad]).all()
    assert not np.array_equal(out.values[~bad], image.values[~bad])


def test_pixels_that_see_no_hole_are_what_they_would_be(model: Model) -> None:
    reach = 2 * model.radius
    whole = enhance(model, picture(), iterations=2).image.values
    image = picture()
    image[40:50, 40:50] = np.nan
    out = enhance(model, image, iterations=2).image.values
    away = np.ones(image.shape, bool)
    away[40 - reach : 50 + reach, 40 - reach : 50 + reach] = False
    assert away.any()
    np.testing.assert_allclose(out[away], whole[away], rtol=1e-6)


@pytest.mark.parametrize("what", [np.nan, 0.0])
def test_a_side_outside_the_field_counts_like_the_border_of_the_image(
    model: Model, what: float
) -> None:
    image = picture()
    image[:, 61:] = what
    out = enhance(model, image, iterations=2).image.values
    alone = enhance(model, image[:, :61], iterations=2).image.values
    np.testing.assert_allclose(out[:, :61], alone, rtol=1e-6)
    assert np.array_equal(out[:, 61:], image.values[:, 61:], equal_nan=True)


def test_black_that_was_cut_off_is_part_of_the_picture() -> None:
    y, x = np.mgrid[:90, :100]
    spot = 400 * np.exp(-((y - 45) ** 2 + (x - 50) ** 2) / 400)
    image = np.maximum(np.random.default_rng(0).poisson(spot) - 20.0, 0)
    assert (image == 0).mean() > 0.5
    assert find_padding(image) is None
    image[:, :3] = 0
    image[70:] = 0
    found = find_padding(image + 100)
    assert found is None or not found[:, 3:70].any()


@pytest.mark.parametrize("photons", [0.05, 0.3, 1.0, 3.0, 10.0])
def test_little_light_is_no_padding(photons: float) -> None:
    y, x = np.mgrid[:200, :200]
    light = photons * (1 + np.sin(y / 20) * np.cos(x / 15)) ** 2
    image = np.random.default_rng(1).poisson(light)
    assert find_padding(image) is None
    image[:, 170:] = 0
    found = find_padding(image)
    assert found is None or not found[:, :170].any()
    if photons >= 1:
        assert found is not None
        assert found[:, 171:].mean() > 0.9


@pytest.mark.parametrize("all_iterations", [False, True])
def test_how_the_image_is_cut_makes_no_difference(model: Model, all_iterations: bool) -> None:
    image = holed()
    first, *others = [
        enhance(model, image, iterations=2, all_iterations=all_iterations, block=block).image
        for block in (None, 16, 40)
    ]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-6)


def test_a_mask_hides_whatever_lies_under_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(raw: Tensor, _: object, *, mask: Tensor, **__: object) -> DialChoice:
        return DialChoice(dial=round(float(raw[mask].mean()) / 300, 2), reason="x", confidence=1)

    monkeypatch.setattr("deepcontrast_bmz.dial.per_plane.decide_dial", deciding(choose))
    mask = xr.DataArray(np.ones((90, 100), np.uint8), dims=DIMS)
    mask[20:50, 30:70] = 0
    found: list[np.ndarray] = []
    for value in (0.0, 1e12, np.nan):
        image = picture(2, 90, 100).where(mask != 0, value)
        out = enhance(model, image, dial="auto", mask=mask)
        assert out.dials == pytest.approx((1.0, 1.0), abs=0.02)
        assert np.array_equal(
            out.image.values[:, mask == 0], image.values[:, mask == 0], equal_nan=True
        )
        found.append(out.image.values[:, mask != 0])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_files_with_holes_and_masks(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = xr.DataArray(np.ones((90, 100), np.uint8), dims=DIMS)
    mask[70:] = 0
    write_image(holed(), tmp_path / "raw.tif")
    write_image(mask, tmp_path / "mask.tif")
    expected = enhance(model, holed(), dial=0.7, mask=mask).image.values
    for name, limit in (("whole.tif", 2**30), ("streamed.zarr", 0), ("streamed.tif", 0)):
        monkeypatch.setattr("deepcontrast_bmz.predict.files.STREAMED_BYTES", limit)
        predict_files(
            model,
            [tmp_path / "raw.tif"],
            tmp_path / name,
            dial=0.7,
            mask=tmp_path / "mask.tif",
            block=40,
        )
        out = read_image(tmp_path / name).values
        np.testing.assert_allclose(out, expected, rtol=1e-6)
    # Without --mask the same work is other work.
    assert not (tmp_path / ".streamed.tif.partial").exists()


@pytest.mark.parametrize("shape", [(90, 99), (2, 90, 100), (90,)])
def test_a_mask_of_another_shape_is_refused(
    model: Model, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    write_image(picture(), tmp_path / "raw.tif")
    pixels = np.ones(shape if len(shape) > 1 else (1, *shape), np.uint8)
    write_image(xr.DataArray(pixels, dims=("z", "y", "x")[-pixels.ndim :]), tmp_path / "mask.tif")
    with pytest.raises(InputError, match=r"'mask\.tif' has .*, but 'raw\.tif' has y 90 x x 100"):
        predict_files(
            model,
            [tmp_path / "raw.tif"],
            tmp_path / "out.tif",
            dial=1,
            mask=tmp_path / "mask.tif",
        )
    assert not (tmp_path / "out.tif").exists()


def test_a_mask_that_leaves_nothing_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="leaves no pixel"):
        enhance(model, picture(), dial=1, mask=xr.zeros_like(picture()))


def test_a_frame_of_nothing_comes_out_as_it_went_in(model: Model) -> None:
    film = xr.DataArray(np.full((3, 90, 100), np.nan, np.float32), dims=("t", *DIMS))
    with pytest.raises(InputError, match="no pixel that is a finite number"):
        enhance(model, film, dial=1)
    y, x = np.mgrid[:90, :100]
    something = picture() + 300 * ((y // 9 + x // 9) % 2)
    film[1] = something
    out = enhance(model, film, dial="auto")
    assert np.array_equal(np.isnan(out.image), np.isnan(film))
    assert out.dial == enhance(model, something, dial="auto").dial
    assert "2 of them empty" in out.reason


# ---- degrading


@pytest.mark.parametrize("bits", [None, 12])
def test_degrading_leaves_holes_as_they_are_and_no_light_comes_from_them(bits: int | None) -> None:
    tissue = Degradation(
        optical_depth=1.0,
        widths_px=(2.0, 6.0),
        weights=(0.7, 0.3),
        absorption_optical_depth=0.0,
        veil_photons=0.0,
        camera=Camera(gain=1.0, offset=0.0, read_noise_electrons=0.0, bit_depth=bits),
        seed=0,
    )
    image = picture()
    image[:, 61:] = np.nan
    out = simulate(image, tissue, 1000.0)
    assert np.isnan(out.values[:, 61:]).all()
    # A hole that counted as dark would take light from its rim, and the mean of what is there.
    assert out.values[:, 58:61].mean() == pytest.approx(1000, rel=0.02)
    zeros = picture()
    zeros[:, 61:] = 0
    masked = simulate(zeros, tissue, 1000.0, holes=zeros.values == 0)
    assert np.array_equal(masked.values[:, :61], out.values[:, :61])
    assert (masked.values[:, 61:] == 0).all()
    assert masked.dtype == (np.float32 if bits is None else np.uint16)


# ---- the filling


def test_a_hole_is_mirrored_at_its_rim() -> None:
    pixels = np.array([[1, 2, 3, 4, 0, 0, 0]], np.float32)
    filled = fill_by_mirroring(pixels, pixels > 0, (1.0, 1.0))
    assert filled.tolist() == [[1, 2, 3, 4, 4, 3, 2]]


def test_a_mask_for_z_is_the_same_in_every_frame() -> None:
    used = np.ones((3, 4, 5), bool)
    used[1, 2, 3] = False
    mask = FieldMask(used, ("z", "y", "x"))
    mask.check(("t", "z", "y", "x"), (9, 3, 4, 5), "film")
    part = {"z": slice(1, 3), "y": slice(1, 4), "x": slice(0, 5)}
    assert np.argwhere(~mask.part({"t": 5}, part)).tolist() == [[0, 1, 3]]
    plane = mask.part({"t": 5, "z": 1}, {"y": slice(0, 4), "x": slice(0, 5)})
    assert np.argwhere(~plane).tolist() == [[2, 3]]
    flat = FieldMask(used[1], ("y", "x"))
    assert flat.part({"t": 5}, part).shape == (1, 3, 5)


def test_a_mask_makes_pixels_nan_where_it_is_asked_for(tmp_path: Path) -> None:
    image = picture(2, 90, 100).astype(np.uint16)
    mask = xr.DataArray(np.ones((90, 100), np.uint8), dims=DIMS)
    mask[70:] = 0
    write_image(image, tmp_path / "raw.tif")
    write_image(mask, tmp_path / "mask.tif")
    found = read_image(tmp_path / "raw.tif", mask=tmp_path / "mask.tif")
    assert np.isnan(found.values[:, 70:]).all()
    assert np.array_equal(found.values[:, :70], image.values[:, :70])
    assert found.dims == image.dims


def test_a_mask_may_be_of_true_and_false_or_of_the_numbers_of_objects(tmp_path: Path) -> None:
    used = np.zeros((90, 100), bool)
    used[:30] = True
    tifffile.imwrite(tmp_path / "bits.tif", used)
    labels = zarr.open_group(tmp_path / "image.zarr" / "labels" / "cells", mode="w", zarr_format=2)
    pixels = labels.create_array("0", shape=used.shape, chunks=used.shape, dtype=np.uint32)
    pixels[...] = used * 7
    axes = [{"name": dim, "type": "space"} for dim in DIMS]
    labels.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    labels.attrs["image-label"] = {"version": "0.4"}
    for name in ("bits.tif", "image.zarr/labels/cells"):
        assert np.array_equal(read_mask(tmp_path / name).used, used)
        with pytest.raises(InputError):
            read_image(tmp_path / name)
