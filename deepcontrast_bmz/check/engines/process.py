"""Starts the programs of engines: installers, and jobs that end when this process does."""

from __future__ import annotations

__all__ = ["run_installer", "run_job", "shorten"]

import logging
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from deepcontrast_bmz.check.engines.engine import EngineError, EngineMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)


def shorten(words: object, most: int) -> str:
    """Return words on one line, cut to so many characters."""
    text = " ".join(str(words).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def run_installer(
    command: Sequence[str], failed: str, program: str, seconds: float, reason: Callable[[str], str]
) -> None:
    """Run what fetches an engine; `reason` finds its own sentence in what it printed.

    Raises
    ------
    EngineMissingError
        If it cannot be started, is not done in time or fails.
    """
    try:
        # Killed by `run` when this process is interrupted.
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineMissingError(
            f"{failed}: {program} was not done after {seconds:.0f} s"
        ) from error
    except OSError as error:
        raise EngineMissingError(f"{failed}: {error}") from error
    if done.returncode != 0:
        words = reason(done.stdout + done.stderr)
        raise EngineMissingError(f"{failed}, {program} says: {words}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with all its children."""
    if os.name == "nt":
        process.kill()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("it ended by itself")


def run_job(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], who: str, seconds: float
) -> tuple[int, str]:
    """Run a program in a folder to its end; kill it when time is up or this process is interrupted.

    Returns
    -------
    tuple
        Its exit code, and the last lines of what it printed.

    Raises
    ------
    EngineError
        If it is not done in time.
    """
    with (folder / "said.txt").open("wb") as said:
        process = subprocess.Popen(
            command,
            # A runner that reads it ends when its input does: also when this process is killed.
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=folder,
            start_new_session=True,
        )
        with process:
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired as error:
                _end(process)
                raise EngineError(f"{who} was not done after {seconds:g} s") from error
            except BaseException:
                _end(process)
                raise
    words = (folder / "said.txt").read_text(encoding="utf-8", errors="replace")
    return code, "\n".join(words.strip().splitlines()[-5:]) or "it said nothing"
