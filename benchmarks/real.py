"""What a model does to recordings that nobody made for it.

    python benchmarks/real.py --data DIR [--model MODEL] [--parts ...] [--record]

``degraded``  one sharp plane of every stack, recorded anew behind optical depth 0 to 3 a forward
              model of its own (``hazed.py``): does the dial follow, what is lost.
``pairs``     one field seen by two microscopes: correlation in all and in the 1-4 px band.
``layers``    layers of one embryo, each against the one above it.
``focus``     through-focus series, whose blur is no scattering: little should happen.
``asis``      every stack as it comes: the dial that `auto` takes, why, and the warning.

Images are public and no part of this project; `--data` names their folder. What was in training is
said for each, as the run folder or the shipped record of the model tells it. MODEL is a run folder,
a package or the name of a shipped model, so that two of them can be compared.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import xarray as xr
from hazed import Recorder, Recording
from real_pairs import (
    LAYERS,
    SHARP,
    USES,
    Sharp,
    list_dials,
    map_of,
    pairs_of,
    sharp_plane,
    stack_of,
    trained_on,
)
from records import Table, print_tables, save, write_json

from deepcontrast_bmz.evaluate.metrics import (
    MIDDLE_BAND,
    band_correlation,
    band_pass,
    psnr_after_fit,
    rms_contrast,
)
from deepcontrast_bmz.image import read_image
from deepcontrast_bmz.model.loop import blend, extend
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.predict.enhance import enhance

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model

    Double = NDArray[np.float64]
    Mask = NDArray[np.bool_]

PARTS = ("degraded", "pairs", "layers", "focus", "asis")
DEPTHS = (0.0, 0.5, 1.0, 2.0, 3.0)
FOLLOWED = (0.5, 1.0, 2.0)
"""Depths at which the dial is to follow; at 3 it may reach the last iteration."""
FIRST_SEED = 71_000

SHARP_PLANES = (
    *SHARP,
    Sharp("spindles", "mitosis_multichannel.tif", channel=1),
    Sharp("beetle membranes", "tribolium_membrane_spim.tif"),
    Sharp("fly brain", "fly_brain_confocal.tif"),
    Sharp("beads, in focus", "gt_beads_widefield_throughfocus.tif", plane=4),
)
"""One plane of every stack, two where two channels differ."""


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


class Degraded(NamedTuple):
    """One plane behind tissue, and what was made of it."""

    name: str
    file: str
    use: str
    depth: float
    raw: Score
    best: Score
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


def score(setting: float, image: Double, truth: Double, offset: float) -> Score:
    """Score an image; its contrast is taken above the camera's offset."""
    return Score(
        setting,
        psnr_after_fit(image, truth),
        band_correlation(image, truth, MIDDLE_BAND),
        rms_contrast(image, offset) / rms_contrast(truth),
    )


def specimen_of(plane: Double) -> Double:
    """Return a sharp plane as a specimen: black is its darkest half per cent."""
    return plane - float(np.quantile(plane, 0.005))


# ---- one plane of every stack, degraded by a known amount


def degraded(folder: Path, name: str, model: Model, recorder: Recorder) -> list[Degraded]:
    """Return every plane behind every depth, and what the model makes of it."""
    uses = trained_on(name)
    found: list[Degraded] = []
    there = [sharp for sharp in SHARP_PLANES if (folder / sharp.file).is_file()]
    for number, sharp in enumerate(there):
        specimen = specimen_of(sharp_plane(folder, sharp))
        use = USES[uses.get(sharp.file, "")]
        for depth in DEPTHS:
            seed = FIRST_SEED + 100 * SHARP_PLANES.index(sharp) + int(10 * depth)
            recording = recorder.record(specimen, depth, seed)
            found.append(_judge(sharp, use, model, recording))
        print(f"{number + 1} of {len(there)}", end="\r", file=sys.stderr, flush=True)
    return found


