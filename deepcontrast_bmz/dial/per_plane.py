"""Chooses a dial for single planes of an image; `experiment` makes one of them.

What is chosen depends on the image alone: on a window of each plane, on a seeded sample of windows
where a plane is large, and on planes at even distances where there are many. How the image is cut
into blocks makes no difference.
"""

from __future__ import annotations

__all__ = [
    "choose_per_plane",
    "decide_plane",
    "warn_if_unusual",
]

import itertools
import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepcontrast_bmz.dial.automatic import decide_dial
from deepcontrast_bmz.dial.experiment import PlaneChoices
from deepcontrast_bmz.dial.mirrored import iterate_mirrored
from deepcontrast_bmz.dial.unusual import find_unusual
from deepcontrast_bmz.dial.window import WINDOW
from deepcontrast_bmz.model.devices import memory_ran_out
from deepcontrast_bmz.physics.scatter import widths_in_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from deepcontrast_bmz.dial.automatic import Decision, DialChoice
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
"""Planes that are measured along an axis."""

_FEWEST_FRAMES = 3
"""Frames with content: where fewer were met, more frames are looked at."""


def choose_per_plane(
    model: Model,
    source: Source,
    pixel_size_um: float | None,
    names: tuple[str, ...] | None = None,
) -> PlaneChoices:
    """Choose a dial for planes of an image, each on its own.

    Of many planes along z, and of many frames, some at even distances are looked at; more frames
    where most of them are empty.

    Parameters
    ----------
    model : Model
    source : Source
    pixel_size_um : float or None
        Of the image, within the plane.
    names : tuple of str, optional
        Of the channels, where known.

    Returns
    -------
    PlaneChoices
    """
    widths = widths_in_pixels(model.description.scatter, pixel_size_um)
    dims = source.dims[:-2]
    lines = [_pick_places(dim, n) for dim, n in zip(dims, source.planes, strict=True)]
    found: dict[tuple[int, ...], tuple[DialChoice, float]] = {}
    while True:
        for plane in itertools.product(*lines):
            if plane not in found:
                decision = decide_plane(model, source, plane, widths)
                found[plane] = decision.choice, _measure_light(decision)
                logger.info("plane %s: %s", plane, found[plane][0].reason)
        more = _pick_more_frames(dims, source.planes, lines, found)
        if not more:
            break
        lines[0] = sorted([*lines[0], *more])
    looked_at = [found[plane] for plane in itertools.product(*lines)]
    choices = tuple(choice for choice, _ in looked_at)
    _warn(choices, source)
    return PlaneChoices(
        dims=dims,
        lengths=source.planes,
        lines=tuple(tuple(line) for line in lines),
        choices=choices,
        levels=tuple(level for _, level in looked_at),
        names=names,
    )


def _pick_more_frames(
    dims: Sequence[str],
    lengths: Sequence[int],
    lines: Sequence[list[int]],
    found: Mapping[tuple[int, ...], tuple[DialChoice, float]],
) -> list[int]:
    """Return frames between those that were looked at, where next to none has content."""
    if "t" not in dims or len(lines[0]) >= min(lengths[0], 4 * _MOST_PLANES["t"]):
        return []
    filled = {plane[0] for plane, (choice, _) in found.items() if not choice.empty}
    if len(filled) >= _FEWEST_FRAMES:
        return []
    between = np.rint(np.linspace(0, lengths[0] - 1, min(lengths[0], 2 * len(lines[0]) + 1)))
    return sorted({int(place) for place in between} - set(lines[0]))


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
    at = place[: len(source.leading)], tuple(lines)
    pixels, used = torch.from_numpy(source.read(*at)), source.find_used(*at)
    try:
        found = find_unusual(model, pixels, None if used is None else torch.from_numpy(used))
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


def _pick_places(dim: str, length: int) -> list[int]:
    """Return the places along an axis that are looked at, at even distances."""
    most = min(length, _MOST_PLANES.get(dim, length))
    return [int(place) for place in np.rint(np.linspace(0, length - 1, most))]


def _measure_light(decision: Decision) -> float:
    """Return the light of a plane, in counts above its dark parts."""
    look = decision.look
    if look is None or not bool(look.usable.any()):
        return 0.0
    seen = look.raw[look.usable].numpy()
    return float(seen.mean()) - float(np.percentile(seen, 1))


def decide_plane(
    model: Model,
    source: Source,
    plane: tuple[int, ...],
    widths_px: tuple[float, ...],
    *,
    offset: float | None = None,
) -> Decision:
    """Decide the dial of one plane: the one decision of `predict`, `evaluate` and all others.

    Parameters
    ----------
    model : Model
    source : Source
    plane : tuple of int
        Its place along all axes but y and x.
    widths_px : tuple of float
        Widths of the scattering kernel, in pixels.
    offset : float, optional
        Counts in the dark; estimated if left out.
    """
    place, depth = plane[: len(source.leading)], plane[len(source.leading) :]
    # A model of stacks is shown the planes that it sees, mirrored at the ends of the stack.
    reach = model.description.iterations * model.radii[0] if depth else 0
    planes: list[int | None] = [None]
    if depth:
        planes = [_mirror(depth[0] + i, source.shape[0]) for i in range(-reach, reach + 1)]

    def lines(z: int | None, rows: slice, columns: slice) -> tuple[slice, ...]:
        return (*(() if z is None else (slice(z, z + 1),)), rows, columns)

    def read_filled(rows: slice, columns: slice) -> Tensor:
        pixels = source.read_filled(place, lines(planes[reach], rows, columns))
        return torch.from_numpy(pixels.reshape(pixels.shape[-2:]))

    height, width = source.shape[-2:]
    rows, columns = slice(0, height), slice(0, width)
    if height * width > _LARGE_PLANE:
        rows, columns = _sample(read_filled, height, width)
    parts = [source.read(place, lines(z, rows, columns)) for z in planes]
    seen = torch.stack([torch.from_numpy(part.reshape(part.shape[-2:])) for part in parts])
    used = source.find_used(place, lines(planes[reach], rows, columns))
    return decide_dial(
        seen if depth else seen[0],
        iterate_mirrored(model),
        model.description,
        widths_px=widths_px,
        offset=offset,
        mask=None if used is None else torch.from_numpy(used.reshape(used.shape[-2:])),
    )


def _mirror(place: int, length: int) -> int:
    """Return a place within an axis that is mirrored at its ends."""
    place %= 2 * length
    return min(place, 2 * length - 1 - place)


def _sample(read: Callable[[slice, slice], Tensor], height: int, width: int) -> tuple[slice, slice]:
    """Return that of some windows from all over a plane which has the most content."""
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
    return windows[int(np.argmax(content))][1]


def _within_field(number: int, length: int, side: int, rng: np.random.Generator) -> int:
    """Return where a window begins, somewhere in its field of a line."""
    field = length / _SAMPLES
    start = int(number * field + rng.random() * max(field - side, 0))
    return max(0, min(start, length - side))
