"""Runs the loop on blocks of an image, as large as memory allows."""

from __future__ import annotations

__all__ = ["block_grids", "block_sides", "run_box"]

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepcontrast_bmz.dial.request import count_iterations
from deepcontrast_bmz.errors import InputError, Unfinished
from deepcontrast_bmz.image.blocks import split
from deepcontrast_bmz.model.devices import memory_ran_out
from deepcontrast_bmz.model.loop import blend
from deepcontrast_bmz.model.model import LARGE_BLOCK, LARGE_VOLUME_BLOCK

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.image.blocks import Box
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.model.units import Source

logger = logging.getLogger(__name__)

_BYTES_PER_PIXEL = {"strips": 64, "whole": 900, "stack": 1900}
"""Largest memory of a block, over its pixels with their surroundings, rounded up from what
``benchmarks/size.py --bytes`` measures: strips of rows, planes and stacks 43 to 61; all hidden
channels, U-Nets 670 to 850 and exported graphs 340 to 560; an exported graph of stacks 1440 and
more, as it mirrors by itself."""

_SHARE = 0.5
"""Of the memory at hand, for the blocks of all cores together."""

_SMALLEST = 64
"""Pixels: blocks are halved no further."""


def block_sides(model: Model, block: int | None = None) -> tuple[int, ...]:
    """Return the largest sides of the blocks, along (z,) y, x.

    Parameters
    ----------
    model : Model
    block : int, optional
        Lateral side. Left out, it is what suits the model, halved until as many blocks as there
        are cores fit in half of the memory at hand.

    Raises
    ------
    InputError
        If a block would have no pixel.
    """
    if block is not None:
        if block < 1:
            raise InputError(f"a block has at least 1 pixel, not {block}: give more, or auto")
        return (*model.blocks[:-2], block, block)
    if model.device != "cpu":
        return model.blocks
    large = LARGE_VOLUME_BLOCK if model.dims == 3 else LARGE_BLOCK
    whole = "stack" if model.dims == 3 else "whole"
    kind = "strips" if model.block >= large else whole
    budget = _SHARE * _memory_at_hand() / (os.cpu_count() or 1)
    count = model.description.iterations
    sides = model.blocks
    while max(sides[-2:]) > 2 * _SMALLEST:
        extended = [n + 2 * count * r for n, r in zip(sides, model.radii, strict=True)]
        if float(np.prod(extended, dtype=float)) * _BYTES_PER_PIXEL[kind] <= budget:
            break
        sides = (*sides[:-2], sides[-2] // 2, sides[-1] // 2)
    if sides != model.blocks:
        logger.info("blocks of %s, since memory is short", " x ".join(map(str, sides)))
    return sides


def _memory_at_hand() -> float:
    """Return how many bytes can be taken now."""
    import psutil

    return float(psutil.virtual_memory().available)


def run_box(
    model: Model,
    source: Source,
    places: Sequence[tuple[int, ...]],
    dials: Sequence[float],
    box: Box,
    count: int | None = None,
    *,
    turn: AbstractContextManager[Any] | None = None,
) -> NDArray[np.float32]:
    """Run the loop on one box of some units; where memory does not suffice, on halves of it.

    Parameters
    ----------
    model : Model
    source : Source
    places : sequence of tuple of int
        Units that are run together.
    dials : sequence of float
        Optical depth to remove: one, or one for every plane of the box of a stack.
    box : Box
        Begins on the pooling grid.
    count : int, optional
        Return so many iterations instead.
    turn : context manager, optional
        Entered while the model runs, for those who share it.

    Returns
    -------
    ndarray of float32, (B, C, *box.shape)
        C is 1, or the count of iterations.

    Raises
    ------
    Unfinished
        If memory does not suffice for the smallest of boxes.
    """
    with contextlib.suppress(_OutOfMemory):
        return _run_box(model, source, places, dials, box, count, turn)
    # Here, outside, nothing of the failed attempt is held any more.
    if model.device == "cuda":
        torch.cuda.empty_cache()
    grids = block_grids(model)
    halves = split(box, grids, _SMALLEST)
    if not halves:
        raise Unfinished(
            f"memory does not suffice for a block of {' x '.join(map(str, box.shape))} pixels: "
            "end other programs, or take a machine with more"
        )
    logger.warning("memory is short: a block is halved to %s", halves[0].shape)
    result: NDArray[np.float32] | None = None
    for half in halves:
        inside = half.within(box)
        # A stack's dials are those of the planes of the half.
        own = dials[inside.starts[0] : inside.stops[0]] if len(dials) > 1 else dials
        part = run_box(model, source, places, own, half, count, turn=turn)
        if result is None:
            result = np.empty((*part.shape[:2], *box.shape), np.float32)
        result[(..., *inside.slices)] = part
    assert result is not None
    return result


class _OutOfMemory(Exception):  # noqa: N818 - it is caught here
    """A block did not fit."""


def _run_box(
    model: Model,
    source: Source,
    places: Sequence[tuple[int, ...]],
    dials: Sequence[float],
    box: Box,
    count: int | None,
    turn: AbstractContextManager[Any] | None,
) -> NDArray[np.float32]:
    most = count or max(count_iterations(dial, model.description) for dial in dials)
    margins = [most * radius for radius in model.radii]
    try:
        opened = [source.open_window(place, box, margins) for place in places]
        extended = torch.from_numpy(np.stack([window for window, _ in opened]))[:, None]
        with turn if turn is not None else contextlib.nullcontext():
            kept = model.iterate(extended, most) if most else extended
        if count is not None:
            values = kept.numpy()
        else:
            values = _blend_planes(model, extended, kept, dials, margins) if most else kept.numpy()
        for number, (_, left) in enumerate(opened):
            if left is not None:
                values[number] = left.put_back(values[number])
        return values
    except (MemoryError, RuntimeError) as error:
        if memory_ran_out(error):
            raise _OutOfMemory from None
        raise


def _blend_planes(
    model: Model, extended: Tensor, kept: Tensor, dials: Sequence[float], margins: Sequence[int]
) -> NDArray[np.float32]:
    """Return the images at their dials, (B, 1, *box), of the iterations (B, K, *box)."""
    step = model.description.step_optical_depth
    inside = tuple(slice(m, n - m) for m, n in zip(margins, extended.shape[2:], strict=True))
    raw = extended[(slice(None), 0, *inside)]
    if model.dims == 2 or len(set(dials)) == 1:
        return blend(raw, kept, dials[0], step, dims=model.dims)[:, None].numpy()
    planes = [blend(raw[:, z], kept[:, :, z], dial, step) for z, dial in enumerate(dials)]
    return torch.stack(planes, dim=1)[:, None].numpy()


def block_grids(model: Model) -> tuple[int, ...]:
    """Return the pooling grid on which blocks begin, along (z,) y, x."""
    return (*(1,) * (model.dims - 2), model.multiple, model.multiple)
