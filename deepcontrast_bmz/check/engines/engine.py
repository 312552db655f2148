"""What runs a package: engines by name, and what every one of them gives back."""

from __future__ import annotations

__all__ = ["Engine", "EngineError", "EngineMissingError", "EngineRun", "read_engines"]

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepcontrast_bmz.check.findings import Column

    Where = Literal["this process", "environment", "java"]


@dataclass(frozen=True)
class EngineRun:
    """What an engine made of one input."""

    output: NDArray[np.float32]
    """Values of the first run, in the order of axes of the weights."""
    seconds: tuple[float, ...] = ()
    """Seconds of each of the successive runs on that very input."""
    processor_seconds: tuple[float, ...] = ()
    """Processor seconds of all threads in each of these runs, where the engine tells them."""


class EngineError(RuntimeError):
    """The engine ran and refused the weights or the input; the message is its own."""


class EngineMissingError(RuntimeError):
    """The engine is not here and cannot be fetched; the message says why."""


@dataclass(frozen=True)
class Engine:
    """One way of running what a program runs."""

    name: str
    """As ``--run`` names it."""
    where: Where
    """In this process with the torch and onnxruntime that are installed, in an environment of its
    own, or in Java."""
    does: str
    """What it is, in words."""
    columns: tuple[Column, ...]
    """What it tells of."""

    @property
    def real(self) -> bool:
        """Whether it is the engine of another program and not one of this process."""
        return self.where != "this process"


def read_engines(program: str) -> tuple[Engine, ...]:
    """Return what can be run of a program, from ``rules/engines.toml``."""
    path = Path(__file__).parents[1] / "rules" / "engines.toml"
    described: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))[program]
    return tuple(
        Engine(name, said["where"], said["does"], tuple(said["columns"]))
        for name, said in described.items()
    )
