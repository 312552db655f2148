"""Raw images of a run and their masks: masked pixels teach nothing and count nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
from conftest import raw_stack

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import write_image
from deepcontrast_bmz.train.raw_images import (
    MaskedPath,
    check_same,
    mask_paths,
    read_list,
    read_planes,
    write_list,
)

if TYPE_CHECKING:
    from pathlib import Path

    from deepcontrast_bmz.settings import Recipe


def store(folder: Path, under: float) -> MaskedPath:
    """A stack with some value where its mask is zero: on the right, and a block of one plane."""
    image = raw_stack()
    used = np.ones(image.shape, np.uint8)
    used[:, :, 48:] = 0
    used[1, :24] = 0
    image.values[used == 0] = under
    where = MaskedPath(folder / f"raw_{under:g}.tif", folder / "mask.tif")
    write_image(image, where.path)
    assert where.mask is not None
    write_image(xr.DataArray(used, dims=image.dims), where.mask)
    return where


@pytest.mark.parametrize("limit", [0, 2**30])
def test_masked_pixels_are_not_taught(
    tmp_path: Path, tiny_recipe: Recipe, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcontrast_bmz.image.reader.IN_MEMORY_BYTES", limit)
    bright, dark = (
        read_planes([store(tmp_path, under)], tiny_recipe)[0] for under in (65535.0, 0.0)
    )
    assert [plane.pixels.shape for plane in bright] == [(72, 48), (48, 48), (72, 48), (72, 48)]
    for one, other in zip(bright, dark, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.floor, one.light) == (other.floor, other.light)
    # Brought to a common range by a power of two.
    raw = raw_stack().values.astype(np.float32)
    expected = (raw[0, :, :48], raw[1, 24:, :48])
    factor = float(bright[0].pixels[0, 0] / raw[0, 0, 0])
    for plane, part in zip(bright, expected, strict=False):
        assert np.array_equal(plane.pixels, part * factor)


def test_a_run_knows_its_masks_again(tmp_path: Path, tiny_recipe: Recipe) -> None:
    image = store(tmp_path, 7)
    _, records = read_planes([image], tiny_recipe)
    write_list([image], records, tmp_path)
    assert read_list(tmp_path) == [image]
    moved = tmp_path / "moved.tif"
    assert read_list(tmp_path, mask_paths([moved])) == [MaskedPath(moved, image.mask)]
    check_same([image], records, tmp_path)
    with pytest.raises(InputError, match="the same images and mask"):
        check_same([MaskedPath(image.path)], records, tmp_path)
    assert image.mask is not None
    write_image(xr.zeros_like(raw_stack()) + 1, image.mask)
    with pytest.raises(InputError, match="the same images and mask"):
        check_same([image], records, tmp_path)
