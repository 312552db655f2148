"""How `networks.py` judges a network: by the truth of phantoms, and by what it costs."""

from __future__ import annotations

import copy
import io
import statistics
import time
from typing import TYPE_CHECKING, cast

import torch
from baselines import best_by_truth, richardson_lucy, richardson_lucy_iterates
from networks_compared import DEPTHS
from phantoms import GRID, LUCY_ITERATIONS, MOST_ITERATIONS, WEIGHTS, WIDTHS_PX, Case, score

from deepcontrast_bmz.evaluate.metrics import psnr_after_fit
from deepcontrast_bmz.model.devices import fast_loop
from deepcontrast_bmz.model.loop import Loop, blend, extend
from deepcontrast_bmz.physics.camera import to_photons

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from networks_taught import ConditionedNetwork
    from torch import Tensor, nn

SPARE = 8
"""Pixels around the window that is moved over an image."""


def judge_best(
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


def list_dials() -> list[float]:
    return [GRID * i for i in range(int(MOST_ITERATIONS / GRID + 1e-9) + 1)]


def judge_iterations(case: Case, iterations: Tensor) -> dict[str, list[float]]:
    """Judge (K, Y, X)."""
    return judge_best(
        case,
        [(k + 1.0, image) for k, image in enumerate(iterations)],
        [(dial, blend(case.counts, iterations, dial, 1.0)) for dial in list_dials()],
    )


def judge_loop(case: Case, loop: Loop | ConditionedNetwork) -> dict[str, list[float]]:
    """Judge a loop as `dcbmz predict` runs it, or a network that takes every depth at once."""
    raw = case.counts[None, None]
    if isinstance(loop, Loop):
        extended = extend(raw, [MOST_ITERATIONS * loop.radius] * 2)
        return judge_iterations(case, loop.iterate(extended, MOST_ITERATIONS)[0])
    extended = extend(raw, [loop.radius] * 2)
    fine = [(0.0, case.counts)]
    fine += [(depth, loop.at(extended, depth)[0, 0]) for depth in DEPTHS]
    return judge_best(case, [pair for pair in fine if pair[0] in (1.0, 2.0, 3.0, 4.0)], fine)


def judge_lucy(case: Case) -> dict[str, list[float]]:
    """Judge Richardson-Lucy with the true kernel and depth."""
    photons = to_photons(case.counts, case.camera).double().numpy()
    tissue = (case.optical_depth, WIDTHS_PX, WEIGHTS)
    best = best_by_truth(richardson_lucy_iterates(photons, *tissue, LUCY_ITERATIONS), case.truth)
    found = [float(value) for value in score(best.setting, best.image, case)]
    return {"k": found, "dial": found}


def judge_raw(case: Case) -> dict[str, list[float]]:
    found = [
        float(v) for v in score(0, to_photons(case.counts, case.camera).double().numpy(), case)
    ]
    return {"k": found, "dial": found}


def make_fast(loop: Loop | ConditionedNetwork) -> Loop | ConditionedNetwork:
    """Return a loop in the form that `dcbmz predict` runs."""
    return fast_loop(copy.deepcopy(loop), "cpu") if isinstance(loop, Loop) else loop


@torch.inference_mode()
def measure_shift(loop: Loop | ConditionedNetwork, raw: Tensor, iterations: int = 4) -> float:
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


def measure_time(loop: Loop | ConditionedNetwork, side: int = 512, rounds: int = 3) -> float:
    """Return processor time of one iteration over that of 40 Richardson-Lucy iterations."""
    raw = torch.rand(side, side) * 100 + 10
    extended = extend(raw[None, None], [loop.radius] * 2)
    if isinstance(loop, Loop):
        network = cast("Loop", make_fast(loop)).network
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


def measure_size(loop: nn.Module) -> float:
    """Return the size of the weights file."""
    file = io.BytesIO()
    torch.save(loop.state_dict(), file)
    return len(file.getvalue()) / 1000
