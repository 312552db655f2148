"""Every rival on one case, and a store of scores that outlives an interruption."""

from __future__ import annotations

__all__ = [
    "AUTO",
    "BEST",
    "BLIND_DEPTHS",
    "BLIND_WIDTHS",
    "CEILING",
    "NAMES",
    "NEAR_ONE",
    "NOISE2VOID",
    "Scores",
    "Store",
    "ceiling_score",
    "photons_of",
    "rivals",
]

import itertools
import json
from typing import TYPE_CHECKING

import baselines
import numpy as np
import phantoms
from baselines import Tissue
from ceiling import one_pass
from phantoms import WEIGHTS, Case, Score, score

from deepcontrast_bmz.physics.camera import to_photons

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from deepcontrast_bmz.model.loop import Loop

    Double = NDArray[np.float64]

Scores = dict[str, Score]
"""Of one image, by method."""

AUTO, BEST = "model, automatic dial", "model, best dial"
CEILING, NOISE2VOID = "same network, taught with the truth", "Noise2Void"
NAMES = {
    "model, best k": "model, best whole iteration",
    BEST: "model, best dial",
    AUTO: "model, `--dial auto`",
}
"""What tables call the settings of the model."""

NEAR_ONE = (0.9, 1.1)
"""Contrast recovery that counts as right."""
BLIND_DEPTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
BLIND_WIDTHS = (0.45, 2 / 3, 1.0, 1.5)
"""Optical depths, and widths over those of the model's kernel, that blind deconvolution tries."""
WRONG = 1.5
"""Factor on the kernel of a deconvolution that was told the wrong one."""


class Store:
    """Scores by image and group of methods, one line of JSON each, appended as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[tuple[str, str], Scores] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            return
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                # The line that was being written when the last run was interrupted.
                continue
            scores = {name: Score(*values) for name, values in entry["scores"].items()}
            self._known[entry["image"], entry["group"]] = scores
        if text and not text.endswith("\n"):
            self._append("")

    def _append(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            _ = file.write(line + "\n")

    def get(self, image: str, group: str, make: Callable[[], Scores]) -> Scores:
        """Return the scores of a group on an image, made and kept if they are not known."""
        if (image, group) not in self._known:
            made = make()
            self._known[image, group] = made
            entry = {"image": image, "group": group, "scores": made}
            self._append(json.dumps(entry))
        return self._known[image, group]


def photons_of(case: Case) -> Double:
    """Return the recording in photons."""
    return to_photons(case.counts, case.camera).double().numpy()


def rivals(case: Case) -> Scores:
    """Return the scores of everything classical, each at its best setting by the truth."""
    photons = photons_of(case)
    wrong = Tissue(case.optical_depth, tuple(WRONG * w for w in case.widths_px), WEIGHTS)
    blind = baselines.estimate_tissue(
        photons,
        [
            Tissue(depth, tuple(factor * w for w in phantoms.WIDTHS_PX), WEIGHTS)
            for depth, factor in itertools.product(BLIND_DEPTHS, BLIND_WIDTHS)
        ],
        np.random.default_rng([case.seed, 1]),
        read_noise=case.camera.read_noise_electrons,
    )
    most = phantoms.LUCY_ITERATIONS
    candidates = {
        "CLAHE": [
            (limit, baselines.clahe(photons, limit, tiles))
            for limit in (0.002, 0.005, 0.01, 0.03)
            for tiles in (4, 8)
        ],
        "rolling ball": [
            (radius, baselines.subtract_background_ball(photons, radius))
            for radius in (10.0, 20.0, 40.0)
        ],
        "Gaussian background": [
            (share, baselines.subtract_background_gaussian(photons, sigma, share))
            for share in (0.3, 0.6, 0.9)
            for sigma in (12.0, 25.0, 50.0)
        ],
        "Richardson-Lucy, kernel 1.5x wrong": baselines.richardson_lucy_iterates(
            photons, *wrong, most
        ),
        "Richardson-Lucy, blind": baselines.richardson_lucy_iterates(photons, *blind, most),
    }
    found = phantoms.classical(case)
    for name, images in candidates.items():
        best = baselines.best_by_truth(images, case.truth)
        found[name] = score(best.setting, best.image, case)
    return found


def ceiling_score(loop: Loop, case: Case) -> Score:
    """Return the score of the network that was taught with the truth."""
    counts = one_pass(loop, case.counts)
    return score(1, to_photons(counts, case.camera).double().numpy(), case)
