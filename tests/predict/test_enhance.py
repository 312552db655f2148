"""Planes, blocks, dials and files: the output is the loop's, with the input's labels."""

from __future__ import annotations

import errno
import subprocess
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import dask.array as da
import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
from conftest import run_record, untrained_loop
from decisions import deciding

from deepcontrast_bmz.dial import per_plane as room
from deepcontrast_bmz.dial.automatic import DialChoice
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import channel_names, read_image, write_image
from deepcontrast_bmz.model.loop import blend
from deepcontrast_bmz.model.model import Model
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.model.run_folder import describe_run
from deepcontrast_bmz.predict import files as predict_module
from deepcontrast_bmz.predict.enhance import Enhanced, enhance
from deepcontrast_bmz.predict.files import predict_files
from deepcontrast_bmz.predict.resume import partial_folder
from deepcontrast_bmz.settings import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from deepcontrast_bmz.dial.look import Run
    from deepcontrast_bmz.model.loop import Loop

RECORD = run_record()
DILATED = {"width": 4, "dilations": [1, 2, 1]}
ON_GRID = {"kind": "invertible", "width": 4, "levels": 2}
STEP = 0.5


class LoopRunner:
    """Runs a loop on the CPU, and counts."""

    device = "cpu"
    block = 1024

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.iterations: list[int] = []
        self.pixels: list[int] = []

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        self.iterations.append(iterations)
        self.pixels.append(extended.numel())
        return self.loop.iterate(extended, iterations)


def new_model(network: dict[str, Any] | None = None, **description: object) -> Model:
    recipe = Recipe.model_validate(
        {
            "network": network or DILATED,
            "loop": {"iterations": 3},
            "physics": {"step_optical_depth": STEP},
        }
    )
    loop = untrained_loop(recipe)
    return Model(
        name="tiny",
        description=describe_run(recipe, RECORD, loop).model_copy(update=description),
        weights_format="pytorch_state_dict",
        device="cpu",
        max_iterations=None,
        radius=loop.radius,
        multiple=loop.multiple,
        runner=LoopRunner(loop),
    )


def runner_of(model: Model) -> LoopRunner:
    assert isinstance(model.runner, LoopRunner)
    return model.runner


def image_of(dims: str = "yx", *, dtype: str = "uint16", lazy: bool = False) -> xr.DataArray:
    sizes = {"t": 2, "c": 2, "z": 3, "y": 21, "x": 34}
    pixels = np.random.default_rng(0).poisson(90, [sizes[dim] for dim in dims]).astype(dtype)
    chunks = (1,) * (len(dims) - 2) + (10, 34)
    return xr.DataArray(
        da.from_array(pixels, chunks=cast("Any", chunks)) if lazy else pixels,
        dims=tuple(dims),
        coords={"c": ["DAPI", "GFP"]} if "c" in dims else {},
        attrs={"pixel_size_um": {"y": 0.5, "x": 0.5}},
    )


def whole(model: Model, plane: np.ndarray, iterations: int) -> Tensor:
    """Return (K, Y, X) of a plane by the loop's own definition."""
    loop = runner_of(model).loop
    loop.iterations = iterations
    with torch.inference_mode():
        return loop(torch.from_numpy(plane.astype(np.float32))[None, None])[0]


def close(one: object, other: object) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return one.shape == other.shape and bool(np.abs(one - other).max() <= 1e-5 * 100)


# ---- images


@pytest.mark.parametrize("network", [DILATED, ON_GRID], ids=["dilated", "invertible"])
@pytest.mark.parametrize("block", [7, 16, 1024])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dial", [0.2, 0.5, 1.3])
def test_blocks_and_dials_give_the_loops_values(
    network: dict[str, Any], block: int, lazy: bool, dial: float
) -> None:
    model = new_model(network)
    image = image_of(lazy=lazy)
    out = enhance(model, image, dial=dial, block=block)
    plane = torch.from_numpy(np.asarray(image.data).astype(np.float32))
    expected = blend(plane, whole(model, np.asarray(image.data), 3), dial, STEP)
    assert close(out.image, expected)
    assert out.dials == (dial,)
    assert (out.image.chunks is not None) == lazy


