"""Outputs as asked for: what pixels are written as, how they are packed, and what is said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import xarray as xr

from deepcontrast_bmz.cli import main
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import read_image, tiff_write, write_image
from deepcontrast_bmz.image.pixel_type import check_fits, choose_type, fit_pixels
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.predict import files
from deepcontrast_bmz.predict.files import predict_files

if TYPE_CHECKING:
    from pathlib import Path

    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.predict.enhance import Enhanced


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Model:
    return open_model(tiny_run, device="cpu")


def counts(kind: str = "uint8") -> xr.DataArray:
    """Many dark and saturated pixels, so that an enhanced image leaves the range at both ends."""
    values = np.random.default_rng(1).gamma(0.5, 120, (2, 40, 50))
    top = np.iinfo(kind).max if np.dtype(kind).kind in "iu" else 255
    return xr.DataArray(np.minimum(values, top).astype(kind), dims=("z", "y", "x"))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ["out.ome.tif", "out.ome.zarr"])
@pytest.mark.parametrize(("asked", "kind"), [("same", "uint8"), ("uint16", "uint16")])
def test_pixels_are_rounded_and_clipped_and_that_is_said(
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    streamed: bool,
    name: str,
    asked: str,
    kind: str,
) -> None:
    monkeypatch.setattr(files, "STREAMED_BYTES", 0 if streamed else 2**28)
    write_image(counts(), tmp_path / "raw.tif")
    found: list[Enhanced] = []
    for number, (dtype, target) in enumerate((("float32", "plain.ome.tif"), (asked, name))):
        predict_files(
            model,
            [tmp_path / "raw.tif"],
            tmp_path / target,
            iterations=2,
            block=32,
            dtype=dtype,
            finished=lambda _, result: found.append(result),
        )
        assert len(found) == number + 1
    exact = read_image(tmp_path / "plain.ome.tif").to_numpy().astype(np.float64)
    written = read_image(tmp_path / name).to_numpy()
    assert written.dtype == kind
    assert found[0].change == ""
    limits = np.iinfo(kind)
    whole = np.rint(exact)
    np.testing.assert_array_equal(written, np.clip(whole, limits.min, limits.max))
    beyond = int(((whole < limits.min) | (whole > limits.max)).sum())
    assert beyond > 0, "the image was made to leave the range"
    assert f"rounded to whole numbers ({kind})" in found[1].change
    assert f"{beyond} of {exact.size} pixels lay beyond {limits.min} to" in found[1].change


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("name", "compression"),
    [("out.ome.tif", "zlib"), ("out.ome.zarr", "zlib"), ("out.ome.zarr", "zstd")],
)
def test_a_packed_output_has_the_same_pixels(
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    streamed: bool,
    name: str,
    compression: str,
) -> None:
    monkeypatch.setattr(files, "STREAMED_BYTES", 0 if streamed else 2**28)
    write_image(counts(), tmp_path / "raw.tif")
    sizes: list[int] = []
    for target, packed in ((tmp_path / f"plain_{name}", "none"), (tmp_path / name, compression)):
        predict_files(
            model, [tmp_path / "raw.tif"], target, iterations=1, dtype="uint16", compression=packed
        )
        inside = [target] if target.is_file() else [p for p in target.rglob("*") if p.is_file()]
        sizes.append(sum(path.stat().st_size for path in inside))
    one, two = read_image(tmp_path / f"plain_{name}"), read_image(tmp_path / name)
    np.testing.assert_array_equal(one.to_numpy(), two.to_numpy())
    assert sizes[1] < sizes[0]
    if name.endswith("tif"):
        for target, imagej in ((tmp_path / f"plain_{name}", True), (tmp_path / name, False)):
            with tifffile.TiffFile(target) as tif:
                # ImageJ would take packed planes for plain ones that lie one behind the other.
                assert tif.is_imagej == imagej
                assert tif.is_ome


def test_zstd_in_a_tiff_needs_a_package(
    stack_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_image(stack_path)
    monkeypatch.setattr(tiff_write, "find_spec", lambda _: None)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(InputError, match="pip install imagecodecs"):
        write_image(image, tmp_path / "o.tif", compression="zstd")
    monkeypatch.undo()
    pytest.importorskip("imagecodecs")
    write_image(image, tmp_path / "o.tif", compression="zstd")
    np.testing.assert_array_equal(read_image(tmp_path / "o.tif").to_numpy(), image.to_numpy())


def test_the_same_type_is_that_of_the_input() -> None:
    for given, written in (("uint8", "uint8"), ("int16", "int16"), ("float64", "float64")):
        assert choose_type("same", np.dtype(given)) == written
    assert choose_type("same", np.dtype(np.float16)) == np.float32


def test_what_a_type_cannot_hold_is_clipped_without_running_over() -> None:
    pixels = np.array([-3.0, 0.4, 0.6, 4294967295.0, 5e9, 1e15], np.float32)
    whole, clipped = fit_pixels(pixels, np.dtype(np.uint32))
    assert whole.tolist() == [0, 0, 1, 4294967295, 4294967295, 4294967295]
    # In single precision, 2 ** 32 - 1 is 2 ** 32.
    assert clipped == 4


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.arange(-50, 1950).reshape(40, 50).astype(np.int16), "values from -50 to 1949"),
        (np.linspace(0, 1, 2000).reshape(40, 50).astype(np.float32), "a few levels"),
        (np.linspace(0, 70000, 2000).reshape(40, 50).astype(np.float32), "values from 0 to 70000"),
    ],
)
def test_an_input_that_uint16_cannot_hold_is_refused_in_one_sentence(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    streamed: bool,
    values: np.ndarray,
    said: str,
) -> None:
    monkeypatch.setattr(files, "STREAMED_BYTES", 0 if streamed else 2**28)
    write_image(xr.DataArray(values, dims=("y", "x")), tmp_path / "raw.tif")
    arguments = ["predict", str(tiny_run), str(tmp_path / "raw.tif"), "--iterations", "1"]
    out = tmp_path / "new" / "out.ome.tif"
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "-o", str(out), "--device", "cpu", "--dtype", "uint16"])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "raw.tif" in error
    assert error.count("\n") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["raw.tif"]


def test_nan_is_no_whole_number() -> None:
    image = xr.DataArray(np.array([[1.0, np.nan], [30.0, 2.0]], np.float32), dims=("y", "x"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        check_fits(image, np.dtype(np.uint16), "holes.tif")


@pytest.mark.parametrize(
    ("option", "said"),
    [(["--dtype", "uint12"], "float32, same, uint16"), (["--compression", "lzw"], "zlib, zstd")],
)
def test_unknown_forms_are_refused_before_anything_is_computed(
    tiny_run: Path,
    stack_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: list[str],
    said: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(tiny_run), str(stack_path), "-o", str(tmp_path / "o.tif"), *option])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.tif").exists()


def test_the_command_says_what_was_clipped(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(counts(), tmp_path / "raw.tif")
    arguments = ["predict", str(tiny_run), str(tmp_path / "raw.tif"), "--iterations", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--device", "cpu", "--dtype", "same", "-o", str(tmp_path / "o.ome.tif")])
    assert not ended.value.code
    assert "o.ome.tif: values are rounded to whole numbers (uint8)" in capsys.readouterr().err
