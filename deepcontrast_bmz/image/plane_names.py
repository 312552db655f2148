"""What the name of a file says of the plane in it: time, channel, z, and which image it is of.

MetaMorph (``exp_w1DAPI_s1_t1``), Opera and Operetta (``r02c03f01p01-ch1sk1fk1fl1``), Micro-Manager
(``img_channel000_position000_time000000000_z000``; before 1.4.23 ``img_000000000_DAPI_000``), and
letters before numbers as scripts write them.
"""

from __future__ import annotations

__all__ = ["PlaneName", "parse_name"]

import re
from typing import NamedTuple

_OPERA = re.compile(r"(r\d+c\d+f\d+)p(\d+)-ch(\d+)sk(\d+)", re.IGNORECASE)
_OLD_MICRO_MANAGER = re.compile(r"img_(\d{9})_(.+)_(\d{3})")
_METAMORPH_WAVE = re.compile(r"_w(\d+)((?!\d)[^_]*)", re.IGNORECASE)

_WORDS = {
    "t": ("t", "tp", "time", "timepoint", "frame"),
    "c": ("c", "ch", "channel", "w", "wave"),
    "z": ("z", "slice", "p", "plane"),
    "scene": (
        *("s", "f", "m", "pos", "position", "xy", "field", "site", "scene", "tile", "view"),
        *("well", "series"),
    ),
}
_MEANING = {word: meaning for meaning, words in _WORDS.items() for word in words}
_COUNTED = re.compile(
    rf"(?:^|[^a-z])({'|'.join(sorted(_MEANING, key=len, reverse=True))})[ _-]?(\d+)",
    re.IGNORECASE,
)
_WELL = re.compile(r"(?:^|[_ -])([ABDEGHIJKLNO]\d{1,2})(?=[_ -]|$)")
# Rows C, F, M and P are left out: C1 is a channel far more often.


class PlaneName(NamedTuple):
    """The place of a plane, read off its name."""

    counts: dict[str, int | str]
    """Number along each of t, c and z that the name states; a channel may be a word."""
    scene: str
    """What the name says of well, field and position; empty if nothing."""
    channel: str = ""
    """Name of the channel, empty if it has only a number."""


def parse_name(stem: str) -> PlaneName:
    """Return what a file name without its suffix says of its plane.

    Parameters
    ----------
    stem : str
        Such as ``exp_w1DAPI_s1_t1``.
    """
    if opera := _OPERA.match(stem):
        scene, z, c, t = opera.groups()
        return PlaneName({"t": int(t), "c": int(c), "z": int(z)}, scene)
    if old := _OLD_MICRO_MANAGER.fullmatch(stem):
        t, channel, z = old.groups()
        return PlaneName({"t": int(t), "c": channel, "z": int(z)}, "", channel)
    channel = ""
    if wave := _METAMORPH_WAVE.search(stem):
        channel = wave.group(2).strip(" -")
        stem = stem[: wave.end(1)] + stem[wave.end() :]
    counts: dict[str, int | str] = {}
    scene = _WELL.findall(stem)
    for word, number in _COUNTED.findall(stem):
        meaning = _MEANING[word.lower()]
        if meaning == "scene":
            scene.append(word + number)
        else:
            counts[meaning] = int(number)
    return PlaneName(counts, " ".join(scene), channel)
