"""The limits of the automatic dial, found where the right dial is known.

After training, procedural specimens are recorded at known optical depths by cameras drawn at
random, enhanced, and the pair of limits is taken whose dials come closest to the truth. What no
real recording can tell, the depth it was made at, is known here; no clean image is used.
"""

from __future__ import annotations

__all__ = ["calibrate_stop_rule"]

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from deepcontrast_bmz.loop import blend
from deepcontrast_bmz.physics.camera import Camera, estimate_camera, estimate_noise
from deepcontrast_bmz.physics.degrade import Degradation, degrade
from deepcontrast_bmz.physics.phantom import phantom
from deepcontrast_bmz.settings import StopRule
from deepcontrast_bmz.stop import background_level, dial_grid, forward_residual, last_kept

if TYPE_CHECKING:
    from deepcontrast_bmz.loop import Loop
    from deepcontrast_bmz.physics.phantom import Kind
    from deepcontrast_bmz.settings import Recipe

KINDS: tuple[Kind, ...] = ("membranes", "tubes", "nuclei")
DEPTHS = (0.75, 1.5, 2.25, 3.0)
"""Optical depths of the recordings, as far as the iterations reach."""
SIDE = 160
"""Side of a recording, in pixels."""
RESIDUALS = tuple(float(x) for x in np.round(np.arange(0.5, 1.31, 0.05), 2))
BACKGROUNDS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Limits that are tried."""
OVERSHOOT = 2.0
"""How much worse it is to remove too much than too little."""


class _Recording(NamedTuple):
    """What the two rules see at every dial, and the right dial."""

    truth: float
    residual: dict[float, float]
    background: dict[float, float]


def calibrate_stop_rule(loop: Loop, recipe: Recipe) -> StopRule:
    """Return the limits whose dials are right on specimens of known optical depth.

    Parameters
    ----------
    loop : Loop
        Trained, on the CPU.
    recipe : Recipe
        Of the run; its seed draws specimens and cameras. With a kernel in micrometres its
        numbers are taken as pixels here: only ratios to the specimen would differ.

    Returns
    -------
    StopRule
        Ties go to the stricter limits.
    """
    step = recipe.physics.step_optical_depth
    dials = dial_grid(loop.iterations, step)
    recordings = [
        _record(loop, recipe, kind, depth, number)
        for number, (kind, depth) in enumerate(itertools.product(KINDS, DEPTHS))
        if depth <= dials[-1]
    ]

    def cost(limits: tuple[float, float]) -> float:
        residual, background = limits
        total = 0.0
        for recording in recordings:
            by_residual = last_kept(
                lambda dial, seen=recording.residual: seen[dial] <= residual, dials, step
            )
            by_background = last_kept(
                lambda dial, seen=recording.background: seen[dial] >= -background, dials, step
            )
            error = min(by_residual, by_background) - recording.truth
            total += error * OVERSHOOT if error > 0 else -error
        return total

    best = min(itertools.product(RESIDUALS, BACKGROUNDS), key=cost)
    return StopRule(residual=best[0], background_sd=best[1])


def _record(loop: Loop, recipe: Recipe, kind: Kind, depth: float, number: int) -> _Recording:
    """Record a specimen at a depth, run the loop and measure what both rules look at."""
    rng = np.random.default_rng([recipe.seed, 5, number])
    kernel = recipe.physics.scatter
    brightness = math.exp(rng.uniform(math.log(150), math.log(1500)))
    camera = Camera(
        gain=math.exp(rng.uniform(math.log(0.3), math.log(3))),
        offset=100.0,
        read_noise_electrons=rng.uniform(0, 3),
    )
    tissue = Degradation(
        optical_depth=depth,
        widths_px=kernel.widths,
        weights=kernel.weights,
        camera=camera,
        seed=int(rng.integers(2**62)),
    )
    truth = torch.from_numpy(phantom(kind, (SIDE, SIDE), rng)) * brightness
    # Every second specimen glows all over: there the background never gets dark, however far
    # one goes, and only the residual can stop.
    veil = float(truth.mean()) * rng.uniform(0.3, 1.0) * (number % 2)
    raw = degrade(truth, tissue.model_copy(update={"veil_photons": veil})).float()
    with torch.inference_mode():
        iterations = loop(raw[None, None])[0]
    noise, offset = estimate_noise(raw), estimate_camera(raw).offset
    step = recipe.physics.step_optical_depth
    residual: dict[float, float] = {}
    background: dict[float, float] = {}
    for dial in dial_grid(loop.iterations, step):
        image = blend(raw, iterations, dial, step)
        residual[dial] = forward_residual(
            raw, image, dial, widths_px=kernel.widths, weights=kernel.weights, noise=noise
        )
        background[dial] = background_level(image, offset, noise)
    return _Recording(depth, residual, background)
