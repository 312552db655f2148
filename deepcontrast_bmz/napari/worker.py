"""Runs steps in a thread of napari, and says in one sentence what went wrong."""

# napari and Qt are an extra: where they are missing, their types are unknown.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

__all__ = ["Running", "evaluate_selected_layer", "open_page", "start"]

import threading
import webbrowser
from typing import TYPE_CHECKING, Any

from napari.qt.threading import GeneratorWorker, create_worker
from napari.utils.notifications import show_error, show_info
from napari.viewer import current_viewer

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.napari.layers import image_of_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deepcontrast_bmz.napari.job import Step


class Running(GeneratorWorker):
    """Work in a thread, ended at its next block by `quit`: napari calls that when it closes."""

    def __init__(self, steps: Callable[..., Iterator[Step]], *arguments: Any) -> None:
        self.cancelled = threading.Event()
        super().__init__(steps, *arguments, self.cancelled)

    def quit(self) -> None:
        """Ask it to end."""
        self.cancelled.set()
        super().quit()


def start(
    steps: Callable[..., Iterator[Step]],
    *arguments: Any,
    heard: Callable[[Step], None],
    ended: Callable[[], None],
) -> Running:
    """Run steps in a thread.

    Parameters
    ----------
    steps : generator function
        Takes `arguments` and an event that cancels it.
    heard : callable
        Called with every step, in the thread of the windows.
    ended : callable
        Called when the thread is done, however it ended.
    """
    worker = create_worker(steps, *arguments, _start_thread=False, _worker_class=Running)
    worker.yielded.connect(heard)
    worker.finished.connect(ended)
    worker.start()
    return worker


def open_page(page: Path) -> None:
    """Open a report in the browser, or say where it is."""
    if not webbrowser.open(page.resolve().as_uri()):
        show_info(f"no browser could be started: open {page} in one")


def evaluate_selected_layer() -> None:
    """Evaluate the selected layer with the shipped model, and open the report.

    Whatever is wrong is said in a notification.
    """
    from deepcontrast_bmz.model.open import SHIPPED
    from deepcontrast_bmz.napari.job import Failed, Made, report_steps

    viewer = current_viewer()
    layer = None if viewer is None else viewer.layers.selection.active
    try:
        taken = image_of_layer(None if layer is None else layer.as_layer_data_tuple())
    except InputError as error:
        show_error(str(error))
        return
    said: list[str] = []

    def hear(step: Step) -> None:
        if isinstance(step, Failed):
            show_error(step.reason)
        elif isinstance(step, Made):
            open_page(step.path)
        elif not said:
            said.append("")
            show_info("evaluating every dial; the report opens in the browser")

    path = getattr(getattr(layer, "source", None), "path", None)
    _ = start(report_steps, SHIPPED[0], "auto", taken.image, path, heard=hear, ended=lambda: None)
