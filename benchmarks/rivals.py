"""Everything a biologist could use instead, in one table, on phantoms that nothing was chosen on.

    python benchmarks/rivals.py [MODEL] [--work DIR] [--record]

Phantoms: optical depth .75 to 4 x membranes, tubes, nuclei x three photon levels x three
scattering kernels. Classical methods get photons, and their best setting by the truth; Noise2Void
learns from the recordings of each photon level; the ceiling is the shipped network, taught with the
truth. The model is told nothing, not even the camera. ``real.py`` is the same for real images.

Every score is kept in ``--work``: the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import phantoms
from ceiling import RECIPE, load_ceiling, train_ceiling
from noise2void import UnusableError, denoise, environment
from phantoms import Case, Score, draw_case, learned, score
from records import Table, print_tables, save
from rival_methods import (
    AUTO,
    BEST,
    CEILING,
    NAMES,
    NEAR_ONE,
    NOISE2VOID,
    Scores,
    Store,
    ceiling_score,
    photons_of,
    recent_rivals,
    rivals,
)

from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.settings import read_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from deepcontrast_bmz.model.loop import Loop
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.physics.phantoms import Kind

DEPTHS = (0.75, 1.5, 2.25, 3.0, 4.0)
BRIGHTNESSES = (0.3, 1.0, 3.0)
"""Factors on the photons."""
KERNELS = (1.0, 1.5, 2 / 3)
"""Factors on the kernel's widths."""
KERNEL_NAMES = ("as trained", "half as wide again", "one third narrower")
FIRST_SEED = 61_000
CEILING_STEPS = 1500
NOISE2VOID_STEPS = 250


class Cell(NamedTuple):
    """One phantom of the design."""

    kind: Kind
    depth: float
    brightness: float
    kernel: int
    """Index in `KERNELS`."""
    seed: int

    @property
    def key(self) -> str:
        """What tells it from all others."""
        kernel = KERNELS[self.kernel]
        return f"{self.kind}/{self.depth:g}/{self.brightness:g}/{kernel:.3g}/{self.seed}"

    def draw(self) -> Case:
        """Return specimen and recording."""
        return draw_case(
            self.kind,
            self.depth,
            self.seed,
            brightness=phantoms.PHOTONS * self.brightness,
            widths_px=tuple(KERNELS[self.kernel] * width for width in phantoms.WIDTHS_PX),
        )


class Row(NamedTuple):
    """One phantom and what every method made of it."""

    cell: Cell
    scores: Scores


def design(sets: int, *, quick: bool = False) -> list[Cell]:
    """Return the phantoms; every third of a set, in order, is balanced over all pairs of factors.

    Parameters
    ----------
    sets : int
        Sets of 135.
    quick : bool
        Five of them instead, one for each depth.
    """
    found: list[tuple[int, Cell]] = []
    levels = (range(sets), phantoms.KINDS, DEPTHS, BRIGHTNESSES, range(len(KERNELS)))
    for number, (batch, kind, depth, light, kernel) in enumerate(itertools.product(*levels)):
        places = phantoms.KINDS.index(kind), DEPTHS.index(depth), BRIGHTNESSES.index(light)
        third = (sum(places) + kernel) % 3
        found.append((3 * batch + third, Cell(kind, depth, light, kernel, FIRST_SEED + number)))
    cells = [cell for _, cell in sorted(found, key=lambda each: each[0])]
    if not quick:
        return cells
    kinds = phantoms.KINDS
    chosen = ((kinds[i % 3], depth, BRIGHTNESSES[i % 3]) for i, depth in enumerate(DEPTHS))
    return [next(cell for cell in cells if cell[:3] == each) for each in chosen]


def noise2void_scores(cells: Sequence[Cell], work: Path, steps: int) -> dict[str, Scores]:
    """Return the scores of Noise2Void by cell, one network for each photon level."""
    python = environment(work / "environment")
    found: dict[str, Scores] = {}
    for level in sorted({cell.brightness for cell in cells}):
        members = [cell for cell in cells if cell.brightness == level]
        cases = [cell.draw() for cell in members]
        keys = "\n".join([str(steps), *(cell.key for cell in members)])
        folder = work / hashlib.sha256(keys.encode()).hexdigest()[:12]
        images = [photons_of(case).astype(np.float32) for case in cases]
        denoised = denoise(images, folder, python, steps=steps, seed=FIRST_SEED)
        for cell, case, image in zip(members, cases, denoised, strict=True):
            found[cell.key] = {NOISE2VOID: score(0, image.astype(np.float64), case)}
    return found


def methods_of(rows: Sequence[Row]) -> list[str]:
    """Return the methods that every phantom was given to, as they are to be listed."""
    last = (NOISE2VOID, CEILING, *NAMES)
    common = [name for name in rows[0].scores if all(name in row.scores for row in rows)]
    return sorted(common, key=lambda name: last.index(name) if name in last else -1)


