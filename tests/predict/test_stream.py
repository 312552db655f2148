"""Streaming: the same pixels by whatever way, work that goes on, and nothing half made."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
import zarr
from conftest import run_record, untrained_loop
from decisions import deciding

from deepcontrast_bmz.dial.automatic import DialChoice
from deepcontrast_bmz.errors import InputError, Unfinished
from deepcontrast_bmz.image import read_image, write_image
from deepcontrast_bmz.model.devices import fast_loop
from deepcontrast_bmz.model.model import Model
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.model.run_folder import describe_run
from deepcontrast_bmz.predict import blocks as block_room
from deepcontrast_bmz.predict import files as predict_room
from deepcontrast_bmz.predict import stream as stream_room
from deepcontrast_bmz.predict.cluster import map_unordered, start_threads
from deepcontrast_bmz.predict.enhance import enhance
from deepcontrast_bmz.predict.files import predict_files
from deepcontrast_bmz.predict.resume import Journal
from deepcontrast_bmz.settings import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor

    from deepcontrast_bmz.model.loop import Loop

BLOCK = 32


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Model:
    return open_model(tiny_run, device="cpu")


@pytest.fixture(autouse=True)
def everything_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_room, "STREAMED_BYTES", 0)


def image_of(dims: str = "yx", **lengths: int) -> xr.DataArray:
    sizes = {"t": 2, "c": 2, "z": 3, "y": 70, "x": 90} | lengths
    pixels = np.random.default_rng(0).poisson(90, [sizes[dim] for dim in dims]).astype(np.uint16)
    return xr.DataArray(
        pixels,
        dims=tuple(dims),
        coords={"c": ["DAPI", "GFP"]} if "c" in dims else {},
        attrs={"pixel_size_um": {dim: 0.5 for dim in dims if dim in "zyx"}},
    )


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.tif"
    write_image(image_of(), path)
    return path


def stops_after(
    monkeypatch: pytest.MonkeyPatch, blocks: int, error: BaseException
) -> Callable[[], None]:
    """Let the work end with an error after some blocks; return what mends it."""
    run = stream_room._BlockWriter.write  # pyright: ignore[reportPrivateUsage]
    done: list[int] = []

    def stumble(self: Any, number: int) -> Any:
        if len(done) >= blocks:
            raise error
        done.append(number)
        return run(self, number)

    monkeypatch.setattr(stream_room._BlockWriter, "write", stumble)  # pyright: ignore[reportPrivateUsage]
    return lambda: monkeypatch.setattr(stream_room._BlockWriter, "write", run)  # pyright: ignore[reportPrivateUsage]


def partial_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def journal_of(target: Path) -> list[int]:
    lines = (partial_of(target) / "journal").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[0] for line in lines]


# ---- the same pixels


@pytest.mark.parametrize("name", ["out.zarr", "out.tif", "out.ome.tiff"])
@pytest.mark.parametrize("dims", ["yx", "zyx", "tczyx"])
def test_streamed_is_what_memory_gives(model: Model, tmp_path: Path, dims: str, name: str) -> None:
    image = image_of(dims)
    write_image(image, tmp_path / "raw.tif")
    written = predict_files(
        model, [tmp_path / "raw.tif"], tmp_path / name, iterations=2, block=BLOCK
    )
    out = read_image(written[0])
    assert out.dims == image.dims
    assert out.attrs == image.attrs
    assert list(out.coords) == list(image.coords)
    np.testing.assert_array_equal(out, enhance(model, image, iterations=2).image)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["raw.tif", name])


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dims", ["yx", "czyx"])
def test_streamed_iterations_become_channels(
    model: Model, tmp_path: Path, dims: str, sharded: bool
) -> None:
    image = image_of(dims)
    write_image(image, tmp_path / "raw.zarr")
    out = tmp_path / "out.zarr"
    predict_files(
        model, [tmp_path / "raw.zarr"], out, all_iterations=True, block=BLOCK, sharded=sharded
    )
    expected = enhance(model, image, all_iterations=True).image
    found = read_image(out)
    assert found.dims == expected.dims
    assert list(found.coords["c"].values) == list(expected.coords["c"].values)
    np.testing.assert_array_equal(found, expected)
    array = zarr.open_array(store=out / "0", mode="r")
    assert (array.shards is not None) == sharded


@pytest.mark.parametrize("block", [8, 24, 50, 64, 1000])
@pytest.mark.parametrize("threads", [1, 2])
def test_neither_block_nor_threads_change_a_bit(
    model: Model, tmp_path: Path, raw: Path, block: int, threads: int
) -> None:
    expected = enhance(model, read_image(raw), dial=1.2).image
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        predict_files(model, [raw], tmp_path / "out.zarr", dial=1.2, block=block)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(read_image(tmp_path / "out.zarr"), expected)


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"tile": (16, 32), "compression": "zlib"},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"bigtiff": True, "byteorder": ">"},
    ],
    ids=["mapped", "tiles", "strips", "bigtiff"],
)
def test_any_layout_of_a_tiff_streams(model: Model, tmp_path: Path, layout: Any) -> None:
    image = image_of("zyx")
    path = tmp_path / "raw.tif"
    tifffile.imwrite(path, image.values, photometric="minisblack", **layout)
    predict_files(model, [path], tmp_path / "out.zarr", iterations=1, block=BLOCK)
    expected = enhance(model, image, iterations=1).image
    np.testing.assert_array_equal(read_image(tmp_path / "out.zarr"), expected)


def test_a_folder_of_planes_streams(model: Model, tmp_path: Path) -> None:
    image = image_of("zyx")
    folder = tmp_path / "planes.v2"
    folder.mkdir()
    for z, plane in enumerate(image.values):
        tifffile.imwrite(folder / f"plane_{z + 8}.tif", plane)
    written = predict_files(model, [folder], tmp_path / "out", iterations=1, block=BLOCK)
    assert written == [tmp_path / "out" / "planes.v2_enhanced.ome.tif"]
    np.testing.assert_array_equal(read_image(written[0]), enhance(model, image, iterations=1).image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (3, 200)])
def test_sides_shorter_than_the_halo_stream(
    model: Model, tmp_path: Path, shape: tuple[int, int]
) -> None:
    image = image_of(y=shape[0], x=shape[1])
    write_image(image, tmp_path / "raw.tif")
    predict_files(model, [tmp_path / "raw.tif"], tmp_path / "out.zarr", iterations=3, block=BLOCK)
    expected = enhance(model, image, iterations=3).image
    np.testing.assert_array_equal(read_image(tmp_path / "out.zarr"), expected)


def test_the_automatic_dial_does_not_depend_on_the_cut(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(raw: Tensor, *_: object, **__: object) -> DialChoice:
        # As good as any figure of the window that it is shown.
        return DialChoice(dial=float(raw.sum()) % 1.0, reason="of a test", confidence=1)

    monkeypatch.setattr("deepcontrast_bmz.dial.per_plane.decide_dial", deciding(choose))
    image = image_of("zyx")
    write_image(image, tmp_path / "raw.tif")
    dials: set[tuple[float, ...]] = {enhance(model, image, dial="auto").dials}
    for block in (16, 40):
        predict_files(
            model,
            [tmp_path / "raw.tif"],
            tmp_path / "out.zarr",
            dial="auto",
            block=block,
            finished=lambda _, enhanced: dials.add(enhanced.dials),
        )
    assert len(dials) == 1


def test_of_a_large_plane_and_a_long_stack_a_sample_is_looked_at(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepcontrast_bmz.dial import per_plane as room

    monkeypatch.setattr(room, "_LARGE_PLANE", 40 * 40)
    monkeypatch.setattr("deepcontrast_bmz.dial.per_plane.WINDOW", 16)
    seen: list[np.ndarray] = []

    def choose(raw: Tensor, *_: object, **__: object) -> DialChoice:
        seen.append(raw.numpy())
        return DialChoice(dial=0.5, reason="of a test", confidence=1)

    monkeypatch.setattr(room, "decide_dial", deciding(choose))
    image = image_of("zyx", z=100, y=120, x=120)
    image[:, 60:76, 80:96] *= 9
    out = enhance(model, image, dial="auto")
    assert len(out.dials) == 100
    assert len(seen) == 33
    assert all(window.shape == (16, 16) for window in seen)
    # The window with something in it is the one that is found.
    assert all(window.max() > 400 for window in seen)


# ---- stacks


class LoopRunner:
    device = "cpu"
    block = 16

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        return self.loop.iterate(extended, iterations)


def stack_model() -> Model:
    recipe = Recipe.model_validate(
        {
            "network": {
                "kind": "dilated_3d",
                "width": 4,
                "dilations": [1, 2, 1],
                "mixing_layers": 1,
            },
            "loop": {"iterations": 2},
            "physics": {"step_optical_depth": 0.5},
        }
    )
    loop = untrained_loop(recipe)
    return Model(
        name="stacks",
        description=describe_run(recipe, run_record(), loop),
        weights_format="pytorch_state_dict",
        device="cpu",
        max_iterations=None,
        radius=loop.radius,
        multiple=loop.multiple,
        runner=LoopRunner(fast_loop(loop, "cpu")),
        planes=3,
    )


def whole_stack(model: Model, stack: np.ndarray, iterations: int) -> np.ndarray:
    assert isinstance(model.runner, LoopRunner)
    loop = model.runner.loop
    loop.iterations = iterations
    with torch.inference_mode():
        return loop(torch.from_numpy(stack.astype(np.float32))[None, None])[0].numpy()


@pytest.mark.parametrize("block", [9, 100])
def test_a_stack_is_cut_along_z_too(tmp_path: Path, block: int) -> None:
    model = stack_model()
    image = image_of("czyx", z=7, y=20, x=24)
    write_image(image, tmp_path / "raw.tif")
    predict_files(
        model, [tmp_path / "raw.tif"], tmp_path / "out.zarr", all_iterations=True, block=block
    )
    found = read_image(tmp_path / "out.zarr")
    for c in range(2):
        expected = whole_stack(model, image.values[c], 2)
        np.testing.assert_allclose(found[2 * c : 2 * c + 2], expected, rtol=1e-5)
    np.testing.assert_array_equal(
        found, enhance(model, image, all_iterations=True, block=block).image
    )


def test_holes_of_a_stack_do_not_depend_on_the_cut() -> None:
    image = image_of("zyx", z=7, y=30, x=34).astype(np.float32)
    image[2:5, 8:20, 9:25] = np.nan
    image[0, :4] = np.nan
    expected = enhance(stack_model(), image, iterations=1).image
    assert np.array_equal(np.isnan(expected), np.isnan(image))
    for block in (8, 16):
        again = enhance(stack_model(), image, iterations=1, block=block).image
        np.testing.assert_allclose(again, expected, rtol=1e-6)


def test_planes_of_a_stack_have_dials_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = iter([0.2, 0.2, 0.8, 0.8, 0.8])

    def choose(*_: object, **__: object) -> DialChoice:
        return DialChoice(dial=next(wanted), reason="of a test", confidence=1)

    monkeypatch.setattr("deepcontrast_bmz.dial.per_plane.decide_dial", deciding(choose))
    model = stack_model()
    image = image_of("zyx", z=5, y=20, x=24)
    out = enhance(model, image, dial="auto", block=12)
    kept = whole_stack(model, image.values, 2)
    below = torch.lerp(
        torch.from_numpy(image.values[0].astype(np.float32)),
        torch.from_numpy(kept[0, 0]),
        np.expm1(0.2) / np.expm1(0.5),
    )
    np.testing.assert_allclose(out.image[0], below, rtol=1e-4)
    above = torch.lerp(
        torch.from_numpy(kept[0, 4]), torch.from_numpy(kept[1, 4]), np.expm1(0.3) / np.expm1(0.5)
    )
    np.testing.assert_allclose(out.image[4], above, rtol=1e-4)


def test_a_model_of_stacks_refuses_a_plane(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(InputError, match="no z axis"):
        predict_files(stack_model(), [raw], tmp_path / "out.zarr", iterations=1)
    assert [p.name for p in tmp_path.iterdir()] == ["raw.tif"]


# ---- interrupted work


@pytest.mark.parametrize("name", ["out.zarr", "out.tif"])
def test_interrupted_work_goes_on_where_it_was(
    model: Model, tmp_path: Path, raw: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / name
    mend = stops_after(monkeypatch, 4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, [raw], target, iterations=2, block=BLOCK)
    mend()
    assert not target.exists()
    finished = journal_of(target)
    assert 0 < len(finished) <= 4
    with pytest.raises(InputError, match="--resume"):
        predict_files(model, [raw], target, iterations=2, block=BLOCK)
    done: list[int] = []
    run = stream_room._BlockWriter.write  # pyright: ignore[reportPrivateUsage]

    def note(self: Any, number: int) -> Any:
        done.append(number)
        return run(self, number)

    monkeypatch.setattr(stream_room._BlockWriter, "write", note)  # pyright: ignore[reportPrivateUsage]
    predict_files(model, [raw], target, iterations=2, block=BLOCK, resume=True)
    assert sorted(done + finished) == list(range(9))
    expected = enhance(model, read_image(raw), iterations=2).image
    np.testing.assert_array_equal(read_image(target), expected)
    assert not partial_of(target).exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"iterations": 1}, "the dial"),
        ({"dial": 0.3, "iterations": None}, "the dial"),
        ({"block": 16}, "the block"),
        ({"channel": 0}, "the channel"),
        ({"sharded": True}, "the sharding"),
    ],
)
def test_other_work_is_not_gone_on_with(
    model: Model,
    tmp_path: Path,
    raw: Path,
    change: dict[str, Any],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "out.zarr"
    asked: dict[str, Any] = {"iterations": 2, "block": BLOCK}
    mend = stops_after(monkeypatch, 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, [raw], target, **asked)
    mend()
    with pytest.raises(InputError, match=f"but {what} of"):
        predict_files(model, [raw], target, resume=True, **(asked | change))
    os.utime(raw, ns=(1, 1))
    with pytest.raises(InputError, match="but the input of"):
        predict_files(model, [raw], target, resume=True, **asked)
    assert journal_of(target)


def test_another_model_does_not_go_on(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    target = tmp_path / "out.zarr"
    mend = stops_after(monkeypatch, 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, [raw], target, iterations=2, block=BLOCK)
    mend()
    with pytest.raises(InputError, match="but the model of"):
        predict_files(
            replace(model, sha256="another"), [raw], target, iterations=2, block=BLOCK, resume=True
        )


def test_a_line_of_the_journal_cut_short_counts_for_nothing(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.zarr"
    mend = stops_after(monkeypatch, 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, [raw], target, iterations=2, block=BLOCK)
    mend()
    with (partial_of(target) / "journal").open("a", encoding="utf-8") as file:
        file.write("[8, [0, 1.0")
    predict_files(model, [raw], target, iterations=2, block=BLOCK, resume=True)
    expected = enhance(model, read_image(raw), iterations=2).image
    np.testing.assert_array_equal(read_image(target), expected)


def test_work_that_ended_before_tidying_up_is_whole(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.zarr"

    def fail(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predict_room, "forget", fail)
        with pytest.raises(KeyboardInterrupt):
            predict_files(model, [raw], target, iterations=2, block=BLOCK)
    before = (target / ".zattrs").stat().st_mtime_ns
    predict_files(model, [raw], target, iterations=2, block=BLOCK, resume=True)
    assert (target / ".zattrs").stat().st_mtime_ns == before
    assert not partial_of(target).exists()


def test_an_older_output_is_not_taken_for_the_new_one(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.zarr"
    predict_files(model, [raw], target, iterations=1, block=BLOCK)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stream_room, "take_place", fail)
        with pytest.raises(KeyboardInterrupt):
            predict_files(model, [raw], target, iterations=2, block=BLOCK)
    predict_files(model, [raw], target, iterations=2, block=BLOCK, resume=True)
    expected = enhance(model, read_image(raw), iterations=2).image
    np.testing.assert_array_equal(read_image(target), expected)


# ---- a power cut


class Flushes:
    """What reached the disk itself, by the numbers that the file system gives."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.done: set[int] = set()
        self.named: dict[str, set[str]] = {}
        fsync, replace, rename = os.fsync, Path.replace, Path.rename

        def flush(number: int) -> None:
            fsync(number)
            self.done.add(os.fstat(number).st_ino)

        def name(way: Any) -> Any:
            def place(one: Path, target: Path) -> Path:
                inside = [one, *one.rglob("*")]
                hollow = {p.name for p in inside if p.stat().st_ino not in self.done}
                self.named[Path(target).name] = hollow
                return way(one, target)

            return place

        patch.setattr(os, "fsync", flush)
        patch.setattr(Path, "replace", name(replace))
        patch.setattr(Path, "rename", name(rename))

    def has(self, path: Path) -> bool:
        return path.stat().st_ino in self.done


