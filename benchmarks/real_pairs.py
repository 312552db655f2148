"""Real images: sharp ones degraded by a known amount, pairs of two microscopes, layers of a depth.

Called by ``rivals.py --data DIR``; the images are public (sources in the model card and in the
folder's ``manifest.json``) and no part of this project.
"""

from __future__ import annotations

__all__ = ["SHARP", "Sharp", "local_factors", "tables_of", "trained_on"]

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import phantoms
import torch
from local_contrast import local_contrast, local_contrast_factor
from phantoms import Case, learned, record_case
from records import Table
from rival_methods import AUTO, BEST, CEILING, NAMES, NEAR_ONE, Scores, Store, ceiling_score, rivals
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from deepcontrast_bmz.dial.automatic import choose_dial
from deepcontrast_bmz.dial.unusual import find_unusual
from deepcontrast_bmz.dial.window import content_window
from deepcontrast_bmz.evaluate.metrics import (
    MIDDLE_BAND,
    band_correlation,
    band_pass,
    psnr_after_fit,
)
from deepcontrast_bmz.image import read_image
from deepcontrast_bmz.model.loop import blend, extend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.model.loop import Loop
    from deepcontrast_bmz.model.model import Model

    Double = NDArray[np.float64]
    Mask = NDArray[np.bool_]

DEPTHS = (1.0, 2.0, 3.0)
FIRST_SEED = 62_000
SIDE = 256
"""Largest side of the part that is used, in pixels."""
SHIPPED = Path(__file__).parent.parent / "weights"
LAYERS = "drosophila_caax_depth_layers.tif"
MAP_BORDER = 24
"""Pixels along the border of the unwrapped map that do not count: its edge is no structure."""


class Sharp(NamedTuple):
    """A sharp image, taken for the truth."""

    name: str
    file: str
    channel: int | None = None
    plane: int | None = None
    """None: the one with the most structure."""


SHARP = (
    Sharp("membranes", "membranes_nuclei_2d.tif", channel=0),
    Sharp("nuclei", "membranes_nuclei_2d.tif", channel=1),
    Sharp("embryo membranes", LAYERS),
    Sharp("F-actin, SIM", "gt_factin_widefield_vs_sim.tif", channel=1),
    Sharp("DNA, confocal", "gt_dna_confocal_vs_widefield.tif", channel=0),
    Sharp("mitochondria, in focus", "gt_mitochondria_throughfocus.tif", plane=18),
    Sharp("thick nuclei", "nuclei_thick.tif"),
    Sharp("mitosis, DNA", "mitosis_multichannel.tif", channel=0),
    Sharp("ovule walls", "plant_ovule_membrane.tif"),
    Sharp("pollen", "pollen_confocal.tif"),
    Sharp("nuclear envelope", "drosophila_nuclear_envelope.tif"),
    Sharp("embryo nuclei", "mouse_embryo_nuclei_16cell.tif"),
    Sharp("cortex cells", "mouse_cortex_serial2p.tif", channel=0),
)
USES = {
    "": "not seen in training",
    "validation": "held out in training",
    "training": "trained on",
    "both": "trained on",
}

GRID = 0.25
"""Distance between the dials that are tried, in optical depth."""


def list_dials(count: int, step: float) -> list[float]:
    """Return 0, every 0.25 and the whole iterations up to the last, in order.

    Parameters
    ----------
    count : int
        Iterations at hand.
    step : float
        Optical depth of one.
    """
    last = count * step
    grid = [GRID * i for i in range(math.floor(last / GRID + 1e-9) + 1)]
    wholes = [k * step for k in range(count + 1)]
    dials: list[float] = []
    for dial in sorted((*grid, *wholes)):
        if not dials or dial > dials[-1] + 1e-9:
            dials.append(dial)
    return dials


