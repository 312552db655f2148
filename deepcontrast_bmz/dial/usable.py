"""Which pixels of a recording tell of tissue: one mask, made once, for whoever looks at a plane.

Not those that are no number, saturated, hot or dead, not dead lines, and not what somebody laid
round the tissue afterwards: borders and corners of one value.
"""

from __future__ import annotations

__all__ = [
    "PixelMask",
    "fill_pixels",
    "find_holes",
    "find_padding",
    "inspect_pixels",
    "usable_pixels",
]

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy  # its rooms load when they are used: reading this module must stay quick
import torch
from numpy.typing import NDArray

from deepcontrast_bmz.image import planes
from deepcontrast_bmz.physics.noise import estimate_noise

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

    from deepcontrast_bmz.image.masks import FieldMask
    from deepcontrast_bmz.physics.noise import NoiseModel

Double = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SPECK = 8.0
"""How far a hot or dead pixel stands out, in noise deviations."""

_SHARPEST = 0.2
"""Share of the height of a speck that its second brightest neighbour may reach: no lens draws
anything sharper."""

_MOST_SPECKS = 0.002
"""Share of the pixels beyond which specks are the noise itself."""

_BEYOND_ALL = 2.0
"""How many times the range of all grey values such a speck must stand out to count even then."""

_LINE = 6.0
"""How far a dead line stands out from its neighbours, in deviations of all lines..."""

_LINE_NOISE = 3.0
"""... and in noise deviations."""

_PATCH = 3
"""Side of the smallest patch of one value that counts as padding where it touches the border."""

_INNER_PATCH = 9
"""Side of the smallest such patch elsewhere."""

_LARGE_PATCH = 17
"""Side of the smallest patch that counts as padding where black occurs by itself..."""

_SCATTERED = 0.002
"""... in more than this share of the pixels."""

_CLIPPED = 5
"""How many times as many pixels as each of the next values the largest has where it is cut off."""

_NEXT_VALUES = 4
"""Values below the largest that it is compared with."""

_REACH = 1.0
"""Width of the Gaussian that weighs the surroundings which a pixel is filled from, in pixels."""

_REACHED = 0.05
"""Share of kept pixels among them, at least; else the nearest kept pixel gives the value."""

_ABRUPT = 0.1
"""Share of the range of grey values by which padding differs from what it touches."""


class PixelMask(NamedTuple):
    """Which pixels of a plane tell of tissue, and which do not belong into the picture."""

    usable: Tensor
    """Bool, (Y, X): statistics are taken over these."""
    broken: Tensor
    """Bool, (Y, X): no numbers, padding, hot and dead pixels and lines, masked: not what the
    microscope saw there. Saturated and cut-off black pixels are neither usable nor broken."""


