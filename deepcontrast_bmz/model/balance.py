"""The local dial: how deep every pixel lies, read off what the iterations did around it.

Optical depth differs across a real field, and one dial over-enhances the clear parts before it
has cleared the hazy ones. A small network looks at the raw image and its iterations in a window
around each pixel: how much contrast every octave has, how rare bright structure is, how much of
it an iteration kept, how far the darkest parts sank. All that it is told is blind to gain and
offset, shifts with the image and has a finite radius, so that it can be part of the exported
graph and leaves no seams.
"""

from __future__ import annotations

__all__ = ["BALANCE_RADIUS", "FEATURES", "SEEN", "LocalBalance"]

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEEN = 3
"""Images that the dial is read off: the raw one and two iterations. A third told no more."""

OCTAVES = 4
"""Bands, each of one octave, the finest of about 1 to 2 pixels."""

SPARSE = 2
"""Finest octaves whose mean magnitude is looked at beside their power."""

WINDOW = (1, 5, 10)
"""Dilations of three even kernels of 5 pixels: a window of standard deviation 16 pixels."""

BANDS_RADIUS = 2 * (2**OCTAVES - 1)
WINDOW_RADIUS = 2 * sum(WINDOW)
BALANCE_RADIUS = BANDS_RADIUS + WINDOW_RADIUS + 2
"""Pixels around a pixel that its dial depends on, beyond those that the iterations see."""

_POWERS = SEEN * OCTAVES
_MAGNITUDES = SEEN * SPARSE
_GAINS = (SEEN - 1) * OCTAVES
FEATURES = _POWERS + _MAGNITUDES + _GAINS + SEEN + SEEN + (SEEN - 1)
"""Numbers that a pixel's dial is read off."""

_POOLED = _POWERS + _MAGNITUDES + _GAINS + SEEN + SEEN

_FLAT = 1e-4
"""Share of the local power of the raw image below which a band counts as empty."""

_NOTHING = 1e-30
"""Power that keeps a constant image from being divided by zero."""

_MOST = 20.0
"""Magnitude at which features are cut: where the image is flat, quotients mean nothing."""


