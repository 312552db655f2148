"""Teach the shipped network that nothing stays nothing, and see what it forgets.

    python benchmarks/structureless.py growth MODEL ...
    python benchmarks/structureless.py train OUT --data DIR [--share S] [--steps N] [--iterations K]

``growth`` records even light and tells how much of its noise is left, band by band, after each
iteration. ``train`` goes on from the shipped weights: a share of the examples are even light,
ramps, haze and wide glow at every light level, to become what they are without noise; the others
are those of the shipped recipe, degraded by 1 to K steps, of which the network undoes the last on
what the loop made of the others. OUT is a run folder: judge it by ``benchmarks/real.py --model OUT
--parts degraded pairs`` and ``benchmarks/phantoms.py OUT``. 2,400 steps take half an hour.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

from deepcontrast_bmz.model.loop import Loop, extend
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.draws import draw_log_uniform
from deepcontrast_bmz.settings import read_recipe
from deepcontrast_bmz.train.pairs import PairDataset
from deepcontrast_bmz.train.phantoms import phantom_planes
from deepcontrast_bmz.train.raw_planes import RawPlane, planes_of, split_planes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.settings import Recipe

SHIPPED = Path(__file__).parents[1] / "weights"
BANDS_PX = ((0.5, 2.0), (2.0, 6.0), (6.0, 16.0))
"""Widths of the two Gaussians between which each band lies: details of about 1-4, 4-12, 12-32."""
LEVELS = (3.0, 40.0, 400.0)
"""Photons per pixel of the even light."""
SIDE = 256
PHOTONS = (0.3, 2000.0)
READ_NOISE_ELECTRONS = (0.3, 3.0)
COARSEST = 32
"""Haze is drawn on a grid of this many pixels and interpolated, so that nothing in it is finer."""
UNEVEN = 0.03
"""Errors of light without structure are measured in its noise, or this share of its deviation."""
LEARNING_RATE = 1e-3


# ---- what is left of noise


def measure_growth(model: Model, level: float, seed: int = 5) -> list[list[float]]:
    """Return noise over that of the recording, [band][iteration], of even light."""
    recording = np.random.default_rng(seed).poisson(level, (SIDE, SIDE)).astype(np.float32)
    count = model.description.iterations
    raw = torch.from_numpy(recording)[None, None]
    extended = extend(raw, [count * radius for radius in model.radii])
    images = model.iterate(extended, count)[0].numpy().reshape(count, SIDE, SIDE)
    return [
        [_deviation(image, *band) / _deviation(recording, *band) for image in images]
        for band in BANDS_PX
    ]


def _deviation(
    image: np.ndarray[tuple[int, ...], np.dtype[np.float32]], low: float, high: float
) -> float:
    fine, coarse = (scipy.ndimage.gaussian_filter(image, width) for width in (low, high))
    return float((fine - coarse).std())


# ---- what is taught


def draw_structureless(rng: np.random.Generator, side: int, zoom: float) -> tuple[Tensor, Tensor]:
    """Draw a recording without structure and its light, (side, side), in photons per pixel.

    It is resampled as other training images are, which makes the noise of neighbours depend on
    each other; some cameras have few grey levels.
    """
    drawn = round(side / zoom)
    light = _draw_light(rng, drawn) * draw_log_uniform(rng, *PHOTONS)
    read_noise = draw_log_uniform(rng, *READ_NOISE_ELECTRONS) if rng.random() < 0.7 else 0.0
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    recorded = expose(light, Camera(read_noise_electrons=read_noise), generator)
    if rng.random() < 0.3:
        grey = float((recorded - light).std()) * draw_log_uniform(rng, 0.2, 2.0)
        recorded = (recorded / grey).round() * grey if grey > 0 else recorded
    both = torch.stack([recorded, light])[None]
    if drawn != side:
        both = F.interpolate(both, (side, side), mode="bilinear", antialias=zoom < 1)
    return both[0, 0], both[0, 1]


def _draw_light(rng: np.random.Generator, side: int) -> Tensor:
    """Return relative light around 1, never below 0: even, a ramp, haze, or one wide glow."""
    line = torch.linspace(-0.5, 0.5, side)
    uneven = rng.uniform(0.05, 0.9)
    kind = rng.choice(4, p=(0.35, 0.2, 0.3, 0.15))
    if kind == 0:
        return torch.ones(side, side)
    if kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        slope = np.cos(angle) * line[:, None] + np.sin(angle) * line
        return (1 + 2 * uneven * slope).clamp_min(0)
    if kind == 2:
        coarse = torch.from_numpy(rng.standard_normal([-(-side // COARSEST) + 1] * 2))
        haze = F.interpolate(coarse[None, None].float(), (side, side), mode="bicubic")[0, 0]
        return (1 + uneven * haze / 2).clamp_min(0)
    (y, x), width = rng.uniform(-0.5, 0.5, 2), rng.uniform(60, 200)
    squared = ((line[:, None] - y) ** 2 + (line - x) ** 2) * side**2
    return 1 - uneven + 2 * uneven * torch.exp(-squared / (2 * width**2))


def draw_example(
    pairs: PairDataset, recipe: Recipe, index: int, share: float, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (input, target, scale) of an example, of the shipped recipe or without structure."""
    rng = np.random.default_rng([recipe.seed, 13, index])
    if rng.random() >= share:
        pair = pairs[index]
        return pair["degraded"], pair["raw"], pair["scale"]
    margin = steps * pairs.radius
    zoom = draw_log_uniform(rng, *recipe.data.zoom)
    recorded, light = draw_structureless(rng, recipe.data.patch + 2 * margin, zoom)
    scale = max(float((recorded - light).std()), UNEVEN * float(light.std()), 1e-6)
    target = light[margin:-margin, margin:-margin]
    return recorded[None].float(), target[None].float(), torch.full((1, 1, 1), scale)


