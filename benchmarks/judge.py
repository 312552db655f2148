"""What one model, and everybody else, makes of one recording whose truth is known."""

from __future__ import annotations

__all__ = [
    "RIVALS",
    "Iterated",
    "Judged",
    "Score",
    "Taken",
    "deconvolve",
    "iterate",
    "judge",
    "score",
    "score_rivals",
    "take_auto",
]

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import baselines
import fidelity
import numpy as np
import torch
import xarray as xr
from baselines import Tissue
from real_pairs import list_dials
from rival_methods import candidate_tissues, sweep_backgrounds

from deepcontrast_bmz.evaluate.metrics import (
    MIDDLE_BAND,
    band_correlation,
    psnr_after_fit,
    rms_contrast,
)
from deepcontrast_bmz.model.loop import blend, extend
from deepcontrast_bmz.predict.enhance import enhance

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from hazed import Recording
    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model

    Double = NDArray[np.float64]

RIVALS = ("Richardson-Lucy, blind", "RLGC, blind", "Dark sectioning", "WBNS")
LUCY_ITERATIONS = 80
RLGC_ITERATIONS = 40


class Taken(NamedTuple):
    """What `auto` does to a plane, as `predict` would."""

    image: Double
    """(Y, X), in counts."""
    dial: float
    reason: str
    warning: str | None


class Iterated(NamedTuple):
    """A plane and all its iterations."""

    raw: torch.Tensor
    """(Y, X)."""
    iterations: torch.Tensor
    """(K, Y, X)."""
    step: float
    """Optical depth of one."""

    def at(self, dial: float) -> Double:
        """Return the plane at a dial."""
        return blend(self.raw, self.iterations, dial, self.step).double().numpy()

    def dials(self) -> list[float]:
        """Return 0, every quarter and the whole iterations, in order."""
        return list_dials(self.iterations.shape[0], self.step)


class Score(NamedTuple):
    """One image against the truth."""

    setting: float
    psnr: float
    """After the best scale and offset, dB."""
    correlation: float
    """In the 1-4 px band."""
    recovery: float
    """RMS contrast over that of the truth."""
    cut_off: float
    """Frequency up to which rings correlate with the truth by 1/7, cycles per pixel."""
    nuclei: float
    """F1 of the nuclei that a usual pipeline finds in it, against those it finds in the truth."""
    micro_ssim: float | None
    """None where the library is missing, or was not asked for."""


class Judged(NamedTuple):
    """What a model makes of one recording."""

    raw: Score
    best: Score
    """At the best dial by the truth."""
    auto: Score
    reason: str
    warning: str | None


@contextmanager
def hear_warnings() -> Generator[list[str]]:
    """Collect what the package warns of."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    ear = Ear(logging.WARNING)
    logger = logging.getLogger("deepcontrast_bmz")
    logger.addHandler(ear)
    try:
        yield heard
    finally:
        logger.removeHandler(ear)


def take_auto(model: Model, plane: Double) -> Taken:
    """Return what `predict` makes of a plane without a dial."""
    image = xr.DataArray(plane.astype(np.float32), dims=("y", "x"), name="plane")
    with hear_warnings() as heard:
        made = enhance(model, image, dial="auto")
    values = np.asarray(made.image, dtype=np.float64)
    return Taken(values, made.dials[0], made.reason, heard[0] if heard else None)


def iterate(model: Model, plane: Double) -> Iterated:
    """Return all iterations of a plane that the model was made for."""
    count = model.description.iterations
    raw = torch.from_numpy(plane).float()
    extended = extend(raw[None, None], [count * model.radius] * 2)
    made = model.iterate(extended, count)[0]
    return Iterated(raw, made, model.description.step_optical_depth)


def score(
    setting: float, image: Double, truth: Double, *, offset: float = 0.0, micro: bool = False
) -> Score:
    """Score an image.

    Parameters
    ----------
    setting : float
        What it was made with.
    image, truth : ndarray, (Y, X)
        In any unit each.
    offset : float
        Of the image: its contrast is taken above that.
    micro : bool
        Ask for MicroSSIM, which takes longer than all others.
    """
    return Score(
        setting,
        psnr_after_fit(image, truth),
        band_correlation(image, truth, MIDDLE_BAND),
        rms_contrast(image, offset) / rms_contrast(truth),
        fidelity.find_cut_off(fidelity.correlate_rings(image, truth)),
        fidelity.score_nuclei(fidelity.find_nuclei(image), fidelity.find_nuclei(truth)),
        fidelity.micro_ssim(image, truth) if micro and fidelity.has_micro_ssim() else None,
    )


def judge(model: Model, recording: Recording, *, micro: bool = False) -> Judged:
    """Return what a model makes of a recording: nothing, its best, and by itself."""
    counts, truth = recording.counts.astype(np.float64), recording.truth
    made, auto = iterate(model, counts), take_auto(model, counts)
    best = max(made.dials(), key=lambda dial: psnr_after_fit(made.at(dial), truth))

    def at(dial: float, image: Double) -> Score:
        return score(dial, image, truth, offset=recording.offset, micro=micro)

    return Judged(
        at(0.0, counts),
        at(best, made.at(best)),
        at(auto.dial, auto.image),
        auto.reason,
        auto.warning,
    )


def score_rivals(recording: Recording, seed: int, *, micro: bool = False) -> dict[str, Score]:
    """Return the scores of `RIVALS`, each at its best setting by the truth, the camera known.

    The kernel of deconvolution is the one that explains noise it has not seen best: nobody knows
    the true one, and none of the candidates is it.
    """
    photons, truth = recording.photons, recording.truth
    rng = np.random.default_rng([seed, 1])
    tissue = baselines.estimate_tissue(
        photons, candidate_tissues(), rng, read_noise=recording.read_noise, iterations=25
    )
    candidates = sweep_backgrounds(photons) | deconvolve(photons, tissue, rng)
    found: dict[str, Score] = {}
    for name in RIVALS:
        best = baselines.best_by_truth(candidates[name], truth)
        found[name] = score(best.setting, best.image, truth, micro=micro)
    return found


def deconvolve(
    photons: Double, tissue: Tissue, rng: np.random.Generator
) -> dict[str, Iterable[tuple[float, Double]]]:
    """Return the iterates of both deconvolutions, by name, each with its number."""
    plain, consensus = RIVALS[:2]
    return {
        plain: baselines.richardson_lucy_iterates(photons, *tissue, LUCY_ITERATIONS),
        consensus: baselines.gradient_consensus_iterates(photons, tissue, RLGC_ITERATIONS, rng),
    }
