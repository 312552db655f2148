"""Dials of the planes of an image: one, one per channel, or curves along z or time; as text."""

from __future__ import annotations

__all__ = ["DialCurve", "DialTable", "parse_dial_table"]

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from deepcontrast_bmz.errors import InputError, finite

if TYPE_CHECKING:
    from collections.abc import Sequence

_FORMS = "write 1.75, c0=1.75,c1=1.2 for channels, or z0=1,z20=1.75 for planes"

_ENTRY = re.compile(r"(?:c(?P<channel>\d+))?(?:(?P<axis>[tz])(?P<place>\d+))?=(?P<dial>[^=]+)")


@dataclass(frozen=True)
class DialCurve:
    """Optical depth to remove along one axis: straight lines between knots, level beyond them."""

    knots: tuple[tuple[int, float], ...]
    """Index along the axis, rising, and dial; one knot for a dial that is the same everywhere."""
    axis: Literal["t", "z"] | None = None
    """The axis; None for one dial."""

    def at(self, places: Sequence[int]) -> list[float]:
        """Return the dials at indices along the axis."""
        if len(self.knots) == 1:
            return [self.knots[0][1]] * len(places)
        where, dials = zip(*self.knots, strict=True)
        # Rounded, so that a value between two knots is the same on every machine.
        return [round(float(dial), 6) for dial in np.interp(places, where, dials)]


@dataclass(frozen=True)
class DialTable:
    """A curve for every channel, or one for all."""

    curves: tuple[DialCurve, ...]
    """One per channel, in their order; a single one holds for any number of channels."""

    @classmethod
    def even(cls, dial: float) -> DialTable:
        """Return one dial for everything."""
        return cls((DialCurve(((0, dial),)),))

    @property
    def largest(self) -> float:
        """The largest dial of all."""
        return max(dial for curve in self.curves for _, dial in curve.knots)

    @property
    def text(self) -> str:
        """The form in which it is printed, and can be given back to ``--dial``.

        Examples
        --------
        >>> DialTable.even(1.75).text
        '1.75'
        >>> one, two = DialCurve(((0, 1.75),)), DialCurve(((0, 1.0), (20, 1.5)), "z")
        >>> DialTable((one, two)).text
        'c0=1.75,c1z0=1,c1z20=1.5'
        """
        several = len(set(self.curves)) > 1
        if not several and self.curves[0].axis is None:
            return f"{self.curves[0].knots[0][1]:.12g}"
        return ",".join(
            (f"c{number}" if several else "")
            + ("" if curve.axis is None else f"{curve.axis}{place}")
            + f"={dial:.12g}"
            for number, curve in enumerate(self.curves if several else self.curves[:1])
            for place, dial in curve.knots
        )

    def spread(self, dims: Sequence[str], lengths: Sequence[int], name: str) -> tuple[float, ...]:
        """Return the dial of every plane of an image.

        Parameters
        ----------
        dims : sequence of str
            Axes of the image but y and x, out of t, c, z, in that order.
        lengths : sequence of int
            Their lengths.
        name : str
            Of the image, for messages.

        Returns
        -------
        tuple of float
            The last axis fastest.

        Raises
        ------
        InputError
            If it is for other channels, or another axis, than the image has.
        """
        sizes = dict(zip(dims, lengths, strict=True))
        channels = sizes.get("c", 1)
        if len(self.curves) not in (1, channels):
            raise InputError(
                f"the dial {self.text} is for {len(self.curves)} channels, but '{name}' has "
                f"{channels}: give one for each, or a single number"
            )
        dials = np.empty(tuple(lengths))
        for channel in range(channels):
            curve = self.curves[channel if len(self.curves) > 1 else 0]
            part: list[int | slice] = [channel if dim == "c" else slice(None) for dim in dims]
            shape = [1 if dim != curve.axis else sizes[dim] for dim in dims if dim != "c"]
            if curve.axis is not None and curve.axis not in sizes:
                raise InputError(
                    f"the dial {self.text} is for an image with axis {curve.axis}, but '{name}' "
                    "has none: give a single number"
                )
            places = range(sizes[curve.axis]) if curve.axis is not None else (0,)
            dials[tuple(part)] = np.array(curve.at(places)).reshape(shape)
        return tuple(float(dial) for dial in dials.ravel())


def parse_dial_table(text: str) -> DialTable:
    """Return the dials that a user wrote.

    Parameters
    ----------
    text : str
        A number, or entries with commas between, each a channel, a place along z or t, or both,
        and a dial: ``c0=1.75,c1=1.2``, ``z0=1,z20=1.75``, ``c0z0=1,c0z20=1.5,c1=0.8``.

    Raises
    ------
    InputError
        If it is none of these, a channel is missing, or a dial is negative or no number.

    Examples
    --------
    >>> parse_dial_table("c0=1.75,c1=1.2").spread(("t", "c"), (2, 2), "a film")
    (1.75, 1.2, 1.75, 1.2)
    """
    if "=" not in text:
        return DialTable.even(_read_dial(text, text))
    found: dict[int | None, dict[tuple[Literal["t", "z"] | None, int], float]] = {}
    for entry in text.replace(" ", "").split(","):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise InputError(f"the dial has an entry {entry!r} that is not understood: {_FORMS}")
        channel = None if match["channel"] is None else int(match["channel"])
        axis: Literal["t", "z"] | None = None
        if match["axis"] is not None:
            axis = "t" if match["axis"] == "t" else "z"
        place = axis, int(match["place"] or 0)
        own = found.setdefault(channel, {})
        if place in own or any(other != axis for other, _ in own):
            raise InputError(
                f"the dial gives {entry!r} beside another entry for the same planes: leave one out"
            )
        own[place] = _read_dial(match["dial"], text)
    if None in found and len(found) > 1:
        raise InputError(f"the dial {text!r} names a channel in some entries only: {_FORMS}")
    numbers = sorted(number for number in found if number is not None)
    if numbers != list(range(len(numbers))):
        missing = next(n for n in range(len(numbers) + 1) if n not in numbers)
        raise InputError(f"the dial {text!r} leaves out channel c{missing}: add c{missing}=1.5")
    return DialTable(tuple(_curve_of(found[number]) for number in numbers or [None]))


def _curve_of(entries: dict[tuple[Literal["t", "z"] | None, int], float]) -> DialCurve:
    """Return the curve of one channel."""
    knots = sorted((place, dial) for (_, place), dial in entries.items())
    return DialCurve(tuple(knots), next(axis for axis, _ in entries))


def _read_dial(text: str, whole: str) -> float:
    """Return a dial of the text."""
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(
            f"the dial is {whole!r}, which is neither a number nor auto: {_FORMS}"
        ) from error
    return finite(value, "the dial", minimum=0.0, hint="0 is the raw image")
