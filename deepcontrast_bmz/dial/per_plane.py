"""Which dial every plane of an image gets where it is chosen from the image.

What is chosen depends on the image alone: on a window of each plane, on a seeded sample of windows
where a plane is large, and on planes at even distances where there are many. How the image is cut
into blocks makes no difference.
"""

from __future__ import annotations

__all__ = [
    "choose_dials",
    "warn_if_unusual",
]

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepcontrast_bmz.dial.automatic import choose_dial
from deepcontrast_bmz.dial.say import say_dials
from deepcontrast_bmz.dial.smooth_z import smooth_along_z
from deepcontrast_bmz.dial.unusual import find_unusual
from deepcontrast_bmz.dial.window import WINDOW, content_window
from deepcontrast_bmz.image.blocks import Box
from deepcontrast_bmz.model.devices import memory_ran_out
from deepcontrast_bmz.physics.noise import estimate_noise
from deepcontrast_bmz.physics.scatter import widths_in_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.dial.automatic import DialChoice
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.model.units import Source

logger = logging.getLogger(__name__)

_LARGE_PLANE = 2**24
"""Pixels: of larger planes only a sample of windows is looked at."""

_SAMPLES = 5
"""Windows of the sample, along each side of a plane."""

_LOOK = 768
"""Side, in pixels, of what is looked at of an image whose dial was asked for."""

_CELL = 32
"""Side of the cells that the content of a window is measured in, in pixels."""

_MOST_PLANES = {"t": 9, "z": 33}
"""Planes that are measured along an axis; the others get the dial of the nearest one."""


def choose_dials(
    model: Model, source: Source, pixel_size_um: float | None
) -> tuple[tuple[float, ...], str]:
    """Choose a dial for every plane, and say why.

    Along z the chosen dials are smoothed.

    Parameters
    ----------
    model : Model
    source : Source
    pixel_size_um : float or None
        Of the image, within the plane.

    Returns
    -------
    dials : tuple of float
        For every plane, the last axis fastest.
    reason : str
        One sentence.
    """
    widths = widths_in_pixels(model.description.scatter, pixel_size_um)
    dims = source.dims[:-2]
    lines = [_pick_places(dim, n) for dim, n in zip(dims, source.planes, strict=True)]
    places = list(np.ndindex(*(len(line) for line in lines)))
    choices: list[DialChoice] = []
    for place in places:
        plane = tuple(int(line[i]) for line, i in zip(lines, place, strict=True))
        choices.append(_choose(model, source, plane, widths))
        logger.info("plane %s: %s", plane, choices[-1].reason)
    shape = [len(line) for line in lines]
    dials = np.array([choice.dial for choice in choices]).reshape(shape)
    confidences = np.array([choice.confidence for choice in choices]).reshape(shape)
    _warn(choices, source)
    smoothed = "z" in dims and dials.shape[dims.index("z")] > 2
    if smoothed:
        dials = _smooth(dials, confidences, dims.index("z"))
    for axis, (line, length) in enumerate(zip(lines, source.planes, strict=True)):
        nearest = np.abs(np.arange(length)[:, None] - line[None]).argmin(1)
        dials = dials.take(nearest, axis)
    chosen = tuple(float(dial) for dial in dials.ravel())
    if len(chosen) == 1:
        return chosen, choices[0].reason
    surest = choices[int(np.argmax([choice.confidence for choice in choices]))]
    return chosen, say_dials(chosen, len(places), surest.reason, smoothed=smoothed)


