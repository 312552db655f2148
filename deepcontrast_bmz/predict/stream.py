"""An image file through a model into an output, block by block, whatever its size.

The work is planned once: which dial every plane gets, how the image is cut, which chunks the
output has. Then every block is read from the input with its real neighbours, enhanced and written
where no other block writes, by whoever has time; the journal notes it. Smaller resolutions and
the final format come last. Memory is bounded by the blocks under way.
"""

from __future__ import annotations

__all__ = ["Request", "stream_image"]

import errno
import hashlib
import json
import logging
import threading
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from deepcontrast_bmz import __version__
from deepcontrast_bmz.dial.per_plane import choose_dials, warn_if_unusual
from deepcontrast_bmz.errors import InputError, Unfinished
from deepcontrast_bmz.image import open_image, pixel_size_um, read_image, take_place
from deepcontrast_bmz.image.blocks import cut, piece
from deepcontrast_bmz.image.pyramid import level_count
from deepcontrast_bmz.image.tiff_write import check_tiff, in_tiles, write_levels, write_tiff
from deepcontrast_bmz.image.zarr_write import (
    add_levels,
    check_zarr,
    create_zarr,
    describe_zarr,
    flush_part,
    level_of,
)
from deepcontrast_bmz.model.model import Origin
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.model.units import Source
from deepcontrast_bmz.predict.cluster import map_unordered
from deepcontrast_bmz.predict.enhance import (
    Enhanced,
    block_grids,
    block_sides,
    check_grey,
    labels_of,
    run_box,
)
from deepcontrast_bmz.predict.resume import Journal, identity

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from deepcontrast_bmz.dial.per_plane import Wanted
    from deepcontrast_bmz.image import OpenImage
    from deepcontrast_bmz.image.blocks import Box
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.predict.cluster import Workers

logger = logging.getLogger(__name__)

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
    wanted: Wanted
    channel: str | int | None = None
    """Only this channel."""
    block: int | None = None
    """Largest lateral side of a block; chosen if left out."""
    sharded: bool = False
    """Many chunks to a file, in a .zarr."""
    resume: bool = False
    """Go on with unfinished work."""


@dataclass(frozen=True)
class _Job:
    """All that a worker needs to know; it opens the rest itself, once."""

    key: str
    model: Origin | Model
    path: Path
    channel: str | int | None
    image: Path
    dials: tuple[float, ...]
    sides: tuple[int, ...]
    count: int | None


