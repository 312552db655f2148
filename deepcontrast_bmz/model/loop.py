"""The iterative loop, written once: training, prediction and the exported graph all run this.

The image is extended once, symmetrically, by all that the iterations can see; then every
iteration only shrinks it. Nothing is padded in between, so a block that is handed in with its
real neighbours gives the very values of the whole image. Planes and stacks go the same way: the
network tells how many axes it takes, and how much it loses along each.
"""

from __future__ import annotations

__all__ = [
    "Loop",
    "blend",
    "crop",
    "dial_position",
    "extend",
    "fraction_weight",
]

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deepcontrast_bmz.model.network import build_network

if TYPE_CHECKING:
    from deepcontrast_bmz.settings import Recipe


def extend(x: Tensor, margins: list[int]) -> Tensor:
    """Mirror an image or stack at its borders, the outermost pixel or plane repeated.

    Works at any size, also where a margin is larger than the image: it is then mirrored again.

    Parameters
    ----------
    x : Tensor, (..., (Z,) Y, X)
    margins : list of int
        Pixels added on each side of the last axes, one number per axis.

    Returns
    -------
    Tensor, each of these axes longer by twice its margin
    """
    # Sizes of the image that is given: a graph has to ask for its shape only once.
    given = x
    for i in range(len(margins)):
        axis = given.dim() - len(margins) + i
        margin, size = margins[i], given.shape[axis]
        if margin > 0:
            order = torch.arange(-margin, size + margin, device=x.device) % (2 * size)
            # In place, as in the network: old TorchScript runtimes would compile it at every size.
            order = torch.minimum(order, order.neg().add_(2 * size - 1))
            x = x.index_select(axis, order)
    return x


def crop(x: Tensor, margins: list[int] | tuple[int, ...]) -> Tensor:
    """Remove pixels from both sides of the axes behind batch and channel.

    Parameters
    ----------
    x : Tensor, (B, C, ...)
    margins : list or tuple of int
        Pixels to remove from each side, one number per axis.
    """
    if not any(margins):
        return x
    return x[(slice(None), slice(None), *(slice(m, -m if m else None) for m in margins))]


class Loop(nn.Module):
    """Applies one network again and again and keeps every iteration.

    Parameters
    ----------
    network : Module
        Takes (B, 1, Y, X) to (B, 1, Y - 2 r, X - 2 r) with attributes ``radius`` (r) and
        ``multiple``; one for stacks takes (B, 1, Z, Y, X), has ``dims`` 3 and says in ``radii``
        what it loses along z, y and x.
    iterations : int
        How many iterations `forward` returns.

    Attributes
    ----------
    dims : int
        Spatial axes: 2 for planes, 3 for stacks.
    radii : tuple of int
        Pixels lost on each side per iteration, along (z,) y, x.
    radius : int
        The lateral one of these.
    multiple : int
        The pooling grid, in pixels; 1 where there is none.
    """

    def __init__(self, network: nn.Module, iterations: int = 4) -> None:
        super().__init__()
        self.network = network
        self.iterations = iterations
        self.multiple = int(network.multiple)  # pyright: ignore[reportArgumentType]
        self.radius = int(network.radius)  # pyright: ignore[reportArgumentType]
        self.radii: tuple[int, ...] = tuple(getattr(network, "radii", (self.radius, self.radius)))
        self.dims = len(self.radii)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Loop:
        """Return the loop of a recipe; the global torch generator draws its weights."""
        return cls(build_network(recipe.network), recipe.loop.iterations)

    def step(self, x: Tensor) -> Tensor:
        """Run one iteration; the image loses `radii` on each side."""
        return self.network(x)

    def margins(self, iterations: int) -> list[int]:
        """Return what so many iterations lose on each side, along (z,) y, x."""
        return [iterations * radius for radius in self.radii]

    def iterate(self, extended: Tensor, iterations: int) -> Tensor:
        """Run the loop on an image that comes with its surroundings.

        Parameters
        ----------
        extended : Tensor, (B, 1, Y + 2 iterations radius, X + 2 iterations radius)
            The image and all that the iterations see around it; for a stack
            (B, 1, Z, Y, X), each axis longer by twice its `margins`.
        iterations : int
            Number of iterations, at least 1.

        Returns
        -------
        Tensor, (B, iterations, (Z,) Y, X)
            Channel k is the image after k + 1 iterations.
        """
        x = extended
        kept: list[Tensor] = []
        for done in range(1, iterations + 1):
            x = self.step(x)
            kept.append(crop(x, self.margins(iterations - done)))
        return torch.cat(kept, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the loop on a whole image: (B, 1, (Z,) Y, X) to (B, iterations, (Z,) Y, X)."""
        return self.iterate(extend(x, self.margins(self.iterations)), self.iterations)


def fraction_weight(optical_depth: float, step_optical_depth: float) -> float:
    r"""Return how far to go towards the next iteration to remove a fraction of a step.

    .. math:: \alpha = (e^b - 1) / (e^\delta - 1)

    Exact for the frequencies that single scattering empties, where H_tau = exp(-tau).

    Parameters
    ----------
    optical_depth : float
        Optical depth b to remove beyond the last whole iteration, 0 <= b <= step.
    step_optical_depth : float
        Optical depth delta of a whole step.
    """
    return math.expm1(optical_depth) / math.expm1(step_optical_depth)


def dial_position(dial: float, step_optical_depth: float, iterations: int) -> tuple[int, float]:
    """Return (k, alpha): the dial lies between iterations k and k + 1, at weight alpha.

    Parameters
    ----------
    dial : float
        Optical depth to remove.
    step_optical_depth : float
        Optical depth of one iteration.
    iterations : int
        Iterations at hand.

    Raises
    ------
    ValueError
        If the dial is below 0 or beyond ``iterations * step_optical_depth``.
    """
    largest = iterations * step_optical_depth
    if not 0 <= dial <= largest * (1 + 1e-9):
        raise ValueError(
            f"the dial lies between 0 and {largest:g} "
            f"({iterations} iterations of {step_optical_depth:g}), not at {dial:g}"
        )
    whole = min(math.floor(dial / step_optical_depth + 1e-9), iterations)
    rest = max(dial - whole * step_optical_depth, 0.0)
    if whole == iterations or rest <= 1e-9 * step_optical_depth:
        return whole, 0.0
    return whole, fraction_weight(rest, step_optical_depth)


def blend(
    raw: Tensor, iterations: Tensor, dial: float, step_optical_depth: float, *, dims: int = 2
) -> Tensor:
    """Return the image at a dial between the iterations.

    Parameters
    ----------
    raw : Tensor, (..., (Z,) Y, X)
        The input image, iteration 0.
    iterations : Tensor, (..., K, (Z,) Y, X)
        Iterations 1 to K.
    dial : float
        Optical depth to remove, 0 to K * step.
    step_optical_depth : float
        Optical depth of one iteration.
    dims : int
        Axes behind that of the iterations: 2 for planes, 3 for stacks.

    Returns
    -------
    Tensor, (..., (Z,) Y, X)
    """
    axis = -1 - dims
    whole, alpha = dial_position(dial, step_optical_depth, iterations.shape[axis])
    below = raw if whole == 0 else iterations.select(axis, whole - 1)
    if alpha == 0.0:
        return below
    return torch.lerp(below, iterations.select(axis, whole), alpha)
