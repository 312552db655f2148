from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter1d

from deepcontrast_bmz.check.processing import UnsupportedError, apply_operations
from deepcontrast_bmz.check.tiling import (
    Handling,
    NotPossibleError,
    cut,
    join,
    measure_difference,
    take,
)
from deepcontrast_bmz.image.blocks import Border, mirror_indices
from deepcontrast_bmz.package.description import Operation

Array = np.ndarray[Any, Any]
Process = Callable[[Array], Array]


@given(st.integers(1, 9), st.integers(0, 30))
def test_mirrored_indices_are_those_of_numpy(size: int, margin: int) -> None:
    line = np.arange(size)
    borders: dict[Border, str] = {"symmetric": "symmetric", "reflect": "reflect"}
    borders["replicate"] = "edge"
    for border, mode in borders.items():
        expected = np.pad(line, margin, mode=mode)  # pyright: ignore[reportArgumentType, reportCallIssue]
        assert np.array_equal(mirror_indices(-margin, size + margin, size, border), expected)


def blur(x: Array) -> Array:
    return uniform_filter1d(uniform_filter1d(x, 5, axis=2), 5, axis=3)


def in_tiles(
    process: Process, image: Array, handling: Handling, rest: Array | None = None
) -> Array:
    """Run a function of (B, C, ...) block by block."""
    axes = range(2, image.ndim)
    sizes = image.shape[2:]
    blocks = cut(sizes, handling)
    parts = [process(take(image, axes, block, handling)) for block in blocks]
    return join(parts, blocks, axes, sizes, rest)


@given(
    st.integers(20, 60), st.integers(20, 60), st.sampled_from(["symmetric", "reflect", "replicate"])
)
def test_tiles_with_enough_halo_are_the_whole_image(
    height: int, width: int, border: Border
) -> None:
    image = np.random.default_rng(0).random((1, 1, height, width))
    whole = blur(image)
    joined = in_tiles(blur, image, Handling((2, 2), border, (24, 21)))
    assert np.allclose(joined[..., 2:-2, 2:-2], whole[..., 2:-2, 2:-2])
    short = in_tiles(blur, image, Handling((1, 1), border, (24, 19)))
    if height > 40:
        assert not np.allclose(short[..., 2:-2, 2:-2], whole[..., 2:-2, 2:-2])


@given(st.integers(3, 14), st.integers(9, 30), st.integers(9, 30))
def test_tiles_of_a_volume_join_to_it(depth: int, height: int, width: int) -> None:
    image = np.random.default_rng(1).random((1, 1, depth, height, width))
    handling = Handling((1, 2, 2), "reflect", (4, 12, 9))
    joined = in_tiles(lambda x: 2 * x, image, handling)
    assert np.array_equal(joined, 2 * image)


def test_last_tile_is_centred_in_a_full_one() -> None:
    blocks = cut((100,), Handling((8,), "symmetric", (64,)))
    assert [block.first for block in blocks] == [(-8,), (40,), (66,)]
    assert [block.kept for block in blocks] == [((0, 48),), ((48, 96),), ((96, 100),)]
    assert {block.side for block in blocks} == {(64,)}


def ilastik_tile(image: Array, start: int, stop: int, halo: int, side: int) -> Array:
    """What ilastik's OpTikTorchClassifierPredict hands over for a part of a line.

    Computed with numpy.pad, where `take` computes indices.
    """
    first, last = start - halo, stop + halo
    missing = side - (last - first)
    first, last = first - (missing + 1) // 2, last + missing // 2
    within = image[max(first, 0) : min(last, len(image))]
    return np.pad(within, (max(-first, 0), max(last - len(image), 0)), mode="reflect")


