"""Models whose iterations are any function of the image, in the place of trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from descriptions import described
from numpy.typing import NDArray

from deepcontrast_bmz.model.model import Model
from deepcontrast_bmz.settings import Scatter

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


Double = NDArray[np.float64]


TISSUE = ((3.0, 8.0), (0.7, 0.3))


RADIUS = 16


@dataclass
class Enhancer:
    """Runs any function (image, iteration) -> image in the place of trained weights."""

    function: Callable[[Double, int], Double]
    device: str = "cpu"
    block: int = 512

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        m = iterations * RADIUS
        images = [
            np.stack([self.function(plane, k) for k in range(1, iterations + 1)])
            for plane in extended[:, 0].double().numpy()
        ]
        return torch.from_numpy(np.stack(images)[:, :, m:-m, m:-m]).float()


def model_of(function: Callable[[Double, int], Double], iterations: int = 3) -> Model:
    description = described(
        iterations,
        radius_px=RADIUS,
        halo_px=RADIUS,
        scatter=Scatter(widths=TISSUE[0], weights=TISSUE[1]),
    )
    return Model(
        name="stand-in",
        description=description,
        weights_format="pytorch_state_dict",
        device="cpu",
        max_iterations=description.iterations,
        radius=RADIUS,
        multiple=1,
        runner=Enhancer(function),
    )


def image_of(values: NDArray[np.floating], *dims: str, name: str = "specimen") -> xr.DataArray:
    return xr.DataArray(
        values.astype(np.float32),
        dims=dims or ("y", "x"),
        attrs={"pixel_size_um": {"y": 0.5, "x": 0.5}},
        name=name,
    )
