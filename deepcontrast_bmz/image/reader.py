"""What all readers share: what they find, how it becomes an image, and how they fail.

A reader of a format returns `Found`; `check_found` looks whether it is an image.
"""

from __future__ import annotations

__all__ = [
    "AS_STATED",
    "IN_MEMORY_BYTES",
    "Found",
    "Reading",
    "check_found",
    "choose_scene",
    "complete_names",
    "explain_failures",
    "find_recorded",
    "fits_in_memory",
    "name_axes",
    "override_axes",
    "parse_axes",
    "refuse_address",
    "say_once",
]

import contextlib
import logging
import math
import re
import threading
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_said: set[tuple[object, ...]] = set()

IN_MEMORY_BYTES = 2**30
"""Images with more bytes than this are read plane by plane, when needed."""


class Found(NamedTuple):
    """What a file says of its image, before it is put in our order."""

    data: Any
    """An array in memory, a dask array, or `Pixels`."""
    dims: list[str]
    names: list[str] | None
    sizes: Mapping[str, float | None]
    notes: Mapping[str, Any] = {}
    """Further attributes of the image, as `labels` lists them."""


class Reading(NamedTuple):
    """What the user says of an image that its file does not say, or says wrongly."""

    axes: str | None = None
    """Letters of t, c, z, y and x: for all axes, or for those longer than one."""
    scene: str | int | None = None
    """Name or number (from 0) of one of several images."""
    mask: Path | None = None
    """Image whose zeros say which pixels are no part of the picture."""


AS_STATED = Reading()
"""The file says all, and holds one image."""


def say_once(path: Path, message: str, *values: object) -> None:
    """Log how an image was understood, once: images are opened, then read.

    Parameters
    ----------
    path : Path
        Of the image; said again if its content changed.
    message : str
        With places for values, as for a logger.
    """
    changed = path.stat().st_mtime_ns if path.exists() else 0
    if (key := (path.absolute(), changed, message, values)) not in _said:
        _said.add(key)
        logger.warning(f"%s: {message}", path, *values)


def parse_axes(axes: str) -> str:
    """Return letters of axes as capitals.

    Raises
    ------
    InputError
        If they are no letters of axes, one appears twice, or y or x is missing.
    """
    letters = axes.upper()
    if set(letters) - set("TCZYX") or len(set(letters)) < len(letters) or not {*"YX"} <= {*letters}:
        raise InputError(
            "axes are named by t, c, z, y and x, each at most once and with y and x, but "
            f"'{axes}' is not so: write them as in TYX"
        )
    return letters


def override_axes(axes: str, shape: tuple[int, ...], path: Path) -> str:
    """Return a letter for each axis of a file, given those for all of them or for the long ones.

    Parameters
    ----------
    axes : str
        Letters of t, c, z, y and x.
    shape : tuple of int
        Of the file. Axes of length one without a letter become Q.
    path : Path
        Named in messages.

    Raises
    ------
    InputError
        If their number fits neither.
    """
    letters = parse_axes(axes)
    if len(letters) == len(shape):
        return letters
    if len(letters) != sum(n > 1 for n in shape):
        raise InputError(
            "axes are named for all axes of an image or for those longer than one, but "
            f"'{axes}' does not fit '{path}' of shape {tuple(shape)}: write one letter for each"
        )
    rest = iter(letters)
    return "".join(next(rest) if n > 1 else "Q" for n in shape)


def choose_scene(names: Sequence[str], scene: str | int | None, path: Path) -> int:
    """Return which of several images is meant, from 0.

    Parameters
    ----------
    names : sequence of str
        Of the images; empty where there is none.
    scene : str, int or None
        A name, or a number (also as text, if no image is called so); None is the only one.
    path : Path
        Named in messages.

    Raises
    ------
    InputError
        If there is no such image, or several and none was chosen.
    """
    count = len(names)
    shown = [f"{i}: {name}" if name else str(i) for i, name in enumerate(names)]
    listed = ", ".join(shown[:8]) + (", ..." if count > 8 else "")
    if scene is None:
        if count == 1:
            return 0
        raise InputError(
            f"one image is read, but '{path}' holds {count} separate ones ({listed}): "
            "choose one with --scene, or save it as a file or folder of its own"
        )
    matches = [i for i, name in enumerate(names) if name == str(scene)]
    if len(matches) == 1:
        return matches[0]
    if not re.fullmatch(r"\d+", str(scene)) or int(scene) >= count:
        raise InputError(
            f"a scene is chosen by its name or number, but '{scene}' is none of '{path}' "
            f"({listed}): choose one of them"
        )
    return int(scene)


