"""Recordings within the trained range and beyond it, each by its seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepcontrast_bmz.physics import recordings as specimens
from deepcontrast_bmz.physics.recordings import (
    BEYOND,
    Beyond,
    Light,
    depth_field,
    draw_light,
    record,
    record_beyond_range,
    simulate_processing,
    vary_specimen,
)
from deepcontrast_bmz.settings import PhysicsSettings

PHYSICS = PhysicsSettings(photons=(40.0, 2000.0))


def light(seed: int = 0, kind: int = 2) -> Light:
    return draw_light(PHYSICS, np.random.default_rng(seed), kind, 1.5, 64)


def test_a_recording_belongs_to_its_seed() -> None:
    assert torch.equal(record(light()), record(light()))
    assert not torch.equal(record(light()), record(light(1)))


def test_draws_stay_within_the_range() -> None:
    for seed in range(20):
        drawn = light(seed, seed)
        assert 40 <= drawn.photons <= 2000
        assert sum(drawn.weights) == pytest.approx(1)
        for width, middle in zip(drawn.widths_px, PHYSICS.scatter.widths, strict=True):
            assert 0.6 * middle <= width <= 1.7 * middle


@pytest.mark.parametrize("way", BEYOND)
def test_each_way_beyond_gives_another_image_of_the_same_size(way: Beyond) -> None:
    drawn = light()
    images = [
        record_beyond_range(drawn, way, PHYSICS, 4.0, np.random.default_rng(seed))
        for seed in (0, 0, 1)
    ]
    assert images[0].shape == record(drawn).shape
    assert images[0].dtype == torch.float32
    assert bool(torch.isfinite(images[0]).all())
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], record(drawn))


def test_cut_off_black_has_eight_bits_and_zeros() -> None:
    raw = simulate_processing(record(light()), "black cut off", np.random.default_rng(3))
    assert set(raw.unique().tolist()) <= set(range(256))
    assert float((raw == 0).float().mean()) > 0.004


def test_smoothing_removes_noise() -> None:
    raw = record(light())
    smooth = simulate_processing(raw, "smoothed", np.random.default_rng(3))
    assert float(smooth.diff(dim=0).std()) < 0.7 * float(raw.diff(dim=0).std())
    assert float(smooth.mean()) == pytest.approx(float(raw.mean()), rel=1e-3)


def test_uneven_tissue_is_even_tissue_pixel_by_pixel() -> None:
    seen = specimens._seen  # pyright: ignore[reportPrivateUsage]
    drawn = draw_light(PHYSICS, np.random.default_rng(1), 0, 0.0, 48)
    depth = torch.full((48, 48), 1.5).double()
    depth[:, 24:] = 3.0
    both = seen(drawn._replace(optical_depth=depth))
    for part, tau in ((slice(0, 24), 1.5), (slice(24, 48), 3.0)):
        even = seen(drawn._replace(optical_depth=tau))
        assert torch.allclose(both[:, part], even[:, part])


def test_depth_fields_stay_in_range_and_differ() -> None:
    fields = [depth_field(64, 3.0, np.random.default_rng(seed)) for seed in range(40)]
    assert min(float(field.min()) for field in fields) >= 0
    assert max(float(field.max()) for field in fields) <= 3
    uneven = [float(field.max() - field.min()) > 0.05 for field in fields]
    assert 0.5 < np.mean(uneven) < 1


def test_varied_specimens_are_others() -> None:
    drawn = draw_light(PHYSICS, np.random.default_rng(2), 1, 1.0, 64)
    others = [vary_specimen(drawn, np.random.default_rng(seed)) for seed in range(12)]
    assert all(other.truth.shape == (64, 64) for other in others)
    assert all(float(other.truth.min()) >= 0 for other in others)
    assert sum(not torch.equal(other.truth, drawn.truth) for other in others) > 6
    assert all(other._replace(truth=drawn.truth) == drawn for other in others)
