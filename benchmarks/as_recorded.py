"""What a model does to real recordings as they were taken: pairs, layers, focus, whole stacks."""

from __future__ import annotations

__all__ = [
    "Likeness",
    "asis_table",
    "compare",
    "focus_table",
    "layers_table",
    "pairs_table",
]

from typing import TYPE_CHECKING, NamedTuple

import baselines
import numpy as np
import torch
from baselines import Tissue
from judge import RIVALS, deconvolve, iterate, take_auto
from local_contrast import local_contrast_factor
from real_pairs import LAYERS, USES, map_of, pairs_of, stack_of, trained_on
from records import Table
from rival_methods import candidate_tissues, sweep_backgrounds

from deepcontrast_bmz.evaluate.metrics import MIDDLE_BAND, band_pass
from deepcontrast_bmz.image import read_image
from deepcontrast_bmz.physics.camera import estimate_camera, to_photons

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rival_methods import Store

    from deepcontrast_bmz.model.model import Model

    Double = NDArray[np.float64]
    Mask = NDArray[np.bool_]

SCATTERED = ("confocal, widefield: DNA", "SIM, widefield: F-actin")
"""Pairs that are asked of the rivals, too: the blur of the others is defocus alone."""
SPREADS_PX = (1.0, 1.5, 2.0, 3.0)
"""Widths of the point spread functions that deconvolution tries on them."""
WITHOUT_KERNEL = ["Dark sectioning", "WBNS"]
"""Rivals that are asked of whole layers, on which a search for the kernel takes minutes."""

# ---- one field seen twice


class Likeness(NamedTuple):
    """How like two images are."""

    all: float
    """Correlation."""
    band: float
    """The same in the 1-4 px band."""


Compared = dict[str, Likeness]
"""By method, and by what its best setting was chosen."""


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


IN_ALL, IN_BAND = "in all", "in the band"
"""By what the best setting of a method is chosen."""


def _score_rivals(plane: Double, reference: Double, valid: Mask | None = None) -> Compared:
    """Return the best of Dark sectioning and WBNS, by both measures."""
    found: Compared = {}
    for name, images in sweep_backgrounds(plane).items():
        found |= _choose_best(name, [compare(image, reference, valid) for _, image in images])
    return found


def _score_deconvolution(plane: Double, reference: Double) -> Compared:
    """Return the best of both deconvolutions, by both measures.

    They try the tissue that explains noise it has not seen best, and Gaussian point spread
    functions of four widths.
    """
    counts = torch.from_numpy(plane).float()
    photons = to_photons(counts, estimate_camera(counts)).double().numpy()
    rng = np.random.default_rng(0)
    tissues = [baselines.estimate_tissue(photons, candidate_tissues(), rng, iterations=25)]
    # So many scatterings by so little are a Gaussian.
    tissues += [Tissue(25.0, (width / 5,), (1.0,)) for width in SPREADS_PX]
    likenesses: dict[str, list[Likeness]] = {}
    for tissue in tissues:
        for name, images in deconvolve(photons, tissue, rng).items():
            likenesses.setdefault(name, []).extend(compare(each, reference) for _, each in images)
    found: Compared = {}
    for name, each in likenesses.items():
        found |= _choose_best(name, each)
    return found


def _choose_best(name: str, found: Sequence[Likeness]) -> Compared:
    return {
        f"{name} {IN_ALL}": max(found, key=lambda each: each.all),
        f"{name} {IN_BAND}": max(found, key=lambda each: each.band),
    }