def _column(
    rows: Sequence[Row], name: str, field: str
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([getattr(row.scores[name], field) for row in rows], dtype=np.float64)


def overview(rows: Sequence[Row]) -> Table:
    """Return one line per method: all scores."""
    lines: list[tuple[str, ...]] = []
    before = _column(rows, "raw", "contrast_recovery")
    for name in methods_of(rows):
        recovery = _column(rows, name, "contrast_recovery")
        right = (recovery >= NEAR_ONE[0]) & (recovery <= NEAR_ONE[1])
        lines.append(
            (
                NAMES.get(name, name),
                f"{_column(rows, name, 'psnr_after_fit').mean():.2f}",
                f"{np.nanmean(recovery / before):.2f}",
                f"{np.nanmean(recovery):.2f}",
                f"{100 * right.mean():.0f} %",
                f"{_column(rows, name, 'band_correlation').mean():.3f}",
            )
        )
    return Table(
        f"{len(rows)} phantoms, means. Contrast recovery: contrast over that of the truth, 1 is "
        "right. In the fifth column the share of the images where it is between 0.9 and 1.1.",
        (
            "method",
            "PSNR after fit, dB",
            "RMS contrast gain",
            "contrast recovery",
            "recovery .9 to 1.1",
            "1-4 px correlation",
        ),
        tuple(lines),
    )


def by_level(
    rows: Sequence[Row], what: str, levels: Sequence[tuple[str, Callable[[Cell], bool]]]
) -> Table:
    """Return PSNR, and recovery in brackets, of every method at every level of one factor."""
    present = [
        (name, part)
        for name, belongs in levels
        if (part := [row for row in rows if belongs(row.cell)])
    ]
    lines: list[tuple[str, ...]] = []
    for method in methods_of(rows):
        cells = [
            f"{_column(part, method, 'psnr_after_fit').mean():.2f} "
            f"({np.nanmean(_column(part, method, 'contrast_recovery')):.2f})"
            for _, part in present
        ]
        lines.append((NAMES.get(method, method), *cells))
    caption = f"By {what}: PSNR after fit in dB, in brackets contrast recovery."
    return Table(caption, ("method", *(name for name, _ in present)), tuple(lines))


def _levels() -> dict[str, list[tuple[str, Callable[[Cell], bool]]]]:
    return {
        "optical depth": [(f"{d:g}", lambda cell, d=d: cell.depth == d) for d in DEPTHS],
        "photons at brightness 1": [
            (f"{phantoms.PHOTONS * b:g}", lambda cell, b=b: cell.brightness == b)
            for b in BRIGHTNESSES
        ],
        "kernel": [
            (name, lambda cell, k=k: cell.kernel == k) for k, name in enumerate(KERNEL_NAMES)
        ],
        "structure": [(kind, lambda cell, kind=kind: cell.kind == kind) for kind in phantoms.KINDS],
    }


def automatic(rows: Sequence[Row]) -> Table:
    """Return how right the automatic dial is, and what it costs against the best one."""
    groups: list[tuple[str, Callable[[Cell], bool]]] = [("all", lambda _: True)]
    for what, levels in _levels().items():
        groups += [(f"{what} {name}", belongs) for name, belongs in levels]
    lines: list[tuple[str, ...]] = []
    for name, belongs in groups:
        part = [row for row in rows if belongs(row.cell)]
        if not part:
            continue
        depth = np.array([row.cell.depth for row in part])
        off = _column(part, AUTO, "setting") - depth
        loss = _column(part, BEST, "psnr_after_fit") - _column(part, AUTO, "psnr_after_fit")
        lines.append(
            (
                name,
                str(len(part)),
                f"{np.abs(off).mean():.2f}",
                f"{off.mean():+.2f}",
                f"{100 * (off > 0.25).mean():.0f} %",
                f"{loss.mean():.2f}",
                f"{np.quantile(loss, 0.9):.2f}",
            )
        )
    return Table(
        "`--dial auto`, camera unknown, against the true optical depth, and what it loses in PSNR "
        "against the best dial by the truth.",
        (
            "phantoms",
            "images",
            "mean absolute error",
            "mean error",
            "over by more than .25",
            "loss, dB",
            "loss, 90th percentile",
        ),
        tuple(lines),
    )


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """Return all tables."""
    return [
        overview(rows),
        *(by_level(rows, what, levels) for what, levels in _levels().items()),
        automatic(rows),
    ]


def summary(rows: Sequence[Row], notes: Iterable[str], ceiling_steps: int) -> str:
    """Return a paragraph with the numbers that matter most."""
    own = (NOISE2VOID, CEILING, *NAMES)
    mean = {name: _column(rows, name, "psnr_after_fit").mean() for name in methods_of(rows)}
    rival = max((name for name in mean if name not in own), key=lambda name: mean[name])
    words = [
        f"{len(rows)} phantoms of seeds {FIRST_SEED} on: no network was "
        "chosen on them, but how the estimator of depth is fitted was, in part. Classical "
        "methods are told the camera and get their best setting by the truth; blind deconvolution "
        "finds depth and kernel by the likelihood of noise that it has not seen, and then gets its "
        "best number of iterations. The model is told nothing.",
        f"The best rival is {rival}: {mean[rival]:.2f} dB; the model is at {mean[BEST]:.2f} dB "
        f"with its best dial and at {mean[AUTO]:.2f} dB by itself (raw {mean['raw']:.2f} dB).",
    ]
    if CEILING in mean:
        words.append(
            f"The same network taught with the truth, in one pass at a depth it is not told, "
            f"{ceiling_steps} steps on procedural specimens: {mean[CEILING]:.2f} dB. That is no "
            "upper bound: one pass sees less of the surroundings than several, and its training "
            "is shorter than the model's."
        )
    return " ".join([*words, *notes])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="deepcontrast", help="as for dcbmz predict")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/rivals"), help="where scores are kept"
    )
    parser.add_argument("--seeds", type=int, default=1, help="sets of 135 phantoms (1)")
    parser.add_argument("--images", type=int, help="only so many; each 45 of a set are balanced")
    parser.add_argument("--quick", action="store_true", help="five phantoms instead of 135")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=("ceiling", "noise2void"),
        help="leave out",
    )
    parser.add_argument("--ceiling-steps", type=int, default=CEILING_STEPS)
    parser.add_argument("--noise2void-steps", type=int, default=NOISE2VOID_STEPS)
    parser.add_argument("--record", action="store_true", help="save benchmarks/records")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is at least 1, not {given.seeds}")
    if given.images is not None and given.images < 1:
        parser.error(f"--images is at least 1, not {given.images}")
    return given