def usable_pixels(raw: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return which pixels of a plane tell of tissue.

    The dial, its evidence, the warning and the scores all rest on these and on no others: make the
    mask once for a plane, pass it on, and take statistics over `raw[usable]`. Where an image
    without holes is needed, `fill_pixels` makes one. Pixels are only left out of what is measured:
    `predict` enhances them like any other.

    Parameters
    ----------
    raw : Tensor, (Y, X)
        Counts, as recorded; NaN and infinity are allowed.
    mask : Tensor of bool, (Y, X), optional
        Which pixels may count, by somebody who knows the specimen; all of them if left out.

    Returns
    -------
    Tensor of bool, (Y, X)
        False for values that are not finite, saturated, hot and dead pixels, dead lines, borders,
        corners and larger patches of one value, and where `mask` is False.
    """
    return inspect_pixels(raw, mask).usable


def inspect_pixels(raw: Tensor, mask: Tensor | None = None) -> PixelMask:
    """Return which pixels of a plane tell of tissue, and which are broken.

    Parameters
    ----------
    raw, mask
        As for `usable_pixels`.
    """
    image = raw.detach().cpu().double().numpy()
    usable = np.isfinite(image)
    if mask is not None:
        usable &= mask.detach().cpu().numpy().astype(bool)
    broken = ~usable
    flat = _find_flat(image, usable)
    broken |= _find_abrupt(image, flat, usable & ~flat)
    usable &= ~flat
    if usable.any():
        filled = fill_pixels(raw, torch.from_numpy(~broken)).double()
        noise = estimate_noise(filled, used=torch.from_numpy(usable))
        bad = _find_dead_lines(filled.numpy(), usable, noise)
        bad |= _find_specks(filled.numpy(), usable & ~bad, noise)
        usable, broken = usable & ~bad, broken | bad
    if usable.any():
        usable &= ~_find_saturated(image, usable)
    return PixelMask(torch.from_numpy(usable), torch.from_numpy(broken))


def find_padding(raw: NDArray[Any]) -> Mask | None:
    """Return which pixels of a plane somebody laid round the field, as stitching and shifting do.

    Parameters
    ----------
    raw : ndarray, (Y, X)
        Counts; NaN and infinity are allowed.

    Returns
    -------
    ndarray of bool, (Y, X), or None
        Patches of the smallest value that end abruptly; None if there are none.
    """
    known = np.isfinite(raw)
    if not known.any():
        return None
    darkest = known & (raw == raw[known].min())
    # The least of padding is one line along a side.
    if darkest.sum() < min(raw.shape) or bool((darkest == known).all()):
        return None
    image = raw.astype(np.float64)
    flat = _find_flat(image, known) & darkest
    rest = known & ~flat
    rim = rest & scipy.ndimage.maximum_filter(flat, 3)
    if (darkest & rest).sum() > _SCATTERED * known.sum() or rim.sum() > rest.sum() / 2:
        # Black occurs by itself, as in little light: small patches of it happen.
        flat &= _find_squares(np.where(known, image, np.inf), _LARGE_PATCH)
    padding = _find_abrupt(image, flat, known & ~flat)
    return padding if padding.any() else None


def find_holes(image: xr.DataArray, mask: FieldMask | None, name: str) -> Mask:
    """Return which pixels of an image are no part of the picture: no numbers, padding, masked.

    Parameters
    ----------
    image : DataArray, (..., y, x)
    mask : FieldMask or None
        Pixels that count, by somebody who knows the specimen.
    name : str
        Of the image, for messages.

    Returns
    -------
    ndarray of bool, shape of the image

    Raises
    ------
    InputError
        If the mask is of another shape.
    """
    dims = [str(dim) for dim in image.dims]
    if mask is not None:
        mask.check(dims, image.shape, name)
    holes = np.zeros(image.shape, bool)
    whole = {"y": slice(None), "x": slice(None)}
    for place, plane in planes(image):
        found = ~np.isfinite(plane)
        padding = find_padding(plane)
        if padding is not None:
            found |= padding
        if mask is not None:
            found |= ~mask.part(place, whole)
        holes[tuple(place.values())] = found
    return holes


def fill_pixels(raw: Tensor, kept: Tensor) -> Tensor:
    """Return a plane in which all other pixels have the value of the kept ones around them.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    kept : Tensor of bool, (Y, X)
        Finite.

    Returns
    -------
    Tensor, (Y, X)
        Float32; zeros where nothing is kept.
    """
    if bool(kept.all()):
        return raw.detach().cpu().float()
    image, used = raw.detach().cpu().double().numpy(), kept.cpu().numpy()
    if not used.any():
        return torch.zeros(raw.shape)
    known = np.where(used, image, 0.0)
    weight = scipy.ndimage.gaussian_filter(used.astype(np.float64), _REACH)
    smooth = scipy.ndimage.gaussian_filter(known, _REACH) / np.maximum(weight, 1e-9)
    # Single pixels have kept ones all around; from further inside a hole, its rim is nearest.
    nearest = scipy.ndimage.distance_transform_edt(
        ~used, return_distances=False, return_indices=True
    )
    rim = smooth[tuple(np.asarray(nearest))]
    filled = np.where(used, image, np.where(weight > _REACHED, smooth, rim))
    return torch.from_numpy(filled).float()


def _find_flat(image: Double, usable: Mask) -> Mask:
    """Return borders, corners and larger patches of one value."""
    values = np.where(usable, image, np.inf)
    flat = np.zeros(image.shape, bool)
    if min(image.shape) > _INNER_PATCH:
        small, large = (_find_squares(values, side) for side in (_PATCH, _INNER_PATCH))
        flat = _select_touching_border(small) | large
        for _ in range(_PATCH):
            # The tips of corners, into which no square fits.
            own = scipy.ndimage.maximum_filter(np.where(flat, values, -np.inf), 3)
            flat |= (values == own) & usable
    return flat | _find_constant_ends(values, usable & ~flat)


def _find_squares(values: Double, side: int) -> Mask:
    """Return all squares of a side that hold one value alone."""
    wide = np.pad(values, side, mode="reflect")
    same = scipy.ndimage.maximum_filter(wide, side) == scipy.ndimage.minimum_filter(wide, side)
    grown = scipy.ndimage.maximum_filter(same, side)
    found: Mask = grown[side:-side, side:-side]
    return found


def _select_touching_border(mask: Mask) -> Mask:
    """Return the connected parts of a mask that reach the border of the image."""
    parts, _ = scipy.ndimage.label(mask)
    edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    found: Mask = np.isin(parts, edge[edge > 0])
    return found


def _find_constant_ends(values: Double, usable: Mask) -> Mask:
    """Return rows and columns at the border that have one value throughout, however few."""
    found = np.zeros(values.shape, bool)
    for turned, marked, used in ((values, found, usable), (values.T, found.T, usable.T)):
        lines = range(turned.shape[0])
        for order in (lines, reversed(lines)):
            for line in order:
                own = turned[line][used[line] & ~marked[line]]
                if own.size > 1 and np.ptp(own) > 0:
                    break
                marked[line] = True
    return found


def _find_abrupt(image: Double, flat: Mask, usable: Mask) -> Mask:
    """Return the flat patches that end abruptly: laid there, where cut-off black fades out."""
    padding = np.zeros(flat.shape, bool)
    if not flat.any() or not usable.any():
        return padding
    low, high = (float(v) for v in np.quantile(image[usable], (0.01, 0.99)))
    patches, _ = scipy.ndimage.label(flat)
    rings = scipy.ndimage.grey_dilation(patches, size=(3, 3))
    for number, place in enumerate(scipy.ndimage.find_objects(patches), 1):
        around = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in place)
        patch, ring = patches[around] == number, (rings[around] == number) & usable[around]
        own = image[around][patch & np.isfinite(image[around])]
        if ring.any() and own.size:
            step = float(np.median(image[around][ring])) - float(own[0])
            padding[around] |= patch & (abs(step) > _ABRUPT * (high - low))
    return padding


def _find_saturated(image: Double, usable: Mask) -> Mask:
    """Return pixels at the largest value, where many more have it than have the next ones."""
    values = image[usable]
    few = max(1, values.size // 4)
    levels, counts = np.unique(np.partition(values, -few)[-few:], return_counts=True)
    if levels.size <= _NEXT_VALUES:
        return np.zeros(image.shape, bool)
    if counts[-1] < _CLIPPED * float(counts[-1 - _NEXT_VALUES : -1].mean()):
        return np.zeros(image.shape, bool)
    found: Mask = usable & (image >= levels[-1])
    return found


def _find_dead_lines(image: Double, usable: Mask, noise: NoiseModel) -> Mask:
    """Return single rows and columns that stand out from those beside them, or never change."""
    found = np.zeros(image.shape, bool)
    deviation = _typical_deviation(image[usable], noise)
    for turned, marked, used in ((image, found, usable), (image.T, found.T, usable.T)):
        if turned.shape[0] < 2 * _INNER_PATCH or turned.shape[1] < _INNER_PATCH:
            continue
        wide = np.pad(turned, ((2, 2), (0, 0)), mode="reflect")
        first, second, third, fourth = (wide[i : i + len(turned)] for i in (0, 1, 3, 4))
        low = np.maximum(np.minimum(first, second), np.minimum(third, fourth))
        high = np.minimum(np.maximum(first, second), np.maximum(third, fourth))
        # The mean of the middle two of four: their median.
        away = turned - (low + high) / 2
        lines = np.flatnonzero(used.sum(1) >= _INNER_PATCH)
        if lines.size < _INNER_PATCH:
            continue
        if used.all():
            off = np.median(away, axis=1)
        else:
            off = np.array([np.median(away[line][used[line]]) for line in lines])
        spread = 1.5 * float(np.median(np.abs(off - np.median(off))))
        far = np.abs(off) > max(_LINE * spread, _LINE_NOISE * deviation)
        # A dead line that lies as low as the others is found by its never changing.
        still = np.where(used, turned, turned.max()).min(1) == np.where(
            used, turned, turned.min()
        ).max(1)
        marked[lines[far | still[lines]]] = True
    return found


def _find_specks(image: Double, usable: Mask, noise: NoiseModel) -> Mask:
    """Return pixels that stand out alone, or in twos, more sharply than any lens could draw."""
    # Who does not stand out from the mean of the neighbours needs no closer look.
    beside = (9 * scipy.ndimage.uniform_filter(image, 3) - image) / 8
    deviation = noise.variance(torch.from_numpy(beside)).sqrt().numpy()
    rows, columns = np.nonzero(usable & (np.abs(image - beside) > 0.8 * _SPECK * deviation))
    level = _surroundings(image, rows, columns, 2)
    around = np.median(level, axis=0)
    deviation = noise.variance(torch.from_numpy(around)).sqrt().numpy()
    off = image[rows, columns] - around
    # The second brightest, seen in the direction of the speck: the brightest may be its twin.
    beside = (_surroundings(image, rows, columns, 1) - around) * np.sign(off)
    second = np.partition(beside, -2, axis=0)[-2]
    speck = np.abs(off) > _SPECK * deviation
    speck &= second < _SHARPEST * np.abs(off) + 3 * deviation
    if int(speck.sum()) > _MOST_SPECKS * image.size:
        # So many are the specimen, or its noise; not those beyond all other grey values.
        low, high = (float(v) for v in np.quantile(image[usable], (0.001, 0.999)))
        speck &= np.abs(off) > _BEYOND_ALL * (high - low)
    found = np.zeros(image.shape, bool)
    found[rows[speck], columns[speck]] = True
    return found


def _surroundings(
    image: Double, rows: NDArray[np.intp], columns: NDArray[np.intp], reach: int
) -> Double:
    """Return the values around some pixels, themselves left out: (neighbours, pixels)."""
    wide = np.pad(image, reach, mode="reflect")
    lines = range(2 * reach + 1)
    steps = [(y, x) for y in lines for x in lines if (y, x) != (reach, reach)]
    return np.stack([wide[rows + y, columns + x] for y, x in steps])


def _typical_deviation(values: Double, noise: NoiseModel) -> float:
    """Return the deviation of the noise at the median of some values."""
    return math.sqrt(float(noise.variance(torch.tensor(float(np.median(values))))))
