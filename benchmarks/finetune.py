"""Training from nothing against beginning from a model, on real images and equal short budgets.

    python benchmarks/finetune.py --data DIR [--model MODEL] [--steps 120] [--rates 0.003 0.001]
        [--record]

Of every image some planes, or one side, are kept out of all training. They are recorded anew
behind optical depth 1 and 2 by a forward model of its own (``hazed.py``), enhanced, and scored at
the best dial of 0 to 4 by the PSNR against what was recorded, after the best scale and offset. The
rest is what a user has: `dcbmz train` on it from nothing, and with `--from MODEL` at each learning
rate, the same seed, patches and steps; the model as it comes, for comparison. Printed are means
over planes and processor seconds of the whole command, fits after training included.

Images are public and no part of this project; `--data` names their folder. What the model was
trained on is said. Its dial and limits were chosen with all of them at hand. With `--record` the
table goes into ``docs/train.md``.
"""

from __future__ import annotations

import argparse
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from hazed import Recorder
from real_pairs import trained_on
from records import FOLDER, Record, Table, as_markdown, load_records, print_tables, save

from deepcontrast_bmz.evaluate.metrics import psnr_after_fit
from deepcontrast_bmz.image import read_image, replace_whole, select_channel, write_image
from deepcontrast_bmz.model.loop import blend, extend
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.settings import Recipe
from deepcontrast_bmz.train.begin import settings_of
from deepcontrast_bmz.train.run import train_run

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model

DEPTHS = (1.0, 2.0)
DIALS = tuple(np.arange(0, 4.01, 0.25))


PAGE = Path(__file__).parent.parent / "docs" / "train.md"
MARKS = ("<!-- finetune.py begins -->", "<!-- finetune.py ends -->")
TEXT = (
    "Planes kept out of training were recorded anew behind tissue of a model of its own and "
    "enhanced: PSNR of the recording -> at the best dial. Every run had {steps} steps of the same "
    "patches; the time is that of the whole command on one core."
)


class Case(NamedTuple):
    """An image and what of it is kept out of training."""

    file: str
    channel: int | None
    axis: str
    """Along which it is cut."""
    held_out: slice
    every: int
    """Of the planes held out, every so many are scored."""


CASES = (
    Case("drosophila_caax_depth_layers.tif", None, "z", slice(0, 1), 1),
    Case("membranes_nuclei_2d.tif", 0, "x", slice(320, None), 1),
    Case("gt_dna_confocal_vs_widefield.tif", 0, "z", slice(18, 27), 4),
)


def cut(case: Case, folder: Path) -> tuple[xr.DataArray, list[NDArray[np.float64]]]:
    """Return what is trained on, and the planes that are scored."""
    image = select_channel(read_image(folder / case.file), case.channel)
    kept = np.ones(image.sizes[case.axis], bool)
    kept[case.held_out] = False
    test = image.isel({case.axis: ~kept})
    planes = test.to_numpy().reshape(-1, *test.shape[-2:]).astype(np.float64)
    return image.isel({case.axis: kept}), list(planes[:: case.every])


def score(model: Model, planes: list[NDArray[np.float64]], depth: float) -> tuple[float, float]:
    """Return mean PSNR of the recordings and of the best dial of each."""
    before: list[float] = []
    after: list[float] = []
    count, step = 4, model.description.step_optical_depth
    for number, plane in enumerate(planes):
        # Black is zero for the recorder.
        specimen = plane - np.quantile(plane, 0.005)
        recording = Recorder().record(specimen, depth, seed=number)
        raw = torch.from_numpy(recording.counts)
        seen = extend(raw[None, None], [count * model.radius] * 2)
        iterations = model.iterate(seen, count)[0]
        scores = [
            psnr_after_fit(
                blend(raw, iterations, min(dial, count * step), step).double().numpy(),
                recording.truth,
            )
            for dial in DIALS
        ]
        before.append(scores[0])
        after.append(max(scores))
    return float(np.mean(before)), float(np.mean(after))


def describe(model: Model, planes: list[NDArray[np.float64]]) -> tuple[str, ...]:
    """Return the scores of a model behind each depth, in words."""
    scores = [score(model, planes, depth) for depth in DEPTHS]
    return tuple(f"{before:.2f} -> {after:.2f}" for before, after in scores)


def compare(case: Case, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Return rows: what was trained, its scores, processor seconds."""
    training, planes = cut(case, options.data)
    rows = [("the model as it comes", *describe(open_model(options.model), planes), "")]
    usual = settings_of(options.model).with_changes(steps=options.steps)
    runs: list[tuple[str, Recipe, str | None]] = [("from nothing", usual, None)]
    for rate in options.rates:
        values = usual.model_dump()
        values["training"]["learning_rate"] = rate
        runs.append((f"`--from`, rate {rate:g}", Recipe.model_validate(values), options.model))
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.ome.tif"
        write_image(training, image)
        for number, (what, recipe, model) in enumerate(runs):
            out = Path(folder) / str(number)
            begun = time.process_time()
            train_run([image], out, recipe, device="cpu", begin_from=model)
            seconds = f"{time.process_time() - begun:.0f} s"
            rows.append((what, *describe(open_model(out, device="cpu"), planes), seconds))
            print(f"{case.file}: {', '.join(rows[-1])}", flush=True)
    return rows


def write_page(record: Record) -> None:
    """Put the table between its two marks on the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    lines = textwrap.wrap(record.text, 99, break_long_words=False, break_on_hyphens=False)
    made = "\n".join([*lines, "", f"`{record.command}`", "", as_markdown(record.tables[0])])
    with replace_whole(PAGE) as temporary:
        written = f"{before}{MARKS[0]}\n{made}\n{MARKS[1]}{after}"
        temporary.write_text(written, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="deepcontrast")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rates", type=float, nargs="*", default=[3e-3, 1e-3])
    parser.add_argument("--record", action="store_true", help="write the record and the page")
    options = parser.parse_args()
    known = trained_on(options.model)
    rows: list[tuple[str, ...]] = []
    for case in CASES:
        seen = known.get(case.file, "not seen by the model")
        print(f"{case.file}: {seen}", flush=True)
        rows += [(f"`{case.file}`, {seen}", *row) for row in compare(case, options)]
    depths = [f"optical depth {depth:g}, dB" for depth in DEPTHS]
    columns = ("image", "model", *depths, "processor")
    found = [Table("", columns, tuple(rows))]
    print_tables(found)
    if options.record:
        rates = " ".join(f"{rate:g}" for rate in options.rates)
        command = f"python benchmarks/finetune.py --data DIR --steps {options.steps}"
        command += f" --rates {rates} --record"
        save(
            "train/finetune",
            found,
            title="Beginning from a model",
            command=command,
            order=0,
            text=TEXT.format(steps=options.steps),
        )
        (record,) = load_records(FOLDER / "train")
        write_page(record)


if __name__ == "__main__":
    main()
