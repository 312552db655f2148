"""How far the recording lets the dial go, whatever depth was read off it."""

from __future__ import annotations

__all__ = ["Limit", "limit_dial"]

from typing import TYPE_CHECKING, NamedTuple

from deepcontrast_bmz.dial.consistency import (
    coarse_misfit,
    find_comparable,
    model_error,
    tissue_kernels,
)
from deepcontrast_bmz.dial.darkness import is_too_dark, limit_to_light, measure_darkness
from deepcontrast_bmz.dial.search import find_largest_dial
from deepcontrast_bmz.dial.verdict import LIMITS
from deepcontrast_bmz.model.loop import blend

if TYPE_CHECKING:
    from deepcontrast_bmz.dial.look import Look
    from deepcontrast_bmz.records import LoopDescription


class Limit(NamedTuple):
    """A dial, and what keeps it from being larger."""

    dial: float
    by: str | None
    """In plain words; None where nothing does."""


def limit_dial(look: Look, dial: float, description: LoopDescription) -> Limit:
    """Return the largest dial up to `dial` that the recording allows.

    Parameters
    ----------
    look : Look
    dial : float
        Optical depth to begin with.
    description : LoopDescription
        Step, kernel and trained range.
    """
    limit = Limit(dial, None)
    step = description.step_optical_depth
    light = limit_to_light(look.raw, look.iterations, limit.dial, step)
    if light < limit.dial:
        limit = Limit(light, "dark parts, which would fall below zero")
    if look.knows_offset:
        offset = _limit_to_offset(look, limit.dial, step)
        if offset < limit.dial:
            limit = Limit(offset, "dark parts, which would fall below the camera offset")
    if look.noisy:
        consistent = _limit_to_recording(look, limit.dial, description)
        if consistent < limit.dial:
            limit = Limit(consistent, "the recording, which more would not explain")
    return limit


def _limit_to_offset(look: Look, dial: float, step: float) -> float:
    """Return the largest dial up to `dial` at which dark parts keep above the camera offset."""

    def light_enough(tried: float) -> bool:
        image = blend(look.raw, look.iterations, tried, step).numpy()
        return not is_too_dark(measure_darkness(image, look.offset, look.noise))

    return find_largest_dial(dial, light_enough)


def _limit_to_recording(look: Look, dial: float, description: LoopDescription) -> float:
    """Return the largest dial up to `dial` that some tissue of the trained range explains."""
    used = find_comparable(look.raw, look.widths_px)
    if used is None:
        return dial
    kernels = tissue_kernels(look.widths_px, description.training_ranges.width_factor)
    limit = LIMITS.misfit + model_error(look.raw, look.noise, used)

    def explains(tried: float) -> bool:
        image = blend(look.raw, look.iterations, tried, description.step_optical_depth)
        weights = description.scatter.weights
        return any(
            coarse_misfit(
                look.raw,
                image,
                tried,
                widths_px=kernel,
                weights=weights,
                noise=look.noise,
                used=used,
            )
            <= limit
            for _, kernel in kernels
        )

    return find_largest_dial(dial, explains)