def qupath_tile(image: Array, start: int, stop: int, halo: int, side: int) -> Array:
    """What QuPath hands over: ServerTools.getPaddedRequest, then OpenCVTools.applyTiled."""
    first, last = start - halo, stop + halo
    within = image[max(first, 0) : min(last, len(image))]
    padded = np.pad(within, (max(-first, 0), max(last - len(image), 0)), mode="edge")
    missing = side - len(padded)
    return np.pad(padded, (missing // 2, missing - missing // 2), mode="symmetric")


@given(st.integers(20, 120), st.integers(0, 9), st.integers(24, 41))
def test_tiles_are_those_of_the_programs(size: int, halo: int, side: int) -> None:
    line = np.random.default_rng(0).random(size)
    ilastik = Handling((halo,), "reflect", (side,))
    qupath = Handling((halo,), "replicate", (side,), fill="symmetric")
    for handling, tile in ((ilastik, ilastik_tile), (qupath, qupath_tile)):
        for block in cut((size,), handling):
            ((start, stop),) = block.kept
            expected = tile(line, start, stop, halo, side)
            assert np.array_equal(take(line, (0,), block, handling), expected)
            assert np.array_equal(
                expected[start - block.first[0] :][: stop - start], line[start:stop]
            )


def test_an_image_below_a_tile_is_enlarged_to_one() -> None:
    line = np.arange(5.0)
    (block,) = cut((5,), Handling((2,), "replicate", (13,), fill="symmetric"))
    qupath = take(line, (0,), block, Handling((2,), "replicate", (13,), fill="symmetric"))
    assert qupath.tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4, 4]
    handling = Handling((2,), "reflect", (13,))
    (block,) = cut((5,), handling)
    assert take(line, (0,), block, handling).tolist() == [4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1, 0]


def multiple_of_16(size: int) -> int:
    return -(-size // 16) * 16


def test_whole_image_is_one_block_of_a_legal_size() -> None:
    handling = Handling((8, 8), "symmetric")
    (block,) = cut((30, 41), handling, [multiple_of_16, multiple_of_16])
    assert block.first == (-8, -8)
    assert block.side == (48, 64)
    image = np.random.default_rng(0).random((1, 1, 30, 41))
    given_to_network = take(image, (2, 3), block, handling)
    assert np.array_equal(given_to_network[0, 0, 8:38, 8:49], image[0, 0])
    assert np.array_equal(join([given_to_network], [block], (2, 3), (30, 41)), image)


def test_tile_that_is_all_halo_is_refused() -> None:
    with pytest.raises(NotPossibleError, match="nothing is left of a tile of 16"):
        cut((100,), Handling((8,), "reflect", (16,)))


def test_network_that_shrinks_is_not_joined() -> None:
    image = np.zeros((1, 1, 40, 40))
    with pytest.raises(NotPossibleError, match="comes back as"):
        in_tiles(lambda x: x[..., 1:-1, 1:-1], image, Handling((2, 2), "reflect", (20, 20)))


def test_of_many_tiles_some_are_run_and_the_rest_is_left() -> None:
    image = np.random.default_rng(0).random((1, 1, 100, 100))
    handling = Handling((2, 2), "reflect", (14, 14), most=3)
    assert len(cut((100, 100), handling)) == 9
    joined = in_tiles(np.negative, image, handling, rest=image)
    assert np.array_equal(joined[..., :10, :10], -image[..., :10, :10])
    assert np.array_equal(joined[..., 90:, 90:], -image[..., 90:, 90:])
    assert np.array_equal(joined[..., 10:40, :], image[..., 10:40, :])


def test_difference_is_over_the_range_of_each_channel() -> None:
    second = np.stack([np.linspace(0, 1, 100), np.linspace(0, 1000, 100)])[None]
    first = second.copy()
    first[0, 0, 50] += 0.1
    first[0, 1, 0] += 10
    inside = [slice(None), slice(None), slice(10, 90)]
    within, border = measure_difference(first, second, 1, inside)
    assert within == pytest.approx(0.1)
    assert border == pytest.approx(0.01)
    first[0, 0, 50] = np.nan
    assert measure_difference(first, second, 1, inside)[0] == np.inf


def test_operations_do_what_they_are_called() -> None:
    x = np.random.default_rng(0).random((1, 2, 8, 8)) * 50 + 7
    axes = ("batch", "channel", "y", "x")

    def apply(name: str, **kwargs: Any) -> np.ndarray[Any, Any]:
        return apply_operations([Operation(name, kwargs, True)], x, axes)

    normal = apply("zero_mean_unit_variance", axes=["y", "x"])
    assert np.allclose(normal.mean(axis=(2, 3)), 0, atol=1e-5)
    assert np.allclose(normal.std(axis=(2, 3)), 1, atol=1e-4)
    ranged = apply("scale_range", min_percentile=0, max_percentile=100)
    assert np.allclose([ranged.min(), ranged.max()], [0, 1], atol=1e-5)
    by_channel = apply("scale_linear", gain=[2.0, 3.0], offset=1.0, axis="channel")
    assert np.allclose(by_channel[:, 1], 3 * x[:, 1] + 1, rtol=1e-5)
    assert apply("clip", min=10, max=20).max() == 20
    assert np.allclose(apply("sigmoid"), 1 / (1 + np.exp(-x)), atol=1e-6)
    assert set(np.unique(apply("binarize", threshold=30.0))) == {0, 1}
    fixed = apply("fixed_zero_mean_unit_variance", mean=7.0, std=50.0)
    assert np.allclose(fixed, (x - 7) / 50, atol=1e-5)
    with pytest.raises(UnsupportedError, match="cellpose"):
        apply("cellpose_flow_dynamics")
