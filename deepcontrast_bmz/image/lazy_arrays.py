"""Arrays whose pixels stay in a file until they are needed.

A reader of a format hands out an object with shape, dtype and ``[...]``; whatever is asked for is
read then, and nothing is kept. Every file is opened anew or belongs to one process, so that many
threads, processes and machines can read one image at once.
"""

from __future__ import annotations

__all__ = [
    "Arranged",
    "ArrayPixels",
    "Converted",
    "MappedPixels",
    "Pixels",
    "Stacked",
    "ZarrPixels",
]

import math
import operator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deepcontrast_bmz.image.reader import explain_failures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

Part = tuple["slice | int", ...]


class Pixels(Protocol):
    """What can be read in parts."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along each axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""
        ...

    @property
    def chunks(self) -> tuple[int, ...]:
        """Sides of the parts that are best read at once."""
        ...

    def __getitem__(self, part: Part) -> np.ndarray:
        """Read a part: a slice or an index for every axis."""
        ...


class MappedPixels:
    """An uncompressed array inside a file.

    Parameters
    ----------
    path : Path
    dtype : dtype
        With its byte order.
    offset : int
        Where it begins, in bytes.
    shape : tuple of int
    """

    def __init__(
        self, path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]
    ) -> None:
        self.path = path
        self.dtype = dtype
        self.offset = offset
        self.shape = shape
        self.chunks = (1,) * (len(shape) - 2) + shape[-2:]

    def __getitem__(self, part: Part) -> np.ndarray:
        """Read a part; the file is mapped for that long only, as pages stay resident."""
        with explain_failures(self.path, "image"):
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
            return np.array(mapped[part])


class ZarrPixels:
    """An array of the zarr library, whatever lies behind it.

    Parameters
    ----------
    array : zarr.Array
    path : Path
        Named in messages.
    kind : str
        What to call the format.
    """

    def __init__(self, array: Any, path: Path, kind: str) -> None:
        self.array = array
        self.path = path
        self.kind = kind
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype = np.dtype(array.dtype)
        # Chunks of a shard are read one by one.
        self.chunks: tuple[int, ...] = tuple(array.chunks)

    def __getitem__(self, part: Part) -> np.ndarray:
        """Read a part."""
        with explain_failures(self.path, self.kind):
            return np.asarray(self.array[part])


class Converted:
    """Pixels whose stored numbers stand for other values.

    Parameters
    ----------
    pixels : Pixels
    convert : callable
        Takes an array of stored numbers to one of values, pixel by pixel.
    dtype : dtype
        Of the values.
    """

    def __init__(
        self, pixels: Pixels, convert: Callable[[np.ndarray], np.ndarray], dtype: np.dtype[Any]
    ) -> None:
        self.pixels = pixels
        self.convert = convert
        self.shape = pixels.shape
        self.dtype = dtype
        self.chunks = pixels.chunks

    def __getitem__(self, part: Part) -> np.ndarray:
        """Read a part."""
        return self.convert(self.pixels[part])


class Stacked:
    """Images of one shape in files of their own, as one array.

    Parameters
    ----------
    read : callable
        Takes the number of a file, and the part of its plane, to pixels.
    leading : tuple of int
        Shape of the grid of files, the last axis fastest.
    plane : tuple of int
        Shape of what is in a file.
    dtype : dtype
    """

    def __init__(
        self,
        read: Callable[[int, Part], np.ndarray],
        leading: tuple[int, ...],
        plane: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.read = read
        self.leading = leading
        self.dtype = dtype
        self.shape = (*leading, *plane)
        self.chunks = (1,) * len(leading) + plane

    def __getitem__(self, part: Part) -> np.ndarray:
        """Read a part, file by file."""
        count = len(self.leading)
        picks = [
            range(n)[p] if isinstance(p, slice) else range(p, p + 1)
            for p, n in zip(part[:count], self.leading, strict=True)
        ]
        numbers = np.arange(math.prod(self.leading)).reshape(self.leading)
        wanted = numbers[np.ix_(*picks)] if count else numbers
        found = [self.read(int(number), part[count:]) for number in wanted.ravel()]
        stack = np.stack(found).reshape((*wanted.shape, *found[0].shape))
        dropped = tuple(i for i, p in enumerate(part[:count]) if not isinstance(p, slice))
        return stack.squeeze(dropped)


class Arranged:
    """Pixels with axes picked, shortened and put in another order, in native byte order.

    Parameters
    ----------
    pixels : Pixels
    axes : sequence of int or None
        For every axis of this, which one of `pixels` it is; None is a new one of length one.
    fixed : mapping of int to int
        Index along each axis of `pixels` that does not appear.
    lengths : mapping of int to int
        Of axes of `pixels` that are read only from their start up to here.
    """

    def __init__(
        self,
        pixels: Pixels,
        axes: Sequence[int | None],
        fixed: Mapping[int, int] | None = None,
        lengths: Mapping[int, int] | None = None,
    ) -> None:
        self.pixels = pixels
        self.axes = tuple(axes)
        self.fixed = fixed or {}
        self.dtype = pixels.dtype.newbyteorder("=")
        whole = {**dict(enumerate(pixels.shape)), **(lengths or {})}
        self.shape = tuple(1 if axis is None else whole[axis] for axis in self.axes)
        self.chunks = tuple(1 if axis is None else pixels.chunks[axis] for axis in self.axes)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)

    def __getitem__(self, part: Any) -> np.ndarray:
        """Read a part: slices and indices, or an ellipsis for the rest."""
        given: tuple[Any, ...] = part if isinstance(part, tuple) else (part,)
        if Ellipsis in given:
            at = given.index(Ellipsis)
            rest = (slice(None),) * (self.ndim - len(given) + 1)
            given = (*given[:at], *rest, *given[at + 1 :])
        given = (*given, *(slice(None),) * (self.ndim - len(given)))
        given = tuple(
            slice(*g.indices(n)) if isinstance(g, slice) else range(n)[operator.index(g)]
            for g, n in zip(given, self.shape, strict=True)
        )
        below: list[slice | int] = [self.fixed.get(i, 0) for i in range(len(self.pixels.shape))]
        for axis, wanted in zip(self.axes, given, strict=True):
            if axis is not None:
                below[axis] = slice(wanted, wanted + 1) if isinstance(wanted, int) else wanted
        read = np.asarray(self.pixels[tuple(below)])
        kept = [i for i in range(len(below)) if isinstance(below[i], slice)]
        # In the order of this, the new axes where they belong, then single indices dropped.
        read = read.transpose([kept.index(axis) for axis in self.axes if axis is not None])
        read = np.expand_dims(read, [i for i, axis in enumerate(self.axes) if axis is None])
        index = tuple(
            (0 if axis is not None else wanted)
            if isinstance(wanted, int)
            else (slice(None) if axis is not None else wanted)
            for axis, wanted in zip(self.axes, given, strict=True)
        )
        return np.ascontiguousarray(read[index], dtype=self.dtype)


class ArrayPixels:
    """An array of numpy or dask.

    Parameters
    ----------
    array : ndarray or dask array
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape: tuple[int, ...] = tuple(int(n) for n in array.shape)
        self.dtype = np.dtype(array.dtype)
        sides = getattr(array, "chunks", None)
        plane = (1,) * (len(self.shape) - 2) + self.shape[-2:]
        self.chunks: tuple[int, ...] = plane if sides is None else tuple(s[0] for s in sides)

    def __getitem__(self, part: Part) -> np.ndarray:
        """Read a part."""
        return np.asarray(self.array[part])
