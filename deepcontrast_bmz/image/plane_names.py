"""What the name of a file says of the plane in it: time, channel, z, and which image it is of.

MetaMorph and ImageXpress (``exp_w1DAPI_s1_t1``), Opera (``r02c03f01p01-ch1sk1fk1fl1``),
Micro-Manager (``img_channel000_position000_time000000000_z000``; before 1.4.23
``img_000000000_DAPI_000``), Yokogawa (``plate_C03_T0001F001L01A01Z01C01``), ScanR
(``--W00001--P00001--Z00000--T00000--DAPI``), IncuCyte (``VID1_A1_1_00d02h00m``), and letters before
numbers as ZEN, LAS X, NIS-Elements, FLUOVIEW and scripts write them (``exp_s1z03c2``).
"""

from __future__ import annotations

__all__ = ["PlaneName", "parse_name"]

import re
from typing import NamedTuple

_OPERA = re.compile(r"(r\d+c\d+f\d+)p(\d+)-ch(\d+)sk(\d+)", re.IGNORECASE)
_OLD_MICRO_MANAGER = re.compile(r"img_(\d{9})_(.+)_(\d{3})")
_SCAN_R = re.compile(r"(.*)--(W\d+--P\d+)--Z(\d+)--T(\d+)--(.+)", re.IGNORECASE)
_YOKOGAWA = re.compile(r"(?:^|_)([A-P]\d\d)(?=_T\d{4}F\d{3}L\d\dA\d\dZ\d\dC\d\d)", re.IGNORECASE)
_INCUCYTE = re.compile(r"(?:(\d{4})y(\d\d)m)?(\d\d)d_?(\d\d)h(\d\d)m", re.IGNORECASE)
_METAMORPH_WAVE = re.compile(r"_w(\d+)((?!\d)[^_]*)", re.IGNORECASE)
# ImageXpress puts an identifier behind the wave, which may begin with a digit.
_IDENTIFIER = re.compile(
    r"(?<=w\d)(_thumb)?[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", re.IGNORECASE
)

_WORDS = {
    "t": ("t", "tp", "tl", "time", "timepoint", "frame"),
    "c": ("c", "ch", "channel", "w", "wave"),
    "z": ("z", "zstep", "slice", "p", "plane"),
    "scene": (
        *("s", "f", "m", "pos", "position", "xy", "field", "site", "scene", "tile", "view"),
        *("well", "series", "angle"),
    ),
}
_MEANING = {word: meaning for meaning, words in _WORDS.items() for word in words}
_COUNTED = re.compile(
    rf"(?<![a-z])({'|'.join(sorted(_MEANING, key=len, reverse=True))})[ _-]?(\d+)",
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
    if scan_r := _SCAN_R.fullmatch(stem):
        before, scene, z, t, channel = scan_r.groups()
        counts = {"t": int(t), "c": channel, "z": int(z)}
        return PlaneName(counts, f"{before} {scene}".strip(), channel)
    stem = _IDENTIFIER.sub("", stem)
    channel = ""
    if wave := _METAMORPH_WAVE.search(stem):
        channel = wave.group(2).strip(" -")
        stem = stem[: wave.end(1)] + stem[wave.end() :]
    counts: dict[str, int | str] = {}
    scene = _WELL.findall(stem)
    if well := _YOKOGAWA.search(stem):
        scene = [well.group(1)]
        stem = stem[: well.start()] + stem[well.end() :]
    if clock := _INCUCYTE.search(stem):
        counts["t"] = _count_minutes(*(int(part or 0) for part in clock.groups()))
        stem = stem[: clock.start()] + stem[clock.end() :]
    found = _COUNTED.findall(stem)
    waves = ("w", "wave")
    by_wave = not any(_MEANING[w.lower()] == "c" and w.lower() not in waves for w, _ in found)
    for word, number in found:
        meaning = _MEANING[word.lower()]
        # Beside the number of a channel, W is that of a well.
        if meaning == "scene" or (word.lower() in waves and not by_wave):
            scene.append(word + number)
        else:
            counts[meaning] = int(number)
    return PlaneName(counts, " ".join(dict.fromkeys(scene)), channel)


def _count_minutes(year: int, month: int, day: int, hour: int, minute: int) -> int:
    """Return minutes that grow with time; months are counted as long as any."""
    return (((year * 12 + month) * 31 + day) * 24 + hour) * 60 + minute
