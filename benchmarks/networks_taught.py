"""What the networks of `networks.py` are taught: specimens, pairs, and the trainings themselves."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from networks_compared import DEPTHS, FIRST, NETWORKS, Options, Variant, make_recipe
from torch import Tensor, nn
from torch.utils.data import Dataset
from unets import UNetSettings, build_unet

from deepcontrast_bmz.image import planes, read_image, replace_whole
from deepcontrast_bmz.image.labels import as_float32
from deepcontrast_bmz.model.loop import Loop, extend
from deepcontrast_bmz.model.network.layers import AffineConv, crop_margin, sort_pairs
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.degrade import draw_degradation
from deepcontrast_bmz.physics.draws import draw_log_uniform
from deepcontrast_bmz.physics.phantoms import KINDS, phantom
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.train.distributed import Spread, trainer_arguments
from deepcontrast_bmz.train.pairs import Pair, PairDataset
from deepcontrast_bmz.train.raw_planes import RawPlane, split_planes
from deepcontrast_bmz.train.trainer import Training, fit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deepcontrast_bmz.settings import NetworkSettings, Recipe

SIDE = 288
DARK = 100.0

# ---- data


class Recording(NamedTuple):
    """What a camera made of light: as it is, and without noise."""

    raw: RawPlane
    noiseless: RawPlane


def draw_specimens(recipe: Recipe, count: int, stream: int) -> list[Recording]:
    """Return procedural specimens recorded at depth, drawn like those of the shipped recipe."""
    found: list[Recording] = []
    physics, widths = recipe.physics, recipe.physics.scatter.widths
    for number in range(count):
        rng = np.random.default_rng([recipe.seed, stream, number])
        kind = KINDS[number % len(KINDS)]
        truth = torch.from_numpy(phantom(kind, (SIDE, SIDE), rng))
        truth *= draw_log_uniform(rng, 150, 4000)
        draw = draw_degradation(physics, rng, widths_px=widths, mean_photons=0.0)
        depth = rng.uniform(*recipe.data.phantom_optical_depth)
        light = scatter(truth, depth, draw.widths_px, draw.weights)
        light = light * math.exp(-draw.absorption_optical_depth)
        camera = Camera(offset=DARK, read_noise_electrons=rng.uniform(0, 2))
        noise = torch.Generator().manual_seed(draw.seed)
        counts = expose(light, camera, noise).numpy()
        raw = RawPlane(as_float32(counts, kind), -1 - number % len(KINDS), kind, widths)
        noiseless = replace(raw, pixels=as_float32((light + DARK).numpy(), kind))
        found.append(Recording(raw, noiseless))
    return found


def read_recordings(folder: Path, recipe: Recipe) -> list[Recording]:
    """Return the planes of all TIFFs in a folder; their noiseless form is not known."""
    found: list[Recording] = []
    widths = recipe.physics.scatter.widths
    for index, path in enumerate(sorted(folder.glob("*.tif*"))):
        for _, plane in planes(read_image(path)):
            if plane.max() > plane.min():
                raw = RawPlane(as_float32(plane, path.name), index, path.name, widths)
                found.append(Recording(raw, raw))
    return found


class Data(NamedTuple):
    """Recordings to train on, and planes to validate on."""

    training: list[Recording]
    validation: list[RawPlane]


def collect_data(recipe: Recipe, folder: Path | None) -> Data:
    """Return the data of a seed: specimens, and the planes of a folder if there is one."""
    training = draw_specimens(recipe, recipe.data.phantoms, 1)
    validation = [made.raw for made in draw_specimens(recipe, max(5, recipe.data.phantoms // 8), 8)]
    if folder is not None:
        real = read_recordings(folder, recipe)
        _, held_out = split_planes(
            [made.raw for made in real], recipe.data.validation_fraction, recipe.seed
        )
        images = {plane.image for plane in held_out}
        training += [made for made in real if made.raw.image not in images]
        validation += held_out
    return Data(training, validation)


class Paired(Dataset[Pair]):
    """Inputs made of one recording, targets from another of the same light and place."""

    def __init__(self, inputs: PairDataset, targets: Sequence[RawPlane]) -> None:
        self.inputs = inputs
        # The same draws: places, floors and light stay those of the inputs.
        self.targets = copy.copy(inputs)
        self.targets._planes = list(targets)  # pyright: ignore[reportPrivateUsage]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Pair:
        """Draw example `index`."""
        target = self.targets[index]
        return Pair(
            degraded=self.inputs[index]["degraded"],
            raw=target["raw"],
            steps=target["steps"],
            scale=target["scale"],
        )


class OfManyDepths(Dataset[dict[str, Any]]):
    """Pairs of one optical depth per batch, which goes with them."""

    def __init__(self, pairs: PairDataset) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw example `index`."""
        recipe = self.pairs.recipe
        batch = index // recipe.training.batch
        rng = np.random.default_rng([recipe.seed, 9, self.pairs.stream, batch])
        depth = float(rng.choice(DEPTHS))
        physics = recipe.physics.model_copy(update={"step_optical_depth": depth})
        pairs = copy.copy(self.pairs)
        pairs.recipe = recipe.model_copy(update={"physics": physics})
        return {**pairs[index], "depth": torch.tensor(depth)}