def _score_ceiling(rows: Sequence[Row], store: Store[Score], loop: Loop, steps: int) -> None:
    """Add the scores of the network that was taught with the truth."""
    for cell, scores in rows:
        made = store.get(
            cell.key,
            f"ceiling {steps}",
            lambda cell=cell: {CEILING: ceiling_score(loop, cell.draw())},
        )
        scores.update(made)


def _score_noise2void(
    rows: Sequence[Row], whole: Sequence[Cell], work: Path, steps: int
) -> list[str]:
    """Add the scores of Noise2Void; return what is to be said where it could not be run."""
    try:
        # Of all, whatever the number that is scored: its networks learn from all.
        made = noise2void_scores(whole, work / "noise2void", steps)
    except UnusableError as error:
        return [f"Noise2Void could not be run: {error}."]
    for cell, scores in rows:
        scores.update(made[cell.key])
    return []


def _write_command(given: argparse.Namespace) -> str:
    """Return the command that makes the record of the phantoms again."""
    command = f"python benchmarks/rivals.py {given.model} --record"
    command += " --quick" if given.quick else ""
    command += "" if given.seeds == 1 else f" --seeds {given.seeds}"
    command += "" if given.images is None else f" --images {given.images}"
    command += "".join(f" --without {name}" for name in given.without)
    for name, steps in (("ceiling", CEILING_STEPS), ("noise2void", NOISE2VOID_STEPS)):
        chosen = getattr(given, f"{name}_steps")
        command += "" if chosen == steps else f" --{name}-steps {chosen}"
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parse(arguments)
    work: Path = given.work
    model = open_model(given.model)
    store = Store(work / "scores.jsonl", Score)
    whole = design(given.seeds, quick=given.quick)
    cells = whole[: given.images]
    notes: list[str] = []

    rows: list[Row] = []
    for number, cell in enumerate(cells):
        rows.append(Row(cell, _score_cell(cell, store, model)))
        print(f"{number + 1} of {len(cells)}", end="\r", file=sys.stderr, flush=True)
    if "ceiling" not in given.without:
        loop = _ceiling(work, given.ceiling_steps)
        _score_ceiling(rows, store, loop, given.ceiling_steps)
    if "noise2void" not in given.without:
        notes += _score_noise2void(rows, whole, work, given.noise2void_steps)
    tables = tables_of(rows)
    text = summary(rows, notes, given.ceiling_steps)
    print(text + "\n")
    print_tables(tables)
    if given.record:
        title = "Against rivals, on specimens with known truth"
        command = _write_command(given)
        _ = save("rivals", tables, title=title, command=command, order=10, text=text)


def _score_cell(cell: Cell, store: Store[Score], model: Model) -> Scores:
    """Return all scores but those of Noise2Void and the ceiling."""
    group = f"model {model.name} {model.sha256[:12]}"
    classical = store.get(cell.key, "classical", lambda: rivals(cell.draw()))
    recent = store.get(cell.key, "recent", lambda: recent_rivals(cell.draw()))
    own = store.get(cell.key, group, lambda: learned(model, cell.draw()))
    return classical | recent | own


def _ceiling(work: Path, steps: int) -> Loop:
    recipe = read_recipe(RECIPE)
    known = load_ceiling(work, steps, recipe)
    return known if known is not None else train_ceiling(work, steps, recipe)


if __name__ == "__main__":
    main()
