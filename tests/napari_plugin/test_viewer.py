"""The widget in a real viewer; `.ci/napari` runs these, in an environment of their own."""

# napari and Qt are an extra: where they are missing, their types are unknown.
# pyright: reportMissingImports=false

from __future__ import annotations

import importlib.util
import threading
import webbrowser
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from conftest import raw_stack
from needed import require

from deepcontrast_bmz import enhance, open_model, read_image
from deepcontrast_bmz.napari.layers import layer_of_image

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

pytestmark = [
    pytest.mark.napari,
    # napari's and Qt's own are not ours to mend.
    pytest.mark.filterwarnings("default"),
]

MISSING = [name for name in ("napari", "pytestqt") if importlib.util.find_spec(name) is None]
SECONDS = 120_000
"""Longest that is waited for, in milliseconds: the machine may be busy."""


@pytest.fixture
def viewer(request: pytest.FixtureRequest) -> Any:
    require(f"{' and '.join(MISSING)} is not installed" if MISSING else None)
    return request.getfixturevalue("make_napari_viewer")()


@pytest.fixture
def wait(request: pytest.FixtureRequest, viewer: Any) -> Callable[[Callable[[], bool]], None]:
    """Let windows and threads work until something holds."""
    assert viewer is not None
    bot = request.getfixturevalue("qtbot")
    return lambda holds: bot.waitUntil(holds, timeout=SECONDS)


@pytest.fixture
def said(viewer: Any) -> Generator[list[str]]:
    """Return every notification that is shown; none may have a traceback."""
    from napari.utils.notifications import ErrorNotification, notification_manager

    assert viewer is not None
    heard: list[str] = []

    def hear(notification: Any) -> None:
        assert not isinstance(notification, ErrorNotification), notification.as_text()
        heard.append(notification.message)

    notification_manager.notification_ready.connect(hear)
    yield heard
    notification_manager.notification_ready.disconnect(hear)


@pytest.fixture
def widget(viewer: Any, tiny_run: Path) -> Any:
    from deepcontrast_bmz.napari.widget import EnhanceWidget

    made = EnhanceWidget(viewer)
    _ = viewer.window.add_dock_widget(made, name="Enhance")
    made.model.setCurrentText(str(tiny_run))
    made.device.setCurrentText("cpu")
    return made


def add_stack(viewer: Any, planes: int = 4) -> Any:
    ((data, attributes, _),) = layer_of_image(raw_stack(planes=planes, size=48), "stack")
    return viewer.add_image(data, **attributes)


def enhanced(widget: Any, wait: Callable[[Callable[[], bool]], None]) -> Any:
    """Press Enhance and wait for the result."""
    widget.enhance.click()
    assert widget.running is not None
    wait(lambda: widget.running is None)
    return widget.result


def close(found: Any, expected: Any) -> bool:
    return float(np.abs(np.asarray(found) - expected).max()) < 1e-5 * float(np.ptp(expected))


class Forbidden:
    """A runner that may not run."""

    device, block = "cpu", 64

    def __call__(self, extended: Any, iterations: int) -> Any:
        raise AssertionError(f"{iterations} iterations of {extended.shape} were run")


def test_the_slider_moves_the_picture_without_a_new_run(
    viewer: Any, widget: Any, wait: Any, said: list[str], tiny_run: Path
) -> None:
    raw = add_stack(viewer)
    result = enhanced(widget, wait)
    assert said == []
    assert result.name == "stack enhanced"
    # Where the raw layer is, in its units.
    assert np.allclose(result.scale, raw.scale)
    assert result.units == raw.units
    model, image = open_model(tiny_run, device="cpu"), raw_stack(planes=4, size=48)
    automatic = enhance(model, image, dial="auto")
    assert close(result.data, automatic.image.values)
    assert automatic.reason in widget.reason.text()
    assert widget.automatic.isChecked()

    # No run from here on: whatever would start one fails.
    widget.iterations.model = replace(widget.iterations.model, runner=Forbidden())
    viewer.dims.set_current_step(0, 1)
    assert widget.dial.dial == pytest.approx(automatic.dials[1], abs=0.005)
    assert widget.dial.marks.automatic == automatic.dials[1]
    assert widget.dial.marks.interval == widget.iterations.choice_at((1,)).interval
    widget.dial.slider.setValue(150)
    assert not widget.automatic.isChecked()
    expected = enhance(model, image, dial=1.5).image.values
    assert close(result.data[1], expected[1])
    assert close(np.asarray(result._slice.image.view), expected[1])
    widget.dial.number.setValue(3.0)
    assert widget.dial.slider.value() == 300
    assert close(result.data[1], enhance(model, image, dial=3.0).image.values[1])
    widget.automatic.click()
    assert close(result.data, automatic.image.values)


