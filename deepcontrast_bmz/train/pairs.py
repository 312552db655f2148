"""Raw images to training pairs: a patch degraded further, and the raw patch it came from.

Example i of a run is drawn from (seed, i) alone, so a resumed run goes on with the very patches
it would have seen. No clean image occurs anywhere: the target is the raw image itself.

A network that takes stacks learns from patches of a few planes, all of them seen through the same
tissue, each with noise of its own: scattering acts within the plane.
"""

from __future__ import annotations

__all__ = ["Pair", "PairDataset"]

import math
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from deepcontrast_bmz.image.blocks import mirror_indices
from deepcontrast_bmz.physics.degrade import degrade, draw_degradation, remove_known_part
from deepcontrast_bmz.physics.draws import draw_log_uniform
from deepcontrast_bmz.physics.noise import NoiseModel, estimate_noise, split_gaussian

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.settings import Recipe
    from deepcontrast_bmz.train.raw_planes import RawPlane

CELL = 16
"""Side, in pixels, of the cells that the content of a plane is measured in."""

CONTEXT = 64
"""Pixels around the network's input that scattered light may come from. Wider tails of the
kernel see the mirrored surroundings instead."""

FEWEST_PHOTONS, MOST_PHOTONS = 10.0, 3000.0
"""Mean photons per pixel that the noise of a raw image is taken to show, at least and at most."""


class Pair(TypedDict):
    """A training example, or a batch of them."""

    degraded: Tensor
    """(1, P + 2 m, P + 2 m): the network's input, m pixels wider on each side than the target.
    Of a stack (1, Q + 2 n, P + 2 m, P + 2 m)."""
    raw: Tensor
    """(1, P, P): the target. Of a stack (1, Q, P, P)."""
    steps: Tensor
    """How many steps were degraded: iterate the network this often."""
    scale: Tensor
    """(1, 1, 1), of a stack (1, 1, 1, 1): what errors are measured in: the deviation of the raw
    patch, but at least a tenth of the plane's, lest empty patches outweigh all others."""


def _noise_of(plane: RawPlane, content: NDArray[np.float64]) -> NoiseModel:
    """Return the noise of a plane; that of a stack is read off its plane with the most content."""
    fullest = int(content.mean(axis=(-2, -1)).argmax()) if content.ndim == 3 else ...
    return estimate_noise(torch.from_numpy(plane.pixels[fullest]))


def _photons_like(plane: RawPlane, noise: NoiseModel) -> tuple[float, float]:
    """Return a range of mean photons per pixel that suits the noise of the plane.

    It begins at three times the light that the noise shows: the raw patch brings noise of its own
    into the input, and with as much again the network learns to smooth detail away. It ends far
    above, since the iterations see images with less noise. A plane without noise counts as bright.
    """
    signal = plane.light
    variance = float(noise.variance(torch.tensor(float(plane.pixels.mean()))))
    photons = min(max(signal**2 / variance, FEWEST_PHOTONS), MOST_PHOTONS)
    return 3 * photons, 30 * photons


