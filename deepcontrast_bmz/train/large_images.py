"""Training from an image larger than memory: excerpts of it, drawn by the seed, read once.

The image is laid out in cells that do not overlap; as many of them as fit the memory at hand are
drawn and kept. A run sees no more pixels than these hold, so more would be read in vain, and
training never waits for a file.
"""

from __future__ import annotations

__all__ = ["EXCERPT_BYTES", "EXCERPT_SIDE", "excerpts_of", "excerpts_sha256"]

import hashlib
import logging
import math
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.labels import as_float32
from deepcontrast_bmz.train.holes import cut_without_holes
from deepcontrast_bmz.train.raw_planes import RawPlane

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr

logger = logging.getLogger(__name__)

EXCERPT_SIDE = 1024
"""Lateral side of an excerpt, in pixels; of a stack half of it."""

_PATCH_DEPTHS = 4
"""An excerpt of a stack is so many times as deep as a patch, if the stack is: few of its patches
then reach over its end, where they see mirrored planes."""

EXCERPT_BYTES = 2**30
"""All excerpts of an image together, as float32: some ten thousand training patches."""

_TRIES = 4
"""So many times as many cells are looked at, at most, where many of them are empty."""


def excerpts_of(
    image: xr.DataArray,
    index: int,
    name: str,
    widths_px: tuple[float, ...],
    *,
    seed: int,
    planes: int | None = None,
) -> list[RawPlane]:
    """Return excerpts of a labelled image whose pixels are read when they are looked at.

    Parameters
    ----------
    image : DataArray backed by dask
        Raw counts with dims among t, c, z, y, x.
    index, name, widths_px
        As for `data.planes_of`.
    seed : int
        Decides, with `index`, which cells are drawn.
    planes : int, optional
        For a network that takes stacks: planes of a patch; else excerpts are (Y, X).

    Returns
    -------
    list of RawPlane
        In the order of the image; no two share a pixel, none is constant.

    Raises
    ------
    InputError
        If all cells looked at are constant or full of holes, a pixel of them is too large, or
        the image has too few planes.
    """
    if planes is not None and image.sizes.get("z", 0) < planes:
        raise InputError(
            f"a network of kind dilated_3d learns from stacks of at least {planes} planes, but "
            f"{name} has {image.sizes.get('z', 0)}: give a thicker stack or lower data.patch_planes"
        )
    inner = ["y", "x"] if planes is None else ["z", "y", "x"]
    ordered = image.transpose(..., *inner)
    largest = {"y": EXCERPT_SIDE, "x": EXCERPT_SIDE}
    if planes is not None:
        largest = dict.fromkeys("yx", EXCERPT_SIDE // 2) | {"z": _PATCH_DEPTHS * planes}
    sides = [min(largest.get(str(dim), 1), ordered.sizes[dim]) for dim in ordered.dims]
    wanted = max(2, EXCERPT_BYTES // (4 * math.prod(sides)))
    found: dict[int, RawPlane] = {}
    for number, cell in _drawn(ordered.shape, sides, wanted, [seed, 5, index]):
        excerpt = ordered[cell].compute()
        pixels = excerpt.to_numpy()
        parts = cut_without_holes(pixels.reshape(pixels.shape[-len(inner) :]))
        if parts and parts[0].max() > parts[0].min():
            found[number] = RawPlane(as_float32(parts[0], name), index, name, widths_px)
        if len(found) == wanted:
            break
    if not found:
        raise InputError(
            f"a training image needs structure, but {_TRIES * wanted} excerpts of {name} are all "
            "constant or hold no picture: crop it to where the specimen is"
        )
    share = sum(plane.pixels.size for plane in found.values()) / image.size
    logger.info("%s: %d excerpts, %.2g of its pixels", name, len(found), share)
    return [found[number] for number in sorted(found)]


def _drawn(
    shape: tuple[int, ...], sides: Sequence[int], wanted: int, seed: Sequence[int]
) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Yield cells in a random order: their number in the order of the image, and where they are."""
    # What is left over at the end of an axis is no cell.
    counts = [length // side for length, side in zip(shape, sides, strict=True)]
    total = math.prod(counts)
    rng = np.random.default_rng(seed)
    for number in rng.choice(total, min(_TRIES * wanted, total), replace=False):
        place = np.unravel_index(int(number), counts)
        yield (
            int(number),
            tuple(
                slice(int(i) * side, (int(i) + 1) * side)
                for i, side in zip(place, sides, strict=True)
            ),
        )


def excerpts_sha256(image: xr.DataArray, excerpts: Sequence[RawPlane]) -> str:
    """Return the SHA-256 of the shape of an image and the excerpts that were read of it."""
    digest = hashlib.sha256(f"{image.dims} {image.shape} {image.dtype}".encode())
    for excerpt in excerpts:
        digest.update(excerpt.pixels.tobytes())
    return digest.hexdigest()
