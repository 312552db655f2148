"""Whether the verdict refuses cheap contrast and accepts the truth.

    python benchmarks/verdict.py MODEL [--seeds N] [--json FILE] [--record]

On phantoms recorded at known optical depth, with a camera and a kernel that nobody tells, six
tricks are put in the place of the enhanced image, each in several strengths: gamma, subtraction of
an offset, of a background, unsharp masking, CLAHE, and one to two iterations of the model too many.
They may claim any optical depth from a half to that of all iterations: an image is accepted if it
is at one of them. The truth may do the same, and so may the model at its automatic dial.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import baselines
import numpy as np
import torch
import xarray as xr
from phantoms import KINDS, OPTICAL_DEPTHS, PHOTONS, WIDTHS_PX, Case, draw_case
from records import Table, print_tables, save, write_json

from deepcontrast_bmz.dial.automatic import choose_dial
from deepcontrast_bmz.dial.mirrored import iterate_mirrored
from deepcontrast_bmz.evaluate.sweep import evaluate
from deepcontrast_bmz.model.loop import blend, extend
from deepcontrast_bmz.model.open import open_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.model.model import Model

    Double = NDArray[np.float64]
    Function = Callable[[Double], Double]

FIRST_SEED = 70_000
RADIUS = 1
STEP = 0.5
SETTINGS = ((1.0, 1.0), (1.5, 1.0), (2 / 3, 1.0), (1.0, 25.0))
"""Width of the kernel over the model's, and light over that of the other benchmarks: sets of
phantoms take turns."""
TRUTH, AUTOMATIC = "truth", "model, automatic dial"


@dataclasses.dataclass(frozen=True)
class Claim:
    """Stands for a model whose every iteration is one and the same image."""

    function: Function
    device: str = "cpu"
    block: int = 1024

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        """Return the image as iterations 1 to K."""
        m = iterations * RADIUS
        inner = extended[:, 0, m:-m, m:-m].double().numpy()
        images = torch.from_numpy(np.stack([self.function(plane) for plane in inner])).float()
        return images[:, None].repeat(1, iterations, 1, 1)


def claiming(model: Model, function: Function) -> Model:
    """Return a model that returns an image at every dial from a half on."""
    description = model.description.model_copy(
        update={
            "step_optical_depth": STEP,
            "iterations": round(
                model.description.iterations * model.description.step_optical_depth / STEP
            ),
            "radius_px": RADIUS,
            "depth": None,
            "ood": None,
        }
    )
    return dataclasses.replace(
        model,
        description=description,
        radius=RADIUS,
        multiple=1,
        max_iterations=description.iterations,
        runner=Claim(function),
    )


def tricks(case: Case) -> dict[str, list[Function]]:
    """Return the tricks that need no model, each in several strengths."""
    offset, dark = case.camera.offset, float(np.quantile(case.counts.numpy(), 0.01))
    light = float(case.counts.mean()) - offset

    def gamma(power: float) -> Function:
        return lambda y: light * (np.clip(y - offset, 0, None) / light) ** power + offset

    def subtract(counts: float) -> Function:
        return lambda y: y - counts

    def background(share: float) -> Function:
        return lambda y: baselines.subtract_background_gaussian(y - offset, 25, share) + offset

    def unsharp(width: float, amount: float) -> Function:
        return lambda y: baselines.unsharp_mask(y, width, amount)

    def clahe(limit: float) -> Function:
        return lambda y: baselines.clahe(y, limit)

    return {
        "gamma": [gamma(1.5), gamma(2.0)],
        "offset subtraction": [
            subtract(0.3 * light),
            subtract(0.8 * (dark - offset) + 0.1 * light),
        ],
        "background subtraction": [background(0.5), background(0.9)],
        "unsharp masking": [unsharp(3, 1), unsharp(10, 1.5), unsharp(15, 2)],
        "CLAHE": [clahe(0.01), clahe(0.03)],
    }


def model_at(model: Model, dial: float) -> Function:
    step = model.description.step_optical_depth
    count = max(1, int(np.ceil(dial / step - 1e-9)))

    def function(y: Double) -> Double:
        raw = torch.from_numpy(y).float()
        extended = extend(raw[None, None], [count * model.radius] * 2)
        kept = model.iterate(extended, count)[0]
        return blend(raw, kept, dial, step).double().numpy()

    return function


def automatic(model: Model, case: Case) -> float:
    widths = model.description.scatter.widths
    run = iterate_mirrored(model)
    return choose_dial(case.counts, run, model.description, widths_px=widths).dial


def verdicts(model: Model, case: Case, function: Function) -> tuple[bool, str]:
    """Return whether an image is accepted at any depth it may claim, and why not."""
    image = xr.DataArray(case.counts.numpy(), dims=("y", "x"), name="phantom")
    claim = claiming(model, function)
    depths = [STEP * k for k in range(1, claim.description.iterations + 1)]
    found = evaluate(claim, image, dials=depths)
    rows = [row for row in found.scores if row.dial in depths]
    nearest = min(rows, key=lambda row: abs(row.systematic_misfit or 0.0))
    return any(row.verdict == "ok" for row in rows), nearest.why


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="run folder, package, or name of a shipped model")
    parser.add_argument("--seeds", type=int, default=1, help="sets of nine phantoms (1)")
    parser.add_argument("--json", type=Path, help="also write every verdict to this file")
    parser.add_argument("--record", action="store_true", help="save benchmarks/records")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is at least 1, not {given.seeds}")
    model = open_model(given.model)
    accepted: dict[str, list[bool]] = {}
    reasons: dict[str, list[str]] = {}
    drawn = itertools.product(range(given.seeds), KINDS, OPTICAL_DEPTHS)
    for number, (batch, kind, depth) in enumerate(drawn):
        width, light = SETTINGS[batch % len(SETTINGS)]
        case = draw_case(
            kind,
            depth,
            FIRST_SEED + number,
            brightness=PHOTONS * light,
            widths_px=tuple(width * sigma for sigma in WIDTHS_PX),
        )
        truth = case.truth / case.camera.gain + case.camera.offset

        def known(_: Double, truth: Double = truth) -> Double:
            return truth

        candidates: dict[str, list[Function]] = {
            TRUTH: [known],
            AUTOMATIC: [model_at(model, automatic(model, case))],
            **tricks(case),
            "over-iteration": [model_at(model, depth + more) for more in (1.0, 2.0)],
        }
        for name, functions in candidates.items():
            for function in functions:
                fine, why = verdicts(model, case, function)
                accepted.setdefault(name, []).append(fine)
                reasons.setdefault(name, []).append("" if fine else why)
        if given.json is not None:
            # After every phantom, so that nothing is lost when it ends early.
            write_json(given.json, {"model": model.name, "accepted": accepted, "reasons": reasons})
    table = table_of(accepted, reasons)
    print_tables([table])
    if given.record:
        seeds = "" if given.seeds == 1 else f" --seeds {given.seeds}"
        _ = save(
            "verdict",
            [table],
            title="Verdict",
            command=f"python benchmarks/verdict.py {given.model}{seeds} --record",
            order=6,
            text="Cheap contrast in the place of the enhanced image, which may claim any optical "
            "depth: of how many images the verdict accepts. It should accept the truth and refuse "
            "the tricks. The sets of nine phantoms take turns: the kernel in the middle of the "
            "trained range, one half as wide again, one of two thirds, and 25 times the light.",
        )


def table_of(accepted: Mapping[str, Sequence[bool]], reasons: Mapping[str, Sequence[str]]) -> Table:
    """Return how many images were accepted, and why most of the others were not."""
    rows: list[tuple[str, ...]] = []
    for name, fine in accepted.items():
        # Whatever the numbers in them are, reasons are the same.
        words = [re.sub(r"\d[\d.]*%?", "\N{HORIZONTAL ELLIPSIS}", why) for why in reasons[name]]
        told = [why for why in words if why]
        common = max(set(told), key=told.count) if told else ""
        rows.append((name, f"{sum(fine)}", f"{len(fine)}", common))
    return Table("", ("image", "accepted", "of", "most common reason to refuse"), tuple(rows))


if __name__ == "__main__":
    main()
