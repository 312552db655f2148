"""What the weights of an exported loop are: files, names, and how they compare."""

from __future__ import annotations

__all__ = [
    "INPUT_ID",
    "OUTPUT_ID",
    "ExportRecord",
    "ParityRow",
]

from deepcontrast_bmz.model.model import WeightsFormat  # noqa: TC001 - pydantic reads it
from deepcontrast_bmz.settings import Record

INPUT_ID = "raw"
OUTPUT_ID = "enhanced"


class ParityRow(Record):
    """How far one weights format is from the loop on one image."""

    weights_format: WeightsFormat
    shape: tuple[int, ...]
    """Shape of the input, (B, 1, (Z,) Y, X)."""
    difference: float
    """Largest absolute difference over the range of the loop's output."""


class ExportRecord(Record):
    """The files written by `export_weights`, all in one folder."""

    weights: dict[WeightsFormat, str]
    """File name of each weights format."""
    architecture: str
    """File name of the self-contained network."""
    architecture_kwargs: dict[str, int | list[int]]
    """Arguments of `ARCHITECTURE_CLASS` that rebuild the loop."""
    parameters: int
    """Trained numbers."""
    parity: tuple[ParityRow, ...]
    """One row per format and image."""

    def largest_difference(self, weights_format: WeightsFormat) -> float:
        """Return the largest difference of one format over all images."""
        return max(r.difference for r in self.parity if r.weights_format == weights_format)
