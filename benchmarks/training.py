"""A training step of ``dcbmz train`` against the bare loop of the same network and data.

    python benchmarks/training.py [--batch 4] [--steps 12] [--rounds 3] [--threads 1]

In one process and in turn: `train_run`, from report to report; a loop that draws the same patches,
computes the same loss, clips and steps, and does nothing else; and the drawing alone. Printed are
processor seconds per step, the medians of each round, and bare over dcbmz: 1 means that Lightning,
checks and reports cost nothing, and the share of a step that draws its patches.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from torch.utils.data import DataLoader

from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.settings import Recipe
from deepcontrast_bmz.train.pairs import PairDataset
from deepcontrast_bmz.train.raw_planes import RawPlane
from deepcontrast_bmz.train.run import TrainingProgress, train_run

if TYPE_CHECKING:
    from collections.abc import Iterator


class Enough(Exception):  # noqa: N818 - it is no error
    """Ends a training run."""


def recording() -> np.ndarray:
    rng = np.random.default_rng(0)
    light = phantom("mixed", (512, 512), rng)
    return (rng.poisson(200 * light + 20) * 2 + 100).astype(np.uint16)


def differences(times: list[float]) -> list[float]:
    """Return the seconds of each step but the first two, which warm up."""
    return [after - before for before, after in itertools.pairwise(times[2:])]


def of_dcbmz(image: Path, recipe: Recipe, steps: int) -> list[float]:
    times: list[float] = []

    def report(state: TrainingProgress) -> None:
        times.append(time.process_time())
        if state.step == steps:
            raise Enough

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        train_run([image], Path(folder) / "run", recipe, device="cpu", report=report)
    return differences(times)


def batches(image: Path, recipe: Recipe, steps: int) -> Iterator[Any]:
    pixels = tifffile.imread(image).astype(np.float32)
    plane = RawPlane(pixels[:-51], 0, image.name, recipe.physics.scatter.widths)
    radius = Loop(build_network(recipe.network)).radius
    length = steps * recipe.training.batch
    pairs = PairDataset([plane], recipe, radius=radius, length=length, stream=0)
    return iter(DataLoader(pairs, batch_size=recipe.training.batch))


def of_bare_loop(image: Path, recipe: Recipe, steps: int) -> list[float]:
    torch.manual_seed(0)
    settings = recipe.training
    loop = Loop(build_network(recipe.network)).train()
    optimizer = torch.optim.Adam(loop.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.1
    )
    times: list[float] = []
    for batch in batches(image, recipe, steps):
        shift = batch["degraded"].mean(dim=(1, 2, 3), keepdim=True)
        scaled = (batch["degraded"] - shift) / batch["scale"]
        restored = loop.iterate(scaled, int(batch["steps"][0]))[:, -1:]
        loss = (restored - (batch["raw"] - shift) / batch["scale"]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loop.parameters(), settings.gradient_clip)
        optimizer.step()
        schedule.step()
        times.append(time.process_time())
    return differences(times)


def of_drawing(image: Path, recipe: Recipe, steps: int) -> list[float]:
    times: list[float] = []
    for _ in batches(image, recipe, steps):
        times.append(time.process_time())
    return differences(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe.model_validate(
        {"data": {"phantoms": 0}, "training": {"batch": options.batch, "validation_patches": 1}}
    )
    works = {"dcbmz": of_dcbmz, "bare loop": of_bare_loop, "drawing alone": of_drawing}
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.tif"
        tifffile.imwrite(image, recording())
        for number in range(options.rounds):
            found = {
                name: statistics.median(work(image, recipe, options.steps))
                for name, work in works.items()
            }
            rounds.append(found)
            said = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in found.items())
            print(f"round {number + 1}: {said} per step of {options.batch} patches", flush=True)
    for name, over in (("bare loop", "dcbmz"), ("drawing alone", "dcbmz")):
        ratios = [found[name] / found[over] for found in rounds]
        print(
            f"{name} over {over}: {statistics.median(ratios):.3f} "
            f"(median of {len(ratios)}, {min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
