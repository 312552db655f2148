"""Every rival on one case, and a store of scores that outlives an interruption."""

from __future__ import annotations

__all__ = [
    "AUTO",
    "BEST",
    "BLIND_DEPTHS",
    "BLIND_WIDTHS",
    "CEILING",
    "DARK_RESOLUTIONS",
    "DARK_THRESHOLDS",
    "NAMES",
    "NEAR_ONE",
    "NOISE2VOID",
    "RECENT",
    "WBNS_RESOLUTIONS",
    "Scores",
    "Store",
    "candidate_tissues",
    "ceiling_score",
    "photons_of",
    "recent_rivals",
    "rivals",
    "sweep_backgrounds",
]

import itertools
import json
from typing import TYPE_CHECKING, Generic, TypeVar

import background
import baselines
import numpy as np
import phantoms
from baselines import Tissue
from ceiling import one_pass
from phantoms import WEIGHTS, Case, Score, score

from deepcontrast_bmz.physics.camera import to_photons

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from deepcontrast_bmz.model.loop import Loop

    Double = NDArray[np.float64]

Scores = dict[str, Score]
"""Of one image, by method."""

Kept = TypeVar("Kept")
"""A score, a tuple of numbers."""

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
RECENT = ("Dark sectioning", "WBNS", "RLGC, true kernel")
"""Methods of these years, beside those that everybody has."""
DARK_RESOLUTIONS = (1.0, 1.5, 2.0, 3.0, 4.0)
DARK_THRESHOLDS = (50.0, 100.0)
"""Of Dark sectioning: resolution in pixels, and grey value of 255 below which is background."""
WBNS_RESOLUTIONS = (3.0, 6.0, 12.0, 24.0, 48.0)
"""Of wavelet background subtraction: in pixels, each half an octave into a level of its own."""
WRONG = 1.5
"""Factor on the kernel of a deconvolution that was told the wrong one."""


class Store(Generic[Kept]):
    """Scores by image and group of methods, one line of JSON each, appended as they come."""

    def __init__(self, path: Path, make: Callable[..., Kept]) -> None:
        self.path = path
        self._known: dict[tuple[str, str], dict[str, Kept]] = {}
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
            scores = {name: make(*values) for name, values in entry["scores"].items()}
            self._known[entry["image"], entry["group"]] = scores
        if text and not text.endswith("\n"):
            self._append("")

    def _append(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            _ = file.write(line + "\n")

    def get(self, image: str, group: str, make: Callable[[], dict[str, Kept]]) -> dict[str, Kept]:
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


def candidate_tissues() -> list[Tissue]:
    """Return the tissues that blind deconvolution chooses from."""
    return [
        Tissue(depth, tuple(factor * w for w in phantoms.WIDTHS_PX), WEIGHTS)
        for depth, factor in itertools.product(BLIND_DEPTHS, BLIND_WIDTHS)
    ]


def sweep_backgrounds(image: Double) -> dict[str, Iterable[tuple[float, Double]]]:
    """Return the candidates of the methods that need no kernel, by name, each with its setting.

    Parameters
    ----------
    image : ndarray, (Y, X)
        Grey values in any unit.
    """
    rounds = (background.SLIGHT, background.SEVERE)
    return {
        "Dark sectioning": (
            (size, background.dark_sectioning(image, size, rounds=each, threshold=least))
            for size, each, least in itertools.product(DARK_RESOLUTIONS, rounds, DARK_THRESHOLDS)
        ),
        "WBNS": (
            (size, background.subtract_background_and_noise(image, size, noise_levels=levels))
            for size, levels in itertools.product(WBNS_RESOLUTIONS, (0, 1))
        ),
    }


def recent_rivals(case: Case) -> Scores:
    """Return the scores of `RECENT`, each at its best setting by the truth."""
    photons = photons_of(case)
    tissue = Tissue(case.optical_depth, case.widths_px, WEIGHTS)
    rng = np.random.default_rng([case.seed, 2])
    candidates = sweep_backgrounds(photons)
    candidates["RLGC, true kernel"] = baselines.gradient_consensus_iterates(
        photons, tissue, phantoms.LUCY_ITERATIONS, rng
    )
    found: Scores = {}
    for name, images in candidates.items():
        best = baselines.best_by_truth(images, case.truth)
        found[name] = score(best.setting, best.image, case)
    return found


def rivals(case: Case) -> Scores:
    """Return the scores of everything classical, each at its best setting by the truth."""
    photons = photons_of(case)
    wrong = Tissue(case.optical_depth, tuple(WRONG * w for w in case.widths_px), WEIGHTS)
    blind = baselines.estimate_tissue(
        photons,
        candidate_tissues(),
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
