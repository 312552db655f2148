"""The iterations of an image, computed once and kept, and the image at any dial between them.

Planes are computed when they are asked for; as many are kept as a share of the memory holds.
"""

from __future__ import annotations

__all__ = ["LARGEST_SIDE", "Cancelled", "Dialled", "Iterations", "make_cancellable"]

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch

from deepcontrast_bmz.dial.experiment import share_dials
from deepcontrast_bmz.dial.per_plane import choose_per_plane
from deepcontrast_bmz.dial.usable import find_padding
from deepcontrast_bmz.image import channel_names, check_pixels, pixel_size_um
from deepcontrast_bmz.image.blocks import Box, cut
from deepcontrast_bmz.model.loop import blend
from deepcontrast_bmz.model.units import Source
from deepcontrast_bmz.napari.planewise import Kept, Planewise, list_nearest
from deepcontrast_bmz.predict.blocks import block_grids, block_sides, run_box
from deepcontrast_bmz.predict.enhance import check_grey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import xarray as xr
    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.dial.automatic import DialChoice
    from deepcontrast_bmz.dial.experiment import PlaneChoices
    from deepcontrast_bmz.dial.table import DialTable
    from deepcontrast_bmz.model.model import Model

_SHARE = 0.4
"""Of the memory at hand, for iterations that are kept."""

LARGEST_SIDE = 1024
"""Of a block, in pixels: larger ones take long to be cancelled."""


class Cancelled(Exception):  # noqa: N818 - it is no error
    """The user cancelled, or closed the viewer."""


class _Interruptible:
    """A runner that stops before its next block.

    Parameters
    ----------
    runner : Runner
    cancelled : threading.Event
    """

    def __init__(self, runner: Any, cancelled: threading.Event) -> None:
        self.runner = runner
        self.cancelled = cancelled
        self.device: str = runner.device
        self.block: int = runner.block

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        """Return the iterations of a block."""
        if self.cancelled.is_set():
            raise Cancelled
        return self.runner(extended, iterations)


def make_cancellable(model: Model, cancelled: threading.Event) -> Model:
    """Return a model whose work ends with `Cancelled` at the next block once an event is set.

    Parameters
    ----------
    model : Model
    cancelled : threading.Event
    """
    return replace(model, runner=_Interruptible(model.runner, cancelled))


