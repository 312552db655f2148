"""Raw images to pairs: what is split, where patches come from, and that all of it is seeded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.labels import as_float32
from deepcontrast_bmz.physics.noise import estimate_noise
from deepcontrast_bmz.settings import Recipe
from deepcontrast_bmz.train.pairs import PairDataset
from deepcontrast_bmz.train.phantoms import phantom_planes
from deepcontrast_bmz.train.raw_planes import RawPlane, planes_of, rescale, split_planes

WIDTHS = (2.0, 6.0)


def recipe(**data: object) -> Recipe:
    return Recipe.model_validate(
        {
            "physics": {"scatter": {"widths": WIDTHS, "weights": [0.7, 0.3]}},
            "data": {"patch": 24, **data},
        }
    )


def noise_plane(image: int = 0, shape: tuple[int, int] = (90, 80), seed: int = 0) -> RawPlane:
    pixels = np.random.default_rng(seed).gamma(2.0, 50.0, shape).astype(np.float32)
    return RawPlane(pixels, image, f"image {image}", WIDTHS)


def test_constant_planes_are_left_out() -> None:
    values = np.zeros((3, 20, 20), np.uint16)
    # One value beside zeros would be padding round nothing.
    values[1] = np.random.default_rng(0).integers(1, 8, (20, 20))
    found = planes_of(xr.DataArray(values, dims=("z", "y", "x")), 0, "stack", WIDTHS)
    assert len(found) == 1
    assert found[0].pixels.dtype == np.float32


def test_an_image_without_structure_is_refused() -> None:
    flat = xr.DataArray(np.full((2, 8, 8), 3), dims=("z", "y", "x"))
    with pytest.raises(InputError, match=r"every plane of flat\.tif is constant"):
        planes_of(flat, 0, "flat.tif", WIDTHS)


def test_pixels_beyond_the_range_of_the_computation_are_refused() -> None:
    values = np.ones((1, 8, 8))
    values[0, 3, 3] = -1e16
    image = xr.DataArray(values, dims=("z", "y", "x"))
    with pytest.raises(InputError, match=r"big\.tif has one of 1e\+16"):
        planes_of(image, 0, "big.tif", WIDTHS)
    assert as_float32(values * 0.1, "big.tif").dtype == np.float32


@pytest.mark.parametrize("unit", [1e-11, 1 / 65535, 1e6, 2.0**-80])
def test_the_unit_of_the_grey_values_changes_nothing(unit: float) -> None:
    counts = np.random.default_rng(3).poisson(40, (96, 96)).astype(np.float32) + 100
    one, other = (
        rescale([RawPlane((counts * np.float64(u)).astype(np.float32), 0, "image", WIDTHS)])[0]
        for u in (1.0, unit)
    )
    # Ranges of 512 to 1024: the quotient of the two is what the power of two leaves over.
    assert 512 <= np.ptp(one.pixels) < 1024
    assert 512 <= np.ptp(other.pixels) < 1024
    rest = float(np.ptp(other.pixels) / np.ptp(one.pixels))
    np.testing.assert_allclose(other.pixels, one.pixels * rest, rtol=3e-7)
    pairs = [PairDataset([plane], recipe(), radius=5, length=4, stream=0) for plane in (one, other)]
    # The noise, to which that of the input is matched, and the light are seen in any unit.
    noises = [estimate_noise(torch.from_numpy(plane.pixels)) for plane in (one, other)]
    assert noises[1].floor == pytest.approx(noises[0].floor * rest**2, rel=1e-4)
    assert other.light == pytest.approx(one.light * rest, rel=1e-5)
    for number in range(4):
        mine, theirs = (dataset[number] for dataset in pairs)
        np.testing.assert_allclose(theirs["raw"], mine["raw"] * rest, rtol=3e-7)
        assert float(theirs["scale"]) == pytest.approx(float(mine["scale"]) * rest, rel=1e-5)
        # The noise is drawn anew where a rounding tips the scales; it is as much.
        noise, more = (float(p["degraded"].std() / p["scale"]) for p in (mine, theirs))
        assert more == pytest.approx(noise, rel=0.1)


def test_several_images_are_split_by_image() -> None:
    found = [noise_plane(image) for image in range(5) for _ in range(3)]
    training, validation = split_planes(found, 0.2, seed=0)
    assert len(training) + len(validation) == len(found)
    assert {p.image for p in training}.isdisjoint({p.image for p in validation})
    assert len({p.image for p in validation}) == 1


def test_one_stack_holds_out_neighbouring_planes() -> None:
    found = [noise_plane(seed=z) for z in range(10)]
    training, validation = split_planes(found, 0.3, seed=1)
    positions = [next(i for i, p in enumerate(found) if p is v) for v in validation]
    assert len(validation) == 3
    assert positions == list(range(positions[0], positions[0] + 3))
    assert not any(t is v for t in training for v in validation)


def test_planes_that_are_held_out_show_something() -> None:
    planes = [noise_plane(seed=z) for z in range(10)]
    for plane in planes[2:]:
        plane.pixels[:] = 3.0
        plane.pixels[5, 5] = 4.0
    for seed in range(8):
        _, validation = split_planes(planes, 0.2, seed)
        assert any(plane is full for plane in validation for full in planes[:2])


def half_empty(shape: tuple[int, int], kept: tuple[slice, slice]) -> RawPlane:
    """A registered or stitched image: zero outside of its field."""
    pixels = np.zeros(shape, np.float32)
    pixels[kept] = noise_plane(shape=shape).pixels[kept]
    return RawPlane(pixels, 0, "mosaic.tif", WIDTHS)


@pytest.mark.parametrize(
    "kept",
    [
        (slice(None), slice(0, 60)),
        (slice(None), slice(40, 100)),
        (slice(10, 30), slice(25, 75)),
        (slice(None), slice(None)),
    ],
)
def test_the_part_of_a_plane_that_is_held_out_shows_something(kept: tuple[slice, slice]) -> None:
    plane = half_empty((40, 100), kept)
    (training,), (validation,) = split_planes([plane], 0.15, seed=0)
    share = float((validation.pixels > 0).mean())
    assert share > 0.3
    assert np.ptp(training.pixels) > 0
    # No pixel is in both.
    assert not np.isin(validation.pixels[validation.pixels > 0], training.pixels).any()


def test_a_stack_is_cut_where_it_shows_something() -> None:
    pixels = np.zeros((6, 40, 120), np.float32)
    pixels[:, :, 40:80] = np.random.default_rng(0).gamma(2.0, 50.0, (6, 40, 40))
    (training,), (validation,) = split_planes([RawPlane(pixels, 0, "s", WIDTHS)], 0.15, seed=0)
    assert training.pixels.size + validation.pixels.size == 6 * 40 * 40
    assert (training.pixels > 0).all()
    assert (validation.pixels > 0).all()


def test_structure_in_one_place_alone_is_refused() -> None:
    pixels = np.zeros((64, 64), np.float32)
    pixels[30:34, 30:34] = 5.0
    with pytest.raises(InputError, match=r"spot\.tif shows 4 x 4"):
        split_planes([RawPlane(pixels, 0, "spot.tif", WIDTHS)], 0.15, seed=0)
    # At one end of the image, it is cut there.
    pixels = np.zeros((64, 90), np.float32)
    pixels[:, 80:] = np.random.default_rng(0).gamma(2.0, 50.0, (64, 10))
    (training,), (validation,) = split_planes([RawPlane(pixels, 0, "s", WIDTHS)], 0.15, seed=0)
    assert (training.pixels > 0).all()
    assert (validation.pixels > 0).all()


def test_one_plane_is_cut_in_two() -> None:
    plane = noise_plane(shape=(40, 100))
    training, validation = split_planes([plane], 0.2, seed=0)
    joined = np.concatenate([training[0].pixels, validation[0].pixels], axis=1)
    np.testing.assert_array_equal(joined, plane.pixels)
    assert validation[0].pixels.shape == (40, 20)


def test_a_plane_too_small_to_cut_is_refused() -> None:
    with pytest.raises(InputError, match="at least 32 pixels"):
        split_planes([noise_plane(shape=(20, 20))], 0.2, seed=0)


def dataset(planes: list[RawPlane], settings: Recipe, stream: int = 0) -> PairDataset:
    return PairDataset(planes, settings, radius=5, length=40, stream=stream)


def test_shapes_and_seeds() -> None:
    planes = [noise_plane()]
    pairs, again = dataset(planes, recipe()), dataset(planes, recipe())
    first = pairs[3]
    assert first["degraded"].shape == (1, 24 + 10, 24 + 10)
    assert first["raw"].shape == (1, 24, 24)
    for key in ("degraded", "raw", "steps", "scale"):
        assert torch.equal(first[key], again[3][key])
    assert not torch.equal(first["degraded"], pairs[4]["degraded"])
    other = dataset(planes, recipe(), stream=1)
    assert not torch.equal(first["degraded"], other[3]["degraded"])


def test_steps_agree_within_a_batch_and_vary_between() -> None:
    settings = recipe()
    settings = settings.model_copy(
        update={"training": settings.training.model_copy(update={"unroll": 3, "batch": 2})}
    )
    pairs = dataset([noise_plane()], settings)
    steps = [int(pairs[i]["steps"]) for i in range(40)]
    assert steps[::2] == steps[1::2]
    assert set(steps) == {1, 2, 3}
    for i in range(0, 40, 8):
        assert pairs[i]["degraded"].shape[-1] == 24 + 10 * steps[i]


def test_the_input_is_the_target_degraded_on_the_same_scale() -> None:
    """With much light, input and target have one mean, and the input has less contrast."""
    settings = recipe()
    bright = settings.physics.model_copy(
        update={"photons": (1e7, 1e7), "read_noise_electrons": (0.0, 0.0)}
    )
    pairs = dataset([noise_plane()], settings.model_copy(update={"physics": bright}))
    for i in range(5):
        pair = pairs[i]
        inner = pair["degraded"][:, 5:-5, 5:-5]
        assert float(inner.std()) < 0.75 * float(pair["raw"].std())
        assert float(inner.mean()) == pytest.approx(float(pair["raw"].mean()), rel=0.25)


def test_grey_values_are_carried_through() -> None:
    """An offset and a gain of the raw image pass to input and target alike."""
    plane = noise_plane()
    scaled = RawPlane(plane.pixels * 3 + 1000, 0, "scaled", WIDTHS)
    one, two = dataset([plane], recipe())[0], dataset([scaled], recipe())[0]
    torch.testing.assert_close(two["raw"], one["raw"] * 3 + 1000, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(two["degraded"], one["degraded"] * 3 + 1000, rtol=2e-2, atol=20.0)


def test_black_borders_are_seldom_drawn() -> None:
    pixels = np.zeros((320, 320), np.float32)
    pixels[:64, :64] = np.random.default_rng(0).gamma(2.0, 50.0, (64, 64))
    pairs = dataset([RawPlane(pixels, 0, "corner", WIDTHS)], recipe())
    hits = sum(float(pairs[i]["raw"].max()) > 0 for i in range(40))
    assert hits > 30, "the corner is 4 % of the plane and holds all of its content"


def test_empty_patches_do_not_outweigh_others() -> None:
    pixels = np.zeros((320, 320), np.float32)
    pixels[:64, :64] = 100
    pixels[10, 10] = 5000
    plane = RawPlane(pixels, 0, "corner", WIDTHS)
    pairs = dataset([plane], recipe())
    assert min(float(pairs[i]["scale"]) for i in range(40)) >= 0.1 * float(pixels.std()) * 0.999


@pytest.mark.parametrize("shape", [(3, 4), (1, 40), (300, 17)])
def test_planes_smaller_than_a_patch_are_mirrored(shape: tuple[int, int]) -> None:
    pair = dataset([noise_plane(shape=shape)], recipe())[0]
    assert pair["raw"].shape == (1, 24, 24)
    assert bool(torch.isfinite(pair["degraded"]).all())


def test_zoom_keeps_the_shapes() -> None:
    pairs = dataset([noise_plane()], recipe(zoom=[0.5, 2.0]))
    assert all(pairs[i]["raw"].shape == (1, 24, 24) for i in range(6))


def test_light_is_matched_to_the_noise_of_the_image() -> None:
    """Without a range in the recipe, a noisier image is degraded with more noise."""
    rng = np.random.default_rng(0)
    light = np.kron(rng.uniform(0.2, 1, (9, 9)), np.ones((20, 20)))
    errors: list[float] = []
    for photons in (40.0, 900.0):
        pixels = (rng.poisson(light * photons) / photons).astype(np.float32)
        pairs = dataset([RawPlane(pixels, 0, "steps", WIDTHS)], recipe())
        rough = [torch.diff(torch.diff(pairs[i]["degraded"])).abs().median() for i in range(8)]
        errors.append(float(torch.stack(rough).mean()))
    # Shot noise falls with the root of the light: 4.7 here; the draw of each pair spreads it.
    assert 2.5 < errors[0] / errors[1] < 9


def test_phantoms_are_noisy_recordings_in_their_own_images() -> None:
    settings = recipe(phantoms=6)
    found = phantom_planes(settings, first_index=9, size=64)
    assert len(found) == 6
    assert {plane.image for plane in found} == {9, 10, 11, 12, 13}
    np.testing.assert_array_equal(
        found[2].pixels, phantom_planes(settings, first_index=9, size=64)[2].pixels
    )


def flat_plane(level: float = 400.0, shape: tuple[int, int] = (200, 180)) -> RawPlane:
    """Return even light with shot noise of gain 1; nothing but noise differs between pixels."""
    pixels = np.random.default_rng(3).poisson(level, shape).astype(np.float32)
    return RawPlane(pixels, 0, "flat", WIDTHS)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_split_light_gives_independent_noise(share: float) -> None:
    plane = flat_plane()
    pairs = PairDataset([plane], recipe(input_share=share), radius=2, length=1, stream=0)
    parts = pairs._parts(plane.pixels, 0, 0)  # pyright: ignore[reportPrivateUsage]
    assert parts.shape == (2, *plane.pixels.shape)
    found = estimate_noise(torch.from_numpy(plane.pixels))
    estimated = float(found.variance(torch.tensor(400.0)))
    assert estimated == pytest.approx(400, rel=0.2)
    covariance = np.cov(parts.reshape(2, -1))
    # What the estimate is wrong by remains in common, but no more; 36,000 pixels scatter by 1 %.
    assert covariance[0, 1] == pytest.approx(400 - estimated, abs=25)
    assert covariance[0, 0] == pytest.approx(400 + estimated * (1 - share) / share, rel=0.05)
    assert covariance[1, 1] == pytest.approx(400 + estimated * share / (1 - share), rel=0.05)
    np.testing.assert_allclose(share * parts[0] + (1 - share) * parts[1], plane.pixels, rtol=1e-4)


def test_split_light_leaves_the_patches_where_they_are() -> None:
    plane = noise_plane(shape=(150, 150))
    same = {"zoom": (0.5, 1.2)}
    whole, split = (
        PairDataset([plane], recipe(**same, **share), radius=2, length=20, stream=0)
        for share in ({}, {"input_share": 0.5})
    )
    assert whole[7]["raw"].shape == split[7]["raw"].shape
    together = [
        np.corrcoef(whole[i]["raw"].ravel(), split[i]["raw"].ravel())[0, 1] for i in range(20)
    ]
    apart = [
        np.corrcoef(whole[i]["raw"].ravel(), split[i + 1]["raw"].ravel())[0, 1] for i in range(19)
    ]
    assert np.mean(together) > 0.4 > 4 * abs(np.mean(apart))
    again = PairDataset([plane], recipe(**same, input_share=0.5), radius=2, length=20, stream=0)
    assert torch.equal(split[7]["raw"], again[7]["raw"])
    assert torch.equal(split[7]["degraded"], again[7]["degraded"])


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_of_the_light_lies_between_none_and_all(share: float) -> None:
    with pytest.raises(ValueError, match="input_share"):
        recipe(input_share=share)
