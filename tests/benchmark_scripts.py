"""The benchmarks are scripts in one folder; tests load them as if they were run from there."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from descriptions import described

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import pytest
    from torch import Tensor

    from deepcontrast_bmz.records import LoopDescription

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    """Return benchmarks/NAME.py as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Their records look their annotations up by the module's name.
    sys.modules[spec.name] = module
    with patch.object(sys, "path", [str(FOLDER), *sys.path]):
        spec.loader.exec_module(module)
    return module


def recorded(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[[str], str]:
    """Have records kept in a folder, and return what reads the tables of one as printed."""
    records = sys.modules["records"]
    monkeypatch.setattr(records, "FOLDER", folder / "records")

    def read(name: str) -> str:
        (kept,) = records.load_records(folder / "records")
        assert (folder / "records" / f"{name}.json").is_file()
        assert kept.command.startswith(f"python benchmarks/{name}.py ")
        assert kept.command.endswith(" --record")
        return "\n\n".join(records.as_markdown(table) for table in kept.tables)

    return read


@dataclass
class Sharpener:
    """Every iteration is an unsharp mask."""

    description: LoopDescription
    name: str = "sharpener"
    radius: int = 2
    max_iterations: int | None = None
    dims: int = 2
    multiple: int = 1
    sha256: str = "0123456789abcdef"

    @property
    def radii(self) -> tuple[int, int]:
        return self.radius, self.radius

    def iterate(self, extended: Tensor, iterations: int) -> Tensor:
        m = iterations * self.radius
        smooth = torch.nn.functional.avg_pool2d(extended, 5, stride=1, padding=2)
        sharp = [extended + k * (extended - smooth) for k in range(1, iterations + 1)]
        return torch.cat(sharp, 1)[:, :, m:-m, m:-m]


def sharpener() -> Sharpener:
    """A model of two iterations, in the place of a trained one."""
    return Sharpener(described())
