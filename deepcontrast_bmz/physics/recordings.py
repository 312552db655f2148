"""Simulates recordings of phantoms, within the trained range and beyond it.

What no real recording tells, the depth it was made at and whether a model was trained for it, is
known here. Depth estimator and out-of-distribution score are fitted to these.
"""

from __future__ import annotations

__all__ = [
    "BEYOND",
    "Beyond",
    "Light",
    "Processing",
    "draw_light",
    "record",
    "record_beyond_range",
    "simulate_processing",
    "vary_specimen",
]

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.draws import draw_log_uniform
from deepcontrast_bmz.physics.phantoms import KINDS, phantom, phantom_stack
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.settings import PhysicsSettings

Beyond = Literal[
    "few photons",
    "many photons",
    "too deep",
    "no tissue",
    "defocus",
    "narrow kernel",
    "wide kernel",
    "enlarged",
    "reduced",
    "inverted",
    "stripes",
    "sparse points",
]
BEYOND: tuple[Beyond, ...] = get_args(Beyond)
"""Ways in which a recording leaves the trained range."""

Processing = Literal["smoothed", "black cut off", "smoothed, black cut off"]

_PHOTONS = (40.0, 2000.0)
"""Brightness of a specimen, in photons, where training matches the noise of each image."""


class Light(NamedTuple):
    """A specimen, the tissue above it and the camera."""

    kind: int
    """Index of its kind in `KINDS`."""
    truth: Tensor
    """(Y, X) or, of a stack, (Z, Y, X), about 0 to 1."""
    optical_depth: float
    widths_px: tuple[float, ...]
    weights: tuple[float, ...]
    photons: float
    """At brightness 1."""
    veil: float
    """Even background, as a share of the mean."""
    camera: Camera
    seed: int


def draw_light(
    physics: PhysicsSettings,
    rng: np.random.Generator,
    kind: int,
    depth: float,
    side: int,
    *,
    planes: int | None = None,
) -> Light:
    """Draw a specimen and a recording of it within the trained range.

    Parameters
    ----------
    physics : PhysicsSettings
        What to draw from. Widths in micrometres are taken as pixels: only ratios to the specimen
        would differ.
    rng : numpy.random.Generator
    kind : int
        Index in `KINDS`, any whole number.
    depth : float
        Optical depth.
    side : int
        In pixels.
    planes : int, optional
        Of a stack; left out, the specimen is one plane.
    """
    kind = kind % len(KINDS)
    low, high = physics.width_factor
    jitter = physics.weight_jitter
    weights = [w * (1 + rng.uniform(-jitter, jitter)) for w in physics.scatter.weights]
    fewest, most = physics.photons or _PHOTONS

    def specimen(rng: np.random.Generator) -> NDArray[np.float32]:
        if planes is None:
            return phantom(KINDS[kind], (side, side), rng)
        return phantom_stack(KINDS[kind], (planes, side, side), rng)

    return Light(
        kind=kind,
        truth=torch.from_numpy(specimen(rng)).double(),
        optical_depth=depth,
        widths_px=tuple(
            width * draw_log_uniform(rng, low, high) for width in physics.scatter.widths
        ),
        weights=tuple(weight / sum(weights) for weight in weights),
        photons=draw_log_uniform(rng, fewest, most),
        veil=rng.uniform(*physics.veil) * float(rng.random() < 0.5),
        camera=Camera(
            gain=draw_log_uniform(rng, 0.3, 3.0),
            offset=rng.uniform(0, 500),
            read_noise_electrons=rng.uniform(*physics.read_noise_electrons),
        ),
        seed=int(rng.integers(2**62)),
    )


def vary_specimen(light: Light, rng: np.random.Generator) -> Light:
    """Return the same recording of a specimen unlike the procedural kinds.

    Other tones, other sizes, granular texture, or a texture whose power falls with frequency as
    that of natural images does: each by chance.

    Parameters
    ----------
    light : Light
    rng : numpy.random.Generator
    """
    truth = light.truth.numpy()
    side = truth.shape[-1]
    if rng.random() < 0.5:
        truth = (truth / truth.max()) ** draw_log_uniform(rng, 0.5, 2)
    if rng.random() < 0.35:
        grains = ndimage.gaussian_filter(rng.standard_normal(truth.shape), rng.uniform(0.8, 6))
        contrast = rng.uniform(0.1, 0.5)
        truth = truth * np.clip(1 + contrast * grains / grains.std(), 0.05, None)
    if rng.random() < 0.25:
        texture = np.clip(0.5 + 0.25 * _natural_texture(side, rng), 0.02, None)
        share = rng.uniform(0.3, 1)
        truth = (1 - share) * 0.3 * truth / truth.mean() + share * texture
    if rng.random() < 0.3:
        size = draw_log_uniform(rng, 0.6, 1.8)
        margin = side // 2
        large = ndimage.zoom(np.pad(truth, margin, mode="symmetric"), size, order=1)
        first = (large.shape[0] - side) // 2
        truth = large[first : first + side, first : first + side]
    return light._replace(truth=torch.from_numpy(np.ascontiguousarray(truth)))


