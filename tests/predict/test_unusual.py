"""Images as nights of recording leave them: blank frames, tiny and huge values, odd names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
from conftest import raw_stack

from deepcontrast_bmz.image import read_image, write_image
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.predict.enhance import enhance
from deepcontrast_bmz.predict.files import predict_files

if TYPE_CHECKING:
    from pathlib import Path

    from deepcontrast_bmz.model.model import Model


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Model:
    return open_model(str(tiny_run), device="cpu")


def frame() -> xr.DataArray:
    return raw_stack(1).isel(z=0).astype(np.float32)


def test_blank_and_constant_frames_choose_no_dial(model: Model) -> None:
    film = xr.concat([frame()] * 4, "t")
    film[0], film[2], film[3] = 0, 100, frame().max()
    out = enhance(model, film, dial="auto")
    assert out.dial == enhance(model, frame(), dial="auto").dial
    assert "3 of them empty" in out.reason
    for number in (0, 2, 3):
        np.testing.assert_allclose(out.image[number], film[number], rtol=1e-5)


@pytest.mark.parametrize(("factor", "offset"), [(1e-30, 0.0), (1e10, 0.0), (1.0, 1e4)])
def test_no_unit_of_grey_values_changes_anything(
    model: Model, factor: float, offset: float
) -> None:
    expected = enhance(model, frame(), dial=1.5).image * factor + offset
    found = enhance(model, (frame() * factor + offset).astype(np.float32), dial=1.5).image
    spread = float(np.ptp(expected.values))
    np.testing.assert_allclose(found / spread, expected / spread, atol=2e-4)


def test_one_photon_is_no_failure(model: Model) -> None:
    image = xr.zeros_like(frame())
    image[40, 40] = 1
    out = enhance(model, image, dial="auto")
    assert out.dials == (0.0,)
    assert np.array_equal(out.image, image)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Fötus μ [1] #2 50% (copy).tif", "Fötus μ [1] #2 50% (copy)_enhanced.ome.tif"),
        ("-dash.tif", "-dash_enhanced.ome.tif"),
        ("a\nb.tif", "a\nb_enhanced.ome.tif"),
        ("img.ome.TIFF", "img_enhanced.ome.tif"),
        ("UPPER.TIF", "UPPER_enhanced.ome.tif"),
        ("dots.v1.2.final.tif", "dots.v1.2.final_enhanced.ome.tif"),
    ],
)
def test_odd_names(model: Model, tmp_path: Path, name: str, written: str) -> None:
    image = frame()[:24, :24].astype(np.uint16)
    write_image(image, tmp_path / name)
    assert predict_files(model, [tmp_path / name], dial=0) == [tmp_path / written]
    assert np.array_equal(read_image(tmp_path / written), image)
