"""One dial for all frames and images of an experiment, for each channel; along z a smooth curve.

What was chosen for single planes is put together: frames and images are compared with each other,
so they share one dial, the median of what was chosen for those with content. Through the planes of
a stack it stays a smooth curve, as depth grows smoothly. Along time it is a curve only where the
light falls and the chosen dials follow it, as with bleaching.
"""

from __future__ import annotations

__all__ = ["PlaneChoices", "channel_keys", "share_dials"]

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from deepcontrast_bmz.dial.say import say_shared
from deepcontrast_bmz.dial.smooth_z import smooth_along_z
from deepcontrast_bmz.dial.table import DialCurve, DialTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.dial.automatic import DialChoice

_DIGITS = 2
"""Decimal places of a shared dial: what is printed is what is used."""

_LEAST_SURE = 0.05
"""Weight of a plane that nothing could be read off."""

_STRAIGHT = 0.005
"""A knot this near to the line between its neighbours is left out."""

_BLEACHED_FRAMES, _BLEACHED_TO, _BLEACHED_ORDER, _BLEACHED_CHANGE = 5, 0.7, 0.9, 0.2
"""A film bleaches where so many frames have content, the light falls to this share, light and dial
follow time with at least this rank correlation, and the dial changes by at least so much."""


@dataclass(frozen=True)
class PlaneChoices:
    """What was chosen for planes of one image, each on its own."""

    dims: tuple[str, ...]
    """Axes of the image but y and x, out of t, c, z, in that order."""
    lengths: tuple[int, ...]
    """Their lengths."""
    lines: tuple[tuple[int, ...], ...]
    """Indices along each axis of the planes that were looked at."""
    choices: tuple[DialChoice, ...]
    """For each of them, the last axis fastest."""
    levels: tuple[float, ...]
    """Light of each of them, in counts above its dark parts."""
    names: tuple[str, ...] | None = None
    """Of the channels, where known."""

    @property
    def channels(self) -> list[str | int]:
        """What each channel is known by in other images of the experiment."""
        count = self.lengths[self.dims.index("c")] if "c" in self.dims else 1
        return channel_keys(count, self.names)


def channel_keys(count: int, names: Sequence[str] | None) -> list[str | int]:
    """Return what channels are known by in other images: their names, or else their numbers.

    Parameters
    ----------
    count : int
        Of the channels.
    names : sequence of str or None
        Of the channels, where known.
    """
    if names is not None and len(names) == count == len(set(names)):
        return list(names)
    return list(range(count))


class _Seen(NamedTuple):
    """One plane that was looked at."""

    t: int
    z: int
    choice: DialChoice
    level: float


class _Member(NamedTuple):
    """One channel of one image."""

    seen: list[_Seen]
    z_line: tuple[int, ...]
    has_z: bool
    frames: int
    depth: int


def share_dials(images: Sequence[PlaneChoices]) -> list[tuple[DialTable, str]]:
    """Return the dials of every image of an experiment, and why these.

    Channels of the same name, or else of the same number, share their dials over all images;
    images with and without a z axis share none.

    Parameters
    ----------
    images : sequence of PlaneChoices

    Returns
    -------
    list of (DialTable, str)
        For each image its dials, and one sentence.
    """
    groups: dict[tuple[str | int, bool], list[_Member]] = defaultdict(list)
    for image in images:
        for number, channel in enumerate(image.channels):
            groups[channel, "z" in image.dims].append(_member(image, number))
    curves = {key: _curve_of(members) for key, members in groups.items()}
    found: list[tuple[DialTable, str]] = []
    for image in images:
        keys = [(channel, "z" in image.dims) for channel in image.channels]
        table = DialTable(tuple(curves[key] for key in keys))
        members = [member for key in keys for member in groups[key]]
        found.append((table, _say(table, members, len(groups[keys[0]]))))
    return found


def _say(table: DialTable, members: Sequence[_Member], images: int) -> str:
    """Return why an image has these dials."""
    seen = [one for member in members for one in member.seen]
    filled = [one.choice for one in seen if not one.choice.empty]
    surest = max(filled or [one.choice for one in seen], key=lambda choice: choice.confidence)
    total = sum(member.frames * member.depth for member in members)
    if total == 1:
        return surest.reason
    axes = {curve.axis for curve in table.curves}
    return say_shared(
        table.text,
        measured=len(seen),
        empty=len(seen) - len(filled),
        total=total,
        images=images,
        smooth=next((axis for axis in ("z", "t") if axis in axes), None),
        surest=surest.reason,
    )


def _member(image: PlaneChoices, channel: int) -> _Member:
    """Return what was seen of one channel of an image."""
    shape = [len(line) for line in image.lines]
    lengths = dict(zip(image.dims, image.lengths, strict=True))
    seen: list[_Seen] = []
    for number, place in enumerate(np.ndindex(*shape)):
        at = {d: line[i] for d, line, i in zip(image.dims, image.lines, place, strict=True)}
        if at.get("c", 0) == channel:
            seen.append(
                _Seen(at.get("t", 0), at.get("z", 0), image.choices[number], image.levels[number])
            )
    z_line = image.lines[image.dims.index("z")] if "z" in image.dims else (0,)
    return _Member(seen, z_line, "z" in image.dims, lengths.get("t", 1), lengths.get("z", 1))


