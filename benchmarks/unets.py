"""U-Nets for comparison: an equivariant one with blurred pooling, and a plain one."""

from __future__ import annotations

__all__ = ["BlurpoolUNet", "PlainUNet", "UNetSettings", "build_unet"]

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from deepcontrast_bmz.model.network.layers import (
    AffineConv,
    crop_margin,
    grid_radius,
    sort_pairs,
    to_grid,
)
from deepcontrast_bmz.settings import Record


class UNetSettings(Record):
    """Which U-Net, and how large."""

    kind: Literal["blurpool_unet", "plain_unet"]
    """`blurpool_unet`: equivariant to normalisation, and nearly to shift; `plain_unet`: neither,
    normalised by mean and standard deviation."""
    width: Annotated[int, Field(ge=2, le=1024, multiple_of=2)] = 16
    """Channels of the first level."""
    levels: Annotated[int, Field(ge=1, le=5)] = 3
    """Resolutions, the first included."""


def build_unet(settings: UNetSettings) -> BlurpoolUNet | PlainUNet:
    """Return a freshly initialised U-Net; the global torch generator draws its weights."""
    kind = BlurpoolUNet if settings.kind == "blurpool_unet" else PlainUNet
    return kind(settings.width, settings.levels)


class _BlurDown(nn.Module):
    """Binomial 4-tap blur, then every second pixel: halves the size without aliasing much."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
        # A buffer with a fixed number of channels: exported graphs cannot count them later.
        self.kernel: Tensor
        kernel = torch.outer(taps, taps).repeat(channels, 1, 1, 1)
        self.register_buffer("kernel", kernel, persistent=False)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(x, self.kernel, stride=2, groups=self.channels)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class _SortBlock(nn.Module):
    """Two affine convolutions, each followed by a pairwise sort."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.one = AffineConv(inputs, outputs)
        self.two = AffineConv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return sort_pairs(self.two.same(sort_pairs(self.one.same(x))))


class BlurpoolUNet(nn.Module):
    """U-Net equivariant to normalisation; blurred pooling makes it nearly equivariant to shift.

    Parameters
    ----------
    width : int
        Channels of the first level, doubled at each further one; even.
    levels : int
        Resolutions.

    Attributes
    ----------
    radius : int
        Pixels on each side that the output loses against the input.
    multiple : int
        The pooling factor; shifts by its multiples are commuted with.
    """

    def __init__(self, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            _SortBlock(1 if level == 0 else widths[level - 1], widths[level])
            for level in range(levels)
        )
        self.blur = nn.ModuleList(_BlurDown(count) for count in widths[:-1])
        self.up = nn.ModuleList(
            _SortBlock(widths[level] + widths[level + 1], widths[level])
            for level in reversed(range(levels - 1))
        )
        self.last = AffineConv(width, 1, size=1, total=0.0)
        self.multiple = 2 ** (levels - 1)
        # Two 3 x 3 convolutions down and up at each level, one at the bottom, and per change of
        # level two pixels of blur and two of interpolation, each at its resolution.
        reach = 2 * self.multiple + sum(8 * 2**level for level in range(levels - 1))
        self.radius = grid_radius(reach, self.multiple)

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step of the degradation: (B, 1, Y, X) to (B, 1, Y - 2 radius, X - 2 radius)."""
        height, width = x.shape[2], x.shape[3]
        h = to_grid(x, self.multiple)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            h = block(self.blur[level - 1](h) if level else h)
            skips.append(h)
        skips.pop()
        for block in self.up:
            h = block(torch.cat((skips.pop(), _double(h)), dim=1))
        correction = self.last(h)[:, :, :height, :width]
        return crop_margin(x + correction, self.radius)


class _ReluBlock(nn.Module):
    """Two ordinary convolutions with bias, each followed by a ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")
        self.two = nn.Conv2d(outputs, outputs, 3, padding=1, padding_mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.two(torch.relu(self.one(x))))


class PlainUNet(nn.Module):
    """Ordinary U-Net on an image normalised to mean 0 and standard deviation 1.

    The statistics are those of the image handed in: cut into blocks, it gives seams. It is here
    to be compared with; parameters and attributes are those of `BlurpoolUNet`.
    """

    def __init__(self, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            _ReluBlock(1 if level == 0 else widths[level - 1], widths[level])
            for level in range(levels)
        )
        self.up = nn.ModuleList(
            _ReluBlock(widths[level] + widths[level + 1], widths[level])
            for level in reversed(range(levels - 1))
        )
        self.last = nn.Conv2d(width, 1, 1)
        self.multiple = 2 ** (levels - 1)
        reach = 2 * self.multiple + sum(6 * 2**level for level in range(levels - 1))
        self.radius = grid_radius(reach, self.multiple)

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step of the degradation: (B, 1, Y, X) to (B, 1, Y - 2 radius, X - 2 radius)."""
        height, width = x.shape[2], x.shape[3]
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        centred = x - mean
        deviation = (centred * centred).mean(dim=(1, 2, 3), keepdim=True).sqrt()
        h = to_grid(centred / (deviation + 1e-12 * mean.abs() + 1e-30), self.multiple)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            h = block(F.max_pool2d(h, 2) if level else h)
            skips.append(h)
        skips.pop()
        for block in self.up:
            h = block(torch.cat((skips.pop(), F.interpolate(h, scale_factor=2.0)), dim=1))
        correction = self.last(h)[:, :, :height, :width] * deviation
        return crop_margin(x + correction, self.radius)