def _natural_texture(side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a random field of mean 0 and deviation 1 whose amplitude falls as 1 / frequency."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((side, side)))
    field = np.fft.irfft2(spectrum * frequency ** -rng.uniform(0.8, 1.6), (side, side))
    return (field - field.mean()) / field.std()


def _hazy(light: Light) -> Tensor:
    """Return the light of the specimen behind the tissue."""
    return scatter(light.truth, light.optical_depth, light.widths_px, light.weights)


def _seen(light: Light) -> Tensor:
    """Return the light that reaches the camera, in photons."""
    hazy = _hazy(light)
    return light.photons * (hazy + light.veil * float(light.truth.mean()))


def _expose(light: Light, photons: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(light.seed)
    return expose(photons, light.camera, generator).float()


def record(light: Light) -> Tensor:
    """Return what the camera records, in counts: float32, as the specimen (Y, X) or (Z, Y, X)."""
    return _expose(light, _seen(light))


def simulate_processing(raw: Tensor, how: Processing, rng: np.random.Generator) -> Tensor:
    """Return a recording as files often hold it: smoothed by resampling, or black cut off.

    Parameters
    ----------
    raw : Tensor, (Y, X)
    how : {'smoothed', 'black cut off', 'smoothed, black cut off'}
        Cut-off ones have 8 bits.
    rng : numpy.random.Generator
    """
    image = raw.double().numpy()
    if "smoothed" in how:
        width = rng.uniform(0.6, 1.2)
        image = np.asarray(ndimage.gaussian_filter(image, width, axes=(-2, -1)))
    if "cut off" in how:
        low, high = (float(v) for v in np.quantile(image, (rng.uniform(0.005, 0.25), 0.9995)))
        image = np.clip(np.rint((image - low) / max(high - low, 1e-9) * 255), 0, 255)
    return torch.from_numpy(image).float()


def record_beyond_range(
    light: Light, way: Beyond, physics: PhysicsSettings, deepest: float, rng: np.random.Generator
) -> Tensor:
    """Record a specimen with one thing beyond the trained range, by an amount drawn at random.

    Parameters
    ----------
    light : Light
        Within the range.
    way : str
        One of `BEYOND`.
    physics : PhysicsSettings
        The trained range.
    deepest : float
        Largest optical depth that all iterations together undo.
    rng : numpy.random.Generator

    Returns
    -------
    Tensor, (Y, X)
        Counts.
    """
    fewest, most = physics.photons or _PHOTONS
    side = light.truth.shape[-1]
    if way == "few photons":
        return record(light._replace(photons=fewest * draw_log_uniform(rng, 0.05, 0.15)))
    if way == "many photons":
        return record(light._replace(photons=most * draw_log_uniform(rng, 6, 60)))
    if way == "too deep":
        return record(light._replace(optical_depth=deepest + rng.uniform(0.8, 2.5)))
    if way == "no tissue":
        return record(light._replace(optical_depth=0.0))
    if way in ("narrow kernel", "wide kernel"):
        narrow, wide = physics.width_factor
        factor = (
            narrow * rng.uniform(0.2, 0.4) if way == "narrow kernel" else wide * rng.uniform(2, 4)
        )
        middle = physics.scatter.widths
        return record(light._replace(widths_px=tuple(width * factor for width in middle)))
    if way == "defocus":
        blurred = ndimage.gaussian_filter(_seen(light).numpy(), rng.uniform(2.5, 5))
        return _expose(light, torch.from_numpy(blurred))
    if way == "enlarged":
        factor = rng.uniform(2.2, 4)
        large = _resample(record(light), round(factor * side))
        first = (large.shape[-1] - side) // 2
        return large[first : first + side, first : first + side]
    if way == "reduced":
        factor = int(rng.integers(3, 6))
        shape = (factor * side, factor * side)
        truth = torch.from_numpy(phantom(KINDS[light.kind], shape, rng)).double()
        return _resample(record(light._replace(truth=truth)), side)
    if way == "inverted":
        raw = record(light)
        return raw.max() + raw.min() - raw
    if way == "stripes":
        gains = 1 + rng.uniform(0.08, 0.25) * torch.from_numpy(rng.standard_normal((side, 1)))
        photons = _seen(light)
        # Along either axis.
        turned = photons if rng.random() < 0.5 else photons.T
        return _expose(light, (turned * gains.clamp_min(0)).contiguous())
    points = np.zeros((side, side))
    count = int(rng.integers(10, 50))
    points[rng.integers(0, side, count), rng.integers(0, side, count)] = rng.uniform(
        0.5, 1.5, count
    )
    width = rng.uniform(0.9, 1.8)
    beads = ndimage.gaussian_filter(points, width) * 2 * math.pi * width**2
    return record(light._replace(truth=torch.from_numpy(beads)))


def _resample(image: Tensor, side: int) -> Tensor:
    return F.interpolate(image[None, None], (side, side), mode="bilinear", antialias=True)[0, 0]
