"""The plan of blocks: every pixel once, on the grid, in pieces that chunks divide."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcontrast_bmz.image.blocks import Box, choose_chunk, cut, measure_piece, read_box, split
from deepcontrast_bmz.model.loop import Loop, extend
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.settings import NetworkSettings

DILATED = NetworkSettings(width=4, dilations=(1, 2, 1))
ON_GRID = NetworkSettings(kind="invertible", width=4, levels=3)


def random_loop(network: NetworkSettings) -> Loop:
    torch.manual_seed(1)
    return Loop(build_network(network), 2).eval()


def random_planes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)


@settings(deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    side=st.integers(1, 50),
    grid=st.sampled_from([1, 2, 4]),
)
def test_cut_covers_every_pixel_once_on_the_grid(shape: list[int], side: int, grid: int) -> None:
    covered = np.zeros(shape, int)
    for box in cut(shape, [side] * len(shape), [grid] * len(shape)):
        covered[box.slices] += 1
        assert all(start % grid == 0 for start in box.starts)
        assert max(box.shape) <= max(side, grid)
    assert (covered == 1).all()


@settings(deadline=None)
@given(length=st.integers(1, 100_000), block=st.integers(1, 3000), grid=st.sampled_from([1, 16]))
def test_a_line_is_cut_into_the_fewest_pieces_of_about_one_length(
    length: int, block: int, grid: int
) -> None:
    step = measure_piece(length, block, grid)
    side = max(block // grid, 1) * grid
    assert step <= side
    assert step % grid == 0
    assert math.ceil(length / step) == math.ceil(length / side)


@settings(deadline=None)
@given(length=st.integers(1, 5000), largest=st.integers(1, 2000))
def test_chunks_divide_a_piece(length: int, largest: int) -> None:
    chunk = choose_chunk(length, largest)
    assert length % chunk == 0
    assert chunk <= largest or chunk == length
    assert 4 * chunk >= min(length, largest)


def test_pieces_of_usual_blocks_have_chunks_that_viewers_like() -> None:
    for length in range(1000, 30_000, 37):
        assert 512 <= choose_chunk(measure_piece(length, 2048), 1024) <= 1024


@settings(deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    margin=st.integers(0, 40),
    data=st.data(),
)
def test_a_box_is_a_window_of_the_mirrored_plane(
    height: int, width: int, margin: int, data: st.DataObject
) -> None:
    plane = random_planes(height, width)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(
        (top, left),
        (data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))),
    )
    extended = extend(torch.from_numpy(plane)[None, None], [margin] * 2)[0, 0].numpy()
    expected = extended[top : box.stops[0] + 2 * margin, left : box.stops[1] + 2 * margin]
    found = read_box(lambda part: plane[part], plane.shape, box, (margin, margin))
    assert np.array_equal(found, expected)


def test_no_more_is_read_than_the_box_and_its_surroundings() -> None:
    asked: list[tuple[slice, ...]] = []

    def read(part: tuple[slice, ...]) -> np.ndarray:
        asked.append(part)
        return np.zeros([one.stop - one.start for one in part], np.float32)

    read_box(read, (100, 100), Box((40, 0), (60, 10)), (5, 5))
    assert asked == [(slice(35, 65), slice(0, 15))]


@pytest.mark.parametrize("network", [DILATED, ON_GRID], ids=lambda n: n.kind)
@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), side=st.integers(5, 70))
def test_blocks_joined_are_the_whole(
    network: NetworkSettings, height: int, width: int, side: int
) -> None:
    loop = random_loop(network)
    plane = random_planes(height, width)
    joined = np.full((2, height, width), np.nan, np.float32)
    margins = [2 * radius for radius in loop.radii]
    with torch.inference_mode():
        whole = loop(torch.from_numpy(plane)[None, None])[0].numpy()
        for box in cut(plane.shape, (side, side), (loop.multiple,) * 2):
            window = read_box(lambda part: plane[part], plane.shape, box, margins)
            found = loop.iterate(torch.from_numpy(window)[None, None], 2)
            joined[(slice(None), *box.slices)] = found[0].numpy()
    assert np.abs(joined - whole).max() <= 1e-5 * np.abs(whole).max()


def test_halves_make_up_a_box_on_the_grid() -> None:
    box = Box((16, 32), (100, 90))
    one, other = split(box, (16, 16), 16)
    assert one.starts == box.starts
    assert other.stops == box.stops
    assert one.stops[0] == other.starts[0]
    assert other.starts[0] % 16 == 0
    assert split(one, (16, 16), 64) == []
    assert split(Box((0, 0), (16, 8)), (16, 16), 1) == []
