"""Procedural specimens with known truth: membranes, tubes, nuclei, puncta, in 2-D and 3-D.

Every function takes a shape, (Y, X) or (Z, Y, X), and a numpy generator, and returns light per
pixel between 0 and about 1 with a dim, uneven background.
"""

from __future__ import annotations

__all__ = ["KINDS", "Kind", "exact_membranes", "phantom", "phantom_stack"]

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import scipy  # its rooms load when they are used: reading this module must stay quick

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Shape = tuple[int, ...]
    Maker = Callable[[Shape, np.random.Generator], Array]

Kind = Literal["membranes", "tubes", "nuclei", "puncta", "mixed"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def phantom(kind: Kind, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return a procedural specimen.

    Parameters
    ----------
    kind : {'membranes', 'tubes', 'nuclei', 'puncta', 'mixed'}
        Structure; `mixed` is a weighted sum of two of the others.
    shape : tuple of int
        (Y, X) or (Z, Y, X), in pixels.
    rng : numpy.random.Generator
        Source of everything random.

    Returns
    -------
    ndarray of float32, of that shape
        Light per pixel, 0 to about 1.

    Raises
    ------
    ValueError
        If the shape is neither 2-D nor 3-D.
    """
    if len(shape) not in (2, 3):
        raise ValueError(f"a phantom is (Y, X) or (Z, Y, X), not {len(shape)}-D")
    if kind == "mixed":
        first, second = rng.choice(len(_MAKERS), size=2, replace=False)
        makers = list(_MAKERS.values())
        share = rng.uniform(0.3, 1.0)
        image = makers[first](shape, rng) + share * makers[second](shape, rng)
    else:
        image = _MAKERS[kind](shape, rng)
    background = rng.uniform(0.01, 0.08) * (1 + 0.5 * _smooth_noise(shape, 40.0, rng))
    return (image + np.clip(background, 0, None)).astype(np.float32)


def phantom_stack(
    kind: Kind, shape: tuple[int, int, int], rng: np.random.Generator, *, spacing: int = 3
) -> Array:
    """Return a procedural specimen as an optically sectioning microscope samples it along z.

    A specimen with cubic voxels, blurred along z by a Gaussian of half the distance between
    planes (the thickness of the section), of which every `spacing`-th plane is kept: structures
    go on through neighbouring planes, as those of a real stack do.

    Parameters
    ----------
    kind : {'membranes', 'tubes', 'nuclei', 'puncta', 'mixed'}
        As for `phantom`.
    shape : tuple of int
        (Z, Y, X): planes, and pixels.
    rng : numpy.random.Generator
        Source of everything random.
    spacing : int
        Distance between planes, in lateral pixels.

    Returns
    -------
    ndarray of float32, of that shape
        Light per pixel, 0 to about 1.
    """
    planes, height, width = shape
    fine = phantom(kind, (spacing * planes, height, width), rng)
    sections = scipy.ndimage.gaussian_filter1d(fine, spacing / 2, axis=0, mode="nearest")
    return np.ascontiguousarray(sections[spacing // 2 :: spacing])


_CELL = 24
"""Side of the cubes, in pixels, of which each has one cell of `exact_membranes`."""


def exact_membranes(shape: tuple[int, ...], seed: int, *, spacing: int = 3) -> NDArray[np.float64]:
    """Return walls between cells whose pixels are the same bits on every machine.

    Only whole numbers, sums, products, quotients and square roots, which all processors round
    alike: no exponential, transform or sum over many. Simpler than `phantom`, for files whose
    bytes are promised.

    Parameters
    ----------
    shape : tuple of int
        (Y, X), or (Z, Y, X) with planes `spacing` pixels apart.
    seed : int
    spacing : int
        Distance between planes, in lateral pixels.

    Returns
    -------
    ndarray of that shape
        Light per pixel, with a mean of about 1/3.
    """
    steps = (spacing, 1, 1)[-len(shape) :]
    cells = [step * size // _CELL + 5 for step, size in zip(steps, shape, strict=True)]
    corners = np.stack(np.meshgrid(*map(np.arange, cells), indexing="ij"), axis=-1)
    corners = (corners.reshape(-1, len(shape)) - 2) * _CELL
    bits = np.random.Philox(key=seed).random_raw((len(shape) + 1) * len(corners))
    drawn = (bits >> np.uint64(54)).astype(np.float64).reshape(-1, len(shape) + 1)  # 0 .. 1023
    tree = scipy.spatial.KDTree(corners + drawn[:, 1:] * (_CELL / 1024))
    axes = [step * np.arange(size) for step, size in zip(steps, shape, strict=True)]
    pixels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    nearest = tree.query(pixels, k=2)
    distance, owner = np.asarray(nearest[0]), np.asarray(nearest[1])
    apart = (distance[:, 1] - distance[:, 0]) / 3
    wall = 1 / ((1 + apart * apart) * (1 + apart * apart))
    brightness = 0.5 + drawn[:, 0] / 1024
    light = wall * (brightness[owner[:, 0]] + brightness[owner[:, 1]]) / 2
    return (light + 0.08 * brightness[owner[:, 0]]).reshape(shape)


def _smooth_noise(shape: Shape, scale: float, rng: np.random.Generator) -> Array:
    """Gaussian random field of unit variance with correlation length `scale`, in pixels."""
    shrink = max(1, int(scale / 4))
    coarse = tuple(-(-size // shrink) + 8 for size in shape)
    field = scipy.ndimage.gaussian_filter(
        rng.standard_normal(coarse).astype(np.float32), scale / shrink
    )
    grids = np.meshgrid(*(np.arange(size) / shrink + 4 for size in shape), indexing="ij")
    fine = scipy.ndimage.map_coordinates(field, grids, order=1, mode="reflect")
    return (fine / (fine.std() + 1e-9)).astype(np.float32)


def _warped_grid(shape: Shape, amplitude: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Coordinates (number of pixels, ndim), bent by a smooth random displacement."""
    grids = np.meshgrid(*(np.arange(size, dtype=np.float32) for size in shape), indexing="ij")
    bent = [grid + amplitude * _smooth_noise(shape, 20.0, rng) for grid in grids]
    return np.stack([grid.ravel() for grid in bent], axis=1).astype(np.float32)


def _membranes(shape: Shape, rng: np.random.Generator) -> Array:
    """Walls between the cells of a bent Voronoi tessellation."""
    diameter = rng.uniform(14, 40)
    padded = [size + 4 * diameter for size in shape]
    count = max(4, int(np.prod(padded) / diameter ** len(shape)))
    seeds = rng.uniform(-2 * diameter, np.array(shape) + 2 * diameter, size=(count, len(shape)))
    tree = scipy.spatial.KDTree(seeds)
    nearest = tree.query(_warped_grid(shape, 0.08 * diameter, rng), k=2)
    distance, owner = np.asarray(nearest[0]), np.asarray(nearest[1])
    thickness = rng.uniform(0.8, 1.8)
    wall = np.exp(-0.5 * ((distance[:, 1] - distance[:, 0]) / (2 * thickness)) ** 2)
    # A wall is as bright as its two cells make it; some cells also glow inside.
    brightness = rng.lognormal(0.0, 0.35, size=count)
    inside = rng.uniform(0, 0.15, size=count) * (rng.random(count) < 0.4)
    image = 0.5 * wall * (brightness[owner[:, 0]] + brightness[owner[:, 1]]) + inside[owner[:, 0]]
    return (0.6 * image).reshape(shape).astype(np.float32)


def _tubes(shape: Shape, rng: np.random.Generator) -> Array:
    """Bent filaments and vessels, some of them hollow."""
    size = float(np.mean(shape[-2:]))
    image = np.zeros(shape, np.float32)
    for radius in (rng.uniform(0.8, 1.6), rng.uniform(2.0, 4.5)):
        count = int(rng.integers(4, 12) * np.prod(shape) / size**2 / (1 if len(shape) == 2 else 12))
        mask = np.ones(shape, bool)
        for _ in range(max(2, count)):
            _walk(mask, rng)
        distance = np.asarray(scipy.ndimage.distance_transform_edt(mask), np.float32)
        body = np.exp(-0.5 * (distance / radius) ** 2)
        if radius > 2 and rng.random() < 0.5:
            body = body - 0.7 * np.exp(-0.5 * (distance / (0.5 * radius)) ** 2)
        image += body * rng.uniform(0.4, 0.9)
    uneven = np.clip(1 + 0.3 * _smooth_noise(shape, 30.0, rng), 0.1, None)
    return (image * uneven).astype(np.float32)


def _walk(mask: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Clear the pixels along a persistent random walk through the volume."""
    shape = np.array(mask.shape)
    position = rng.uniform(0, shape)
    direction = rng.standard_normal(len(shape))
    for _ in range(int(2 * shape.max())):
        direction = direction + 0.12 * rng.standard_normal(len(shape))
        direction /= np.linalg.norm(direction)
        position = position + 0.7 * direction
        index = np.round(position).astype(int)
        if ((index < 0) | (index >= shape)).any():
            return
        mask[tuple(index)] = False


def _nuclei(shape: Shape, rng: np.random.Generator) -> Array:
    """Textured ellipsoids with soft edges."""
    ndim = len(shape)
    radius = rng.uniform(6, 16)
    density = rng.uniform(0.2, 0.45)
    count = max(3, int(density * np.prod(shape) / (2 * radius) ** ndim * 1.5))
    image = np.zeros(shape, np.float32)
    texture = 1 + rng.uniform(0.1, 0.45) * _smooth_noise(shape, rng.uniform(1.2, 3.0), rng)
    centres = rng.uniform(0, shape, size=(count, ndim))
    for centre in centres:
        axes = radius * rng.uniform(0.65, 1.3, size=ndim)
        rotation = np.linalg.qr(rng.standard_normal((ndim, ndim)))[0]
        reach = np.ceil(axes.max() + 4).astype(int)
        low = np.maximum(np.floor(centre - reach).astype(int), 0)
        high = np.minimum(np.ceil(centre + reach).astype(int) + 1, shape)
        if (high <= low).any():
            continue
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        local = np.stack(
            np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"),
            axis=-1,
        )
        inside = np.linalg.norm(((local - centre) @ rotation) / axes, axis=-1)
        body = 1 / (1 + np.exp((inside - 1) * axes.mean() / rng.uniform(0.5, 1.0)))
        # Nuclei do not overlap in tissue: the brighter one is in front.
        image[window] = np.maximum(image[window], body * rng.uniform(0.35, 1.0))
    return (image * np.clip(texture, 0, None)).astype(np.float32)


def _puncta(shape: Shape, rng: np.random.Generator) -> Array:
    """Small spots of very different brightness."""
    image = np.zeros(shape, np.float32)
    for width in (rng.uniform(0.8, 1.4), rng.uniform(1.5, 3.0)):
        volume = (6 * width) ** len(shape)
        count = max(3, int(rng.uniform(0.3, 1.5) * np.prod(shape) / volume))
        spots = np.zeros(shape, np.float32)
        index = tuple(rng.integers(0, size, count) for size in shape)
        np.add.at(spots, index, rng.lognormal(-0.5, 0.7, count).astype(np.float32))
        peak = (2 * np.pi * width**2) ** (len(shape) / 2)
        image += scipy.ndimage.gaussian_filter(spots, width, mode="constant") * np.float32(peak)
    return 0.5 * image


_MAKERS: dict[str, Maker] = {
    "membranes": _membranes,
    "tubes": _tubes,
    "nuclei": _nuclei,
    "puncta": _puncta,
}
