"""The iterative loop, written once: training, prediction and the exported graph all run this.

The image is extended once, symmetrically, by all that the iterations can see; then every
iteration only shrinks it. Nothing is padded in between, so a block that is handed in with its
real neighbours gives the very values of the whole image.
"""

from __future__ import annotations

__all__ = ["Loop", "Reinjection", "blend", "dial_position", "extend_symmetric", "fraction_weight"]

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def extend_symmetric(x: Tensor, margin: int) -> Tensor:
    """Mirror the image at its borders, the edge pixel repeated, by `margin` pixels on each side.

    Works at any size, also where the margin is larger than the image: it is then mirrored again.

    Parameters
    ----------
    x : Tensor, (B, C, Y, X)
    margin : int
        Pixels added on each side.

    Returns
    -------
    Tensor, (B, C, Y + 2 margin, X + 2 margin)
    """
    if margin == 0:
        return x
    height, width = x.shape[2], x.shape[3]
    rows = torch.arange(-margin, height + margin, device=x.device) % (2 * height)
    rows = torch.where(rows < height, rows, 2 * height - 1 - rows)
    columns = torch.arange(-margin, width + margin, device=x.device) % (2 * width)
    columns = torch.where(columns < width, columns, 2 * width - 1 - columns)
    return x.index_select(2, rows).index_select(3, columns)


class Reinjection(nn.Module):
    """Feeds a share of what one step leaves unexplained back into the image.

    After f(x), the residual r = x - H f(x) holds what the network dropped; r, slightly smoothed,
    is added with weight `share`. H is a sum of separable terms, so that it exports to any format.

    Parameters
    ----------
    share : float
        Weight of the residual.
    terms : int
        Number of separable terms of H.
    reach : int
        Half width of the kernels, in pixels.
    """

    def __init__(self, share: float, terms: int, reach: int) -> None:
        super().__init__()
        self.share = share
        self.reach = reach
        self.radius = reach + 2
        self.kernels: Tensor
        self.amplitudes: Tensor
        self.register_buffer("kernels", torch.zeros(terms, 2 * reach + 1))
        self.register_buffer("amplitudes", torch.zeros(terms))
        taps = torch.exp(-0.5 * torch.arange(-2.0, 3.0) ** 2 / 0.7**2)
        smooth = torch.outer(taps, taps)
        self.smooth: Tensor
        self.register_buffer("smooth", (smooth / smooth.sum())[None, None], persistent=False)

    def set_kernels(self, amplitudes: Tensor, kernels: Tensor) -> None:
        """Set the terms of H: `amplitudes` (terms,), `kernels` (terms, 2 reach + 1), rows sum 1."""
        self.amplitudes.copy_(amplitudes)
        self.kernels.copy_(kernels)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return `after` with the residual fed back; each side loses `radius` pixels.

        Parameters
        ----------
        before, after : Tensor, (B, 1, Y, X)
            Image before and after one pass of the network, over the same pixels.
        """
        r = self.reach
        terms = self.kernels.shape[0]
        along_y = F.conv2d(after, self.kernels[:, None, :, None])
        weighted = (self.kernels * self.amplitudes[:, None])[None, :, None, :]
        scattered = F.conv2d(along_y, weighted.reshape(1, terms, 1, 2 * r + 1))
        residual = F.conv2d(before[:, :, r:-r, r:-r] - scattered, self.smooth)
        m = self.radius
        return torch.add(after[:, :, m:-m, m:-m], residual, alpha=self.share)


class Loop(nn.Module):
    """Applies one network again and again and keeps every iteration.

    Parameters
    ----------
    network : Module
        Takes (B, 1, Y, X) to (B, 1, Y - 2 r, X - 2 r) with attributes ``radius`` (r) and
        ``multiple``.
    iterations : int
        How many iterations `forward` returns.
    reinjection : Reinjection or None
        Feeds the one-step residual back after every iteration; None is the plain loop.
    """

    def __init__(
        self, network: nn.Module, iterations: int = 4, reinjection: Reinjection | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.iterations = iterations
        self.reinjection = reinjection
        self.multiple = int(network.multiple)  # pyright: ignore[reportArgumentType]
        self.network_radius = int(network.radius)  # pyright: ignore[reportArgumentType]
        radius = self.network_radius + (reinjection.radius if reinjection is not None else 0)
        # Cropping must keep the phase of a pooling grid.
        self.radius = -(-radius // self.multiple) * self.multiple

    def step(self, x: Tensor) -> Tensor:
        """Run one iteration: (B, 1, Y, X) to (B, 1, Y - 2 radius, X - 2 radius)."""
        after = self.network(x)
        lost = self.network_radius
        if self.reinjection is not None:
            r = self.network_radius
            after = self.reinjection(x[:, :, r:-r, r:-r], after)
            lost = lost + self.reinjection.radius
        spare = self.radius - lost
        return after[:, :, spare:-spare, spare:-spare] if spare else after

    def iterate(self, extended: Tensor, iterations: int) -> Tensor:
        """Run the loop on an image that comes with its surroundings.

        Parameters
        ----------
        extended : Tensor, (B, 1, Y + 2 iterations radius, X + 2 iterations radius)
            The image and all that the iterations see around it.
        iterations : int
            Number of iterations, at least 1.

        Returns
        -------
        Tensor, (B, iterations, Y, X)
            Channel k is the image after k + 1 iterations.
        """
        x = extended
        kept: list[Tensor] = []
        for done in range(1, iterations + 1):
            x = self.step(x)
            margin = (iterations - done) * self.radius
            kept.append(x[:, :, margin:-margin, margin:-margin] if margin else x)
        return torch.cat(kept, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the loop on a whole image: (B, 1, Y, X) to (B, iterations, Y, X)."""
        return self.iterate(extend_symmetric(x, self.iterations * self.radius), self.iterations)


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


def blend(raw: Tensor, iterations: Tensor, dial: float, step_optical_depth: float) -> Tensor:
    """Return the image at a dial between the iterations.

    Parameters
    ----------
    raw : Tensor, (..., Y, X)
        The input image, iteration 0.
    iterations : Tensor, (..., K, Y, X)
        Iterations 1 to K.
    dial : float
        Optical depth to remove, 0 to K * step.
    step_optical_depth : float
        Optical depth of one iteration.

    Returns
    -------
    Tensor, (..., Y, X)
    """
    whole, alpha = dial_position(dial, step_optical_depth, iterations.shape[-3])
    below = raw if whole == 0 else iterations[..., whole - 1, :, :]
    if alpha == 0.0:
        return below
    return torch.lerp(below, iterations[..., whole, :, :], alpha)
