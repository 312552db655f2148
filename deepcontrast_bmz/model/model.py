"""A trained loop, ready to run on images."""

from __future__ import annotations

__all__ = [
    "LARGE_BLOCK",
    "LARGE_VOLUME_BLOCK",
    "SMALL_BLOCK",
    "VOLUME_BLOCK",
    "WEIGHTS_FORMATS",
    "Model",
    "Origin",
    "Runner",
    "WeightsFormat",
]

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch
from torch import Tensor

from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from deepcontrast_bmz.records import LoopDescription


WeightsFormat = Literal["pytorch_state_dict", "torchscript", "onnx"]
WEIGHTS_FORMATS: tuple[WeightsFormat, ...] = get_args(WeightsFormat)
"""The first that a package has is taken, unless another is asked for."""

LARGE_BLOCK = 2048
"""Side of a block, in pixels, where hidden channels take no memory to speak of, or there is plenty:
the larger a block, the smaller the share of surroundings."""

SMALL_BLOCK = 768
"""Side of a block, in pixels, where all hidden channels are held: about half a gigabyte."""

VOLUME_BLOCK = (16, 128, 128)
"""Sides of a block of a stack, where all hidden channels are held: about a gigabyte."""

LARGE_VOLUME_BLOCK = 512
"""Lateral side of a block of a stack, where they are not."""


class Runner(Protocol):
    """What runs weights: takes a block with its surroundings to its iterations."""

    device: str
    block: int

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        """Return the iterations as channels, without the surroundings."""
        ...


@dataclass(frozen=True)
class Origin:
    """How to open a model again, in another process or on another machine."""

    name: str
    """Absolute path, or the name of a shipped model."""
    options: tuple[tuple[str, str | None], ...]
    """Further arguments of `open_model`."""


@dataclass(frozen=True)
class Model:
    """A trained loop, ready to run; opened once, it serves any number of images."""

    name: str
    """What to call it."""
    description: LoopDescription
    """What is known of the loop."""
    weights_format: WeightsFormat
    """Which of its weights run."""
    device: str
    """``cpu``, ``cuda`` or ``mps``."""
    max_iterations: int | None
    """Iterations it can do; None where there is no limit."""
    radius: int
    """Pixels around an output pixel that one iteration can see within the plane."""
    multiple: int
    """Pooling grid, in pixels, on which blocks have to begin."""
    runner: Runner = field(repr=False)
    """Runs the weights."""
    planes: int = VOLUME_BLOCK[0]
    """Planes of the blocks of a stack that it runs well on."""
    origin: Origin | None = None
    """Where it was opened; None if it was made in memory."""
    sha256: str = ""
    """Of what it was opened from: the weights of a run, the description or zip of a package."""

    @property
    def dims(self) -> int:
        """Spatial axes that it takes: 2 for planes, 3 for stacks."""
        return self.description.dims

    @property
    def radii(self) -> tuple[int, ...]:
        """Pixels around an output pixel that one iteration can see, along (z,) y, x."""
        planes = (self.description.radius_planes or 0,) * (self.dims - 2)
        return (*planes, self.radius, self.radius)

    @property
    def block(self) -> int:
        """Side in pixels of the blocks that it runs well on; of a stack, the lateral one."""
        return self.runner.block

    @property
    def blocks(self) -> tuple[int, ...]:
        """Sides of the blocks that it runs well on, along (z,) y, x."""
        return (*((self.planes,) * (self.dims - 2)), self.block, self.block)

    def iterate(self, extended: Tensor, iterations: int) -> Tensor:
        """Run the loop on an image that comes with its surroundings.

        Parameters
        ----------
        extended : Tensor, (B, 1, Y + 2 m, X + 2 m)
            Grey values in any unit, float32; m = iterations * radius. For stacks
            (B, 1, Z, Y, X), each axis longer by twice iterations * radii.
        iterations : int
            Number of iterations, at least 1.

        Returns
        -------
        Tensor, (B, iterations, (Z,) Y, X)
            In the input's unit, on the input's device; channel k after k + 1 iterations.

        Raises
        ------
        InputError
            If the weights hold a graph with fewer iterations, or make no finite values.
        """
        self.check_iterations(iterations)
        with torch.inference_mode():
            result = self.runner(extended.to(self.device), iterations).to(extended.device)
        self._check_finite(result)
        return result

    def _check_finite(self, result: Tensor) -> None:
        if not bool(torch.isfinite(result).all()):
            raise InputError(
                f"a model makes finite pixels of finite ones, but the {self.weights_format} "
                f"weights of {self.name} do not: use fewer iterations or another model"
            )

    def check_iterations(self, iterations: int) -> None:
        """Raise `InputError` if these weights cannot do so many iterations, or there are none."""
        if iterations < 1:
            raise InputError(
                f"iterations are counted from 1, not {iterations}: use --dial 0 for the raw image"
            )
        if self.max_iterations is not None and iterations > self.max_iterations:
            raise InputError(
                f"the {self.weights_format} weights of {self.name} hold {self.max_iterations} "
                f"iterations and {iterations} were asked for: ask for fewer, or open the model "
                "with --weights pytorch_state_dict, which can do any number"
            )