class LocalBalance(nn.Module):
    """Reads an optical depth off the surroundings of each pixel and balances the image by it.

    Parameters
    ----------
    iterations : int
        Iterations that are blended; at least two.
    step : float
        Optical depth of one iteration.
    hidden : int
        Channels of its two hidden layers.
    """

    def __init__(self, iterations: int, step: float, hidden: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.step = step
        self.hidden = hidden
        self.radius = BALANCE_RADIUS
        binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.taps: Tensor
        self.register_buffer("taps", binomial.repeat(SEEN, 1, 1, 1), persistent=False)
        self.even: Tensor
        self.register_buffer("even", torch.full((_POOLED, 1, 1, 5), 0.2), persistent=False)
        self.first = nn.Conv2d(FEATURES, hidden, 1)
        self.second = nn.Conv2d(hidden, hidden, 1)
        self.last = nn.Conv2d(hidden, 1, 1)

    def features(self, images: Tensor) -> Tensor:
        """Describe the surroundings of each pixel.

        Parameters
        ----------
        images : Tensor, (B, SEEN, Y + 2 m, X + 2 m)
            The raw image and its first iterations, m = `BALANCE_RADIUS` - 2.

        Returns
        -------
        Tensor, (B, FEATURES, Y, X)
            Dimensionless. Per octave the logarithms of the power of each image; mean magnitudes
            over the root of the power; per octave the regression of each iteration's band on the
            one before; third moments; how far the darkest part lies below the mean, and how that
            changed.
        """
        level = images
        margin = BANDS_RADIUS
        bands: list[Tensor] = []
        dark = images
        for octave in range(OCTAVES):
            m = 2 * 2**octave
            smooth = _smooth(level, self.taps, 2**octave)
            margin = margin - m
            bands.append(_inner(_inner(level, m).clone().sub_(smooth), margin))
            level = smooth
            if octave == 1:
                dark = _inner(level, margin)
        later = torch.cat([band[:, 1:] for band in bands], 1)
        earlier = torch.cat([band[:, :-1] for band in bands], 1)
        # Structure, without the noise of the finest band.
        coarse = bands[1].clone().add_(bands[2]).add_(bands[3])
        cubes = coarse.clone().mul_(coarse).mul_(coarse)
        sizes = torch.cat(bands[:SPARSE], 1).abs_()
        found = torch.cat(bands, 1)
        found = torch.cat((found.mul_(found), sizes, later.mul_(earlier), cubes, dark), 1)
        for dilation in WINDOW:
            found = _smooth(found, self.even, dilation)
        parts = (_POWERS, _MAGNITUDES, _GAINS, SEEN, SEEN)
        power, sizes, cross, cubes, mean = found.split(parts, 1)
        # Power of the raw image over all octaves: the unit of all that follows.
        unit = power[:, ::SEEN].sum(1, keepdim=True).clamp_min_(_NOTHING)
        root = unit.clone().sqrt_()
        power = power.clone().div_(unit).clamp_min_(_FLAT)
        before = torch.cat([power[:, SEEN * i : SEEN * i + SEEN - 1] for i in range(OCTAVES)], 1)
        gains = cross.clone().div_(unit).div_(before)
        deviations = power[:, : SEEN * SPARSE].clone().sqrt_()
        sizes = sizes.clone().div_(root).div_(deviations)
        cubes = cubes.clone().div_(unit).div_(root)
        lowest = _darkest(dark)
        depth = mean.clone().sub_(lowest).div_(root)
        sunk = lowest[:, 1:].clone().sub_(lowest[:, :1]).div_(root)
        return torch.cat((power.log_(), sizes, gains, cubes, depth, sunk), 1).clamp_(-_MOST, _MOST)

    def read(self, features: Tensor) -> Tensor:
        """Return the optical depth in steps: (B, FEATURES, Y, X) to (B, 1, Y, X)."""
        h = self.first(features).clamp_min_(0.0)
        h = self.second(h).clamp_min_(0.0)
        return self.last(h).clamp_(0.0, float(self.iterations))

    def dial(self, images: Tensor) -> Tensor:
        """Return the optical depth of every pixel, in steps, lightly smoothed.

        Parameters
        ----------
        images : Tensor, (B, SEEN, Y + 2 m, X + 2 m)
            The raw image and its first iterations, m = `BALANCE_RADIUS`.

        Returns
        -------
        Tensor, (B, 1, Y, X)
        """
        images = images.contiguous(memory_format=torch.channels_last)
        return _smooth(self.read(self.features(images)), self.taps[:1], 1)

    def blend(self, images: Tensor, dial: Tensor) -> Tensor:
        """Return the image with every pixel at its own dial.

        Parameters
        ----------
        images : Tensor, (B, iterations + 1, Y, X)
            The raw image and all iterations.
        dial : Tensor, (B, 1, Y, X)
            In steps.

        Returns
        -------
        Tensor, (B, 1, Y, X)
        """
        result = images[:, :1].clone()
        for k in range(self.iterations):
            alpha = dial.clone().sub_(float(k)).clamp_(0.0, 1.0)
            # No format but torch has expm1.
            alpha = (alpha * self.step).exp_().sub_(1.0).div_(math.expm1(self.step))
            change = images[:, k + 1 : k + 2].clone().sub_(images[:, k : k + 1])
            result.add_(change.mul_(alpha))
        return result


def _inner(x: Tensor, margin: int) -> Tensor:
    """Remove pixels from all four sides."""
    return x[:, :, margin:-margin, margin:-margin] if margin else x


def _smooth(x: Tensor, taps: Tensor, dilation: int) -> Tensor:
    """Convolve every channel with five taps along y and x; each side loses 2 dilations."""
    channels = taps.shape[0]
    along_y = F.conv2d(x, taps.transpose(2, 3), dilation=(dilation, 1), groups=channels)
    return F.conv2d(along_y, taps, dilation=(1, dilation), groups=channels)


def _darkest(x: Tensor) -> Tensor:
    """Return the smallest value within 24 pixels along y and x; each side loses `WINDOW_RADIUS`."""
    x = _inner(x, WINDOW_RADIUS - 24).neg()
    # Seven pixels, then seven that are seven apart: 49 in all.
    for dilation in (1, 7):
        x = F.max_pool2d(x, (7, 1), stride=1, dilation=(dilation, 1))
        x = F.max_pool2d(x, (1, 7), stride=1, dilation=(1, dilation))
    return x.neg_()
