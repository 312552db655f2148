"""The dilated networks on a CPU: folded, and a few rows at a time.

Three things make it fast, and none changes a value beyond rounding.

*A basis in which the sort is free.* The network sorts pairs (a, b) of channels. In the basis
s = (a + b) / 2, d = (a - b) / 2 the sorted pair is (s, |d|): one half of the channels stays as it
is, the other loses its sign. The change of basis is linear, hence goes into the kernels once.

*Channels last.* The kernels of oneDNN then read and write the tensors as they lie, whereas with
channels first every convolution packs its input and unpacks its output. The sign bits are
cleared by one mask over memory in order.

*Strips.* Rows go through all layers one strip after the other; every layer keeps the last rows
it has seen, so nothing is computed twice. Hidden channels never exist for more than a strip and
stay in the cache.

`InStrips` is written so that `torch.jit.script` takes it: the exported TorchScript is this very
code, and so as fast. That is why layers are numbers in lists and their kernels lie in one tensor.
"""

from __future__ import annotations

__all__ = ["FoldedLayer", "FoldedNetwork", "InStrips", "fold_network"]

import copy
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit import is_scripting  # pyright: ignore[reportPrivateImportUsage]

if TYPE_CHECKING:
    from deepcontrast_bmz.model.network import DilatedNetwork, DilatedVolumeNetwork
    from deepcontrast_bmz.model.network.layers import AffineConv

_STRIP_PIXELS = 2**16
"""Pixels of a strip, all its planes together: 16 channels of them are 4 MB."""

_FEWEST_ROWS, _MOST_ROWS = 16, 48
"""Of a strip: below, keeping rows for the next strip costs too much; above, nothing is gained."""

_GPU_PIXELS = 2**20
"""Pixels of a strip on a GPU: 16 channels of them are 64 MB, and work for all of its cores."""

_WIDEST_FIRST = 7
"""Side of the kernel into which the first two layers are folded, at most: they are linear
together, and one convolution of the only input channel costs less than one of all channels."""

_ALL_BITS, _WITHOUT_SIGN = -1, 0x7FFFFFFF


class FoldedLayer(NamedTuple):
    """A hidden layer."""

    kernel: Tensor
    dilation: int
    mixes: bool
    """It sees the planes above and below, as further channels."""


class FoldedNetwork(NamedTuple):
    """The kernels of a dilated network in the basis of half sums and half differences.

    With S the sum of the first half of channels and the magnitude of the second half:
    g = first x + S(second x), without the second term where there is no such kernel; then
    g = g + S(kernel g) for every hidden layer; the change of the image is last g.
    """

    first: Tensor
    second: Tensor | None
    """The first two layers as one kernel of the image."""
    spare: int
    """Pixels on each side that `second` loses more than `first`."""
    hidden: list[FoldedLayer]
    last: Tensor


def fold_network(network: DilatedNetwork | DilatedVolumeNetwork) -> FoldedNetwork:
    """Compute the kernels of a network in the basis in which its sort is a magnitude.

    They are in float32 on the CPU, computed in double precision from its present weights.
    """
    with torch.no_grad():
        # Folded on the CPU: not every device knows double precision.
        network = copy.deepcopy(network).cpu()
        first = _split_outputs(network.first.kernel().double())
        mixes: list[bool] = getattr(network, "mixes", [False] * len(network.hidden))
        layers = [
            FoldedLayer(_fold_layer(layer), layer.dilation, mix)
            for layer, mix in zip(cast("list[AffineConv]", network.hidden), mixes, strict=True)
        ]
        second: Tensor | None = None
        spare = 0
        joins = not layers[0].mixes and 2 * layers[0].dilation + 3 <= _WIDEST_FIRST
        # One hidden layer is left, so that strips always have rows to keep.
        if joins and len(layers) > 1:
            kernel, spare, _ = layers.pop(0)
            second = _compose(first, kernel, spare).float()
        hidden = [layer._replace(kernel=layer.kernel.float()) for layer in layers]
        last = _split_inputs(network.last.kernel().double() * network.scale)
    return FoldedNetwork(first.float(), second, spare, hidden, last.float())


