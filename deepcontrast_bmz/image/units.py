"""Lengths and times in whatever unit a file states them, in micrometres and seconds."""

from __future__ import annotations

__all__ = ["convert_to_um", "parse_number", "seconds", "unit_um"]

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

_SECONDS_PER_UNIT = {
    "ns": 1e-9,
    "us": 1e-6,
    "usec": 1e-6,
    "ms": 1e-3,
    "msec": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "min": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
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


def seconds(unit: object) -> float | None:
    """Return how many seconds a unit of time has, None if it is unknown."""
    if not isinstance(unit, str):
        return None
    text = unit.strip().replace("\\u00B5", "u").replace("\u00b5", "u").replace("\u03bc", "u")
    return _SECONDS_PER_UNIT.get(text.lower().rstrip("."))


def parse_number(value: object) -> float | None:
    """Return a value as a number, None if it is none."""
    try:
        return float(cast("Any", value))
    except (TypeError, ValueError):
        return None


def convert_to_um(value: object, unit: object) -> float | None:
    """Return a length in micrometres, None if its value is no number or its unit is unknown."""
    length, factor = parse_number(value), unit_um(unit)
    # Times one must give back the very number that was written.
    return None if length is None or factor is None else length * factor