def pairs_table(
    folder: Path, name: str, model: Model, rivals: Store[Likeness] | None = None
) -> Table | None:
    """Return what becomes of pairs of two microscopes; None where there are none.

    Parameters
    ----------
    rivals : Store, optional
        Keeps what other methods reach; without it they are not asked.
    """
    uses = trained_on(name)
    lines: list[tuple[str, ...]] = []
    for pair in pairs_of(folder):
        made, auto = iterate(model, pair.blurred), take_auto(model, pair.blurred)
        sweep = {dial: compare(made.at(dial), pair.reference) for dial in made.dials()}
        by_all = max(sweep, key=lambda dial: sweep[dial].all)
        by_band = max(sweep, key=lambda dial: sweep[dial].band)
        at_auto = compare(auto.image, pair.reference)
        warned = "yes" if auto.warning else "no"
        lines += [
            (f"{pair.name} ({USES[uses.get(pair.file, '')]})", "raw", _say(sweep[0.0]), "", ""),
            ("", "model, `auto`", f"{_say(at_auto)} ({auto.dial:g})", "", warned),
            (
                "",
                "model, best dial",
                f"{_say(sweep[by_all])} ({by_all:g})",
                f"{_say(sweep[by_band])} ({by_band:g})",
                "",
            ),
        ]
        if rivals is None or pair.name not in SCATTERED:
            continue
        others = rivals.get(
            pair.name,
            "rivals",
            lambda blurred=pair.blurred, reference=pair.reference: (
                _score_deconvolution(blurred, reference) | _score_rivals(blurred, reference)
            ),
        )
        for method in RIVALS:
            best = (others[f"{method} {by}"] for by in (IN_ALL, IN_BAND))
            lines.append(("", method, *map(_say, best), ""))
    if not lines:
        return None
    return Table(
        "Pairs of a sharp and a blurred recording of one field: correlation in all / in the 1-4 px "
        "band. Left at the setting that is best in all, right at the one best in the band; in "
        "brackets the dial.",
        ("pair", "method", "best in all", "best in the band", "warned"),
        tuple(lines),
    )


# ---- layers of one embryo


def layers_table(
    folder: Path, name: str, model: Model, rivals: Store[Likeness] | None = None
) -> Table | None:
    """Return every layer against the one above it; None where there are none.

    Parameters
    ----------
    rivals : Store, optional
        Keeps what other methods reach; without it they are not asked.
    """
    if not (folder / LAYERS).is_file():
        return None
    layers = stack_of(folder, LAYERS)
    valid = map_of(layers)
    use = USES[trained_on(name).get(LAYERS, "")]
    columns = ["layer", "raw", "`auto`", "best dial", "warned"]
    columns += WITHOUT_KERNEL if rivals else []
    lines: list[tuple[str, ...]] = []
    for number in range(1, len(layers)):
        layer, above = layers[number], layers[number - 1]
        made, auto = iterate(model, layer), take_auto(model, layer)
        sweep = {dial: compare(made.at(dial), above, valid) for dial in made.dials()}
        best = max(sweep, key=lambda dial: sweep[dial].band)
        images = (layer, auto.image, made.at(best))
        factors = [local_contrast_factor(image, above, valid=valid) for image in images]
        found: Compared = {}
        if rivals is not None:
            found = rivals.get(
                f"layer {number}",
                "without a kernel",
                lambda layer=layer, above=above: _score_rivals(layer, above, valid),
            )
        lines.append(
            (
                str(number),
                f"{_say(sweep[0.0])} / {factors[0]:.2f}",
                f"{_say(compare(auto.image, above, valid))} / {factors[1]:.2f} ({auto.dial:g})",
                f"{_say(sweep[best])} / {factors[2]:.2f} ({best:g})",
                "yes" if auto.warning else "no",
                *(_say(found[f"{name} {IN_BAND}"]) for name in WITHOUT_KERNEL if found),
            )
        )
    return Table(
        f"Embryo membranes ({use}), layers 1 um apart along the surface normal, each against the "
        "raw layer above it: correlation in all / in the 1-4 px band / typical factor between the "
        "local contrasts; in brackets the dial. Two layers do not show the same structures: 1 is "
        "out of reach. Best settings are by the band.",
        tuple(columns),
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
