"""Lengths in whatever unit a file states them, in micrometres."""

from __future__ import annotations

__all__ = ["length_um", "number", "unit_um"]

import re
from typing import Any, cast

_UM_PER_UNIT = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "angstrom": 1e-4,
    "å": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "dm": 1e5,
    "decimeter": 1e5,
    "m": 1e6,
    "meter": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}


def unit_um(unit: object) -> float | None:
    """Return how many micrometres a unit of length has, None if it is unknown."""
    if not isinstance(unit, str):
        return None
    # ImageJ escapes the micro sign, Latin-1 readers of UTF-8 see a letter before it, and there
    # are two micro signs in Unicode.
    text = unit.strip().replace("\\u00B5", "u").replace("\\u00b5", "u").replace("Â", "")
    text = text.replace("\u00b5", "u").replace("\u03bc", "u").lower()
    text = re.sub("metres?$|meters$", "meter", text)
    text = {"microns": "micron", "inches": "inch", "angstroms": "angstrom"}.get(text, text)
    return _UM_PER_UNIT.get(text)


def number(value: object) -> float | None:
    """Return a value as a number, None if it is none."""
    try:
        return float(cast("Any", value))
    except (TypeError, ValueError):
        return None


def length_um(value: object, unit: object) -> float | None:
    """Return a length in micrometres, None if its value is no number or its unit is unknown."""
    length, factor = number(value), unit_um(unit)
    # Times one must give back the very number that was written.
    return None if length is None or factor is None else length * factor