def stack_of(folder: Path, file: str, channel: int | None = None) -> Double:
    """Return planes (Z, Y, X) of a file; a single plane is a stack of one."""
    image = read_image(folder / file)
    if channel is not None:
        image = image.isel(c=channel)
    dims = [dim for dim in ("z", "y", "x") if dim in image.dims]
    pixels = np.asarray(image.transpose(*dims), dtype=np.float64)
    return pixels if pixels.ndim == 3 else pixels[None]


def fullest(planes: Double) -> int:
    """Return the plane with the most structure of 1 to 4 px."""
    return int(np.argmax([band_pass(plane, MIDDLE_BAND).std() for plane in planes]))


def sharp_plane(folder: Path, sharp: Sharp) -> Double:
    """Return the part of a sharp image with the most content, (Y, X), in its own counts."""
    planes = stack_of(folder, sharp.file, sharp.channel)
    plane = planes[fullest(planes) if sharp.plane is None else sharp.plane]
    return plane[content_window(torch.from_numpy(plane), SIDE)]


def degraded_case(plane: Double, depth: float, seed: int) -> Case:
    """Return a sharp image recorded anew, through tissue; its own noise counts as structure."""
    low, high = (float(v) for v in np.quantile(plane, (0.005, 0.995)))
    truth = phantoms.PHOTONS * np.maximum(plane - low, 0.0) / max(high - low, 1e-9)
    rng = np.random.default_rng(seed)
    return record_case("mixed", truth, depth, rng, seed)


def trained_on(model: str) -> Mapping[str, str]:
    """Return what a model used images for, by file name: training, validation or both."""
    for path in (SHIPPED / f"{model}.run.json", Path(model) / "run.json"):
        if path.is_file():
            images = json.loads(path.read_text(encoding="utf-8"))["images"]
            return {image["name"]: image["used_for"] for image in images}
    return {}


def _degraded(
    folder: Path, name: str, model: Model, store: Store, loop: Loop | None
) -> list[tuple[str, Sharp, float, Scores]]:
    """Return (use, image, depth, scores) of every sharp image at every depth."""
    uses = trained_on(name)
    found: list[tuple[str, Sharp, float, Scores]] = []
    for number, sharp in enumerate(SHARP):
        if not (folder / sharp.file).is_file():
            continue
        plane = sharp_plane(folder, sharp)
        for depth in DEPTHS:
            seed = FIRST_SEED + 10 * number + int(depth)
            case = degraded_case(plane, depth, seed)
            key = f"{sharp.name}/{depth:g}/{seed}"
            scores = dict(store.get(key, "classical", lambda case=case: rivals(case)))
            group = f"model {model.name} {model.sha256[:12]}"
            scores |= store.get(key, group, lambda case=case: learned(model, case))
            if loop is not None:
                # One pass is made anew sooner than kept apart by its number of steps.
                scores[CEILING] = ceiling_score(loop, case)
            found.append((USES[uses.get(sharp.file, "")], sharp, depth, scores))
    return found


