"""Procedural specimens to train on, recorded as a camera would at depth."""

from __future__ import annotations

__all__ = ["phantom_planes"]

from typing import TYPE_CHECKING

import numpy as np
import torch

from deepcontrast_bmz.physics.camera import Camera
from deepcontrast_bmz.physics.degrade import degrade, draw_degradation
from deepcontrast_bmz.physics.draws import draw_log_uniform
from deepcontrast_bmz.physics.phantoms import KINDS, Kind, phantom, phantom_stack
from deepcontrast_bmz.train.raw_planes import RawPlane

if TYPE_CHECKING:
    from torch import Tensor

    from deepcontrast_bmz.settings import Recipe

STACK_PHANTOM_SPARE = 6
"""Planes of a procedural stack beyond those of a patch."""


def _specimen(kind: Kind, size: int, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Return light per pixel of a procedural specimen, a plane or a stack."""
    if recipe.network.dims == 2:
        return torch.from_numpy(phantom(kind, (size, size), rng))
    shape = (recipe.data.patch_planes + STACK_PHANTOM_SPARE, size, size)
    return torch.from_numpy(phantom_stack(kind, shape, rng))


def phantom_planes(recipe: Recipe, first_index: int, size: int = 288) -> list[RawPlane]:
    """Return procedural specimens as a camera would record them at depth: raw, noisy, hazy.

    All of them count as one image of the kind they are (so five images in all), lest they
    outnumber the real ones.

    Parameters
    ----------
    recipe : Recipe
        ``data.phantoms`` says how many, ``seed`` which.
    first_index : int
        Image number of the first kind.
    size : int
        Lateral side in pixels; for a network that takes stacks they are stacks.
    """
    found: list[RawPlane] = []
    widths = recipe.physics.scatter.widths
    for number in range(recipe.data.phantoms):
        rng = np.random.default_rng([recipe.seed, 1, number])
        kind = KINDS[number % len(KINDS)]
        truth = _specimen(kind, size, recipe, rng)
        ranges = recipe.physics
        brightness = draw_log_uniform(rng, 150, 4000)
        draw = draw_degradation(ranges, rng, widths_px=widths, mean_photons=0.0)
        recording = draw.model_copy(
            update={
                "optical_depth": rng.uniform(*recipe.data.phantom_optical_depth),
                "camera": Camera(offset=100.0, read_noise_electrons=rng.uniform(0, 2)),
            }
        )
        pixels = degrade(truth * brightness, recording).numpy().astype(np.float32)
        image = first_index + number % len(KINDS)
        found.append(RawPlane(pixels, image, f"phantom {kind}", widths, procedural=True))
    return found
