"""Raw planes and stacks: what is known of them, which hold anything, which are held out."""

from __future__ import annotations

__all__ = ["RawPlane", "planes_of", "split_planes", "stacks_of"]

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import planes
from deepcontrast_bmz.image.labels import as_float32

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RawPlane:
    """One raw plane, or one raw stack for a network that takes stacks, and what is known of it."""

    pixels: NDArray[np.float32]
    """(Y, X) or (Z, Y, X), counts."""
    image: int
    """Which image it belongs to; images are drawn equally often."""
    name: str
    """What to call it in a log."""
    widths_px: tuple[float, ...]
    """Widths of the middle scattering kernel, in this plane's pixels."""
    procedural: bool = False
    """A specimen that was drawn, not a recording of a real one."""

    @property
    def floor(self) -> float:
        """Counts taken for darkness: the half-percentile."""
        return float(np.percentile(self.pixels, 0.5))


def planes_of(
    image: xr.DataArray, index: int, name: str, widths_px: tuple[float, ...]
) -> list[RawPlane]:
    """Return the planes of a labelled image that hold anything, constant ones left out.

    Parameters
    ----------
    image : DataArray
        Raw counts with dims among t, c, z, y, x.
    index : int
        Number of the image among the training images.
    name : str
        Name for messages.
    widths_px : tuple of float
        Widths of the middle scattering kernel, in pixels of this image.

    Raises
    ------
    InputError
        If every plane is constant, or a pixel is too large to be computed with.
    """
    found = [
        RawPlane(as_float32(plane, name), index, name, widths_px)
        for _, plane in planes(image)
        if plane.max() > plane.min()
    ]
    if not found:
        raise InputError(
            f"a training image needs structure, but every plane of {name} is constant: leave it out"
        )
    return found


def stacks_of(
    image: xr.DataArray, index: int, name: str, widths_px: tuple[float, ...], *, fewest: int
) -> list[RawPlane]:
    """Return the z-stacks of a labelled image that hold anything, one for each time and channel.

    Parameters
    ----------
    image, index, name, widths_px
        As for `planes_of`.
    fewest : int
        Planes that a stack must have: those of a training patch.

    Raises
    ------
    InputError
        If the image has no z axis or too few planes, every stack is constant, or a pixel is too
        large to be computed with.
    """
    if "z" not in image.dims:
        raise InputError(
            f"a network of kind dilated_3d learns from z-stacks, but {name} has axes "
            f"{', '.join(str(dim) for dim in image.dims)}: give a stack with a z axis, or train "
            "with network.kind = 'dilated'"
        )
    count = image.sizes["z"]
    if count < fewest:
        raise InputError(
            f"a stack needs at least data.patch_planes = {fewest} planes, but {name} has {count}: "
            "give a thicker stack or lower data.patch_planes"
        )
    leading = [dim for dim in image.dims if dim not in ("z", "y", "x")]
    ordered = image.transpose(*leading, "z", "y", "x")
    found: list[RawPlane] = []
    for place in np.ndindex(*ordered.shape[:-3]):
        pixels = np.asarray(ordered.data[place])
        if pixels.max() > pixels.min():
            found.append(RawPlane(as_float32(pixels, name), index, name, widths_px))
    if not found:
        raise InputError(
            f"a training image needs structure, but every plane of {name} is constant: leave it out"
        )
    return found


def split_planes(
    found: Sequence[RawPlane], fraction: float, seed: int
) -> tuple[list[RawPlane], list[RawPlane]]:
    """Split into planes to train on and planes to validate on, without shared pixels.

    Several images are split by image. One image is split by plane, a run of neighbouring planes
    held out, since planes next to each other look alike. One plane is split by a straight cut, and
    so is one stack: along z, so that every depth is in both parts, at the end with more structure.

    Parameters
    ----------
    found : sequence of RawPlane
    fraction : float
        Share held out, between 0 and 1.
    seed : int

    Returns
    -------
    training, validation : list of RawPlane

    Raises
    ------
    InputError
        If a single plane is too small to be cut in two.
    """
    rng = np.random.default_rng([seed, 2])
    images = sorted({plane.image for plane in found})
    if len(images) > 1:
        count = min(max(1, round(fraction * len(images))), len(images) - 1)
        held_out = set(rng.permutation(images)[:count].tolist())
        return (
            [plane for plane in found if plane.image not in held_out],
            [plane for plane in found if plane.image in held_out],
        )
    if len(found) > 1:
        count = min(max(1, round(fraction * len(found))), len(found) - 1)
        start = int(rng.integers(len(found) - count + 1))
        return (
            [*found[:start], *found[start + count :]],
            list(found[start : start + count]),
        )
    (plane,) = found
    height, width = plane.pixels.shape[-2:]
    length = max(height, width)
    if length < 32:
        raise InputError(
            f"training needs a plane of at least 32 pixels along one side, but {plane.name} is "
            f"{height} x {width}: use a larger image"
        )
    held_out = max(16, round(fraction * length))
    axis = -2 if height >= width else -1
    train, validate = np.split(plane.pixels, [length - held_out], axis=axis)
    if plane.pixels.ndim == 3:
        # The end with more structure: an empty strip would tell one network like another.
        first, rest = np.split(plane.pixels, [held_out], axis=axis)
        if first.std() > validate.std():
            train, validate = rest, first
    return (
        [RawPlane(np.ascontiguousarray(train), plane.image, plane.name, plane.widths_px)],
        [RawPlane(np.ascontiguousarray(validate), plane.image, plane.name, plane.widths_px)],
    )