def degraded_tables(found: Sequence[tuple[str, Sharp, float, Scores]]) -> list[Table]:
    """Return all methods by what the model knew of the images, and image by image."""
    tables: list[Table] = []
    groups = list(dict.fromkeys(USES.values()))
    present = [use for use in groups if any(each[0] == use for each in found)]
    lines: list[tuple[str, ...]] = []
    for method in found[0][3]:
        cells: list[str] = []
        for use in present:
            scores = [each[3][method] for each in found if each[0] == use]
            recovery = np.array([score.contrast_recovery for score in scores])
            right = (recovery >= NEAR_ONE[0]) & (recovery <= NEAR_ONE[1])
            psnr = np.mean([score.psnr_after_fit for score in scores])
            correlation = np.mean([score.band_correlation for score in scores])
            cells += [
                f"{psnr:.2f}",
                f"{np.nanmean(recovery):.2f} ({100 * right.mean():.0f} %)",
                f"{correlation:.3f}",
            ]
        lines.append((NAMES.get(method, method), *cells))
    counts = {use: sum(each[0] == use for each in found) for use in present}
    tables.append(
        Table(
            "Real sharp images recorded anew behind optical depth 1, 2 and 3 ("
            + ", ".join(f"{counts[use]} recordings {use}" for use in present)
            + "): PSNR after fit in dB, contrast recovery and the share of recordings where it is "
            "0.9 to 1.1, 1-4 px correlation.",
            (
                "method",
                *(
                    f"{use}: {column}"
                    for use in present
                    for column in ("PSNR", "recovery", "correlation")
                ),
            ),
            tuple(lines),
        )
    )
    shown = {
        "raw": "raw",
        "Richardson-Lucy, true kernel": "Richardson-Lucy, true kernel",
        "Richardson-Lucy, blind": "Richardson-Lucy, blind",
        BEST: NAMES[BEST],
        AUTO: NAMES[AUTO],
    }
    tables.append(
        Table(
            "The same, image by image: PSNR after fit in dB; in brackets n or dial.",
            ("image", "model has it", "optical depth", *shown.values()),
            tuple(
                (
                    sharp.name,
                    use,
                    f"{depth:g}",
                    *(
                        f"{scores[key].psnr_after_fit:.2f}"
                        + (f" ({scores[key].setting:.3g})" if key != "raw" else "")
                        for key in shown
                    ),
                )
                for use, sharp, depth, scores in found
            ),
        )
    )
    dials = [(depth, scores[AUTO].setting) for _, _, depth, scores in found]
    lines = []
    for use in (*present, "all"):
        off = np.array(
            [
                dial - depth
                for (depth, dial), each in zip(dials, found, strict=True)
                if use in (each[0], "all")
            ]
        )
        loss = np.array(
            [
                each[3][BEST].psnr_after_fit - each[3][AUTO].psnr_after_fit
                for each in found
                if use in (each[0], "all")
            ]
        )
        lines.append(
            (
                use,
                str(len(off)),
                f"{np.abs(off).mean():.2f}",
                f"{off.mean():+.2f}",
                f"{100 * (off > 0.25).mean():.0f} %",
                f"{loss.mean():.2f}",
            )
        )
    tables.append(
        Table(
            "`--dial auto` on them, against the optical depth that was added. Haze that the sharp "
            "image brought along counts as error.",
            (
                "images",
                "recordings",
                "mean absolute error",
                "mean error",
                "over by more than .25",
                "loss against the best dial, dB",
            ),
            tuple(lines),
        )
    )
    return tables


class Pair(NamedTuple):
    """One field seen twice."""

    name: str
    file: str
    blurred: Double
    reference: Double


def pairs_of(folder: Path) -> list[Pair]:
    """Return the pairs, registered and cropped to what both show."""
    found: list[Pair] = []
    file = "gt_dna_confocal_vs_widefield.tif"
    if (folder / file).is_file():
        confocal, widefield = stack_of(folder, file, 0), stack_of(folder, file, 1)
        found.append(Pair("confocal, widefield: DNA", file, *_registered(widefield, confocal)))
    file = "gt_factin_widefield_vs_sim.tif"
    if (folder / file).is_file():
        widefield, sim = stack_of(folder, file, 0)[0], stack_of(folder, file, 1)[0]
        found.append(Pair("SIM, widefield: F-actin", file, widefield, sim))
    file = "gt_mitochondria_throughfocus.tif"
    if (folder / file).is_file():
        planes = stack_of(folder, file)
        found.append(Pair("in focus, .95 um off: mitochondria", file, planes[0], planes[18]))
    file = "gt_beads_widefield_throughfocus.tif"
    if (folder / file).is_file():
        planes = stack_of(folder, file)
        found.append(Pair("in focus, out of focus: beads", file, planes[-1], planes[4]))
    return found


