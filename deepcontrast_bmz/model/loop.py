"""The iterative loop, written once: training, prediction and the exported graph all run this.

The image is extended once, symmetrically, by all that the iterations can see; then every
iteration only shrinks it. Nothing is padded in between, so a block that is handed in with its
real neighbours gives the very values of the whole image. Planes and stacks go the same way: the
network tells how many axes it takes, and how much it loses along each.
"""

from __future__ import annotations

__all__ = [
    "Loop",
    "Reinjection",
    "balance_fits",
    "blend",
    "crop",
    "dial_position",
    "extend_symmetric",
    "extend_volume",
    "fraction_weight",
]

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcontrast_bmz.model.balance import BALANCE_RADIUS, SEEN, LocalBalance


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
    # In place, as in the network: old TorchScript runtimes would compile it anew at every size.
    rows = torch.minimum(rows, rows.neg().add_(2 * height - 1))
    columns = torch.arange(-margin, width + margin, device=x.device) % (2 * width)
    columns = torch.minimum(columns, columns.neg().add_(2 * width - 1))
    return x.index_select(2, rows).index_select(3, columns)


def extend_volume(x: Tensor, planes: int, margin: int) -> Tensor:
    """Mirror a stack at its borders, the outermost plane or pixel repeated, at any size.

    Parameters
    ----------
    x : Tensor, (B, 1, Z, Y, X)
    planes : int
        Planes added above and below.
    margin : int
        Pixels added on each lateral side.

    Returns
    -------
    Tensor, (B, 1, Z + 2 planes, Y + 2 margin, X + 2 margin)
    """
    depth = x.shape[2]
    order = torch.arange(-planes, depth + planes, device=x.device) % (2 * depth)
    order = torch.minimum(order, order.neg().add_(2 * depth - 1))
    return extend_symmetric(x[:, 0].index_select(1, order), margin).unsqueeze(1)


def crop(x: Tensor, margins: tuple[int, ...]) -> Tensor:
    """Remove pixels from both sides of the axes behind batch and channel.

    Parameters
    ----------
    x : Tensor, (B, C, ...)
    margins : tuple of int
        Pixels to remove from each side, one number per axis.
    """
    if not any(margins):
        return x
    return x[(slice(None), slice(None), *(slice(m, -m if m else None) for m in margins))]


def _in_planes(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each plane of (B, C, Y, X) or (B, C, Z, Y, X) with a kernel (O, C, y, x)."""
    return F.conv3d(x, kernel.unsqueeze(2)) if x.dim() == 5 else F.conv2d(x, kernel)


class Reinjection(nn.Module):
    """Feeds a share of what one step leaves unexplained back into the image.

    After f(x), the residual r = x - H f(x) holds what the network dropped; r, slightly smoothed,
    is added with weight `share`. H is a sum of separable terms, so that it exports to any format.
    In a stack every plane is fed back by itself, since H acts within the plane.

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
        before, after : Tensor, (B, 1, Y, X) or (B, 1, Z, Y, X)
            Image before and after one pass of the network, over the same pixels.
        """
        r = self.reach
        terms = self.kernels.shape[0]
        lateral = (0,) * (before.dim() - 4)
        along_y = _in_planes(after, self.kernels[:, None, :, None])
        weighted = self.kernels.clone().mul_(self.amplitudes[:, None])[None, :, None, :]
        scattered = _in_planes(along_y, weighted.reshape(1, terms, 1, 2 * r + 1))
        residual = _in_planes(crop(before, (*lateral, r, r)) - scattered, self.smooth)
        m = self.radius
        return crop(after, (*lateral, m, m)).clone().add_(residual, alpha=self.share)


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
    reinjection : Reinjection or None
        Feeds the one-step residual back after every iteration; None is the plain loop.
    balance : LocalBalance or None
        Adds one more channel behind the iterations, every pixel at its own dial. Only for planes,
        and only where the surroundings of all iterations hold its window, too.

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

    def __init__(
        self,
        network: nn.Module,
        iterations: int = 4,
        reinjection: Reinjection | None = None,
        balance: LocalBalance | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.iterations = iterations
        self.reinjection = reinjection
        self.balance = balance
        self.multiple = int(network.multiple)  # pyright: ignore[reportArgumentType]
        self.network_radius = int(network.radius)  # pyright: ignore[reportArgumentType]
        radius = self.network_radius + (reinjection.radius if reinjection is not None else 0)
        # Cropping must keep the phase of a pooling grid.
        self.radius = -(-radius // self.multiple) * self.multiple
        self.network_radii: tuple[int, ...] = tuple(
            getattr(network, "radii", (self.network_radius, self.network_radius))
        )
        self.dims = len(self.network_radii)
        self.radii = (*self.network_radii[:-2], self.radius, self.radius)
        if balance is not None and not balance_fits(self.dims, self.radius, iterations):
            raise ValueError(
                "the surroundings of all iterations do not hold the local dial's window"
            )

    def step(self, x: Tensor) -> Tensor:
        """Run one iteration; the image loses `radii` on each side."""
        after = self.network(x)
        lost = self.network_radius
        if self.reinjection is not None:
            after = self.reinjection(crop(x, self.network_radii), after)
            lost = lost + self.reinjection.radius
        spare = self.radius - lost
        return crop(after, (*((0,) * (self.dims - 2)), spare, spare))

    def margins(self, iterations: int) -> tuple[int, ...]:
        """Return what so many iterations lose on each side, along (z,) y, x."""
        return tuple(iterations * radius for radius in self.radii)

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

    def channels(self, extended: Tensor) -> Tensor:
        """Run all iterations and balance them: what the exported graph returns.

        Parameters
        ----------
        extended : Tensor, (B, 1, Y + 2 m, X + 2 m)
            As for `iterate`, m the margin of all iterations.

        Returns
        -------
        Tensor, (B, iterations, (Z,) Y, X), one channel more with a balance
            Channel k is the image after k + 1 iterations, the last one the balanced image.
        """
        balance = self.balance
        if balance is None:
            return self.iterate(extended, self.iterations)
        # As far as the window of the local dial reaches.
        margin = self.iterations * self.radius
        x = crop(extended, (margin - balance.radius,) * 2)
        seen: list[Tensor] = [x]
        kept: list[Tensor] = [crop(x, (balance.radius,) * 2)]
        x = extended
        for done in range(1, self.iterations + 1):
            x = self.step(x)
            margin = (self.iterations - done) * self.radius
            if done < SEEN:
                seen.append(crop(x, (margin - balance.radius,) * 2))
            kept.append(crop(x, (margin,) * 2))
        images = torch.cat(kept, dim=1)
        balanced = balance.blend(images, balance.dial(torch.cat(seen, dim=1)))
        return torch.cat((images[:, 1:], balanced), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the loop on a whole image: (B, 1, (Z,) Y, X) to the `channels` of that size."""
        margins = self.margins(self.iterations)
        if self.dims == 3:
            return self.channels(extend_volume(x, margins[0], margins[1]))
        return self.channels(extend_symmetric(x, margins[0]))


def balance_fits(dims: int, radius: int, iterations: int) -> bool:
    """Say whether the surroundings of a loop hold the window of a local dial.

    Parameters
    ----------
    dims : int
        Spatial axes.
    radius : int
        Pixels lost per iteration and side.
    iterations : int
    """
    return dims == 2 and (iterations - SEEN + 1) * radius >= BALANCE_RADIUS


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
