"""The exported loop in one file: torch is all it needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sort_pairs(x: Tensor) -> Tensor:
    """Sort channel i of the first half with channel i of the second half, pixel by pixel.

    Parameters
    ----------
    x : Tensor, (B, 2 N, Y, X)

    Returns
    -------
    Tensor, same shape as x
        The larger of each pair in the first half, the smaller in the second.
    """
    first, second = x.chunk(2, dim=1)
    return torch.cat((torch.maximum(first, second), torch.minimum(first, second)), dim=1)


class AffineConv(nn.Module):
    """Convolution without bias whose weights sum to a fixed number per output channel.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    size : int
        Side of the kernel, odd.
    dilation : int
        Distance between kernel elements in pixels.
    total : float
        What the weights of each output channel sum to: one keeps grey levels, zero makes a
        correction that ignores them.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, dilation: int = 1, total: float = 1.0
    ) -> None:
        super().__init__()
        bound = (3.0 / (inputs * size * size)) ** 0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs, size, size).uniform_(-bound, bound))
        self.dilation = dilation
        self.total = total
        self.margin = dilation * (size // 2)

    def kernel(self) -> Tensor:
        """Return the weights, shifted to their sum: (outputs, inputs, size, size)."""
        count = self.weight[0].numel()
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return self.weight - mean + self.total / count

    def forward(self, x: Tensor) -> Tensor:
        """Convolve without padding: each side loses `margin` pixels."""
        return F.conv2d(x, self.kernel(), dilation=self.dilation)


class DilatedNetwork(nn.Module):
    r"""Sum of sorted dilated convolutions, equivariant to shift and to normalisation.

    .. math:: g_0 = C_0 x, \quad g_k = g_{k-1} + S(C_k g_{k-1}), \quad f(x) = x + 2^{-n} O g_n

    with S the pairwise sort, the kernels C summing to one and O to zero. Every g_k is 2^k times
    a quantity with the grey level of x, hence the power of two, which rounds nothing.

    Parameters
    ----------
    width : int
        Channels of every hidden layer; even.
    dilations : tuple of int
        Dilation of each 3 x 3 convolution after the first.

    Attributes
    ----------
    radius : int
        Pixels on each side that the output loses against the input.
    multiple : int
        Shifts by multiples of this are commuted with: here 1, every shift.
    """

    def __init__(
        self, width: int = 16, dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 8, 4, 2, 1)
    ) -> None:
        super().__init__()
        self.first = AffineConv(1, width)
        self.hidden = nn.ModuleList(AffineConv(width, width, dilation=d) for d in dilations)
        self.last = AffineConv(width, 1, size=1, total=0.0)
        self.dilations = tuple(dilations)
        self.radius = 1 + sum(dilations)
        self.multiple = 1
        self.scale = 0.5 ** len(dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step of the degradation.

        Parameters
        ----------
        x : Tensor, (B, 1, Y, X)
            Grey values in any unit, Y and X above 2 `radius`.

        Returns
        -------
        Tensor, (B, 1, Y - 2 radius, X - 2 radius)
            Same unit as x.
        """
        r = self.radius
        g = self.first(x)
        for layer, m in zip(self.hidden, self.dilations, strict=True):
            # In place saves memory, and keeps old TorchScript runtimes from compiling the sort and
            # the sum into one kernel, anew and for seconds, at every image size.
            g = sort_pairs(layer(g)).add_(g[:, :, m:-m, m:-m])
        return x[:, :, r:-r, r:-r].clone().add_(self.last(g), alpha=self.scale)


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


class DeepContrastLoop(Loop):
    """The exported loop, built from plain values: (B, 1, Y, X) to (B, iterations, Y, X).

    Parameters
    ----------
    width : int
        Channels of the first layer.
    dilations : list[int]
        Dilation of each 3 x 3 convolution.
    iterations : int
        Output channels: channel k is the image after k + 1 iterations.
    """

    def __init__(
        self,
        width: int,
        dilations: list[int],
        iterations: int,
    ) -> None:
        super().__init__(DilatedNetwork(width, tuple(dilations)), iterations)
