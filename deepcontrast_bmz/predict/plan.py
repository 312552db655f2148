"""Plans how an image is enhanced: dial per plane, blocks, and where each goes in the result."""

from __future__ import annotations

__all__ = ["Block", "Plan", "plan_image"]

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deepcontrast_bmz.dial.experiment import share_dials
from deepcontrast_bmz.dial.per_plane import choose_per_plane, warn_if_unusual
from deepcontrast_bmz.dial.request import count_iterations
from deepcontrast_bmz.image.blocks import Box, cut, measure_piece
from deepcontrast_bmz.predict.blocks import block_grids, run_box
from deepcontrast_bmz.records import CHANNEL_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from deepcontrast_bmz.dial.request import DialRequest
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.model.units import Source


@dataclass(frozen=True)
class Block:
    """Part of a plane or stack that is enhanced at once."""

    place: tuple[int, ...]
    """Index of the plane or stack."""
    box: Box
    """The part of it."""
    dials: tuple[float, ...]
    """Optical depth to remove: one, or one for every plane of the part of a stack."""


@dataclass(frozen=True)
class Plan:
    """How an image is enhanced, made once: whoever computes a block looks here."""

    model: Model
    source: Source
    dials: tuple[float, ...]
    """Optical depth to remove from each plane, planes in the order of the leading dims."""
    dial: str
    """The same in the form that was, or can be, asked for."""
    reason: str
    """Where the dials come from, in one sentence."""
    sides: tuple[int, ...]
    """Largest sides of the blocks, along (z,) y, x."""
    count: int | None
    """Iterations that are returned as channels; None for one image."""

    # ---- on record

    @property
    def notes(self) -> dict[str, Any]:
        """What was decided, as plain values: with these, others have the same plan."""
        return {
            "dials": self.dials,
            "dial": self.dial,
            "reason": self.reason,
            "sides": self.sides,
        }

    @classmethod
    def restore(
        cls, model: Model, source: Source, notes: Mapping[str, Any], count: int | None
    ) -> Plan:
        """Return the plan that `notes` were taken of."""
        return cls(
            model=model,
            source=source,
            dials=tuple(float(dial) for dial in notes["dials"]),
            dial=str(notes["dial"]),
            reason=str(notes["reason"]),
            sides=tuple(int(side) for side in notes["sides"]),
            count=count,
        )

    # ---- the result

    @property
    def channels(self) -> int:
        """How many channels the image has."""
        if "c" not in self.source.dims:
            return 1
        return int(self.source.pixels.shape[self.source.dims.index("c")])

    @property
    def dims(self) -> tuple[str, ...]:
        """Axes of the result: those of the image, with channels where iterations become such."""
        if self.count is None:
            return self.source.dims
        before = [dim for dim in self.source.dims if dim == "t"]
        after = [dim for dim in self.source.dims if dim not in ("t", "c")]
        return (*before, "c", *after)

    @cached_property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Lengths of the blocks along each axis of the result."""
        lengths = dict(zip(self.source.dims, self.source.pixels.shape, strict=True))
        found = {dim: (1,) * int(length) for dim, length in lengths.items()}
        if self.count is not None:
            found["c"] = (self.count,) * self.channels
        for dim, length, step in zip(self._unit_dims, self.source.shape, self._steps, strict=True):
            found[dim] = tuple(min(step, length - a) for a in range(0, length, step))
        return tuple(found[dim] for dim in self.dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return tuple(sum(lengths) for lengths in self.chunks)

    @property
    def block_shape(self) -> tuple[int, ...]:
        """Shape of all blocks but the last along each axis of the result, one iteration a block."""
        steps = dict(zip(self._unit_dims, self._steps, strict=True))
        return tuple(steps.get(dim, 1) for dim in self.dims)

    def channel_names(self, names: Sequence[str] | None) -> tuple[str, ...] | None:
        """Return the names of the result's channels, given those of the image."""
        if self.count is None:
            return None if names is None else tuple(names)
        steps = tuple(f"{CHANNEL_PREFIX}{k}" for k in range(1, self.count + 1))
        if "c" not in self.source.dims:
            return steps
        own = names or tuple(f"channel_{i}" for i in range(self.channels))
        return tuple(f"{name} {step}" for name in own for step in steps)

    def first_channel(self, block: Block) -> int:
        """Return the first channel of the result that a block belongs to."""
        channel = dict(zip(self.source.dims, block.place, strict=False)).get("c", 0)
        return channel if self.count is None else channel * self.count

    def index(self, block: Block) -> tuple[int | slice, ...]:
        """Return where a block lies in the result."""
        if self.count is None:
            return (*block.place, *block.box.slices)
        at = dict(zip(self.source.dims, block.place, strict=False))
        first = self.first_channel(block)
        before = (at["t"],) if "t" in at else ()
        after = (at["z"],) if "z" in at else ()
        return (*before, slice(first, first + self.count), *after, *block.box.slices)

    def put(self, result: Any, block: Block, values: NDArray[np.float32]) -> None:
        """Write the values of a block, (C, *box), into an array of the result's shape."""
        result[self.index(block)] = values[0] if self.count is None else values

    # ---- the blocks

    @property
    def _unit_dims(self) -> tuple[str, ...]:
        return self.source.dims[-self.model.dims :]

    @cached_property
    def _steps(self) -> tuple[int, ...]:
        """Lengths of all blocks but the last, along (z,) y, x."""
        lines = zip(self.source.shape, self.sides, block_grids(self.model), strict=True)
        return tuple(measure_piece(length, side, grid) for length, side, grid in lines)

    @cached_property
    def _places(self) -> list[tuple[int, ...]]:
        return self.source.places

    @cached_property
    def _boxes(self) -> list[Box]:
        return cut(self.source.shape, self.sides, block_grids(self.model))

    @cached_property
    def _planes(self) -> NDArray[np.float64]:
        return np.array(self.dials, np.float64).reshape(self.source.planes)

    def _dials_at(self, place: tuple[int, ...]) -> tuple[float, ...]:
        return tuple(float(dial) for dial in np.atleast_1d(self._planes[place]))

    def _block(self, place: tuple[int, ...], box: Box) -> Block:
        dials = self._dials_at(place)
        return Block(place, box, dials[box.slices[0]] if self.model.dims == 3 else dials)

    @property
    def block_count(self) -> int:
        """How many blocks there are."""
        return len(self._places) * len(self._boxes)

    def block(self, number: int) -> Block:
        """Return a block by its number; those of one plane or stack follow one another."""
        place, box = divmod(number, len(self._boxes))
        return self._block(self._places[place], self._boxes[box])

    def block_at(self, chunk: Sequence[int]) -> Block:
        """Return a block by its number along each axis of the result."""
        at = dict(zip(self.dims, chunk, strict=True))
        place = tuple(at[dim] for dim in self.source.dims[: len(self.source.leading)])
        starts = tuple(
            at[dim] * step for dim, step in zip(self._unit_dims, self._steps, strict=True)
        )
        lines = zip(starts, self._steps, self.source.shape, strict=True)
        return self._block(place, Box(starts, tuple(min(a + step, n) for a, step, n in lines)))

    def batches(self) -> Iterator[list[Block]]:
        """Yield all blocks, those together that are run together: same box, same dials."""
        for dials, group in itertools.groupby(self._places, key=self._dials_at):
            members = list(group)
            size = self._batch_size(dials)
            for first in range(0, len(members), size):
                for box in self._boxes:
                    yield [self._block(place, box) for place in members[first : first + size]]

    def _batch_size(self, dials: Sequence[float]) -> int:
        """Return how many units go through together: as many as make up one block."""
        description = self.model.description
        most = (
            self.count
            if self.count is not None
            else max(count_iterations(d, description) for d in dials)
        )
        margins = [most * radius for radius in self.model.radii]
        full = [n + 2 * m for n, m in zip(self.sides, margins, strict=True)]
        own = [n + 2 * m for n, m in zip(self.source.shape, margins, strict=True)]
        return max(1, int(np.prod(full, dtype=float) // np.prod(own, dtype=float)))

    def run(
        self, blocks: Sequence[Block], turn: AbstractContextManager[Any] | None = None
    ) -> NDArray[np.float32]:
        """Enhance blocks of one box and the same dials: (B, C, *box).

        Parameters
        ----------
        blocks : sequence of Block
        turn : context manager, optional
            Entered while the model runs, for threads that share it.
        """
        first = blocks[0]
        places = [block.place for block in blocks]
        return run_box(
            self.model, self.source, places, first.dials, first.box, self.count, turn=turn
        )


def plan_image(
    source: Source,
    model: Model,
    wanted: DialRequest,
    sides: tuple[int, ...],
    pixel_size_um: float | None,
    *,
    names: tuple[str, ...] | None = None,
    look: bool = True,
) -> Plan:
    """Decide the dial of every plane of an image, and how the image is cut.

    Parameters
    ----------
    source : Source
        The image.
    model : Model
    wanted : DialRequest
        The dial that was asked for.
    sides : tuple of int
        Largest sides of the blocks, of `block_sides`.
    pixel_size_um : float or None
        Of the image, within the plane.
    names : tuple of str, optional
        Of its channels.
    look : bool
        Warn of an image unlike those the model was trained for, where its dial was asked for;
        this reads pixels.

    Returns
    -------
    Plan
    """
    if wanted.table is None:
        ((table, reason),) = share_dials([choose_per_plane(model, source, pixel_size_um, names)])
    else:
        table, reason = wanted.table, wanted.reason
        if look and not wanted.chosen:
            # Logs what it finds.
            _ = warn_if_unusual(model, source)
    dials = table.spread(source.dims[:-2], source.planes, source.name)
    return Plan(model, source, dials, table.text, reason, sides, wanted.count)
