"""Progress without a terminal: few lines, handed to the caller."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

from deepcontrast_bmz.progress import TrainingProgress, show_share, show_training, warn_once

if TYPE_CHECKING:
    import pytest


def test_training_is_told_every_twentieth() -> None:
    lines: list[str] = []
    show = show_training("training", lines.append)
    for step in range(1, 101):
        show(TrainingProgress(step, 100, 0.5, 0.25 if step > 50 else None, 61 - step / 2, 3.0))
    assert len(lines) == 21
    assert lines[0] == "training 1/100  loss 0.5000  3.0 patches/s  1:00 left"
    assert lines[-1] == (
        "training 100/100  loss 0.5000  validation 0.2500  3.0 patches/s  0:11 left"
    )


def test_a_share_is_told_every_fifth() -> None:
    lines: list[str] = []
    show = show_share("enhancing", lines.append)
    for share in (0.0, 0.1, 0.2, 0.25, 0.61, 1.0):
        show(share)
    assert lines == ["enhancing 20%", "enhancing 61%", "enhancing 100%"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_bars_are_drawn_and_no_line_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal, lines = Terminal(), list[str]()
    monkeypatch.setattr("sys.stderr", terminal)
    train, share = show_training("training", lines.append), show_share("enhancing", lines.append)
    train(TrainingProgress(1, 2, 0.5, None, 60.0))
    train(TrainingProgress(2, 2, 0.5, None, 0.0))
    share(0.5)
    share(1.0)
    assert lines == []
    assert "2/2  loss 0.5000" in terminal.getvalue()
    assert "enhancing" in terminal.getvalue()


def test_a_warning_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.lastResort
    assert handler is not None
    with warn_once():
        for name in ("a.tif", "b.tif", "a.tif"):
            message = ("%s: read as a z-stack", (name,))
            _ = handler.handle(logging.LogRecord("dcbmz", logging.WARNING, "", 1, *message, None))
    assert capsys.readouterr().err == "a.tif: read as a z-stack\nb.tif: read as a z-stack\n"
    assert not handler.filters
