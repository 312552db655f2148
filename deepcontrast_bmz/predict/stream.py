"""Streams an image file of any size through a model into an output, block by block.

The work is planned once. Then every block is read from the input with its real neighbours,
enhanced and written where no other block writes; the journal notes it. Smaller resolutions and
the final format come last. Memory is bounded by the blocks under way.
"""

from __future__ import annotations

__all__ = ["Request", "stream_image"]

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import threading
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from deepcontrast_bmz import __version__
from deepcontrast_bmz.dial.usable import find_padding
from deepcontrast_bmz.errors import InputError, Unfinished
from deepcontrast_bmz.image import (
    AS_STATED,
    Reading,
    label_channels,
    open_image,
    pixel_size_um,
    read_image,
    take_place,
)
from deepcontrast_bmz.image.pixel_type import (
    check_fits,
    choose_type,
    describe_change,
    fit_pixels,
)
from deepcontrast_bmz.image.pyramid import count_levels
from deepcontrast_bmz.image.tiff_write import check_tiff, needs_tiles, write_levels, write_tiff
from deepcontrast_bmz.image.zarr_write import (
    add_levels,
    check_zarr,
    create_zarr,
    describe_zarr,
    flush_part,
    open_level,
)
from deepcontrast_bmz.model.model import Origin
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.model.units import Source
from deepcontrast_bmz.predict.cluster import map_unordered
from deepcontrast_bmz.predict.enhance import Enhanced, check_grey
from deepcontrast_bmz.predict.plan import Plan, plan_image
from deepcontrast_bmz.predict.resume import Journal, identity

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from deepcontrast_bmz.dial.request import DialRequest
    from deepcontrast_bmz.image import OpenImage
    from deepcontrast_bmz.image.masks import FieldMask
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.predict.cluster import Workers
    from deepcontrast_bmz.predict.plan import Block

_LAST_SHARE = 0.05
"""Of the progress, for what comes after the blocks."""

_NO_FAULT_OF_THE_FILE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.EHOSTDOWN)


@dataclass(frozen=True)
class Request:
    """What is wanted of an image."""

    path: Path
    """The input."""
    target: Path
    """The output, .tif, .tiff or .zarr."""
    wanted: DialRequest
    """The dial that was asked for."""
    sides: tuple[int, ...]
    """Largest sides of the blocks, along (z,) y, x."""
    channel: str | int | None = None
    """Only this channel."""
    how: Reading = AS_STATED
    """How the input is read."""
    block: int | None = None
    """The lateral side of blocks that was asked for; left out, `sides` were chosen."""
    sharded: bool = False
    """Many chunks to a file, in a .zarr."""
    resume: bool = False
    """Go on with unfinished work."""
    mask: FieldMask | None = None
    """Pixels that are part of the picture."""
    mask_path: Path | None = None
    """Its file."""
    dtype: str = "float32"
    """What pixels are written as, see `pixel_type`."""
    compression: str | None = None
    """How they are packed; None as suits the format."""

    def open(self) -> OpenImage:
        """Return the image, of which nothing but its labels is read yet."""
        how = self.how
        return open_image(self.path, axes=how.axes, scene=how.scene).channel(self.channel)

    def check(self, labels: xr.DataArray) -> np.dtype[Any]:
        """Return what pixels are written as, once it is clear that the output can hold them."""
        written = choose_type(self.dtype, labels.dtype)
        if _is_zarr(self.target):
            check_zarr(self.target)
        else:
            written = check_tiff(self.target, written, self.compression)
        if self.dtype != "same":
            check_fits(labels, written, self.path.name)
        return written

    def source(self, image: OpenImage, model: Model) -> Source:
        """Return the image as the model takes it."""
        return Source(
            image.pixels,
            image.dims,
            model,
            self.path.name,
            mask=self.mask,
            find_padding=find_padding,
        )


@dataclass(frozen=True)
class _Job:
    """All that a worker of a cluster needs to know; it opens the rest itself, once."""

    key: str
    model: Origin | Model
    request: Request
    image: Path
    """The growing image."""
    notes: dict[str, Any]
    """Of the plan."""


