"""Applies the forward model to labelled images: what a camera would record through tissue."""

from __future__ import annotations

__all__ = [
    "MOST_PHOTONS",
    "DegradationOptions",
    "make_degradation",
    "read_degradation",
    "refuse_overwriting",
    "simulate",
    "write_simulated",
]

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import ValidationError

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import pixel_size_um, planes, replace_whole, write_image
from deepcontrast_bmz.image.masks import fill_by_mirroring
from deepcontrast_bmz.physics.camera import Camera
from deepcontrast_bmz.physics.degrade import Degradation, degrade
from deepcontrast_bmz.physics.scatter import widths_in_pixels
from deepcontrast_bmz.settings import Scatter, describe_invalid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import xarray as xr
    from numpy.typing import NDArray


MOST_PHOTONS = 1e15
"""Per pixel: far beyond any camera, and the spacing of double precision is
still an eighth of a photon."""


def refuse_overwriting(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raise `InputError` if an output is, or lies inside, an input or another output.

    Parameters
    ----------
    inputs, outputs : sequence of Path
    """
    taken = {path.resolve(): path for path in inputs}
    for output in outputs:
        real = output.resolve()
        for place in (real, *real.parents):
            if place in taken:
                raise InputError(
                    f"{output} would replace {taken[place]}, but an output never replaces an "
                    "input or another output: give another name"
                )
        taken[real] = output


def simulate(
    image: xr.DataArray,
    degradation: Degradation,
    mean_photons: float | None = None,
    *,
    holes: NDArray[np.bool_] | None = None,
) -> xr.DataArray:
    """Return the image recorded through tissue, plane by plane.

    Holes are no part of the picture: light shines in from what is around them, mirrored at their
    rim, and they come out as they went in.

    Parameters
    ----------
    image : DataArray
        Light per pixel, with dims among t, c, z, y, x.
    degradation : Degradation
        What happens to the light; plane i takes its noise from ``seed + i`` (modulo 2^63).
    mean_photons : float, optional
        The image is scaled to this many photons per pixel on average before the tissue; left
        out, its values are taken as photons.
    holes : ndarray of bool, shape of the image, optional
        Pixels that are no part of the picture, beside those that are NaN or infinite.

    Returns
    -------
    DataArray
        Same dims, coordinates and attributes; float32, or unsigned integers where the camera
        has a bit depth and every pixel is a number that fits.

    Raises
    ------
    InputError
        If there are more photons than can be drawn, or counts leave the range of the result.
    """
    values = image.to_numpy()
    used = np.isfinite(values) if holes is None else np.isfinite(values) & ~holes
    scale = 1.0
    if mean_photons is not None and used.any():
        mean = float(values.mean(dtype=np.float64, where=used))
        scale = mean_photons / mean if mean > 0 else 1.0
    bits = degradation.camera.bit_depth
    dtype = np.float32 if bits is None else np.uint8 if bits <= 8 else np.uint16
    dtype = np.uint32 if bits is not None and bits > 16 else dtype
    kept = values[~used]
    with np.errstate(invalid="ignore", over="ignore"):
        fits = np.array_equal(kept, kept.astype(np.float32).astype(dtype))
    dtype = dtype if fits else np.float32
    out = np.empty(values.shape, dtype)
    marks = used.reshape(-1, *values.shape[-2:])
    flat = out.reshape(-1, *values.shape[-2:])
    for number, (_, plane) in enumerate(planes(image)):
        drawn = degradation.model_copy(update={"seed": (degradation.seed + number) % 2**63})
        filled = plane.astype(np.float64)
        if not marks[number].all():
            filled = fill_by_mirroring(filled, marks[number], (1.0, 1.0))
        photons = torch.from_numpy(filled * scale)
        brightest = float(photons.max()) + degradation.veil_photons
        if not brightest <= MOST_PHOTONS:
            raise InputError(
                f"a pixel receives at most {MOST_PHOTONS:g} photons, but one would receive "
                f"{brightest:g}: scale the image with --photons, or lower the veil"
            )
        counts = degrade(photons, drawn, by_pixel=True).numpy()
        largest = float(np.abs(counts).max())
        if not largest <= float(np.finfo(np.float32).max):
            raise InputError(
                f"counts must fit 32 bits, but one would be {largest:g}: give another gain, "
                "offset or read noise"
            )
        flat[number] = np.where(marks[number], counts, plane).astype(dtype)
    return image.copy(data=out)


@dataclass(frozen=True, kw_only=True)
class DegradationOptions:
    """A degradation as a user asked for it, not yet checked."""

    optical_depth: float
    """Of scattering."""
    widths: tuple[float, ...]
    """Of the scattering kernel, in `unit`."""
    weights: tuple[float, ...]
    """Share of each width."""
    unit: str = "px"
    """px or um."""
    absorption: float = 0.0
    """Optical depth of absorption."""
    veil: float = 0.0
    """Photons per pixel."""
    gain: float = 1.0
    """Of the camera, electrons per count."""
    offset: float = 0.0
    """Counts in the dark."""
    read_noise: float = 0.0
    """Electrons."""
    bit_depth: int | None = None
    """None: counts are not rounded."""
    seed: int = 0
    """Of the noise."""


def make_degradation(image: xr.DataArray, options: DegradationOptions) -> Degradation:
    """Return a degradation from numbers a user gave, checked.

    Parameters
    ----------
    image : DataArray
        For its pixel size, where the widths are in micrometres.
    options : DegradationOptions

    Raises
    ------
    InputError
        If a value is out of its range, or micrometres are asked for without a pixel size.
    """
    kernel = {"widths": options.widths, "weights": options.weights, "unit": options.unit}
    try:
        scatter = Scatter.model_validate(kernel)
        return Degradation(
            optical_depth=options.optical_depth,
            widths_px=widths_in_pixels(scatter, pixel_size_um(image)),
            weights=scatter.weights,
            absorption_optical_depth=options.absorption,
            veil_photons=options.veil,
            camera=Camera(
                gain=options.gain,
                offset=options.offset,
                read_noise_electrons=options.read_noise,
                bit_depth=options.bit_depth,
            ),
            seed=options.seed,
        )
    except ValidationError as error:
        raise InputError(describe_invalid(error, "the degradation")) from error


def read_degradation(path: Path) -> Degradation:
    """Read a degradation that was saved as JSON.

    Raises
    ------
    InputError
        If the file cannot be read or is no degradation.
    """
    try:
        return Degradation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"the saved degradation {path} cannot be read ({error.strerror}): name another file"
        ) from error
    except ValidationError as error:
        raise InputError(describe_invalid(error, f"the degradation in {path}")) from error


def write_simulated(
    image: xr.DataArray, out: Path, degradation: Degradation, saved: Path | None = None
) -> None:
    """Write an image and, if asked for, what was done to it: both or neither.

    Parameters
    ----------
    image : DataArray
    out : Path
        Of the image.
    degradation : Degradation
    saved : Path, optional
        JSON file for the degradation.

    Raises
    ------
    InputError
        If either file cannot be written.
    """
    with nullcontext() if saved is None else replace_whole(saved) as draft:
        if draft is not None:
            draft.write_text(degradation.model_dump_json(indent=1) + "\n", encoding="utf-8")
        write_image(image, out)