# ---- the network that is told the depth


class DepthConv(AffineConv):
    """An affine convolution whose kernel goes in a straight line with the depth."""

    def __init__(self, inputs: int, outputs: int, **settings: Any) -> None:
        super().__init__(inputs, outputs, **settings)
        self.slope = nn.Parameter(torch.zeros_like(self.weight))

    def at(self, x: Tensor, depth: float) -> Tensor:
        """Convolve without padding."""
        kernel = self.weight + (depth / 2 - 1) * self.slope
        kernel = kernel - kernel.mean(dim=(1, 2, 3), keepdim=True)
        kernel = kernel + self.total / kernel[0].numel()
        return nn.functional.conv2d(x, kernel, dilation=self.dilation)


class ConditionedNetwork(nn.Module):
    """The dilated network with kernels that depend on the depth; at depth 0 it is the identity.

    It is applied once, to the raw image, for whatever depth: no step of a loop.
    """

    dims = 2

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width, self.dilations = settings.width, settings.dilations
        self.first = DepthConv(1, width)
        self.hidden = nn.ModuleList(DepthConv(width, width, dilation=d) for d in self.dilations)
        self.last = DepthConv(width, 1, size=1, total=0.0)
        self.radius = 1 + sum(self.dilations)

    def margins(self, _steps: int) -> tuple[int, int]:
        """Return what is lost on each side."""
        return (self.radius, self.radius)

    def at(self, x: Tensor, depth: float) -> Tensor:
        """Undo an optical depth: (B, 1, Y, X) to (B, 1, Y - 2 radius, X - 2 radius)."""
        g = self.first.at(x, depth)
        for layer, m in zip(self.hidden, self.dilations, strict=True):
            g = sort_pairs(cast("DepthConv", layer).at(g, depth)) + crop_margin(g, m)
        change = self.last.at(g, depth) * (depth * 0.5 ** len(self.dilations))
        return crop_margin(x, self.radius) + change

    def iterate(self, extended: Tensor, iterations: int) -> Tensor:
        """Do what a loop of so many steps of 1 would, in one."""
        return self.at(extended, float(iterations))


# ---- training