class _BlockWriter:
    """A plan and the growing image it is carried out in."""

    def __init__(
        self, plan: Plan, image: Path, turn: AbstractContextManager[Any] | None = None
    ) -> None:
        self.plan = plan
        self.image = image
        self.array = open_level(image, 0)
        self.turn = turn if turn is not None else nullcontext()

    def write(self, number: int) -> list[tuple[int, float, float, int]]:
        """Enhance and write a block; return what is noted of each channel it touches.

        That is its smallest and largest grey value, and how many pixels were clipped.
        """
        block = self.plan.block(number)
        found, clipped = fit_pixels(self._enhance(block), self.array.dtype)
        try:
            self.plan.put(self.array, block, found)
            # Before it is noted as done: a power cut keeps the note, and may lose what is not.
            flush_part(self.image, self.array, self.plan.index(block))
        except OSError as error:
            raise Unfinished(
                f"writing the output failed ({error.strerror or error}): free some space or "
                "correct the cause, then continue with --resume"
            ) from error
        first = self.plan.first_channel(block)
        known = [values[np.isfinite(values)] for values in found]
        return [
            (first + i, float(values.min()), float(values.max()), clipped if i == 0 else 0)
            for i, values in enumerate(known)
            if values.size
        ]

    def _enhance(self, block: Block) -> NDArray[np.float32]:
        try:
            return self.plan.run([block], turn=self.turn)[0]
        except InputError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _NO_FAULT_OF_THE_FILE:
                raise Unfinished(
                    f"reading '{self.plan.source.name}' failed ({cause.strerror}): continue with "
                    "--resume when it can be read again"
                ) from error
            raise


_opened: dict[str, _BlockWriter] = {}
_opening = threading.Lock()


def _write_block(job: _Job, number: int) -> list[tuple[int, float, float, int]]:
    """Do a block in whatever process this is; model and files are opened once."""
    with _opening:
        if job.key not in _opened:
            model = _open_model_of(job)
            _opened.clear()
            source = job.request.source(job.request.open(), model)
            plan = Plan.restore(model, source, job.notes, job.request.wanted.count)
            _opened[job.key] = _BlockWriter(plan, job.image)
        writer = _opened[job.key]
    return writer.write(number)


def _open_model_of(job: _Job) -> Model:
    """Return the model of a job: that of the job before, if it is the same."""
    if not isinstance(job.model, Origin):
        return job.model
    for writer in _opened.values():
        if writer.plan.model.origin == job.model:
            return writer.plan.model
    options: dict[str, Any] = dict(job.model.options)
    return open_model(job.model.name, **options)


def stream_image(
    model: Model,
    request: Request,
    workers: Workers,
    *,
    progress: Callable[[float], None] | None = None,
) -> Enhanced:
    """Enhance a file into another one, block by block.

    What is on record of the work stays until `journal.forget`, so that several images can be gone
    on with at the one that was under way.

    Parameters
    ----------
    model : Model
    request : Request
    workers : Workers
        What computes the blocks.
    progress : callable, optional
        Is given the share that is done, 0 to 1.

    Returns
    -------
    Enhanced
        Its image is read from the output when it is looked at.

    Raises
    ------
    InputError
        If the input cannot be used, or unfinished work there cannot continue.
    Unfinished
        If the work could not be brought to its end; what is done is kept.
    """
    image = request.open()
    labels = image.labelled()
    check_grey(labels, request.path.name)
    source = request.source(image, model)
    written = request.check(labels)
    journal = Journal(request.target)

    def settle() -> dict[str, Any]:
        size = pixel_size_um(labels)
        names = image.names
        return plan_image(source, model, request.wanted, request.sides, size, names=names).notes

    with _kept_for_resuming(journal, request.target):
        journal.begin(_identify_work(model, request, image), settle, resume=request.resume)
        plan = Plan.restore(model, source, journal.plan, request.wanted.count)
        if not journal.is_finished:
            _fill(plan, journal, request, written, workers, progress)
            _finish(plan, journal, request, image, progress)
        journal.tidy()
    if progress is not None:
        progress(1.0)
    clipped = sum(note[3] for notes in journal.done.values() for note in notes)
    change = describe_change(written, clipped, math.prod(plan.shape))
    return Enhanced(read_image(request.target), plan.dials, plan.dial, plan.reason, change)


def _is_zarr(target: Path) -> bool:
    return target.name.lower().endswith(".zarr")


@contextlib.contextmanager
def _kept_for_resuming(journal: Journal, target: Path) -> Generator[None]:
    """Close the journal at the end; on failure keep what is done, and remove what is nothing."""
    try:
        yield
    except (InputError, Unfinished) as error:
        kept = bool(journal.done)
        journal.close() if kept or not journal.mine else journal.remove()
        if kept and "--resume" not in str(error):
            raise type(error)(f"{error}; finished blocks are kept for --resume") from error
        raise
    except OSError as error:
        raise Unfinished(
            f"finishing the output '{target}' failed ({error.strerror or error}): free some space "
            "or correct the cause, then continue with --resume"
        ) from error
    finally:
        journal.close()


