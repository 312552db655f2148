"""Sample data: a real section through simulated tissue, and a stack that gets deeper."""

from __future__ import annotations

__all__ = ["make_section", "make_stack"]

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deepcontrast_bmz.napari.layers import LayerData

STACK_SHAPE = (8, 256, 256)
"""Planes and pixels of the phantom stack."""
STACK_SIZES_UM = {"z": 2.0, "y": 0.5, "x": 0.5}
DEEPEST = 3.0
"""Optical depth of the tissue above the last plane; there is none above the first."""
_PHOTONS = 400.0
_SEED = 0


def make_section() -> list[LayerData]:
    """Return the recording that `dcbmz demo` begins with, as a layer: (y, x), 16-bit counts."""
    from deepcontrast_bmz.napari.layers import layer_of_image
    from deepcontrast_bmz.physics.section import record_section, specimen
    from deepcontrast_bmz.settings import Scatter

    return layer_of_image(record_section(specimen(), Scatter(), _SEED), "section")


def make_stack() -> list[LayerData]:
    """Return membranes of a phantom, each plane deeper in tissue: (z, y, x), 16-bit counts."""
    import torch
    import xarray as xr

    from deepcontrast_bmz.napari.layers import layer_of_image
    from deepcontrast_bmz.physics.camera import Camera, expose
    from deepcontrast_bmz.physics.phantoms import phantom_stack
    from deepcontrast_bmz.physics.scatter import scatter
    from deepcontrast_bmz.settings import Scatter

    truth = phantom_stack("membranes", STACK_SHAPE, np.random.default_rng(_SEED))
    kernel = Scatter()
    depths = torch.linspace(0, DEEPEST, STACK_SHAPE[0])
    photons = scatter(torch.from_numpy(truth) * _PHOTONS, depths, kernel.widths, kernel.weights)
    camera = Camera(gain=0.5, offset=100, read_noise_electrons=2, bit_depth=16)
    counts = expose(photons, camera, torch.Generator().manual_seed(_SEED))
    image = xr.DataArray(
        counts.numpy().astype(np.uint16),
        dims=("z", "y", "x"),
        attrs={"pixel_size_um": dict(STACK_SIZES_UM)},
    )
    return layer_of_image(image, "phantom stack")
