"""The networks that undo one step, behind one interface.

Each takes (B, 1, Y, X) and returns (B, 1, Y - 2 radius, X - 2 radius): it never invents pixels
beyond the border, so a block seen with its real neighbours gives the values of the whole image.
The one for stacks does the same to (B, 1, Z, Y, X).
"""

from __future__ import annotations

__all__ = [
    "DilatedNetwork",
    "DilatedVolumeNetwork",
    "InvertibleNetwork",
    "StepNetwork",
    "build_network",
]

from typing import TYPE_CHECKING

from deepcontrast_bmz.model.network.dilated import DilatedNetwork
from deepcontrast_bmz.model.network.invertible import InvertibleNetwork
from deepcontrast_bmz.model.network.volumes import DilatedVolumeNetwork

if TYPE_CHECKING:
    from deepcontrast_bmz.settings import NetworkSettings

StepNetwork = DilatedNetwork | DilatedVolumeNetwork | InvertibleNetwork


def build_network(settings: NetworkSettings) -> StepNetwork:
    """Return a freshly initialised network; the global torch generator draws its weights."""
    if settings.kind == "dilated":
        return DilatedNetwork(settings.width, settings.dilations)
    if settings.kind == "dilated_3d":
        return DilatedVolumeNetwork(settings.width, settings.dilations, settings.mixing_layers)
    return InvertibleNetwork(settings.width, settings.levels)
