"""Looks at a plane once: its window, noise, offset, iterations, and what can be measured of it."""

from __future__ import annotations

__all__ = ["Look", "look_at_plane"]

from typing import TYPE_CHECKING, NamedTuple

from deepcontrast_bmz.dial.consistency import CUT_OFF, measure_noise_and_black
from deepcontrast_bmz.dial.window import content_window
from deepcontrast_bmz.physics.camera import estimate_camera
from deepcontrast_bmz.physics.noise import NoiseModel, estimate_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Look(NamedTuple):
    """The part of a plane that its dial is chosen on."""

    raw: Tensor
    """Counts, (Y, X)."""
    iterations: Tensor
    """(K, Y, X)."""
    widths_px: tuple[float, ...]
    """Of the scattering kernel, in this image's pixels."""
    noise: NoiseModel
    """Of the recording."""
    offset: float
    """Counts in the dark."""
    noisy: bool
    """Its noise can be measured."""
    black: float
    """Share of the pixels at the smallest value, where black was cut off or masked."""

    @property
    def knows_offset(self) -> bool:
        """Noise is there and black was not cut off: the offset is more than a guess."""
        return self.noisy and self.black <= CUT_OFF


def look_at_plane(
    raw: Tensor,
    iterations: Tensor,
    widths_px: Sequence[float],
    *,
    noise: NoiseModel | None = None,
    offset: float | None = None,
) -> Look:
    """Look at the window of a plane with the most content.

    Parameters
    ----------
    raw : Tensor, (Y, X)
        Counts, as recorded; not constant.
    iterations : Tensor, (K, Y, X)
        Iterations 1 to K.
    widths_px : sequence of float
        Widths of the scattering kernel in this image's pixels.
    noise : NoiseModel, optional
        Noise of the raw image; estimated from it if left out.
    offset : float, optional
        Counts in the dark; estimated from the image if left out.
    """
    raw = raw.float()
    noise = noise if noise is not None else estimate_noise(raw)
    offset = offset if offset is not None else estimate_camera(raw).offset
    rows, columns = content_window(raw)
    raw, iterations = raw[rows, columns], iterations[:, rows, columns].float()
    noisy, black = measure_noise_and_black(raw, noise)
    return Look(raw, iterations, tuple(widths_px), noise, offset, noisy, black)
