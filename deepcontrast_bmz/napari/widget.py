"""The widget of napari: choose a layer and a model, enhance, move the dial, save, evaluate."""

# napari and Qt are an extra: where they are missing, their types are unknown.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

__all__ = ["EnhanceWidget"]

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import Colormap
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.model.open import SHIPPED
from deepcontrast_bmz.napari.dial_slider import DialSlider
from deepcontrast_bmz.napari.iterations import Dialled
from deepcontrast_bmz.napari.job import (
    Failed,
    Mapped,
    Ready,
    Share,
    Shown,
    enhance_steps,
    fetch_steps,
    map_steps,
    report_steps,
    save_steps,
)
from deepcontrast_bmz.napari.layers import image_of_layer, list_axes, placement
from deepcontrast_bmz.napari.worker import open_page, start

if TYPE_CHECKING:
    from deepcontrast_bmz.napari.iterations import Iterations
    from deepcontrast_bmz.napari.job import Step
    from deepcontrast_bmz.napari.layers import LayerData, LayerImage
    from deepcontrast_bmz.napari.maps import Maps

_DEVICES = ("auto", "cpu", "cuda", "mps")
_SHOWN_RANGE = (0.003, 0.998)
"""Quantiles that are shown black and white, as in the report."""
_TINT = "#ff7a00"
"""Light that is added where the halves of the light do not agree, as in the report."""
_MAP_WORDS = (
    "How far both halves of the light agree on the detail that the dial added. "
    "Orange: it is in one half only, so it is noise. No tint: it is in both. What the model does "
    "wrong in both alike is not seen."
)