def _registered(widefield: Double, confocal: Double) -> tuple[Double, Double]:
    """Return the fullest confocal plane and the widefield plane that shows it, brought together.

    The confocal plane is the one that is shifted: resampling would smooth the noise of the other.
    """
    plane = confocal[fullest(confocal)]
    best: tuple[float, Double, Double] | None = None
    for other in widefield:
        shift = phase_cross_correlation(
            ndimage.gaussian_filter(other, 1.5),
            ndimage.gaussian_filter(plane, 1.5),
            upsample_factor=10,
            # Blur takes the phases of the fine waves, which would count as much as the coarse.
            normalization=None,  # pyright: ignore[reportArgumentType]
        )[0]
        if np.abs(shift).max() > 12:
            continue
        moved = np.asarray(ndimage.shift(plane, shift, order=1, mode="nearest"))
        cut = math.ceil(float(np.abs(shift).max())) + 1
        inner = slice(cut, -cut), slice(cut, -cut)
        likeness = float(np.corrcoef(other[inner].ravel(), moved[inner].ravel())[0, 1])
        if best is None or likeness > best[0]:
            best = likeness, other[inner], moved[inner]
    if best is None:
        raise SystemExit("the confocal and the widefield stack could not be registered")
    return best[1], best[2]


def _iterations(model: Model, raw: Tensor) -> Tensor:
    count = model.description.iterations
    return model.iterate(extend(raw[None, None], [count * model.radius] * 2), count)[0]


def _auto(model: Model, raw: Tensor, iterations: Tensor) -> float:
    widths = model.description.scatter.widths
    return choose_dial(raw, iterations, model.description, widths_px=widths).dial


def pairs_table(folder: Path, model: Model) -> Table:
    """Return what the model does to pairs whose blur is not scattering."""
    step = model.description.step_optical_depth
    lines: list[tuple[str, ...]] = []
    for pair in pairs_of(folder):
        raw = torch.from_numpy(pair.blurred).float()
        iterations = _iterations(model, raw)
        auto = _auto(model, raw, iterations)
        found = find_unusual(model, raw, iterations)

        def scores(
            dial: float, raw: Tensor = raw, made: Tensor = iterations, pair: Pair = pair
        ) -> tuple[float, float]:
            image = blend(raw, made, dial, step).double().numpy()
            return psnr_after_fit(image, pair.reference), band_correlation(image, pair.reference)

        sweep = {dial: scores(dial) for dial in list_dials(iterations.shape[0], step)}
        best = max(sweep, key=lambda dial: sweep[dial][0])
        at = {"raw": sweep[0.0], "auto": scores(auto), "best": sweep[best]}
        lines.append(
            (
                pair.name,
                "-" if found is None else f"{found.score:.1f}",
                "-" if found is None else ("yes" if found.warning else "no"),
                f"{auto:g}",
                *(f"{value[0]:.2f} / {value[1]:.3f}" for value in at.values()),
                f"{best:g}",
            )
        )
    return Table(
        "Pairs of a sharp and a blurred recording, whose blur is defocus or a wide point spread "
        "function and no scattering: out of scope, and the out-of-distribution score should say "
        "so (above 1 there is a warning). PSNR after fit in dB / 1-4 px correlation.",
        (
            "pair",
            "score",
            "warned",
            "automatic dial",
            "raw",
            "at the automatic dial",
            "at the best dial",
            "best dial",
        ),
        tuple(lines),
    )


def map_of(layers: Double) -> Mask:
    """Return where an unwrapped map has data, off its border."""
    seen = ndimage.binary_closing(layers.max(axis=0) > 0, iterations=3)
    seen = ndimage.binary_fill_holes(seen)
    inside: Mask = np.asarray(ndimage.binary_erosion(seen, iterations=MAP_BORDER), bool)
    return inside


class LayerFactors(NamedTuple):
    """`local_contrast_factor` of one hazy layer against the sharpest."""

    layer: int
    by_dial: dict[float, float]
    auto_dial: float
    auto: float