def refuse_address(path: Path) -> None:
    """Raise `InputError` if this is an address on the network, and no file.

    Parameters
    ----------
    path : Path
        What the user gave.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE) and not path.exists():
        raise InputError(
            f"images are read from a disk, but '{path}' is an address: download it first"
        )


def fits_in_memory(size: int, lazily: bool | None = None) -> bool:
    """Say whether an image of so many bytes is read at once, unless that is decided already."""
    return size <= IN_MEMORY_BYTES if lazily is None else not lazily


def check_found(found: Found, path: Path, *, mask: bool = False) -> Found:
    """Return what was found if it is an image, with what is known of its axes and no more.

    Parameters
    ----------
    found : Found
    path : Path
        Named in messages.
    mask : bool
        Pixels may be true and false.

    Raises
    ------
    InputError
        If it has no pixels, or they are no real numbers.
    """
    data, dims, names, sizes, notes = found
    dtype = np.dtype(data.dtype)
    if dtype.kind not in ("iufb" if mask else "iuf"):
        kinds = {"b": "true and false (a mask)", "c": "complex numbers"}
        raise InputError(
            f"pixels must be integers or floating point numbers, but '{path}' holds "
            f"{kinds.get(dtype.kind, str(dtype))}: save it as an intensity image"
        )
    if 0 in data.shape:
        raise InputError(
            f"an image has at least one pixel along every axis, but '{path}' has shape "
            f"{tuple(data.shape)}: save it again"
        )
    if names is not None and ("c" not in dims or len(names) != data.shape[dims.index("c")]):
        names = None
    known: dict[str, float | None] = {
        dim: float(size)
        for dim in ("z", "y", "x")
        if dim in dims and (size := sizes.get(dim)) is not None and 0 < size < math.inf
    }
    return Found(data, dims, names, known, notes)


def name_axes(
    axes: str, shape: tuple[int, ...], path: Path
) -> tuple[list[str], tuple[slice | int, ...]]:
    """Return our names of the axes a file states, and the index that drops those that are none.

    The letters are those of tifffile: S are colour samples, Q and I are axes without a meaning.
    The only axis without a meaning is z, if no other is.
    """
    letters = {"T": "t", "C": "c", "Z": "z", "Y": "y", "X": "x", "S": "c"}
    unknown = [
        axis for axis, length in zip(axes, shape, strict=True) if axis in "QI" and length > 1
    ]
    if len(unknown) == 1 and "Z" not in axes:
        letters[unknown[0]] = "z"
    dims: list[str] = []
    picks: list[slice | int] = []
    for axis, length in zip(axes, shape, strict=True):
        name = letters.get(axis)
        drop = length == 1 and axis not in "TCZYX"
        picks.append(0 if drop else slice(None))
        if drop:
            continue
        if name is None or name in dims:
            raise InputError(
                "an image file must say which of its axes is time, channel, z, y and x, but those "
                f"of '{path}' are {axes} with lengths {shape}: save it as OME-TIFF or as an ImageJ "
                "hyperstack, or split it"
            )
        dims.append(name)
    if not {"y", "x"} <= set(dims):
        raise InputError(
            f"an image has the axes y and x, but those of '{path}' are {axes}: save it again as "
            "an image"
        )
    return dims, tuple(picks)


def find_recorded(there: NDArray[np.bool_], axes: str, path: Path) -> tuple[int, ...] | None:
    """Return how far a grid of planes is whole whose recording was stopped early; say so.

    What comes last may be missing: whole steps along any axis, and a part of the last step along
    time or depth, which is then left out.

    Parameters
    ----------
    there : ndarray of bool
        Which planes were recorded.
    axes : str
        Letters of its axes.
    path : Path
        Named in messages.

    Returns
    -------
    tuple of int, or None
        Length along each axis; None if planes in between are missing.
    """
    others = [tuple(i for i in range(there.ndim) if i != axis) for axis in range(there.ndim)]
    reach = [1 + int(np.flatnonzero(there.any(other))[-1]) for other in others]
    box = there[tuple(slice(n) for n in reach)]
    choices = [reach] if box.all() else []
    if not choices:
        for axis, letter in zip(range(there.ndim), axes.upper(), strict=False):
            *before, last = np.moveaxis(box, axis, 0)
            # In the last step planes were recorded in either order, up to some place.
            begun = any((np.diff(line.ravel().astype(int)) <= 0).all() for line in (last, last.T))
            if letter != "C" and begun and before and np.all(before):
                choices.append([*reach[:axis], reach[axis] - 1, *reach[axis + 1 :]])
    if not choices:
        return None
    whole = tuple(max(choices, key=math.prod))
    if whole != there.shape:
        said = zip(whole, there.shape, axes.lower(), strict=False)
        say_once(
            path,
            "the recording was stopped early; what is whole is read (%s)",
            ", ".join(f"{n} of {all_} along {dim}" for n, all_, dim in said if n < all_),
        )
    return whole


def complete_names(names: Sequence[object]) -> list[str] | None:
    """Return channel names, the missing ones counted from one; None if all are missing."""
    if not any(names):
        return None
    return [str(name) if name else f"channel_{i}" for i, name in enumerate(names, start=1)]


_ONE_READER = threading.RLock()
# Warnings and loggers belong to the whole process: two threads that quieten them at once, as
# dask's do, would leave them quiet for good.


@contextlib.contextmanager
def explain_failures(path: Path, kind: str) -> Generator[None]:
    """Turn whatever a reader raises into one sentence, and what it mutters into debug messages.

    Damaged files raise nearly every exception there is (struct, zlib, codecs, XML, zarr).
    """
    with _ONE_READER:
        speakers = [logging.getLogger(name) for name in ("tifffile", "zarr", "bioio")]
        listener = _Listener()
        before = [(speaker, speaker.propagate) for speaker in speakers]
        for speaker in speakers:
            speaker.addHandler(listener)
            speaker.propagate = False
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
            for warning in caught:
                logger.debug("%s: %s", path, warning.message)
        except (InputError, MemoryError):
            raise
        except Exception as error:
            reason = " ".join((str(error) or type(error).__name__).split())[:200]
            reason = reason.rstrip(".").replace(". ", "; ")
            # tifffile says so of what packs the pixels.
            if needed := re.search(r"requires the '(\w+)' package", reason):
                raise InputError(
                    f"the pixels of '{path}' are packed in a way that needs the package "
                    f"{needed.group(1)}, which is not installed: pip install {needed.group(1)}"
                ) from error
            raise InputError(
                f"an image must be a whole, readable {kind}, but '{path}' is not ({reason}): "
                "copy or save it again"
            ) from error
        finally:
            for speaker, propagate in before:
                speaker.removeHandler(listener)
                speaker.propagate = propagate


class _Listener(logging.Handler):
    """Passes the messages of another library on as debug messages of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("%s", record.getMessage())