@pytest.mark.parametrize("dims", ["yx", "zyx", "cyx", "czyx", "tczyx"])
@pytest.mark.parametrize("lazy", [False, True])
def test_labels_are_kept(dims: str, lazy: bool) -> None:
    model = new_model()
    image = image_of(dims, lazy=lazy)
    out = enhance(model, image, iterations=2).image
    assert out.dims == image.dims
    assert out.dtype == np.float32
    assert out.attrs == image.attrs
    assert list(out.coords) == list(image.coords)
    last = tuple(n - 1 for n in image.shape[:-2])
    assert close(out.data[last], whole(model, np.asarray(image.data[last]), 2)[-1])


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("dims", "expected"),
    [("yx", "cyx"), ("zyx", "czyx"), ("tzyx", "tczyx"), ("cyx", "cyx"), ("tczyx", "tczyx")],
)
def test_all_iterations_become_channels(dims: str, expected: str, lazy: bool) -> None:
    model = new_model()
    image = image_of(dims, lazy=lazy)
    out = enhance(model, image, all_iterations=True).image
    assert "".join(map(str, out.dims)) == expected
    steps = ["iteration_1", "iteration_2", "iteration_3"]
    names = [f"{n} {s}" for n in ("DAPI", "GFP") for s in steps] if "c" in dims else steps
    assert list(out.coords["c"].values) == names
    at = {dim: 1 for dim in dims if dim not in "yx"}
    kept = whole(model, np.asarray(image.isel(at).data), 3)
    for k, name in enumerate(steps):
        label = f"GFP {name}" if "c" in dims else name
        rest = {dim: i for dim, i in at.items() if dim != "c"}
        assert close(out.sel(c=label).isel(rest), kept[k])


def test_channels_without_a_name_are_numbered() -> None:
    image = image_of("cyx").drop_vars("c")
    out = enhance(new_model(), image, all_iterations=True, iterations=1).image
    assert list(out.coords["c"].values) == ["channel_0 iteration_1", "channel_1 iteration_1"]


def test_only_the_iterations_that_the_dial_needs_are_run() -> None:
    model = new_model()
    for dial in (0.0, 0.3, 0.5, 0.51, 1.5, 2.2):
        enhance(model, image_of(), dial=dial)
    assert runner_of(model).iterations == [1, 1, 2, 3, 5]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_dial_zero_is_the_raw_image(dtype: str, lazy: bool) -> None:
    image = image_of("zyx", dtype=dtype, lazy=lazy)
    out = enhance(new_model(), image, dial=0, block=8)
    assert out.image.dtype == np.float32
    assert np.array_equal(out.image, np.asarray(image.data).astype(np.float32))


def test_signed_and_real_pixels_are_fine() -> None:
    model = new_model()
    image = image_of(dtype="float64") - 200.5
    assert close(enhance(model, image, iterations=1).image, whole(model, image.values, 1)[0])


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (2, 3)])
def test_tiny_images_are_fine(shape: tuple[int, int]) -> None:
    image = xr.DataArray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape), dims=("y", "x"))
    model = new_model()
    assert close(enhance(model, image, iterations=3).image, whole(model, image.values, 3)[-1])
    assert enhance(model, image, dial="auto").image.shape == shape


def test_the_input_is_not_changed() -> None:
    image = image_of("zyx", dtype="float32")
    before = image.copy(deep=True)
    enhance(new_model(), image, dial=0).image.data[...] = -1
    enhance(new_model(), image, iterations=2)
    assert image.identical(before)


def test_small_planes_run_together_and_large_ones_alone() -> None:
    model = new_model()
    image = image_of("tczyx")
    enhance(model, image, iterations=1, block=200)
    assert len(runner_of(model).iterations) == 1
    runner_of(model).pixels.clear()
    enhance(model, image, iterations=1, block=16)
    most = (16 + 2 * model.radius) ** 2
    assert max(runner_of(model).pixels) <= most