def _content(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how much structure each cell of a plane holds, smallest for black borders.

    The deviation within a cell, white noise removed by averaging 2 x 2 pixels first; very bright
    cells do not count for more than the 90th percentile of those that hold anything. Of a stack,
    (Z, Y, X), as of each of its planes: (Z, cells along y, cells along x).
    """
    height, width = pixels.shape[-2:]
    image = torch.from_numpy(pixels).reshape(-1, 1, height, width)
    smooth = F.avg_pool2d(image, 2, ceil_mode=True)
    side = CELL // 2
    mean = F.avg_pool2d(smooth, side, ceil_mode=True)
    square = F.avg_pool2d(smooth**2, side, ceil_mode=True)
    cells = (square - mean**2).clamp_min(0).sqrt()[:, 0].double().numpy()
    deviation = cells if pixels.ndim == 3 else cells[0]
    filled = deviation[deviation > 0]
    return np.minimum(deviation, np.quantile(filled, 0.9)) if filled.size else deviation


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights as shares of their sum, equal ones where there is nothing to weigh."""
    total = float(weights.sum())
    return weights / total if total > 0 else np.full(weights.shape, 1 / weights.size)


class PairDataset(Dataset[Pair]):
    """Seeded pairs of a further degraded patch and the raw patch.

    Parameters
    ----------
    found : sequence of RawPlane
        Planes to draw from; every image is drawn equally often, planes and places within it in
        proportion to their content.
    recipe : Recipe
    radius : int
        Pixels the loop loses on each lateral side per iteration.
    planes : int
        Planes it loses above and below per iteration, for stacks.
    length : int
        Number of examples.
    stream : int
        Distinguishes training from validation under the same seed.
    """

    def __init__(
        self,
        found: Sequence[RawPlane],
        recipe: Recipe,
        *,
        radius: int,
        planes: int = 0,
        length: int,
        stream: int,
    ) -> None:
        self.recipe = recipe
        self.radius = radius
        self.planes = planes
        self.length = length
        self.stream = stream
        self._floors = [plane.floor for plane in found]
        self._deviations = [float(plane.pixels.std()) for plane in found]
        self._contents = [_content(plane.pixels) for plane in found]
        self._noises: list[NoiseModel] = []
        self._photons: list[tuple[float, float]] = []
        matched = recipe.physics.photons is None
        if matched or recipe.data.input_share is not None:
            pairs = zip(found, self._contents, strict=True)
            self._noises = [_noise_of(*pair) for pair in pairs]
        if matched:
            pairs = zip(found, self._noises, strict=True)
            self._photons = [_photons_like(*pair) for pair in pairs]
        by_image: dict[int, list[int]] = {}
        for number, plane in enumerate(found):
            by_image.setdefault(plane.image, []).append(number)
        self._planes = list(found)
        self._by_image = list(by_image.values())

    def __len__(self) -> int:
        return self.length

    def _steps(self, index: int) -> int:
        """Draw how many steps to degrade; equal within a batch, so that it can be stacked."""
        batch = index // self.recipe.training.batch
        rng = np.random.default_rng([self.recipe.seed, 3, self.stream, batch])
        return int(rng.integers(1, self.recipe.training.unroll + 1))

    def _place(self, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw a plane, or a stack and a plane of it, and a pixel there: (number, z, y, x)."""
        members = self._by_image[int(rng.integers(len(self._by_image)))]
        totals = _shares(np.array([self._contents[m].mean() for m in members]))
        number = members[int(rng.choice(len(members), p=totals))]
        content = self._contents[number].ravel()
        # One patch in ten comes from anywhere, so that background is known too.
        share = 0.9 * _shares(content) + 0.1 / content.size
        cell = int(rng.choice(content.size, p=share / share.sum()))
        rows, columns = self._contents[number].shape[-2:]
        z, rest = divmod(cell, rows * columns)
        row, column = divmod(rest, columns)
        height, width = self._planes[number].pixels.shape[-2:]
        y = min(int(row * CELL + rng.integers(CELL)), height - 1)
        x = min(int(column * CELL + rng.integers(CELL)), width - 1)
        return number, z, y, x

    def _parts(self, region: NDArray[np.float32], number: int, index: int) -> NDArray[np.float32]:
        """Return what input and target are made of, (1 or 2, ...): 1 where they are the same."""
        share = self.recipe.data.input_share
        if share is None:
            return region[None]
        # Numbers of its own: the patches are the same with and without.
        rng = np.random.default_rng([self.recipe.seed, 12, self.stream, index])
        variance = self._noises[number].variance(torch.from_numpy(region)).numpy()
        parts = split_gaussian(region, variance, rng, share)
        return np.stack(parts).astype(np.float32)

    def __getitem__(self, index: int) -> Pair:
        """Draw example `index`."""
        settings = self.recipe
        rng = np.random.default_rng([settings.seed, 4, self.stream, index])
        steps = self._steps(index)
        number, z, y, x = self._place(rng)
        plane = self._planes[number]
        margin = steps * self.radius
        side = settings.data.patch + 2 * (margin + CONTEXT)
        low, high = settings.data.zoom
        zoom = draw_log_uniform(rng, low, high)
        pixels, above = plane.pixels, steps * self.planes
        if pixels.ndim == 3:
            pixels = pixels[_planes_around(z, settings.data.patch_planes, above, len(pixels))]
        region = _region(pixels, y, x, math.ceil(side / zoom))
        # Input and target, or both in one, along a first axis.
        parts = self._parts(region, number, index)
        parts = np.rot90(parts, int(rng.integers(4)), axes=(-2, -1))
        parts = parts[..., ::-1] if rng.random() < 0.5 else parts
        if region.ndim == 3 and rng.random() < 0.5:
            parts = parts[:, ::-1]
        both = torch.from_numpy(np.ascontiguousarray(parts))
        if both.shape[-1] != side:
            lying = both.reshape(1, -1, *both.shape[-2:])
            lying = F.interpolate(lying, (side, side), mode="bilinear", antialias=zoom < 1)
            both = lying.reshape(*both.shape[:-2], side, side)
        raw = both[0]

        low, high = settings.physics.photons or self._photons[number]
        mean_photons = draw_log_uniform(rng, low, high)
        draw = draw_degradation(
            settings.physics,
            rng,
            widths_px=plane.widths_px,
            mean_photons=mean_photons,
            steps=steps,
        )
        floor = self._floors[number]
        per_count = mean_photons / plane.light
        recorded = degrade((raw - floor) * per_count, draw)
        degraded = remove_known_part(recorded, draw) / per_count + floor
        degraded = degraded[..., CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
        edge = CONTEXT + margin
        target = both[-1][..., edge:-edge, edge:-edge].float()
        if target.dim() == 3:
            target = target[above : target.shape[0] - above]
        scale = max(float(target.std()), 0.1 * self._deviations[number])
        return Pair(
            degraded=degraded[None].float(),
            raw=target[None],
            steps=torch.tensor(steps),
            scale=torch.full((1,) * (1 + target.dim()), scale),
        )


def _region(pixels: NDArray[np.float32], y: int, x: int, side: int) -> NDArray[np.float32]:
    """Cut a square around a pixel, mirrored where it reaches over the border."""
    rows, columns = (
        mirror_indices(centre - side // 2, centre - side // 2 + side, length)
        for centre, length in zip((y, x), pixels.shape[-2:], strict=True)
    )
    return pixels[..., rows[:, None], columns]


def _planes_around(z: int, count: int, above: int, depth: int) -> NDArray[np.intp]:
    """Return `count` planes around z, all of them real, and `above` on both sides, if mirrored."""
    first = min(max(z - count // 2, 0), depth - count)
    return mirror_indices(first - above, first + count + above, depth)