def _judge(sharp: Sharp, use: str, model: Model, recording: Recording) -> Degraded:
    counts = recording.counts.astype(np.float64)
    truth, offset = recording.truth, recording.offset
    made = iterate(model, counts)
    auto = take_auto(model, counts)
    swept = [score(dial, made.at(dial), truth, offset) for dial in made.dials()]
    return Degraded(
        name=sharp.name,
        file=sharp.file,
        use=use,
        depth=recording.depth,
        raw=swept[0],
        best=max(swept, key=lambda each: each.psnr),
        auto=score(auto.dial, auto.image, truth, offset),
        reason=auto.reason,
        warning=auto.warning,
    )


def follows(found: Sequence[Degraded]) -> list[tuple[Degraded, float]]:
    """Return every degraded plane and how far its dial rose from that at depth 0, less the depth.

    What haze the sharp plane brings along is in both dials, and counts in neither.
    """
    at_zero = {each.name: each.auto.setting for each in found if each.depth == 0}
    return [
        (each, each.auto.setting - at_zero[each.name] - each.depth)
        for each in found
        if each.depth in FOLLOWED
    ]


def degraded_tables(found: Sequence[Degraded]) -> list[Table]:
    """Return the means by depth and by what the model knew, and plane by plane."""
    return [_by_use(found), _following(found), _by_plane(found)]


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
            loss = np.array([each.best.psnr - each.auto.psnr for each in level])
            lines.append(
                (
                    use,
                    f"{depth:g}",
                    str(len(level)),
                    *(
                        f"{np.mean([getattr(each, what).psnr for each in level]):.2f} / "
                        f"{np.mean([getattr(each, what).correlation for each in level]):.3f}"
                        for what in ("raw", "best", "auto")
                    ),
                    f"{np.mean([each.auto.recovery for each in level]):.2f}",
                    f"{loss.mean():.2f}",
                    f"{loss.max():.2f}",
                    str(sum(each.warning is not None for each in level)),
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
                    each.auto.setting - each.depth
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
                f"{each.raw.psnr:.2f}",
                f"{each.best.psnr:.2f} ({each.best.setting:g})",
                f"{each.auto.psnr:.2f} ({each.auto.setting:g})",
                "yes" if each.warning else "no",
            )
        )
    return Table(
        "The same, plane by plane: PSNR after fit in dB, in brackets the dial.",
        ("plane", "model has it", "optical depth", "raw", "best dial", "`auto`", "warned"),
        tuple(lines),
    )


# ---- one field seen twice


class Likeness(NamedTuple):
    """How like two images are."""

    all: float
    """Correlation."""
    band: float
    """The same in the 1-4 px band."""


def compare(image: Double, reference: Double, valid: Mask | None = None) -> Likeness:
    """Return the correlations of two images where a mask is true."""
    used = np.ones(image.shape, bool) if valid is None else valid
    one, two = band_pass(image, MIDDLE_BAND), band_pass(reference, MIDDLE_BAND)
    return Likeness(
        float(np.corrcoef(image[used], reference[used])[0, 1]),
        float(np.corrcoef(one[used], two[used])[0, 1]),
    )


def _say(like: Likeness) -> str:
    return f"{like.all:.3f} / {like.band:.3f}"


def pairs_table(folder: Path, name: str, model: Model) -> Table | None:
    """Return what becomes of pairs of two microscopes; None where there are none."""
    uses = trained_on(name)
    lines: list[tuple[str, ...]] = []
    for pair in pairs_of(folder):
        made, auto = iterate(model, pair.blurred), take_auto(model, pair.blurred)
        sweep = {dial: compare(made.at(dial), pair.reference) for dial in made.dials()}
        by_all = max(sweep, key=lambda dial: sweep[dial].all)
        by_band = max(sweep, key=lambda dial: sweep[dial].band)
        lines.append(
            (
                pair.name,
                USES[uses.get(pair.file, "")],
                _say(sweep[0.0]),
                f"{_say(compare(auto.image, pair.reference))} ({auto.dial:g})",
                f"{_say(sweep[by_all])} ({by_all:g})",
                f"{_say(sweep[by_band])} ({by_band:g})",
                "yes" if auto.warning else "no",
            )
        )
    if not lines:
        return None
    return Table(
        "Pairs of a sharp and a blurred recording of one field: correlation in all / in the 1-4 px "
        "band; in brackets the dial.",
        (
            "pair",
            "model has it",
            "raw",
            "`auto`",
            "best dial by all",
            "best dial by the band",
            "warned",
        ),
        tuple(lines),
    )


