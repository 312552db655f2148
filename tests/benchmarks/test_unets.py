"""Laws of the U-Nets that the networks are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from benchmark_scripts import load

if TYPE_CHECKING:
    from torch import nn

KINDS = ["blurpool_unet", "plain_unet"]


@pytest.fixture(scope="module")
def unets() -> Any:
    return load("unets")


def network(unets: Any, kind: str) -> Any:
    torch.manual_seed(1)
    made: nn.Module = unets.build_unet(unets.UNetSettings(kind=kind, width=4, levels=3))
    return made.double().eval()


def image(height: int = 97, width: int = 90) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand((2, 1, height, width), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_shape_shrinks_by_the_radius(unets: Any, kind: str) -> None:
    net = network(unets, kind)
    assert net(image()).shape == (2, 1, 97 - 2 * net.radius, 90 - 2 * net.radius)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("gain", "offset"), [(3.0, 0.0), (1.0, 1000.0), (0.01, -5.0)])
@torch.no_grad()
def test_normalisation_equivariance(unets: Any, kind: str, gain: float, offset: float) -> None:
    net, x = network(unets, kind), image()
    difference = net(gain * x + offset) - (gain * net(x) + offset)
    assert float(difference.abs().max()) < 1e-9 * (gain + abs(offset))


@torch.no_grad()
def test_blurred_pooling_commutes_with_shifts_by_its_factor_and_sees_its_radius(
    unets: Any,
) -> None:
    net, x = network(unets, "blurpool_unet"), image(120, 120)
    m, r = net.multiple, net.radius
    whole = net(x)
    torch.testing.assert_close(net(x[:, :, m:, m:]), whole[:, :, m:, m:], rtol=0, atol=1e-12)
    odd = (net(x[:, :, 1:, 1:]) - whole[:, :, 1:, 1:]).abs().max()
    assert float(odd) > 1e-6, "pooling must show off its grid, or this test proves nothing"
    window = x[:, :, m : m + 2 * r + m, m : m + 2 * r + m]
    torch.testing.assert_close(net(window), whole[:, :, m : 2 * m, m : 2 * m], rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_plain_one_commutes_with_shifts_by_its_pooling_factor(unets: Any) -> None:
    """Up to its statistics: a periodic image keeps mean and deviation when it is shifted."""
    net = network(unets, "plain_unet")
    m = net.multiple
    x = image(24, 24)[:1].repeat(1, 1, 5, 5)
    moved = torch.roll(x, (m, m), (2, 3))
    difference = net(moved)[:, :, m:, m:] - net(x)[:, :, :-m, :-m]
    assert float(difference.abs().max()) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_constant_stays_constant(unets: Any, kind: str) -> None:
    net = network(unets, kind)
    side = 2 * net.radius + 4
    y = net(torch.full((1, 1, side, side), 7.0, dtype=torch.float64))
    torch.testing.assert_close(y, torch.full_like(y, 7.0))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight(unets: Any, kind: str) -> None:
    net = network(unets, kind)
    net(image()).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert float(parameter.grad.abs().sum()) > 0, (kind, name)
