"""An image as a model takes it: units, planes or stacks, of which parts are read."""

from __future__ import annotations

__all__ = ["Source"]

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.blocks import Box, read_box
from deepcontrast_bmz.image.labels import as_float32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model


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

    def __init__(self, pixels: _Parts, dims: Sequence[str], model: Model, name: str) -> None:
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
        """Return a part of a unit, checked to be numbers that can be computed with."""
        pixels = np.asarray(self.pixels[(*place, *part)])
        if pixels.dtype.kind == "f":
            bad = ~np.isfinite(pixels)
            if bad.any():
                inside = np.argwhere(bad)[0]
                starts = [one.start or 0 for one in part]
                found = [*place, *(a + int(i) for a, i in zip(starts, inside, strict=True))]
                where = ", ".join(f"{d}={i}" for d, i in zip(self.dims, found, strict=True))
                raise InputError(
                    f"pixels must be finite numbers, but '{self.name}' has {pixels[tuple(inside)]} "
                    f"at {where}: replace or crop such pixels first"
                )
        return as_float32(pixels, self.name)

    def window(
        self, place: tuple[int, ...], box: Box, margins: Sequence[int]
    ) -> NDArray[np.float32]:
        """Return a box of a unit with its surroundings, mirrored at the border of the image."""
        return read_box(lambda part: self.read(place, part), self.shape, box, margins)
