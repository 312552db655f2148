"""Degrades images by tissue and camera; drawing a degradation is apart from applying it.

Light meets, in this order: scattering, absorption, veil, shot noise, read noise, gain, offset,
bits. A `Degradation` is the whole draw; applied again to the same image it gives the same pixels.
"""

from __future__ import annotations

__all__ = ["Degradation", "degrade", "draw_degradation", "remove_known_part"]

import math
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor

from deepcontrast_bmz.physics.camera import Camera, expose, expose_by_pixel, to_photons
from deepcontrast_bmz.physics.draws import draw_log_uniform
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.settings import NonNegative, PhysicsSettings, Positive, Record

if TYPE_CHECKING:
    import numpy as np


class Degradation(Record):
    """One draw of all that happens to the light between the specimen and the file."""

    optical_depth: NonNegative
    """Optical depth of scattering."""
    widths_px: tuple[Positive, ...]
    """Widths of the scattering kernel, in pixels."""
    weights: tuple[Positive, ...]
    """Shares of the scattering kernel."""
    absorption_optical_depth: NonNegative = 0.0
    """Optical depth of absorption: the light is dimmed by its exponential."""
    veil_photons: NonNegative = 0.0
    """Even background, in photons per pixel."""
    camera: Camera = Camera()
    """The detector."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the noise."""


def draw_degradation(
    ranges: PhysicsSettings,
    rng: np.random.Generator,
    *,
    widths_px: tuple[float, ...],
    mean_photons: float,
    steps: int = 1,
) -> Degradation:
    """Draw a degradation of `steps` steps.

    Parameters
    ----------
    ranges : PhysicsSettings
        What to draw from.
    rng : numpy.random.Generator
        Source of the draw.
    widths_px : tuple of float
        Widths of the middle kernel, in pixels of the image to be degraded.
    mean_photons : float
        Mean photons per pixel of that image; the veil is a share of it.
    steps : int
        Number of steps the loop will take to undo it.
    """
    low, high = ranges.width_factor
    widths = [w * draw_log_uniform(rng, low, high) for w in widths_px]
    jitter = ranges.weight_jitter
    weights = [w * (1 + rng.uniform(-jitter, jitter)) for w in ranges.scatter.weights]
    optical_depth = steps * ranges.step_optical_depth
    return Degradation(
        optical_depth=optical_depth,
        widths_px=tuple(widths),
        weights=tuple(w / sum(weights) for w in weights),
        absorption_optical_depth=optical_depth * rng.uniform(*ranges.absorption),
        veil_photons=mean_photons * rng.uniform(*ranges.veil),
        camera=Camera(read_noise_electrons=rng.uniform(*ranges.read_noise_electrons)),
        seed=int(rng.integers(2**62)),
    )


def degrade(photons: Tensor, degradation: Degradation, *, by_pixel: bool = False) -> Tensor:
    """Record an image through tissue.

    Parameters
    ----------
    photons : Tensor, (..., Y, X)
        Photons per pixel that would reach the detector without tissue; may be negative where an
        offset was subtracted from noise.
    degradation : Degradation
    by_pixel : bool
        Draw the noise so that other machines draw the same, see `expose_by_pixel`. Training,
        whose weights are those of one machine anyway, takes the faster generator.

    Returns
    -------
    Tensor, same shape
        Counts.
    """
    scattered = scatter(
        photons, degradation.optical_depth, degradation.widths_px, degradation.weights
    )
    dimmed = scattered * math.exp(-degradation.absorption_optical_depth)
    expected = dimmed + degradation.veil_photons
    if by_pixel:
        return expose_by_pixel(expected, degradation.camera, degradation.seed)
    generator = torch.Generator(device=photons.device).manual_seed(degradation.seed)
    return expose(expected, degradation.camera, generator)


def remove_known_part(counts: Tensor, degradation: Degradation) -> Tensor:
    """Undo offset, gain, veil and dimming, which no network could know; scattering and noise stay.

    Parameters
    ----------
    counts : Tensor, any shape
        What `degrade` returned.
    degradation : Degradation

    Returns
    -------
    Tensor, same shape
        Photons per pixel, on the scale of the image that was degraded.
    """
    photons = to_photons(counts, degradation.camera) - degradation.veil_photons
    return photons * math.exp(degradation.absorption_optical_depth)
