"""Exceptions that end a command, with their exit codes.

``InputError`` (exit code 2): the user gave something that cannot be used. The message is one
sentence: what happened to which file or option, and what to do. ``Unfinished`` (exit code 1): the
input was right, but the work could not be finished; what is done is kept. Everything else is a
mistake of this project and keeps its traceback.
"""

from __future__ import annotations

__all__ = ["InputError", "Unfinished", "finite", "name_file"]

import contextlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


class InputError(ValueError):
    """The user gave something that cannot be used; the message says why, and what to do."""


class Unfinished(RuntimeError):  # noqa: N818 - it says what the work is
    """Work could not be finished; the message says why, and how to go on."""


@contextlib.contextmanager
def name_file(path: Path) -> Generator[None]:
    """Put the name of a file before what is said of it, where the message does not name it.

    Parameters
    ----------
    path : Path
        What is worked on meanwhile.

    Raises
    ------
    InputError
        As raised inside, with the name.
    """
    try:
        yield
    except InputError as error:
        if path.name in str(error):
            raise
        raise InputError(f"{path.name}: {error}") from error


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
        raise InputError(f"{name} is {value:g}, but must be at least {minimum:g}: {hint}")
    return value