def test_progress_rises_to_one() -> None:
    for lazy in (False, True):
        shares: list[float] = []
        image = image_of("zyx", lazy=lazy)
        out = enhance(new_model(), image, iterations=1, block=12, progress=shares.append)
        np.asarray(out.image.data)
        assert len(shares) > 3
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1.0)


def test_a_lazy_image_is_computed_only_where_it_is_looked_at() -> None:
    model = new_model()
    out = enhance(model, image_of("zyx", lazy=True), iterations=1, block=7)
    assert runner_of(model).iterations == []
    np.asarray(out.image.data[1, :7])
    assert 0 < len(runner_of(model).iterations) <= 5


# ---- which dial


def test_the_recommended_dial_is_the_default() -> None:
    model = new_model(recommended_dial=0.8, recommended_dial_reason="best on held-out images")
    out = enhance(model, image_of())
    assert out.dials == (0.8,)
    assert "best on held-out images" in out.reason


def test_without_a_recommendation_the_dial_is_automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = iter([0.5, 1.5, 0.5])

    def choose(*_: object, **__: object) -> DialChoice:
        return DialChoice(dial=next(choices), reason="of a test", confidence=1)

    monkeypatch.setattr(room, "decide_dial", deciding(choose))
    model = new_model()
    image = image_of("zyx")
    out = enhance(model, image)
    # The middle plane is an outlier; the smooth curve along z passes by it.
    assert out.dials == (0.5, 0.5, 0.5)
    assert out.reason == "dial 0.5, from 3 planes; the surest: of a test"
    assert close(out.image[1], whole(model, image.values[1], 1)[0])


