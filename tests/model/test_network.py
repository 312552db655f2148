"""Laws of the networks: equivariance to grey values and to shifts, and the reach they declare."""

from __future__ import annotations

import pytest
import torch

from deepcontrast_bmz.model.network import InvertibleNetwork, StepNetwork, build_network
from deepcontrast_bmz.model.network.layers import AffineConv, sort_pairs
from deepcontrast_bmz.settings import NetworkSettings

SETTINGS = {
    "dilated": NetworkSettings(kind="dilated", width=6, dilations=(1, 2, 3, 1)),
    "invertible": NetworkSettings(kind="invertible", width=4, levels=3),
}
KINDS = list(SETTINGS)


def network(kind: str) -> StepNetwork:
    torch.manual_seed(1)
    return build_network(SETTINGS[kind]).double().eval()


def image(height: int = 97, width: int = 90) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand((2, 1, height, width), generator=generator, dtype=torch.float64)


def test_affine_conv_weights_sum_to_their_total() -> None:
    for total in (1.0, 0.0):
        layer = AffineConv(3, 5, dilation=2, total=total)
        sums = layer.kernel().sum(dim=(1, 2, 3))
        torch.testing.assert_close(sums, torch.full((5,), total), atol=1e-6, rtol=0)


def test_sort_pairs_sorts_and_keeps_every_value() -> None:
    x = torch.randn(2, 6, 4, 5)
    y = sort_pairs(x)
    assert bool((y[:, :3] >= y[:, 3:]).all())
    torch.testing.assert_close(y[:, :3] + y[:, 3:], x[:, :3] + x[:, 3:])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_shape_shrinks_by_the_radius(kind: str) -> None:
    net = network(kind)
    y = net(image())
    assert y.shape == (2, 1, 97 - 2 * net.radius, 90 - 2 * net.radius)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("gain", "offset"), [(3.0, 0.0), (1.0, 1000.0), (0.01, -5.0)])
@torch.no_grad()
def test_normalisation_equivariance(kind: str, gain: float, offset: float) -> None:
    net, x = network(kind), image()
    difference = net(gain * x + offset) - (gain * net(x) + offset)
    assert float(difference.abs().max()) < 1e-9 * (gain + abs(offset))


@torch.no_grad()
def test_inversion_is_not_commuted_with() -> None:
    """For a < 0 the order of a sort turns round: the network is not merely linear."""
    net, x = network("dilated"), image()
    assert float((net(-x) + net(x)).abs().max()) > 1e-3


@pytest.mark.parametrize("shift", [(1, 0), (0, 3), (5, 7)])
@torch.no_grad()
def test_dilated_commutes_with_every_shift(shift: tuple[int, int]) -> None:
    net, x = network("dilated"), image()
    dy, dx = shift
    torch.testing.assert_close(net(x[:, :, dy:, dx:]), net(x)[:, :, dy:, dx:], rtol=0, atol=1e-14)


@torch.no_grad()
def test_invertible_commutes_with_shifts_by_its_coarsest_pixel() -> None:
    net, x = network("invertible"), image(120, 120)
    m = net.multiple
    torch.testing.assert_close(net(x[:, :, m:, m:]), net(x)[:, :, m:, m:], rtol=0, atol=1e-12)
    odd = (net(x[:, :, 1:, 1:]) - net(x)[:, :, 1:, 1:]).abs().max()
    assert float(odd) > 1e-6, "pooling must show off its grid, or this test proves nothing"


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_nothing_beyond_the_radius_is_seen(kind: str) -> None:
    net = network(kind)
    r, m = net.radius, net.multiple
    x = image(4 * r + 4 * m, 4 * r + 4 * m)[:1]
    whole = net(x)
    window = x[:, :, m : m + 2 * r + m, m : m + 2 * r + m]
    torch.testing.assert_close(net(window), whole[:, :, m : 2 * m, m : 2 * m], rtol=0, atol=1e-12)


@torch.no_grad()
def test_dilated_radius_is_not_larger_than_its_reach() -> None:
    net = network("dilated")
    x = image(4 * net.radius + 1, 4 * net.radius + 1)[:1]
    changed = x.clone()
    changed[..., 2 * net.radius, 2 * net.radius] += 10
    seen = (net(changed) - net(x)).abs()[0, 0] > 1e-12
    assert int(seen.nonzero().max() - seen.nonzero().min()) == 2 * net.radius


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_constant_stays_constant(kind: str) -> None:
    net = network(kind)
    side = 2 * net.radius + 4
    y = net(torch.full((1, 1, side, side), 7.0, dtype=torch.float64))
    torch.testing.assert_close(y, torch.full_like(y, 7.0))


def test_gradients_reach_every_weight() -> None:
    for kind in KINDS:
        net = network(kind)
        net(image()).square().sum().backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, (kind, name)
            assert float(parameter.grad.abs().sum()) > 0, (kind, name)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@torch.no_grad()
def test_invertible_network_is_undone_by_its_inverse(scale: float) -> None:
    """In single precision, with couplings far from the identity, on a signal upon an offset."""
    torch.manual_seed(3)
    net = InvertibleNetwork(8, 4).eval()
    for name, parameter in net.named_parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter) if "gain" in name else 2 * parameter)
    x = scale * (image(96, 64).float() + 1)
    y = net.transform(x)
    assert float((y - x).std() / x.std()) > 0.3, "the identity proves nothing"
    assert float((net.inverse(y) - x).abs().max()) < 1e-4 * float(x.max() - x.min())
    assert float((net.transform(net.inverse(x)) - x).abs().max()) < 1e-4 * float(x.max() - x.min())


def test_invertible_network_is_a_bijection_to_first_order() -> None:
    """Its Jacobian, on a few pixels, has full rank; that of a U-Net need not."""
    net = network("invertible")
    assert isinstance(net, InvertibleNetwork)

    def of_pixels(pixels: torch.Tensor) -> torch.Tensor:
        return net.transform(pixels.reshape(1, 1, 8, 8)).flatten()

    jacobian = torch.func.jacrev(of_pixels)(image(8, 8)[0].flatten())
    assert int(torch.linalg.matrix_rank(jacobian)) == 64


def test_an_invertible_network_of_one_level_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 levels"):
        NetworkSettings(kind="invertible", levels=1)
