"""The ways in which a command can end badly.

``InputError`` (exit code 2): the user gave something that cannot be used; the message is one
sentence that says the rule, the value met and what to do. ``Unfinished`` (exit code 1): the
work was right, but could not be brought to its end; what is done is kept. Everything else is our
own mistake and keeps its traceback.
"""

__all__ = ["InputError", "Unfinished", "finite"]

import math


class InputError(ValueError):
    """What the user gave breaks a rule; the message says which, and what to do instead."""


class Unfinished(RuntimeError):  # noqa: N818 - it says what the work is
    """Work could not be finished; the message says why, and how to go on."""


def finite(value: float, name: str, *, minimum: float, hint: str) -> float:
    """Return `value` if it is a finite number not below `minimum`, else raise `InputError`.

    Parameters
    ----------
    value : float
        The number to examine.
    name : str
        What the user calls it.
    minimum : float
        Smallest allowed value.
    hint : str
        What to do instead, completing the sentence.

    Raises
    ------
    InputError
        If `value` is NaN, infinite or below `minimum`.
    """
    if not math.isfinite(value) or value < minimum:
        raise InputError(f"{name} must be a number of at least {minimum:g}, not {value:g}: {hint}")
    return value
