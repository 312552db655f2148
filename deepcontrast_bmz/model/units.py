"""An image as a model takes it: units, planes or stacks, of which parts are read.

Pixels that are no numbers, that lie outside the field or under a mask are no part of the picture:
a model sees them filled from what is around them, and they come out as they went in.
"""

from __future__ import annotations

__all__ = ["Kept", "Source"]

import math
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.blocks import Box, read_box
from deepcontrast_bmz.image.labels import as_float32
from deepcontrast_bmz.image.masks import fill_by_mirroring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.image.masks import FieldMask
    from deepcontrast_bmz.model.model import Model

    Padding = Callable[[NDArray[Any]], NDArray[np.bool_] | None]

_LARGE_PLANE = 2**24
"""Pixels: larger planes are not searched for padding, since they are never read as a whole."""

_KEPT_PLANES = 128
"""Of how many planes the padding is kept: blocks of a stack come back to them."""


class _Parts(Protocol):
    """Pixels in memory, or read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, part: Any) -> Any: ...


class Source:
    """Units of an image: its planes, or its stacks for a model that takes three axes.

    Parameters
    ----------
    pixels : array, dask array or what ``open_image`` reads
        Read by slices and indices along `dims`.
    dims : sequence of str
        A subset of (t, c, z, y, x), in that order.
    model : Model
        Says how many axes a unit has.
    name : str
        Of the image, for messages.
    mask : FieldMask, optional
        Pixels that are part of the picture; all of them if left out.
    find_padding : callable, optional
        Returns which pixels of a plane, (Y, X), somebody laid round the field, None for none.

    Raises
    ------
    InputError
        If the model takes stacks and the image has no z axis.

    Attributes
    ----------
    leading : tuple of int
        Shape of the grid of units.
    shape : tuple of int
        Of a unit: (Y, X) or (Z, Y, X).
    planes : tuple of int
        Shape of the grid of planes, (..., Z) where the image has a z axis.
    """

    def __init__(
        self,
        pixels: _Parts,
        dims: Sequence[str],
        model: Model,
        name: str,
        *,
        mask: FieldMask | None = None,
        find_padding: Padding | None = None,
    ) -> None:
        if mask is not None:
            mask.check(dims, pixels.shape, name)
        self.mask = mask
        self._find_padding = find_padding
        self._padding: dict[tuple[int, ...], NDArray[np.bool_] | None] = {}
        self._turn = threading.Lock()
        self.pixels = pixels
        self.dims = tuple(dims)
        self.name = name
        spatial = model.dims
        if spatial == 3 and "z" not in self.dims:
            raise InputError(
                f"{model.name} enhances stacks, but '{name}' has no z axis: give a z-stack, or a "
                "model for planes"
            )
        shape = tuple(int(n) for n in pixels.shape)
        self.spatial = spatial
        self.leading = shape[:-spatial]
        self.shape = shape[-spatial:]
        self.planes = shape[:-2]

    @property
    def places(self) -> list[tuple[int, ...]]:
        """Index of every unit, the last axis fastest."""
        return list(np.ndindex(*self.leading))

    def read(self, place: tuple[int, ...], part: tuple[slice, ...]) -> NDArray[np.float32]:
        """Return a part of a unit; what is no part of the picture may be anything, also NaN."""
        pixels = np.asarray(self.pixels[(*place, *part)])
        if pixels.dtype.kind == "f":
            known = np.isfinite(pixels)
            if not known.all():
                _ = as_float32(np.where(known, pixels, 0), self.name)
                with np.errstate(over="ignore"):
                    return np.ascontiguousarray(pixels, dtype=np.float32)
        return as_float32(pixels, self.name)

    def find_used(
        self, place: tuple[int, ...], part: tuple[slice, ...]
    ) -> NDArray[np.bool_] | None:
        """Return which pixels of a part of a unit belong to the picture; None for all of them."""
        pixels = self.read(place, part)
        used = (
            self._find_used(place, part, pixels) if self._has_holes(place, part, pixels) else None
        )
        return None if used is None or bool(used.all()) else used

    def read_filled(self, place: tuple[int, ...], part: tuple[slice, ...]) -> NDArray[np.float32]:
        """Return a part of a unit whose holes continue what is around them in that part."""
        pixels = self.read(place, part)
        used = self.find_used(place, part)
        return pixels if used is None else fill_by_mirroring(pixels, used, (1.0,) * pixels.ndim)

    def _has_holes(
        self, place: tuple[int, ...], part: tuple[slice, ...], pixels: NDArray[np.float32]
    ) -> bool:
        """Say whether there may be pixels that are no part of the picture."""
        if self.mask is not None or any(p is not None for _, p in self._list_paddings(place, part)):
            return True
        return self.pixels.dtype.kind == "f" and not bool(np.isfinite(pixels).all())

    def _find_used(
        self, place: tuple[int, ...], part: tuple[slice, ...], pixels: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        used = np.isfinite(pixels)
        if self.mask is not None:
            at = dict(zip(self.dims, place, strict=False))
            lines = dict(zip(self.dims[-self.spatial :], part, strict=True))
            used &= self.mask.part(at, lines)
        for number, padding in self._list_paddings(place, part):
            if padding is not None:
                plane = used[number] if self.spatial == 3 else used
                plane &= ~padding[part[-2:]]
        return used

    def _list_paddings(
        self, place: tuple[int, ...], part: tuple[slice, ...]
    ) -> Iterator[tuple[int, NDArray[np.bool_] | None]]:
        """Yield the planes of a part of a unit, and what was laid round the field of each."""
        if self._find_padding is None or self.shape[-2] * self.shape[-1] > _LARGE_PLANE:
            return
        if self.spatial == 2:
            yield 0, self._get_padding(place)
            return
        start, stop, _ = part[0].indices(self.shape[0])
        for z in range(start, stop):
            yield z - start, self._get_padding((*place, z))

    def _get_padding(self, plane: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """Return what was laid round the field of a plane, kept for the blocks to come."""
        assert self._find_padding is not None
        with self._turn:
            if plane not in self._padding:
                while len(self._padding) >= _KEPT_PLANES:
                    del self._padding[next(iter(self._padding))]
                self._padding[plane] = self._find_padding(np.asarray(self.pixels[plane]))
            return self._padding[plane]

    def read_window(
        self, place: tuple[int, ...], box: Box, margins: Sequence[int]
    ) -> NDArray[np.float32]:
        """Return a box of a unit with its surroundings, mirrored at the border of the image.

        Holes are filled by what is around them, the same however the image is cut.
        """
        return self.open_window(place, box, margins)[0]

    def open_window(
        self, place: tuple[int, ...], box: Box, margins: Sequence[int]
    ) -> tuple[NDArray[np.float32], Kept | None]:
        """Return what `read_window` does, and what of the box is to stay as it is, if anything.

        Margins are pixels added on both sides of each axis.
        """
        pixels = read_box(lambda part: self.read(place, part), self.shape, box, margins)
        whole = tuple(
            slice(max(0, a - m), min(n, b + m))
            for a, b, m, n in zip(box.starts, box.stops, margins, self.shape, strict=True)
        )
        if not self._has_holes(place, whole, pixels):
            return pixels, None
        # What a hole is filled from lies no further than twice the way to its rim; holes whose
        # rim is beyond the margins are seen by no pixel of the box that is part of the picture.
        reach = 2 * math.sqrt(self.spatial)
        added = [math.ceil(reach * margin) for margin in margins]
        further = [margin + more for margin, more in zip(margins, added, strict=True)]
        wide, holes = read_box(
            lambda part: self._read_marked(place, part), self.shape, box, further
        )
        filled = fill_by_mirroring(wide, holes == 0, [1 / max(margin, 1) for margin in margins])
        window = np.ascontiguousarray(filled[_cut_margins(added, filled.shape)])
        inside = _cut_margins(margins, window.shape)
        left = holes[_cut_margins(further, holes.shape)] > 0
        return window, Kept(left, pixels[inside]) if left.any() else None

    def _read_marked(self, place: tuple[int, ...], part: tuple[slice, ...]) -> NDArray[np.float32]:
        """Return pixels of a part of a unit, and 1 where they are no part of the picture."""
        pixels = self.read(place, part)
        return np.stack([pixels, (~self._find_used(place, part, pixels)).astype(np.float32)])


class Kept(NamedTuple):
    """Pixels of a box that are no part of the picture, and come out as they went in."""

    where: NDArray[np.bool_]
    pixels: NDArray[np.float32]
    """All of the box, as they went in."""

    def put_back(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return values of the box, (..., *box), with these pixels as they were."""
        return np.where(self.where, self.pixels, values)


def _cut_margins(margins: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """Return where the inside of something lies that has margins on both sides of each axis."""
    return tuple(slice(m, n - m) for m, n in zip(margins, shape, strict=True))
