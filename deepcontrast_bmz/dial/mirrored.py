"""Runs a model on a window alone, mirrored at its border: what a dial is chosen by."""

from __future__ import annotations

__all__ = ["iterate_mirrored"]

from typing import TYPE_CHECKING

import torch

from deepcontrast_bmz.model.loop import extend

if TYPE_CHECKING:
    from torch import Tensor

    from deepcontrast_bmz.dial.look import Run
    from deepcontrast_bmz.model.model import Model


def iterate_mirrored(model: Model) -> Run:
    """Return what makes the iterations of a window, mirrored at its border.

    A model that can do single iterations does one after the other, mirrored anew before each:
    that saves much of the work, and is how its estimator was fitted.

    Parameters
    ----------
    model : Model
    """
    radii = list(model.radii)

    def run(image: Tensor, count: int) -> Tensor:
        x = image[None, None].float()
        if model.dims == 2 and model.max_iterations is None and model.multiple == 1:
            kept: list[Tensor] = []
            for _ in range(count):
                x = model.iterate(extend(x, radii), 1)
                kept.append(x[0, 0])
            return torch.stack(kept)
        if model.dims == 2:
            seen = extend(_even(x, model.multiple), [count * radius for radius in radii])
            return model.iterate(seen, count)[0, :, : image.shape[0], : image.shape[1]]
        margin = count * radii[0]
        missing = max(margin - image.shape[0] // 2, 0)
        seen = extend(x, [missing, *(count * radius for radius in radii[1:])])
        centre = seen.shape[2] // 2
        return model.iterate(seen[:, :, centre - margin : centre + margin + 1], count)[0, :, 0]

    return run


def _even(x: Tensor, multiple: int) -> Tensor:
    """Return an image mirrored at its ends to a whole number of pooling cells."""
    missing = [-length % multiple for length in x.shape[-2:]]
    if not any(missing):
        return x
    return extend(x, missing)[..., missing[0] :, missing[1] :]
