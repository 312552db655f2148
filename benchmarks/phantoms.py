"""A model against classical methods on phantoms whose truth is known.

    python benchmarks/phantoms.py MODEL [--seeds N] [--json FILE] [--record]

Nine phantoms a seed: membranes, tubes and nuclei at optical depth 1, 2 and 3, none of them seen
in training. Light: 400 photons at brightness 1, kernel widths 5.5 and 24 px with shares .7 and
.3. Gain, offset and read noise of the camera are drawn, and the model is not told them. The
classical methods are: they get photons, the true kernel and depth, and their best setting by the
truth, for a rival is to be beaten at its best.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import baselines
import numpy as np
import torch
from records import Table, print_tables, save, write_json

from deepcontrast_bmz.dial.automatic import choose_dial
from deepcontrast_bmz.dial.mirrored import iterate_mirrored
from deepcontrast_bmz.evaluate.metrics import band_correlation, psnr_after_fit, rms_contrast
from deepcontrast_bmz.model.loop import blend, extend
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.camera import Camera, expose, to_photons
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.physics.phantoms import Kind

    Double = NDArray[np.float64]

KINDS: tuple[Kind, ...] = ("membranes", "tubes", "nuclei")
OPTICAL_DEPTHS = (1.0, 2.0, 3.0)
WIDTHS_PX, WEIGHTS = (5.5, 24.0), (0.7, 0.3)
PHOTONS = 400.0
FIRST_SEED = 1000
SIDES = (192, 224, 256)
MOST_ITERATIONS = 5
GRID = 0.25
LUCY_ITERATIONS = 120


class Case(NamedTuple):
    """One phantom, as it is and as it was recorded."""

    kind: Kind
    optical_depth: float
    seed: int
    truth: Double
    """Photons without tissue, (Y, X)."""
    counts: torch.Tensor
    """What the camera recorded, (Y, X)."""
    camera: Camera
    widths_px: tuple[float, ...] = WIDTHS_PX
    """Of the tissue's kernel."""


class Score(NamedTuple):
    """One method on one phantom."""

    setting: float
    psnr_after_fit: float
    contrast_recovery: float
    band_correlation: float


def draw_case(
    kind: Kind,
    optical_depth: float,
    seed: int,
    *,
    brightness: float = PHOTONS,
    widths_px: tuple[float, ...] = WIDTHS_PX,
) -> Case:
    rng = np.random.default_rng(seed)
    shape = (int(rng.choice(SIDES)), int(rng.choice(SIDES)))
    truth = brightness * phantom(kind, shape, rng).astype(np.float64)
    return record_case(kind, truth, optical_depth, rng, seed, widths_px)


def record_case(
    kind: Kind,
    truth: Double,
    optical_depth: float,
    rng: np.random.Generator,
    seed: int,
    widths_px: tuple[float, ...] = WIDTHS_PX,
) -> Case:
    """Record a specimen, given in photons, by a camera that is drawn."""
    camera = Camera(
        gain=float(np.exp(rng.uniform(np.log(0.3), np.log(3.0)))),
        offset=float(rng.uniform(50, 500)),
        read_noise_electrons=float(rng.uniform(0.5, 3.0)),
        bit_depth=16,
    )
    hazy = scatter(torch.from_numpy(truth), optical_depth, widths_px, WEIGHTS)
    noise = torch.Generator().manual_seed(seed)
    counts = expose(hazy, camera, noise).float()
    return Case(kind, optical_depth, seed, truth, counts, camera, widths_px)


def cases(seeds: int, first: int = FIRST_SEED) -> Iterator[Case]:
    drawn = itertools.product(range(seeds), KINDS, OPTICAL_DEPTHS)
    for number, (_, kind, optical_depth) in enumerate(drawn):
        yield draw_case(kind, optical_depth, first + number)


def score(setting: float, image: Double, case: Case) -> Score:
    """Score an image in photons."""
    return Score(
        setting,
        psnr_after_fit(image, case.truth),
        rms_contrast(image) / rms_contrast(case.truth),
        band_correlation(image, case.truth),
    )


def classical(case: Case) -> dict[str, Score]:
    photons = to_photons(case.counts, case.camera).double().numpy()
    tissue = (case.optical_depth, case.widths_px, WEIGHTS)
    candidates = {
        "wavelet": [
            (strength, baselines.wavelet_enhance(photons, [fine, *[strength] * 4]))
            for strength in (1.0, 1.5, 2.0, 3.0)
            for fine in (0.0, 0.5, 1.0)
        ],
        "unsharp": [
            (amount, baselines.unsharp_mask(photons, sigma, amount))
            for amount in (0.5, 1.0, 2.0)
            for sigma in (3.0, 6.0, 12.0, 24.0)
        ],
        "Wiener, true kernel": [
            (k, baselines.wiener(photons, *tissue, k)) for k in (0.003, 0.01, 0.03, 0.1)
        ],
        "Richardson-Lucy, true kernel": baselines.richardson_lucy_iterates(
            photons, *tissue, LUCY_ITERATIONS
        ),
    }
    found = {"raw": score(0, photons, case)}
    for name, images in candidates.items():
        best = baselines.best_by_truth(images, case.truth)
        found[name] = score(best.setting, best.image, case)
    return found


