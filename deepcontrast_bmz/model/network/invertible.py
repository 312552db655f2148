"""An invertible network: affine couplings between the bands of a Haar pyramid."""

from __future__ import annotations

__all__ = ["InvertibleNetwork"]

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcontrast_bmz.model.network.layers import (
    AffineConv,
    crop_margin,
    grid_radius,
    sort_pairs,
    to_grid,
)


class _Change(nn.Module):
    """What one part of the bands says of the other: no levels, only what rises above them."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.one = AffineConv(inputs, width)
        self.two = AffineConv(width, width, size=1)
        self.last = AffineConv(width, outputs, size=1, total=0.0)
        # Begins close to the identity: a dozen couplings at full strength would bury the image.
        with torch.no_grad():
            self.last.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(sort_pairs(self.two(sort_pairs(self.one.same(x)))))


class _Coupling(nn.Module):
    """Scales and shifts the details by what the coarse image says, then shifts that by them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_coarse = _Change(1, width, 6)
        self.of_details = _Change(3, width, 1)
        self.gain = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def _scale_and_shift(self, coarse: Tensor) -> tuple[Tensor, Tensor]:
        slope, shift = self.of_coarse(coarse).chunk(2, dim=1)
        # Over the range within 3 x 3 pixels, a scale needs no unit. Both directions divide by the
        # same numbers, since the coarse image is still, or again, what it was.
        extent = F.max_pool2d(coarse, 3, 1, 1) + F.max_pool2d(-coarse, 3, 1, 1)
        # The last summand keeps a constant image from dividing zero by zero.
        slope = slope / (slope.abs() + extent + 1e-30)
        return torch.exp(self.gain + slope), shift

    def forward(self, coarse: Tensor, details: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self._scale_and_shift(coarse)
        details = details * scale + shift
        return coarse + self.of_details(details), details

    def inverse(self, coarse: Tensor, details: Tensor) -> tuple[Tensor, Tensor]:
        coarse = coarse - self.of_details(details)
        scale, shift = self._scale_and_shift(coarse)
        return coarse, (details - shift) / scale


class InvertibleNetwork(nn.Module):
    r"""A bijection of images, equivariant to normalisation: nothing is lost, only rearranged.

    The image is split into a coarse image c and three bands of details d, and c again; from the
    coarsest level up, couplings change the one by the other,

    .. math:: d' = d \cdot e^{s(c)} + t(c), \quad c' = c + u(d')

    and the bands are joined. t and u commute with scaling of grey values and ignore shifts, s
    ignores both: no statistics of the image are needed, in either direction.

    Parameters
    ----------
    width : int
        Channels of the networks within the couplings; even.
    levels : int
        Resolutions, at least 2: one more than there are splits.
    couplings : int
        At each level.

    Attributes
    ----------
    radius : int
        Pixels on each side that the output loses against the input.
    multiple : int
        Pixels of the coarsest level; shifts by its multiples are commuted with.

    References
    ----------
    Dinh, Sohl-Dickstein, Bengio, ICLR 2017 (arXiv 1605.08803): affine couplings.
    """

    def __init__(self, width: int = 16, levels: int = 3, couplings: int = 2) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(
            nn.ModuleList(_Coupling(width) for _ in range(couplings)) for _ in range(levels - 1)
        )
        signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        bands = [torch.outer(first, second) / 2 for first in signs for second in signs]
        # Its own inverse: splitting convolves with it, joining with its transpose.
        self.haar: Tensor
        self.register_buffer("haar", torch.stack(bands)[:, None], persistent=False)
        self.multiple = 2 ** (levels - 1)
        # Each coupling sees one pixel of its level, twice; blocks begin up to one block earlier.
        reach = sum(2 * couplings * 2**level for level in range(1, levels)) + self.multiple - 1
        self.radius = grid_radius(reach, self.multiple)

    def transform(self, x: Tensor) -> Tensor:
        """Map images to images, both ways without loss.

        Parameters
        ----------
        x : Tensor, (B, 1, Y, X)
            Y and X multiples of `multiple`.

        Returns
        -------
        Tensor, same shape as x
        """
        kept: list[Tensor] = []
        for _ in self.couplings:
            bands = F.conv2d(x, self.haar, stride=2)
            x = bands[:, :1]
            kept.append(bands[:, 1:])
        for level in self.couplings:
            details = kept.pop()
            for coupling in level:  # pyright: ignore[reportGeneralTypeIssues]
                x, details = coupling(x, details)
            x = F.conv_transpose2d(torch.cat((x, details), dim=1), self.haar, stride=2)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `transform`: what it made of which image, up to rounding.

        Parameters
        ----------
        y : Tensor, (B, 1, Y, X)
            Y and X multiples of `multiple`.

        Returns
        -------
        Tensor, same shape as y
        """
        kept: list[Tensor] = []
        for level in reversed(self.couplings):
            bands = F.conv2d(y, self.haar, stride=2)
            y, details = bands[:, :1], bands[:, 1:]
            for coupling in reversed(level):  # pyright: ignore[reportArgumentType, reportCallIssue]
                y, details = coupling.inverse(y, details)
            kept.append(details)
        while kept:
            y = F.conv_transpose2d(torch.cat((y, kept.pop()), dim=1), self.haar, stride=2)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step of the degradation: (B, 1, Y, X) to (B, 1, Y - 2 radius, X - 2 radius)."""
        height, width = x.shape[2], x.shape[3]
        whole = self.transform(to_grid(x, self.multiple))
        return crop_margin(whole[:, :, :height, :width], self.radius)