def _curve_of(members: Sequence[_Member]) -> DialCurve:
    """Return the curve that one channel has in all images."""
    filled = [one for member in members for one in member.seen if not one.choice.empty]
    if not filled:
        return DialCurve(((0, 0.0),))
    if members[0].has_z:
        return _curve_along_z(members)
    if all(_bleaches(member) for member in members):
        return _curve_along(filled, sorted({one.t for one in filled}), "t")
    return DialCurve(((0, _pool(filled)[0]),))


def _curve_along_z(members: Sequence[_Member]) -> DialCurve:
    """Return one curve along z, for stacks of any length, counted from their first plane."""
    line = max((member.z_line for member in members), key=lambda line: (line[-1], len(line)))
    placed: list[_Seen] = []
    for member in members:
        own = np.array(member.z_line)
        for place in line:
            if place < member.depth:
                nearest = int(own[np.abs(own - place).argmin()])
                placed += [one._replace(z=place) for one in member.seen if one.z == nearest]
    filled = [one for one in placed if not one.choice.empty]
    return _curve_along(filled, list(line), "z", _limits_along(placed))


def _limits_along(seen: Sequence[_Seen]) -> dict[int, float]:
    """Return the largest dial at each place along z: the median of what the evidence allows."""
    at: dict[int, list[float]] = defaultdict(list)
    for one in seen:
        if one.choice.most is not None:
            at[one.z].append(one.choice.most)
    return {place: float(np.median(limits)) for place, limits in at.items()}


def _curve_along(
    seen: Sequence[_Seen],
    line: Sequence[int],
    axis: Literal["t", "z"],
    most: Mapping[int, float] | None = None,
) -> DialCurve:
    """Return a smooth curve through the medians at places along an axis."""
    most = most or {}
    at: dict[int, list[_Seen]] = defaultdict(list)
    for one in seen:
        at[one.t if axis == "t" else one.z].append(one)
    known = [place for place in line if at[place]]
    pooled = {place: _pool(at[place]) for place in known}
    dials = np.interp(line, known, [pooled[place][0] for place in known])
    # Planes without content get what lies between their neighbours, and next to no weight.
    sure = [pooled[place][1] if place in pooled else 0.0 for place in line]
    smooth = smooth_along_z(list(dials), sure) if len(line) > 2 else list(dials)
    # No further than the evidence of a plane allows; where it has no structure, not at all.
    held = [min(dial, most.get(place, dial)) for place, dial in zip(line, smooth, strict=True)]
    curve = [(place, round(float(d), _DIGITS)) for place, d in zip(line, held, strict=True)]
    kept = _simplify(curve)
    return DialCurve(((0, kept[0][1]),)) if len(kept) == 1 else DialCurve(tuple(kept), axis)


def _pool(seen: Sequence[_Seen]) -> tuple[float, float]:
    """Return the median dial, each weighing as much as it is sure, and how sure they are."""
    dials = np.array([one.choice.dial for one in seen])
    weights = np.array([max(one.choice.confidence, _LEAST_SURE) for one in seen])
    order = np.argsort(dials, kind="stable")
    share = np.cumsum(weights[order]) - weights[order] / 2
    # At equal weights this is the median: halfway between the two middle ones.
    median = np.interp(weights.sum() / 2, share, dials[order])
    return round(float(median), _DIGITS), float(weights.mean())


def _simplify(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Leave out the knots that lie on the line between those that stay."""
    if all(dial == curve[0][1] for _, dial in curve):
        return [curve[0]]
    places = np.array([place for place, _ in curve], float)
    dials = np.array([dial for _, dial in curve])
    kept = [0, len(curve) - 1]
    while True:
        off = np.abs(np.interp(places, places[kept], dials[kept]) - dials)
        worst = int(off.argmax())
        if off[worst] <= _STRAIGHT:
            return [curve[i] for i in kept]
        kept = sorted({*kept, worst})


def _bleaches(member: _Member) -> bool:
    """Say whether the light falls along time and the chosen dials follow it."""
    filled = sorted((one for one in member.seen if not one.choice.empty), key=lambda one: one.t)
    if member.has_z or len(filled) < _BLEACHED_FRAMES:
        return False
    times = np.array([one.t for one in filled], float)
    levels = np.array([one.level for one in filled])
    dials = np.array([one.choice.dial for one in filled])
    if levels[-1] > _BLEACHED_TO * levels[0] or np.ptp(dials) < _BLEACHED_CHANGE:
        return False
    falls = _rank_correlation(times, levels) <= -_BLEACHED_ORDER
    return falls and abs(_rank_correlation(times, dials)) >= _BLEACHED_ORDER


def _rank_correlation(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Return Spearman's correlation, equal values sharing their rank."""
    ranks = [
        np.array([(values < v).sum() + (values == v).sum() / 2 for v in values], float)
        for values in (one, two)
    ]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
