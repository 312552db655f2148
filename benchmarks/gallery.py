"""Before and after, on procedural specimens: the picture of docs/gallery.md.

    python benchmarks/gallery.py [--model MODEL] [-o docs/gallery.png]

Specimens are recorded by the forward model of ``hazed.py``, which the network was not trained with;
`auto` is told nothing. Pictures of real recordings, which may not travel with this project, are
drawn by ``real.py --pictures FOLDER``.
"""

from __future__ import annotations

__all__ = ["Panel", "Row", "draw_rows", "make_rows"]

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hazed import Recorder
from judge import take_auto

from deepcontrast_bmz.image import replace_whole
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.phantoms import Kind, phantom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model

    Double = NDArray[np.float64]

SIDE = 200
FIRST_SEED = 81_000
SPECIMENS: tuple[tuple[Kind, float], ...] = (("membranes", 1.0), ("tubes", 2.0), ("nuclei", 3.0))
HAZE_DEPTH = 2.0
GREYS = 96
PAGE = Path(__file__).parent.parent / "docs" / "gallery.png"


class Panel(NamedTuple):
    """One picture."""

    caption: str
    image: Double
    """(Y, X)."""
    black: float
    """What is shown black: the camera's offset, or none."""


class Row(NamedTuple):
    """Pictures side by side."""

    title: str
    panels: tuple[Panel, ...]


def make_rows(model: Model, recorder: Recorder, side: int = SIDE) -> list[Row]:
    """Return specimens at three depths, and light without structure."""
    rows: list[Row] = []
    for number, (kind, depth) in enumerate(SPECIMENS):
        rng = np.random.default_rng(FIRST_SEED + number)
        light = phantom(kind, (side, side), rng).astype(np.float64)
        rows.append(_make_row(kind, light, depth, FIRST_SEED + number, model, recorder))
    y = np.linspace(-1, 1, side)
    even = 1 + 0.5 * np.exp(-2 * (y[:, None] ** 2 + y[None, :] ** 2))
    seed = FIRST_SEED + len(SPECIMENS)
    return [*rows, _make_row("no structure", even, HAZE_DEPTH, seed, model, recorder)]


def _make_row(
    name: str, light: Double, depth: float, seed: int, model: Model, recorder: Recorder
) -> Row:
    recording = recorder.record(light, depth, seed)
    auto = take_auto(model, recording.counts.astype(np.float64))
    warned = ", warned" if auto.warning else ""
    return Row(
        f"{name}, optical depth {depth:g}",
        (
            Panel("recorded", recording.counts.astype(np.float64), recording.offset),
            Panel(f"auto: dial {auto.dial:g}{warned}", auto.image, recording.offset),
            Panel("the specimen", recording.truth, 0.0),
        ),
    )


def draw_rows(rows: Sequence[Row], path: Path) -> None:
    """Draw rows of pictures as PNG, whole or not at all.

    Every picture runs from its black to its own brightest pixels, three in a thousand left out:
    nothing is subtracted from one that is not from the others.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from PIL import Image

    width = max(len(row.panels) for row in rows)
    # One size whatever the settings of the user.
    with mpl.rc_context({"savefig.bbox": None, "savefig.dpi": "figure", "font.size": 8}):
        figure = Figure(figsize=(2.3 * width, 2.65 * len(rows)), dpi=100, layout="constrained")
        for i, row in enumerate(rows):
            for j, panel in enumerate(row.panels):
                axes = figure.add_subplot(len(rows), width, i * width + j + 1)
                bright = max(float(np.quantile(panel.image, 0.997)), panel.black + 1e-9)
                _ = axes.imshow(panel.image, cmap="gray", vmin=panel.black, vmax=bright)
                _ = axes.set_title(f"{'' if j else row.title}\n{panel.caption}")
                axes.set_axis_off()
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", metadata={"Software": None})
    # So many greys are told apart on paper, and the file is a third.
    greys = Image.open(drawn).convert("L").quantize(GREYS)
    with replace_whole(path) as temporary:
        greys.save(temporary, format="png", optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="deepcontrast", help="as for dcbmz predict")
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="the PNG to write")
    given = parser.parse_args(arguments)
    rows = make_rows(open_model(given.model), Recorder())
    draw_rows(rows, given.output)
    for row in rows:
        print(f"{row.title}: {row.panels[1].caption}")


if __name__ == "__main__":
    main()