class _Opened:
    """A job with its model, its input and its output open."""

    def __init__(self, job: _Job, model: Model, image: OpenImage) -> None:
        self.model = model
        self.source = Source(image.pixels, image.dims, model, image.path.name)
        self.count = job.count
        self.image = job.image
        self.array = level_of(job.image, 0)
        planes = np.array(job.dials, np.float64).reshape(self.source.planes)
        self.places = self.source.places
        self.dials = planes
        self.boxes = cut(self.source.shape, job.sides, block_grids(model))
        self.turn: AbstractContextManager[Any] = nullcontext()

    @property
    def total(self) -> int:
        """How many blocks there are."""
        return len(self.places) * len(self.boxes)

    def run(self, number: int) -> list[tuple[int, float, float]]:
        """Enhance and write a block; return the grey values of each channel it touches."""
        place = self.places[number // len(self.boxes)]
        box = self.boxes[number % len(self.boxes)]
        dials = tuple(float(dial) for dial in np.atleast_1d(self.dials[place]))
        if self.model.dims == 3:
            dials = dials[box.slices[0]]
        try:
            found = run_box(
                self.model, self.source, [place], dials, box, self.count, turn=self.turn
            )[0]
        except InputError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _NO_FAULT_OF_THE_FILE:
                raise Unfinished(
                    f"'{self.source.name}' could not be read on ({cause.strerror}): go on with "
                    "--resume when it can"
                ) from error
            raise
        first, index = self._index(place, box)
        try:
            self.array[index] = found if self.count is not None else found[0]
            # Before it is noted as done: a power cut keeps the note, and may lose what is not.
            flush_part(self.image, self.array, index)
        except OSError as error:
            raise Unfinished(
                f"the output could not be written on ({error.strerror or error}): make room or "
                "mend what is wrong, and go on with --resume"
            ) from error
        return [
            (first + i, float(values.min()), float(values.max())) for i, values in enumerate(found)
        ]

    def _index(self, place: tuple[int, ...], box: Box) -> tuple[int, tuple[int | slice, ...]]:
        """Return the first channel that a block touches, and its index in the output."""
        at = dict(zip(self.source.dims, place, strict=False))
        channel = at.get("c", 0)
        if self.count is None:
            return channel, (*place, *box.slices)
        first = channel * self.count
        before = (at["t"],) if "t" in at else ()
        after = (at["z"],) if "z" in at else ()
        return first, (*before, slice(first, first + self.count), *after, *box.slices)


_opened: dict[str, _Opened] = {}
_opening = threading.Lock()


def _run_block(job: _Job, number: int) -> list[tuple[int, float, float]]:
    """Do a block in whatever process this is; model and files are opened once."""
    with _opening:
        if job.key not in _opened:
            model = job.model
            if isinstance(model, Origin):
                model = next((o.model for o in _opened.values() if o.model.origin == model), None)
                if model is None:
                    assert isinstance(job.model, Origin)
                    options: dict[str, Any] = dict(job.model.options)
                    model = open_model(job.model.name, **options)
            _opened.clear()
            _opened[job.key] = _Opened(job, model, open_image(job.path).channel(job.channel))
        opened = _opened[job.key]
    return opened.run(number)


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
        If the input cannot be used, or there is unfinished work that cannot be gone on with.
    Unfinished
        If the work could not be brought to its end; what is done is kept.
    """
    source_image = open_image(request.path).channel(request.channel)
    labels = source_image.labelled()
    check_grey(labels, request.path.name)
    source = Source(source_image.pixels, source_image.dims, model, request.path.name)
    zarr = request.target.name.lower().endswith(".zarr")
    if zarr:
        check_zarr(request.target)
    else:
        check_tiff(request.target, np.dtype(np.float32))
    asked_sides = block_sides(model, request.block)
    journal = Journal(request.target)

    def settle() -> dict[str, Any]:
        if request.wanted.dial is None:
            dials, reason = choose_dials(model, source, pixel_size_um(labels))
        else:
            dials = (request.wanted.dial,) * int(np.prod(source.planes, dtype=int))
            reason = request.wanted.reason
            warn_if_unusual(model, source)
        return {"dials": dials, "reason": reason, "sides": asked_sides}

    try:
        journal.begin(_asked(model, request, source_image), settle, resume=request.resume)
        plan = journal.plan
        dials = tuple(float(dial) for dial in plan["dials"])
        if not journal.is_finished:
            job = _Job(
                key=uuid.uuid4().hex,
                model=model.origin or model,
                path=request.path.absolute(),
                channel=request.channel,
                image=journal.image.absolute(),
                dials=dials,
                sides=tuple(int(side) for side in plan["sides"]),
                count=request.wanted.count,
            )
            _fill(model, job, source_image, journal, request, workers, progress)
            try:
                _finish(journal, request, source_image, progress)
            except InputError as error:
                if isinstance(error.__cause__, OSError):
                    raise Unfinished(str(error)) from error
                raise
        journal.tidy()
    except (InputError, Unfinished) as error:
        kept = bool(journal.done)
        journal.close() if kept or not journal.mine else journal.remove()
        if kept and "--resume" not in str(error):
            raise type(error)(f"{error}; what is done is kept for --resume") from error
        raise
    except OSError as error:
        journal.close()
        raise Unfinished(
            f"the output '{request.target}' could not be finished ({error.strerror or error}): "
            "make room or mend what is wrong, and go on with --resume"
        ) from error
    finally:
        journal.close()
    if progress is not None:
        progress(1.0)
    return Enhanced(read_image(request.target), dials, str(plan["reason"]))


def _asked(model: Model, request: Request, image: OpenImage) -> dict[str, Any]:
    """Return what makes two pieces of work the same, by names that a user knows."""
    wanted = request.wanted
    return {
        "the program's version": __version__,
        "the model": _model_digest(model),
        "the device": model.device,
        "the input": identity(request.path) | {"shape": image.shape},
        "the channel": request.channel,
        "the dial": [wanted.dial, wanted.count],
        "the block": request.block,
        "the sharding": request.sharded,
    }


def _model_digest(model: Model) -> str:
    """Return what tells a model from others: of its files, or of its description."""
    digest = hashlib.sha256(model.weights_format.encode())
    digest.update(json.dumps(model.description.model_dump(mode="json"), sort_keys=True).encode())
    digest.update(model.sha256.encode())
    return digest.hexdigest()


def _fill(
    model: Model,
    job: _Job,
    image: OpenImage,
    journal: Journal,
    request: Request,
    workers: Workers,
    progress: Callable[[float], None] | None,
) -> None:
    """Do all blocks that are not done yet."""
    grids = block_grids(model)
    source = Source(image.pixels, image.dims, model, request.path.name)
    if not journal.exists:
        dims, _ = labels_of(image.dims, image.names, _channels(image), job.count)
        lengths = dict(zip(image.dims, image.shape, strict=True))
        if job.count is not None:
            lengths["c"] = lengths.get("c", 1) * job.count
        pieces = dict.fromkeys(dims, 1)
        spatial = image.dims[-model.dims :]
        for dim, n, side, grid in zip(spatial, source.shape, job.sides, grids, strict=True):
            pieces[dim] = piece(n, side, grid)
        create_zarr(
            journal.image,
            [lengths[dim] for dim in dims],
            np.dtype(np.float32),
            [pieces[dim] for dim in dims],
            sharded=request.sharded,
        )
        journal.settle()
    opened = _Opened(job, model, image)
    left = [number for number in range(opened.total) if number not in journal.done]
    if workers.remote:
        function = partial(_run_block, job)
    else:
        opened.turn = threading.Lock()
        function = opened.run
    for number, ranges in map_unordered(workers, function, left):
        journal.add(number, *ranges)
        if progress is not None:
            progress((1 - _LAST_SHARE) * len(journal.done) / opened.total)


def _finish(
    journal: Journal,
    request: Request,
    image: OpenImage,
    progress: Callable[[float], None] | None,
) -> None:
    """Make the output of the filled image, and give it its name."""
    count = request.wanted.count
    dims, names = labels_of(image.dims, image.names, _channels(image), count)
    zarr = request.target.name.lower().endswith(".zarr")

    def last(share: float) -> None:
        if progress is not None:
            progress(1 - _LAST_SHARE * (1 - share))

    array = level_of(journal.image, 0)
    tiled = in_tiles(array.shape)
    if zarr or tiled:
        add_levels(journal.image, lambda share: last(share / 2))
    if zarr:
        ranges: dict[int, tuple[float, float]] = {}
        for notes in journal.done.values():
            for channel, low, high in notes:
                before = ranges.get(channel, (low, high))
                ranges[channel] = (min(low, before[0]), max(high, before[1]))
        describe_zarr(journal.image, dims, image.sizes, names, ranges, request.target.name)
        take_place(journal.image, Path(request.target))
        journal.mark_finished()
        return
    import dask.array as da

    result = xr.DataArray(
        da.from_array(array, chunks=cast("Any", array.chunks), name=False),
        dims=dims,
        coords={} if names is None else {"c": list(names)},
        attrs={"pixel_size_um": dict(image.sizes), **image.notes},
    )
    if tiled:
        levels = [array, *(level_of(journal.image, k) for k in range(1, level_count(array.shape)))]
        write_levels(result, levels, request.target, lambda share: last(0.5 + share / 2))
    else:
        write_tiff(result, request.target)
    journal.mark_finished()


def _channels(image: OpenImage) -> int:
    return image.shape[image.dims.index("c")] if "c" in image.dims else 1
