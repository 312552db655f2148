"""The work behind the widget, told in steps: it runs in a thread and can be cancelled anywhere."""

from __future__ import annotations

__all__ = [
    "Failed",
    "Made",
    "Mapped",
    "Ready",
    "Share",
    "Shown",
    "Step",
    "enhance_steps",
    "fetch_steps",
    "map_steps",
    "report_steps",
    "save_steps",
]

import logging
import os
import secrets
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepcontrast_bmz.errors import InputError, Unfinished
from deepcontrast_bmz.image import write_image
from deepcontrast_bmz.model.open import SHIPPED, open_model
from deepcontrast_bmz.napari.iterations import Cancelled, Iterations, make_cancellable
from deepcontrast_bmz.napari.maps import Maps

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    import xarray as xr

    from deepcontrast_bmz.model.model import Model

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """How much is done, 0 to 1, and of what."""

    done: float | None
    """None where that cannot be told."""
    what: str


@dataclass(frozen=True)
class Ready:
    """The first plane and all dials are there: the result can be shown."""

    iterations: Iterations


@dataclass(frozen=True)
class Mapped:
    """The first map of reliability is there: they can be shown."""

    maps: Maps


@dataclass(frozen=True)
class Shown:
    """One more plane is there."""

    plane: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """Something was written."""

    path: Path


@dataclass(frozen=True)
class Failed:
    """It could not be done; one sentence."""

    reason: str
    expected: bool = True
    """False for a mistake of this project, whose traceback is in the log."""


Step = Share | Ready | Mapped | Shown | Made | Failed


def _guarded(steps: Iterator[Step]) -> Iterator[Step]:
    """Turn what goes wrong into a last step, since napari would show a traceback."""
    try:
        yield from steps
    except Cancelled:
        return
    except (InputError, Unfinished) as error:
        yield Failed(str(error))
    except OSError as error:
        yield Failed(f"a file could not be read or written ({error}): see that it is there")
    except Exception as error:  # the last door: a sentence instead of a traceback
        _log.exception("the work in the thread failed")
        yield Failed(
            f"unexpected {type(error).__name__}: {error} (the log has the traceback)", False
        )


def enhance_steps(
    name: str,
    device: str,
    image: xr.DataArray,
    first: tuple[int, ...],
    cancelled: threading.Event,
) -> Iterator[Step]:
    """Open a model, compute the plane that is shown, choose the dials, compute the other planes.

    Parameters
    ----------
    name : str
        Run folder, package, or name of a shipped model.
    device : str
        As of `open_model`.
    image : DataArray
    first : tuple of int
        Plane that is shown now.
    cancelled : threading.Event
        Ends the work at the next block.

    Yields
    ------
    Share, Ready, Shown or Failed
    """
    yield from _guarded(_enhance(name, device, image, first, cancelled))


def _open(name: str, device: str) -> Model:
    if not name.strip():
        # An empty path would be the current folder.
        raise InputError(f"no model is named: choose {SHIPPED[0]}, a package or a run folder")
    # A shell would have done so.
    return open_model(os.path.expanduser(name.strip()), device=device)  # noqa: PTH111


def _enhance(
    name: str,
    device: str,
    image: xr.DataArray,
    first: tuple[int, ...],
    cancelled: threading.Event,
) -> Iterator[Step]:
    yield Share(0.0, "opening the model")
    opened = _open(name, device)
    model = make_cancellable(opened, cancelled)
    iterations = Iterations(opened, image)
    planes = iterations.list_missing(first)
    shares = len(planes) + 1
    for done, blocks in iterations.compute(planes[0], model):
        yield Share(done / blocks / shares, f"plane 1 of {len(planes)}")
    yield Share(1 / shares, "choosing the dial")
    iterations.choose(model)
    yield Ready(iterations)
    for number, plane in enumerate(planes[1:], start=2):
        for done, blocks in iterations.compute(plane, model):
            yield Share((number + done / blocks) / shares, f"plane {number} of {len(planes)}")
        yield Shown(plane)
    yield Share(1.0, "")


def fetch_steps(
    kept: Iterations | Maps, plane: tuple[int, ...], cancelled: threading.Event
) -> Iterator[Step]:
    """Compute one plane that was not kept.

    Parameters
    ----------
    kept : Iterations or Maps
    plane : tuple of int
    cancelled : threading.Event

    Yields
    ------
    Share, Shown or Failed
    """
    yield from _guarded(_fetch(kept, plane, cancelled))