@pytest.mark.parametrize("memory", [0, 2**40])
@pytest.mark.parametrize("name", ["out.zarr", "out.tif"])
def test_nothing_gets_its_name_before_it_is_on_the_disk(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, name: str, memory: int
) -> None:
    monkeypatch.setattr(predict_room, "STREAMED_BYTES", memory)
    flushes = Flushes(monkeypatch)
    predict_files(model, [raw], tmp_path / name, iterations=1, block=BLOCK)
    assert flushes.named[name] == set()
    # Nor is the name itself lost.
    assert flushes.has(tmp_path)
    if not memory:
        assert flushes.named["plan.json"] == set()


def test_a_block_is_on_the_disk_before_it_is_noted(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.zarr"
    flushes = Flushes(monkeypatch)
    add = Journal.add
    noted: list[int] = []

    def check(self: Journal, number: int, *notes: Any) -> None:
        chunk = self.image / "0" / str(number // 3) / str(number % 3)
        assert flushes.has(chunk)
        assert flushes.has(chunk.parent)
        add(self, number, *notes)
        assert flushes.has(self.folder / "journal")
        noted.append(number)

    monkeypatch.setattr(Journal, "add", check)
    predict_files(model, [raw], target, iterations=1, block=BLOCK)
    assert sorted(noted) == list(range(9))


def test_what_a_power_cut_leaves_in_the_journal_counts_for_nothing(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.zarr"
    mend = stops_after(monkeypatch, 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, [raw], target, iterations=2, block=BLOCK)
    mend()
    path = partial_of(target) / "journal"
    with path.open("ab") as file:
        file.write(b"\0\0\xff\xfe\n[7, [0, 1.\0\0")
    predict_files(model, [raw], target, iterations=2, block=BLOCK, resume=True)
    expected = enhance(model, read_image(raw), iterations=2).image
    np.testing.assert_array_equal(read_image(target), expected)


# ---- several images


def test_of_several_images_the_finished_ones_are_not_done_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"raw{i}.tif" for i in range(3)]
    for path in paths:
        write_image(image_of(), path)
    out = tmp_path / "out"
    mend = stops_after(monkeypatch, 13, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, paths, out, iterations=1, block=BLOCK)
    mend()
    first = out / "raw0_enhanced.tif"
    before = first.stat().st_mtime_ns
    assert not (out / "raw1_enhanced.tif").exists()
    seen: list[str] = []
    predict_files(
        model,
        paths,
        out,
        iterations=1,
        block=BLOCK,
        resume=True,
        finished=lambda path, _: seen.append(path.name),
    )
    assert first.stat().st_mtime_ns == before
    assert seen == [f"raw{i}_enhanced.tif" for i in range(3)]
    assert sorted(path.name for path in out.iterdir()) == seen


def test_a_finished_output_that_was_taken_away_is_made_again(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.tif"
    with monkeypatch.context() as patch:
        patch.setattr(predict_room, "forget", Path)
        predict_files(model, [raw], target, iterations=1, block=BLOCK)
    target.unlink()
    predict_files(model, [raw], target, iterations=1, block=BLOCK, resume=True)
    assert read_image(target).shape == (70, 90)


def test_two_programs_do_not_work_on_one_output(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.zarr"
    said: list[str] = []
    run = stream_room._BlockWriter.write  # pyright: ignore[reportPrivateUsage]

    def again(self: Any, number: int) -> Any:
        if not said:
            said.append("")
            with pytest.raises(InputError) as caught:
                predict_files(model, [raw], target, iterations=2, block=BLOCK, resume=True)
            said[0] = str(caught.value)
        return run(self, number)

    monkeypatch.setattr(stream_room._BlockWriter, "write", again)  # pyright: ignore[reportPrivateUsage]
    predict_files(model, [raw], target, iterations=2, block=BLOCK)
    assert "another is at" in said[0]
    assert read_image(target).shape == (70, 90)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "deepcontrast_bmz", *map(str, arguments)]


def streaming_command(*arguments: object) -> list[str]:
    """A command that streams images of any size, as `everything_streams` has it here."""
    code = (
        "from deepcontrast_bmz import cli; from deepcontrast_bmz.predict import files; "
        "files.STREAMED_BYTES = 0; cli.main()"
    )
    return [sys.executable, "-c", code, *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_looks_whole(
    tiny_run: Path, model: Model, tmp_path: Path
) -> None:
    raw, target = tmp_path / "raw.tif", tmp_path / "out.zarr"
    image = image_of(y=700, x=900)
    write_image(image, raw)
    words = streaming_command(
        "predict", tiny_run, raw, "-o", target, "--iterations", 3, "--block", 64
    )
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL)
    journal = partial_of(target) / "journal"
    try:
        wait_for(lambda: journal.is_file() and journal.read_text().count("\n") >= 5)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not target.exists()
    with pytest.raises(InputError):
        read_image(partial_of(target) / "image.zarr")
    count = len(journal_of(target))
    assert 5 <= count < 150
    predict_files(model, [raw], target, iterations=3, block=64, resume=True)
    expected = enhance(model, image, iterations=3).image
    np.testing.assert_array_equal(read_image(target), expected)


# ---- a cluster


@contextlib.contextmanager
def dask_cluster(folder: Path) -> Generator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Run a scheduler and two worker processes on loopback."""
    file = folder / "scheduler.json"
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
                env=environment(),
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    own = ["--no-dashboard", "--scheduler-file", str(file)]
    try:
        start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", *own)
        wait_for(file.is_file)
        for number in range(2):
            start(
                "dask_worker",
                *own,
                "--no-nanny",
                "--nthreads",
                "1",
                "--name",
                str(number),
                "--local-directory",
                str(folder),
            )
        yield str(file), started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_cluster_gives_the_same_pixels_though_a_worker_is_killed(
    model: Model, tmp_path: Path
) -> None:
    from distributed import Client

    raw, target = tmp_path / "raw.tif", tmp_path / "out.zarr"
    image = image_of(y=200, x=300)
    write_image(image, raw)
    killed: list[int] = []
    with dask_cluster(tmp_path) as (address, workers):
        with Client(scheduler_file=address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=300)

        def kill_one(share: float) -> None:
            if share > 0.1 and not killed:
                killed.append(workers[0].pid)
                workers[0].kill()

        predict_files(
            model, [raw], target, iterations=2, block=BLOCK, scheduler=address, progress=kill_one
        )
    assert len(killed) == 1
    expected = enhance(model, image, iterations=2).image
    np.testing.assert_array_equal(read_image(target), expected)


def test_a_scheduler_that_does_not_answer_is_refused(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcontrast_bmz.predict.cluster._SECONDS_TO_CONNECT", 1)
    with pytest.raises(InputError, match="no scheduler answers"):
        predict_files(model, [raw], tmp_path / "o.zarr", scheduler="tcp://127.0.0.1:1", dial=0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["raw.tif"]


def test_workers_lost_again_and_again_end_the_work() -> None:
    from distributed.core import Status
    from distributed.scheduler import KilledWorker, WorkerState

    worker = WorkerState(
        address="tcp://127.0.0.1:1",
        status=Status.running,
        pid=1,
        name="0",
        nthreads=1,
        memory_limit=0,
        local_directory="",
        nanny="",
        server_id="",
    )

    def lose(number: int) -> int:
        if number == 3:
            raise KilledWorker(f"block {number}", worker, 4)
        return number**2

    with start_threads() as threads:
        assert dict(map_unordered(threads, lose, range(3))) == {0: 0, 1: 1, 2: 4}
        handed_out = iter(range(100))
        with pytest.raises(Unfinished, match="workers were lost"):
            dict(map_unordered(threads, lose, handed_out))
    # Nothing more is begun.
    assert next(handed_out) < 10


# ---- memory


def test_where_memory_is_short_a_block_is_halved(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = image_of(y=300, x=290)
    expected = enhance(model, image, iterations=2, block=1000).image
    iterate = Model.iterate

    def small(self: Model, extended: Tensor, iterations: int) -> Tensor:
        if extended.numel() > 200 * 200:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return iterate(self, extended, iterations)

    monkeypatch.setattr(Model, "iterate", small)
    np.testing.assert_array_equal(enhance(model, image, iterations=2, block=1000).image, expected)
    assert "halved" in caplog.text

    def none(*_: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(Model, "iterate", none)
    with pytest.raises(Unfinished, match="memory does not suffice"):
        enhance(model, image, iterations=2)


def test_other_errors_of_the_network_are_not_taken_for_memory(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Model, "iterate", broken)
    with pytest.raises(RuntimeError, match="do not fit"):
        enhance(model, image_of(), iterations=2)


def test_blocks_are_smaller_where_memory_is_short(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []
    for gigabytes in (64, 1, 0.1, 0.001):
        monkeypatch.setattr(block_room, "_memory_at_hand", lambda g=gigabytes: g * 2**30)
        sides.append(block_room.block_sides(model)[-1])
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == model.block
    assert sides[-1] < sides[0]
    assert min(sides) > 0


# ---- what goes wrong


def test_a_damaged_chunk_is_named_and_the_work_kept(model: Model, tmp_path: Path) -> None:
    raw, target = tmp_path / "raw.zarr", tmp_path / "out.zarr"
    write_image(image_of("zyx"), raw)
    chunk = raw / "0" / "2" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"raw\.zarr.*kept for --resume") as caught:
        predict_files(model, [raw], target, iterations=1, block=100)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    chunk.write_bytes(whole)
    predict_files(model, [raw], target, iterations=1, block=100, resume=True)
    expected = enhance(model, read_image(raw), iterations=1).image
    np.testing.assert_array_equal(read_image(target), expected)


def test_a_bad_pixel_is_named_and_nothing_left(model: Model, tmp_path: Path) -> None:
    image = image_of("zyx").astype(np.float64)
    image[1, 63, 4] = 1e35
    write_image(image, tmp_path / "raw.zarr")
    with pytest.raises(InputError, match=r"raw\.zarr"):
        predict_files(model, [tmp_path / "raw.zarr"], tmp_path / "out.zarr", iterations=1)
    assert not (tmp_path / "out.zarr").exists()


def test_a_full_disk_keeps_what_is_done(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.zarr"
    from zarr.storage import LocalStore

    put = LocalStore.set
    written: list[str] = []

    async def full(self: Any, key: str, value: Any, *rest: Any) -> None:
        if not key.rsplit("/", 1)[-1].startswith("."):
            written.append(key)
            if len(written) > 4:
                raise OSError(errno.ENOSPC, "No space left on device")
        await put(self, key, value, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", full)
        with pytest.raises(Unfinished, match=r"No space left.*--resume"):
            predict_files(model, [raw], target, iterations=1, block=BLOCK)
    assert not target.exists()
    assert journal_of(target)
    predict_files(model, [raw], target, iterations=1, block=BLOCK, resume=True)
    assert read_image(target).shape == (70, 90)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.zarr", "out.tif"])
def test_a_disk_that_takes_no_more_ends_with_code_1(
    tiny_run: Path, tmp_path: Path, name: str
) -> None:
    write_image(image_of(y=200, x=300), tmp_path / "raw.tif")
    limit = 100_000 if name.endswith("tif") else 3_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        streaming_command(
            "predict",
            tiny_run,
            tmp_path / "raw.tif",
            "-o",
            tmp_path / name,
            "--iterations",
            1,
            "--block",
            64,
        ),
        env=environment(),
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("dcbmz: ")]
    assert done.returncode == 1, done.stderr
    assert len(said) == 1
    assert "--resume" in said[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / name).exists()


def test_foreign_folders_and_wrong_kinds_are_refused_at_once(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "mine.zarr"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("ten years")

    def never(*_: object) -> Tensor:
        raise AssertionError("nothing may be computed")

    monkeypatch.setattr(Model, "iterate", never)
    for size in (0, 2**40):
        monkeypatch.setattr(predict_room, "STREAMED_BYTES", size)
        with pytest.raises(InputError, match="something else"):
            predict_files(model, [raw], foreign, iterations=1)
    with pytest.raises(InputError, match="--sharded"):
        predict_files(model, [raw], tmp_path / "out.tif", iterations=1, sharded=True)
    with pytest.raises(InputError, match="at least 1 pixel, not 0"):
        predict_files(model, [raw], tmp_path / "out.zarr", iterations=1, block=0)
    assert (foreign / "thesis.txt").read_text() == "ten years"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.zarr", "raw.tif"]


def test_a_place_where_nothing_can_be_written_is_refused(
    model: Model, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def deny(self: Path, *args: Any, **rest: Any) -> None:
        if self.name.endswith(".partial"):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        mkdir(self, *args, **rest)

    monkeypatch.setattr(Path, "mkdir", deny)
    with pytest.raises(InputError, match="Permission denied"):
        predict_files(model, [raw], tmp_path / "out.zarr", iterations=1)
    assert [p.name for p in tmp_path.iterdir()] == ["raw.tif"]


def test_an_option_that_does_not_exist_is_refused(model: Model, raw: Path, tmp_path: Path) -> None:
    wrong: Any = {"workers": 2}
    with pytest.raises(TypeError, match="no option 'workers'"):
        predict_files(model, [raw], tmp_path / "out.zarr", **wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["raw.tif"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_what_cannot_be_printed_is_said_once() -> None:
    for unbuffered in ("", "1"):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                command("--version"),
                env=environment() | {"PYTHONUNBUFFERED": unbuffered},
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "cannot be printed (No space left on device)" in done.stderr


@pytest.mark.slow
def test_names_beyond_ascii_and_a_closed_terminal_do_not_matter(
    tiny_run: Path, tmp_path: Path
) -> None:
    raw, target = tmp_path / "rohdaten_ä.tif", tmp_path / "größe_µm.zarr"
    write_image(image_of(), raw)
    words = streaming_command("predict", tiny_run, raw, "-o", target, "--iterations", 1)
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words],
        env=environment() | {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert read_image(target).shape == (70, 90)
