"""An image larger than memory is learned from in excerpts: bounded, seeded, without overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import read_image, write_image
from deepcontrast_bmz.image import reader as reading
from deepcontrast_bmz.records import RunRecord
from deepcontrast_bmz.train import large_images as excerpts
from deepcontrast_bmz.train.large_images import excerpts_of, excerpts_sha256
from deepcontrast_bmz.train.run import TrainingProgress, train_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deepcontrast_bmz.settings import Recipe

WIDTHS = (2.0, 6.0)
CHUNK = 32


class Recording:
    """A lazy image of any size; every pixel tells where it is, and reading is counted."""

    def __init__(
        self, dims: str, shape: tuple[int, ...], *, empty_above: int | None = None
    ) -> None:
        self.pixels_read = 0
        chunks = tuple((1,) * n if n < CHUNK else (CHUNK,) * (n // CHUNK) for n in shape)
        numbers = np.prod([len(c) for c in chunks])

        def block(block_info: Any) -> np.ndarray:
            where = block_info[None]["array-location"]
            sizes = [stop - start for start, stop in where]
            self.pixels_read += int(np.prod(sizes))
            if empty_above is not None and where[0][0] >= empty_above:
                return np.zeros(sizes)
            axes = np.ogrid[tuple(slice(start, stop) for start, stop in where)]
            place = np.zeros(sizes)
            for axis, length in zip(axes, shape, strict=True):
                place = place * length + axis
            return place

        data = da.map_blocks(block, chunks=chunks, dtype=float, meta=np.empty((0,) * len(shape)))
        assert data.npartitions == numbers
        self.image = xr.DataArray(data, dims=list(dims))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make excerpts and the memory for them small."""

    def make(side: int = CHUNK, count: int = 6) -> None:
        monkeypatch.setattr(excerpts, "EXCERPT_SIDE", side)
        monkeypatch.setattr(excerpts, "EXCERPT_BYTES", 4 * side * side * count)

    return make


@pytest.mark.parametrize(("dims", "shape"), [("yx", (960, 992)), ("tzyx", (3, 5, 960, 992))])
def test_no_more_is_read_and_kept_than_fits(
    dims: str, shape: tuple[int, ...], small: Callable[..., None]
) -> None:
    small()
    recording = Recording(dims, shape)
    found = excerpts_of(recording.image, 0, "large", WIDTHS, seed=1)
    assert len(found) == 6
    assert recording.pixels_read == 6 * CHUNK**2
    assert all(plane.pixels.shape == (CHUNK, CHUNK) for plane in found)
    assert all(plane.pixels.dtype == np.float32 for plane in found)
    firsts = [plane.pixels.flat[0] for plane in found]
    assert firsts == sorted(set(firsts)), "in the order of the image, none twice"


def test_the_seed_decides(small: Callable[..., None]) -> None:
    small()
    recording = Recording("zyx", (7, 320, 320))

    def sha256(seed: int, index: int = 0) -> str:
        found = excerpts_of(recording.image, index, "large", WIDTHS, seed=seed)
        return excerpts_sha256(recording.image, found)

    assert sha256(1) == sha256(1)
    assert len({sha256(1), sha256(2), sha256(1, index=1)}) == 3


def test_empty_cells_are_passed_over(small: Callable[..., None]) -> None:
    small()
    recording = Recording("zyx", (20, 96, 96), empty_above=10)
    found = excerpts_of(recording.image, 0, "large", WIDTHS, seed=1)
    assert len(found) == 6
    assert all(plane.pixels.max() > 0 for plane in found)
    assert recording.pixels_read <= 4 * 6 * CHUNK**2


def test_an_empty_image_is_refused_after_a_bounded_search(small: Callable[..., None]) -> None:
    small()
    recording = Recording("zyx", (25, 320, 320), empty_above=0)
    with pytest.raises(InputError, match="24 excerpts of large are all constant"):
        excerpts_of(recording.image, 0, "large", WIDTHS, seed=1)
    assert recording.pixels_read <= 24 * CHUNK**2


def test_an_image_of_no_numbers_is_refused(small: Callable[..., None]) -> None:
    small()
    recording = Recording("yx", (96, 96))
    with pytest.raises(InputError, match="constant or hold no picture"):
        excerpts_of(recording.image + np.inf, 0, "large", WIDTHS, seed=1)


def test_an_image_smaller_than_an_excerpt_is_one(small: Callable[..., None]) -> None:
    small(side=1024)
    recording = Recording("zyx", (2, 64, 96))
    found = excerpts_of(recording.image, 3, "large", WIDTHS, seed=1)
    assert [plane.pixels.shape for plane in found] == [(64, 96)] * 2
    assert {plane.image for plane in found} == {3}


def test_a_stack_gives_stacks(small: Callable[..., None]) -> None:
    small(side=2 * CHUNK, count=16)
    recording = Recording("tzyx", (2, 24, 128, 128))
    found = excerpts_of(recording.image, 0, "large", WIDTHS, seed=1, planes=2)
    assert len(found) == 8
    assert all(plane.pixels.shape == (8, CHUNK, CHUNK) for plane in found)
    for dims, shape in (("zyx", (1, 64, 64)), ("yx", (64, 64))):
        with pytest.raises(InputError, match="at least 2 planes"):
            excerpts_of(Recording(dims, shape).image, 0, "thin", WIDTHS, seed=1, planes=2)


@pytest.mark.slow
def test_training_from_an_image_that_does_not_fit(
    tmp_path: Path,
    tiny_recipe: Recipe,
    small: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run reads excerpts only, and resumes to the model it would have been."""
    rng = np.random.default_rng(0)
    pixels = rng.poisson(50, (12, 160, 160)).astype(np.uint16)
    path = tmp_path / "large.ome.zarr"
    write_image(xr.DataArray(pixels, dims=("z", "y", "x")), path)
    monkeypatch.setattr(reading, "IN_MEMORY_BYTES", 1000)
    small(side=64, count=5)
    assert read_image(path).chunks is not None
    train_run([path], tmp_path / "whole", tiny_recipe, device="cpu")
    record = RunRecord.model_validate_json((tmp_path / "whole" / "run.json").read_text())
    assert record.images[0].shape == (12, 160, 160)
    assert record.images[0].used_for == "both"

    class Stop(Exception):  # noqa: N818 - it is no error
        pass

    def stop(state: TrainingProgress) -> None:
        if state.step == 5:
            raise Stop

    with pytest.raises(Stop):
        train_run([path], tmp_path / "cut", tiny_recipe, device="cpu", report=stop)
    train_run([], tmp_path / "cut", resume=True, device="cpu")
    whole, cut = (
        torch.load(tmp_path / run / "weights.pt", weights_only=True) for run in ("whole", "cut")
    )
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