def test_saved_it_keeps_scale_and_units(
    viewer: Any, widget: Any, wait: Any, said: list[str], tmp_path: Path, tiny_run: Path
) -> None:
    _ = add_stack(viewer, planes=2)
    result = enhanced(widget, wait)
    widget.dial.slider.setValue(25)
    widget.save_to(tmp_path / "quarter.ome.tif")
    wait(lambda: widget.running is None)
    assert said == [f"saved {tmp_path / 'quarter.ome.tif'}"]
    found = read_image(tmp_path / "quarter.ome.tif")
    assert found.attrs["pixel_size_um"] == {"z": 2.0, "y": 0.5, "x": 0.5}
    model = open_model(tiny_run, device="cpu")
    expected = enhance(model, raw_stack(planes=2, size=48), dial=0.25).image.values
    assert close(found.values, expected)
    # napari's own File > Save takes the writer of the manifest to the same end.
    from deepcontrast_bmz.napari.files import write_layer

    _ = write_layer(str(tmp_path / "same.ome.tif"), *result.as_layer_data_tuple()[:2])
    same = read_image(tmp_path / "same.ome.tif")
    assert np.array_equal(same.values, found.values)
    assert same.attrs["pixel_size_um"] == found.attrs["pixel_size_um"]


def test_planes_that_memory_does_not_hold_come_when_they_are_looked_at(
    viewer: Any, widget: Any, wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepcontrast_bmz.napari import iterations

    monkeypatch.setattr(iterations, "_SHARE", 0.0)
    _ = add_stack(viewer)
    viewer.dims.set_current_step(0, 2)
    result = enhanced(widget, wait)
    assert [widget.iterations.has((z,)) for z in range(4)] == [False, False, True, False]
    viewer.dims.set_current_step(0, 0)
    wait(lambda: widget.iterations.has((0,)) and widget.fetching is None)
    assert not np.isnan(result.data[0]).any()


@pytest.mark.parametrize("kind", ["no layer", "labels", "rgb", "no model", "nan"])
def test_bad_input_is_one_notification(
    viewer: Any, widget: Any, wait: Any, said: list[str], kind: str
) -> None:
    sentence = {
        "no layer": "there is no image layer",
        "labels": "'cells' is a labels layer",
        "rgb": "'photo' is RGB",
        "no model": "a MODEL is a run folder, a package",
        "nan": "'holes' has no pixel that is a finite number",
    }[kind]
    if kind == "labels":
        _ = viewer.add_labels(np.ones((32, 32), np.uint8), name="cells")
    elif kind == "rgb":
        _ = viewer.add_image(np.zeros((32, 32, 3), np.uint8), name="photo", rgb=True)
    elif kind == "no model":
        _ = add_stack(viewer)
        widget.model.setCurrentText("no such model")
    elif kind == "nan":
        _ = viewer.add_image(np.full((32, 32), np.nan, np.float32), name="holes")
    layers = len(viewer.layers)
    widget.enhance.click()
    wait(lambda: widget.running is None)
    assert len(said) == 1
    assert said[0].startswith(sentence)
    assert "\n" not in said[0]
    assert len(viewer.layers) == layers
    assert widget.enhance.isEnabled()
    assert not widget.save.isEnabled()


@pytest.mark.parametrize("kind", ["multiscale", "lazy", "film", "negative", "holes", "turned"])
def test_unusual_layers_are_enhanced_where_they_are(
    viewer: Any, widget: Any, wait: Any, said: list[str], kind: str
) -> None:
    stack = raw_stack(planes=3, size=48).values
    plane = stack[0]
    options: dict[str, Any] = {}
    if kind == "multiscale":
        data: Any = [plane, plane[::2, ::2], plane[::4, ::4]]
        options = {"multiscale": True, "scale": (0.5, 0.5)}
    elif kind == "lazy":
        chunks: Any = (1, 48, 48)
        data = da.from_array(stack, chunks=chunks)
    elif kind == "film":
        data = np.stack([stack, stack])
    elif kind == "negative":
        data = plane.astype(np.int16) - 300
    elif kind == "holes":
        data = np.where(np.indices(plane.shape)[1] < 9, np.float32(np.nan), plane)
    else:
        data = stack
        turn = [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
        options = {"rotate": turn, "shear": [0, 0, 0.2], "scale": (2, 0.5, 0.5)}
    raw = viewer.add_image(data, name="raw", **options)
    result = enhanced(widget, wait)
    assert said == []
    whole = data[0] if kind == "multiscale" else np.asarray(data)
    assert result.data.shape == whole.shape
    assert np.array_equal(np.isnan(np.asarray(result.data)), np.isnan(whole.astype(float)))
    # Corners lie at the same places of the world.
    for corner in (np.zeros(whole.ndim), np.array(whole.shape)):
        assert np.allclose(result.data_to_world(corner), raw.data_to_world(corner))
    assert np.isfinite(result.contrast_limits).all()


def test_the_result_is_removed_while_its_map_is_made(
    viewer: Any, widget: Any, wait: Any, said: list[str], slow: Slow
) -> None:
    _ = add_stack(viewer)
    slow.go.set()
    result = enhanced(widget, wait)
    slow.go.clear()
    slow.begun.clear()
    widget.reliability.click()
    wait(slow.begun.is_set)
    calls = slow.calls
    # A second run does not begin beside the first.
    running = widget.running
    widget.start()
    widget.start_report()
    assert widget.running is running
    viewer.layers.remove(result)
    slow.go.set()
    wait(lambda: widget.running is None)
    assert slow.calls == calls
    assert said == []
    assert widget.map is None
    assert [layer.name for layer in viewer.layers] == ["stack"]


def test_the_raw_layer_is_removed_while_it_is_enhanced(
    viewer: Any, widget: Any, wait: Any, said: list[str], slow: Slow
) -> None:
    layer = add_stack(viewer)
    widget.enhance.click()
    wait(slow.begun.is_set)
    viewer.layers.remove(layer)
    slow.go.set()
    wait(lambda: widget.running is None)
    assert said == []
    assert [layer.name for layer in viewer.layers] == ["stack enhanced"]


class Slow:
    """A runner that waits to be let go, so that work is in its middle."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.device, self.block = runner.device, runner.block
        self.begun, self.go = threading.Event(), threading.Event()
        self.calls = 0

    def __call__(self, extended: Any, iterations: int) -> Any:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(60)
        return self.runner(extended, iterations)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tiny_run: Path) -> Slow:
    from deepcontrast_bmz.napari import job

    model = open_model(tiny_run, device="cpu")
    runner = Slow(model.runner)

    def open_slow(name: str, device: str) -> Any:
        assert (name, device) == (str(tiny_run), "cpu")
        return replace(model, runner=runner)

    monkeypatch.setattr(job, "open_model", open_slow)
    return runner


def test_cancel_in_the_middle_leaves_nothing_running(
    viewer: Any, widget: Any, wait: Any, said: list[str], slow: Slow
) -> None:
    from napari.qt.threading import GeneratorWorker
    from qtpy.QtCore import QThreadPool

    _ = add_stack(viewer)
    widget.enhance.click()
    wait(slow.begun.is_set)
    assert not widget.enhance.isEnabled()
    widget.cancel.click()
    slow.go.set()
    wait(lambda: widget.running is None)
    assert slow.calls == 1
    assert said == []
    assert [layer.name for layer in viewer.layers] == ["stack"]
    # The thread itself ends a moment after its last word.
    assert QThreadPool.globalInstance().waitForDone(SECONDS)
    wait(lambda: len(GeneratorWorker._worker_set) == 0)
    assert slow.calls == 1
    # It can be begun again.
    assert enhanced(widget, wait) is not None


def test_closing_the_viewer_in_the_middle_leaves_nothing_running(
    viewer: Any, widget: Any, wait: Any, said: list[str], slow: Slow
) -> None:
    from qtpy.QtCore import QThreadPool

    _ = add_stack(viewer)
    widget.enhance.click()
    wait(slow.begun.is_set)
    cancelled = widget.running.cancelled
    viewer.close()
    assert cancelled.is_set()
    slow.go.set()
    assert QThreadPool.globalInstance().waitForDone(SECONDS)
    assert slow.calls == 1
    assert said == []


def test_removing_the_result_empties_the_widget(viewer: Any, widget: Any, wait: Any) -> None:
    _ = add_stack(viewer, planes=1)
    viewer.layers.remove(enhanced(widget, wait))
    assert widget.iterations is None
    assert not widget.dial.isEnabled()
    widget.dial.moved.emit(1.0)
    assert widget.layer.currentText() == "stack"


def test_the_map_of_reliability_is_a_layer(
    viewer: Any, widget: Any, wait: Any, said: list[str], tiny_run: Path
) -> None:
    from deepcontrast_bmz import map_reliability

    raw = add_stack(viewer, planes=2)
    assert not widget.reliability.isEnabled()
    result = enhanced(widget, wait)
    widget.dial.slider.setValue(150)
    widget.reliability.click()
    wait(lambda: widget.running is None)
    assert said == []
    layer = widget.map
    assert layer.name == f"{result.name}: reliability at dial 1.5"
    assert (layer.blending, tuple(layer.contrast_limits)) == ("additive", (0.0, 1.0))
    assert np.allclose(layer.scale, raw.scale)
    assert layer.units == raw.units
    model = open_model(tiny_run, device="cpu")
    expected = map_reliability(model, raw_stack(planes=2, size=48), 1.5).values
    np.testing.assert_allclose(np.asarray(layer.data), expected, atol=1e-5)
    # Light where the halves differ, none where they agree.
    lit, unlit = layer.colormap.map(np.array([0.0, 1.0]))
    assert lit[0] > 0.9
    assert unlit[:3].max() == 0
    # Of another dial it takes the place of the last; what this widget made is not offered.
    widget.dial.slider.setValue(50)
    widget.reliability.click()
    wait(lambda: widget.running is None)
    assert [one.name for one in viewer.layers][-1] == f"{result.name}: reliability at dial 0.5"
    assert len(viewer.layers) == 3
    assert [widget.layer.itemText(i) for i in range(widget.layer.count())] == [raw.name]
    viewer.layers.remove(widget.map)
    assert widget.map is None
    assert widget.legend.isHidden()


def test_evaluate_opens_the_report(
    viewer: Any, widget: Any, wait: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def show(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", show)
    _ = add_stack(viewer)
    widget.evaluate.click()
    wait(lambda: widget.running is None)
    assert said == []
    (page,) = opened
    assert page.endswith("report.html")


def test_the_command_evaluates_the_selected_layer(viewer: Any, said: list[str]) -> None:
    from deepcontrast_bmz.napari.worker import evaluate_selected_layer

    _ = viewer.add_labels(np.ones((32, 32), np.uint8), name="cells")
    evaluate_selected_layer()
    (sentence,) = said
    assert sentence.startswith("'cells' is a labels layer")


def test_samples_open_from_the_manifest(viewer: Any, wait: Any) -> None:
    from npe2 import PluginManager

    manager = PluginManager.instance()
    assert "deepcontrast_bmz" in manager
    viewer.open_sample("deepcontrast_bmz", "stack")
    (layer,) = viewer.layers
    assert layer.data.shape == (8, 256, 256)
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 3
    _, made = viewer.window.add_plugin_dock_widget("deepcontrast_bmz", "Enhance")
    assert made.layer.currentText() == "phantom stack"
    assert made.axes.currentText() == "zyx"
    assert made.pixel.text() == "z 2, y 0.5, x 0.5 µm"
    wait(lambda: made.isVisible() or not made.isHidden())
