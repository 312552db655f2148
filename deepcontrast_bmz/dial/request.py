"""What was asked for: a dial, whole iterations or all of them, checked against the model."""

from __future__ import annotations

__all__ = ["MOST_ITERATIONS", "DialRequest", "count_iterations", "parse_dial_request"]

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepcontrast_bmz.dial.table import DialTable, parse_dial_table
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

    table: DialTable | None
    """Optical depth to remove; None is to be chosen from the image."""
    count: int | None
    """How many iterations are returned instead of one image; None for one image."""
    reason: str
    """Where the dial comes from; empty if it is to be chosen."""
    asked: str = "auto"
    """The dial as it was asked for: a dial that was chosen from images is still auto."""

    @property
    def chosen(self) -> bool:
        """Whether it was, or is to be, chosen from images."""
        return self.asked == "auto"


def parse_dial_request(
    model: Model,
    dial: float | str | None = None,
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
        table = DialTable.even(count * step)
        return DialRequest(table, count, f"all {count} iterations", table.text)
    if iterations is not None:
        if dial is not None:
            raise InputError(
                f"a dial ({dial}) and whole iterations ({iterations}) exclude each other: "
                "leave one out"
            )
        table = DialTable.even(_check_iterations(model, iterations) * step)
        reason = f"dial {table.text} ({iterations} iterations, as asked for)"
        return DialRequest(table, None, reason, table.text)
    why = "as asked for"
    if dial is None and description.recommended_dial is not None:
        dial = description.recommended_dial
        why = f"as the model recommends: {description.recommended_dial_reason}".rstrip(": ")
    if dial is None or dial == "auto":
        return DialRequest(None, None, "")
    if isinstance(dial, str):
        table = parse_dial_table(dial)
    else:
        value = finite(float(dial), "the dial", minimum=0.0, hint="0 is the raw image")
        table = DialTable.even(value)
    most = MOST_ITERATIONS * step
    if table.largest > most:
        raise InputError(
            f"at most {MOST_ITERATIONS} iterations are run (dial {most:g}), too few for dial "
            f"{table.largest:g}: choose a smaller dial"
        )
    count = count_iterations(table.largest, description)
    if count:
        _check_iterations(model, count)
    return DialRequest(table, None, f"dial {table.text} ({why})", table.text)


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
