"""Planes that come one by one, kept as far as memory goes, and read by slices as an array."""

from __future__ import annotations

__all__ = ["Kept", "Planewise", "list_nearest"]

import itertools
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


def list_nearest(planes: tuple[int, ...], first: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return all planes of a grid, the nearest to one first.

    Parameters
    ----------
    planes : tuple of int
        Shape of the grid.
    first : tuple of int
    """
    return sorted(
        np.ndindex(*planes),
        key=lambda place: sum(abs(a - b) for a, b in zip(place, first, strict=True)),
    )


class Kept:
    """Arrays by place, of which those looked at longest ago go when memory ends.

    Parameters
    ----------
    memory : float
        Bytes; one array is kept in any case.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._arrays: OrderedDict[tuple[int, ...], NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, place: tuple[int, ...]) -> bool:
        """Return whether something is kept there."""
        with self._lock:
            return place in self._arrays

    def get(self, place: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Return what is kept there; None if nothing."""
        with self._lock:
            found = self._arrays.get(place)
            if found is not None:
                self._arrays.move_to_end(place)
            return found

    def put(self, place: tuple[int, ...], array: NDArray[np.float32]) -> None:
        """Keep an array, in the place of old ones where there is no room."""
        with self._lock:
            self._arrays[place] = array
            used = sum(one.nbytes for one in self._arrays.values())
            while used > self.memory and len(self._arrays) > 1:
                _, dropped = self._arrays.popitem(last=False)
                used -= dropped.nbytes


class Planewise(ABC):
    """An array of planes that are computed elsewhere.

    What is not computed yet is NaN, which napari leaves transparent; as a whole (``np.asarray``)
    everything is computed.

    Parameters
    ----------
    shape : sequence of int
        Ends in rows and columns.
    planes : tuple of int
        Its grid of planes.
    missing : callable, optional
        Told of the first plane that was asked for and is not there yet.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        shape: Sequence[int],
        planes: tuple[int, ...],
        missing: Callable[[tuple[int, ...]], None] | None,
    ) -> None:
        self.shape: tuple[int, ...] = tuple(shape)
        self.planes = planes
        self.missing = missing
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))

    @abstractmethod
    def look(self, plane: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Return a plane, (Y, X); None where it is not there yet."""

    @abstractmethod
    def get(self, plane: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a plane, (Y, X), computed first where it is missing."""

    def __len__(self) -> int:
        """Return the length of the first axis."""
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Return a part; NaN where the iterations are not there yet."""
        keys = _expand(key, self.ndim)
        lines = [
            np.arange(n)[k] if isinstance(k, slice) else np.array([int(k)])
            for k, n in zip(keys[:-2], self.shape[:-2], strict=True)
        ]
        rows, columns = keys[-2:]
        blank = np.empty(self.shape[-2:], np.float32)[rows, columns]
        part = np.full((*(len(line) for line in lines), *blank.shape), np.nan, np.float32)
        lost: tuple[int, ...] | None = None
        for at, place in zip(
            np.ndindex(*part.shape[: len(lines)]), itertools.product(*lines), strict=True
        ):
            plane = tuple(int(i) % n for i, n in zip(place, self.planes, strict=True))
            shown = self.look(plane)
            if shown is not None:
                part[at] = shown[rows, columns]
            elif lost is None:
                lost = plane
        if lost is not None and self.missing is not None:
            self.missing(lost)
        single = tuple(0 if not isinstance(k, slice) else slice(None) for k in keys[:-2])
        return part[single]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return everything, computed where it is not there yet."""
        whole = np.empty(self.shape, np.float32)
        for plane in np.ndindex(*self.planes):
            whole[plane] = self.get(plane)
        return whole.astype(dtype or self.dtype, copy=False)


def _expand(key: Any, ndim: int) -> Sequence[Any]:
    """Return an index or slice for every axis."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (ndim - len(keys) + 1)
    return [*keys, *[slice(None)] * (ndim - len(keys))]