def test_channels_are_not_smoothed_and_frames_share(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = iter([0.5, 1.4, 0.5, 1.5])

    def choose(*_: object, **__: object) -> DialChoice:
        return DialChoice(dial=next(choices), reason="x", confidence=1)

    monkeypatch.setattr(room, "decide_dial", deciding(choose))
    model, image = new_model(), image_of("tcyx")
    out = enhance(model, image, dial="auto")
    assert out.dials == (0.5, 1.45, 0.5, 1.45)
    assert out.dial == "c0=0.5,c1=1.45"
    again = enhance(model, image, dial=out.dial)
    assert np.array_equal(again.image, out.image)
    assert again.reason == "dial c0=0.5,c1=1.45 (as asked for)"


def test_of_a_long_film_frames_are_looked_at_until_some_have_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[float] = []

    def choose(raw: Tensor, *_: object, **__: object) -> DialChoice:
        looked.append(float(raw.max()))
        empty = looked[-1] == 0
        return DialChoice(dial=0.0 if empty else 1.1, reason="x", confidence=1, empty=empty)

    monkeypatch.setattr(room, "decide_dial", deciding(choose))
    film = xr.DataArray(np.zeros((1000, 21, 34), np.uint16), dims=("t", "y", "x"))
    film[50:70] = image_of().values
    out = enhance(new_model(), film, dial="auto", iterations=None)
    assert out.dial == "1.1"
    assert len(looked) < 80
    film[:] = image_of().values
    looked.clear()
    assert enhance(new_model(), film[:, :2, :2], dial="auto").dial == "1.1"
    assert len(looked) == 9


@pytest.mark.parametrize("network", [DILATED, ON_GRID], ids=["dilated", "invertible"])
def test_the_automatic_dial_is_within_reach_and_used(
    network: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def choose(raw: Tensor, run: Run, *_: object, **__: object) -> DialChoice:
        seen.append((raw, run(raw, 3)))
        return DialChoice(dial=1.2, reason="x", confidence=1)

    monkeypatch.setattr(room, "decide_dial", deciding(choose))
    model = new_model(network)
    image = image_of()
    out = enhance(model, image, dial="auto")
    expected = whole(model, image.values, 3)
    raw, kept = seen[0]
    assert np.array_equal(raw, image.values)
    assert kept.shape == expected.shape
    if model.multiple == 1:
        # Later ones are mirrored anew at the border.
        assert close(kept[0], expected[0])
    plane = torch.from_numpy(image.values.astype(np.float32))
    assert close(out.image, blend(plane, expected, 1.2, STEP))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"dial": -0.1}, "at least 0"),
        ({"dial": float("nan")}, "the dial"),
        ({"dial": float("inf")}, "the dial"),
        ({"dial": 8.1}, "at most 16 iterations are run .dial 8., too few for dial 8.1"),
        ({"dial": 1e300}, r"too few for dial 1e\+300"),
        ({"dial": "best"}, "auto"),
        ({"iterations": 0}, "counted from 1"),
        ({"iterations": -2}, "counted from 1"),
        ({"iterations": 17}, "at most 16"),
        ({"dial": 1.0, "iterations": 2}, "exclude each other"),
        ({"dial": 1.0, "all_iterations": True}, "exclude each other"),
        ({"dial": "auto", "all_iterations": True}, "exclude each other"),
        ({"all_iterations": True, "iterations": 0}, "counted from 1"),
        ({"block": 0}, "a block has"),
    ],
)
def test_impossible_choices_are_refused(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        enhance(new_model(), image_of(), **choice)


def test_a_graph_with_few_iterations_limits_the_dial() -> None:
    model = replace(new_model(), max_iterations=3, weights_format="onnx")
    assert enhance(model, image_of(), dial=1.5).dials == (1.5,)
    choices: list[dict[str, Any]] = [
        {"dial": 1.6},
        {"iterations": 4},
        {"all_iterations": True, "iterations": 4},
    ]
    for choice in choices:
        with pytest.raises(InputError, match="hold 3 iterations"):
            enhance(model, image_of(), **choice)


def test_pixels_that_cannot_be_computed_with_are_refused() -> None:
    image = image_of("zyx", dtype="float64")
    image[1, 3, 4] = 1e35
    image[1, 4, 4] = np.nan
    with pytest.raises(InputError, match="pixels must"):
        enhance(new_model(), image, iterations=1)


# ---- files


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "raw.tif"
    path.parent.mkdir()
    write_image(image_of("czyx"), path)
    return path


@pytest.mark.parametrize("name", ["out.tif", "out.ome.tiff", "out.zarr"])
def test_one_image_goes_to_a_file(raw: Path, tmp_path: Path, name: str) -> None:
    written = predict_files(new_model(), [raw], tmp_path / "deep" / name, iterations=1)
    assert written == [tmp_path / "deep" / name]
    out, image = read_image(written[0]), read_image(raw)
    assert out.dims == image.dims
    assert out.dtype == np.float32
    assert out.attrs == image.attrs
    assert list(out.coords["c"].values) == ["DAPI", "GFP"]
    assert close(out, enhance(new_model(), image, iterations=1).image)


def test_one_image_can_go_into_a_folder(raw: Path, tmp_path: Path) -> None:
    written = predict_files(new_model(), [raw], tmp_path / "out", iterations=1, channel="GFP")
    assert written == [tmp_path / "out" / "raw_enhanced.tif"]
    again = read_image(written[0])
    assert again.squeeze("c").dims == ("z", "y", "x")
    assert channel_names(again) == ("GFP",)


def test_several_images_keep_their_names_and_formats(tmp_path: Path) -> None:
    names = ["a.tif", "b.ome.tif", "c.zarr", "d.ome.zarr", "E.TIF"]
    paths = [tmp_path / name for name in names]
    for path in paths:
        write_image(image_of(), path)
    finished: list[tuple[Path, Enhanced]] = []
    shares: list[float] = []
    written = predict_files(
        new_model(),
        paths,
        tmp_path / "out",
        dial=0.5,
        progress=shares.append,
        finished=lambda path, enhanced: finished.append((path, enhanced)),
    )
    assert [path.name for path in written] == [
        "a_enhanced.tif",
        "b_enhanced.ome.tif",
        "c_enhanced.zarr",
        "d_enhanced.ome.zarr",
        "E_enhanced.TIF",
    ]
    assert all(close(read_image(path), read_image(written[0])) for path in written)
    assert [path for path, _ in finished] == written
    assert finished[0][1].dials == (0.5,)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_rgb_image_is_refused_and_its_channels_are_not(
    streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the scripts for Fiji and QuPath; dyes that are called red, green and blue are fine."""
    monkeypatch.setattr(predict_module, "STREAMED_BYTES", 0 if streamed else 2**28)
    colours = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    rgb, out = tmp_path / "rgb.tif", tmp_path / "out.tif"
    tifffile.imwrite(rgb, colours, photometric="rgb")
    with pytest.raises(InputError, match=r"'rgb.tif' is RGB.*--channel \(red, green, blue\)"):
        predict_files(new_model(), [rgb], out, iterations=1)
    assert not out.exists()
    predict_files(new_model(), [rgb], out, dial=0, channel="green")
    np.testing.assert_array_equal(read_image(out).squeeze("c").to_numpy(), colours[..., 1])
    dyes = xr.DataArray(
        np.moveaxis(colours, 2, 0), dims=("c", "y", "x"), coords={"c": ["red", "green", "blue"]}
    )
    write_image(dyes, rgb)
    predict_files(new_model(), [rgb], out, dial=0)
    assert read_image(out).sizes["c"] == 3


@pytest.mark.parametrize("streamed", [False, True])
def test_an_imagej_movie_keeps_its_interval_and_the_name_of_its_unit(
    streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "STREAMED_BYTES", 0 if streamed else 2**28)
    movie, out = tmp_path / "movie.tif", tmp_path / "out.tif"
    metadata = {"axes": "TYX", "unit": "um", "finterval": 0.25}
    pixels = np.ones((3, 20, 30), np.uint16)
    tifffile.imwrite(movie, pixels, imagej=True, resolution=(4, 2), metadata=metadata)
    predict_files(new_model(), [movie], out, dial=0)
    with tifffile.TiffFile(out) as tif:
        headers = [tag.value for tag in tif.pages.first.tags if tag.code == 270]
    assert {"unit=um", "finterval=0.25"} <= set(headers[-1].splitlines())
    attrs = read_image(out).attrs
    assert attrs["pixel_size_um"] == {"y": 0.5, "x": 0.25}
    assert (attrs["frame_interval"], attrs["time_unit"]) == (0.25, "sec")


def test_an_output_never_replaces_an_input(raw: Path, tmp_path: Path) -> None:
    before = raw.read_bytes()
    link = tmp_path / "link.tif"
    link.symlink_to(raw)
    for out in (raw, raw.parent / ".." / "in" / "raw.tif", link):
        with pytest.raises(InputError, match="never replaces an input"):
            predict_files(new_model(), [raw], out, iterations=1)
    assert raw.read_bytes() == before


def test_an_output_never_lies_inside_an_input(tmp_path: Path) -> None:
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for path in paths:
        write_image(image_of(), path)
    with pytest.raises(InputError, match="inside it"):
        predict_files(new_model(), paths[:1], paths[0] / "results", iterations=1)


def test_outputs_of_one_name_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "raw.tif" for folder in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        write_image(image_of(), path)
    model = new_model()
    with pytest.raises(InputError, match="a name of its own"):
        predict_files(model, paths, tmp_path / "out", iterations=1)
    assert runner_of(model).iterations == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        ([], "out", "no image was given"),
        (["nothing.tif"], "out", "no image"),
        (["raw.tif", "raw.tif"], "out.tif", "into a folder"),
        (["raw.tif"], "in/raw.txt", "neither"),
        (["raw.tif"], "in/raw.txt/deep/out.tif", "needs a folder that can be made"),
        (["raw.tif"], "out.png", r"ends in \.png"),
        (["raw.tif"], "in/folder.tif", "is a folder already"),
        (["raw.tif"], "in/file.zarr", "is a file already"),
    ],
)
def test_unusable_names_are_refused(
    raw: Path, tmp_path: Path, names: list[str], out: str, message: str
) -> None:
    for name in ("raw.txt", "file.zarr"):
        (raw.parent / name).write_text("x", encoding="utf-8")
    (raw.parent / "folder.tif").mkdir()
    with pytest.raises(InputError, match=message):
        predict_files(
            new_model(), [raw.parent / name for name in names], tmp_path / out, iterations=1
        )


def test_a_bad_dial_is_refused_before_images_are_read(raw: Path, tmp_path: Path) -> None:
    raw.write_bytes(b"no image")
    with pytest.raises(InputError, match="at least 0"):
        predict_files(new_model(), [raw], tmp_path / "out", dial=-1)
    assert not (tmp_path / "out").exists()


def test_a_bad_image_leaves_nothing_behind(raw: Path, tmp_path: Path) -> None:
    broken = raw.parent / "broken.tif"
    image = image_of(dtype="float32")
    image[0, 0] = 1e35
    write_image(image, broken)
    with pytest.raises(InputError, match=r"broken\.tif"):
        predict_files(new_model(), [broken], tmp_path / "out" / "deep" / "er", iterations=1)
    assert not (tmp_path / "out").exists()


def test_a_bad_image_leaves_the_results_of_others(raw: Path, tmp_path: Path) -> None:
    broken = raw.parent / "broken.tif"
    broken.write_bytes(b"no image")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"broken\.tif"):
        predict_files(new_model(), [raw, broken], out, iterations=1)
    assert [path.name for path in out.iterdir()] == ["raw_enhanced.tif"]


def test_a_run_enhances_files(tiny_run: Path, stack_path: Path, tmp_path: Path) -> None:
    model = open_model(tiny_run, device="cpu")
    written = predict_files(model, [stack_path], tmp_path / "out.tif")
    out, image = read_image(written[0]), read_image(stack_path)
    assert out.shape == image.shape
    assert out.attrs == image.attrs
    assert bool(np.isfinite(out).all())


@pytest.mark.parametrize("each", [False, True])
def test_images_of_a_call_share_a_dial_unless_each_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: bool
) -> None:
    def choose(raw: Tensor, *_: object, **__: object) -> DialChoice:
        return DialChoice(dial=round(float(raw.mean()) / 100, 2), reason="x", confidence=1)

    monkeypatch.setattr(room, "decide_dial", deciding(choose))
    paths = [tmp_path / f"tile_{number}.tif" for number in range(4)]
    for number, path in enumerate(paths):
        write_image(xr.full_like(image_of(), 50 + 10 * number), path)
    paths[3].write_bytes(b"no image")
    said: list[tuple[float, ...]] = []
    failures: list[str] = []
    model = new_model()
    written = predict_files(
        model,
        paths,
        tmp_path / "out",
        dial="auto",
        each=each,
        finished=lambda _, enhanced: said.append(enhanced.dials),
        failed=lambda _, reason: failures.append(reason),
    )
    assert len(written) == 3
    assert said == ([(0.5,), (0.6,), (0.7,)] if each else [(0.6,)] * 3)
    # What is done again after a failure has the dial of the others.
    written[0].unlink()
    said.clear()
    again = predict_files(
        model,
        paths,
        tmp_path / "out",
        dial="auto",
        each=each,
        skip_existing=True,
        finished=lambda _, enhanced: said.append(enhanced.dials),
        failed=lambda _, reason: failures.append(reason),
    )
    assert again == [written[0]]
    assert len(failures) == 2
    assert said == ([(0.5,)] if each else [(0.6,)])


def test_a_night_goes_on_after_a_bad_image_and_ends_with_what_failed(raw: Path) -> None:
    folder = raw.parent
    raw.unlink()
    write_image(image_of(), folder / "a.tif")
    cut = (folder / "a.tif").read_bytes()
    (folder / "b.tif").write_bytes(cut[: len(cut) // 2])
    write_image(image_of(), folder / "c.tif")
    write_image(image_of(), folder / "d.zarr")
    paths = sorted(folder.iterdir())
    told: list[tuple[str, str]] = []

    def note(path: Path, reason: str) -> None:
        told.append((path.name, reason))

    written = predict_files(new_model(), paths, dial=0, failed=note)
    assert [path.name for path in written] == [
        "a_enhanced.ome.tif",
        "c_enhanced.ome.tif",
        "d_enhanced.ome.zarr",
    ]
    assert [name for name, _ in told] == ["b.tif"]
    assert "b.tif" in told[0][1]
    assert not [path for path in folder.iterdir() if path.name.startswith(("b_", "."))]
    for path in written:
        np.testing.assert_array_equal(read_image(path), image_of())
    # The second night: the same pattern names the outputs of the first.
    write_image(image_of(), folder / "b.tif")
    written[0].unlink()
    model = new_model()
    again = predict_files(model, sorted(folder.iterdir()), dial=0, skip_existing=True)
    assert [path.name for path in again] == ["a_enhanced.ome.tif", "b_enhanced.ome.tif"]
    assert predict_files(model, sorted(folder.iterdir()), dial=0, skip_existing=True) == []
    with pytest.raises(InputError, match="never replaces an input"):
        predict_files(model, sorted(folder.iterdir()), dial=0)


def test_images_that_all_fail_leave_no_folder(raw: Path, tmp_path: Path) -> None:
    paths = [raw.parent / name for name in ("one.tif", "two.tif")]
    for path in paths:
        path.write_bytes(b"no image")
    told: list[str] = []
    out = tmp_path / "out"
    assert (
        predict_files(new_model(), paths, out, failed=lambda path, _: told.append(path.name)) == []
    )
    assert told == ["one.tif", "two.tif"]
    assert not out.exists()


@pytest.mark.parametrize("letter", ["x", "μ"])
def test_names_as_long_as_disks_allow(tmp_path: Path, letter: str) -> None:
    for suffix in (".tif", ".zarr"):
        stem = letter * ((255 - len(suffix)) // len(letter.encode()))
        raw = tmp_path / (stem + suffix)
        write_image(image_of(), raw)
        write_image(image_of(), raw)  # once more: the older one steps aside
        (written,) = predict_files(new_model(), [raw], tmp_path / "out", dial=0)
        assert written.name.endswith(f"{letter}_enhanced{suffix}")
        assert 250 <= len(written.name.encode()) <= 255
        np.testing.assert_array_equal(read_image(written), image_of())
        assert len(partial_folder(written).name.encode()) <= 255
    names = [path.name for path in (*tmp_path.iterdir(), *(tmp_path / "out").iterdir())]
    assert not [name for name in names if name.startswith(".")]


# ---- disks


def test_where_nothing_can_be_written_nothing_is_computed(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def never(*_: object) -> Tensor:
        raise AssertionError("nothing may be computed")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(Model, "iterate", never)
    with pytest.raises(InputError, match=r"Read-only file system.*another place"):
        predict_files(new_model(), [raw], tmp_path / "new" / "out.tif", iterations=1)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        OSError("540000 requested and 262072 written"),
    ],
)
def test_a_full_disk_leaves_nothing_half_written(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(InputError, match="there is no room for"):
        predict_files(new_model(), [raw], tmp_path / "out.tif", iterations=1)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_predicting_loads_neither_skimage_nor_scipy_ndimage() -> None:
    """What prediction does not use costs every start of the program."""
    code = (
        "import sys, deepcontrast_bmz.predict.enhance, deepcontrast_bmz.predict.files;"
        "print(sorted({'skimage', 'scipy.ndimage', 'bioio', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