class Iterations:
    """The iterations of the planes of an image.

    Parameters
    ----------
    model : Model
    image : DataArray, dims a subset of (t, c, z, y, x)
        In memory, or a dask array of which planes are read when they are asked for.
    memory : float, optional
        Bytes of iterations that are kept; left out, a share of what is free now.

    Raises
    ------
    InputError
        If the image is RGB, its pixels cannot be computed with, or the model takes stacks and the
        image has no z axis.

    Attributes
    ----------
    planes : tuple of int
        Shape of the grid of planes.
    largest_dial : float
        Where the slider ends.
    dials : ndarray or None
        Automatic dial of every plane, once chosen.
    """

    def __init__(self, model: Model, image: xr.DataArray, memory: float | None = None) -> None:
        name = str(image.name or "the image")
        check_grey(image, name)
        if image.chunks is None:
            check_pixels(image, name, holes=True)
        self.model = model
        self.image = image
        dims = [str(dim) for dim in image.dims]
        self.source = Source(image.data, dims, model, name, find_padding=find_padding)
        self.count = model.description.iterations
        self.step = model.description.step_optical_depth
        self.planes = self.source.planes
        self.largest_dial = self.count * self.step
        self.dials: NDArray[np.float64] | None = None
        self.reason = ""
        self._chosen: PlaneChoices | None = None
        self._table: DialTable | None = None
        self._kept = Kept(_SHARE * psutil.virtual_memory().available if memory is None else memory)
        self._working = threading.Lock()

    # ---- pieces: planes, or slabs of a stack

    @property
    def _thick(self) -> int | None:
        """Planes of a slab; None for a model of planes."""
        return None if self.model.dims == 2 else self.model.planes

    def _piece(self, plane: tuple[int, ...]) -> tuple[int, ...]:
        """Return the piece that a plane is computed with."""
        return plane if self._thick is None else (*plane[:-1], plane[-1] // self._thick)

    def _bytes(self, piece: tuple[int, ...]) -> int:
        deep = 1 if self._thick is None else len(range(*self._slab(piece)))
        return 4 * (self.count + 1) * deep * int(np.prod(self.source.shape[-2:]))

    def _slab(self, piece: tuple[int, ...]) -> tuple[int, int]:
        """Return the first plane of a slab, and the one behind its last."""
        assert self._thick is not None
        first = piece[-1] * self._thick
        return first, min(first + self._thick, self.source.shape[0])

    def list_missing(self, first: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return planes to compute, one for every piece that is not there, the nearest first.

        Only as many as are kept at once.

        Parameters
        ----------
        first : tuple of int
            Where to begin.
        """
        near = list_nearest(self.planes, first)
        pieces: dict[tuple[int, ...], tuple[int, ...]] = {}
        for place in near:
            pieces.setdefault(self._piece(place), place)
        used, wanted = 0, list[tuple[int, ...]]()
        for piece, place in pieces.items():
            used += self._bytes(piece)
            if used > self._kept.memory and wanted:
                break
            wanted.append(place)
        return [place for place in wanted if not self.has(place)]

    def has(self, plane: tuple[int, ...]) -> bool:
        """Return whether a plane can be shown at once."""
        return self._kept.has(self._piece(plane))

    def compute(
        self, plane: tuple[int, ...], model: Model | None = None
    ) -> Iterator[tuple[int, int]]:
        """Compute the iterations of a plane (of a slab around it), and keep them.

        Parameters
        ----------
        plane : tuple of int
        model : Model, optional
            The same one made cancellable.

        Yields
        ------
        done, blocks : int
            After every block.
        """
        model = model or self.model
        if self.has(plane):
            return
        piece = self._piece(plane)
        lateral = tuple(min(side, LARGEST_SIDE) for side in block_sides(model)[-2:])
        boxes = cut(self.source.shape[-2:], lateral, block_grids(model)[-2:])
        place, deep = plane, list[tuple[int, int]]()
        if self._thick is not None:
            place, deep = plane[:-1], [self._slab(piece)]
        shape = (*(stop - start for start, stop in deep), *self.source.shape[-2:])
        found = np.empty((self.count + 1, *shape), np.float32)
        for done, lateral_box in enumerate(boxes, start=1):
            starts, stops = (a for a, _ in deep), (b for _, b in deep)
            box = Box((*starts, *lateral_box.starts), (*stops, *lateral_box.stops))
            inside = (..., *lateral_box.slices)
            # One block at a time, whichever thread asks.
            with self._working:
                found[0][inside] = self.source.read(place, box.slices)
                run = run_box(model, self.source, [place], [0.0], box, self.count)
            found[1:][inside] = run[0]
            yield done, len(boxes)
        self._kept.put(piece, found)

    # ---- the dial

    def choose(self, model: Model | None = None) -> None:
        """Choose the automatic dial of every plane from the image.

        Parameters
        ----------
        model : Model, optional
            The same one made cancellable.
        """
        model = model or self.model
        names, size = channel_names(self.image), pixel_size_um(self.image)
        self._chosen = choose_per_plane(model, self.source, size, names)
        ((self._table, self.reason),) = share_dials([self._chosen])
        dials = self._table.spread(self._chosen.dims, self.planes, self.source.name)
        self.dials = np.clip(np.reshape(dials, self.planes), 0, self.largest_dial)

    def choice_at(self, plane: tuple[int, ...]) -> DialChoice | None:
        """Return what was chosen for the nearest plane that was looked at; None before `choose`.

        Parameters
        ----------
        plane : tuple of int
        """
        if self._chosen is None:
            return None
        lines = self._chosen.lines
        near = [
            int(np.abs(np.array(line) - at).argmin()) for line, at in zip(lines, plane, strict=True)
        ]
        shape = tuple(len(line) for line in lines)
        return self._chosen.choices[int(np.ravel_multi_index(near, shape)) if near else 0]

    @property
    def warning(self) -> str | None:
        """What to say where planes are unlike those the model was trained for."""
        choices = () if self._chosen is None else self._chosen.choices
        warned = [choice.warning for choice in choices if choice.warning is not None]
        if not warned:
            return None
        planes = f"{len(warned)} of {len(choices)} planes: " if len(choices) > 1 else ""
        return f"{planes}{warned[0]}"

    def dial_at(self, plane: tuple[int, ...], dial: float | None) -> float:
        """Return a dial: the given one, or the automatic one of a plane for None."""
        if dial is not None:
            return dial
        return self.step if self.dials is None else float(self.dials[plane])

    def dial_words(self, dial: float | None) -> str:
        """Return a dial as `predict` takes it: a number, or all automatic ones for None."""
        if dial is None and self._table is not None:
            return self._table.text
        return f"{self.step if dial is None else dial:g}"

    def look(self, plane: tuple[int, ...], dial: float | None) -> NDArray[np.float32] | None:
        """Return a plane at a dial, (Y, X); None where its iterations are not there yet.

        Parameters
        ----------
        plane : tuple of int
        dial : float, optional
            None for the automatic one of this plane.
        """
        piece = self._piece(plane)
        found = self._kept.get(piece)
        if found is None:
            return None
        if self._thick is not None:
            found = found[:, plane[-1] - self._slab(piece)[0]]
        kept = torch.from_numpy(found)
        return blend(kept[0], kept[1:], self.dial_at(plane, dial), self.step).numpy()

    def get(
        self, plane: tuple[int, ...], dial: float | None, model: Model | None = None
    ) -> NDArray[np.float32]:
        """Return a plane at a dial, (Y, X), computed first where it is missing."""
        while (shown := self.look(plane, dial)) is None:
            for _ in self.compute(plane, model):
                pass
        return shown

    def enhanced(self, dial: float | None, model: Model | None = None) -> xr.DataArray:
        """Return the whole image at a dial as a dask array with the labels of the raw one.

        Parameters
        ----------
        dial : float, optional
            None for the automatic one of each plane.
        model : Model, optional
            The same one made cancellable.
        """
        import dask.array as da

        height, width = self.source.shape[-2:]

        def compute(block_id: tuple[int, ...]) -> NDArray[np.float32]:
            plane = block_id[:-2]
            return self.get(plane, dial, model).reshape((1,) * len(plane) + (height, width))

        chunks = (*((1,) * n for n in self.planes), (height,), (width,))
        empty = np.empty((0,) * len(chunks), np.float32)
        data = da.map_blocks(compute, chunks=chunks, dtype=np.float32, meta=empty)
        return self.image.copy(data=data)


class Dialled(Planewise):
    """An image at a dial that can be moved, read by slices as napari reads its layers.

    Parameters
    ----------
    iterations : Iterations
    dial : float, optional
        None for the automatic one of each plane.
    missing : callable, optional
        Told of the first plane that was asked for and is not there yet.
    """

    def __init__(
        self,
        iterations: Iterations,
        dial: float | None = None,
        missing: Callable[[tuple[int, ...]], None] | None = None,
    ) -> None:
        super().__init__(iterations.image.shape, iterations.planes, missing)
        self.iterations = iterations
        self.dial = dial

    def look(self, plane: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Return a plane at the dial; None where its iterations are not there yet."""
        return self.iterations.look(plane, self.dial)

    def get(self, plane: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a plane at the dial, computed first where it is missing."""
        return self.iterations.get(plane, self.dial)
