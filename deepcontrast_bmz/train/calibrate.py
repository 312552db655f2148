"""Fits what reads the optical depth off an image, and what warns, where the truth is known.

After training, procedural specimens are recorded at known optical depths by cameras drawn at
random and enhanced. What no real recording can tell, the depth it was made at, is known here; no
clean image is used. Of real images, degraded further by known amounts, at least that amount is
known.

Features are those of planes. A network that takes stacks is given a stack, exactly as many planes
as it sees, and the plane in the middle is described.
"""

from __future__ import annotations

__all__ = ["Statistics", "fit_statistics"]

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import ndimage

from deepcontrast_bmz.dial.features import FeatureVector, image_features
from deepcontrast_bmz.dial.look import look_at_plane
from deepcontrast_bmz.dial.ood import fit_ood
from deepcontrast_bmz.dial.optical_depth import Example, fit_depth
from deepcontrast_bmz.model.devices import fast_loop
from deepcontrast_bmz.model.loop import extend
from deepcontrast_bmz.physics.degrade import (
    degrade,
    draw_degradation,
    remove_known_part,
)
from deepcontrast_bmz.physics.draws import draw_log_uniform
from deepcontrast_bmz.physics.recordings import (
    BEYOND,
    draw_light,
    record,
    record_beyond_range,
    simulate_processing,
    vary_specimen,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.model.loop import Loop
    from deepcontrast_bmz.physics.recordings import Light, Processing
    from deepcontrast_bmz.records import (
        DepthEstimator,
        OodStatistics,
    )
    from deepcontrast_bmz.settings import Recipe
    from deepcontrast_bmz.train.raw_planes import RawPlane

logger = logging.getLogger(__name__)

SIDE = 160
"""Side of a recording, in pixels."""
STACK_SIDE = 112
"""Side of a recorded stack: its planes together cost more than one large plane."""
MOST_STACKS = 200
"""Recorded stacks, after the longest training."""

OOD_ITERATIONS = 1
"""Iterations that the out-of-distribution score looks at: more told no more apart."""
FEWEST, MOST = 24, 900
"""Recordings of known depth, after the shortest and the longest training; of specimens, and as many
of real images."""
MOST_OOD = 400
"""Recordings that the out-of-distribution score is fitted to, at most."""
BEYOND_DEEPEST = 1.3
"""How far beyond the depth that all iterations undo these recordings go: a fit is weak where its
examples end."""
BEYOND_ADDED = 1.1
"""The same of what is added to real images, which bring some depth of their own."""
FEWEST_IMAGES = 5
"""Fewer raw images say too little of what is usual to learn depths from."""
VARIED = 0.25
"""Share of these recordings whose specimen is unlike the procedural kinds."""
SMALL_SIDE = 96
"""Side of a recording after the shortest training, in pixels."""
SMALLEST = 48
"""Smaller patches of raw images are left out."""
REDUCED = 0.45
"""How far two in three patches of a real image are reduced, at most: another size of structure, and
sharper than the image."""
TONES = (0.6, 1.6)
"""Exponents that the light of two in five patches is taken to."""
NEAREST = 0.5
"""Depths nearer than this to either end of the range, in steps, do not count as familiar."""
MATCHED_PHOTONS = (40.0, 2000.0)
"""Mean photons of a degraded patch, where training matches the noise of each image."""
PROCESSINGS: tuple[Processing | None, ...] = (
    None,
    None,
    None,
    "smoothed",
    None,
    "black cut off",
    None,
    "smoothed, black cut off",
)
"""What is done to the recordings, in turn."""


class Statistics(NamedTuple):
    """What is fitted after training."""

    depth: DepthEstimator | None
    ood: OodStatistics | None


def fit_statistics(loop: Loop, recipe: Recipe, planes: Sequence[RawPlane] = ()) -> Statistics:
    """Fit the depth estimator and the out-of-distribution score of a trained loop.

    Parameters
    ----------
    loop : Loop
        Trained, on the CPU.
    recipe : Recipe
        Of the run; longer training gets more recordings, 24 to 900.
    planes : sequence of RawPlane
        The training and validation planes; patches of them, as they are and degraded by one step,
        count as familiar. Those of five images or more, degraded by known amounts, also teach the
        depth.

    Returns
    -------
    Statistics
        For stacks the depth alone, from procedural stacks: nothing warns.
    """
    loop = fast_loop(loop, "cpu")
    count = min(max(recipe.training.steps // 5, FEWEST), MOST)
    side = SIDE if count > FEWEST else SMALL_SIDE
    if recipe.network.dims == 3:
        small = min(side, STACK_SIDE)
        return Statistics(_fit_depth(loop, recipe, (), min(count, MOST_STACKS), small), None)
    depth = _fit_depth(loop, recipe, planes, count, side)
    ood = _fit_ood(loop, recipe, planes, min(count, MOST_OOD), side)
    return Statistics(depth, ood)


def _fit_depth(
    loop: Loop, recipe: Recipe, planes: Sequence[RawPlane], count: int, side: int
) -> DepthEstimator:
    step = recipe.physics.step_optical_depth
    deepest = loop.iterations * step
    # Planes that a stack loses above and below.
    above = loop.iterations * loop.radii[0] if recipe.network.dims == 3 else None
    examples: list[Example] = []

    def add(light: Light, rng: np.random.Generator, turn: int, image: int | None = None) -> None:
        how = PROCESSINGS[turn % len(PROCESSINGS)]
        raw = record(light) if how is None else simulate_processing(record(light), how, rng)
        features = _features(loop, recipe, raw, loop.iterations)
        depth = float(light.optical_depth)
        examples.append(Example(features, depth, noisy=how is None, image=image))

    def draw_depth(rng: np.random.Generator, number: int, most: float) -> float:
        # One in twelve has no tissue above it at all: the dial has an end at 0, too.
        return rng.uniform(0, most) if number % 12 else 0.0

    for number in range(count):
        rng = np.random.default_rng([recipe.seed, 6, number])
        depth = draw_depth(rng, number, BEYOND_DEEPEST * deepest)
        planes_seen = None if above is None else 1 + 2 * above
        light = draw_light(recipe.physics, rng, number, depth, side, planes=planes_seen)
        if above is None and rng.random() < VARIED:
            light = vary_specimen(light, rng)
        add(light, rng, number)
    real = [plane for plane in planes if not plane.procedural]
    images = len({plane.image for plane in real})
    # Of specimens only ratios to the kernel count; a real image has a pixel size.
    if images >= FEWEST_IMAGES and recipe.physics.scatter.unit == "px":
        for turn, image, truth, rng in _raw_truths(recipe, real, count, side):
            depth = draw_depth(rng, turn, BEYOND_ADDED * deepest)
            light = draw_light(recipe.physics, rng, turn, depth, 16)
            add(light._replace(truth=truth), rng, turn, image)
    return fit_depth(examples, iterations=loop.iterations, deepest=deepest, step=step)


def _fit_ood(
    loop: Loop, recipe: Recipe, planes: Sequence[RawPlane], count: int, side: int
) -> OodStatistics:
    deepest = loop.iterations * recipe.physics.step_optical_depth
    nearest = NEAREST * recipe.physics.step_optical_depth

    def draw_within_range(stream: int, number: int, kind: int) -> tuple[Light, np.random.Generator]:
        rng = np.random.default_rng([recipe.seed, stream, number])
        depth = rng.uniform(nearest, deepest - nearest)
        return draw_light(recipe.physics, rng, kind, depth, side), rng

    familiar = [
        _features(loop, recipe, record(draw_within_range(7, number, number)[0]), OOD_ITERATIONS)
        for number in range(count)
    ]
    images: list[int | None] = [None] * count
    for image, raw in _patches(recipe, planes, count // 2, side):
        familiar.append(_features(loop, recipe, raw, OOD_ITERATIONS))
        images.append(image)
    beyond: list[FeatureVector] = []
    for number in range(2 * count):
        light, rng = draw_within_range(8, number, number // len(BEYOND))
        raw = record_beyond_range(light, BEYOND[number % len(BEYOND)], recipe.physics, deepest, rng)
        beyond.append(_features(loop, recipe, raw, OOD_ITERATIONS))
    order = np.random.default_rng([recipe.seed, 10]).permutation(len(familiar))
    return fit_ood(
        [familiar[i] for i in order],
        beyond,
        iterations=OOD_ITERATIONS,
        images=[images[i] for i in order],
    )


def _features(loop: Loop, recipe: Recipe, raw: Tensor, count: int) -> FeatureVector:
    """Return the features of a recording, of stacks those of its middle plane.

    It is looked at as an image is whose dial is chosen: the same pixels count.
    """
    iterate = _iterate_stack if recipe.network.dims == 3 else _iterate_plane

    def run(image: Tensor, count: int) -> Tensor:
        with torch.inference_mode():
            return iterate(loop, image, count)

    look = look_at_plane(raw, run, recipe.physics.scatter.widths)
    return image_features(
        look.raw,
        look.iterate(count),
        widths_px=look.widths_px,
        weights=recipe.physics.scatter.weights,
        step=recipe.physics.step_optical_depth,
        noise=look.noise,
        offset=look.offset,
    )


def _iterate_plane(loop: Loop, raw: Tensor, count: int) -> Tensor:
    """Return the iterations, (K, Y, X), mirrored anew before each: that saves much of the work."""
    x = raw[None, None].float()
    kept: list[Tensor] = []
    for _ in range(count):
        x = loop.step(extend(x, [loop.radius] * 2))
        kept.append(x[0, 0])
    return torch.stack(kept)


def _iterate_stack(loop: Loop, raw: Tensor, count: int) -> Tensor:
    """Return the iterations of the plane in the middle of a stack, (K, Y, X)."""
    seen = extend(raw[None, None].float(), [0, *loop.margins(count)[1:]])
    return loop.iterate(seen, count)[0, :, 0]


def _patches(
    recipe: Recipe, planes: Sequence[RawPlane], count: int, side: int
) -> Iterator[tuple[int | None, Tensor]]:
    """Yield (image, patch) of raw planes, every image as often, as they are and degraded in turn.

    The image is None where a specimen was drawn.
    """
    images = len({plane.image for plane in planes})
    for number, plane, raw, rng in _raw_patches(recipe, planes, count, side, 9):
        name = None if plane.procedural else plane.image
        if (number // images) % 2 == 0:
            yield name, raw
            continue
        low, high = recipe.physics.photons or MATCHED_PHOTONS
        mean_photons = draw_log_uniform(rng, low, high)
        draw = draw_degradation(
            recipe.physics, rng, widths_px=plane.widths_px, mean_photons=mean_photons
        )
        per_count = mean_photons / plane.light
        recorded = degrade((raw.double() - plane.floor) * per_count, draw)
        yield name, (remove_known_part(recorded, draw) / per_count + plane.floor).float()


def _raw_truths(
    recipe: Recipe, planes: Sequence[RawPlane], count: int, side: int
) -> Iterator[tuple[int, int, Tensor, np.random.Generator]]:
    """Yield (turn, image, light, random numbers) of patches of real images.

    The images are few: so that each stands for more than itself, patches are reduced, and their
    light is taken to a power.
    """
    images = len({plane.image for plane in planes})
    for number, plane, patch, rng in _raw_patches(recipe, planes, count, side, 13, REDUCED):
        low, high = (float(v) for v in np.quantile(plane.pixels, (0.005, 0.995)))
        light = ((patch - low) / max(high - low, plane.light)).clamp_min(0).double()
        if rng.random() < 0.4:
            light = light ** draw_log_uniform(rng, *TONES)
        # Every image takes its turn at all depths and processings.
        yield number // images + number % images, plane.image, light, rng


def _raw_patches(
    recipe: Recipe,
    planes: Sequence[RawPlane],
    count: int,
    side: int,
    stream: int,
    reduced: float = 1.0,
) -> Iterator[tuple[int, RawPlane, Tensor, np.random.Generator]]:
    """Yield (number, plane, patch, random numbers), every image as often.

    Two in three are cut larger and reduced, as far as `reduced` at most.
    """
    by_image: dict[int, list[RawPlane]] = {}
    for plane in planes:
        by_image.setdefault(plane.image, []).append(plane)
    images = list(by_image.values())
    for number in range(count if images else 0):
        rng = np.random.default_rng([recipe.seed, stream, number])
        members = images[number % len(images)]
        plane = members[int(rng.integers(len(members)))]
        # Of a few places the one with the most structure.
        reduce = reduced < 1 and (number // len(images)) % 3 > 0
        least = min(max(reduced, SMALLEST / min(plane.pixels.shape)), 1.0)
        factor = draw_log_uniform(rng, least, 1) if reduce else 1.0
        candidates = [_cut(plane.pixels, round(side / factor), rng) for _ in range(4)]
        patch = max(candidates, key=lambda part: float(part.std()))
        if reduce:
            patch = _reduce(patch, factor)
        if float(np.ptp(patch)) == 0 or min(patch.shape) < SMALLEST:
            continue
        yield number, plane, torch.from_numpy(np.ascontiguousarray(patch)), rng


def _reduce(patch: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Return a patch with fewer pixels, smoothed so far that none of its detail is folded."""
    smooth = ndimage.gaussian_filter(patch, 0.4 / factor)
    return np.asarray(ndimage.zoom(smooth, factor, order=1), dtype=np.float32)


def _cut(pixels: NDArray[np.float32], side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    top, left = (int(rng.integers(max(length - side, 0) + 1)) for length in pixels.shape)
    return pixels[top : top + side, left : left + side]