def read_planes(data: Path, recipe: Recipe) -> list[RawPlane]:
    """Return the planes that the shipped model was trained on, procedural ones included."""
    from deepcontrast_bmz.image import read_image  # here: the other command needs no reader

    names = [
        image["name"] for image in json.loads(_shipped("run.json").read_text("utf-8"))["images"]
    ]
    widths = recipe.physics.scatter.widths
    found = [
        plane
        for number, name in enumerate(names)
        for plane in planes_of(read_image(data / name), number, name, widths)
    ]
    training, _ = split_planes(found, recipe.data.validation_fraction, recipe.seed)
    return training + phantom_planes(recipe, len(names))


def _shipped(name: str) -> Path:
    return SHIPPED / f"deepcontrast.{name}"


def train(out: Path, data: Path, share: float, steps: int, iterations: int) -> None:
    """Go on from the shipped weights and write a run folder."""
    recipe = read_recipe(_shipped("recipe.toml"))
    training = recipe.training.model_copy(update={"unroll": iterations, "steps": steps})
    # A seed of its own: the patches are others than those seen before.
    recipe = recipe.model_copy(update={"training": training, "seed": recipe.seed + 1})
    loop = Loop.from_recipe(recipe)
    loop.load_state_dict(torch.load(_shipped("pt"), weights_only=True))
    loop = loop.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    batch = recipe.training.batch
    planes = read_planes(data, read_recipe(_shipped("recipe.toml")))
    pairs = PairDataset(planes, recipe, radius=loop.radius, length=steps * batch, stream=0)
    optimizer = torch.optim.Adam(loop.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1
    )
    begun = time.monotonic()
    for step in range(steps):
        count = int(pairs[step * batch]["steps"]) if iterations > 1 else 1
        examples = [
            draw_example(pairs, recipe, step * batch + i, share, count) for i in range(batch)
        ]
        degraded, raw, scale = (torch.stack(part) for part in zip(*examples, strict=True))
        shift = degraded.mean(dim=(1, 2, 3), keepdim=True)
        image = (degraded - shift) / scale
        if count > 1:
            with torch.no_grad():
                image = loop.iterate(image, count - 1)[:, -1:]
        loss = (loop.iterate(image, 1) - (raw - shift) / scale).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loop.parameters(), recipe.training.gradient_clip)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1}: {float(loss):.3f}, {time.monotonic() - begun:.0f} s", flush=True
            )
    out.mkdir(parents=True, exist_ok=True)
    for name in ("recipe.toml", "run.json"):
        shutil.copyfile(_shipped(name), out / name)
    torch.save(loop.state_dict(), out / "weights.pt")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    growth = commands.add_parser("growth", help="how much noise of even light is left")
    growth.add_argument("models", nargs="+", help="as for dcbmz predict")
    taught = commands.add_parser("train", help="go on from the shipped weights")
    taught.add_argument("out", type=Path)
    taught.add_argument("--data", type=Path, required=True, help="folder of real images")
    taught.add_argument("--share", type=float, default=0.05, help="examples without structure")
    taught.add_argument("--steps", type=int, default=2400)
    taught.add_argument("--iterations", type=int, default=3, help="at most, in one example")
    options = parser.parse_args(arguments)
    if options.command == "train":
        train(options.out, options.data, options.share, options.steps, options.iterations)
        return
    for name in options.models:
        model = open_model(name)
        for level in LEVELS:
            bands = "; ".join(
                " ".join(f"{value:.2f}" for value in band) for band in measure_growth(model, level)
            )
            print(f"{name}, {level:g} photons, bands 1-4, 4-12, 12-32 px: {bands}")


if __name__ == "__main__":
    main()
