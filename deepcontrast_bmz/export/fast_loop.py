"""Dilated networks in the form in which each engine of other programs is fast.

libtorch gets the strips of rows that `dcbmz predict` runs, as a script. ONNX Runtime has no such
script, but computes convolutions of 16 channels in a blocked layout of its own, faster than
oneDNN; it leaves that layout, which costs more than a convolution, for every operator that it does
not know there: slices, comparisons, halves of channels. So its graph has convolutions, sums and
Relu alone.
"""

from __future__ import annotations

__all__ = ["LoopInStrips", "SameSizeNetwork", "is_plainly_dilated"]

from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcontrast_bmz.model.loop import extend
from deepcontrast_bmz.model.network import DilatedNetwork, DilatedVolumeNetwork
from deepcontrast_bmz.model.network.strips import InStrips, fold_network

if TYPE_CHECKING:
    from deepcontrast_bmz.model.loop import Loop


def is_plainly_dilated(network: nn.Module) -> TypeGuard[DilatedNetwork | DilatedVolumeNetwork]:
    """Return whether a network is a dilated one, and not a class of its own derived from it."""
    return type(network) in (DilatedNetwork, DilatedVolumeNetwork)


class LoopInStrips(InStrips):
    """All iterations of a dilated network on a whole image, for `torch.jit.script`.

    Nothing here is pointwise and out of place: libtorch 2.0 would compile it anew, for seconds, at
    every image size. It is one class, so that buffers lie in one module.

    Parameters
    ----------
    loop : Loop
        On the CPU.
    network : DilatedNetwork or DilatedVolumeNetwork
        Its network.
    """

    def __init__(self, loop: Loop, network: DilatedNetwork | DilatedVolumeNetwork) -> None:
        super().__init__(network, channels_last=True)
        self.iterations = loop.iterations
        self.stacks = loop.dims == 3

    def forward(self, x: Tensor) -> Tensor:
        """Run the loop: (B, 1, (Z,) Y, X) to (B, iterations, (Z,) Y, X)."""
        left = self.iterations
        shape = list(x.shape)
        shape[1] = left
        kept = torch.empty(shape, dtype=x.dtype, device=x.device)
        if self.stacks:
            x = extend(x, [left * self.planes, left * self.radius, left * self.radius])
        else:
            x = extend(x, [left * self.radius] * 2)
        for k in range(self.iterations):
            x = self.undo(x)
            left -= 1
            kept[:, k : k + 1].copy_(self._inside(x, left))
        return kept

    def _inside(self, x: Tensor, left: int) -> Tensor:
        """Remove what so many further iterations need around the image."""
        m = left * self.radius
        x = x[..., m : x.shape[-2] - m, m : x.shape[-1] - m]
        if self.stacks:
            p = left * self.planes
            x = x[:, :, p : x.shape[2] - p]
        return x


# The archive holds the name of the class: it stays the same when this file moves.
LoopInStrips.__module__ = "deepcontrast_bmz.export"


class SameSizeNetwork(nn.Module):
    """A dilated network of convolutions, sums and Relu, for ONNX Runtime.

    In the basis of `fold_network` a layer is g + (s, |d|), and |d| = d + max(-2 d, 0), which rounds
    nothing. A convolution of each channel by itself and of one pixel, which is a scale, takes
    (s, d) to (0, -2 d). All layers keep the size of the image; the border, which is wrong by then,
    is cut off at the end.

    Parameters
    ----------
    network : DilatedNetwork or DilatedVolumeNetwork
        On the CPU.
    """

    def __init__(self, network: DilatedNetwork | DilatedVolumeNetwork) -> None:
        super().__init__()
        folded = fold_network(network)
        self.radius = network.radius
        self.radii: tuple[int, ...] = getattr(network, "radii", (self.radius, self.radius))
        self.multiple = network.multiple
        self.spare = folded.spare
        self.first: Tensor
        self.second: Tensor | None
        self.last: Tensor
        self.flip: Tensor
        self.register_buffer("first", folded.first)
        self.register_buffer("second", folded.second)
        self.register_buffer("last", folded.last)
        for number, layer in enumerate(folded.hidden):
            self.register_buffer(f"hidden_{number}", layer.kernel)
        self.layers = [(layer.dilation, layer.mixes) for layer in folded.hidden]
        self.channels = folded.first.shape[0]
        half = self.channels // 2
        flip = torch.tensor([0.0] * half + [-2.0] * half)
        self.register_buffer("flip", flip.reshape(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step.

        Parameters
        ----------
        x : Tensor, (B, 1, Y, X) or, for stacks, (B, 1, Z, Y, X)
        """
        r = self.radius
        if len(self.radii) == 2:
            return (x + self._change(x, x))[:, :, r:-r, r:-r]
        b, p = x.shape[0], self.radii[0]
        # Plane by plane and within a plane image by image, as in `DilatedVolumeNetwork`.
        change = self._change(x[:, 0].transpose(0, 1).flatten(0, 1).unsqueeze(1), x)
        change = change[:, 0].unflatten(0, (-1, b)).transpose(0, 1).unsqueeze(1)
        return (x[:, :, p:-p] + change)[:, :, :, r:-r, r:-r]

    def _change(self, x: Tensor, image: Tensor) -> Tensor:
        """Return what is added to planes (Z B, 1, Y, X) of an image; wrong at the border."""
        g = F.conv2d(x, self.first, padding=1)
        if self.second is not None:
            g = self._sum(F.conv2d(x, self.second, padding=self.spare + 1), g)
        for number, (m, mixes) in enumerate(self.layers):
            seen = g
            if mixes:
                planes = g.unflatten(0, (-1, image.shape[0]))
                seen = torch.cat((planes[:-2], planes[1:-1], planes[2:]), dim=2).flatten(0, 1)
                g = planes[1:-1].flatten(0, 1)
            kernel: Tensor = getattr(self, f"hidden_{number}")
            g = self._sum(F.conv2d(seen, kernel, padding=m, dilation=m), g)
        return F.conv2d(g, self.last)

    def _sum(self, c: Tensor, g: Tensor) -> Tensor:
        """Return g + (s, |d|) for c = (s, d)."""
        return (c + F.relu(F.conv2d(c, self.flip, groups=self.channels))) + g