# ---- layers of one embryo


def layers_table(folder: Path, name: str, model: Model) -> Table | None:
    """Return every layer against the one above it; None where there are none."""
    if not (folder / LAYERS).is_file():
        return None
    layers = stack_of(folder, LAYERS)
    valid = map_of(layers)
    use = USES[trained_on(name).get(LAYERS, "")]
    lines: list[tuple[str, ...]] = []
    for number in range(1, len(layers)):
        layer, above = layers[number], layers[number - 1]
        made, auto = iterate(model, layer), take_auto(model, layer)
        sweep = {dial: compare(made.at(dial), above, valid) for dial in made.dials()}
        best = max(sweep, key=lambda dial: sweep[dial].band)
        lines.append(
            (
                str(number),
                _say(sweep[0.0]),
                f"{_say(compare(auto.image, above, valid))} ({auto.dial:g})",
                f"{_say(sweep[best])} ({best:g})",
                "yes" if auto.warning else "no",
            )
        )
    return Table(
        f"Embryo membranes ({use}), layers 1 um apart along the surface normal, each against the "
        "raw layer above it: correlation in all / in the 1-4 px band; in brackets the dial. Two "
        "layers do not show the same structures: 1 is out of reach.",
        ("layer", "raw", "`auto`", "best dial by the band", "warned"),
        tuple(lines),
    )


# ---- through focus


FOCUS = (
    ("mitochondria", "gt_mitochondria_throughfocus.tif", 18),
    ("beads", "gt_beads_widefield_throughfocus.tif", 4),
)


