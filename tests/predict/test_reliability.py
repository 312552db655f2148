"""How far both halves of the light agree on what was enhanced, around every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from conftest import raw_stack

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import read_image, write_image
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.predict.files import predict_files
from deepcontrast_bmz.predict.reliability import compare_detail, map_reliability

if TYPE_CHECKING:
    from pathlib import Path

    from deepcontrast_bmz.model.model import Model


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Model:
    return open_model(str(tiny_run), device="cpu")


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((90, 100)).astype(np.float32)


def test_the_same_detail_is_reliable_and_unlike_detail_is_not() -> None:
    assert compare_detail(normal(0), 3 * normal(0)).min() == pytest.approx(1)
    assert compare_detail(normal(0), -normal(0)).max() == 0
    assert compare_detail(normal(0), normal(1)).mean() < 0.2
    assert (compare_detail(0 * normal(0), 0 * normal(0)) == 1).all()


def test_it_is_the_share_of_detail_that_is_not_noise() -> None:
    # Halves with twice the noise of the whole: three quarters of the whole's power are detail.
    detail = normal(0)
    one, two = (detail + normal(k) * np.float32(np.sqrt(2 / 3)) for k in (1, 2))
    assert compare_detail(one, two).mean() == pytest.approx(0.75, abs=0.03)


def test_what_is_not_used_does_not_count() -> None:
    used = np.ones((90, 100), bool)
    used[30:60, 40:70] = False
    spoilt = np.where(used, normal(0), 1e6 * normal(1)).astype(np.float32)
    assert compare_detail(normal(0), spoilt, used)[used].min() == pytest.approx(1)


def test_where_there_is_more_light_it_is_higher(model: Model) -> None:
    light = np.maximum(raw_stack(1, 96).values[0].astype(float) - 100, 0)
    rng = np.random.default_rng(0)
    dim, bright = (
        map_reliability(
            model, xr.DataArray(rng.poisson(light * factor) * 1.0, dims=("y", "x")), 2.0
        ).values
        for factor in (0.002, 10)
    )
    assert dim.min() >= 0
    assert bright.max() <= 1
    assert bright.mean() > 0.9
    assert dim.mean() < bright.mean() - 0.3


def test_it_depends_neither_on_the_cut_nor_on_what_is_in_memory(model: Model) -> None:
    image = raw_stack(2, 120).astype(np.float32)
    image[0, 50:64, 70:110] = np.nan
    whole = map_reliability(model, image, 1.3)
    assert np.array_equal(np.isnan(whole), np.isnan(image))
    assert whole.attrs == image.attrs
    lazy = image.copy(data=da.from_array(image.values))
    for other in (
        map_reliability(model, image, 1.3, block=32),
        map_reliability(model, lazy, 1.3, block=48),
    ):
        np.testing.assert_allclose(other.values, whole.values, atol=2e-4)


def test_maps_are_written_beside_the_results(model: Model, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        write_image(raw_stack(1, 48)[0], tmp_path / name)
    a, b = tmp_path / "a.tif", tmp_path / "b.tif"
    predict_files(model, [a], tmp_path / "a_out.tif", dial=1, reliability=tmp_path / "sure.ome.tif")
    found = read_image(tmp_path / "sure.ome.tif")
    np.testing.assert_array_equal(found, map_reliability(model, read_image(a), 1.0))
    assert found.attrs["pixel_size_um"] == {"y": 0.5, "x": 0.5}
    predict_files(model, [a, b], tmp_path / "out", dial=1, reliability=tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "a_reliability.ome.tif",
        "b_reliability.ome.tif",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reliability": "a_out.tif"}, "two outputs, or replace an input"),
        ({"reliability": "a.tif"}, "never replaces an input"),
        ({"reliability": "r.tif", "all_iterations": True}, "that of one dial"),
    ],
)
def test_what_cannot_be_written_is_refused(
    model: Model, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    write_image(raw_stack(1, 48)[0], tmp_path / "a.tif")
    every = bool(options.get("all_iterations", False))
    with pytest.raises(InputError, match=message):
        predict_files(
            model,
            [tmp_path / "a.tif"],
            tmp_path / "a_out.tif",
            dial=None if every else 1,
            all_iterations=every,
            reliability=tmp_path / str(options["reliability"]),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
