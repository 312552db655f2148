"""A real section that ships with scikit-image, recorded through simulated tissue.

The haematoxylin channel of a stained tissue section (brightfield, used as if it were light).
"""

from __future__ import annotations

__all__ = ["CAMERA", "OPTICAL_DEPTH", "PHOTONS", "record_section", "specimen"]

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from deepcontrast_bmz.physics.camera import Camera
from deepcontrast_bmz.physics.degrade import Degradation
from deepcontrast_bmz.physics.simulate import simulate

if TYPE_CHECKING:
    from deepcontrast_bmz.settings import Scatter

OPTICAL_DEPTH = 2.0
CAMERA = Camera(gain=0.5, offset=100.0, read_noise_electrons=2.0, bit_depth=16)
PHOTONS = 300.0
"""Mean photons per pixel that leave the specimen."""


def specimen() -> xr.DataArray:
    """Return the haematoxylin channel of the section: (y, x), light between 0 and 1."""
    from skimage import data as skimage_data
    from skimage.color import rgb2hed

    stained = rgb2hed(skimage_data.immunohistochemistry())[..., 0]
    low, high = np.percentile(stained, (1, 99.9))
    light = np.clip((stained - low) / (high - low), 0, None).astype(np.float32)
    return xr.DataArray(light, dims=("y", "x"), attrs={"pixel_size_um": {}})


def record_section(truth: xr.DataArray, kernel: Scatter, seed: int) -> xr.DataArray:
    """Return the section as a camera records it through tissue of optical depth 2: 16-bit counts.

    Parameters
    ----------
    truth : DataArray, (y, x)
        Light, as of `specimen`.
    kernel : Scatter
        Where the tissue scatters light, widths in pixels.
    seed : int
        Of the noise.
    """
    tissue = Degradation(
        optical_depth=OPTICAL_DEPTH,
        widths_px=kernel.widths,
        weights=kernel.weights,
        camera=CAMERA,
        seed=seed,
    )
    return simulate(truth, tissue, PHOTONS)