def local_factors(layers: Double, model: Model) -> tuple[int, list[LayerFactors]]:
    """Return the sharpest layer, and how far every deeper one is from it at every global dial.

    Parameters
    ----------
    layers : ndarray, (Z, Y, X)
        Unwrapped layers of one tissue, outermost first.
    model : Model
    """
    step = model.description.step_optical_depth
    valid = map_of(layers)
    contrasts = [float(np.median(local_contrast(layer)[valid])) for layer in layers]
    sharpest = int(np.argmax(contrasts))
    found: list[LayerFactors] = []
    for number, layer in enumerate(layers):
        if number == sharpest:
            continue
        raw = torch.from_numpy(layer).float()
        iterations = _iterations(model, raw)

        def factor(dial: float, raw: Tensor = raw, made: Tensor = iterations) -> float:
            image = blend(raw, made, dial, step).double().numpy()
            return local_contrast_factor(image, layers[sharpest], valid=valid)

        sweep = {dial: factor(dial) for dial in list_dials(iterations.shape[0], step)}
        auto = _auto(model, raw, iterations)
        found.append(LayerFactors(number, sweep, auto, factor(auto)))
    return sharpest, found


def layers_table(folder: Path, model: Model) -> Table | None:
    """Return the factors by layer and dial; None where the layers are not there."""
    if not (folder / LAYERS).is_file():
        return None
    sharpest, found = local_factors(stack_of(folder, LAYERS), model)
    lines: list[tuple[str, ...]] = []
    for each in found:
        best = min(each.by_dial, key=lambda dial: each.by_dial[dial])
        lines.append(
            (
                str(each.layer),
                f"{each.by_dial[0.0]:.2f}",
                f"{each.by_dial[best]:.2f} ({best:g})",
                f"{each.auto:.2f} ({each.auto_dial:g})",
                *(f"{each.by_dial[dial]:.2f}" for dial in sorted(each.by_dial) if dial > 0),
            )
        )
    dials = [f"{dial:g}" for dial in sorted(found[0].by_dial) if dial > 0]
    return Table(
        "Embryo membranes, layers 1 um apart along the surface normal (0 is outermost): typical "
        "factor between the local contrast (RMS of the 1-4 px band over the mean, windows of "
        f"16 px) and that of layer {sharpest}, the sharpest, where that has structure. 1 is the "
        "aim; in brackets the dial. The structures of two layers are not the same: some of the "
        "factor is theirs.",
        ("layer", "raw", "best global dial", "automatic dial", *dials),
        tuple(lines),
    )


def tables_of(
    folder: Path, name: str, model: Model, store: Store, loop: Loop | None
) -> tuple[list[Table], str]:
    """Return all tables on real images and a paragraph about them."""
    found = _degraded(folder, name, model, store, loop)
    tables = degraded_tables(found) if found else []
    tables.append(pairs_table(folder, model))
    layers = layers_table(folder, model)
    if layers is not None:
        tables.append(layers)
    text = (
        "Public images, none of them part of this project (sources: model card). Sharp ones are "
        "recorded anew through a known optical depth and are the truth themselves, with the noise "
        "and haze they have; rivals are told the camera and get their best setting by that truth, "
        "the model is told nothing. Pairs and layers are as they were recorded."
    )
    return tables, " ".join([text, *_in_short(found)])


def _in_short(found: Sequence[tuple[str, Sharp, float, Scores]]) -> list[str]:
    """Return a sentence on each group of images."""
    words: list[str] = []
    for use in dict.fromkeys(USES.values()):
        part = [each[3] for each in found if each[0] == use]
        if not part:
            continue
        mean = {
            name: float(np.mean([scores[name].psnr_after_fit for scores in part]))
            for name in part[0]
        }
        rival = max((name for name in mean if name not in (*NAMES, CEILING)), key=mean.__getitem__)
        words.append(
            f"On images {use} the best rival ({rival}) is at {mean[rival]:.2f} dB, the model with "
            f"its best dial at {mean[BEST]:.2f} dB, by itself at {mean[AUTO]:.2f} dB (raw "
            f"{mean['raw']:.2f} dB)."
        )
    return words
