"""Names and folders of the outputs, checked before anything is computed."""

from __future__ import annotations

__all__ = ["default_targets", "make_folders", "name_targets"]

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.atomic import LONGEST_NAME
from deepcontrast_bmz.image.reader import refuse_address

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.zarr", ".tiff", ".tif", ".zarr")
"""Formats that are written; double suffixes first."""

_READ_ONLY = (".companion.ome", ".ome.xml", ".ome.zarr.zip", ".zarr.zip")
"""Double suffixes of formats that are read and not written."""

_FOREIGN = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".h5", ".npy", ".czi", ".nd2", ".lif", ".ims")
"""Formats that are not written, and that nobody names a folder after."""


def default_targets(paths: Sequence[Path], out: Path | None) -> list[Path]:
    """Return where the results of images go in a folder, or beside the images if there is none.

    Parameters
    ----------
    paths : sequence of Path
        The images.
    out : Path or None
        A folder, or None.
    """
    if out is not None:
        return [out / _name_of(path) for path in paths]
    return [_place(path).with_name(_name_beside(path)) for path in paths]


def name_targets(paths: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Return where the result of every image goes.

    Parameters
    ----------
    paths : sequence of Path
        The images.
    out : Path, optional
        An image, or a folder in which results are called like the image with ``_enhanced`` before
        the suffix; formats that are read but not written become ``.ome.tif``. Left out, they are
        ``NAME_enhanced.ome.tif`` (``.ome.zarr`` for an OME-Zarr) beside the images.

    Raises
    ------
    InputError
        If an image is missing, an output would replace an input, two outputs would have the same
        name, or `out` is neither image nor folder.
    """
    if not paths:
        raise InputError("no image was given, but at least one is needed: name the images")
    for path in paths:
        refuse_address(path)
        if not path.exists():
            raise InputError(f"there is no image {path}: check its name")
    single = out is not None and out.name.lower().endswith(_SUFFIXES)
    if out is not None:
        _check_out(out, single=single, several=len(paths) > 1)
    targets = [out] if out is not None and single else default_targets(paths, out)
    for target in targets:
        _check_kind(target)
    _check_apart(paths, targets)
    return targets


def _check_out(out: Path, *, single: bool, several: bool) -> None:
    """Refuse a name that is neither that of an image nor of a folder."""
    if single and several:
        raise InputError(
            f"several images go into a folder, but {out} is called like one image: name a folder"
        )
    if not single and out.exists() and not out.is_dir():
        raise InputError(
            f"results go into a folder or an image (.tif, .tiff, .zarr), but {out} is neither: "
            "give another name"
        )
    if not single and out.suffix.lower() in _FOREIGN and not out.exists():
        raise InputError(
            f"results are written as .tif, .tiff or .zarr, or into a folder, but {out} ends in "
            f"{out.suffix}: change the suffix"
        )


def _check_kind(target: Path) -> None:
    """Refuse to write a file where a folder is, and the other way round."""
    folder = target.suffix.lower() == ".zarr"
    if target.exists() and target.is_dir() != folder:
        kinds = ("a folder", "a file") if folder else ("a file", "a folder")
        raise InputError(
            f"a {target.suffix} is {kinds[0]}, but {target} is {kinds[1]} already: "
            "give another name"
        )


def _check_apart(paths: Sequence[Path], targets: Sequence[Path]) -> None:
    """Refuse outputs that would replace an input, or one another."""
    sources = {path.resolve(): path for path in paths}
    seen: dict[Path, Path] = {}
    for path, target in zip(paths, targets, strict=True):
        real = target.resolve()
        for place in (real, *real.parents):
            if place in sources:
                raise InputError(
                    f"an output never replaces an input or lies inside it, but {target} would "
                    f"({sources[place]}): give another --out"
                )
        if real in seen:
            raise InputError(
                f"every output needs a name of its own, but {seen[real]} and {path} would both "
                f"become {target.name}: run them separately, into different folders"
            )
        seen[real] = path


def _place(path: Path) -> Path:
    """Return a path whose last part is a name, also of ``.`` and ``..``."""
    return path if path.name not in ("", "..") else path.resolve()


def _name_beside(path: Path) -> str:
    """Return the name of a result that lies beside its image."""
    if path.is_dir() and path.suffix.lower() != ".zarr":
        return _name_of(path)
    stem, suffix = _split_suffix(path)
    return _shortened(stem, "_enhanced.ome" + (".zarr" if suffix.endswith("zarr") else ".tif"))


def _name_of(path: Path) -> str:
    if path.is_dir() and path.suffix.lower() != ".zarr":
        # A folder of planes may have any dots in its name.
        return _shortened(path.resolve().name, "_enhanced.ome.tif")
    stem, suffix = _split_suffix(path)
    return _shortened(stem, f"_enhanced{suffix if suffix.lower() in _SUFFIXES else '.ome.tif'}")


def _shortened(stem: str, end: str) -> str:
    """Return a name that the disk takes; what is too long loses the last letters of its stem."""
    while len(os.fsencode(stem + end)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + end


def _split_suffix(path: Path) -> tuple[str, str]:
    """Return stem and suffix of an image's name; an unknown suffix counts as such, too."""
    for suffix in (*_SUFFIXES, *_READ_ONLY):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)], path.name[-len(suffix) :]
    return path.stem, path.suffix


@contextlib.contextmanager
def make_folders(targets: Sequence[Path]) -> Generator[None]:
    """Make the folders of outputs before anything is computed; unmake those that stay empty."""
    made: list[Path] = []
    try:
        for folder in dict.fromkeys(target.parent for target in targets):
            made += [place for place in (folder, *folder.parents) if not place.exists()]
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"an output needs a folder that can be made, but {folder} cannot "
                    f"({error.strerror}): give another place"
                ) from error
            _try_to_write(folder)
        yield
    finally:
        for folder in sorted(made, key=lambda place: len(place.parts), reverse=True):
            with contextlib.suppress(OSError):  # results lie in it
                folder.rmdir()


def _try_to_write(folder: Path) -> None:
    """Raise `InputError` if nothing can be written there: better now than after the work."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"an output is written where that is allowed, but in '{folder}' it is not "
            f"({error.strerror}): give another place"
        ) from error
