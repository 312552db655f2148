"""What the network is taught of nothing is nothing: light that no kernel changes, and its noise."""

from __future__ import annotations

import numpy as np
import pytest
import structureless
import torch

from deepcontrast_bmz.physics.scatter import scatter


@pytest.mark.parametrize("seed", range(8))
def test_its_light_is_what_scattering_leaves(seed: int) -> None:
    recorded, light = structureless.draw_structureless(np.random.default_rng(seed), 256, 1.0)
    assert recorded.shape == light.shape == (256, 256)
    assert float(light.min()) >= 0
    scattered = scatter(light.double(), 1.0, (5.5,), (1.0,))[32:-32, 32:-32]
    away = (scattered - light[32:-32, 32:-32]).square().mean().sqrt()
    # Haze of 32 px loses a little of its contrast; nothing that a network should put back.
    assert float(away) < 0.05 * float(light.mean())


@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.2])
def test_the_recording_is_the_light_and_noise(zoom: float) -> None:
    for seed in range(4):
        recorded, light = structureless.draw_structureless(np.random.default_rng(seed), 200, zoom)
        noise = recorded - light
        error = float(noise.std()) / 20  # neighbours depend on each other: 400 pixels that do not
        assert abs(float(noise.mean())) < 4 * error
        again, _ = structureless.draw_structureless(np.random.default_rng(seed), 200, zoom)
        assert torch.equal(recorded, again)
