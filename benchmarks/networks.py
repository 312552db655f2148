"""Networks, loops and what is taught in one comparison: the same data, steps and seeds for all.

    python benchmarks/networks.py [--steps N] [--seeds S] [--phantoms P] [--data FOLDER]
                                  [--work DIR] [--only NAME ...] [--cached] [--rates] [--record]

Every network is trained by the project's own trainer, from the same patches, and judged on
phantoms that nothing was chosen on: at its best whole k and at its best dial, by the truth. Then
come four loops around the first network, a second round on its own outputs, other ways to pair
the noise of input and target, deeper specimens and two steps in one. A trained network is kept in
the work folder and taken from there when the command is repeated; ``--cached`` makes the tables of
what lies there. The learning rates are those of least held-out loss in ``--rates --steps 60``, on
a seed of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from loops import LOOPS, Feedback, iterated, plain
from networks_compared import (
    FIRST,
    NETWORKS,
    RATES,
    RATES_SEED,
    REFINED,
    SEEN_AGAIN,
    TAUGHT,
    Options,
    Variant,
)
from networks_judged import (
    judge_iterations,
    judge_loop,
    judge_lucy,
    judge_raw,
    make_fast,
    measure_shift,
    measure_size,
    measure_time,
)
from networks_taught import ConditionedNetwork, Runs
from phantoms import MOST_ITERATIONS, OPTICAL_DEPTHS, Case, cases, draw_case
from records import Table, print_tables, save

from deepcontrast_bmz.image import replace_whole
from deepcontrast_bmz.model.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    Scores = list[dict[str, list[float]]]


class Results:
    """Scores by row and seed, kept beside the weights they are of."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.runs = Runs(options)
        self.drawn: list[Case] = []
        self.scores: dict[tuple[str, int], Scores] = {}
        self.shapes: dict[tuple[str, int], list[float]] = {}

    def cases(self) -> list[Case]:
        """Return the phantoms."""
        if not self.drawn:
            self.drawn = list(cases(self.options.phantoms, self.options.first_seed))
        return self.drawn

    def kept(self, path: Path, make: Callable[[], Any]) -> Any:
        """Return what a file holds, made and written if it is not there."""
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = make()
            with replace_whole(path) as temporary:
                temporary.write_text(json.dumps(made) + "\n", encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    @torch.inference_mode()
    def _each(self, judge: Callable[[Case], dict[str, list[float]]]) -> Scores:
        return [judge(case) for case in self.cases()]

    def _file(self, folder: Path, name: str) -> Path:
        words = f"{name}_{self.options.first_seed}_{self.options.phantoms}"
        return folder / f"{words.replace(' ', '_').replace(',', '')}.json"

    def classical(self) -> None:
        """Judge the raw image and the classical rival."""
        for name, judge in (
            ("raw", judge_raw),
            ("Richardson-Lucy, true kernel, best n", judge_lucy),
        ):
            path = self._file(self.options.work, name)
            self.scores[name, 0] = self.kept(path, lambda judge=judge: self._each(judge))

    def network(self, name: str, variant: Variant, seed: int) -> None:
        """Train, judge and measure one network."""
        loop = self.runs.loop(variant, seed)
        if loop is None:
            return
        folder = self.runs.folder(variant, seed)
        fast = make_fast(loop)
        self.scores[name, seed] = self.kept(
            self._file(folder, "scores"), lambda: self._each(lambda case: judge_loop(case, fast))
        )
        self.shapes[name, seed] = self.kept(folder / "shape.json", lambda: self._shape(loop))
        print(f"{name}, seed {seed}: {self.line(name, seed)}", flush=True)

    def _shape(self, loop: Loop | ConditionedNetwork) -> list[float]:
        case = draw_case("tubes", 2.0, self.options.first_seed)
        return [
            float(sum(p.numel() for p in loop.parameters())),
            measure_size(loop),
            measure_time(loop),
            measure_shift(loop, case.counts[:96, :96]),
        ]

    def loops(self, seed: int) -> None:
        """Judge the loops around the first network."""
        loop = self.runs.loop(NETWORKS[FIRST], seed)
        if not isinstance(loop, Loop):
            return
        fast = cast("Loop", make_fast(loop))
        folder = self.runs.folder(NETWORKS[FIRST], seed)
        for name, make in LOOPS.items():

            def judge(case: Case, make: Callable[[Tensor], Feedback] = make) -> Any:
                return judge_iterations(
                    case, iterated(fast, case.counts, MOST_ITERATIONS, make(case.counts))
                )

            self.scores[name, seed] = self.kept(
                self._file(folder, name), lambda judge=judge: self._each(judge)
            )
            print(f"{name}, seed {seed}: {self.line(name, seed)}", flush=True)

    def refined_loop(self, seed: int) -> None:
        """Judge the second round like the loops: mirrored anew in every iteration."""
        variant = TAUGHT[REFINED]
        loop = self.runs.loop(variant, seed)
        if not isinstance(loop, Loop):
            return
        fast = cast("Loop", make_fast(loop))
        self.scores[REFINED, seed] = self.kept(
            self._file(self.runs.folder(variant, seed), "scores"),
            lambda: self._each(
                lambda case: judge_iterations(
                    case, iterated(fast, case.counts, MOST_ITERATIONS, plain)
                )
            ),
        )
        print(f"{REFINED}, seed {seed}: {self.line(REFINED, seed)}", flush=True)

    def line(self, name: str, seed: int) -> str:
        """Return the scores of one row and seed in words."""
        k, dial = (self.mean(name, seed, kind) for kind in ("k", "dial"))
        return (
            f"best k {k[1]:.2f} dB, best dial {dial[1]:.2f} dB, contrast {dial[2]:.2f}, "
            f"correlation {dial[3]:.3f}"
        )

    def mean(self, name: str, seed: int, kind: str) -> list[float]:
        """Return setting and scores, averaged over the phantoms."""
        return [float(v) for v in np.mean([s[kind] for s in self.scores[name, seed]], axis=0)]

    def seeds(self, name: str) -> list[int]:
        """Return the seeds that a row has."""
        return sorted(seed for row, seed in self.scores if row == name)

    def cell(self, name: str, kind: str, column: int, digits: int) -> str:
        """Return the mean over seeds and, of several, the lowest and the highest."""
        values = [self.mean(name, seed, kind)[column] for seed in self.seeds(name)]
        text = f"{np.mean(values):.{digits}f}"
        if len(values) > 1:
            text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
        return text

    def against(self, name: str, base: str) -> str:
        """Return the difference at the best dial, by phantom, on the seeds that both have."""
        shared = [seed for seed in self.seeds(name) if seed in self.seeds(base)]
        if name == base or not shared:
            return ""
        off = [
            own["dial"][1] - other["dial"][1]
            for seed in shared
            for own, other in zip(self.scores[name, seed], self.scores[base, seed], strict=True)
        ]
        error = float(np.std(off)) / math.sqrt(len(off))
        return f"{np.mean(off):+.2f} ± {error:.2f}"

    def row(self, name: str, base: str) -> tuple[str, ...]:
        """Return a row of the tables of scores."""
        return (
            name,
            str(len(self.seeds(name))),
            self.cell(name, "k", 1, 2),
            self.cell(name, "dial", 1, 2),
            self.against(name, base),
            self.cell(name, "dial", 2, 2),
            self.cell(name, "dial", 3, 3),
        )

    def present(self, names: Mapping[str, Any] | Sequence[str]) -> Iterator[str]:
        """Return the rows that have scores."""
        return (name for name in names if self.seeds(name))

    def tables(self) -> list[Table]:
        """Return what there is."""
        common = ("seeds", "best k, dB", "best dial, dB", "against the first, dB")
        common += ("contrast recovery", "1-4 px correlation")
        found = [
            Table(
                "Networks in the plain loop; at the end the raw image and a classical rival.",
                ("network", *common),
                tuple(
                    self.row(name, FIRST)
                    for name in self.present(
                        [*NETWORKS, "raw", "Richardson-Lucy, true kernel, best n"]
                    )
                ),
            ),
            Table(
                "What they cost, and how far the 4-iteration output changes when the window moves.",
                ("network", "learning rate", "parameters", "weights, kB", "time", "shift"),
                tuple(self._cost(name) for name in self.present(NETWORKS)),
            ),
        ]
        plain_name = next(iter(LOOPS))
        rows = tuple(self.row(name, plain_name) for name in self.present([*LOOPS, REFINED]))
        if rows:
            caption = f"Loops around the network {FIRST!r}, images mirrored anew every iteration."
            found.append(Table(caption, ("loop", *common), rows))
        pairs = {"naive: the raw patch degraded further": FIRST}
        pairs |= {name: name for name in TAUGHT if name != REFINED}
        rows = tuple(
            (title, *self.row(name, FIRST)[1:]) for title, name in pairs.items() if self.seeds(name)
        )
        if len(rows) > 1:
            caption = f"What the network is taught, {FIRST!r} in the plain loop."
            found.append(Table(caption, ("pairs", *common), rows))
        rows = tuple(self._by_depth(name) for name in self.present([*NETWORKS, *LOOPS, *TAUGHT]))
        if rows:
            columns = tuple(f"optical depth {depth:g}" for depth in OPTICAL_DEPTHS)
            caption = "By optical depth, best dial: PSNR in dB, 1-4 px correlation."
            found.append(Table(caption, ("network, loop or pairs", *columns), rows))
        return found

    def _by_depth(self, name: str) -> tuple[str, ...]:
        """Return PSNR and correlation at the best dial; the phantoms take turns in depth."""
        turns = len(OPTICAL_DEPTHS)
        chosen = [
            np.array([found["dial"] for found in self.scores[name, seed]])[:, [1, 3]]
            for seed in self.seeds(name)
        ]
        means = np.mean([[one[turn::turns].mean(0) for turn in range(turns)] for one in chosen], 0)
        return (name, *(f"{psnr:.2f}, {correlation:.3f}" for psnr, correlation in means))

    def _cost(self, name: str) -> tuple[str, ...]:
        shapes = [self.shapes[name, seed] for seed in self.seeds(name)]
        parameters, size, seconds, shift = (
            statistics.median(values) for values in zip(*shapes, strict=True)
        )
        return (
            name,
            f"{NETWORKS[name].learning_rate:g}",
            f"{parameters:.0f}",
            f"{size:.0f}",
            f"{seconds:.2f}",
            f"{shift:.1e}",
        )


def print_rates(options: Options, names: Sequence[str]) -> None:
    """Print the held-out loss of each network by learning rate, on a seed of its own."""
    runs = Runs(options)
    for name in names:
        losses: list[str] = []
        for rate in RATES:
            variant = NETWORKS[name]._replace(learning_rate=rate)
            _ = runs.loop(variant, RATES_SEED)
            scores = json.loads((runs.folder(variant, RATES_SEED) / "validation.json").read_text())
            losses.append(f"{rate:g}: {scores['loss']:.4f}")
        print(f"{name}: " + ", ".join(losses), flush=True)


def describe_budget(options: Options) -> str:
    source = "procedural specimens alone" if options.data is None else "specimens and real stacks"
    return (
        f"{options.steps} steps of {options.batch} patches of {options.patch} x {options.patch} "
        f"for every network, {source}, {9 * options.phantoms} phantoms (membranes, tubes, nuclei "
        f"at optical depth 1, 2, 3; seeds from {options.first_seed}), none of them used to choose "
        "anything. PSNR after the best scale and offset; contrast recovery and correlation at the "
        "best dial. Mean over seeds, in brackets the lowest and the highest; the difference to the "
        "first row phantom by phantom on the seeds that both have, ± its standard error over "
        "these: what another training would change is not in it. Time: one 512 x 512 iteration "
        "over 40 Richardson-Lucy iterations, processor time, one thread. The network that is "
        "told the depth is applied once per depth. `Fresh noise only` makes inputs of light "
        "without noise, which no real recording offers."
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="of every training (300)")
    parser.add_argument("--seeds", type=int, default=2, help="of every network (2)")
    parser.add_argument("--phantoms", type=int, default=2, help="sets of nine phantoms (2)")
    parser.add_argument("--first-seed", type=int, default=52_000, help="of the phantoms (52000)")
    parser.add_argument("--batch", type=int, default=2, help="patches per step (2)")
    parser.add_argument("--patch", type=int, default=64, help="side of the target, pixels (64)")
    parser.add_argument("--specimens", type=int, default=80, help="to train on (80)")
    parser.add_argument("--data", type=Path, help="folder of TIFFs to train on, too")
    parser.add_argument("--work", type=Path, default=Path("runs/networks"), help="what is kept")
    parser.add_argument("--only", nargs="*", help="these rows alone, by parts of their names")
    parser.add_argument("--cached", action="store_true", help="train nothing")
    parser.add_argument("--rates", action="store_true", help="compare learning rates instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="keep the tables")
    return parser


def score_all(results: Results, wanted: Callable[[str], bool]) -> None:
    """Train and judge every wanted row, seed by seed."""
    results.classical()
    for seed in range(results.options.seeds):
        for name, variant in NETWORKS.items():
            if wanted(name):
                results.network(name, variant, seed)
            if name == FIRST and wanted("loop"):
                results.loops(seed)
        for name, variant in TAUGHT.items():
            if wanted(name) and name != REFINED and (seed == 0 or name in SEEN_AGAIN):
                results.network(name, variant, seed)
        if wanted(REFINED) and seed == 0:
            results.refined_loop(seed)


def write_command(given: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Return the command that makes the record again: what differs from the defaults."""
    command = "python benchmarks/networks.py"
    for name in ("steps", "seeds", "phantoms", "first-seed", "batch", "patch", "specimens"):
        value = getattr(given, name.replace("-", "_"))
        if value != parser.get_default(name.replace("-", "_")):
            command += f" --{name} {value}"
    command += " --data FOLDER" if given.data else ""
    command += f" --only {shlex.join(given.only)}" if given.only else ""
    return f"{command} --record"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = build_parser()
    given = parser.parse_args(arguments)
    for name in ("steps", "seeds", "phantoms", "batch", "specimens"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is at least 1, not {getattr(given, name)}")
    torch.set_num_threads(given.threads)
    fields = Options.__dataclass_fields__
    options = Options(**{name: getattr(given, name) for name in fields})
    results = Results(options)

    def wanted(name: str) -> bool:
        return not given.only or any(part in name for part in given.only)

    if given.rates:
        print_rates(options, [name for name in NETWORKS if wanted(name)])
        return
    score_all(results, wanted)
    tables = results.tables()
    print_tables(tables)
    if given.record:
        title = "Networks, loops and teaching at an equal budget"
        save(
            "networks",
            tables,
            title=title,
            command=write_command(given, parser),
            order=20,
            text=describe_budget(options),
        )


if __name__ == "__main__":
    main()