class InStrips(nn.Module):
    """Computes what a dilated network computes, for inference on the device it lies on.

    Parameters
    ----------
    network : DilatedNetwork or DilatedVolumeNetwork
        Its present weights are used.
    rows : int, optional
        Rows per strip; chosen by the size of the image if left out.
    channels_last : bool, optional
        Memory layout of hidden channels; what suits the CPU if left out.

    Attributes
    ----------
    radius, radii, multiple : int
        Those of the network.
    """

    def __init__(
        self,
        network: DilatedNetwork | DilatedVolumeNetwork,
        rows: int | None = None,
        *,
        channels_last: bool | None = None,
    ) -> None:
        super().__init__()
        if channels_last is None:
            # Without oneDNN, torch's own convolution wants channels first.
            channels_last = torch.backends.mkldnn.is_available()
        self.rows = rows or 0
        # Scripts see no constants of a module.
        self.fewest_rows, self.most_rows = _FEWEST_ROWS, _MOST_ROWS
        self.strip_pixels, self.gpu_pixels = _STRIP_PIXELS, _GPU_PIXELS
        self.radius = network.radius
        self.radii: tuple[int, ...] = getattr(network, "radii", (self.radius, self.radius))
        self.planes = self.radii[0]
        self.multiple = network.multiple
        self.channels_last = channels_last
        folded = fold_network(network)
        self.channels = folded.first.shape[0]
        self.dilations = [layer.dilation for layer in folded.hidden]
        self.mixes = [layer.mixes for layer in folded.hidden]
        self.joined = folded.second is not None
        self.spare = folded.spare
        self.first: Tensor
        self.second: Tensor
        self.kernels: Tensor
        self.last: Tensor
        self.mask: Tensor
        self.register_buffer("first", self._laid_out(folded.first))
        second = folded.first if folded.second is None else folded.second
        self.register_buffer("second", self._laid_out(second))
        # In the order of memory, whatever the layout.
        order = (0, 2, 3, 1) if channels_last else (0, 1, 2, 3)
        kernels = [layer.kernel.permute(order).flatten() for layer in folded.hidden]
        self.register_buffer("kernels", torch.cat(kernels))
        self.register_buffer("last", self._laid_out(folded.last))
        half = self.channels // 2
        mask = torch.tensor([_ALL_BITS] * half + [_WITHOUT_SIGN] * half, dtype=torch.int32)
        self.register_buffer("mask", mask)
        self.to(network.first.weight.device)

    def _laid_out(self, kernel: Tensor) -> Tensor:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return kernel.contiguous(memory_format=layout)

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step, in float32; the image loses `radii` on each side.

        Parameters
        ----------
        x : Tensor, (B, 1, Y, X) or, for stacks, (B, 1, Z, Y, X)
        """
        return self.undo(x)

    def undo(self, x: Tensor) -> Tensor:
        """Undo one step, as `forward`."""
        batch = x.shape[0]
        if x.dim() == 4:
            return self._undo_planes(x, batch, 0)
        # Plane by plane and within a plane image by image, so that planes are slices: (Z B, ...).
        planes = x[:, 0].transpose(0, 1).flatten(0, 1).unsqueeze(1)
        out = self._undo_planes(planes, batch, self.planes)
        stacked = out.reshape(-1, batch, out.shape[2], out.shape[3])
        return stacked.transpose(0, 1).unsqueeze(1)

    def _undo_planes(self, x: Tensor, batch: int, above: int) -> Tensor:
        """Undo one step on planes (Z B, 1, Y, X), without the outermost `above` ones."""
        count, _, height, width = x.shape
        r = self.radius
        lost = 2 * r
        for m in self.dilations:
            lost -= 2 * m
        rows = min(self._rows_for(x), height)
        out = x[above * batch : count - above * batch, :, r:-r, r:-r].clone()
        # What each layer keeps of its input, and the rows of it that count: first, behind last.
        buffers: list[Tensor] = []
        spans: list[list[int]] = []
        across = width - lost
        for m, mixes in zip(self.dilations, self.mixes):  # noqa: B905 - scripts know no `strict`
            buffers.append(self._buffer(x, count, rows + 4 * m, across))
            spans.append([0, 0])
            across -= 2 * m
            if mixes:
                count -= 2 * batch
        done = 0
        for top in range(0, height - lost, rows):
            self._begin(x[:, :, top : top + rows + lost], buffers[0], spans[0])
            g = self._go_on(buffers, spans, batch)
            if g.shape[2] > 0:
                out[:, :, done : done + g.shape[2]] += _convolve(g, self.last, 1)
                done += g.shape[2]
        return out

    def _rows_for(self, x: Tensor) -> int:
        """Return the rows of a strip of planes."""
        if self.rows > 0:
            return self.rows
        row = x.shape[0] * x.shape[3]
        if x.device.type == "cpu":
            return min(max(self.fewest_rows, self.strip_pixels // row), self.most_rows)
        return max(self.most_rows, self.gpu_pixels // row)

    def _buffer(self, x: Tensor, count: int, rows: int, across: int) -> Tensor:
        """Return room for a strip and twice the rows that are kept.

        Then rows that are kept never overlap with where they are moved to.
        """
        if self.channels_last:
            shape = [count, rows, across, self.channels]
            return torch.empty(shape, dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
        shape = [count, self.channels, rows, across]
        return torch.empty(shape, dtype=x.dtype, device=x.device)

    def _begin(self, x: Tensor, buffer: Tensor, span: list[int]) -> None:
        """Send rows of the image through the layers that are linear in it, into a buffer."""
        g = _convolve(x, self.first, 1)
        if self.joined:
            m = self.spare
            c = _convolve(x, self.second, 1)
            if self.channels_last:
                c = c.contiguous(memory_format=torch.channels_last)
            _append(self._sorted(c), g[:, :, m:-m, m:-m], buffer, span)
        else:
            _make_room(buffer, span, g.shape[2]).copy_(g)

    def _go_on(self, buffers: list[Tensor], spans: list[list[int]], batch: int) -> Tensor:
        """Send new rows, in the first buffer, through; none come out if they do not reach it."""
        g = buffers[0]
        at = 0
        for i, m in enumerate(self.dilations):
            span = spans[i]
            seen = buffers[i][:, :, span[0] : span[1]]
            if seen.shape[2] <= 2 * m:
                return seen[:, :, :0]
            before = seen
            if self.mixes[i]:
                before = seen[batch:-batch]
                seen = torch.cat([seen[: -2 * batch], before, seen[2 * batch :]], dim=1)
            c = self._sorted(_convolve(seen, self._kernel(at, seen.shape[1]), m))
            at += 9 * self.channels * seen.shape[1]
            before = before[:, :, m:-m, m:-m]
            if i + 1 < len(buffers):
                _append(c, before, buffers[i + 1], spans[i + 1])
            else:
                g = c.add_(before)
            # No further output needs the rows before these.
            span[0] = span[1] - 2 * m
        return g

    def _kernel(self, at: int, inputs: int) -> Tensor:
        """Return a 3 x 3 kernel that begins at a position of all kernels."""
        kernel = self.kernels[at : at + 9 * self.channels * inputs]
        if self.channels_last:
            return kernel.view(self.channels, 3, 3, inputs).permute(0, 3, 1, 2)
        return kernel.view(self.channels, inputs, 3, 3)

    def _sorted(self, c: Tensor) -> Tensor:
        """Take the magnitude of the differences, in place."""
        in_order = self.channels_last and c.is_contiguous(memory_format=torch.channels_last)
        # Saved scripts confuse this `view` with the one that takes a shape.
        if not is_scripting() and in_order and c.device.type == "cpu":
            c.permute(0, 2, 3, 1).view(torch.int32).bitwise_and_(self.mask)
        else:
            c[:, self.channels // 2 :].abs_()
        return c


def _make_room(buffer: Tensor, span: list[int], rows: int) -> Tensor:
    """Return where the next rows go; at most as many as a strip has."""
    if span[1] + rows > buffer.shape[2]:
        kept = span[1] - span[0]
        buffer[:, :, :kept].copy_(buffer[:, :, span[0] : span[1]])
        span[0] = 0
        span[1] = kept
    span[1] += rows
    return buffer[:, :, span[1] - rows : span[1]]


def _append(c: Tensor, before: Tensor, buffer: Tensor, span: list[int]) -> None:
    """Write c + before behind the rows of a buffer."""
    torch.add(c, before, out=_make_room(buffer, span, c.shape[2]))


def _convolve(x: Tensor, kernel: Tensor, dilation: int) -> Tensor:
    """Convolve planes by one and the same library on a CPU.

    torch takes oneDNN or a convolution of its own by the number of threads and the size of the
    batch, and the two round differently: a block would get other values from other workers.
    Scripts leave the choice to the torch that runs them, which may know no oneDNN.
    """
    if not is_scripting():  # noqa: SIM102 - scripts do not look into it
        if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
            step = (dilation, dilation)
            return torch.mkldnn_convolution(x, kernel, None, (0, 0), (1, 1), step, 1)
    return F.conv2d(x, kernel, dilation=[dilation, dilation])


def _split_outputs(kernel: Tensor) -> Tensor:
    """Go from pairs (a, b) of output channels to (a + b) / 2 and (a - b) / 2."""
    a, b = kernel.chunk(2, dim=0)
    return torch.cat(((a + b) / 2, (a - b) / 2), dim=0)


def _split_inputs(kernel: Tensor) -> Tensor:
    """Take (a + b) / 2 and (a - b) / 2 instead of pairs (a, b) of input channels."""
    a, b = kernel.chunk(2, dim=1)
    return torch.cat((a + b, a - b), dim=1)


def _fold_layer(layer: AffineConv) -> Tensor:
    """Return the kernel of a hidden layer in the new basis, in double precision."""
    kernel = _split_outputs(layer.kernel().double())
    planes = kernel.shape[1] // kernel.shape[0]
    return torch.cat([_split_inputs(part) for part in kernel.chunk(planes, dim=1)], dim=1)


def _compose(first: Tensor, second: Tensor, dilation: int) -> Tensor:
    """Return the kernel of the first two layers together: (C, 1, 2 d + 3, 2 d + 3)."""
    m = 2 * (dilation + 1)
    point = torch.zeros(1, 1, 2 * m + 1, 2 * m + 1, dtype=first.dtype)
    point[..., m, m] = 1
    response = F.conv2d(F.conv2d(point, first), second, dilation=dilation)
    return response.transpose(0, 1).flip(2, 3)
