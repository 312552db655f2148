"""What was asked for: a dial, whole iterations or all of them, checked against the model."""

from __future__ import annotations

__all__ = ["MOST_ITERATIONS", "DialRequest", "count_iterations", "parse_dial_request"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deepcontrast_bmz.errors import InputError, finite
from deepcontrast_bmz.model.loop import dial_position

if TYPE_CHECKING:
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.records import LoopDescription

MOST_ITERATIONS = 16
"""No model is trained or exported with more; a dial beyond is a slip of the keyboard."""


@dataclass(frozen=True)
class DialRequest:
    """What was asked for, after checking that the model can do it."""

    dial: float | None
    """Optical depth to remove; None is to be chosen from the image."""
    count: int | None
    """How many iterations are returned instead of one image; None for one image."""
    reason: str
    """Where the dial comes from; empty if it is to be chosen."""


def parse_dial_request(
    model: Model,
    dial: float | Literal["auto"] | None = None,
    iterations: int | None = None,
    *,
    all_iterations: bool = False,
) -> DialRequest:
    """Return what is to be done.

    Parameters
    ----------
    model : Model
    dial, iterations, all_iterations
        As in `enhance`.

    Raises
    ------
    InputError
        If the choice contradicts itself or is out of the model's reach.
    """
    description = model.description
    step = description.step_optical_depth
    if all_iterations:
        if dial is not None:
            raise InputError(
                f"all iterations and one dial exclude each other, but both were asked for ({dial}):"
                " leave one out"
            )
        count = (
            description.iterations if iterations is None else _check_iterations(model, iterations)
        )
        return DialRequest(count * step, count, f"all {count} iterations")
    if iterations is not None:
        if dial is not None:
            raise InputError(
                f"a dial ({dial}) and whole iterations ({iterations}) exclude each other: "
                "leave one out"
            )
        dial = _check_iterations(model, iterations) * step
        return DialRequest(dial, None, f"dial {dial:g} ({iterations} iterations, as asked for)")
    if dial is None:
        if description.recommended_dial is None:
            return DialRequest(None, None, "")
        dial = description.recommended_dial
        why = f"as the model recommends: {description.recommended_dial_reason}".rstrip(": ")
    elif isinstance(dial, str):
        if dial != "auto":
            raise InputError(f"a dial is a number of at least 0 or auto, not {dial!r}: correct it")
        return DialRequest(None, None, "")
    else:
        why = "as asked for"
    dial = finite(float(dial), "the dial", minimum=0.0, hint="0 is the raw image")
    most = MOST_ITERATIONS * step
    if dial > most:
        raise InputError(
            f"at most {MOST_ITERATIONS} iterations are run (dial {most:g}), too few for dial "
            f"{dial:g}: choose a smaller dial"
        )
    count = count_iterations(dial, description)
    if count:
        _check_iterations(model, count)
    return DialRequest(dial, None, f"dial {dial:g} ({why})")


def _check_iterations(model: Model, iterations: int) -> int:
    if iterations > MOST_ITERATIONS:
        step = model.description.step_optical_depth
        raise InputError(
            f"at most {MOST_ITERATIONS} iterations are run (dial {MOST_ITERATIONS * step:g}), "
            f"not {iterations} (dial {iterations * step:g}): choose fewer"
        )
    model.check_iterations(iterations)
    return iterations


def count_iterations(dial: float, description: LoopDescription) -> int:
    """Return how many iterations a dial needs.

    Parameters
    ----------
    dial : float
        Optical depth to remove.
    description : LoopDescription
        Of the model.
    """
    whole, alpha = dial_position(dial, description.step_optical_depth, MOST_ITERATIONS)
    return whole + (alpha > 0)
