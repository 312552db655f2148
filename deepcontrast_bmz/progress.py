"""Shows how far work is: a bar on a terminal, plain lines elsewhere.

Bars are drawn by `rich`. Lines are handed to the caller, for only the command line prints.
"""

from __future__ import annotations

__all__ = ["TrainingProgress", "show_share", "show_training", "warn_once"]

import contextlib
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training run stands."""

    step: int
    """Optimiser steps done."""
    steps: int
    """Optimiser steps in all."""
    loss: float
    """Training loss, averaged over about the last 50 steps."""
    validation_loss: float | None
    """Loss on held-out patches, once measured."""
    seconds_left: float
    """At the speed so far."""
    patches_per_second: float = 0.0
    """Of all processes together."""


def show_training(
    what: str, write_line: Callable[[str], None]
) -> Callable[[TrainingProgress], None]:
    """Return what shows training: a bar with loss and time left, or a line every twentieth.

    Parameters
    ----------
    what : str
        What is under way.
    write_line : callable
        Called with each line, where standard error is no terminal.
    """
    if sys.stderr.isatty():
        return _training_bar(what)
    shown = -1

    def write(state: TrainingProgress) -> None:
        nonlocal shown
        twentieth = state.step * 20 // state.steps
        if twentieth != shown:
            shown = twentieth
            write_line(f"{what} {state.step}/{state.steps}  {_describe(state)}")

    return write


def _training_bar(what: str) -> Callable[[TrainingProgress], None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  {task.fields[text]}"),
        console=Console(stderr=True),
    )
    task = bar.add_task(what, total=None, text="")

    def draw(state: TrainingProgress) -> None:
        if not bar.live.is_started:
            bar.start()
        bar.update(task, completed=state.step, total=state.steps, text=_describe(state))
        if state.step >= state.steps:
            bar.stop()

    return draw


def _describe(state: TrainingProgress) -> str:
    text = f"loss {state.loss:.4f}"
    if state.validation_loss is not None:
        text += f"  validation {state.validation_loss:.4f}"
    minutes, seconds = divmod(round(state.seconds_left), 60)
    return f"{text}  {state.patches_per_second:.1f} patches/s  {minutes}:{seconds:02d} left"


def show_share(what: str, write_line: Callable[[str], None]) -> Callable[[float], None]:
    """Return what shows the share that is done, 0 .. 1: a bar, or a line every fifth.

    Parameters
    ----------
    what : str
        What is under way.
    write_line : callable
        Called with each line, where standard error is no terminal.
    """
    if sys.stderr.isatty():
        return _share_bar(what)
    shown = 0

    def write(share: float) -> None:
        nonlocal shown
        if int(share * 5) > shown:
            shown = int(share * 5)
            write_line(f"{what} {share:.0%}")

    return write


def _share_bar(what: str) -> Callable[[float], None]:
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=1.0)

    def draw(share: float) -> None:
        if not bar.live.is_started:
            bar.start()
        bar.update(task, completed=share)
        if share >= 1:
            bar.stop()

    return draw


@contextlib.contextmanager
def warn_once() -> Generator[None]:
    """Show every warning a single time: an image may be opened more than once."""
    shown: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in shown
        shown.add(message)
        return new

    handler = logging.lastResort
    if handler is None:
        yield
        return
    handler.addFilter(is_new)
    try:
        yield
    finally:
        handler.removeFilter(is_new)
