"""Makes a model of a loop or of an exported graph."""

from __future__ import annotations

__all__ = [
    "wrap_graph",
    "wrap_loop",
]

from typing import TYPE_CHECKING

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.model.devices import fast_loop
from deepcontrast_bmz.model.loop import Loop, crop
from deepcontrast_bmz.model.model import (
    LARGE_BLOCK,
    LARGE_VOLUME_BLOCK,
    SMALL_BLOCK,
    VOLUME_BLOCK,
    Model,
    WeightsFormat,
)
from deepcontrast_bmz.model.network.strips import InStrips

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from deepcontrast_bmz.records import LoopDescription


class _LoopRunner:
    """Runs a loop of ours."""

    def __init__(self, loop: Loop, device: str) -> None:
        self.device = device
        self.loop = fast_loop(loop, device)
        in_strips = isinstance(self.loop.network, InStrips)
        self.block = LARGE_BLOCK if in_strips or device != "cpu" else SMALL_BLOCK
        if loop.dims == 3:
            self.block = LARGE_VOLUME_BLOCK if in_strips else VOLUME_BLOCK[1]

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        return self.loop.iterate(extended, iterations)


class _GraphRunner:
    """Runs an exported graph, which mirrors at the border by itself and has all iterations."""

    def __init__(
        self, graph: Callable[[Tensor], Tensor], description: LoopDescription, device: str
    ) -> None:
        self.device = device
        self.block = SMALL_BLOCK
        self.graph = graph
        self.channels = len(description.channels)
        self.radii = (description.radius_planes or 0, description.radius_px, description.radius_px)
        if description.dims == 3:
            self.block = VOLUME_BLOCK[1]

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        out = self.graph(extended)
        expected = (extended.shape[0], self.channels, *extended.shape[2:])
        if tuple(out.shape) != expected:
            raise InputError(
                f"the graph should return {expected} by its config.dcbmz, but returned "
                f"{tuple(out.shape)}: the package is inconsistent, export it again"
            )
        return crop(out[:, :iterations], tuple(iterations * r for r in self.radii[2 - out.dim() :]))


def wrap_loop(loop: Loop, name: str, description: LoopDescription, device: str) -> Model:
    """Return a model that runs a loop, moved and frozen; it can do any number of iterations."""
    return Model(
        name=name,
        description=description,
        weights_format="pytorch_state_dict",
        device=device,
        max_iterations=None,
        radius=loop.radius,
        multiple=loop.multiple,
        runner=_LoopRunner(loop, device),
    )


def wrap_graph(
    graph: Callable[[Tensor], Tensor],
    loop: Loop,
    name: str,
    description: LoopDescription,
    weights_format: WeightsFormat,
    device: str,
) -> Model:
    """Return a model that runs an exported graph, with as many iterations as it holds.

    The graph takes (B, 1, (Z,) Y, X) to (B, iterations, (Z,) Y, X); of the loop that was exported
    only the sizes are used.
    """
    return Model(
        name=name,
        description=description,
        weights_format=weights_format,
        device=device,
        max_iterations=description.iterations,
        radius=loop.radius,
        multiple=loop.multiple,
        runner=_GraphRunner(graph, description, device),
    )