def _identify_work(model: Model, request: Request, image: OpenImage) -> dict[str, Any]:
    """Return what makes two pieces of work the same, by names that a user knows."""
    wanted = request.wanted
    return {
        "the program's version": __version__,
        "the model": _model_digest(model),
        "the device": model.device,
        "the input": identity(request.path) | {"shape": image.shape},
        "the channel": request.channel,
        "the mask": None if request.mask_path is None else identity(request.mask_path),
        "the axes or the scene": list(request.how),
        "the dial": [wanted.asked, wanted.count],
        "the block": request.block,
        "the sharding": request.sharded,
        "the dtype": request.dtype,
        "the compression": request.compression,
    }


def _model_digest(model: Model) -> str:
    """Return what tells a model from others: of its files, or of its description."""
    digest = hashlib.sha256(model.weights_format.encode())
    digest.update(json.dumps(model.description.model_dump(mode="json"), sort_keys=True).encode())
    digest.update(model.sha256.encode())
    return digest.hexdigest()


def _fill(
    plan: Plan,
    journal: Journal,
    request: Request,
    written: np.dtype[Any],
    workers: Workers,
    progress: Callable[[float], None] | None,
) -> None:
    """Do all blocks that are not done yet."""
    if not journal.exists:
        create_zarr(
            journal.image,
            list(plan.shape),
            written,
            list(plan.block_shape),
            sharded=request.sharded,
            compression=request.compression if _is_zarr(request.target) else None,
        )
        journal.settle()
    if workers.remote:
        job = _Job(
            key=uuid.uuid4().hex,
            model=plan.model.origin or plan.model,
            request=dataclasses.replace(request, path=request.path.absolute()),
            image=journal.image.absolute(),
            notes=plan.notes,
        )
        function = partial(_write_block, job)
    else:
        function = _BlockWriter(plan, journal.image, threading.Lock()).write
    left = [number for number in range(plan.block_count) if number not in journal.done]
    for number, ranges in map_unordered(workers, function, left):
        journal.add(number, *ranges)
        if progress is not None:
            progress((1 - _LAST_SHARE) * len(journal.done) / plan.block_count)


def _finish(
    plan: Plan,
    journal: Journal,
    request: Request,
    image: OpenImage,
    progress: Callable[[float], None] | None,
) -> None:
    """Make the output of the filled image, and give it its name."""

    def report(share: float) -> None:
        if progress is not None:
            progress(1 - _LAST_SHARE * (1 - share))

    finish = _finish_zarr if _is_zarr(request.target) else _finish_tiff
    try:
        finish(plan, journal, request, image, report)
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise Unfinished(str(error)) from error
        raise
    journal.mark_finished()


def _finish_zarr(
    plan: Plan,
    journal: Journal,
    request: Request,
    image: OpenImage,
    report: Callable[[float], None],
) -> None:
    """Add smaller resolutions and the description to the filled image, and name it."""
    add_levels(journal.image, lambda share: report(share / 2))
    ranges: dict[int, tuple[float, float]] = {}
    for notes in journal.done.values():
        for channel, low, high, _ in notes:
            before = ranges.get(channel, (low, high))
            ranges[channel] = (min(low, before[0]), max(high, before[1]))
    names = plan.channel_names(image.names)
    describe_zarr(journal.image, plan.dims, image.sizes, names, ranges, request.target.name)
    take_place(journal.image, request.target)


def _finish_tiff(
    plan: Plan,
    journal: Journal,
    request: Request,
    image: OpenImage,
    report: Callable[[float], None],
) -> None:
    """Write the filled image as TIFF, of large planes in tiles and with smaller resolutions."""
    import dask.array as da

    array = open_level(journal.image, 0)
    names = plan.channel_names(image.names)
    result = xr.DataArray(
        da.from_array(array, chunks=cast("Any", array.chunks), name=False),
        dims=plan.dims,
        coords=label_channels(names, plan.dims),
        attrs={"pixel_size_um": dict(image.sizes), **image.notes},
    )
    if not needs_tiles(array.shape):
        write_tiff(result, request.target, request.compression)
        return
    add_levels(journal.image, lambda share: report(share / 2))
    levels = [array, *(open_level(journal.image, k) for k in range(1, count_levels(array.shape)))]
    write_levels(
        result,
        levels,
        request.target,
        lambda share: report(0.5 + share / 2),
        compression=request.compression,
    )
