"""The local dial is fitted to specimens behind tissue of uneven depth, after training.

It stays only if specimens left out of the fit come out better than at one automatic dial.
"""

from __future__ import annotations

__all__ = ["FEWEST_FOR_LOCAL", "fit_balance"]

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from deepcontrast_bmz.evaluate.metrics import psnr_after_fit
from deepcontrast_bmz.model.balance import BALANCE_RADIUS, FEATURES, SEEN, LocalBalance
from deepcontrast_bmz.model.loop import balance_fits, blend, extend_symmetric
from deepcontrast_bmz.physics.recordings import depth_field, draw_light, processed, record, varied
from deepcontrast_bmz.records import LocalDial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from deepcontrast_bmz.model.loop import Loop
    from deepcontrast_bmz.physics.recordings import Processing
    from deepcontrast_bmz.settings import Recipe

FEWEST_FOR_LOCAL = 200
"""Recordings below which there is no local dial: a few specimens teach it nothing."""

SIDE = 224
"""Side of a recording, in pixels."""

SPACING = 8
"""Distance between the pixels that are learned from: their windows overlap anyway."""

HIDDEN = 24
STEPS = 4000
BATCH = 1024
LARGEST_RATE = 1e-2
DECAY = 0.1
JITTER = 0.05
"""Noise on the features while fitting, in their standard deviations."""
ROUND = 0.3
"""Errors below this count by their square, above it as they are; in steps."""

_LEFT_OUT = 5
"""One in so many specimens is left out of the fit."""

_JUDGED = 100
"""Most of those that are compared with the automatic dial."""

_VARIED = 0.5
"""Share of the specimens that are unlike the procedural kinds."""


class _Recorded(NamedTuple):
    """A specimen behind uneven tissue, and what the loop makes of it."""

    truth: Tensor
    """(Y, X), photons."""
    depth: Tensor
    """(Y, X), in steps."""
    images: Tensor
    """(iterations + 1, Y, X): the raw image and its iterations."""


def fit_balance(
    loop: Loop,
    recipe: Recipe,
    count: int,
    automatic: Callable[[Tensor, Tensor], float],
    processings: Sequence[Processing | None],
) -> tuple[LocalBalance, LocalDial] | None:
    """Fit the local dial of a trained loop.

    Parameters
    ----------
    loop : Loop
        On the CPU.
    recipe : Recipe
        Of the run; its seed draws the specimens.
    count : int
        Recordings.
    automatic : callable
        Takes a raw image and its iterations to the automatic dial.
    processings : sequence of str or None
        What is done to the recordings, in turn.

    Returns
    -------
    tuple of LocalBalance and LocalDial, or None
        None for stacks, loops too short for its window, fewer than `FEWEST_FOR_LOCAL` recordings,
        and where it is no better than the automatic dial on specimens left out.
    """
    if count < FEWEST_FOR_LOCAL or not balance_fits(loop.dims, loop.radius, loop.iterations):
        return None
    balance = LocalBalance(loop.iterations, recipe.physics.step_optical_depth, HIDDEN).eval()
    features: list[Tensor] = []
    depths: list[Tensor] = []
    for number in range(count):
        recorded = _record(loop, recipe, number, processings)
        features.append(_sampled(balance, recorded))
        depths.append(_every(recorded.depth).flatten())
    used = [i for i in range(count) if i % _LEFT_OUT]
    _fit(
        balance,
        torch.cat([features[i] for i in used]),
        torch.cat([depths[i] for i in used]),
        recipe.seed,
    )
    left_out = range(0, count, _LEFT_OUT)
    with torch.inference_mode():
        errors = [
            float(
                (balance.read(features[i].T[None, :, :, None]).flatten() - depths[i]).abs().mean()
            )
            for i in left_out
        ]
    gains: dict[bool, list[float]] = {True: [], False: []}
    for number in left_out[:_JUDGED]:
        recorded = _record(loop, recipe, number, processings)
        even = float(recorded.depth.max() - recorded.depth.min()) == 0
        gains[even].append(_gain(balance, recorded, automatic))
    found = LocalDial(
        hidden=HIDDEN,
        recordings=count,
        error=round(float(np.mean(errors)), 3),
        gain_even_db=round(float(np.mean(gains[True] or [0.0])), 2),
        gain_uneven_db=round(float(np.mean(gains[False] or [0.0])), 2),
    )
    return (balance, found) if found.gain_uneven_db > 0 else None


