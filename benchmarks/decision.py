"""What the automatic dial does to real recordings, to nothing, and to what is no tissue.

    python benchmarks/decision.py FOLDER [--model MODEL] [--parts ...] [--json FILE] [--record]

FOLDER holds public stacks (model card); none is part of this project.

as they come: planes of every stack, with the dial, what limits it, and the warning.
nothing: recordings without structure at several light levels, by cameras of 8 and 16 bits.
changes: what is not tissue, and what only changes how it is written, must not move the dial.
consequence: sharp planes degraded by known amounts: what `auto` loses against the best dial, how
far off the depth is, and how often the interval holds it; who was warned.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from phantoms import record_case
from real_pairs import SHARP, USES, list_dials, sharp_plane, stack_of, trained_on
from records import Table, print_tables, save, write_json
from scipy import ndimage

from deepcontrast_bmz.dial.automatic import decide_dial
from deepcontrast_bmz.dial.evidence import judge_evidence
from deepcontrast_bmz.dial.look import look_at_plane
from deepcontrast_bmz.dial.mirrored import iterate_mirrored
from deepcontrast_bmz.dial.structure import shows_structure
from deepcontrast_bmz.dial.verdict import is_refused
from deepcontrast_bmz.evaluate.metrics import psnr_after_fit
from deepcontrast_bmz.image import read_image
from deepcontrast_bmz.model.loop import blend
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.scatter import widths_in_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.dial.automatic import Decision
    from deepcontrast_bmz.model.model import Model

    Double = NDArray[np.float64]

PARTS = ("asis", "nothing", "changes", "consequence")
SIDE = 192
"""Of recordings without structure, in pixels."""
PHOTONS = (1.0, 10.0, 100.0, 1000.0, 10000.0)
DEPTHS = (0.5, 1.0, 2.0)
FEWEST_PHOTONS, MOST_PHOTONS = 100.0, 600.0
"""Of the brightest percent of a degraded plane."""
LOSS_DB, OFF = 1.0, 0.5
"""A result is bad that loses so much against the best dial, or whose depth is off by so much."""
MOVED = 0.1


class Found(NamedTuple):
    """One part of the benchmark."""

    tables: list[Table]
    summary: str
    numbers: dict[str, object]


def decide(model: Model, raw: Tensor, pixel_size_um: float | None = None) -> Decision:
    """Decide the dial of a plane as `predict` does."""
    widths = widths_in_pixels(model.description.scatter, pixel_size_um)
    return decide_dial(raw.float(), iterate_mirrored(model), model.description, widths_px=widths)


def is_accepted(decision: Decision) -> bool:
    """Return whether `evaluate` accepts the dial."""
    return not is_refused(judge_evidence(decision.weigh(decision.choice.dial)).verdict)


# ---- as they come


def planes_of(folder: Path, most: int) -> Iterator[tuple[str, list[Double]]]:
    """Yield planes of every channel of every stack."""
    for path in sorted(folder.glob("*.tif")):
        count = read_image(path).sizes.get("c", 1)
        for channel in range(count):
            planes = stack_of(folder, path.name, channel if count > 1 else None)
            places = np.unique(np.rint(np.linspace(0, len(planes) - 1, most)).astype(int))
            name = path.stem if count == 1 else f"{path.stem}, channel {channel}"
            yield name, [planes[place] for place in places]


def as_they_come(folder: Path, model: Model, most: int) -> Found:
    """Return what happens to stacks as they were recorded."""
    rows: list[tuple[str, ...]] = []
    numbers: dict[str, object] = {}
    warned = looked = refused = 0
    for name, planes in planes_of(folder, most):
        made = [decide(model, torch.from_numpy(plane)) for plane in planes]
        choices = [one.choice for one in made]
        filled = [choice for choice in choices if not choice.empty]
        dials = " ".join(f"{choice.dial:g}" for choice in choices)
        limited = sum("limited by" in choice.reason for choice in choices)
        alarms = sum(choice.warning is not None for choice in choices)
        wrong = sum(not is_accepted(one) for one in made)
        warned, looked, refused = warned + alarms, looked + len(filled), refused + wrong
        empty = len(choices) - len(filled)
        rows.append((name, dials, f"{limited}", f"{empty}", f"{alarms} of {len(filled)}"))
        numbers[name] = [choice.model_dump(mode="json") for choice in choices]
        print(rows[-1], file=sys.stderr, flush=True)
    table = Table(
        f"Public stacks as they were recorded, {most} planes of each at even distances: the dial "
        "of each plane on its own, of how many planes the recording limits it, how many are "
        "without structure, and how many of the others were warned about.",
        ("stack", "dials", "limited", "no structure", "warned"),
        tuple(rows),
    )
    return Found(
        [table],
        f"Of {looked} planes of public stacks as they come, {warned} were warned about; "
        f"`evaluate` refuses {refused} automatic dials.",
        numbers,
    )


# ---- nothing


def nothing(what: str, rng: np.random.Generator) -> Double:
    """Return light without structure, at most 1."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    if what == "haze":
        glow = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 28, truncate=6)
        return np.clip(0.6 + 0.12 * glow / glow.std(), 0, 1)
    turn = rng.uniform(0, 2 * math.pi)
    along = 0.5 + (math.cos(turn) * (x - 0.5) + math.sin(turn) * (y - 0.5)) / 1.5
    row, column = rng.uniform(0.3, 0.7, 2)
    fields = {
        "dark": 0 * x,
        "even": 0 * x + 1,
        "ramp": 0.1 + 0.9 * along,
        "blob": 0.05 + 0.95 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 0.2**2)),
        "empty margin": np.where(x < 1 / 3, 0.0, 1.0),
    }
    return fields[what]


