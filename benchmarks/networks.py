"""Networks, loops and what is taught in one comparison: the same data, steps and seeds for all.

    python benchmarks/networks.py [--steps N] [--seeds S] [--phantoms P] [--data FOLDER]
                                  [--work DIR] [--only NAME ...] [--cached] [--rates] [--record]

Every network is trained by the project's own trainer, from the same patches, and judged on
phantoms that nothing was chosen on: at its best whole k and at its best dial, by the truth. Then
come four loops around the first network, a second round on its own outputs, other ways to pair
the noise of input and target, deeper specimens and two steps in one. A trained network is kept in
the work folder and taken from there when the command is repeated; ``--cached`` makes the tables of
what lies there. The learning rates are those of least held-out loss in ``--rates --steps 60``, on
a seed of its own.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import math
import shlex
import shutil
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from baselines import (
    best_by_truth,
    richardson_lucy,
    richardson_lucy_iterates,
)
from loops import LOOPS, Feedback, iterated, plain
from phantoms import (
    GRID,
    LUCY_ITERATIONS,
    MOST_ITERATIONS,
    OPTICAL_DEPTHS,
    WEIGHTS,
    WIDTHS_PX,
    Case,
    cases,
    draw_case,
    score,
)
from records import Table, print_tables, save
from torch import Tensor, nn
from torch.utils.data import Dataset
from unets import UNetSettings, build_unet

from deepcontrast_bmz.evaluate.metrics import psnr_after_fit
from deepcontrast_bmz.image import planes, read_image, replace_whole
from deepcontrast_bmz.image.labels import as_float32
from deepcontrast_bmz.model.devices import fast_loop
from deepcontrast_bmz.model.loop import Loop, blend, extend
from deepcontrast_bmz.model.network.layers import AffineConv, crop_margin, sort_pairs
from deepcontrast_bmz.physics.camera import Camera, expose, to_photons
from deepcontrast_bmz.physics.degrade import draw_degradation
from deepcontrast_bmz.physics.draws import draw_log_uniform
from deepcontrast_bmz.physics.phantoms import KINDS, phantom
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.settings import NetworkSettings, Recipe
from deepcontrast_bmz.train.distributed import Spread, trainer_arguments
from deepcontrast_bmz.train.pairs import Pair, PairDataset
from deepcontrast_bmz.train.raw_planes import RawPlane, split_planes
from deepcontrast_bmz.train.trainer import Training, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Changes = Mapping[str, Mapping[str, Any]]
    Pairing = Literal["naive", "fresh", "refined", "depths"]
    Scores = list[dict[str, list[float]]]

SIDE = 288
DARK = 100.0
SPARE = 8
"""Pixels around the window that is moved over an image."""


# ---- what is compared


class Variant(NamedTuple):
    """A network, and what it is taught."""

    network: NetworkSettings | UNetSettings
    learning_rate: float
    pairing: Pairing = "naive"
    changes: Changes | None = None
    """Of the recipe, by section."""


DILATED = NetworkSettings()
TWO_PASSES = (1, 2, 4, 8, 4, 2, 1, 2, 4, 8, 4, 2, 1)
FIRST = "dilated, width 16"
CONDITIONED = "dilated, told the depth, once"
NETWORKS: dict[str, Variant] = {
    FIRST: Variant(DILATED, 1e-2),
    "dilated, width 24": Variant(NetworkSettings(width=24), 3e-3),
    "dilated, width 12, two passes": Variant(NetworkSettings(width=12, dilations=TWO_PASSES), 1e-2),
    "U-Net, blurred pooling": Variant(UNetSettings(kind="blurpool_unet"), 3e-3),
    "U-Net, plain": Variant(UNetSettings(kind="plain_unet"), 3e-3),
    "invertible": Variant(NetworkSettings(kind="invertible", width=32, levels=4), 1e-2),
    CONDITIONED: Variant(DILATED, 3e-3, "depths"),
}
REFINED = "refined targets, plain loop"
TAUGHT: dict[str, Variant] = {
    "light split in halves": Variant(DILATED, 1e-2, changes={"data": {"input_share": 0.5}}),
    "light split, .8 to the input": Variant(DILATED, 1e-2, changes={"data": {"input_share": 0.8}}),
    "specimens as deep as 3": Variant(
        DILATED, 1e-2, changes={"data": {"phantom_optical_depth": (0.0, 3.0)}}
    ),
    "specimens as deep as 4": Variant(
        DILATED, 1e-2, changes={"data": {"phantom_optical_depth": (0.0, 4.0)}}
    ),
    "up to two steps in one": Variant(DILATED, 1e-2, changes={"training": {"unroll": 2}}),
    "fresh noise only": Variant(DILATED, 1e-2, "fresh"),
    REFINED: Variant(DILATED, 1e-2, "refined"),
}
"""One seed of each, but for the first."""
SEEN_AGAIN = ("light split in halves", "specimens as deep as 3")
"""They gained most with one seed, hence are trained with all."""
RATES, RATES_SEED = (1e-3, 3e-3, 1e-2), 99
DEPTHS = tuple(GRID * i for i in range(1, 17))
"""Optical depths that the network which is told them learns."""


@dataclass(frozen=True)
class Options:
    """The budget, and where things lie."""

    steps: int
    seeds: int
    phantoms: int
    first_seed: int
    batch: int
    patch: int
    specimens: int
    work: Path
    data: Path | None
    cached: bool


def recipe_of(variant: Variant, seed: int, options: Options) -> Recipe:
    """Return the recipe of the shipped model, with the network and budget of this comparison."""
    each = max(1, options.steps // 6)
    # A U-Net has no place in a recipe: it is built beside it.
    chosen = variant.network.model_dump(exclude_unset=True)
    settings: dict[str, dict[str, Any]] = {
        "physics": {"photons": (40.0, 2000.0)},
        "network": {} if isinstance(variant.network, UNetSettings) else chosen,
        "data": {"patch": options.patch, "zoom": (0.5, 1.2), "phantoms": options.specimens},
        "training": {
            "steps": options.steps,
            "steps_per_epoch": each,
            "batch": options.batch,
            "learning_rate": variant.learning_rate,
            "validation_patches": 16,
        },
    }
    for section, changes in (variant.changes or {}).items():
        settings[section].update(changes)
    return Recipe.model_validate({"seed": seed, **settings})


# ---- data


class Recording(NamedTuple):
    """What a camera made of light: as it is, and without noise."""

    raw: RawPlane
    noiseless: RawPlane


def specimens(recipe: Recipe, count: int, stream: int) -> list[Recording]:
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


def real_planes(folder: Path, recipe: Recipe) -> list[Recording]:
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


def data_of(recipe: Recipe, folder: Path | None) -> Data:
    """Return the data of a seed: specimens, and the planes of a folder if there is one."""
    training = specimens(recipe, recipe.data.phantoms, 1)
    validation = [made.raw for made in specimens(recipe, max(5, recipe.data.phantoms // 8), 8)]
    if folder is not None:
        real = real_planes(folder, recipe)
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
        return cast("Loop", new_loop(self.variant, self.recipe))

    def _restore(self, batch: Pair) -> tuple[Tensor, Tensor]:
        depth = cast("dict[str, Tensor]", batch).get("depth")
        if depth is None:
            return super()._restore(batch)
        shift, scale = batch["degraded"].mean(dim=(1, 2, 3), keepdim=True), batch["scale"]
        network = cast("ConditionedNetwork", self.loop)
        restored = network.at((batch["degraded"] - shift) / scale, float(depth[0]))
        return restored, (batch["raw"] - shift) / scale


def new_loop(variant: Variant, recipe: Recipe) -> Loop | ConditionedNetwork:
    if variant.pairing == "depths":
        return ConditionedNetwork(recipe.network)
    if isinstance(variant.network, UNetSettings):
        return Loop(build_unet(variant.network), recipe.loop.iterations)
    return Loop.from_recipe(recipe)


@torch.inference_mode()
def refined(data: Data, loop: Loop) -> Data:
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
        recipe = recipe_of(variant, seed, self.options)
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
            self.known = (drawn_from, data_of(recipe, self.options.data))
        return self.known[1]

    def loop(self, variant: Variant, seed: int) -> Loop | ConditionedNetwork | None:
        """Return the trained loop; None if it is not there and must not be trained."""
        recipe = recipe_of(variant, seed, self.options)
        folder = self.folder(variant, seed)
        weights = folder / "weights.pt"
        loop = new_loop(variant, recipe)
        if not weights.is_file():
            if self.options.cached:
                return None
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            data = self.data(recipe)
            if variant.pairing == "refined":
                data = refined(data, cast("Loop", self.loop(NETWORKS[FIRST], seed)))
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


# ---- judging


def judged(
    case: Case, whole: Sequence[tuple[float, Tensor]], fine: Sequence[tuple[float, Tensor]]
) -> dict[str, list[float]]:
    """Return the scores of the best of the whole and of the fine settings, by the truth."""
    found: dict[str, list[float]] = {}
    for name, images in (("k", whole), ("dial", fine)):
        photons = [
            (setting, to_photons(counts, case.camera).double().numpy())
            for setting, counts in images
        ]
        best = max(photons, key=lambda pair: psnr_after_fit(pair[1], case.truth))
        found[name] = [float(value) for value in score(*best, case)]
    return found


def dials() -> list[float]:
    return [GRID * i for i in range(int(MOST_ITERATIONS / GRID + 1e-9) + 1)]


def of_iterations(case: Case, iterations: Tensor) -> dict[str, list[float]]:
    """Judge (K, Y, X)."""
    return judged(
        case,
        [(k + 1.0, image) for k, image in enumerate(iterations)],
        [(dial, blend(case.counts, iterations, dial, 1.0)) for dial in dials()],
    )


def of_loop(case: Case, loop: Loop | ConditionedNetwork) -> dict[str, list[float]]:
    """Judge a loop as `dcbmz predict` runs it, or a network that takes every depth at once."""
    raw = case.counts[None, None]
    if isinstance(loop, Loop):
        extended = extend(raw, [MOST_ITERATIONS * loop.radius] * 2)
        return of_iterations(case, loop.iterate(extended, MOST_ITERATIONS)[0])
    extended = extend(raw, [loop.radius] * 2)
    fine = [(0.0, case.counts)]
    fine += [(depth, loop.at(extended, depth)[0, 0]) for depth in DEPTHS]
    return judged(case, [pair for pair in fine if pair[0] in (1.0, 2.0, 3.0, 4.0)], fine)


def of_lucy(case: Case) -> dict[str, list[float]]:
    """Judge Richardson-Lucy with the true kernel and depth."""
    photons = to_photons(case.counts, case.camera).double().numpy()
    tissue = (case.optical_depth, WIDTHS_PX, WEIGHTS)
    best = best_by_truth(richardson_lucy_iterates(photons, *tissue, LUCY_ITERATIONS), case.truth)
    found = [float(value) for value in score(best.setting, best.image, case)]
    return {"k": found, "dial": found}


def of_raw(case: Case) -> dict[str, list[float]]:
    found = [
        float(v) for v in score(0, to_photons(case.counts, case.camera).double().numpy(), case)
    ]
    return {"k": found, "dial": found}


def quick(loop: Loop | ConditionedNetwork) -> Loop | ConditionedNetwork:
    """Return a loop in the form that `dcbmz predict` runs."""
    return fast_loop(copy.deepcopy(loop), "cpu") if isinstance(loop, Loop) else loop


@torch.inference_mode()
def shift_error(loop: Loop | ConditionedNetwork, raw: Tensor, iterations: int = 4) -> float:
    """Return the largest change, over the range, when the window moves by 1 to 4 pixels.

    Parameters
    ----------
    loop : Loop or ConditionedNetwork
        All that it sees comes with the window, so nothing but the phase of the window changes.
    raw : Tensor, (Y, X)
    iterations : int
    """
    reach = loop.margins(iterations)[0]
    height, width = raw.shape
    extended = extend(raw[None, None], [reach + SPARE] * 2)

    def window(at: int) -> Tensor:
        seen = extended[..., at : at + height + 2 * reach, at : at + width + 2 * reach]
        return loop.iterate(seen.contiguous(), iterations)[0, -1]

    still = window(0)
    spread = float(still.max() - still.min())
    return max(
        float((window(shift)[:-shift, :-shift] - still[shift:, shift:]).abs().max()) / spread
        for shift in range(1, 5)
    )


def time_ratio(loop: Loop | ConditionedNetwork, side: int = 512, rounds: int = 3) -> float:
    """Return processor time of one iteration over that of 40 Richardson-Lucy iterations."""
    raw = torch.rand(side, side) * 100 + 10
    extended = extend(raw[None, None], [loop.radius] * 2)
    if isinstance(loop, Loop):
        network = cast("Loop", quick(loop)).network
        work: Callable[[], object] = lambda: network(extended)  # noqa: E731
    else:
        conditioned = loop
        work = lambda: conditioned.at(extended, 1.0)  # noqa: E731
    photons = raw.double().numpy()
    ratios: list[float] = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            begun = time.process_time()
            work()
            between = time.process_time()
            richardson_lucy(photons, 1.0, WIDTHS_PX, WEIGHTS, 40)
            ratios.append((between - begun) / (time.process_time() - between))
    # The first round warms up.
    return statistics.median(ratios[1:])


def kilobytes(loop: nn.Module) -> float:
    """Return the size of the weights file."""
    file = io.BytesIO()
    torch.save(loop.state_dict(), file)
    return len(file.getvalue()) / 1000


# ---- the whole comparison


class Results:
    """Scores by row and seed, kept beside the weights they are of."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.runs = Runs(options)
        self.drawn: list[Case] = []
        self.scores: dict[tuple[str, int], Scores] = {}
        self.shapes: dict[tuple[str, int], list[float]] = {}

    def cases(self) -> list[Case]:
        """Return the phantoms."""
        if not self.drawn:
            self.drawn = list(cases(self.options.phantoms, self.options.first_seed))
        return self.drawn

    def kept(self, path: Path, make: Callable[[], Any]) -> Any:
        """Return what a file holds, made and written if it is not there."""
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = make()
            with replace_whole(path) as temporary:
                temporary.write_text(json.dumps(made) + "\n", encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    @torch.inference_mode()
    def _each(self, judge: Callable[[Case], dict[str, list[float]]]) -> Scores:
        return [judge(case) for case in self.cases()]

    def _file(self, folder: Path, name: str) -> Path:
        words = f"{name}_{self.options.first_seed}_{self.options.phantoms}"
        return folder / f"{words.replace(' ', '_').replace(',', '')}.json"

    def classical(self) -> None:
        """Judge the raw image and the classical rival."""
        for name, judge in (("raw", of_raw), ("Richardson-Lucy, true kernel, best n", of_lucy)):
            path = self._file(self.options.work, name)
            self.scores[name, 0] = self.kept(path, lambda judge=judge: self._each(judge))

    def network(self, name: str, variant: Variant, seed: int) -> None:
        """Train, judge and measure one network."""
        loop = self.runs.loop(variant, seed)
        if loop is None:
            return
        folder = self.runs.folder(variant, seed)
        fast = quick(loop)
        self.scores[name, seed] = self.kept(
            self._file(folder, "scores"), lambda: self._each(lambda case: of_loop(case, fast))
        )
        self.shapes[name, seed] = self.kept(folder / "shape.json", lambda: self._shape(loop))
        print(f"{name}, seed {seed}: {self.line(name, seed)}", flush=True)

    def _shape(self, loop: Loop | ConditionedNetwork) -> list[float]:
        case = draw_case("tubes", 2.0, self.options.first_seed)
        return [
            float(sum(p.numel() for p in loop.parameters())),
            kilobytes(loop),
            time_ratio(loop),
            shift_error(loop, case.counts[:96, :96]),
        ]

    def loops(self, seed: int) -> None:
        """Judge the loops around the first network."""
        loop = self.runs.loop(NETWORKS[FIRST], seed)
        if not isinstance(loop, Loop):
            return
        fast = cast("Loop", quick(loop))
        folder = self.runs.folder(NETWORKS[FIRST], seed)
        for name, make in LOOPS.items():

            def judge(case: Case, make: Callable[[Tensor], Feedback] = make) -> Any:
                return of_iterations(
                    case, iterated(fast, case.counts, MOST_ITERATIONS, make(case.counts))
                )

            self.scores[name, seed] = self.kept(
                self._file(folder, name), lambda judge=judge: self._each(judge)
            )
            print(f"{name}, seed {seed}: {self.line(name, seed)}", flush=True)

    def refined_loop(self, seed: int) -> None:
        """Judge the second round like the loops: mirrored anew in every iteration."""
        variant = TAUGHT[REFINED]
        loop = self.runs.loop(variant, seed)
        if not isinstance(loop, Loop):
            return
        fast = cast("Loop", quick(loop))
        self.scores[REFINED, seed] = self.kept(
            self._file(self.runs.folder(variant, seed), "scores"),
            lambda: self._each(
                lambda case: of_iterations(
                    case, iterated(fast, case.counts, MOST_ITERATIONS, plain)
                )
            ),
        )
        print(f"{REFINED}, seed {seed}: {self.line(REFINED, seed)}", flush=True)

    def line(self, name: str, seed: int) -> str:
        """Return the scores of one row and seed in words."""
        k, dial = (self.mean(name, seed, kind) for kind in ("k", "dial"))
        return (
            f"best k {k[1]:.2f} dB, best dial {dial[1]:.2f} dB, contrast {dial[2]:.2f}, "
            f"correlation {dial[3]:.3f}"
        )

    def mean(self, name: str, seed: int, kind: str) -> list[float]:
        """Return setting and scores, averaged over the phantoms."""
        return [float(v) for v in np.mean([s[kind] for s in self.scores[name, seed]], axis=0)]

    def seeds(self, name: str) -> list[int]:
        """Return the seeds that a row has."""
        return sorted(seed for row, seed in self.scores if row == name)

    def cell(self, name: str, kind: str, column: int, digits: int) -> str:
        """Return the mean over seeds and, of several, the lowest and the highest."""
        values = [self.mean(name, seed, kind)[column] for seed in self.seeds(name)]
        text = f"{np.mean(values):.{digits}f}"
        if len(values) > 1:
            text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
        return text

    def against(self, name: str, base: str) -> str:
        """Return the difference at the best dial, by phantom, on the seeds that both have."""
        shared = [seed for seed in self.seeds(name) if seed in self.seeds(base)]
        if name == base or not shared:
            return ""
        off = [
            own["dial"][1] - other["dial"][1]
            for seed in shared
            for own, other in zip(self.scores[name, seed], self.scores[base, seed], strict=True)
        ]
        error = float(np.std(off)) / math.sqrt(len(off))
        return f"{np.mean(off):+.2f} ± {error:.2f}"

    def row(self, name: str, base: str) -> tuple[str, ...]:
        """Return a row of the tables of scores."""
        return (
            name,
            str(len(self.seeds(name))),
            self.cell(name, "k", 1, 2),
            self.cell(name, "dial", 1, 2),
            self.against(name, base),
            self.cell(name, "dial", 2, 2),
            self.cell(name, "dial", 3, 3),
        )

    def present(self, names: Mapping[str, Any] | Sequence[str]) -> Iterator[str]:
        """Return the rows that have scores."""
        return (name for name in names if self.seeds(name))

    def tables(self) -> list[Table]:
        """Return what there is."""
        common = ("seeds", "best k, dB", "best dial, dB", "against the first, dB")
        common += ("contrast recovery", "1-4 px correlation")
        found = [
            Table(
                "Networks in the plain loop; at the end the raw image and a classical rival.",
                ("network", *common),
                tuple(
                    self.row(name, FIRST)
                    for name in self.present(
                        [*NETWORKS, "raw", "Richardson-Lucy, true kernel, best n"]
                    )
                ),
            ),
            Table(
                "What they cost, and how far the 4-iteration output changes when the window moves.",
                ("network", "learning rate", "parameters", "weights, kB", "time", "shift"),
                tuple(self._cost(name) for name in self.present(NETWORKS)),
            ),
        ]
        plain_name = next(iter(LOOPS))
        rows = tuple(self.row(name, plain_name) for name in self.present([*LOOPS, REFINED]))
        if rows:
            caption = f"Loops around the network {FIRST!r}, images mirrored anew every iteration."
            found.append(Table(caption, ("loop", *common), rows))
        pairs = {"naive: the raw patch degraded further": FIRST}
        pairs |= {name: name for name in TAUGHT if name != REFINED}
        rows = tuple(
            (title, *self.row(name, FIRST)[1:]) for title, name in pairs.items() if self.seeds(name)
        )
        if len(rows) > 1:
            caption = f"What the network is taught, {FIRST!r} in the plain loop."
            found.append(Table(caption, ("pairs", *common), rows))
        rows = tuple(self._by_depth(name) for name in self.present([*NETWORKS, *LOOPS, *TAUGHT]))
        if rows:
            columns = tuple(f"optical depth {depth:g}" for depth in OPTICAL_DEPTHS)
            caption = "By optical depth, best dial: PSNR in dB, 1-4 px correlation."
            found.append(Table(caption, ("network, loop or pairs", *columns), rows))
        return found

    def _by_depth(self, name: str) -> tuple[str, ...]:
        """Return PSNR and correlation at the best dial; the phantoms take turns in depth."""
        turns = len(OPTICAL_DEPTHS)
        chosen = [
            np.array([found["dial"] for found in self.scores[name, seed]])[:, [1, 3]]
            for seed in self.seeds(name)
        ]
        means = np.mean([[one[turn::turns].mean(0) for turn in range(turns)] for one in chosen], 0)
        return (name, *(f"{psnr:.2f}, {correlation:.3f}" for psnr, correlation in means))

    def _cost(self, name: str) -> tuple[str, ...]:
        shapes = [self.shapes[name, seed] for seed in self.seeds(name)]
        parameters, size, seconds, shift = (
            statistics.median(values) for values in zip(*shapes, strict=True)
        )
        return (
            name,
            f"{NETWORKS[name].learning_rate:g}",
            f"{parameters:.0f}",
            f"{size:.0f}",
            f"{seconds:.2f}",
            f"{shift:.1e}",
        )


def print_rates(options: Options, names: Sequence[str]) -> None:
    """Print the held-out loss of each network by learning rate, on a seed of its own."""
    runs = Runs(options)
    for name in names:
        losses: list[str] = []
        for rate in RATES:
            variant = NETWORKS[name]._replace(learning_rate=rate)
            _ = runs.loop(variant, RATES_SEED)
            scores = json.loads((runs.folder(variant, RATES_SEED) / "validation.json").read_text())
            losses.append(f"{rate:g}: {scores['loss']:.4f}")
        print(f"{name}: " + ", ".join(losses), flush=True)


def text_of(options: Options) -> str:
    source = "procedural specimens alone" if options.data is None else "specimens and real stacks"
    return (
        f"{options.steps} steps of {options.batch} patches of {options.patch} x {options.patch} "
        f"for every network, {source}, {9 * options.phantoms} phantoms (membranes, tubes, nuclei "
        f"at optical depth 1, 2, 3; seeds from {options.first_seed}), none of them used to choose "
        "anything. PSNR after the best scale and offset; contrast recovery and correlation at the "
        "best dial. Mean over seeds, in brackets the lowest and the highest; the difference to the "
        "first row phantom by phantom on the seeds that both have, ± its standard error over "
        "these: what another training would change is not in it. Time: one 512 x 512 iteration "
        "over 40 Richardson-Lucy iterations, processor time, one thread. The network that is "
        "told the depth is applied once per depth. `Fresh noise only` makes inputs of light "
        "without noise, which no real recording offers."
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="of every training (300)")
    parser.add_argument("--seeds", type=int, default=2, help="of every network (2)")
    parser.add_argument("--phantoms", type=int, default=2, help="sets of nine phantoms (2)")
    parser.add_argument("--first-seed", type=int, default=52_000, help="of the phantoms (52000)")
    parser.add_argument("--batch", type=int, default=2, help="patches per step (2)")
    parser.add_argument("--patch", type=int, default=64, help="side of the target, pixels (64)")
    parser.add_argument("--specimens", type=int, default=80, help="to train on (80)")
    parser.add_argument("--data", type=Path, help="folder of TIFFs to train on, too")
    parser.add_argument("--work", type=Path, default=Path("runs/networks"), help="what is kept")
    parser.add_argument("--only", nargs="*", help="these rows alone, by parts of their names")
    parser.add_argument("--cached", action="store_true", help="train nothing")
    parser.add_argument("--rates", action="store_true", help="compare learning rates instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="keep the tables")
    return parser


def score_all(results: Results, wanted: Callable[[str], bool]) -> None:
    """Train and judge every wanted row, seed by seed."""
    results.classical()
    for seed in range(results.options.seeds):
        for name, variant in NETWORKS.items():
            if wanted(name):
                results.network(name, variant, seed)
            if name == FIRST and wanted("loop"):
                results.loops(seed)
        for name, variant in TAUGHT.items():
            if wanted(name) and name != REFINED and (seed == 0 or name in SEEN_AGAIN):
                results.network(name, variant, seed)
        if wanted(REFINED) and seed == 0:
            results.refined_loop(seed)


def write_command(given: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Return the command that makes the record again: what differs from the defaults."""
    command = "python benchmarks/networks.py"
    for name in ("steps", "seeds", "phantoms", "first-seed", "batch", "patch", "specimens"):
        value = getattr(given, name.replace("-", "_"))
        if value != parser.get_default(name.replace("-", "_")):
            command += f" --{name} {value}"
    command += " --data FOLDER" if given.data else ""
    command += f" --only {shlex.join(given.only)}" if given.only else ""
    return f"{command} --record"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = build_parser()
    given = parser.parse_args(arguments)
    for name in ("steps", "seeds", "phantoms", "batch", "specimens"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is at least 1, not {getattr(given, name)}")
    torch.set_num_threads(given.threads)
    fields = Options.__dataclass_fields__
    options = Options(**{name: getattr(given, name) for name in fields})
    results = Results(options)

    def wanted(name: str) -> bool:
        return not given.only or any(part in name for part in given.only)

    if given.rates:
        print_rates(options, [name for name in NETWORKS if wanted(name)])
        return
    score_all(results, wanted)
    tables = results.tables()
    print_tables(tables)
    if given.record:
        title = "Networks, loops and teaching at an equal budget"
        save(
            "networks",
            tables,
            title=title,
            command=write_command(given, parser),
            order=20,
            text=text_of(options),
        )


if __name__ == "__main__":
    main()
