r"""Records a specimen through tissue by a forward model that no network here was trained with.

Written apart from ``deepcontrast_bmz.physics``: a network that only knows its own teacher would
fail here. The kernel has exponential tails instead of Gaussian ones,

.. math:: s(r) \propto \exp(-r / a), \qquad \hat s(f) = (1 + (2 \pi a f)^2)^{-3/2}

and the tissue of optical depth :math:`\tau` multiplies the spectrum by
:math:`\exp(-\tau (1 - \hat s))`, which is what optical depth means. Borders are mirrored; noise
is drawn by numpy.
"""

from __future__ import annotations

__all__ = ["TAILS", "Recorder", "Recording", "Tail", "see_through_tissue"]

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Double = NDArray[np.float64]


class Tail(NamedTuple):
    """One part of a kernel."""

    length_px: float
    """Distance over which it falls to 1/e; its deviation along one axis is 1.73 times that."""
    share: float


TAILS = (Tail(3.0, 0.6), Tail(11.0, 0.4))
"""Deviations of 5.2 and 19 px, with heavier tails than a Gaussian of that deviation."""


class Recording(NamedTuple):
    """What a camera made of a specimen, and what it was."""

    truth: Double
    """Photons without tissue, (Y, X)."""
    counts: NDArray[np.float32]
    """(Y, X)."""
    depth: float
    """Optical depth of the tissue."""
    gain: float
    """Electrons per count."""
    offset: float
    """Counts in the dark."""
    read_noise: float
    """In electrons."""

    @property
    def photons(self) -> Double:
        """The recording in photons, offset removed."""
        return (self.counts.astype(np.float64) - self.offset) * self.gain


class Recorder(NamedTuple):
    """A microscope: its light, its camera, and the tissue's kernel."""

    photons: float = 300.0
    """At the brightest half per cent of the specimen."""
    gain: float = 0.8
    offset: float = 110.0
    read_noise: float = 1.4
    tails: tuple[Tail, ...] = TAILS

    def record(self, specimen: Double, depth: float, seed: int) -> Recording:
        """Record a specimen, in any unit, black being zero.

        Parameters
        ----------
        specimen : ndarray, (Y, X)
            Values below zero count as zero.
        depth : float
            Optical depth of the tissue above it.
        seed : int
            Of the noise.
        """
        bright = max(float(np.quantile(specimen, 0.995)), 1e-12)
        truth = self.photons * np.maximum(specimen, 0.0) / bright
        rng = np.random.default_rng(seed)
        electrons = rng.poisson(np.maximum(see_through_tissue(truth, depth, self.tails), 0.0))
        noisy = electrons + self.read_noise * rng.standard_normal(truth.shape)
        counts = np.clip(np.rint(noisy / self.gain + self.offset), 0, 65535).astype(np.float32)
        return Recording(truth, counts, depth, self.gain, self.offset, self.read_noise)


def see_through_tissue(image: Double, depth: float, tails: tuple[Tail, ...] = TAILS) -> Double:
    """Return an image as seen through tissue; its mean is kept.

    Parameters
    ----------
    image : ndarray, (Y, X)
    depth : float
        Optical depth, at least 0.
    tails : sequence of Tail
        Their shares sum to one.

    Raises
    ------
    ValueError
        If the depth is negative.
    """
    if depth < 0:
        raise ValueError(f"optical depth is not negative, but {depth:g} is")
    # Wave numbers of the cosines, in cycles per pixel.
    fy, fx = (np.arange(side) / (2 * side) for side in image.shape)
    squared = (2 * np.pi) ** 2 * (fy[:, None] ** 2 + fx[None, :] ** 2)
    kernel = sum(share * (1 + length**2 * squared) ** -1.5 for length, share in tails)
    spectrum = fft.dctn(image, type=2, norm="ortho") * np.exp(-depth * (1 - kernel))
    return np.asarray(fft.idctn(spectrum, type=2, norm="ortho"), dtype=np.float64)