def _record(
    loop: Loop, recipe: Recipe, number: int, processings: Sequence[Processing | None]
) -> _Recorded:
    rng = np.random.default_rng([recipe.seed, 11, number])
    step = recipe.physics.step_optical_depth
    light = draw_light(recipe.physics, rng, number, 0.0, SIDE)
    if rng.random() < _VARIED:
        light = varied(light, rng)
    depth = depth_field(SIDE, loop.iterations * step, rng)
    raw = record(light._replace(optical_depth=depth))
    how = processings[number % len(processings)]
    if how is not None:
        raw = processed(raw, how, rng)
    images = [raw]
    with torch.inference_mode():
        for _ in range(loop.iterations):
            images.append(loop.step(extend_symmetric(images[-1][None, None], loop.radius))[0, 0])
    return _Recorded(light.truth, (depth / step).float(), torch.stack(images))


def _every(x: Tensor) -> Tensor:
    return x[..., SPACING // 2 :: SPACING, SPACING // 2 :: SPACING]


def _extended(recorded: _Recorded, radius: int) -> Tensor:
    return extend_symmetric(recorded.images[None, :SEEN], radius)


def _sampled(balance: LocalBalance, recorded: _Recorded) -> Tensor:
    """Return the features of some pixels: (pixels, FEATURES)."""
    with torch.inference_mode():
        found = balance.features(_extended(recorded, BALANCE_RADIUS - 2))
    return _every(found[0]).flatten(1).T.clone()


def _fit(balance: LocalBalance, features: Tensor, depths: Tensor, seed: int) -> None:
    """Fit the layers by gradient descent, and put the scales of the features into the first."""
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-3)
    scaled = (features - mean) / deviation
    layers = (balance.first, balance.second, balance.last)
    for layer in layers:
        bound = layer.in_channels**-0.5
        for parameter in layer.parameters():
            with torch.no_grad():
                parameter.uniform_(-bound, bound, generator=generator)
    optimiser = torch.optim.AdamW(
        [p for layer in layers for p in layer.parameters()], LARGEST_RATE, weight_decay=DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LARGEST_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(scaled), (BATCH,), generator=generator)
        noise = JITTER * torch.randn(BATCH, FEATURES, generator=generator)
        x = scaled[chosen] + noise
        for layer in layers[:-1]:
            x = F.relu(F.linear(x, layer.weight[:, :, 0, 0], layer.bias))
        x = F.linear(x, balance.last.weight[:, :, 0, 0], balance.last.bias)
        loss = F.smooth_l1_loss(x[:, 0], depths[chosen], beta=ROUND)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        weight = balance.first.weight[:, :, 0, 0] / deviation
        bias = _bias(balance.first) - (weight * mean).sum(1)
        balance.first.weight.copy_(weight[:, :, None, None])
        _bias(balance.first).copy_(bias)
    balance.requires_grad_(requires_grad=False)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _gain(
    balance: LocalBalance, recorded: _Recorded, automatic: Callable[[Tensor, Tensor], float]
) -> float:
    """Return by how many dB the balanced image is better than the one at the automatic dial."""
    truth = recorded.truth.double().numpy()
    raw, iterations = recorded.images[0], recorded.images[1:]
    with torch.inference_mode():
        dial = balance.dial(_extended(recorded, BALANCE_RADIUS))
        balanced = balance.blend(recorded.images[None], dial)[0, 0]
        even = blend(raw, iterations, automatic(raw, iterations), balance.step)
    by_pixel, by_image = (psnr_after_fit(x.double().numpy(), truth) for x in (balanced, even))
    return by_pixel - by_image