class Trained(Training):
    """The trainer, with pairs and network of a variant."""

    def __init__(self, variant: Variant, recipe: Recipe, out: Path, data: Data) -> None:
        self.variant, pairing = variant, variant.pairing
        inputs = [made.noiseless if pairing == "fresh" else made.raw for made in data.training]
        super().__init__(recipe, Spread(), out, inputs, data.validation, None)
        if pairing == "fresh":
            self.pairs = cast("Any", Paired(self.pairs, [m.raw for m in data.training]))
        elif pairing == "depths":
            self.pairs = cast("Any", OfManyDepths(self.pairs))
            self.held_out = cast("Any", OfManyDepths(self.held_out))

    def _new_loop(self) -> Loop:
        # The one that is told the depth has the radius and the weights of a loop.
        return cast("Loop", build_loop(self.variant, self.recipe))

    def _restore(self, batch: Pair) -> tuple[Tensor, Tensor]:
        depth = cast("dict[str, Tensor]", batch).get("depth")
        if depth is None:
            return super()._restore(batch)
        shift, scale = batch["degraded"].mean(dim=(1, 2, 3), keepdim=True), batch["scale"]
        network = cast("ConditionedNetwork", self.loop)
        restored = network.at((batch["degraded"] - shift) / scale, float(depth[0]))
        return restored, (batch["raw"] - shift) / scale


def build_loop(variant: Variant, recipe: Recipe) -> Loop | ConditionedNetwork:
    if variant.pairing == "depths":
        return ConditionedNetwork(recipe.network)
    if isinstance(variant.network, UNetSettings):
        return Loop(build_unet(variant.network), recipe.loop.iterations)
    return Loop.from_recipe(recipe)


@torch.inference_mode()
def refine_targets(data: Data, loop: Loop) -> Data:
    """Return the data with every plane replaced by what one iteration makes of it."""

    def better(made: Recording) -> Recording:
        counts = torch.from_numpy(made.raw.pixels)[None, None]
        pixels = loop.iterate(extend(counts, [loop.radius] * 2), 1)[0, 0].numpy()
        return made._replace(raw=replace(made.raw, pixels=pixels.copy()))

    return data._replace(training=[better(made) for made in data.training])


class Runs:
    """Trained networks, made when they are asked for and kept in the work folder."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.known: tuple[tuple[object, ...], Data] | None = None

    def folder(self, variant: Variant, seed: int) -> Path:
        """Return where a training lies; another budget or other data, another folder."""
        recipe = make_recipe(variant, seed, self.options)
        # Without what is left at its default: a new setting leaves old trainings where they are.
        chosen = recipe.model_dump(exclude_unset=True)
        chosen["network"] = variant.network.model_dump(exclude_unset=True)
        settings = json.dumps([chosen, variant.pairing, str(self.options.data)])
        digest = hashlib.sha256(settings.encode()).hexdigest()[:10]
        kind = f"{variant.network.kind}_{variant.network.width}_{variant.pairing}"
        return self.options.work / f"{kind}_seed{seed}_{digest}"

    def data(self, recipe: Recipe) -> Data:
        """Return the data of the recipe: its seed and specimens."""
        drawn_from = (recipe.seed, recipe.physics, recipe.data.phantom_optical_depth)
        if self.known is None or self.known[0] != drawn_from:
            self.known = (drawn_from, collect_data(recipe, self.options.data))
        return self.known[1]

    def loop(self, variant: Variant, seed: int) -> Loop | ConditionedNetwork | None:
        """Return the trained loop; None if it is not there and must not be trained."""
        recipe = make_recipe(variant, seed, self.options)
        folder = self.folder(variant, seed)
        weights = folder / "weights.pt"
        loop = build_loop(variant, recipe)
        if not weights.is_file():
            if self.options.cached:
                return None
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            data = self.data(recipe)
            if variant.pairing == "refined":
                data = refine_targets(data, cast("Loop", self.loop(NETWORKS[FIRST], seed)))
            begun = time.monotonic()
            torch.manual_seed(seed)
            module = Trained(variant, recipe, folder, data)
            fit(module, folder, trainer_arguments(Spread(), "cpu"), resume=False)
            shutil.rmtree(folder / "checkpoints")
            (folder / "validation.json").write_text(json.dumps(module.best_scores) + "\n")
            with replace_whole(weights) as path:
                torch.save(module.best, path)
            seconds = time.monotonic() - begun
            print(f"trained {folder.name}: {seconds:.0f} s, {module.best_scores}", flush=True)
        loop.load_state_dict(torch.load(weights, weights_only=True))
        return loop.eval().requires_grad_(requires_grad=False)
