"""The network of the shipped recipe, taught with the truth: what no recording in tissue allows.

    python benchmarks/ceiling.py --work DIR [--steps 1500] [--recipe FILE]

Same architecture, ranges, patches, loss and optimiser as the recipe, but the input is a specimen
behind an optical depth drawn from 0 to all that the recipe's iterations undo, and the target is the
specimen itself: one pass, nothing told of the depth. Training goes on where it was.
"""

from __future__ import annotations

__all__ = ["RECIPE", "load_ceiling", "one_pass", "train_ceiling"]

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepcontrast_bmz.image import replace_whole
from deepcontrast_bmz.model.loop import Loop, extend
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.physics.phantoms import KINDS, phantom
from deepcontrast_bmz.settings import Recipe, read_recipe
from deepcontrast_bmz.train.pairs import PairDataset
from deepcontrast_bmz.train.raw_planes import RawPlane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

RECIPE = Path(__file__).parent.parent / "weights" / "deepcontrast.recipe.toml"
SPECIMENS = 240
"""Three times as many as the recipe has, since there are no real images beside them."""
SIDE = 288
STEPS_PER_CHECKPOINT = 100
SEED = 60_000


class TruePairs(PairDataset):
    """Pairs of a specimen behind tissue of any depth, and the specimen."""

    def __init__(
        self, found: Sequence[RawPlane], recipe: Recipe, *, radius: int, length: int
    ) -> None:
        super().__init__(found, recipe, radius=radius, length=length, stream=0)
        self.deepest = recipe.loop.iterations * recipe.physics.step_optical_depth
        self.as_read = recipe

    def __getitem__(self, index: int) -> Any:
        """Draw example `index` at a depth of its own."""
        rng = np.random.default_rng([self.as_read.seed, 7, index])
        depth = max(rng.uniform(0, self.deepest), 1e-3)
        physics = self.as_read.physics.model_copy(update={"step_optical_depth": depth})
        self.recipe = self.as_read.model_copy(update={"physics": physics})
        return super().__getitem__(index)


def _specimens(count: int, side: int) -> list[RawPlane]:
    found: list[RawPlane] = []
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        kind = KINDS[number % len(KINDS)]
        # Brightness plays no part: photons are drawn for each patch.
        pixels = 1000 * phantom(kind, (side, side), rng)
        found.append(RawPlane(pixels.astype(np.float32), number % len(KINDS), kind, (1.0,)))
    return found


def _fresh(recipe: Recipe) -> Loop:
    return Loop(build_network(recipe.network), 1)


def _one_pass_recipe(recipe: Recipe) -> Recipe:
    physics = recipe.physics
    if physics.photons is None:
        # Specimens have no noise that the light could be matched to.
        physics = physics.model_copy(update={"photons": (40.0, 2000.0)})
    training = recipe.training.model_copy(update={"unroll": 1})
    return recipe.model_copy(update={"physics": physics, "training": training})


def _state_path(work: Path, steps: int) -> Path:
    return work / f"ceiling_{steps}.pt"


def train_ceiling(
    work: Path, steps: int, recipe: Recipe, *, specimens: int = SPECIMENS, side: int = SIDE
) -> Loop:
    """Train, or go on training, and return the network.

    Parameters
    ----------
    work : Path
        Where it is kept.
    steps : int
        Optimiser steps in all; the learning rate is scheduled over them.
    recipe : Recipe
    specimens, side : int
        How many procedural specimens, and their side in pixels.
    """
    work.mkdir(parents=True, exist_ok=True)
    recipe = _one_pass_recipe(recipe)
    settings = recipe.training
    torch.manual_seed(recipe.seed)
    loop = _fresh(recipe)
    optimizer = torch.optim.Adam(loop.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps + 1, pct_start=0.1
    )
    path, done = _state_path(work, steps), 0
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        loop.load_state_dict(kept["loop"])
        done = int(kept["done"])
        if done < steps:
            optimizer.load_state_dict(kept["optimizer"])
            schedule.load_state_dict(kept["schedule"])
    if done >= steps:
        return loop.eval()
    widths = recipe.physics.scatter.widths
    planes = [
        RawPlane(plane.pixels, plane.image, plane.name, widths)
        for plane in _specimens(specimens, side)
    ]
    pairs = TruePairs(planes, recipe, radius=loop.radius, length=steps * settings.batch)
    started, recent = time.monotonic(), 0.0
    for step in range(done, steps):
        batch = [pairs[step * settings.batch + i] for i in range(settings.batch)]
        seen, truth, scale = (
            torch.stack([pair[name] for pair in batch]) for name in ("degraded", "raw", "scale")
        )
        shift = seen.mean(dim=(1, 2, 3), keepdim=True)
        restored = loop.iterate((seen - shift) / scale, 1)
        loss = (restored - (truth - shift) / scale).abs().mean()
        if not math.isfinite(float(loss.detach())):
            raise SystemExit(f"training diverged at step {step}: lower the learning rate")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loop.parameters(), settings.gradient_clip)
        optimizer.step()
        schedule.step()
        recent += 0.05 * (float(loss.detach()) - recent) if step > done else float(loss.detach())
        if (step + 1) % STEPS_PER_CHECKPOINT == 0 or step + 1 == steps:
            with replace_whole(path) as temporary:
                state = {
                    "loop": loop.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "done": step + 1,
                }
                torch.save(state, temporary)
            each = (time.monotonic() - started) / (step + 1 - done)
            print(f"ceiling: step {step + 1} of {steps}, loss {recent:.4f}, {each:.2f} s a step")
    return loop.eval()


def load_ceiling(work: Path, steps: int, recipe: Recipe) -> Loop | None:
    """Return the trained network, None where it has not been trained to the end.

    Parameters
    ----------
    work : Path
    steps : int
    recipe : Recipe
        As for `train_ceiling`.
    """
    path = _state_path(work, steps)
    if not path.is_file():
        return None
    kept = torch.load(path, weights_only=True)
    if int(kept["done"]) < steps:
        return None
    loop = _fresh(_one_pass_recipe(recipe))
    loop.load_state_dict(kept["loop"])
    return loop.eval()


def one_pass(loop: Loop, counts: Tensor) -> Tensor:
    """Return one plane (Y, X) after one pass, float32."""
    with torch.inference_mode():
        extended = extend(counts[None, None].float(), [loop.radius] * 2)
        shift = extended.mean()
        scale = extended.std().clamp_min(1e-12)
        return loop.iterate((extended - shift) / scale, 1)[0, 0] * scale + shift


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where the network is kept")
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps (1500)")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="whose ranges and optimiser")
    given = parser.parse_args(arguments)
    if given.steps < 1:
        parser.error(f"--steps is at least 1, not {given.steps}")
    _ = train_ceiling(given.work, given.steps, read_recipe(given.recipe))


if __name__ == "__main__":
    main()
