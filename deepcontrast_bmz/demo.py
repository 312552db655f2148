"""Runs everything once, on an image that ships with scikit-image and needs no download.

The haematoxylin channel of a stained tissue section (brightfield, used as if it were light) is
recorded through simulated tissue; a network is trained on that recording alone and applied to it;
the truth is only used to score the result.
"""

from __future__ import annotations

__all__ = ["demo_recipe", "run_demo"]

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deepcontrast_bmz.check.check import check_package
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.evaluate import metrics
from deepcontrast_bmz.evaluate.report import write_evaluation
from deepcontrast_bmz.evaluate.sweep import evaluate
from deepcontrast_bmz.export.package import export_run
from deepcontrast_bmz.image import replace_whole, write_image
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.section import CAMERA, OPTICAL_DEPTH, record_section, specimen
from deepcontrast_bmz.predict.enhance import enhance
from deepcontrast_bmz.settings import Recipe
from deepcontrast_bmz.train.run import train_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import xarray as xr
    from numpy.typing import NDArray

    from deepcontrast_bmz.progress import TrainingProgress

MARK = ".dcbmz_demo"
"""A folder with this file in it was written by the demo and may be replaced by it."""


def demo_recipe(seed: int) -> Recipe:
    """Return settings small enough for five minutes on two cores."""
    return Recipe.model_validate(
        {
            "seed": seed,
            "network": {"width": 8},
            "data": {"patch": 96},
            "training": {
                "steps": 280,
                "steps_per_epoch": 70,
                "batch": 4,
                "learning_rate": 5e-3,
                "validation_patches": 8,
            },
        }
    )


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    say: Callable[[str], None],
    report: Callable[[TrainingProgress], None] | None = None,
) -> list[str]:
    """Simulate, train, enhance, score, export and test; write the results into a folder.

    Parameters
    ----------
    out : Path
        New or empty folder, or one that the demo wrote before.
    seed : int
        Seed of recording and training.
    say : callable
        Called with a line about each stage.
    report : callable, optional
        Told of every training step.

    Returns
    -------
    list of str
        A short table for people.

    Raises
    ------
    InputError
        If the folder holds something the demo did not write.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARK).exists())):
        raise InputError(f"{out} holds something else than a demo: give a new folder with -o")
    begun = time.monotonic()
    with replace_whole(out) as folder:
        folder.mkdir()
        (folder / MARK).touch()
        table = _stages(folder, seed, say, report)
    say(f"results in {out}: before_after.png, report.html, enhanced.tif, deepcontrast_demo.zip")
    return [*table, f"{time.monotonic() - begun:.0f} s in all"]


def _stages(
    folder: Path,
    seed: int,
    say: Callable[[str], None],
    report: Callable[[TrainingProgress], None] | None,
) -> list[str]:
    """Go through all stages in a folder and return the table of scores."""
    truth = specimen()
    recipe = demo_recipe(seed)
    raw = _record(truth, recipe, folder)
    say(f"recorded a stained section through optical depth {OPTICAL_DEPTH:g}: raw.tif")

    train_run([folder / "raw.tif"], folder / "run", recipe, device="cpu", report=report)
    own = open_model(folder / "run", device="cpu")
    result = enhance(own, raw, dial="auto")
    write_image(result.image, folder / "enhanced.tif")
    say(f"trained on the recording alone and enhanced it: {result.reason}")
    general = enhance(open_model("deepcontrast", device="cpu"), raw, dial="auto")
    write_image(general.image, folder / "enhanced_by_shipped_model.tif")

    package = export_run(folder / "run", folder / "deepcontrast_demo.zip", name="DeepContrast demo")
    judged = check_package(package, run=["core"], run_code=True).row("core")
    say(f"bioimageio test of the package: {'failed' if judged.failed else 'passed'}")

    pictures = {
        "truth": truth,
        "raw": raw,
        f"trained on it alone, dial {result.dials[0]:.2f}": result.image,
        f"shipped model, dial {general.dials[0]:.2f}": general.image,
    }
    _before_after(folder / "before_after.png", pictures)
    rows = _score_pictures(pictures)
    formats = (*judged.runs.reasons, *judged.right_values.reasons)
    tested = [("bioimageio test",), *((line,) for line in formats)]
    write_evaluation(
        evaluate(own, _named(raw, "raw.tif"), reference=_named(truth, "truth.tif")),
        folder,
        title="A stained section seen through simulated tissue",
        command=f"dcbmz demo --seed {seed}",
        sections=[("Against the truth", rows), ("The exported package", tested)],
    )
    return _as_text(rows)


def _record(truth: xr.DataArray, recipe: Recipe, folder: Path) -> xr.DataArray:
    """Return the specimen recorded through tissue; write both."""
    raw = record_section(truth, recipe.physics.scatter, recipe.seed)
    write_image(raw, folder / "raw.tif")
    write_image(truth, folder / "truth.tif")
    return raw


def _named(image: xr.DataArray, name: str) -> xr.DataArray:
    """Return an image under the name of its file."""
    copied = image.copy()
    copied.name = name
    return copied


def _score_pictures(pictures: Mapping[str, xr.DataArray]) -> list[tuple[str, str, str, str]]:
    """Return a table, head first, of all pictures but the first against the first, the truth."""
    (_, truth), *others = pictures.items()
    rows = [("image", "PSNR after fit, dB", "contrast recovery", "1-4 px detail correlation")]
    rows += [(name, *_scores(image.to_numpy(), truth.to_numpy())) for name, image in others]
    return rows


def _scores(image: NDArray[np.generic], truth: NDArray[np.float32]) -> tuple[str, str, str]:
    """Score an image against the truth: PSNR after fit, contrast recovery, detail."""
    values = image.astype(np.float64)
    return (
        f"{metrics.psnr_after_fit(values, truth):.1f}",
        f"{metrics.contrast_recovery(values, truth, offset=CAMERA.offset):.2f}",
        f"{metrics.band_correlation(values, truth):.3f}",
    )


def _as_text(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align columns with spaces."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _before_after(path: Path, pictures: dict[str, xr.DataArray]) -> None:
    """Draw the images side by side, with a closer look below."""
    figure = Figure(figsize=(4 * len(pictures), 8.4), layout="constrained")
    axes = figure.subplots(2, len(pictures))
    for column, (name, image) in enumerate(pictures.items()):
        values = image.to_numpy().astype(np.float32)
        low, high = torch.quantile(torch.from_numpy(values), torch.tensor([0.005, 0.998])).tolist()
        for row, window in enumerate((values, values[160:320, 200:360])):
            axes[row, column].imshow(window, cmap="gray", vmin=low, vmax=high)
            axes[row, column].axis("off")
        axes[0, column].set_title(name)
    FigureCanvasAgg(figure)
    with replace_whole(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")
