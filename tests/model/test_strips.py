"""Strips of rows, folded kernels and another memory layout give what the network gives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import DilatedNetwork, DilatedVolumeNetwork, build_network
from deepcontrast_bmz.model.network.strips import InStrips
from deepcontrast_bmz.settings import NetworkSettings


def network_of(*dilations: int, width: int = 6) -> DilatedNetwork:
    torch.manual_seed(2)
    return DilatedNetwork(width, dilations).eval().requires_grad_(requires_grad=False)


def recording(*shape: int) -> torch.Tensor:
    return 100 + 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("rows", [None, 1, 2, 5, 64])
@pytest.mark.parametrize("dilations", [(1, 2, 4, 8, 4, 2, 1), (2, 1), (1,), (2,), (3,), (5, 1)])
@pytest.mark.parametrize("inside", [(1, 1), (1, 40), (37, 20)])
def test_strips_give_the_values_of_the_network(
    rows: int | None, dilations: tuple[int, ...], inside: tuple[int, int], channels_last: bool
) -> None:
    network = network_of(*dilations)
    strips = InStrips(network, rows, channels_last=channels_last)
    assert (strips.radius, strips.multiple) == (network.radius, network.multiple)
    r = network.radius
    x = recording(2, 1, inside[0] + 2 * r, inside[1] + 2 * r)
    with torch.inference_mode():
        expected = network(x)
        found = strips(x)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("rows", [None, 1, 7])
@pytest.mark.parametrize("mixing", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_strips_give_the_values_of_the_network_for_stacks(
    rows: int | None, mixing: int, batch: int
) -> None:
    torch.manual_seed(3)
    network = DilatedVolumeNetwork(4, (1, 2, 1), mixing).eval().requires_grad_(requires_grad=False)
    strips = InStrips(network, rows)
    assert strips.radii == network.radii
    x = recording(batch, 1, 3 + 2 * mixing, 15 + 2 * network.radius, 12 + 2 * network.radius)
    with torch.inference_mode():
        expected = network(x)
        found = strips(x)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_grey_level_far_above_the_signal_passes_through() -> None:
    """The differences of pairs ignore it: rounding is all that is left, as in the network."""
    network = network_of(1, 2, 4, 2, 1, width=16)
    strips = InStrips(network)
    x = recording(1, 1, 60, 50)
    with torch.inference_mode():
        plain, shifted = strips(x), strips(x + 1e5)
        by_network = network(x + 1e5)
    error = (shifted - plain - 1e5).abs().max()
    assert error <= max(2 * float((by_network - plain - 1e5).abs().max()), 1e-6 * 1e5)


def test_strips_know_nothing_of_other_images() -> None:
    """One object serves many threads: nothing of one image is left for the next."""
    strips = InStrips(network_of(1, 2, 1), 4)
    images = [recording(1, 1, 30 + n, 40) for n in range(6)]

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return strips(x)

    alone = [run(x) for x in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, images * 4))
    for number, found in enumerate(together):
        assert torch.equal(found, alone[number % len(images)])


def test_strips_leave_the_image_alone() -> None:
    strips = InStrips(network_of(1, 2, 1))
    x = recording(1, 1, 30, 30)
    before = x.clone()
    with torch.inference_mode():
        strips(x)
    assert torch.equal(x, before)


def test_strips_go_through_the_loop() -> None:
    plain = Loop(build_network(NetworkSettings(width=4, dilations=(1, 2, 1))), 2)
    assert isinstance(plain.network, DilatedNetwork)
    strips = Loop(InStrips(plain.network, 4), 2)
    assert (strips.radius, strips.radii) == (plain.radius, plain.radii)
    x = recording(1, 1, 30, 40)
    with torch.inference_mode():
        expected = plain(x)
        assert (strips(x) - expected).abs().max() <= 1e-6 * expected.abs().max()