NOTHING = ("dark", "even", "ramp", "haze", "blob", "empty margin")


def without_structure(model: Model, draws: int) -> Found:
    """Return how often nothing is taken for something."""
    rows: list[tuple[str, ...]] = []
    numbers: dict[str, object] = {}
    widths = model.description.scatter.widths
    total = false = 0
    for what in NOTHING:
        for bits in (8, 16):
            strengths: list[float] = []
            for photons in PHOTONS:
                for draw in range(draws):
                    rng = np.random.default_rng([draw, bits, int(photons)])
                    camera = Camera(
                        gain=0.5 if bits == 16 else max(0.5, photons / 180),
                        offset=100.0 if bits == 16 else 4.0,
                        read_noise_electrons=float(rng.uniform(0.5, 2.0)),
                        bit_depth=bits,
                    )
                    light = torch.from_numpy(photons * nothing(what, rng))
                    raw = expose(light, camera, torch.Generator().manual_seed(draw)).float()
                    if what == "empty margin":
                        raw[:, : SIDE // 3] = 0
                    look = look_at_plane(raw, iterate_mirrored(model), widths)
                    strengths.append(look.structure if look.noisy else math.inf)
            found = sum(shows_structure(value) for value in strengths)
            total, false = total + len(strengths), false + found
            rows.append((what, f"{bits}", f"{len(strengths)}", f"{found}", f"{max(strengths):.2f}"))
            numbers[f"{what}/{bits}"] = strengths
    table = Table(
        "Recordings without structure, 1 to 10,000 photons a pixel: of how many structure was "
        "found, and the largest share of the correlation from which on it counts. Where none is "
        "found the dial is 0.",
        ("light", "bits", "recordings", "structure found", "strongest"),
        tuple(rows),
    )
    share = f"Of {total} recordings without structure {false} got a dial."
    return Found([table], share, numbers)


# ---- changes


def _border(width: float, value: float | None, sides: str) -> Callable[[Tensor], Tensor]:
    """Return what lays a border of one value round an image; None: its darkest."""

    def change(raw: Tensor) -> Tensor:
        made = raw.clone()
        least = float(raw.quantile(0.001)) if value is None else value
        rows = max(1, round(width * raw.shape[0])) if width < 1 else int(width)
        if "t" in sides:
            made[:rows] = least
        if "l" in sides:
            made[:, :rows] = least
        return made

    return change


def _corner(raw: Tensor) -> Tensor:
    made = raw.clone()
    y, x = np.mgrid[: raw.shape[0], : raw.shape[1]]
    made[torch.from_numpy(y + x < min(raw.shape) // 3)] = 0
    return made


def _specks(value: float, share: float) -> Callable[[Tensor], Tensor]:
    def change(raw: Tensor) -> Tensor:
        made = raw.clone()
        count = max(1, int(share * raw.numel()))
        rng = np.random.default_rng(1)
        rows, columns = (rng.integers(0, n, count) for n in raw.shape)
        made[rows, columns] = value
        return made

    return change


def _hot(raw: Tensor) -> Tensor:
    return _specks(6 * float(raw.max()) + 100, 0)(raw)


def _many_hot(raw: Tensor) -> Tensor:
    return _specks(6 * float(raw.max()) + 100, 5e-4)(raw)


def _dead_columns(raw: Tensor) -> Tensor:
    made = raw.clone()
    made[:, raw.shape[1] // 3], made[:, raw.shape[1] // 2] = 0, float(raw.max())
    return made


def _saturate(raw: Tensor) -> Tensor:
    return raw.clamp_max(float(raw.flatten().sort().values[int(0.995 * raw.numel())]))


def _to_8_bits(raw: Tensor) -> Tensor:
    low, high = float(raw.min()), float(raw.max())
    return ((raw - low) / max(high - low, 1e-9) * 255).round()


def _crop(raw: Tensor) -> Tensor:
    height, width = raw.shape
    return raw[height // 12 : height - height // 12, width // 12 : width - width // 12]


def _bin(raw: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(raw[None, None], 2)[0, 0]


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "one row of zeros": _border(1, 0.0, "t"),
    "three rows of zeros": _border(3, 0.0, "t"),
    "a third of zeros": _border(0.33, 0.0, "t"),
    "a border of the offset": _border(0.15, None, "tl"),
    "a border of NaN": _border(0.15, math.nan, "tl"),
    "a corner of zeros": _corner,
    "scattered NaN": _specks(math.nan, 1e-3),
    "one hot pixel": _hot,
    "0.05 % hot pixels": _many_hot,
    "0.05 % dead pixels": _specks(0.0, 5e-4),
    "two dead columns": _dead_columns,
    "0.5 % saturated": _saturate,
    "flipped": lambda raw: raw.flip(0),
    "turned by 90 degrees": lambda raw: torch.rot90(raw, 1, (0, 1)),
    "cropped by a sixth": _crop,
    "gain 7.3": lambda raw: 7.3 * raw,
    "offset 500": lambda raw: raw + 500,
    "8 bits": _to_8_bits,
    "binned 2 x 2": _bin,
}


def changed(folder: Path, model: Model) -> Found:
    """Return how far what is not tissue moves the dial."""
    moved: dict[str, list[float]] = {name: [] for name in CHANGES}
    numbers: dict[str, object] = {}
    for sharp in SHARP:
        if not (folder / sharp.file).is_file():
            continue
        raw = torch.from_numpy(sharp_plane(folder, sharp)).float()
        before = decide(model, raw, 1.0).choice.dial
        for name, change in CHANGES.items():
            size = 2.0 if name.startswith("binned") else 1.0
            after = decide(model, change(raw), size).choice.dial
            moved[name].append(after - before)
        numbers[sharp.name] = {"dial": before, **{n: moved[n][-1] for n in CHANGES}}
        print(sharp.name, numbers[sharp.name], file=sys.stderr, flush=True)
    rows = tuple(
        (
            name,
            f"{np.mean(np.abs(shifts)):.2f}",
            f"{max(shifts, key=abs):+.2f}",
            f"{sum(abs(shift) > MOVED + 1e-9 for shift in shifts)} of {len(shifts)}",
        )
        for name, shifts in moved.items()
    )
    table = Table(
        "Real planes, changed: by how much the dial moves, on average and at most, and how often "
        f"by more than {MOVED:g}.",
        ("change", "mean", "largest", f"more than {MOVED:g}"),
        rows,
    )
    shifts = np.abs([shift for each in moved.values() for shift in each])
    over = int((shifts > MOVED + 1e-9).sum())
    return Found(
        [table],
        f"{over} of {shifts.size} changes of real planes move the dial by more than {MOVED:g}.",
        numbers,
    )


# ---- consequence


class Case(NamedTuple):
    """A sharp plane behind a known optical depth."""

    name: str
    use: str
    depth: float
    dial: float
    read: float | None
    inside: bool | None
    """The interval holds the depth that was added and what was read of the sharp plane."""
    off: float | None
    loss: float
    warned: bool
    score: float | None

    @property
    def bad(self) -> bool:
        """Whether somebody should have been warned."""
        return self.loss > LOSS_DB or (self.off is not None and self.off > OFF)


def _read(decision: Decision) -> tuple[float, tuple[float, float]] | None:
    """Return the depth that was read, and its interval, from the record of the choice."""
    choice = decision.choice
    if choice.optical_depth is None or choice.interval is None:
        return None
    return choice.optical_depth, choice.interval


def consequences(folder: Path, model: Model) -> Found:
    """Return what the automatic dial costs on degraded real planes, and who was warned."""
    uses = trained_on(model.name)
    step = model.description.step_optical_depth
    found: list[Case] = []
    for number, sharp in enumerate(SHARP):
        if not (folder / sharp.file).is_file():
            continue
        plane = sharp_plane(folder, sharp)
        light = np.clip(plane - np.quantile(plane, 0.005), 0, None)
        rng = np.random.default_rng([72_000, number])
        light *= rng.uniform(FEWEST_PHOTONS, MOST_PHOTONS) / np.quantile(light, 0.99)
        own = _read(decide(model, torch.from_numpy(plane)))
        for depth in DEPTHS:
            case = record_case("membranes", light, depth, rng, 72_000 + 10 * number)
            decision = decide(model, case.counts)
            kept = iterate_mirrored(model)(case.counts, model.description.iterations)

            def psnr(
                dial: float, raw: Tensor = case.counts, kept: Tensor = kept, truth: Double = light
            ) -> float:
                return psnr_after_fit(blend(raw, kept, dial, step).double().numpy(), truth)

            best = max(psnr(dial) for dial in list_dials(len(kept), step))
            read, choice = _read(decision), decision.choice
            # What haze the sharp plane had before is read off it, and rises as it was added to.
            expected = None if own is None else depth + own[0]
            off = inside = None
            if read is not None and expected is not None:
                off = min(abs(read[0] - expected), abs(read[0] - depth))
                low, high = read[1]
                inside = low <= expected <= high or low <= depth <= high
            found.append(
                Case(
                    sharp.name,
                    USES[uses.get(sharp.file, "")],
                    depth,
                    choice.dial,
                    None if read is None else read[0],
                    inside,
                    off,
                    best - psnr(choice.dial),
                    choice.warning is not None,
                    choice.ood_score,
                )
            )
            print(found[-1], file=sys.stderr, flush=True)
    return _consequence_table(found)


def _consequence_table(found: Sequence[Case]) -> Found:
    rows: list[tuple[str, ...]] = []
    for use in (*dict.fromkeys(case.use for case in found), "all"):
        part = [case for case in found if use in (case.use, "all")]
        bad = [case for case in part if case.bad]
        good = [case for case in part if not case.bad]
        offs = [case.off for case in part if case.off is not None]
        held = [case.inside for case in part if case.inside is not None]
        rows.append(
            (
                use,
                f"{len(part)}",
                f"{np.mean([case.loss for case in part]):.2f}",
                f"{np.mean(offs):.2f}",
                f"{100 * np.mean(held):.0f} %",
                f"{len(bad)}",
                f"{sum(case.warned for case in bad)} of {len(bad)}",
                f"{sum(case.warned for case in good)} of {len(good)}",
            )
        )
    table = Table(
        "Sharp real planes degraded by 0.5, 1 and 2: what the automatic dial loses against the "
        "best in dB, how far the depth that was read is off what was added (or that and what was "
        "read of the sharp plane, whichever is nearer), and how often the interval holds either; "
        f"bad are those that lose more than {LOSS_DB:g} dB or are off by more than {OFF:g}.",
        (
            "images",
            "cases",
            "loss, dB",
            "depth off",
            "interval holds",
            "bad",
            "bad: warned",
            "good: warned",
        ),
        tuple(rows),
    )
    bad = [case for case in found if case.bad]
    return Found(
        [table],
        f"On {len(found)} degraded real planes the automatic dial loses "
        f"{np.mean([case.loss for case in found]):.2f} dB on average against the best; "
        f"{sum(case.warned for case in bad)} of {len(bad)} bad results were warned about.",
        {"cases": [case._asdict() for case in found]},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of public stacks")
    parser.add_argument("--model", default="deepcontrast", help="model (deepcontrast)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts (all)")
    parser.add_argument("--planes", type=int, default=5, help="planes of each stack (5)")
    parser.add_argument("--draws", type=int, default=4, help="recordings of nothing of a kind (4)")
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    parser.add_argument("--record", action="store_true", help="save benchmarks/records")
    given = parser.parse_args(arguments)
    model = open_model(given.model)
    doing: dict[str, Callable[[], Found]] = {
        "asis": lambda: as_they_come(given.folder, model, given.planes),
        "nothing": lambda: without_structure(model, given.draws),
        "changes": lambda: changed(given.folder, model),
        "consequence": lambda: consequences(given.folder, model),
    }
    found = {part: doing[part]() for part in given.parts}
    tables = [table for each in found.values() for table in each.tables]
    print_tables(tables)
    if given.json is not None:
        write_json(given.json, {part: each.numbers for part, each in found.items()})
    if given.record:
        options = "" if given.model == "deepcontrast" else f" --model {given.model}"
        options += "" if tuple(given.parts) == PARTS else f" --parts {' '.join(given.parts)}"
        options += "" if given.planes == 5 else f" --planes {given.planes}"
        options += "" if given.draws == 4 else f" --draws {given.draws}"
        _ = save(
            "decision",
            tables,
            title="The automatic dial",
            command=f"python benchmarks/decision.py FOLDER{options} --record",
            order=4,
            text=" ".join(each.summary for each in found.values()),
        )


if __name__ == "__main__":
    main()