def focus_table(folder: Path, name: str, model: Model) -> Table | None:
    """Return what `auto` does to planes out of focus; None where there are none."""
    uses = trained_on(name)
    lines: list[tuple[str, ...]] = []
    for what, file, sharp in FOCUS:
        if not (folder / file).is_file():
            continue
        planes = stack_of(folder, file)
        for number in sorted({0, sharp // 2, sharp, (sharp + len(planes)) // 2, len(planes) - 1}):
            auto = take_auto(model, planes[number])
            before = compare(planes[number], planes[sharp])
            after = compare(auto.image, planes[sharp])
            lines.append(
                (
                    what,
                    USES[uses.get(file, "")],
                    f"{number - sharp:+d}",
                    f"{auto.dial:g}",
                    _say(before),
                    _say(after),
                    "yes" if auto.warning else "no",
                )
            )
    if not lines:
        return None
    return Table(
        "Planes through focus, whose blur is defocus and no scattering: correlation with the plane "
        "in focus, in all / in the 1-4 px band.",
        (
            "specimen",
            "model has it",
            "planes from focus",
            "dial of `auto`",
            "raw",
            "`auto`",
            "warned",
        ),
        tuple(lines),
    )


# ---- every stack as it comes


def asis_table(folder: Path, name: str, model: Model, most: int) -> Table | None:
    """Return what `auto` does to every stack as it comes; None where there are none.

    Parameters
    ----------
    most : int
        Planes of a stack that are looked at, at even distances.
    """
    uses = trained_on(name)
    lines: list[tuple[str, ...]] = []
    for path in sorted(folder.glob("*.tif")):
        for label, planes in _channels(path, most):
            dials: list[float] = []
            warned = 0
            reasons: list[str] = []
            for plane in planes:
                auto = take_auto(model, plane)
                dials.append(auto.dial)
                warned += auto.warning is not None
                reasons.append(auto.reason)
            middle = int(np.argsort(dials)[len(dials) // 2])
            lines.append(
                (
                    label,
                    USES[uses.get(path.name, "")],
                    str(len(planes)),
                    f"{min(dials):g} / {dials[middle]:g} / {max(dials):g}",
                    f"{warned} of {len(planes)}",
                    reasons[middle],
                )
            )
    if not lines:
        return None
    return Table(
        f"Every stack as it comes, up to {most} planes of each, each for itself: what `auto` takes "
        "(lowest, middle and highest dial), and why on the plane in the middle.",
        ("stack", "model has it", "planes", "dials", "warned", "why"),
        tuple(lines),
    )


def _channels(path: Path, most: int) -> list[tuple[str, Double]]:
    """Return (name, planes) of every channel of a file."""
    image = read_image(path)
    count = image.sizes.get("c", 1)
    found: list[tuple[str, Double]] = []
    for channel in range(count):
        planes = stack_of(path.parent, path.name, channel if "c" in image.dims else None)
        places = np.unique(np.rint(np.linspace(0, len(planes) - 1, most)).astype(int))
        label = path.stem if count == 1 else f"{path.stem}, channel {channel}"
        found.append((label, planes[places]))
    return found


# ---- the command


def summary(found: Sequence[Degraded]) -> str:
    """Return the numbers that two models are compared by, in one paragraph."""
    words: list[str] = []
    for use, part in _groups(found):
        hazy = [each for each in part if each.depth > 0]
        off = np.array([rise for _, rise in follows(part)])
        follow = f"{np.abs(off).mean():.2f}" if off.size else "-"
        mean = {
            what: np.mean([getattr(each, what).psnr for each in hazy])
            for what in ("raw", "best", "auto")
        }
        warned = sum(each.warning is not None for each in part)
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
    parser.add_argument("--json", type=Path, help="also write every score of `degraded`")
    parser.add_argument("--record", action="store_true", help="save benchmarks/records")
    given = parser.parse_args(arguments)
    if not given.data.is_dir():
        parser.error(f"--data is a folder of images, but {given.data} is none: name one")
    if given.planes < 1:
        parser.error(f"--planes is at least 1, not {given.planes}")
    if not (math.isfinite(given.photons) and given.photons > 0):
        parser.error(f"--photons is above 0, not {given.photons:g}")
    return given


def _write_command(given: argparse.Namespace) -> str:
    """Return the command that makes the record again."""
    command = f"python benchmarks/real.py --data DIR --model {given.model}"
    command += "" if given.parts == list(PARTS) else f" --parts {' '.join(given.parts)}"
    usual = Recorder().photons
    command += "" if given.photons == usual else f" --photons {given.photons:g}"
    command += "" if given.planes == 5 else f" --planes {given.planes}"
    return f"{command} --record"


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parse(arguments)
    model = open_model(given.model)
    started = time.perf_counter()
    tables: list[Table] = []
    text = ""
    if "degraded" in given.parts:
        recorder = Recorder(photons=given.photons)
        found = degraded(given.data, given.model, model, recorder)
        if found:
            tables += degraded_tables(found)
            text = summary(found)
        if given.json is not None:
            write_json(given.json, [each._asdict() for each in found])
    made = {
        "pairs": lambda: pairs_table(given.data, given.model, model),
        "layers": lambda: layers_table(given.data, given.model, model),
        "focus": lambda: focus_table(given.data, given.model, model),
        "asis": lambda: asis_table(given.data, given.model, model, given.planes),
    }
    tables += [
        table
        for part, make in made.items()
        if part in given.parts and (table := make()) is not None
    ]
    if not tables:
        raise SystemExit(f"{given.data} holds none of the images that this benchmark knows")
    print_tables(tables)
    print(f"\n{text}")
    if given.record:
        command = _write_command(given)
        _ = save("real", tables, title="On real images", command=command, order=11, text=text)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
