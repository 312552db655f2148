"""Blocks joined are the whole; the measured halo is the one a network of known reach needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcontrast_bmz.loop import Loop, extend_symmetric
from deepcontrast_bmz.model import build_loop
from deepcontrast_bmz.network import DilatedNetwork, build_network
from deepcontrast_bmz.settings import NetworkSettings
from deepcontrast_bmz.tiles import Block, InStrips, cut, in_blocks, measure_halo, read_block

DILATED = NetworkSettings(width=4, dilations=(1, 2, 1))
BLURPOOL = NetworkSettings(kind="blurpool_unet", width=4, levels=3)


def random_loop(network: NetworkSettings, iterations: int = 2) -> Loop:
    torch.manual_seed(1)
    return Loop(build_network(network), iterations).eval()


def random_planes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)


def run_in_blocks(loop: Loop, planes: np.ndarray, iterations: int, block: int) -> np.ndarray:
    out = np.full((planes.shape[0], iterations, *planes.shape[1:]), np.nan, np.float32)
    with torch.inference_mode():
        in_blocks(
            planes,
            lambda window: loop.iterate(window, iterations),
            list(out),
            block=block,
            margin=iterations * loop.radius,
            multiple=loop.multiple,
        )
    return out


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    block=st.integers(1, 100),
    multiple=st.sampled_from([1, 2, 4]),
)
def test_cut_covers_every_pixel_once_on_the_grid(
    height: int, width: int, block: int, multiple: int
) -> None:
    covered = np.zeros((height, width), int)
    for part in cut(height, width, block, multiple):
        covered[part.top : part.bottom, part.left : part.right] += 1
        assert part.top % multiple == 0
        assert part.left % multiple == 0
        assert max(part.bottom - part.top, part.right - part.left) <= max(block, multiple)
    assert (covered == 1).all()


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    margin=st.integers(0, 40),
    data=st.data(),
)
def test_a_block_is_a_window_of_the_mirrored_plane(
    height: int, width: int, margin: int, data: st.DataObject
) -> None:
    plane = random_planes(1, height, width)
    top = data.draw(st.integers(0, height - 1))
    left = data.draw(st.integers(0, width - 1))
    block = Block(
        top,
        data.draw(st.integers(top + 1, height)),
        left,
        data.draw(st.integers(left + 1, width)),
    )
    extended = extend_symmetric(torch.from_numpy(plane)[None], margin)[0].numpy()
    expected = extended[
        :, block.top : block.bottom + 2 * margin, block.left : block.right + 2 * margin
    ]
    assert np.array_equal(read_block(plane, block, margin), expected)


@pytest.mark.parametrize("network", [DILATED, BLURPOOL], ids=lambda n: n.kind)
@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (41, 37)])
@pytest.mark.parametrize("block", [8, 17, 64])
def test_blocks_joined_are_the_whole(
    network: NetworkSettings, shape: tuple[int, int], block: int
) -> None:
    loop = random_loop(network)
    planes = random_planes(2, *shape)
    with torch.inference_mode():
        whole = loop(torch.from_numpy(planes)[:, None]).numpy()
    joined = run_in_blocks(loop, planes, 2, block)
    assert np.abs(joined - whole).max() <= 1e-5 * np.abs(whole).max()


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), block=st.integers(5, 40))
def test_blocks_joined_are_the_whole_at_any_size(height: int, width: int, block: int) -> None:
    loop = random_loop(DILATED)
    planes = random_planes(1, height, width)
    with torch.inference_mode():
        whole = loop(torch.from_numpy(planes)[:, None]).numpy()
    joined = run_in_blocks(loop, planes, 2, block)
    assert np.abs(joined - whole).max() <= 1e-5 * np.abs(whole).max()


def test_a_part_of_the_planes_can_be_computed_alone() -> None:
    planes = random_planes(1, 30, 20)
    out = np.empty((1, 8, 20), np.float32)
    in_blocks(
        planes,
        lambda window: 2 * window[:, :, 3:-3, 3:-3],
        [out],
        block=5,
        margin=3,
        part=Block(12, 20, 0, 20),
    )
    assert np.array_equal(out[0], 2 * planes[0, 12:20])


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    planes = random_planes(1, 20, 20)
    in_blocks(
        planes,
        lambda window: window,
        [np.empty((1, 20, 20), np.float32)],
        block=8,
        margin=0,
        progress=shares.append,
    )
    assert len(shares) == 9
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("rows", [None, 1, 2, 5, 64])
@pytest.mark.parametrize("dilations", [(1, 2, 4, 8, 4, 2, 1), (3,)])
@pytest.mark.parametrize("inside", [(1, 1), (1, 40), (37, 20)])
def test_strips_give_the_values_of_the_network(
    rows: int | None, dilations: tuple[int, ...], inside: tuple[int, int]
) -> None:
    torch.manual_seed(2)
    network = DilatedNetwork(6, dilations)
    strips = InStrips(network, rows)
    assert (strips.radius, strips.multiple) == (network.radius, network.multiple)
    r = network.radius
    x = torch.from_numpy(random_planes(2, 1, inside[0] + 2 * r, inside[1] + 2 * r))
    with torch.inference_mode():
        expected = network(x)
        assert (strips(x) - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_strips_go_through_the_loop_with_reinjection() -> None:
    plain = build_loop(
        DILATED,
        iterations=2,
        reinjection=0.5,
        step_optical_depth=1.0,
        widths_px=(1.0, 3.0),
        weights=(0.7, 0.3),
    )
    assert isinstance(plain.network, DilatedNetwork)
    strips = Loop(InStrips(plain.network, 4), 2, plain.reinjection)
    x = torch.from_numpy(random_planes(1, 1, 30, 40))
    with torch.inference_mode():
        expected = plain(x)
        assert (strips(x) - expected).abs().max() <= 1e-6 * expected.abs().max()


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
    assert measure_halo(loop, sample, iterations, 1e-3) == expected


def test_a_looser_tolerance_needs_no_larger_halo() -> None:
    loop = random_loop(DILATED, 3)
    sample = torch.from_numpy(random_planes(1, 1, 80, 80))
    halos = [measure_halo(loop, sample, 3, tolerance) for tolerance in (1e-7, 1e-2, 10.0)]
    assert halos == sorted(halos, reverse=True)
    assert halos[-1] == 8


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (96, 10)])
def test_a_sample_too_small_to_tell_gives_the_exact_radius(shape: tuple[int, int]) -> None:
    loop = Loop(Neighbours(5, 10), 3)
    sample = torch.from_numpy(random_planes(1, 1, *shape))
    assert measure_halo(loop, sample, 3, 1e-3) == 32


def test_beyond_the_measured_halo_a_tile_agrees() -> None:
    loop = random_loop(NetworkSettings(width=4, dilations=(1, 4, 4, 1)), 3)
    sample = torch.from_numpy(random_planes(1, 1, 120, 120))
    halo = measure_halo(loop, sample, 3, 1e-3)
    with torch.inference_mode():
        whole = loop(sample)
        tile = loop(sample[:, :, :, 40 - halo : 70 + halo])[:, :, :, halo:-halo]
    change = (tile - whole[:, :, :, 40:70]).abs().amax((0, 2, 3))
    spread = whole.amax((0, 2, 3)) - whole.amin((0, 2, 3))
    assert bool((change <= 2e-3 * spread).all())
