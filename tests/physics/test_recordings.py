"""Recordings within the trained range and beyond it, each by its seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepcontrast_bmz.physics.recordings import (
    BEYOND,
    Beyond,
    Light,
    draw_light,
    record,
    record_beyond_range,
    simulate_processing,
    vary_specimen,
)
from deepcontrast_bmz.physics.scatter import scatter
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


def test_a_stack_is_recorded_through_one_tissue() -> None:
    drawn = draw_light(PHYSICS, np.random.default_rng(2), 1, 1.0, 48, planes=5)
    counts = record(drawn)
    assert counts.shape == (5, 48, 48)
    # Light is scattered within its plane: one plane alone looks as it does in the stack.
    alone = record(drawn._replace(truth=drawn.truth[2]))
    assert torch.equal(_noiseless(drawn)[2], _noiseless(drawn._replace(truth=drawn.truth[2])))
    assert alone.shape == (48, 48)
    smooth = simulate_processing(counts, "smoothed", np.random.default_rng(0))
    one = simulate_processing(counts[3], "smoothed", np.random.default_rng(0))
    assert torch.allclose(smooth[3], one)


def _noiseless(light: Light) -> torch.Tensor:
    return scatter(light.truth, light.optical_depth, light.widths_px, light.weights)


def test_varied_specimens_are_others() -> None:
    drawn = draw_light(PHYSICS, np.random.default_rng(2), 1, 1.0, 64)
    others = [vary_specimen(drawn, np.random.default_rng(seed)) for seed in range(12)]
    assert all(other.truth.shape == (64, 64) for other in others)
    assert all(float(other.truth.min()) >= 0 for other in others)
    assert sum(not torch.equal(other.truth, drawn.truth) for other in others) > 6
    assert all(other._replace(truth=drawn.truth) == drawn for other in others)