def warn_if_unusual(model: Model, source: Source) -> str | None:
    """Say, once for an image, that it is unlike those the model was trained for.

    Parameters
    ----------
    model : Model
    source : Source
        The middle of its middle plane is looked at.

    Returns
    -------
    str or None
        The sentence; None if the image is familiar, or nothing can be said.
    """
    if model.description.ood is None or model.dims != 2:
        return None
    place = tuple(length // 2 for length in source.planes)
    lines = [
        slice(max(0, (length - _LOOK) // 2), min(length, (length + _LOOK) // 2))
        for length in source.shape[-2:]
    ]
    pixels = source.read(place[: len(source.leading)], tuple(lines))
    try:
        found = find_unusual(model, torch.from_numpy(pixels.reshape(pixels.shape[-2:])))
    except (MemoryError, RuntimeError) as error:
        if not memory_ran_out(error):
            raise
        # The result itself may still fit, in smaller blocks.
        logger.info("%s: no memory to compare it with the training images", source.name)
        return None
    warning = None if found is None else found.warning
    if warning is not None:
        logger.warning("%s: %s", source.name, warning)
    return warning


def _warn(choices: Sequence[DialChoice], source: Source) -> None:
    """Say once for an image that planes of it are unlike those the model was trained for."""
    warned = [choice.warning for choice in choices if choice.warning is not None]
    if warned:
        planes = f"{len(warned)} of {len(choices)} planes: " if len(choices) > 1 else ""
        logger.warning("%s: %s%s", source.name, planes, warned[0])


def _pick_places(dim: str, length: int) -> NDArray[np.intp]:
    """Return the places along an axis that are looked at, at even distances."""
    most = _MOST_PLANES.get(dim, length)
    if length <= most:
        return np.arange(length)
    return np.rint(np.linspace(0, length - 1, most)).astype(np.intp)


def _smooth(
    dials: NDArray[np.float64], confidences: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    """Return dials smoothed along an axis, rounded as single ones are."""
    lines, sure = (np.moveaxis(part, axis, -1) for part in (dials, confidences))
    smooth = np.empty_like(lines)
    for place in np.ndindex(lines.shape[:-1]):
        smooth[place] = np.round(smooth_along_z(list(lines[place]), list(sure[place])), 2)
    return np.moveaxis(smooth, -1, axis)


def _choose(
    model: Model, source: Source, plane: tuple[int, ...], widths: tuple[float, ...]
) -> DialChoice:
    """Choose the dial on the part of a plane with the most content."""
    place, depth = plane[: len(source.leading)], plane[len(source.leading) :]

    def read(rows: slice, columns: slice) -> Tensor:
        above = tuple(slice(z, z + 1) for z in depth)
        pixels = source.read(place, (*above, rows, columns))
        return torch.from_numpy(pixels.reshape(pixels.shape[-2:]))

    height, width = source.shape[-2:]
    if height * width > _LARGE_PLANE:
        seen, (rows, columns) = _sample(read, height, width)
    else:
        seen = read(slice(0, height), slice(0, width))
        rows, columns = content_window(seen)
    grid = model.multiple
    top, left = rows.start // grid * grid, columns.start // grid * grid
    box = Box((*depth, top, left), (*(z + 1 for z in depth), rows.stop, columns.stop))
    count = model.description.iterations
    window = source.window(place, box, [count * radius for radius in model.radii])
    kept = model.iterate(torch.from_numpy(window)[None, None], count)[0]
    return choose_dial(
        read(*box.slices[-2:]),
        kept.reshape((count, *kept.shape[-2:])),
        model.description,
        widths_px=widths,
        noise=estimate_noise(seen),
    )


def _sample(
    read: Callable[[slice, slice], Tensor], height: int, width: int
) -> tuple[Tensor, tuple[slice, slice]]:
    """Return windows from all over a plane, side by side, and where that with most content lies."""
    side = WINDOW
    rng = np.random.default_rng((height, width))
    windows: list[tuple[Tensor, tuple[slice, slice]]] = []
    for row in range(_SAMPLES):
        for column in range(_SAMPLES):
            # One in every field of a grid, so that none is missed.
            top = _within_field(row, height, side, rng)
            left = _within_field(column, width, side, rng)
            at = slice(top, min(top + side, height)), slice(left, min(left + side, width))
            windows.append((read(*at), at))
    means = [
        torch.nn.functional.avg_pool2d(w[None, None], min(_CELL, *w.shape)) for w, _ in windows
    ]
    middle = torch.cat([m.flatten() for m in means]).median()
    content = [float((m - middle).abs().mean()) for m in means]
    best = windows[int(np.argmax(content))][1]
    lines = [
        torch.cat([w for w, _ in windows[i : i + _SAMPLES]], dim=1)
        for i in range(0, len(windows), _SAMPLES)
    ]
    return torch.cat(lines), best


def _within_field(number: int, length: int, side: int, rng: np.random.Generator) -> int:
    """Return where a window begins, somewhere in its field of a line."""
    field = length / _SAMPLES
    start = int(number * field + rng.random() * max(field - side, 0))
    return max(0, min(start, length - side))
