"""Replaces files and folders at once or not at all, and hashes the content of images."""

from __future__ import annotations

__all__ = ["LONGEST_NAME", "flush", "flush_tree", "image_sha256", "replace_whole", "take_place"]

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from deepcontrast_bmz.errors import InputError

_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP)
"""What file systems say that know no such thing, or not of folders."""

LONGEST_NAME = 255
"""Bytes that nearly every file system allows for one name."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write says for which there is no room."""

if TYPE_CHECKING:
    from collections.abc import Generator


def image_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the sorted names and contents of a folder.

    Parameters
    ----------
    path : Path
        A file, or a folder such as an OME-Zarr; where it lies makes no difference.

    Raises
    ------
    InputError
        If there is nothing at `path`.
    """
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise InputError(
            f"an image must exist, but there is nothing at '{path}': check the spelling"
        )
    digest = hashlib.sha256()
    inside = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    for name in sorted(inside):
        content = image_sha256(inside[name])
        # Digests have one length, so no two folders run into the same bytes.
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Have a file, or the names that lie in a folder, on the disk itself, as far as it can tell.

    What is only written may, after a power cut, be a name with nothing behind it.

    Parameters
    ----------
    path : Path
        Exists; of a folder, what is in its files is not looked at.

    Raises
    ------
    OSError
        If the disk cannot take it.
    """
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    try:
        number = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(number)


def flush_tree(path: Path) -> None:
    """Have a file, or a folder with all that is in it, on the disk itself."""
    if path.is_dir():
        for inside in path.iterdir():
            flush_tree(inside)
    flush(path)


@contextlib.contextmanager
def replace_whole(path: Path) -> Generator[Path]:
    """Yield a temporary sibling that becomes `path` if all goes well, and vanishes otherwise.

    Inside, create a file or a folder at the yielded path; its name is hidden and keeps the
    suffix. What lies at `path` stays untouched until the end. A file replaces a file, a folder a
    folder.

    Parameters
    ----------
    path : Path
        The final name, in a folder that exists.

    Yields
    ------
    Path
        Where to write; nothing lies there yet.

    Raises
    ------
    InputError
        If the folder is missing or cannot be written, the disk is full, or a folder lies where a
        file is wanted or the reverse.
    """
    # Through a link, the file it points to is replaced, not the link.
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise InputError(
            f"a file is written into a folder that exists, but there is no '{target.parent}': "
            "create it first"
        )
    temporary = _beside(target, "")
    try:
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:
        raise InputError(
            f"a file is written where that is allowed, but in '{target.parent}' it is not "
            f"({error.strerror}): give another place"
        ) from error
    try:
        yield temporary
        take_place(temporary, target)
    except OSError as error:
        # numpy has no number for it, only the sentence.
        cut = error.errno is None and "written" in str(error)
        if cut or error.errno in _NO_ROOM:
            raise InputError(
                f"an output must fit on the disk, but there is no room for '{path}': "
                "free some, or give another place"
            ) from error
        raise
    finally:
        _remove(temporary)


def take_place(temporary: Path, target: Path) -> None:
    """Put a whole file or folder under its final name, and what was there away.

    It is on the disk itself before it gets the name, so that the name stands for all of it even
    after a power cut.

    Parameters
    ----------
    temporary : Path
        On the same disk as `target`.
    target : Path
        Through a link, what it points to is replaced.

    Raises
    ------
    InputError
        If a folder lies where a file is wanted or the reverse.
    """
    target = Path(os.path.realpath(target))
    folder = temporary.is_dir()
    if target.exists() and target.is_dir() != folder:
        kinds = ("a folder", "a file") if folder else ("a file", "a folder")
        raise InputError(
            f"the output is {kinds[0]}, but '{target}' is {kinds[1]} already: give another name"
        )
    flush_tree(temporary)
    if not (folder and target.exists()):
        temporary.replace(target)
        flush(target.parent)
        return
    # A folder cannot be renamed onto another: the old one steps aside, and back on failure.
    aside = _beside(target, "old.")
    target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        aside.rename(target)
        raise
    flush(target.parent)
    _remove(aside)


def _beside(target: Path, word: str) -> Path:
    """Return a hidden name that keeps the end of the target's, and is no longer than allowed."""
    end = target.name
    while len(os.fsencode(name := f".{secrets.token_hex(4)}.{word}{end}")) > LONGEST_NAME:
        end = end[1:]
    return target.with_name(name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