def learned(model: Model, case: Case) -> dict[str, Score]:
    step = model.description.step_optical_depth
    most = min(MOST_ITERATIONS, model.max_iterations or MOST_ITERATIONS)
    margin = most * model.radius
    iterations = model.iterate(extend(case.counts[None, None], [margin] * 2), most)[0]

    def at(dial: float) -> Score:
        counts = blend(case.counts, iterations, dial, step)
        return score(dial, to_photons(counts, case.camera).double().numpy(), case)

    def best(scores: Sequence[Score]) -> Score:
        return max(scores, key=lambda found: found.psnr_after_fit)

    whole = best([at(k * step) for k in range(1, most + 1)])
    fine = best([at(GRID * i) for i in range(int(most * step / GRID + 1e-9) + 1)])
    # The model's own kernel, not the true one: the automatic dial is told nothing either.
    widths = model.description.scatter.widths
    choice = choose_dial(case.counts, iterate_mirrored(model), model.description, widths_px=widths)
    return {
        "model, best k": whole._replace(setting=round(whole.setting / step)),
        "model, best dial": fine,
        "model, automatic dial": at(choice.dial),
    }


def tables_of(results: Sequence[tuple[Case, dict[str, Score]]]) -> tuple[Table, Table]:
    """Return the means of every method, and every phantom."""
    names = list(results[0][1])
    means: list[tuple[str, ...]] = []
    for name in names:
        scores = np.array([found[name][1:] for _, found in results])
        psnr, recovery, correlation = scores.mean(axis=0)
        means.append((name, f"{psnr:.2f}", f"{recovery:.2f}", f"{correlation:.3f}"))
    each: list[tuple[str, ...]] = []
    for case, found in results:
        cells: list[str] = []
        for name in names:
            setting = f" ({found[name].setting:g})" if name.split()[0] in _WITH_SETTING else ""
            cells.append(f"{found[name].psnr_after_fit:.2f}{setting}")
        each.append((case.kind, f"{case.optical_depth:g}", *cells))
    return (
        Table(
            f"{len(results)} phantoms, means",
            ("method", "PSNR after fit, dB", "contrast recovery", "1-4 px correlation"),
            tuple(means),
        ),
        Table(
            "PSNR after fit in dB; in brackets n, k or dial",
            ("phantom", "optical depth", *names),
            tuple(each),
        ),
    )


def dial_words(results: Sequence[tuple[Case, dict[str, Score]]]) -> str:
    """Return how near the automatic dial is to the truth."""
    off = np.array(
        [found["model, automatic dial"].setting - case.optical_depth for case, found in results]
    )
    return (
        f"automatic dial against the true optical depth: mean absolute error "
        f"{np.abs(off).mean():.2f}, over by more than .25 in {100 * (off > 0.25).mean():.0f} %"
    )


_WITH_SETTING = ("Richardson-Lucy,", "model,")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="run folder, package, or name of a shipped model")
    parser.add_argument("--seeds", type=int, default=1, help="sets of nine phantoms (1)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="of the phantoms")
    parser.add_argument("--json", type=Path, help="also write every score to this file")
    parser.add_argument("--record", action="store_true", help="save benchmarks/records")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is at least 1, not {given.seeds}")
    started = time.perf_counter()
    model = open_model(given.model)
    results = [
        (case, classical(case) | learned(model, case))
        for case in cases(given.seeds, given.first_seed)
    ]
    tables, words = tables_of(results), dial_words(results)
    print_tables(tables)
    print(f"\n{words}")
    if given.record:
        command = f"python benchmarks/phantoms.py {given.model}"
        command += "" if given.seeds == 1 else f" --seeds {given.seeds}"
        command += "" if given.first_seed == FIRST_SEED else f" --first-seed {given.first_seed}"
        _ = save(
            "phantoms",
            tables,
            title="Phantoms whose truth is known",
            command=f"{command} --record",
            order=1,
            text=f"The classical methods are given photons, the true kernel and depth, and their "
            f"best setting by the truth; the model at its {words}.",
        )
    if given.json is not None:
        record = {
            "model": model.name,
            "seeds": given.seeds,
            "seconds": round(time.perf_counter() - started, 1),
            "phantoms": [
                {
                    "kind": case.kind,
                    "optical_depth": case.optical_depth,
                    "seed": case.seed,
                    "shape": list(case.truth.shape),
                    "scores": {name: found._asdict() for name, found in scores.items()},
                }
                for case, scores in results
            ],
        }
        write_json(given.json, record)


if __name__ == "__main__":
    main()
