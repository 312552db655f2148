"""Layers that commute with scaling and shifting of grey values, and with shifts of the image.

A convolution whose weights sum to one turns a x + b into a (conv x) + b; sorting pairs of
channels commutes with every increasing map, so it can stand where a ReLU would not. Nothing
here has a bias. (Normalisation-equivariant networks: Herbreteau, Moebel, Kervrann, 2023.)
"""

from __future__ import annotations

__all__ = ["AffineConv", "crop_margin", "grid_radius", "sort_pairs", "to_grid"]

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


def crop_margin(x: Tensor, margin: int) -> Tensor:
    """Remove `margin` pixels, at least 1, from each side of (B, C, Y, X)."""
    return x[:, :, margin:-margin, margin:-margin]


def to_grid(x: Tensor, multiple: int) -> Tensor:
    """Replicate the far edges of (B, C, Y, X) until both sides are multiples of a grid."""
    missing_y = (multiple - x.shape[2] % multiple) % multiple
    missing_x = (multiple - x.shape[3] % multiple) % multiple
    return F.pad(x, (0, missing_x, 0, missing_y), mode="replicate")


def grid_radius(reach: int, multiple: int) -> int:
    """Round the reach up to a grid, so that cropping keeps the grid's phase."""
    return -(-reach // multiple) * multiple


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

    def same(self, x: Tensor) -> Tensor:
        """Convolve with the edge replicated, so that the size stays."""
        m = self.margin
        return self(F.pad(x, (m, m, m, m), mode="replicate"))
