"""Real images as ``real.py`` uses them: sharp planes, pairs of two microscopes, layers of a depth.

The images are public (sources in the model card and in the folder's ``manifest.json``) and no part
of this project.
"""

from __future__ import annotations

__all__ = [
    "LAYERS",
    "SHARP",
    "USES",
    "Pair",
    "Sharp",
    "fullest",
    "list_dials",
    "map_of",
    "pairs_of",
    "sharp_plane",
    "stack_of",
    "trained_on",
]

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from deepcontrast_bmz.dial.window import content_window
from deepcontrast_bmz.evaluate.metrics import (
    MIDDLE_BAND,
    band_pass,
)
from deepcontrast_bmz.image import read_image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Double = NDArray[np.float64]
    Mask = NDArray[np.bool_]

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


def trained_on(model: str) -> Mapping[str, str]:
    """Return what a model used images for, by file name: training, validation or both."""
    for path in (SHIPPED / f"{model}.run.json", Path(model) / "run.json"):
        if path.is_file():
            images = json.loads(path.read_text(encoding="utf-8"))["images"]
            return {image["name"]: image["used_for"] for image in images}
    return {}


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


def map_of(layers: Double) -> Mask:
    """Return where an unwrapped map has data, off its border."""
    seen = ndimage.binary_closing(layers.max(axis=0) > 0, iterations=3)
    seen = ndimage.binary_fill_holes(seen)
    inside: Mask = np.asarray(ndimage.binary_erosion(seen, iterations=MAP_BORDER), bool)
    return inside
