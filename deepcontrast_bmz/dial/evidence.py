"""What speaks against a dial: computed once, for whoever chooses a dial and whoever judges it."""

from __future__ import annotations

__all__ = ["Evidence", "judge_evidence", "weigh_dial"]

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from deepcontrast_bmz.dial.consistency import (
    find_comparable,
    model_error,
    shared_misfit,
    tissue_kernels,
)
from deepcontrast_bmz.dial.darkness import measure_below_zero, measure_darkness
from deepcontrast_bmz.dial.verdict import LIMITS, Finding, judge
from deepcontrast_bmz.model.loop import blend

if TYPE_CHECKING:
    from torch import Tensor

    from deepcontrast_bmz.dial.look import Look
    from deepcontrast_bmz.records import LoopDescription


class Evidence(NamedTuple):
    """What a recording says of one dial; None where it says nothing."""

    dial: float
    """Optical depth removed."""
    noise_gain: float | None = None
    """How many times the deviation of the noise is the recording's."""
    contrast_gain: float | None = None
    """How many times the contrast that both halves share is the recording's."""
    misfit: float | None = None
    """Systematic misfit to the recording, in noise variances."""
    kernel_factor: float | None = None
    """Width of the kernel that explains it, over the model's."""
    model_error: float = 0.0
    """What the limit of the misfit is widened by."""
    below_offset: tuple[float, float] | None = None
    """How far dark parts lie below the camera offset, see `measure_darkness`."""
    below_zero: float | None = None
    """How far dark parts lie below zero counts, in shares of the brightness."""


def weigh_dial(look: Look, dial: float, description: LoopDescription) -> Evidence:
    """Return what a recording says of a dial.

    Parameters
    ----------
    look : Look
    dial : float
        Optical depth.
    description : LoopDescription
        Step, kernel and trained range.
    """
    step = description.step_optical_depth
    count = max(1, math.ceil(dial / step - 1e-9))
    whole = blend(look.raw, look.iterate(count), dial, step)
    below_zero = measure_below_zero(look.raw, whole, look.usable)
    below_offset = None
    if look.knows_offset:
        below_offset = measure_darkness(whole.numpy(), look.offset, look.noise, look.usable)
    if not look.noisy:
        return Evidence(dial, below_zero=below_zero)
    raw_halves = (look.halves[0][look.centre], look.halves[1][look.centre])
    kept = look.iterate_halves(count)
    halves = (
        blend(raw_halves[0], kept[0], dial, step),
        blend(raw_halves[1], kept[1], dial, step),
    )
    before, after = (_split_power(*pair, look.usable) for pair in (raw_halves, halves))
    misfit, factor, error = _measure_misfit(look, halves, dial, description)
    contrast = None
    if before[0] > 0:
        level = _level(raw_halves, look) / max(_level(halves, look), 1e-30)
        contrast = math.sqrt(max(after[0], 0.0) / before[0]) * level
    return Evidence(
        dial,
        noise_gain=math.sqrt(after[1] / before[1]) if before[1] > 0 else None,
        contrast_gain=contrast,
        misfit=misfit,
        kernel_factor=factor,
        model_error=error,
        below_offset=below_offset,
        below_zero=below_zero,
    )


def judge_evidence(evidence: Evidence, recovery: float | None = None) -> Finding:
    """Return the verdict on a dial.

    Parameters
    ----------
    evidence : Evidence
    recovery : float, optional
        Contrast over that of a reference, where there is one.
    """
    return judge(
        recovery,
        evidence.misfit,
        # The recording is not held against itself.
        below_offset=evidence.below_offset if evidence.dial else None,
        below_zero=evidence.below_zero if evidence.dial else None,
        noise_gain=evidence.noise_gain,
        contrast_gain=evidence.contrast_gain,
        model_error=evidence.model_error,
    )


def _split_power(one: Tensor, two: Tensor, usable: Tensor) -> tuple[float, float]:
    """Return the variance that two halves share, and that of their difference."""
    first, second = (half[usable].double() for half in (one, two))
    if first.numel() < 2:
        return 0.0, 0.0
    shared = ((first - first.mean()) * (second - second.mean())).mean()
    return float(shared), float((first - second).var())


def _level(halves: tuple[Tensor, Tensor], look: Look) -> float:
    """Return the mean of two halves above the camera offset."""
    return float(torch.stack([half[look.usable].double().mean() for half in halves]).mean()) - (
        look.offset
    )


def _measure_misfit(
    look: Look, halves: tuple[Tensor, Tensor], dial: float, description: LoopDescription
) -> tuple[float | None, float | None, float]:
    """Return the misfit by the nearest tissue that explains the recording, else by the best."""
    used = find_comparable(look.raw, look.widths_px, look.usable)
    if used is None:
        return None, None, 0.0
    error = model_error(look.raw, look.noise, used)
    best: tuple[float, float] | None = None
    for factor, widths in tissue_kernels(look.widths_px, description.training_ranges.width_factor):
        misfit = shared_misfit(
            (look.halves[0][look.centre], look.halves[1][look.centre]),
            halves,
            dial,
            widths_px=widths,
            weights=description.scatter.weights,
            noise=look.noise,
            used=used,
        )
        if best is None or misfit < best[0]:
            best = misfit, factor
        if best[0] <= LIMITS.misfit + error:
            break
    assert best is not None
    return *best, error