class EnhanceWidget(QWidget):
    """Enhances an image layer; the dial moves between iterations that were computed once.

    Parameters
    ----------
    napari_viewer : Viewer
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.running: Any = None
        self.fetching: Any = None
        self.iterations: Iterations | None = None
        self.dialled: Dialled | None = None
        self.result: Any = None
        self.map: Any = None
        self._placed: dict[str, Any] = {}
        self._shown_in_result = False
        self._build()
        self._list_layers()
        for events in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            events.connect(self._list_layers)
        self.viewer.dims.events.current_step.connect(self._plane_changed)
        self.viewer.layers.events.removed.connect(self._layer_removed)
        self._show_state()

    # ---- what is on it

    def _build(self) -> None:
        self.layer, self.axes, self.model, self.device = (QComboBox() for _ in range(4))
        self.layer.currentIndexChanged.connect(self._layer_chosen)
        self.model.setEditable(True)
        self.model.addItems(SHIPPED)
        self.model.setToolTip("A run folder, a package (.zip, folder or rdf.yaml), or a name")
        self.device.addItems(_DEVICES)
        self.pixel = QLabel("")
        self.pixel.setWordWrap(True)
        self.browse_package = QPushButton("Package...")
        self.browse_run = QPushButton("Run folder...")
        self.browse_package.clicked.connect(self._choose_package)
        self.browse_run.clicked.connect(self._choose_run)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Layer", self.layer)
        form.addRow("Axes", self.axes)
        form.addRow("Pixel", self.pixel)
        form.addRow("Model", self.model)
        form.addRow("", _in_row(self.browse_package, self.browse_run))
        form.addRow("Device", self.device)
        self.enhance = QPushButton("Enhance")
        self.cancel = QPushButton("Cancel")
        self.enhance.clicked.connect(self.start)
        self.cancel.clicked.connect(self.stop)
        self.progress = QProgressBar()
        self.progress.setRange(0, 100)
        self.status = QLabel("")
        self.status.setWordWrap(True)
        self.dial = DialSlider()
        self.dial.moved.connect(self._dial_moved)
        self.automatic = QPushButton("Automatic dial")
        self.automatic.setCheckable(True)
        self.automatic.setChecked(True)
        self.automatic.setToolTip("Each plane at the dial that was chosen for it")
        self.automatic.clicked.connect(self._automatic_clicked)
        self.reason = QLabel("")
        self.warning = QLabel("")
        for label in (self.reason, self.warning):
            label.setWordWrap(True)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.warning.setStyleSheet("color: #d97706; font-weight: bold;")
        self.reliability = QPushButton("Map reliability")
        self.reliability.setToolTip("At the dial that is shown; runs the model twice more")
        self.reliability.clicked.connect(self.start_map)
        self.legend = _Legend(_TINT, _MAP_WORDS)
        self.save = QPushButton("Save as...")
        self.evaluate = QPushButton("Evaluate...")
        self.evaluate.setToolTip("Scores of every dial, as a report in the browser")
        self.save.clicked.connect(self._choose_and_save)
        self.evaluate.clicked.connect(self.start_report)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(_in_row(self.enhance, self.cancel))
        column.addWidget(self.progress)
        column.addWidget(self.status)
        column.addWidget(self.dial)
        column.addWidget(_in_row(self.automatic, self.dial.number))
        column.addWidget(self.reason)
        column.addWidget(self.warning)
        column.addWidget(self.reliability)
        column.addWidget(self.legend)
        column.addWidget(_in_row(self.save, self.evaluate))
        column.addStretch(1)

    def _show_state(self) -> None:
        """Enable what can be used now."""
        busy, ready = self.running is not None, self.iterations is not None
        self.enhance.setEnabled(not busy)
        self.evaluate.setEnabled(not busy)
        self.cancel.setEnabled(busy)
        self.progress.setVisible(busy)
        self.save.setEnabled(ready and not busy)
        self.reliability.setEnabled(ready and not busy)
        self.legend.setVisible(self.map is not None)
        self.dial.setEnabled(ready)
        self.automatic.setEnabled(ready)

    # ---- layer and model

    def _list_layers(self, event: Any = None) -> None:  # noqa: ARG002 - napari hands it over
        """List the layers; what was chosen stays, else the selected image."""
        before = self.layer.currentText()
        # What this widget made is not enhanced again by mistake.
        ours = (self.result, self.map)
        names = [one.name for one in self.viewer.layers if not any(one is own for own in ours)]
        self.layer.blockSignals(True)
        self.layer.clear()
        self.layer.addItems(names)
        active = self.viewer.layers.selection.active
        wanted = before if before in names else getattr(active, "name", None)
        if wanted in names:
            self.layer.setCurrentText(wanted)
        self.layer.blockSignals(False)
        self._layer_chosen()

    def _chosen_layer(self) -> Any:
        name = self.layer.currentText()
        return next((one for one in self.viewer.layers if one.name == name), None)

    def _take_layer(self) -> tuple[Any, LayerData, LayerImage] | None:
        """Return the chosen layer as an image; None where it cannot be enhanced, which is said."""
        layer = self._chosen_layer()
        data = None if layer is None else layer.as_layer_data_tuple()
        try:
            taken = image_of_layer(data, self.axes.currentText() or None)
        except InputError as error:
            show_error(str(error))
            return None
        assert data is not None
        return layer, data, taken

    def _layer_chosen(self, index: int = 0) -> None:  # noqa: ARG002 - Qt hands it over
        """Show what the axes of the layer can be, and its pixel size."""
        layer = self._chosen_layer()
        self.axes.clear()
        self.pixel.setText("")
        if layer is None:
            return
        data = layer.as_layer_data_tuple()
        try:
            taken = image_of_layer(data)
        except InputError as error:
            self.pixel.setText(str(error))
            return
        self.axes.addItems(list_axes(data[1], len(taken.axes)))
        self.pixel.setText(taken.pixel)

    def _choose_package(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "A model package", "", "Packages (*.zip *.yaml *.yml)"
        )
        if path:
            self.model.setCurrentText(path)

    def _choose_run(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "A run folder, or the folder of a package")
        if path:
            self.model.setCurrentText(path)

    # ---- work

    def start(self) -> None:
        """Compute the iterations of the chosen layer in a thread."""
        found = None if self.running is not None else self._take_layer()
        if found is None:
            return
        layer, data, taken = found
        self._forget()
        self._placed = placement(data, taken.axes, taken.image)
        self._placed |= {"name": f"{layer.name} enhanced", "colormap": layer.colormap.name}
        first = self._plane_of(layer, taken.axes, taken.image)
        self._run(
            enhance_steps, self.model.currentText(), self.device.currentText(), taken.image, first
        )

    def start_report(self) -> None:
        """Evaluate the chosen layer in a thread, and open the report."""
        found = None if self.running is not None else self._take_layer()
        if found is None:
            return
        layer, _, taken = found
        path = layer.source.path
        model, device = self.model.currentText(), self.device.currentText()
        self._run(report_steps, model, device, taken.image, path)

    def start_map(self) -> None:
        """Map in a thread how far both halves of the light agree, at the dial that is shown."""
        if self.running is None and self.iterations is not None and self.dialled is not None:
            shown = self._shown_plane()
            self._run(map_steps, self.iterations, self.dialled.dial, shown)

    def _run(self, steps: Any, *arguments: Any) -> None:
        self._shown_in_result = steps in (enhance_steps, map_steps)
        self.running = start(steps, *arguments, heard=self._hear, ended=self._ended)
        self._show_state()

    def stop(self) -> None:
        """Cancel what runs; what is computed stays."""
        for work in (self.running, self.fetching):
            if work is not None:
                work.quit()
                self.status.setText("cancelling after this block")

    def _ended(self) -> None:
        self.running = None
        self.status.setText("")
        self._show_state()

    def _hear(self, step: Step) -> None:
        if isinstance(step, Share):
            self.progress.setRange(0, 0 if step.done is None else 100)
            self.progress.setValue(round(100 * (step.done or 0)))
            self.status.setText(step.what)
        elif isinstance(step, Ready):
            self._show_result(step.iterations)
        elif isinstance(step, Mapped):
            self._show_map(step.maps)
        elif isinstance(step, Shown):
            self._refresh()
        elif isinstance(step, Failed):
            show_error(step.reason)
        elif step.path.suffix == ".html":
            open_page(step.path)
        else:
            show_info(f"saved {step.path}")

    # ---- the result

    def _forget(self) -> None:
        """Take the last result off the widget; its layer stays."""
        self.iterations = self.dialled = self.result = self.map = None
        self.reason.setText("")
        self.warning.setText("")
        self.dial.mark(None)

    def _show_result(self, iterations: Iterations) -> None:
        """Add the layer, at the automatic dial."""
        self.iterations = iterations
        self.dialled = Dialled(iterations, None, partial(self._fetch, iterations))
        self.automatic.setChecked(True)
        self.dial.set_range(iterations.largest_dial)
        self.warning.setText(iterations.warning or "")
        ready = next(p for p in np.ndindex(*iterations.planes) if iterations.has(p))
        shown = iterations.look(ready, None)
        assert shown is not None
        known = shown[np.isfinite(shown)]
        black, white = (
            (float(v) for v in np.quantile(known, _SHOWN_RANGE)) if known.size else (0, 1)
        )
        limits = (black, max(white, black + 1e-6))
        self.result = self.viewer.add_image(self.dialled, contrast_limits=limits, **self._placed)
        self._list_layers()
        self._plane_changed()
        self._show_state()

    def _show_map(self, maps: Maps) -> None:
        """Add the maps as light over the result, in the place of those of another dial."""
        if self.result is None:
            return
        maps.missing = partial(self._fetch, maps)
        if self.map is not None:
            self.viewer.layers.remove(self.map)
        title = f"{self.result.name}: reliability at {maps.words}"
        tint = Colormap([_TINT, "black"], name="halves that differ")
        self.map = self.viewer.add_image(
            maps,
            **self._placed | {"name": title, "colormap": tint},
            contrast_limits=(0.0, 1.0),
            blending="additive",
            opacity=0.7,
        )
        self._list_layers()
        self._show_state()

    def _plane_of(self, layer: Any, axes: str, image: Any) -> tuple[int, ...]:
        """Return the plane of an image that the viewer shows now."""
        point = layer.world_to_data(self.viewer.dims.point)
        place = dict(zip(axes, point, strict=True))
        dims = [str(dim) for dim in image.dims[:-2]]
        return tuple(
            int(np.clip(round(float(place[dim])), 0, image.sizes[dim] - 1)) for dim in dims
        )

    def _shown_plane(self) -> tuple[int, ...]:
        assert self.iterations is not None
        image = self.iterations.image
        return self._plane_of(self.result, "".join(map(str, image.dims)), image)

    def _plane_changed(self, event: Any = None) -> None:  # noqa: ARG002 - napari hands it over
        """Mark the automatic dial of the plane that is shown."""
        if self.iterations is None or self.iterations.dials is None or self.result is None:
            return
        plane = self._shown_plane()
        automatic = float(self.iterations.dials[plane])
        choice = self.iterations.choice_at(plane)
        self.dial.mark(automatic, None if choice is None else choice.interval)
        whole = self.iterations.reason
        if choice is None or self.iterations.dials.size == 1:
            self.reason.setText(whole)
        else:
            self.reason.setText(f"This plane: {choice.reason}.\nThe stack: {whole}.")
        if self.automatic.isChecked():
            self.dial.show_dial(automatic)

    def _dial_moved(self, dial: float) -> None:
        self.automatic.setChecked(False)
        if self.dialled is not None:
            self.dialled.dial = dial
            self._refresh()

    def _automatic_clicked(self) -> None:
        self.automatic.setChecked(True)
        if self.dialled is not None:
            self.dialled.dial = None
            self._plane_changed()
            self._refresh()

    def _refresh(self) -> None:
        for layer in (self.result, self.map):
            if layer is not None:
                layer.refresh(extent=False)

    def _fetch(self, kept: Iterations | Maps, plane: tuple[int, ...]) -> None:
        """Compute a plane that is shown and not there, unless work is under way."""
        if self.running is None and self.fetching is None and self.iterations is not None:
            self.fetching = start(
                fetch_steps,
                kept,
                plane,
                heard=self._hear,
                ended=self._fetched,
            )
            self._show_state()

    def _fetched(self) -> None:
        self.fetching = None
        self.status.setText("")
        self._show_state()

    def _layer_removed(self, event: Any) -> None:
        if self.result is not None and event.value is self.result:
            if self._shown_in_result:
                # What is computed now, nobody would see.
                self.stop()
            self._forget()
        elif self.map is not None and event.value is self.map:
            self.map = None
        self._show_state()

    def _choose_and_save(self) -> None:
        name = f"{self.result.name.replace(' ', '_')}.ome.tif"
        path, _ = QFileDialog.getSaveFileName(
            self, "Save at this dial", name, "Images (*.tif *.tiff *.zarr)"
        )
        if path:
            self.save_to(Path(path))

    def save_to(self, path: Path) -> None:
        """Write the result at the dial that is shown, in a thread.

        Parameters
        ----------
        path : Path
            Ends in .tif, .tiff or .zarr.
        """
        if self.iterations is not None and self.dialled is not None:
            self._run(save_steps, self.iterations, self.dialled.dial, path)


class _Legend(QWidget):
    """What the colours of the maps say: a ramp from 0 to 1, and words."""

    def __init__(self, tint: str, words: str) -> None:
        super().__init__()
        ramp = QLabel("0 \u2192 1")
        ramp.setAlignment(Qt.AlignmentFlag.AlignCenter)
        ramp.setStyleSheet(
            "color: white; padding: 1px; background: qlineargradient("
            f"x1:0, y1:0, x2:1, y2:0, stop:0 {tint}, stop:1 black);"
        )
        said = QLabel(words)
        said.setWordWrap(True)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(ramp)
        column.addWidget(said)


def _in_row(*widgets: Any) -> Any:
    """Return widgets side by side."""
    holder = QWidget()
    row = QHBoxLayout(holder)
    row.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        row.addWidget(widget)
    return holder
