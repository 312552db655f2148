"""The measured halo is the one a network of known reach needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcontrast_bmz.export.halo import measure_halo
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.settings import NetworkSettings

DILATED = NetworkSettings(width=4, dilations=(1, 2, 1))


def random_loop(network: NetworkSettings, iterations: int = 2) -> Loop:
    torch.manual_seed(1)
    return Loop(build_network(network), iterations).eval()


def random_planes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)


class Neighbours(nn.Module):
    """Averages a pixel with the two `reach` to its left and right; may claim a larger radius."""

    def __init__(self, reach: int, radius: int, multiple: int = 1) -> None:
        super().__init__()
        self.reach = reach
        self.radius = radius
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.zeros(1, 1, 1, 2 * self.reach + 1)
        kernel[..., 0], kernel[..., self.reach], kernel[..., -1] = 0.3, 0.4, 0.3
        spare = self.radius - self.reach
        x = x[:, :, self.radius : -self.radius, spare : x.shape[3] - spare]
        return F.conv2d(x, kernel)


@pytest.mark.parametrize(
    ("reach", "radius", "multiple", "iterations", "expected"),
    [
        (5, 5, 1, 2, 16),
        (4, 4, 1, 2, 8),
        (5, 20, 1, 3, 16),
        (3, 12, 1, 1, 8),
        (5, 10, 1, 4, 24),
        (5, 16, 16, 2, 16),
        (9, 16, 16, 2, 32),
    ],
)
def test_the_halo_of_a_known_network(
    reach: int, radius: int, multiple: int, iterations: int, expected: int
) -> None:
    loop = Loop(Neighbours(reach, radius, multiple), iterations)
    sample = torch.from_numpy(random_planes(1, 1, 96, 112))
    assert measure_halo(loop, sample, iterations, 1e-3) == (expected, expected)


def test_a_looser_tolerance_needs_no_larger_halo() -> None:
    loop = random_loop(DILATED, 3)
    sample = torch.from_numpy(random_planes(1, 1, 80, 80))
    halos = [measure_halo(loop, sample, 3, tolerance)[0] for tolerance in (1e-7, 1e-2, 10.0)]
    assert halos == sorted(halos, reverse=True)
    assert halos[-1] == 8


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (96, 10)])
def test_a_sample_too_small_to_tell_gives_the_exact_radius(shape: tuple[int, int]) -> None:
    loop = Loop(Neighbours(5, 10), 3)
    sample = torch.from_numpy(random_planes(1, 1, *shape))
    assert measure_halo(loop, sample, 3, 1e-3) == (32, 32)


def test_beyond_the_measured_halo_a_tile_agrees() -> None:
    loop = random_loop(NetworkSettings(width=4, dilations=(1, 4, 4, 1)), 3)
    sample = torch.from_numpy(random_planes(1, 1, 120, 120))
    halo, _ = measure_halo(loop, sample, 3, 1e-3)
    with torch.inference_mode():
        whole = loop(sample)
        tile = loop(sample[:, :, :, 40 - halo : 70 + halo])[:, :, :, halo:-halo]
    change = (tile - whole[:, :, :, 40:70]).abs().amax((0, 2, 3))
    spread = whole.amax((0, 2, 3)) - whole.amin((0, 2, 3))
    assert bool((change <= 2e-3 * spread).all())
