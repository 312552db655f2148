"""Records unfinished work on disk: what it is, how far it got, and whether it can continue.

Next to an output ``NAME`` lies, while it is made, the folder ``.NAME.partial`` with the growing
image, a description of the work, and a journal with a line for every finished block. A line is
written after the pixels are on the disk, so a block that has one is whole, even after a power cut;
a line cut short is none. Only a whole image ever gets the final name.
"""

from __future__ import annotations

__all__ = ["Journal", "forget", "identity", "partial_folder"]

import contextlib
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.atomic import LONGEST_NAME, flush, flush_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from io import TextIOWrapper

    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

_FORMAT = 2
"""Of the folder; work of another format is refused."""


def partial_folder(target: Path) -> Path:
    """Return where the unfinished work on an output lies."""
    real = Path(os.path.realpath(target))
    name = f".{real.name}.partial"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(real.name)).hexdigest()[:32]}.partial"
    return real.with_name(name)


def forget(target: Path) -> None:
    """Remove what is left of the work on an output, which is whole by now."""
    shutil.rmtree(partial_folder(target), ignore_errors=True)


def identity(path: Path) -> dict[str, Any]:
    """Return what tells one version of a file or folder from another: size and time.

    Parameters
    ----------
    path : Path
        For a folder, its own description and the number of what is in it count.
    """
    real = path.resolve()
    found: dict[str, Any] = {"path": str(real)}
    if real.is_dir():
        inside = sorted(real.iterdir())
        files = [one for one in inside if one.is_file()]
        found["files"] = len(inside)
        found["size"] = sum(file.stat().st_size for file in files)
        found["modified"] = max((file.stat().st_mtime_ns for file in files), default=0)
    else:
        stat = real.stat()
        found |= {"size": stat.st_size, "modified": stat.st_mtime_ns}
    return found


class Journal:
    """The unfinished work on one output; a context, at whose end it is closed.

    Parameters
    ----------
    target : Path
        Final name of the output.

    Attributes
    ----------
    folder : Path
        Where the unfinished work lies.
    image : Path
        Where the growing image lies in it.
    plan : dict
        How the work is done; settled by whoever began it.
    done : dict of int to list
        Numbers of the finished blocks, and what was noted of each.
    mine : bool
        Whether this began the work.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = partial_folder(target)
        self.image = self.folder / "image.zarr"
        self.plan: dict[str, Any] = {}
        self.done: dict[int, list[Any]] = {}
        self.mine = False
        self._lines: TextIOWrapper | None = None
        self._held: BaseFileLock | None = None

    @property
    def is_finished(self) -> bool:
        """Whether all was done but tidying up.

        An older output under that name says nothing: the growing image is gone, having got the
        name, or there is a note.
        """
        noted = (self.folder / "finished").is_file()
        return self.exists and self.target.exists() and (noted or not self.image.is_dir())

    def mark_finished(self) -> None:
        """Note that the output has its name."""
        (self.folder / "finished").touch()

    @property
    def exists(self) -> bool:
        """Whether there is unfinished work."""
        return (self.folder / "plan.json").is_file()

    def begin(
        self, asked: Mapping[str, Any], settle: Callable[[], Mapping[str, Any]], *, resume: bool
    ) -> Self:
        """Begin the work, or continue what is there.

        Parameters
        ----------
        asked : mapping
            What makes two pieces of work the same; plain values by names that a user knows.
        settle : callable
            Returns the plan: plain values. Work that continues keeps its own plan.
        resume : bool
            Continue unfinished work; without it, such work is refused, never removed.

        Raises
        ------
        InputError
            If there is unfinished work and `resume` is off, it is other work, another program is
            writing it, or nothing can be written there.
        """
        plain = json.loads(json.dumps(asked))
        if self.exists and not self.is_finished and not self.image.is_dir():
            # It was finished, and the output was removed since.
            shutil.rmtree(self.folder)
        if self.exists:
            if not resume:
                raise InputError(
                    f"'{self.target}' has unfinished work, and --resume was not given: add it to "
                    f"continue, or remove '{self.folder}' to start again"
                )
            self._take_up(plain)
        else:
            self._begin_anew(plain, settle)
        return self

    def _take_up(self, asked: dict[str, Any]) -> None:
        path = self.folder / "plan.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            known, self.plan = stored["asked"], stored["plan"]
            same_format = stored["format"] == _FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"the plan of the unfinished work, '{path}', cannot be read: remove "
                f"'{self.folder}' and start again"
            ) from error
        different = [name for name in asked if known.get(name) != asked[name]]
        if different or not same_format:
            what = " and ".join(different) or "the version"
            raise InputError(
                f"--resume continues the same work, but {what} of '{self.target}' changed since it "
                f"began: ask for the same again, or remove '{self.folder}' to start again"
            )
        self._lock()
        with contextlib.suppress(FileNotFoundError):
            content = (self.folder / "journal").read_bytes()
            # What follows the last line end was cut short; a power cut leaves any bytes there.
            for line in content.split(b"\n")[:-1]:
                with contextlib.suppress(ValueError, TypeError, IndexError):
                    number, *notes = json.loads(line)
                    self.done[int(number)] = notes
            os.truncate(self.folder / "journal", content.rfind(b"\n") + 1)
        self._open()

    def _begin_anew(self, asked: dict[str, Any], settle: Callable[[], Mapping[str, Any]]) -> None:
        plan = json.loads(json.dumps(settle()))
        try:
            # Left by work that ended before it had a plan.
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir()
            self.mine = True
            self._lock()
            self.plan = plan
            draft = self.folder / "plan.json.draft"
            content = {"format": _FORMAT, "asked": asked, "plan": plan}
            draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
            self._open()
        except OSError as error:
            raise InputError(
                f"nothing can be written in '{self.folder.parent}' ({error.strerror}): name "
                "another folder"
            ) from error

    def settle(self) -> None:
        """Make the plan valid, once the growing image exists."""
        draft = self.folder / "plan.json.draft"
        if draft.is_file():
            flush_tree(self.image)
            flush(draft)
            draft.replace(self.folder / "plan.json")
            flush(self.folder)
            flush(self.folder.parent)

    def _lock(self) -> None:
        """Keep others out until this process ends, however it ends."""
        self._held = FileLock(self.folder / "lock")
        try:
            self._held.acquire(timeout=0)
        except Timeout as error:
            self._held = None
            raise InputError(
                f"two programs cannot write one output, and another is at '{self.target}' now: "
                "wait for it, or name another output"
            ) from error

    def _open(self) -> None:
        self._lines = (self.folder / "journal").open("a", encoding="utf-8")

    def add(self, number: int, *notes: Any) -> None:
        """Note that a block is finished, its pixels being on the disk.

        Parameters
        ----------
        number : int
            Of the block.
        *notes : plain values
            What is known of it.
        """
        assert self._lines is not None
        self._lines.write(json.dumps([number, *notes]) + "\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self.done[number] = list(notes)

    def close(self) -> None:
        """Let go of the files; the work stays."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        if self._held is not None:
            self._held.release()
            self._held = None

    def tidy(self) -> None:
        """Remove what takes room, the output being whole; that it is, remains on record."""
        self.close()
        shutil.rmtree(self.image, ignore_errors=True)

    def remove(self) -> None:
        """Remove everything."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
