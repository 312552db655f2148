"""An image in a file: known by its labels, read in parts or at once, in our order of axes."""

from __future__ import annotations

__all__ = ["OpenImage", "label_image", "open_found"]

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from deepcontrast_bmz.image.labels import DIMS, channel_index, label_channels
from deepcontrast_bmz.image.lazy_arrays import Arranged, ArrayPixels
from deepcontrast_bmz.image.reader import check_found

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deepcontrast_bmz.image.reader import Found

_LAZY_SIDE = 1024
# Pixels: chunks of a dask array are at least about this large, since each costs time by itself.


@dataclass(frozen=True)
class OpenImage:
    """An image whose pixels are read in parts."""

    path: Path
    """Its file or folder."""
    pixels: Arranged
    """Read by ``pixels[part]``: slices and indices along `dims`, native byte order."""
    dims: tuple[str, ...]
    """A subset of (t, c, z, y, x), in that order."""
    names: tuple[str, ...] | None
    """Of the channels, where known."""
    sizes: Mapping[str, float]
    """Known pixel sizes in micrometres."""
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further attributes of the image, as `labels` lists them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along each of `dims`."""
        return self.pixels.shape

    @property
    def nbytes(self) -> int:
        """Size of all pixels in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.pixels.dtype.itemsize

    def channel(self, channel: str | int | None) -> OpenImage:
        """Return one channel, as `select_channel` does."""
        if channel is None:
            return self
        index = channel_index(self.labelled(), channel)
        if "c" not in self.dims:
            return self
        axis = self.dims.index("c")
        kept = [i for i in range(len(self.dims)) if i != axis]
        return replace(
            self,
            pixels=Arranged(self.pixels, kept, {axis: index}),
            dims=tuple(self.dims[i] for i in kept),
            names=None if self.names is None else (self.names[index],),
        )

    def labelled(self) -> xr.DataArray:
        """Return it as a labelled dask array, whose pixels are read when they are looked at."""
        import dask.array as da

        sides = [
            c if dim not in ("y", "x") else min(n, c * max(1, _LAZY_SIDE // c))
            for dim, n, c in zip(self.dims, self.shape, self.pixels.chunks, strict=True)
        ]
        data = da.from_array(
            self.pixels,
            chunks=cast("Any", tuple(sides)),
            name=False,
            fancy=False,
            asarray=False,
            meta=np.empty((0,) * len(self.shape), self.pixels.dtype),
        )
        return _with_labels(data, self.dims, self.names, self.sizes, self.notes)


def open_found(found: Found, path: Path) -> OpenImage:
    """Return what a reader found as an image in our order of axes.

    Raises
    ------
    InputError
        If it is no image.
    """
    data, dims, names, sizes, notes = check_found(found, path)
    pixels = ArrayPixels(data) if isinstance(data, np.ndarray) or hasattr(data, "dask") else data
    order = [dim for dim in DIMS if dim in dims]
    return OpenImage(
        path,
        Arranged(pixels, [dims.index(dim) for dim in order]),
        tuple(order),
        None if names is None else tuple(names),
        {dim: size for dim, size in sizes.items() if size is not None},
        notes,
    )


def label_image(found: Found, path: Path, *, mask: bool = False) -> xr.DataArray:
    """Return what a reader found as a labelled image: in memory if it is so, else lazily.

    Parameters
    ----------
    found : Found
    path : Path
        Named in messages.
    mask : bool
        Pixels in memory may be true and false.

    Raises
    ------
    InputError
        If it is no image.
    """
    if not isinstance(found.data, np.ndarray):
        return open_found(found, path).labelled()
    data, dims, names, sizes, notes = check_found(found, path, mask=mask)
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    known = {dim: size for dim, size in sizes.items() if size is not None}
    image = _with_labels(data, tuple(dims), names, known, notes)
    return image.transpose(*(dim for dim in DIMS if dim in dims))


def _with_labels(
    data: Any,
    dims: tuple[str, ...],
    names: Any,
    sizes: Mapping[str, float],
    notes: Mapping[str, Any],
) -> xr.DataArray:
    coords = label_channels(names, dims)
    attrs = {"pixel_size_um": dict(sizes), **notes}
    image = xr.DataArray(data, dims=dims, coords=coords, attrs=attrs)
    # xarray would call the image as dask calls the array, by chance.
    image.name = None
    return image
