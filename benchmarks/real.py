"""What a model does to recordings that nobody made for it.

    python benchmarks/real.py --data DIR [--model MODEL] [--parts ...] [--rivals] [--record]

``degraded``  one sharp plane of every stack, recorded anew behind optical depth 0 to 3 by a forward
              model of its own (``hazed.py``): does the dial follow, what is lost.
``nuclei``    procedural nuclei, likewise, for those that count them.
``pairs``     one field seen by two microscopes: correlation in all and in the 1-4 px band.
``layers``    layers of one embryo, each against the one above it.
``focus``     through-focus series, whose blur is no scattering: little should happen.
``asis``      every stack as it comes: the dial that `auto` takes, why, and the warning.

Images are public and no part of this project; `--data` names their folder. What was in training is
said for each, as the run folder or the shipped record of the model tells it. MODEL is a run folder,
a package or the name of a shipped model, so that two of them can be compared: ``--parts degraded``
takes two minutes on one core. With ``--rivals`` other methods follow, each at its best setting by
the truth, and all scores; theirs are kept in ``--work``. ``--pictures FOLDER`` draws, for your eyes
only, every sharp plane as it comes and behind depth 2, before and after.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import fidelity
import numpy as np
from as_recorded import Likeness, asis_table, focus_table, layers_table, pairs_table
from gallery import Panel, Row, draw_rows
from hazed import Recorder
from judge import Judged, Score, judge, score_rivals, take_auto
from real_pairs import SHARP, USES, Sharp, sharp_plane, trained_on
from records import Table, print_tables, save, write_json
from rival_methods import NEAR_ONE, Store

from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.phantoms import phantom

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model

    Double = NDArray[np.float64]

SAID = {
    "degraded": "degraded by known amounts",
    "nuclei": "nuclei counted",
    "pairs": "two microscopes",
    "layers": "layers of an embryo",
    "focus": "through focus",
    "asis": "as they come",
}
"""What each part is called on the page."""
PARTS = tuple(SAID)
DEPTHS = (0.0, 0.5, 1.0, 2.0, 3.0)
FOLLOWED = (0.5, 1.0, 2.0)
"""Depths at which the dial is to follow; at 3 it may reach the last iteration."""
COMPARED = (1.0, 2.0)
"""Depths at which rivals, which take ten times as long, are asked, on what was not trained on."""
FIRST_SEED = 71_000

SHARP_PLANES = (
    *SHARP,
    Sharp("spindles", "mitosis_multichannel.tif", channel=1),
    Sharp("beetle membranes", "tribolium_membrane_spim.tif"),
    Sharp("fly brain", "fly_brain_confocal.tif"),
    Sharp("beads, in focus", "gt_beads_widefield_throughfocus.tif", plane=4),
)
"""One plane of every stack, two where two channels differ."""

WITH_NUCLEI = ("nuclei", "thick nuclei", "mitosis, DNA", "embryo nuclei")
"""Those of them that show nuclei, each by itself."""
MADE, MADE_SIDE = 2, 224
"""Procedural specimens with nuclei, and their side in pixels."""
PROCEDURAL = "procedural"
BEST, AUTO = "model, best dial", "model, `auto`"


class Specimen(NamedTuple):
    """What is recorded."""

    name: str
    use: str
    """What the model knew of it, or `PROCEDURAL`."""
    light: Double
    """(Y, X), black is zero."""
    seed: int


class Degraded(NamedTuple):
    """One specimen behind tissue, and what was made of it."""

    name: str
    use: str
    depth: float
    judged: Judged
    rivals: dict[str, Score]

    @property
    def scores(self) -> dict[str, Score]:
        """All scores, by method."""
        return {
            "raw": self.judged.raw,
            **self.rivals,
            BEST: self.judged.best,
            AUTO: self.judged.auto,
        }


def sharp_specimens(folder: Path, name: str) -> Iterator[Specimen]:
    """Return the sharp planes that are there; black is their darkest half per cent."""
    uses = trained_on(name)
    for number, sharp in enumerate(SHARP_PLANES):
        if (folder / sharp.file).is_file():
            plane = sharp_plane(folder, sharp)
            light = plane - float(np.quantile(plane, 0.005))
            use = USES[uses.get(sharp.file, "")]
            yield Specimen(sharp.name, use, light, FIRST_SEED + 100 * number)


def made_specimens() -> Iterator[Specimen]:
    """Return procedural nuclei."""
    for number in range(MADE):
        seed = FIRST_SEED + 5000 + 100 * number
        light = phantom("nuclei", (MADE_SIDE, MADE_SIDE), np.random.default_rng(seed))
        name = f"nuclei {number + 1}"
        yield Specimen(name, PROCEDURAL, light.astype(np.float64), seed)


def degrade(
    specimens: Sequence[Specimen], model: Model, recorder: Recorder, store: Store[Score] | None
) -> list[Degraded]:
    """Return every specimen behind every depth, and what the model, and the rivals, make of it.

    Parameters
    ----------
    store : Store, optional
        Keeps the scores of the rivals; without it there are none, and no MicroSSIM.
    """
    found: list[Degraded] = []
    for number, (name, use, light, first_seed) in enumerate(specimens):
        for depth in DEPTHS:
            seed = first_seed + int(10 * depth)
            recording = recorder.record(light, depth, seed)
            rivals: dict[str, Score] = {}
            if store is not None and depth in COMPARED and use != USES["training"]:
                rivals = store.get(
                    f"{name}/{depth:g}/{recorder.photons:g}/{seed}",
                    "rivals and MicroSSIM" if fidelity.has_micro_ssim() else "rivals",
                    lambda r=recording, s=seed: score_rivals(r, s, micro=True),
                )
            judged = judge(model, recording, micro=bool(rivals))
            found.append(Degraded(name, use, depth, judged, rivals))
        print(f"{number + 1} of {len(specimens)}", end="\r", file=sys.stderr, flush=True)
    return found


def follows(found: Sequence[Degraded]) -> list[tuple[Degraded, float]]:
    """Return every degraded plane and how far its dial rose from that at depth 0, less the depth.

    What haze the sharp plane brings along is in both dials, and counts in neither.
    """
    at_zero = {each.name: each.judged.auto.setting for each in found if each.depth == 0}
    return [
        (each, each.judged.auto.setting - at_zero[each.name] - each.depth)
        for each in found
        if each.depth in FOLLOWED
    ]


def degraded_tables(found: Sequence[Degraded]) -> list[Table]:
    """Return the means by depth and by what the model knew, and plane by plane."""
    tables = [_by_use(found), _following(found), _by_plane(found)]
    if any(each.rivals for each in found):
        tables.insert(2, methods_table(found))
    return tables


def _groups(found: Sequence[Degraded]) -> list[tuple[str, list[Degraded]]]:
    uses = [use for use in dict.fromkeys(USES.values()) if any(each.use == use for each in found)]
    groups = [(use, [each for each in found if each.use == use]) for use in uses]
    return [*groups, ("all", list(found))]


def _by_use(found: Sequence[Degraded]) -> Table:
    lines: list[tuple[str, ...]] = []
    for use, part in _groups(found):
        for depth in DEPTHS:
            level = [each for each in part if each.depth == depth]
            if not level:
                continue
            loss = np.array([each.judged.best.psnr - each.judged.auto.psnr for each in level])
            lines.append(
                (
                    use,
                    f"{depth:g}",
                    str(len(level)),
                    *(
                        f"{np.mean([getattr(each.judged, what).psnr for each in level]):.2f} / "
                        f"{np.mean([getattr(each.judged, what).correlation for each in level]):.3f}"
                        for what in ("raw", "best", "auto")
                    ),
                    f"{np.mean([each.judged.auto.recovery for each in level]):.2f}",
                    f"{loss.mean():.2f}",
                    f"{loss.max():.2f}",
                    str(sum(each.judged.warning is not None for each in level)),
                )
            )
    return Table(
        "One plane of every stack, recorded anew behind a known optical depth (exponential tails, "
        "which no network here was trained with): PSNR after fit in dB / 1-4 px correlation, "
        "against the plane itself, haze and noise that it has included. At depth 0 the best dial "
        "is 0 by construction.",
        (
            "planes",
            "optical depth",
            "number",
            "raw",
            "best dial",
            "`auto`",
            "`auto`: contrast recovery",
            "loss against the best dial, dB",
            "largest loss",
            "warned",
        ),
        tuple(lines),
    )


def _following(found: Sequence[Degraded]) -> Table:
    lines: list[tuple[str, ...]] = []
    for use, part in _groups(found):
        risen = follows(part)
        for depth in ("all", *FOLLOWED):
            off = np.array([rise for each, rise in risen if depth in ("all", each.depth)])
            plain = np.array(
                [
                    each.judged.auto.setting - each.depth
                    for each, _ in risen
                    if depth in ("all", each.depth)
                ]
            )
            if not off.size:
                continue
            lines.append(
                (
                    use,
                    depth if isinstance(depth, str) else f"{depth:g}",
                    str(off.size),
                    f"{np.abs(off).mean():.2f}",
                    f"{off.mean():+.2f}",
                    f"{100 * (np.abs(off) <= 0.25).mean():.0f} %",
                    f"{np.abs(plain).mean():.2f}",
                    f"{plain.mean():+.2f}",
                )
            )
    return Table(
        "Does the dial follow? By how much the dial of `auto` rises from that of the same plane "
        "recorded behind depth 0, less the optical depth that was added; beside it the dial less "
        "that depth, where haze of the plane's own counts as error.",
        (
            "planes",
            "added",
            "recordings",
            "mean absolute error of the rise",
            "mean error",
            "within .25",
            "of the dial itself: absolute",
            "mean",
        ),
        tuple(lines),
    )


def _by_plane(found: Sequence[Degraded]) -> Table:
    lines: list[tuple[str, ...]] = []
    for each in found:
        lines.append(
            (
                each.name,
                each.use,
                f"{each.depth:g}",
                f"{each.judged.raw.psnr:.2f}",
                f"{each.judged.best.psnr:.2f} ({each.judged.best.setting:g})",
                f"{each.judged.auto.psnr:.2f} ({each.judged.auto.setting:g})",
                "yes" if each.judged.warning else "no",
            )
        )
    return Table(
        "The same, plane by plane: PSNR after fit in dB, in brackets the dial.",
        ("plane", "model has it", "optical depth", "raw", "best dial", "`auto`", "warned"),
        tuple(lines),
    )


def _mean(values: Sequence[float | None], digits: int) -> str:
    # MicroSSIM is not a number where its own rounding makes a variance negative.
    known = [value for value in values if value is not None and math.isfinite(value)]
    return f"{np.mean(known):.{digits}f}" if known else "-"


def methods_table(found: Sequence[Degraded]) -> Table:
    """Return all scores of all methods, means over what the rivals were given."""
    lines: list[tuple[str, ...]] = []
    for use, part in _groups([each for each in found if each.rivals]):
        for method in part[0].scores:
            scores = [each.scores[method] for each in part]
            recovery = np.array([score.recovery for score in scores])
            right = (recovery >= NEAR_ONE[0]) & (recovery <= NEAR_ONE[1])
            lines.append(
                (
                    f"{use} ({len(part)})" if method == "raw" else "",
                    method,
                    _mean([score.psnr for score in scores], 2),
                    _mean([score.correlation for score in scores], 3),
                    f"{recovery.mean():.2f} ({100 * right.mean():.0f} %)",
                    _mean([score.cut_off for score in scores], 3),
                    _mean([score.micro_ssim for score in scores], 3),
                )
            )
    return Table(
        f"The same behind optical depth {' and '.join(f'{depth:g}' for depth in COMPARED)}, all "
        "methods, means, on planes that the model was not trained on. Each rival is told the "
        "camera and gets its best setting by the truth (PSNR); the model is told nothing. Contrast "
        "recovery: 1 is right, in brackets the share of recordings where it is 0.9 to 1.1. Ring "
        "correlation: frequency up to which it is above 1/7 against the truth, in cycles per "
        "pixel; .5 is all.",
        (
            "planes (recordings)",
            "method",
            "PSNR after fit, dB",
            "1-4 px correlation",
            "contrast recovery",
            "ring correlation up to",
            "MicroSSIM",
        ),
        tuple(lines),
    )


def nuclei_table(found: Sequence[Degraded]) -> Table:
    """Return the F1 score of nuclei by method and depth, procedural ones and real ones."""
    asked = any(each.rivals for each in found)
    depths = [depth for depth in DEPTHS if depth > 0 and (depth in COMPARED or not asked)]
    used = [each for each in found if each.rivals or not asked]
    groups = {
        PROCEDURAL: [each for each in used if each.use == PROCEDURAL],
        "real": [each for each in used if each.use != PROCEDURAL and each.name in WITH_NUCLEI],
    }
    lines: list[tuple[str, ...]] = []
    for what, part in groups.items():
        for method in part[0].scores if part else ():
            cells = [
                _mean([each.scores[method].nuclei for each in part if each.depth == depth], 2)
                for depth in depths
            ]
            lines.append((what if method == "raw" else "", method, *cells))
    return Table(
        "Nuclei that Otsu's threshold and a watershed find after every method, against those that "
        "they find in the specimen itself: F1 at an overlap of a half, by optical depth. "
        f"{len({each.name for each in groups[PROCEDURAL]})} procedural specimens; real planes: "
        f"{', '.join(dict.fromkeys(each.name for each in groups['real'])) or 'none'}.",
        ("specimens", "method", *(f"{depth:g}" for depth in depths)),
        tuple(lines),
    )


# ---- pictures, which stay on this machine


PICTURED = 2.0
"""Optical depth of the second row."""


def draw_pictures(specimens: Sequence[Specimen], model: Model, to: Path) -> None:
    """Draw every specimen as it comes and behind tissue, before and after `auto`, as PNG."""
    to.mkdir(parents=True, exist_ok=True)
    for name, use, light, seed in specimens:
        recording = Recorder().record(light, PICTURED, seed)
        rows: list[Row] = []
        for what, plane, black in (
            ("as it comes", light, 0.0),
            (f"behind {PICTURED:g}", recording.counts.astype(np.float64), recording.offset),
        ):
            auto = take_auto(model, plane)
            warned = ", warned" if auto.warning else ""
            after = Panel(f"auto: dial {auto.dial:g}{warned}", auto.image, black)
            rows.append(Row(f"{name} ({use})", (Panel(what, plane, black), after)))
        draw_rows(rows, to / f"{name.replace(',', '').replace(' ', '_')}.png")


# ---- the command


def summary(found: Sequence[Degraded]) -> str:
    """Return the numbers that two models are compared by, in one paragraph."""
    words: list[str] = []
    for use, part in _groups(found):
        hazy = [each for each in part if each.depth > 0]
        off = np.array([rise for _, rise in follows(part)])
        follow = f"{np.abs(off).mean():.2f}" if off.size else "-"
        mean = {
            what: np.mean([getattr(each.judged, what).psnr for each in hazy])
            for what in ("raw", "best", "auto")
        }
        warned = sum(each.judged.warning is not None for each in part)
        words.append(
            f"{len({each.name for each in part})} planes ({use}) behind tissue: raw "
            f"{mean['raw']:.2f} dB, best dial {mean['best']:.2f} dB, `auto` {mean['auto']:.2f} dB; "
            f"the dial follows with a mean absolute error of {follow}; warned on "
            f"{warned} of {len(part)}."
        )
    return " ".join(words)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="deepcontrast", help="as for dcbmz predict")
    parser.add_argument("--data", type=Path, required=True, help="folder of real images")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--photons", type=float, default=Recorder().photons, help="of `degraded`")
    parser.add_argument("--planes", type=int, default=5, help="of each stack in `asis` (5)")
    parser.add_argument("--rivals", action="store_true", help="also score other methods")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/real"), help="where scores of rivals are kept"
    )
    parser.add_argument("--json", type=Path, help="also write every score to this file")
    parser.add_argument(
        "--scores", type=Path, help="what --json wrote, instead of scoring `degraded` again"
    )
    parser.add_argument("--pictures", type=Path, help="folder to draw before and after in")
    parser.add_argument("--record", action="store_true", help="save benchmarks/records")
    given = parser.parse_args(arguments)
    given.parts = [part for part in PARTS if part in given.parts]
    if not given.data.is_dir():
        parser.error(f"--data is a folder of images, but {given.data} is none: name one")
    if given.planes < 1:
        parser.error(f"--planes is at least 1, not {given.planes}")
    if not (math.isfinite(given.photons) and given.photons > 0):
        parser.error(f"--photons is above 0, not {given.photons:g}")
    return given


def _write_command(given: argparse.Namespace) -> str:
    """Return the command that makes the record again."""
    command = "python benchmarks/real.py --data DIR"
    command += "" if given.model == "deepcontrast" else f" --model {given.model}"
    command += "" if given.parts == list(PARTS) else f" --parts {' '.join(given.parts)}"
    usual = Recorder().photons
    command += "" if given.photons == usual else f" --photons {given.photons:g}"
    command += " --rivals" if given.rivals else ""
    command += "" if given.planes == 5 else f" --planes {given.planes}"
    return f"{command} --record"


def _make_tables(given: argparse.Namespace, model: Model) -> tuple[list[Table], str]:
    """Return the tables of the parts that were asked for, and a paragraph."""
    folder, name, parts, rivals = given.data, given.model, given.parts, given.rivals
    store = Store(given.work / "scores.jsonl", Score) if rivals else None
    others = Store(given.work / "likeness.jsonl", Likeness) if rivals else None
    recorder = Recorder(photons=given.photons)
    tables: list[Table] = []
    text = "Public images, none of them part of this project (sources: model card)."
    found: list[Degraded] = []
    if "degraded" in parts:
        if given.scores is None:
            found = degrade(list(sharp_specimens(folder, name)), model, recorder, store)
        else:
            found = read_scores(given.scores)
        if found:
            tables += degraded_tables(found)
            text = f"{text} {summary(found)}"
    if "nuclei" in parts:
        found += degrade(list(made_specimens()), model, recorder, store)
        tables.append(nuclei_table(found))
    if given.json is not None:
        write_json(given.json, [_flatten(each) for each in found])
    makers = {
        "pairs": lambda: pairs_table(folder, name, model, others),
        "layers": lambda: layers_table(folder, name, model, others),
        "focus": lambda: focus_table(folder, name, model),
        "asis": lambda: asis_table(folder, name, model, given.planes),
    }
    made = [make() for part, make in makers.items() if part in parts]
    return [*tables, *(table for table in made if table is not None)], text


def _save_record(given: argparse.Namespace, tables: Sequence[Table], text: str) -> None:
    """Save a record of its own for the parts that were run."""
    name, title = "real", "On real images"
    if given.parts != list(PARTS):
        name = "_".join(["real", *given.parts])
        title = f"{title}: {', '.join(SAID[part] for part in given.parts)}"
    command = _write_command(given)
    _ = save(name, tables, title=title, command=command, order=11, text=text)


def _flatten(each: Degraded) -> dict[str, object]:
    scores = {name: score._asdict() for name, score in each.scores.items()}
    said = {"reason": each.judged.reason, "warning": each.judged.warning}
    return {"name": each.name, "use": each.use, "depth": each.depth, **said, "scores": scores}


def read_scores(path: Path) -> list[Degraded]:
    """Return the sharp planes whose scores an earlier run wrote with ``--json``."""
    found: list[Degraded] = []
    for each in json.loads(path.read_text(encoding="utf-8")):
        scores = {name: Score(**values) for name, values in each["scores"].items()}
        raw, best, auto = (scores.pop(method) for method in ("raw", BEST, AUTO))
        judged = Judged(raw, best, auto, each["reason"], each["warning"])
        found.append(Degraded(each["name"], each["use"], each["depth"], judged, scores))
    return [each for each in found if each.use != PROCEDURAL]


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parse(arguments)
    started = time.perf_counter()
    model = open_model(given.model)
    tables, text = _make_tables(given, model)
    if not tables:
        raise SystemExit(f"{given.data} holds none of the images that this benchmark knows")
    print_tables(tables)
    print(f"\n{text}")
    if given.pictures is not None:
        specimens = list(sharp_specimens(given.data, given.model))
        draw_pictures(specimens, model, given.pictures)
    if given.record:
        _save_record(given, tables, text)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
