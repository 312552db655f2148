"""Reads a folder of TIFF planes as one stack.

What the names count is the axis: in ``embryo_t003_c1_z017.tif`` the letters before the numbers
name it, whichever of MetaMorph, Opera, Micro-Manager or a script wrote them (`names`). Names that
are equal but for one number without such letters are the planes of a z-stack, and a message says
so. Positions, fields and wells are separate images, and so are files with unlike names: they are
refused, since no stack is what was recorded.
"""

from __future__ import annotations

__all__ = ["read_folder"]

import itertools
import math
import re
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.lazy_arrays import Stacked
from deepcontrast_bmz.image.plane_names import parse_name
from deepcontrast_bmz.image.reader import (
    AS_STATED,
    Found,
    Reading,
    choose_scene,
    complete_names,
    find_recorded,
    fits_in_memory,
    say_once,
)
from deepcontrast_bmz.image.tiff_read import TIFF_SUFFIXES, read_tiff

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deepcontrast_bmz.image.lazy_arrays import Part
    from deepcontrast_bmz.image.plane_names import PlaneName


def read_folder(path: Path, *, lazily: bool | None = None, how: Reading = AS_STATED) -> Found:
    """Read the planes in a folder as one image; the first one tells the pixel size.

    Parameters
    ----------
    path : Path
        Of a folder with TIFFs of one plane each, all of one size and type; other files are
        left alone.
    lazily : bool, optional
        Whether pixels are read only when they are asked for; large images are, if left out.
    how : Reading
        Which position is meant, where the names count several, and whether the axes are known.

    Raises
    ------
    InputError
        If there is no such file, one is no single plane or unlike the first, the names leave gaps
        in the middle of what they count, count separate images, or are unlike each other.
    """
    files = sorted(
        (
            file
            for file in path.iterdir()
            if file.name.lower().endswith(TIFF_SUFFIXES)
            and file.is_file()
            and not file.name.startswith(".")
        ),
        key=lambda file: _natural(file.name),
    )
    if not files:
        raise InputError(
            f"a folder is read if it is an OME-Zarr image or holds TIFFs of one plane each, but "
            f"'{path}' is neither: give a file, or the folder that ends in .zarr"
        )
    dims, shape, files, names = _grid(path, files, how)
    first = read_tiff(files[0], lazily=True)
    plane = _plane_shape(first, files[0])
    dtype = np.dtype(first.data.dtype)

    def read(number: int, part: Part) -> np.ndarray:
        found = read_tiff(files[number], lazily=True)
        if _plane_shape(found, files[number]) != plane or np.dtype(found.data.dtype) != dtype:
            raise InputError(
                f"the planes of a stack are of one size and type, but '{files[number]}' is "
                f"{found.data.dtype} of {found.data.shape} and '{files[0]}' {dtype} of {plane}: "
                "move it elsewhere"
            )
        return np.asarray(found.data[(0,) * (len(found.data.shape) - 2) + tuple(part)])

    data = Stacked(read, shape, plane, dtype)
    whole = (slice(None),) * len(data.shape)
    fits = fits_in_memory(math.prod(data.shape) * dtype.itemsize, lazily)
    sizes = {dim: first.sizes.get(dim) for dim in ("y", "x")}
    return Found(data[whole] if fits else data, [*dims, "y", "x"], names, sizes)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts plane_9 before plane_10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _grid(
    path: Path, files: list[Path], how: Reading
) -> tuple[list[str], tuple[int, ...], list[Path], list[str] | None]:
    """Return the axes that the names count, their lengths, the files so ordered, and channels."""
    parsed = [parse_name(file.stem) for file in files]
    scenes = sorted({name.scene for name in parsed}, key=_natural)
    chosen = scenes[choose_scene(scenes, how.scene, path)]
    files = [file for file, name in zip(files, parsed, strict=True) if name.scene == chosen]
    parsed = [name for name in parsed if name.scene == chosen]
    common = set.intersection(*(set(name.counts) for name in parsed))
    varied = [
        dim
        for dim in ("t", "c", "z")
        if dim in common and len({name.counts[dim] for name in parsed}) > 1
    ]
    if not varied:
        _check_numbered(path, files, said=how.axes is not None)
        return ["z"], (len(files),), files, None
    lines = _fill_grid(path, files, parsed, varied)
    places = {_place(name, varied): file for name, file in zip(parsed, files, strict=True)}
    names = None
    if "c" in varied:
        called = {name.counts["c"]: name.channel for name in parsed}
        names = complete_names([called[number] for number in lines[varied.index("c")]])
    shape = tuple(len(line) for line in lines)
    return varied, shape, [places[place] for place in itertools.product(*lines)], names


def _place(name: PlaneName, dims: Sequence[str]) -> tuple[int | str, ...]:
    return tuple(name.counts[dim] for dim in dims)


def _fill_grid(
    path: Path, files: Sequence[Path], parsed: Sequence[PlaneName], dims: Sequence[str]
) -> list[list[int | str]]:
    """Return the numbers along each axis whose planes are all there; refuse gaps in between."""
    places = {_place(name, dims) for name in parsed}
    lines = [sorted({name.counts[dim] for name in parsed}) for dim in dims]
    there = np.array([place in places for place in itertools.product(*lines)])
    whole = find_recorded(there.reshape([len(line) for line in lines]), "".join(dims), path)
    if len(places) != len(files) or whole is None:
        grid = " x ".join(f"{len(line)} {dim}" for line, dim in zip(lines, dims, strict=True))
        raise InputError(
            f"the names of the {len(files)} planes in '{path}' do not count every place of "
            f"{grid} once: add what is missing, or move the rest elsewhere"
        )
    for line, dim in zip(lines, dims, strict=True):
        if dim != "c" and len({int(b) - int(a) for a, b in itertools.pairwise(line)}) > 1:
            say_once(path, "the numbers along %s leave some out", dim)
    return [line[:n] for line, n in zip(lines, whole, strict=True)]


def _check_numbered(path: Path, files: list[Path], *, said: bool) -> None:
    """Say that a plain series is taken for a z-stack; refuse files that are no series."""
    if len(files) == 1:
        return
    patterns = {tuple(re.split(r"\d+", file.stem.lower())) for file in files}
    numbers = {tuple(re.findall(r"\d+", file.stem)) for file in files}
    moving = (
        [len(set(column)) > 1 for column in zip(*numbers, strict=True)]
        if (len(patterns) == 1)
        else []
    )
    if sum(moving) != 1:
        raise InputError(
            "the names of the planes of a stack are equal but for one number, but those in "
            f"'{path}' ('{files[0].name}', '{files[1].name}') are not: give the files one by one, "
            "or write t, c or z before the numbers"
        )
    if said:
        return
    say_once(
        path,
        "its names do not say what they count, so the %d files are read as the planes of a "
        "z-stack; --axes TYX or CYX says that they are times or channels",
        len(files),
    )


def _plane_shape(found: Found, path: Path) -> tuple[int, ...]:
    shape = tuple(int(n) for n in found.data.shape)
    if found.dims[-2:] != ["y", "x"] or math.prod(shape[:-2]) != 1:
        raise InputError(
            f"a folder of planes holds TIFFs of one plane each, but '{path}' has the axes "
            f"{', '.join(found.dims)} of {shape}: give this file by itself"
        )
    return shape[-2:]
