"""Iterations computed once: every dial is the image that `enhance` makes; no napari needed."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from conftest import raw_stack, run_record, untrained_loop

from deepcontrast_bmz import enhance, map_reliability, open_model, read_image
from deepcontrast_bmz.model.build import wrap_loop
from deepcontrast_bmz.model.run_folder import describe_run
from deepcontrast_bmz.napari import job
from deepcontrast_bmz.napari.iterations import Cancelled, Dialled, Iterations, make_cancellable
from deepcontrast_bmz.napari.maps import Maps
from deepcontrast_bmz.settings import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from deepcontrast_bmz.model.model import Model

DIALS = (0.0, 0.4, 1.0, 2.75, 3.0)


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Model:
    return open_model(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def stacks() -> Model:
    """A model of stacks, whose weights were drawn."""
    recipe = Recipe.model_validate(
        {
            "network": {"kind": "dilated_3d", "width": 4, "dilations": [1, 2], "mixing_layers": 1},
            "loop": {"iterations": 2},
        }
    )
    loop = untrained_loop(recipe)
    return wrap_loop(loop, "stacks", describe_run(recipe, run_record(), loop), "cpu")


def image_of(planes: int = 4, *, lazy: bool = False) -> xr.DataArray:
    image = raw_stack(planes=planes, size=48)
    chunks: Any = (1, 48, 48)
    return image.copy(data=da.from_array(image.data, chunks=chunks)) if lazy else image


def close(found: Any, expected: Any) -> bool:
    """Blocks differ, so that sums are rounded in another order."""
    values = np.asarray(expected)
    return float(np.abs(np.asarray(found) - values).max()) < 1e-5 * float(np.ptp(values))


@pytest.mark.parametrize("lazy", [False, True])
def test_every_dial_is_what_enhance_makes(model: Model, lazy: bool) -> None:
    image = image_of(lazy=lazy)
    iterations = Iterations(model, image)
    assert iterations.largest_dial == 3.0
    for dial in DIALS:
        expected = enhance(model, image_of(), dial=dial).image.values
        for plane in range(4):
            assert close(iterations.get((plane,), dial), expected[plane])


def test_the_automatic_dials_are_those_of_enhance(model: Model) -> None:
    iterations = Iterations(model, image_of())
    iterations.choose()
    found = enhance(model, image_of(), dial="auto")
    assert iterations.dials is not None
    assert tuple(iterations.dials) == found.dials
    assert iterations.reason == found.reason
    assert close(iterations.enhanced(None).values, found.image.values)


def test_a_model_of_stacks_is_run_in_slabs(stacks: Model) -> None:
    image = image_of(planes=5)
    iterations = Iterations(stacks, image)
    expected = enhance(stacks, image, dial=1.5).image.values
    # Slabs thinner than the stack, so that one begins in its middle.
    thin = Iterations(replace(stacks, planes=2), image)
    for plane in range(5):
        assert close(iterations.get((plane,), 1.5), expected[plane])
        assert close(thin.get((plane,), 1.5), expected[plane])
    assert thin.list_missing((4,)) == []


def test_each_plane_is_computed_once(model: Model) -> None:
    iterations = Iterations(model, image_of())
    cancelled = threading.Event()
    counted = make_cancellable(model, cancelled)
    _ = iterations.get((1,), 1.0, counted)
    cancelled.set()
    # Any further run would raise: all other dials are blends.
    for dial in DIALS:
        assert iterations.get((1,), dial, counted).shape == (48, 48)
    with pytest.raises(Cancelled):
        _ = iterations.get((2,), 1.0, counted)
    assert iterations.has((1,))
    assert not iterations.has((2,))


def test_memory_bounds_what_is_kept(model: Model) -> None:
    plane = 4 * 4 * 48 * 48
    iterations = Iterations(model, image_of(), memory=2.5 * plane)
    assert iterations.list_missing((2,)) == [(2,), (1,)]
    for z in range(4):
        _ = iterations.get((z,), 1.0)
    assert [iterations.has((z,)) for z in range(4)] == [False, False, True, True]
    # One is always kept, or nothing could be shown.
    small = Iterations(model, image_of(), memory=1.0)
    assert small.list_missing((3,)) == [(3,)]
    _ = small.get((3,), 1.0)
    assert small.has((3,))


def test_it_is_sliced_as_an_array(model: Model) -> None:
    dialled = Dialled(Iterations(model, image_of()), 1.5)
    whole = np.asarray(dialled)
    assert whole.shape == dialled.shape == (4, 48, 48)
    assert (dialled.ndim, dialled.size, len(dialled)) == (3, whole.size, 4)
    for key in (
        2,
        -1,
        np.int64(1),
        (slice(None), 5),
        (slice(1, 3), slice(None, None, 2), slice(4, 9)),
        (0, slice(None), slice(None)),
        (Ellipsis, 7),
        (slice(0, 1), Ellipsis),
    ):
        assert np.array_equal(dialled[key], whole[key]), key
    assert close(whole, enhance(dialled.iterations.model, image_of(), dial=1.5).image.values)


def test_what_is_missing_is_empty_and_asked_for(model: Model) -> None:
    iterations = Iterations(model, image_of())
    asked: list[tuple[int, ...]] = []
    dialled = Dialled(iterations, 1.0, asked.append)
    assert np.isnan(dialled[2]).all()
    assert asked == [(2,)]
    _ = iterations.get((2,), 1.0)
    shown = dialled[:]
    assert [bool(np.isnan(plane).any()) for plane in shown] == [True, True, False, True]
    assert asked == [(2,), (0,)]


@pytest.mark.parametrize("lazy", [False, True])
def test_the_maps_are_those_of_predict(model: Model, lazy: bool) -> None:
    iterations = Iterations(model, image_of(3, lazy=lazy))
    iterations.choose()
    enhanced = enhance(model, image_of(3), dial="auto")
    for dial, asked in ((1.3, 1.3), (None, enhanced.dial)):
        expected = map_reliability(model, image_of(3), asked).values
        assert 0 < expected.mean() < 1
        maps = Maps(iterations, dial)
        assert maps.look((1,)) is None
        np.testing.assert_allclose(np.asarray(maps), expected, atol=1e-5)
        assert maps.list_missing((0,)) == []


def test_the_maps_of_a_model_of_stacks_are_those_of_predict(stacks: Model) -> None:
    image = image_of(planes=5)
    expected = map_reliability(stacks, image, 1.5).values
    found = Maps(Iterations(stacks, image), 1.5)
    np.testing.assert_allclose(found[3], np.nan)
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)


def test_the_map_of_the_plane_that_is_looked_at_comes_first(model: Model) -> None:
    iterations = Iterations(model, image_of())
    mapped, *others = steps_of(job.map_steps(iterations, 1.0, (2,), threading.Event()))
    assert isinstance(mapped, job.Mapped)
    assert [step.plane for step in others] == [(1,), (3,), (0,)]
    assert (mapped.maps.dial, mapped.maps.words) == ("1", "dial 1")
    cancelled = threading.Event()
    cancelled.set()
    assert steps_of(job.map_steps(iterations, 1.0, (2,), cancelled)) == []


def steps_of(steps: Any) -> list[Any]:
    return [step for step in steps if not isinstance(step, job.Share)]


def test_the_steps_show_the_plane_that_is_looked_at_first(tiny_run: Path) -> None:
    steps = job.enhance_steps(str(tiny_run), "cpu", image_of(), (2,), threading.Event())
    ready, *others = steps_of(steps)
    assert isinstance(ready, job.Ready)
    assert [step.plane for step in others] == [(1,), (3,), (0,)]
    assert ready.iterations.dials is not None


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no such model", "a MODEL is a run folder, a package"),
        ("README.md", "a MODEL is a run folder, a package"),
        (" ", "no model is named: choose deepcontrast"),
    ],
)
def test_a_model_that_is_none_ends_in_one_sentence(name: str, sentence: str) -> None:
    (failed,) = steps_of(job.enhance_steps(name, "cpu", image_of(), (0,), threading.Event()))
    assert isinstance(failed, job.Failed)
    assert failed.reason.startswith(sentence)
    assert "\n" not in failed.reason


def test_holes_and_padding_stay_as_enhance_leaves_them(model: Model) -> None:
    image = image_of().astype(np.float32)
    image[1, 2:9, 3:20] = np.nan
    image[:, 30:] = 0
    iterations = Iterations(model, image)
    iterations.choose()
    expected = enhance(model, image, dial="auto").image.values
    assert (expected[:, 31:] == 0).all()
    found = np.asarray(Dialled(iterations))
    assert np.array_equal(np.isnan(found), np.isnan(image))
    assert close(np.nan_to_num(found), np.nan_to_num(expected))


def test_an_image_of_holes_alone_ends_in_one_sentence(tiny_run: Path) -> None:
    image = image_of().astype(np.float32) * np.float32(np.nan)
    (failed,) = steps_of(job.enhance_steps(str(tiny_run), "cpu", image, (0,), threading.Event()))
    assert failed.expected
    assert "\n" not in failed.reason


def test_a_file_that_is_gone_ends_in_one_sentence(tiny_run: Path) -> None:
    def read(_: Any) -> Any:
        raise OSError(5, "the drive does not answer")

    image = image_of(lazy=True)
    gone = image.copy(data=image.data.map_blocks(read, dtype=image.dtype, meta=image.data._meta))
    (failed,) = steps_of(job.enhance_steps(str(tiny_run), "cpu", gone, (0,), threading.Event()))
    assert failed.expected
    assert failed.reason.startswith("a file could not be read or written")
    assert "the drive does not answer" in failed.reason


def test_a_mistake_is_told_in_one_sentence_and_logged(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(job, "open_model", fail)
    (failed,) = steps_of(
        job.enhance_steps(str(tiny_run), "cpu", image_of(), (0,), threading.Event())
    )
    assert failed.reason == "unexpected RuntimeError: broken (the log has the traceback)"
    assert not failed.expected
    assert "Traceback" in caplog.text


def test_cancelled_work_ends_without_a_word(tiny_run: Path) -> None:
    cancelled = threading.Event()
    steps = job.enhance_steps(str(tiny_run), "cpu", image_of(), (0,), cancelled)
    assert isinstance(next(steps), job.Share)
    cancelled.set()
    assert list(steps) == []


def test_saved_it_has_the_labels_of_the_raw_image(model: Model, tmp_path: Path) -> None:
    image = image_of()
    path = tmp_path / "enhanced.ome.tif"
    iterations = Iterations(model, image)
    (made,) = steps_of(job.save_steps(iterations, 1.5, path, threading.Event()))
    assert made == job.Made(path)
    found = read_image(path)
    assert found.dims == image.dims
    assert found.attrs["pixel_size_um"] == image.attrs["pixel_size_um"]
    assert close(found.values, enhance(model, image, dial=1.5).image.values)


def test_cancelled_saving_leaves_nothing(model: Model, tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    steps = job.save_steps(Iterations(model, image_of()), 1.5, tmp_path / "a.zarr", cancelled)
    assert steps_of(steps) == []
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_suffix_is_told(model: Model, tmp_path: Path) -> None:
    steps = job.save_steps(
        Iterations(model, image_of()), 1.5, tmp_path / "a.png", threading.Event()
    )
    (failed,) = steps_of(steps)
    assert "an image is written to .tif" in failed.reason