def _fetch(
    kept: Iterations | Maps, plane: tuple[int, ...], cancelled: threading.Event
) -> Iterator[Step]:
    model = make_cancellable(kept.model, cancelled)
    for done, blocks in kept.compute(plane, model):
        yield Share(done / blocks, "this plane")
    yield Shown(plane)


def map_steps(
    iterations: Iterations, dial: float | None, first: tuple[int, ...], cancelled: threading.Event
) -> Iterator[Step]:
    """Map, plane by plane, how far both halves of the light agree on what a dial added.

    Parameters
    ----------
    iterations : Iterations
    dial : float, optional
        None for the automatic one of each plane.
    first : tuple of int
        Plane that is shown now.
    cancelled : threading.Event
        Ends the work at the next block.

    Yields
    ------
    Share, Mapped, Shown or Failed
    """
    yield from _guarded(_map(iterations, dial, first, cancelled))


def _map(
    iterations: Iterations, dial: float | None, first: tuple[int, ...], cancelled: threading.Event
) -> Iterator[Step]:
    yield Share(0.0, "both halves of the light")
    model = make_cancellable(iterations.model, cancelled)
    maps = Maps(iterations, dial)
    planes = maps.list_missing(first)
    for number, plane in enumerate(planes, start=1):
        for done, blocks in maps.compute(plane, model):
            share = (number - 1 + done / blocks) / len(planes)
            yield Share(share, f"map {number} of {len(planes)}")
        yield Mapped(maps) if number == 1 else Shown(plane)


def save_steps(
    iterations: Iterations, dial: float | None, path: Path, cancelled: threading.Event
) -> Iterator[Step]:
    """Write the image at a dial, with the axes, pixel size and notes of the raw one.

    Parameters
    ----------
    iterations : Iterations
    dial : float, optional
        None for the automatic one of each plane.
    path : Path
        Ends in .tif, .tiff or .zarr.
    cancelled : threading.Event
        Nothing half written is left.

    Yields
    ------
    Share, Made or Failed
    """
    yield from _guarded(_save(iterations, dial, path, cancelled))


def _save(
    iterations: Iterations, dial: float | None, path: Path, cancelled: threading.Event
) -> Iterator[Step]:
    yield Share(None, f"saving {path.name}")
    model = make_cancellable(iterations.model, cancelled)
    write_image(iterations.enhanced(dial, model), path)
    yield Made(path)


def report_steps(
    name: str, device: str, image: xr.DataArray, source: str | None, cancelled: threading.Event
) -> Iterator[Step]:
    """Evaluate an image and write its report into a new temporary folder.

    Parameters
    ----------
    name, device
        As of `open_model`.
    image : DataArray
        One channel.
    source : str, optional
        File that the image was read from: the report then says how to make it again.
    cancelled : threading.Event
        Ends the work at the next block.

    Yields
    ------
    Share, Made or Failed
    """
    yield from _guarded(_report(name, device, image, source, cancelled))


def _report(
    name: str, device: str, image: xr.DataArray, source: str | None, cancelled: threading.Event
) -> Iterator[Step]:
    from deepcontrast_bmz.evaluate.report import write_evaluation
    from deepcontrast_bmz.evaluate.stack import add_stack
    from deepcontrast_bmz.evaluate.sweep import evaluate

    if image.sizes.get("c", 1) > 1:
        raise InputError(
            f"'{image.name}' has {image.sizes['c']} channels, and one is evaluated at a time: "
            "right-click on the layer, Split Stack, and choose one"
        )
    yield Share(None, "opening the model")
    model = make_cancellable(_open(name, device), cancelled)
    yield Share(None, "evaluating every dial")
    found = add_stack(evaluate(model, image), model, image)
    command = predict = None
    if source is not None:
        command = shlex.join(["dcbmz", "evaluate", name, source, "-o", "scores"])
        predict = shlex.join(["dcbmz", "predict", name, source])
    # Made by the writer, so that a refused image leaves no empty folder behind.
    folder = Path(tempfile.gettempdir(), f"dcbmz_view_{secrets.token_hex(4)}")
    yield Made(write_evaluation(found, folder, command=command, predict=predict)[-1])
