"""Pixels that are no part of the picture: masks of the user, and how holes are filled meanwhile."""

from __future__ import annotations

__all__ = ["FieldMask", "fill_by_mirroring"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import scipy  # its rooms load when they are used: reading this module must stay quick
import xarray as xr

from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)


@dataclass(frozen=True)
class FieldMask:
    """Which pixels of an image count, by somebody who knows the specimen."""

    used: NDArray[np.bool_]
    """True where a pixel counts."""
    dims: tuple[str, ...]
    """(y, x) for all planes alike, or with further axes of the image before them."""
    name: str = "the mask"
    """For messages."""

    @classmethod
    def of(cls, image: xr.DataArray, name: str = "the mask") -> FieldMask:
        """Return the mask that an image is: pixels that are not zero count."""
        kept = image.squeeze([d for d in image.dims[:-2] if image.sizes[d] == 1], drop=True)
        return cls(np.asarray(kept.values != 0), tuple(str(dim) for dim in kept.dims), name)

    def check(self, dims: Sequence[str], shape: Sequence[int], name: str) -> None:
        """Raise `InputError` if it does not belong to an image.

        Parameters
        ----------
        dims, shape
            Of the image.
        name : str
            What the image is called.
        """
        sizes = dict(zip(dims, shape, strict=True))
        own = dict(zip(self.dims, self.used.shape, strict=True))
        if any(sizes.get(dim) != length for dim, length in own.items()):
            mine, its = (
                " x ".join(f"{dim} {n}" for dim, n in lengths.items()) for lengths in (own, sizes)
            )
            raise InputError(
                f"'{self.name}' has {mine}, but '{name}' has {its}: give a mask with the same y "
                "and x, and z if it has one"
            )
        if not self.used.any():
            raise InputError(f"'{self.name}' leaves no pixel: mark what counts with 1 or more")

    def hide(self, image: xr.DataArray, name: str) -> xr.DataArray:
        """Return an image in which pixels that do not count are NaN, as floating point numbers.

        Parameters
        ----------
        image : DataArray, (..., y, x)
            Dask arrays stay such.
        name : str
            What the image is called.

        Raises
        ------
        InputError
            If the mask does not belong to the image.
        """
        self.check([str(dim) for dim in image.dims], image.shape, name)
        return image.where(xr.DataArray(self.used, dims=self.dims))

    def part(self, place: Mapping[str, int], part: Mapping[str, slice]) -> NDArray[np.bool_]:
        """Return a part of it, for indices along some axes of the image and slices along others."""
        found = self.used[tuple(place[dim] if dim in place else part[dim] for dim in self.dims)]
        kept = [dim for dim in self.dims if dim in part]
        # Axes of the part that the mask has none of: it is the same all along them.
        missing = tuple(i for i, dim in enumerate(part) if dim not in kept)
        return np.expand_dims(found, missing)


def fill_by_mirroring(
    pixels: NDArray[Real], used: NDArray[np.bool_], spacing: Sequence[float]
) -> NDArray[Real]:
    """Return pixels whose holes continue what is around them, mirrored at the rim of the hole.

    As at the border of an image: a network sees the texture it knows, and no edge, so nothing
    rings. Where the mirrored place is itself a hole, the pixel at the rim gives the value.

    Parameters
    ----------
    pixels : ndarray
    used : ndarray of bool, same shape
        False in holes; there, pixels may be anything.
    spacing : sequence of float
        Length of a step along each axis, for what is nearest.

    Returns
    -------
    ndarray
        Zeros where nothing is used.
    """
    if used.all():
        return pixels
    if not used.any():
        return np.zeros_like(pixels)
    holes = np.nonzero(~used)
    nearest = scipy.ndimage.distance_transform_edt(
        ~used, sampling=spacing, return_distances=False, return_indices=True
    )
    rim = [np.asarray(axis)[holes] for axis in np.asarray(nearest)]
    # The pixel at the rim is repeated, as at the border of an image.
    far = [2 * edge - own + np.sign(own - edge) for edge, own in zip(rim, holes, strict=True)]
    inside = np.ones(len(rim[0]), bool)
    for place, length in zip(far, used.shape, strict=True):
        inside &= (place >= 0) & (place < length)
    inside[inside] = used[tuple(place[inside] for place in far)]
    source = tuple(np.where(inside, a, b) for a, b in zip(far, rim, strict=True))
    filled = pixels.copy()
    filled[holes] = pixels[source]
    return filled
