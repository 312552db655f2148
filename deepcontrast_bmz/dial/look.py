"""Looks at a plane once: which pixels count, noise, offset, iterations, halves of its light."""

from __future__ import annotations

__all__ = ["SPLIT_SEED", "Look", "Run", "look_at_plane"]

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy  # its rooms load when they are used: reading this module must stay quick
import torch
from torch import Tensor

from deepcontrast_bmz.dial.consistency import CUT_OFF, measure_noise_and_black
from deepcontrast_bmz.dial.structure import measure_structure
from deepcontrast_bmz.dial.tissue import find_tissue
from deepcontrast_bmz.dial.usable import PixelMask, fill_pixels, inspect_pixels
from deepcontrast_bmz.physics.camera import estimate_camera
from deepcontrast_bmz.physics.noise import NoiseModel, estimate_noise, split_gaussian

if TYPE_CHECKING:
    from collections.abc import Sequence

SPLIT_SEED = 0
"""Of the noise that splits a recording into halves."""

Run = Callable[[Tensor, int], Tensor]
"""Takes an image, (Y, X), or all planes that a model of stacks sees, (Z, Y, X), and a count K;
returns the iterations of the plane, (K, Y, X)."""


@dataclass(frozen=True)
class Look:
    """The part of a plane that its dial is chosen on. What takes time is made when asked for."""

    planes: Tensor
    """Counts without holes, (Z, Y, X): the plane, and for stacks those around it."""
    centre: int
    """Which of the planes it is."""
    usable: Tensor
    """Bool, (Y, X): pixels that count."""
    widths_px: tuple[float, ...]
    """Of the scattering kernel, in this image's pixels."""
    noise: NoiseModel
    """Of the recording."""
    offset: float
    """Counts in the dark."""
    noisy: bool
    """Its noise can be measured."""
    black: float
    """Share of the pixels at the smallest value, where black was cut off."""
    run: Run = field(repr=False)
    """Makes the iterations."""
    _kept: dict[str, Tensor] = field(default_factory=dict[str, Tensor], repr=False)

    @property
    def raw(self) -> Tensor:
        """Counts without holes, (Y, X)."""
        return self.planes[self.centre]

    @property
    def knows_offset(self) -> bool:
        """Noise is there and black was not cut off: the offset is more than a guess."""
        return self.noisy and self.black <= CUT_OFF

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Two images of the planes with independent noise, (Z, Y, X)."""
        variances: list[Tensor] = []
        for z, plane in enumerate(self.planes):
            own = self.noise if z == self.centre else estimate_noise(plane)
            level = np.asarray(scipy.ndimage.gaussian_filter(plane.double().numpy(), 1.0))
            variances.append(own.variance(torch.from_numpy(level)))
        rng = np.random.default_rng(SPLIT_SEED)
        variance = torch.stack(variances).numpy()
        one, two = split_gaussian(self.planes.double().numpy(), variance, rng)
        return torch.from_numpy(one).float(), torch.from_numpy(two).float()

    @cached_property
    def structure(self) -> float:
        """What `measure_structure` finds in the halves."""
        one, two = (half[self.centre] for half in self.halves)
        return measure_structure(one, two, self.usable)

    def iterate(self, count: int) -> Tensor:
        """Return `count` iterations of the plane at least, (K, Y, X)."""
        return self._iterate("whole", self.planes, count)

    def iterate_halves(self, count: int) -> tuple[Tensor, Tensor]:
        """Return as many of both halves."""
        one, two = self.halves
        return self._iterate("one", one, count), self._iterate("two", two, count)

    def _iterate(self, name: str, planes: Tensor, count: int) -> Tensor:
        kept = self._kept.get(name)
        if kept is None or kept.shape[0] < count:
            kept = self.run(planes if len(planes) > 1 else planes[0], count).float()
            self._kept[name] = kept
        return kept


def look_at_plane(
    raw: Tensor,
    run: Run,
    widths_px: Sequence[float],
    *,
    noise: NoiseModel | None = None,
    offset: float | None = None,
    mask: Tensor | None = None,
) -> Look:
    """Look at the part of a plane that tells most of its tissue.

    Parameters
    ----------
    raw : Tensor, (Y, X) or (Z, Y, X)
        Counts, as recorded; of stacks all planes that the model sees, an odd number, the plane in
        the middle.
    run : callable
        Makes iterations, see `Run`.
    widths_px : sequence of float
        Widths of the scattering kernel in this image's pixels.
    noise : NoiseModel, optional
        Noise of the raw image; estimated from it if left out.
    offset : float, optional
        Counts in the dark; estimated from the image if left out.
    mask : Tensor of bool, (Y, X), optional
        Pixels that may count.
    """
    planes = raw.float() if raw.ndim == 3 else raw.float()[None]
    centre = len(planes) // 2
    pixels = inspect_pixels(planes[centre], mask)
    rows, columns = find_tissue(planes[centre], pixels)
    usable = pixels.usable[rows, columns]
    filled: list[Tensor] = []
    for z, plane in enumerate(planes):
        own = pixels if z == centre else _known_from(plane, pixels)
        filled.append(fill_pixels(plane[rows, columns], ~own.broken[rows, columns]))
    part = filled[centre]
    noise = noise if noise is not None else estimate_noise(part, used=usable)
    offset = offset if offset is not None else estimate_camera(part, used=usable).offset
    noisy, black = measure_noise_and_black(part, noise, ~pixels.broken[rows, columns])
    return Look(
        torch.stack(filled), centre, usable, tuple(widths_px), noise, offset, noisy, black, run
    )


def _known_from(plane: Tensor, pixels: PixelMask) -> PixelMask:
    """Return what is broken of a neighbouring plane: what is there, and what is no number."""
    broken = pixels.broken | ~plane.isfinite()
    return PixelMask(pixels.usable & ~broken, broken)
