"""Reads a folder of TIFF planes as one stack.

What the names count is the axis: in ``embryo_t003_c1_z017.tif`` the letters before the numbers
name it (``t`` or ``time``, ``c``, ``ch`` or ``channel``, ``z`` or ``slice``). Where names carry no
such letters, the files are the planes of a z-stack, in the order of the numbers in their names.
"""

from __future__ import annotations

__all__ = ["read_folder"]

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.lazy_arrays import Stacked
from deepcontrast_bmz.image.reader import Found, fits_in_memory
from deepcontrast_bmz.image.tiff_read import TIFF_SUFFIXES, read_tiff

if TYPE_CHECKING:
    from pathlib import Path

    from deepcontrast_bmz.image.lazy_arrays import Part

_COUNTED = re.compile(
    r"(?:^|[^a-z])(t|time|c|ch|channel|z|slice)[ _-]?(\d+)(?=\D|$)", re.IGNORECASE
)
_AXES = {"t": "t", "time": "t", "c": "c", "ch": "c", "channel": "c", "z": "z", "slice": "z"}


def read_folder(path: Path, *, lazily: bool | None = None) -> Found:
    """Read the planes in a folder as one image; the first one tells the pixel size.

    Parameters
    ----------
    path : Path
        Of a folder with TIFFs of one plane each, all of one size and type; other files are
        left alone.
    lazily : bool, optional
        Whether pixels are read only when they are asked for; large images are, if left out.

    Raises
    ------
    InputError
        If there is no such file, one is no single plane or unlike the first, or the names leave
        gaps in the grid of what they count.
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
    dims, shape, files = _grid(path, files)
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
    return Found(data[whole] if fits else data, [*dims, "y", "x"], None, sizes)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts plane_9 before plane_10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _grid(path: Path, files: list[Path]) -> tuple[list[str], tuple[int, ...], list[Path]]:
    """Return the axes that the names count, their lengths, and the files in that order."""
    counted = [
        {_AXES[letter.lower()]: int(number) for letter, number in _COUNTED.findall(file.stem)}
        for file in files
    ]
    common = set.intersection(*(set(counts) for counts in counted))
    varied = [
        dim for dim in ("t", "c", "z") if dim in common and len({c[dim] for c in counted}) > 1
    ]
    if not varied:
        return ["z"], (len(files),), files
    places = {tuple(c[dim] for dim in varied): file for c, file in zip(counted, files, strict=True)}
    lines = [sorted({c[dim] for c in counted}) for dim in varied]
    shape = tuple(len(line) for line in lines)
    if len(places) != len(files) or math.prod(shape) != len(files):
        lengths = " x ".join(f"{n} {dim}" for n, dim in zip(shape, varied, strict=True))
        raise InputError(
            f"the names of planes count every place of a grid once, but the {len(files)} files in "
            f"'{path}' do not fill {lengths}: add what is missing, or move the rest elsewhere"
        )
    order = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, len(lines))
    return varied, shape, [places[tuple(int(n) for n in place)] for place in order]


def _plane_shape(found: Found, path: Path) -> tuple[int, ...]:
    shape = tuple(int(n) for n in found.data.shape)
    if found.dims[-2:] != ["y", "x"] or math.prod(shape[:-2]) != 1:
        raise InputError(
            f"a folder of planes holds TIFFs of one plane each, but '{path}' has the axes "
            f"{', '.join(found.dims)} of {shape}: give this file by itself"
        )
    return shape[-2:]
