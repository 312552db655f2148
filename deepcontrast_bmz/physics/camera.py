"""The camera: photons to counts and back, and its settings estimated from an image."""

from __future__ import annotations

__all__ = ["Camera", "estimate_camera", "expose", "expose_by_pixel", "to_photons"]

import math
from typing import Annotated

import scipy  # its subpackages load when they are used
import torch
from pydantic import Field
from torch import Tensor

from deepcontrast_bmz.physics.noise import estimate_noise
from deepcontrast_bmz.physics.poisson import poisson_quantile, uniform_numbers
from deepcontrast_bmz.settings import NonNegative, Positive, Record


class Camera(Record):
    """A linear detector with shot noise and read noise.

    Quantum efficiency is one: photons here are detected photons, equal to electrons.
    """

    gain: Positive = 1.0
    """Electrons per count."""
    offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Counts recorded in the dark."""
    read_noise_electrons: NonNegative = 0.0
    """Standard deviation of the read noise, in electrons."""
    bit_depth: Annotated[int, Field(ge=1, le=32)] | None = None
    """Counts are rounded and clipped to 0 .. 2**bit_depth - 1; None leaves them real."""


def expose(photons: Tensor, camera: Camera, generator: torch.Generator) -> Tensor:
    """Record an image: shot noise, read noise, gain, offset, then bits.

    Parameters
    ----------
    photons : Tensor, any shape
        Expected photons per pixel; negative values count as 0.
    camera : Camera
    generator : torch.Generator
        Source of the noise.

    Returns
    -------
    Tensor, same shape
        Counts.
    """
    electrons = torch.poisson(photons.clamp_min(0), generator=generator)
    if camera.read_noise_electrons > 0:
        noise = torch.randn(
            photons.shape, generator=generator, dtype=photons.dtype, device=photons.device
        )
        electrons = electrons + camera.read_noise_electrons * noise
    return _digitise(electrons, camera)


def expose_by_pixel(photons: Tensor, camera: Camera, seed: int) -> Tensor:
    """Record an image so that every machine records the same: as `expose`, but slower.

    Every pixel has random numbers of its own (see `poisson`), so that the last bit of an
    expectation, in which processors differ, does not reach other pixels.

    Parameters
    ----------
    photons : Tensor, any shape
        Expected photons per pixel; negative values count as 0.
    camera : Camera
    seed : int
        Decides the noise, together with a pixel's place.

    Returns
    -------
    Tensor of float64, same shape, on the CPU
        Counts.
    """
    expected = photons.detach().cpu().double().numpy()
    electrons = poisson_quantile(uniform_numbers(expected.shape, seed, 0), expected)
    if camera.read_noise_electrons > 0:
        normal = scipy.special.ndtri(uniform_numbers(expected.shape, seed, 1))
        electrons = electrons + camera.read_noise_electrons * normal
    return _digitise(torch.from_numpy(electrons), camera)


def _digitise(electrons: Tensor, camera: Camera) -> Tensor:
    """Return counts: gain, offset, then bits."""
    counts = electrons / camera.gain + camera.offset
    if camera.bit_depth is not None:
        counts = counts.round().clamp(0, 2**camera.bit_depth - 1)
    return counts


def to_photons(counts: Tensor, camera: Camera) -> Tensor:
    """Convert counts to photons: remove the offset, multiply by the gain."""
    return (counts - camera.offset) * camera.gain


def estimate_camera(image: Tensor, *, used: Tensor | None = None) -> Camera:
    """Estimate gain, offset and read noise from one image.

    Gain is one over the slope of the noise variance. Offset and read noise cannot be told apart
    in one image: where the line crosses zero variance is the offset if there is no read noise,
    and the offset cannot lie above the darkest pixels (first permille). What remains of the
    variance at the offset is the read noise.

    Parameters
    ----------
    image : Tensor, (Y, X)
        Raw counts.
    used : Tensor of bool, (Y, X), optional
        Pixels that count; all of them if left out.

    Returns
    -------
    Camera
    """
    noise = estimate_noise(image, used=used)
    image = image if used is None or not bool(used.any()) else image[used]
    if noise.slope <= 0:
        return Camera(
            offset=float(torch.quantile(_sample(image), 0.001)),
            read_noise_electrons=math.sqrt(max(noise.intercept, 0.0)),
        )
    gain = 1.0 / noise.slope
    crossing = -noise.intercept / noise.slope
    offset = min(crossing, float(torch.quantile(_sample(image), 0.001)))
    read_variance = max(noise.slope * offset + noise.intercept, 0.0)
    return Camera(gain=gain, offset=offset, read_noise_electrons=math.sqrt(read_variance) * gain)


def _sample(image: Tensor, most: int = 1_000_000) -> Tensor:
    """Return at most `most` evenly spaced pixels: torch.quantile takes no more than 2**24."""
    flat = image.flatten().float()
    return flat[:: max(1, flat.numel() // most)]
