"""Raw planes and stacks: what is known of them, which hold anything, which are held out."""

from __future__ import annotations

__all__ = ["RawPlane", "planes_of", "rescale", "split_planes", "stacks_of"]

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import planes
from deepcontrast_bmz.image.labels import as_float32
from deepcontrast_bmz.train.holes import cut_without_holes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

_SPREAD = 10
"""Grey values of an image are brought to a range of 2**9 to 2**10: like the counts of a camera."""

_LEAST_LIGHT = 1e-3
"""Share of the deviation that the mean light is taken to be, at least."""

_CELL = 16
"""Side, in pixels, of the cells that structure is measured in."""

_LEAST_CONTENT = 0.25
"""Share of the structure of a part of average content, below which no part is held out."""


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

    @property
    def light(self) -> float:
        """Counts of mean light above darkness; a share of the spread, if nearly all is dark."""
        light = float(self.pixels.mean()) - self.floor
        return max(light, _LEAST_LIGHT * float(self.pixels.std()))


def planes_of(
    image: xr.DataArray, index: int, name: str, widths_px: tuple[float, ...]
) -> list[RawPlane]:
    """Return the planes of a labelled image that hold anything, constant ones left out.

    Of planes with holes, NaN or padding, the largest rectangles between them.

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
        RawPlane(as_float32(part, name), index, name, widths_px)
        for _, plane in planes(image)
        for part in cut_without_holes(plane)
        if part.max() > part.min()
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

    Of stacks with holes, NaN or padding, the largest blocks of all planes between them.

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
        found += [
            RawPlane(as_float32(part, name), index, name, widths_px)
            for part in cut_without_holes(np.asarray(ordered.data[place]))
            if part.max() > part.min()
        ]
    if not found:
        raise InputError(
            f"a training image needs structure, but every plane of {name} is constant: leave it out"
        )
    return found


def rescale(found: Sequence[RawPlane]) -> list[RawPlane]:
    """Bring the planes of one image to a common range by a power of two, which rounds nothing.

    What follows knows no unit then: an image in counts, in fractions of one or divided by its sum
    trains the same network.

    Parameters
    ----------
    found : sequence of RawPlane
        All of one image; not all constant.
    """
    spread = max(float(np.ptp(plane.pixels)) for plane in found)
    power = _SPREAD - math.frexp(spread)[1]
    return [replace(plane, pixels=np.ldexp(plane.pixels, power)) for plane in found]


def split_planes(
    found: Sequence[RawPlane], fraction: float, seed: int
) -> tuple[list[RawPlane], list[RawPlane]]:
    """Split into planes to train on and planes to validate on, without shared pixels.

    Several images are split by image. One image is split by plane, a run of neighbouring planes
    held out, since planes next to each other look alike. One plane is split by a straight cut, and
    so is one stack: along z, so that every depth is in both parts, at the end with more structure.
    What is held out has structure: nearly empty planes or ends stay in the training part, and
    constant borders are left out where they would be all that is held out.

    Parameters
    ----------
    found : sequence of RawPlane
        None is constant.
    fraction : float
        Share held out, between 0 and 1.
    seed : int

    Returns
    -------
    training, validation : list of RawPlane

    Raises
    ------
    InputError
        If a single plane is too small to be cut in two, or one of the parts would be constant.
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
        start = _choose_run([_structure(plane.pixels) for plane in found], count, rng)
        return (
            [*found[:start], *found[start + count :]],
            list(found[start : start + count]),
        )
    (plane,) = found
    train, validate = _cut(plane, fraction)
    for part in (train, validate):
        if part.max() == part.min():
            raise InputError(
                f"training needs structure on both sides of a cut, but {plane.name} has it in one "
                "place only: crop it to where the specimen is, or give several images"
            )
    return (
        [replace(plane, pixels=np.ascontiguousarray(train))],
        [replace(plane, pixels=np.ascontiguousarray(validate))],
    )


def _structure(pixels: NDArray[np.float32]) -> float:
    """Return how much structure there is: the mean deviation within small cells."""
    height, width = pixels.shape[-2:]
    rows, columns = np.arange(0, height, _CELL), np.arange(0, width, _CELL)
    counts = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    # About their mean, beside which the squares of a dim image would be lost.
    values = pixels - np.float64(pixels.mean())

    def means(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.add.reduceat(np.add.reduceat(values, rows, axis=-2), columns, axis=-1)
        return sums / counts

    variance = means(values**2) - means(values) ** 2
    return float(np.sqrt(np.maximum(variance, 0)).mean())


def _choose_run(structures: Sequence[float], count: int, rng: np.random.Generator) -> int:
    """Return where a run of planes begins that is held out: anywhere but where there is little."""
    starts = len(structures) - count + 1
    start = int(rng.integers(starts))
    # Some run always has half the structure of an average one.
    enough = _LEAST_CONTENT * float(np.mean(structures))
    if np.mean(structures[start : start + count]) >= enough:
        return start
    return next(
        int(i)
        for i in rng.permutation(starts)
        if np.mean(structures[int(i) : int(i) + count]) >= enough
    )


def _cut(plane: RawPlane, fraction: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut a plane or stack in two along its longer lateral side: what to train on, and the rest."""
    pixels = plane.pixels
    for trimmed in (False, True):
        if trimmed:
            pixels = _without_borders(pixels)
        height, width = pixels.shape[-2:]
        length = max(height, width)
        if length < 32:
            raise InputError(
                f"training needs a plane of at least 32 pixels along one side, but {plane.name} "
                f"{'shows' if trimmed else 'is'} {height} x {width}: use a larger image"
            )
        held_out = max(16, round(fraction * length))
        axis = -2 if height >= width else -1
        first, without_first = np.split(pixels, [held_out], axis=axis)
        without_last, last = np.split(pixels, [length - held_out], axis=axis)
        # What the poorer part of each cut shows.
        at_last = min(_structure(last), _structure(without_last))
        at_first = min(_structure(first), _structure(without_first))
        enough = _LEAST_CONTENT * _structure(pixels)
        if max(at_last, at_first) >= enough:
            break
    # Of a stack, or where the last end is nearly empty, the end with more structure: an empty
    # strip would tell one network like another.
    turned = (pixels.ndim == 3 or at_last < enough) and at_first > at_last
    return (without_first, first) if turned else (without_last, last)


def _without_borders(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut off rows and columns at the border that hold one value each."""
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    kept = [
        np.flatnonzero(planes.max(axis=axes) > planes.min(axis=axes)) for axes in ((0, 2), (0, 1))
    ]
    (top, bottom), (left, right) = ((int(line[0]), int(line[-1]) + 1) for line in kept)
    return pixels[..., top:bottom, left:right]
