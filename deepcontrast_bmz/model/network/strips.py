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
"""

from __future__ import annotations

__all__ = ["InStrips"]

import copy
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class _Layer(NamedTuple):
    """A hidden layer."""

    kernel: Tensor
    dilation: int
    mixes: bool
    """It sees the planes above and below, as further channels."""


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
        self.rows = rows
        self.radius = network.radius
        self.radii: tuple[int, ...] = getattr(network, "radii", (self.radius, self.radius))
        self.multiple = network.multiple
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.device = network.first.weight.device
        with torch.no_grad():
            # Folded on the CPU: not every device knows double precision.
            network = copy.deepcopy(network).cpu()
            first = _split_outputs(network.first.kernel().double())
            mixes: list[bool] = getattr(network, "mixes", [False] * len(network.hidden))
            layers = [
                _Layer(_folded(cast("AffineConv", layer)), cast("AffineConv", layer).dilation, mix)
                for layer, mix in zip(network.hidden, mixes, strict=True)
            ]
            self.second: Tensor | None = None
            self.spare = 0
            if not layers[0].mixes and 2 * layers[0].dilation + 3 <= _WIDEST_FIRST:
                kernel, self.spare, _ = layers.pop(0)
                self.second = self._stored(_composed(first, kernel, self.spare))
            self.first = self._stored(first)
            self.hidden = [layer._replace(kernel=self._stored(layer.kernel)) for layer in layers]
            self.last = self._stored(_split_inputs(network.last.kernel().double() * network.scale))
        self.channels = first.shape[0]
        half = self.channels // 2
        self.mask = torch.tensor([_ALL_BITS] * half + [_WITHOUT_SIGN] * half, dtype=torch.int32)

    def _stored(self, kernel: Tensor) -> Tensor:
        return kernel.float().to(self.device).contiguous(memory_format=self.format)

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step, in float32; the image loses `radii` on each side.

        Parameters
        ----------
        x : Tensor, (B, 1, Y, X) or, for stacks, (B, 1, Z, Y, X)
        """
        if x.dim() == 4:
            return self._planes(x, x.shape[0])
        batch, z = x.shape[0], self.radii[0]
        # Plane by plane and within a plane image by image, so that planes are slices: (Z B, ...).
        planes = x[:, 0].transpose(0, 1).flatten(0, 1).unsqueeze(1)
        kept = slice(z * batch, (x.shape[2] - z) * batch)
        out = self._planes(planes, batch, kept)
        return out[:, 0].unflatten(0, (-1, batch)).transpose(0, 1).unsqueeze(1)

    def _planes(self, x: Tensor, batch: int, kept: slice = slice(None)) -> Tensor:
        """Undo one step on planes (Z B, 1, Y, X), of which `kept` come out."""
        count, _, height, width = x.shape
        rows = min(self.rows or self._rows_for(count * width), height)
        r = self.radius
        out = x[kept, :, r:-r, r:-r].clone()
        lost = 2 * (r - sum(layer.dilation for layer in self.hidden))
        memories: list[_Memory] = []
        at = (count, width - lost)
        for layer in self.hidden:
            shape = (at[0], self.channels, rows + 4 * layer.dilation, at[1])
            buffer = torch.empty(shape, device=self.device, memory_format=self.format)
            memories.append(_Memory(buffer, 2 * layer.dilation))
            at = (at[0] - 2 * batch * layer.mixes, at[1] - 2 * layer.dilation)
        done = 0
        for top in range(0, height - lost, rows):
            begun = self._begin(x[:, :, top : top + rows + lost], memories)
            g = self._hidden(begun, memories, batch)
            if g is not None:
                out[:, :, done : done + g.shape[2]] += _convolve(g, self.last)
                done += g.shape[2]
        return out

    def _rows_for(self, row: int) -> int:
        """Return the rows of a strip, for rows of so many pixels."""
        if self.device.type == "cpu":
            return min(max(_FEWEST_ROWS, _STRIP_PIXELS // row), _MOST_ROWS)
        return max(_MOST_ROWS, _GPU_PIXELS // row)

    def _begin(self, x: Tensor, memories: list[_Memory]) -> Tensor:
        """Send rows of the image through the layers that are linear in it."""
        g = _convolve(x, self.first)
        if self.second is None:
            return memories[0].room(g.shape[2]).copy_(g)
        second = _convolve(x, self.second).contiguous(memory_format=self.format)
        m = self.spare
        return _add(self._sorted(second), g[:, :, m:-m, m:-m], memories)

    def _hidden(self, g: Tensor, memories: list[_Memory], batch: int) -> Tensor | None:
        """Send new rows, in the first memory, through; None if they do not reach the end yet."""
        for i, (kernel, m, mixes) in enumerate(self.hidden):
            before = seen = memories[i].rows()
            if seen.shape[2] <= 2 * m:
                return None
            if mixes:
                before = seen[batch:-batch]
                seen = torch.cat((seen[: -2 * batch], before, seen[2 * batch :]), dim=1)
            c = self._sorted(_convolve(seen, kernel, m))
            g = _add(c, before[:, :, m:-m, m:-m], memories[i + 1 :])
            memories[i].forget()
        return g

    def _sorted(self, c: Tensor) -> Tensor:
        """Take the magnitude of the differences, in place."""
        if self.device.type == "cpu" and c.is_contiguous(memory_format=torch.channels_last):
            c.permute(0, 2, 3, 1).view(torch.int32).bitwise_and_(self.mask)
        else:
            c[:, self.channels // 2 :].abs_()
        return c


class _Memory:
    """The last rows of the input of a layer.

    Parameters
    ----------
    buffer : Tensor
        Room for a strip and twice the rows that are kept: these never overlap with where they are
        moved to.
    kept : int
        Rows that the next strip needs again.
    """

    def __init__(self, buffer: Tensor, kept: int) -> None:
        self.buffer = buffer
        self.kept = kept
        self.begin = self.end = 0

    def room(self, rows: int) -> Tensor:
        """Return where the next rows go; at most as many as a strip has."""
        if self.end + rows > self.buffer.shape[2]:
            kept = self.end - self.begin
            self.buffer[:, :, :kept].copy_(self.buffer[:, :, self.begin : self.end])
            self.begin, self.end = 0, kept
        self.end += rows
        return self.buffer[:, :, self.end - rows : self.end]

    def rows(self) -> Tensor:
        """Return all rows that are kept."""
        return self.buffer[:, :, self.begin : self.end]

    def forget(self) -> None:
        """Forget the rows that no further output needs."""
        self.begin = self.end - self.kept


def _add(c: Tensor, before: Tensor, memories: list[_Memory]) -> Tensor:
    """Return c + before, in the memory of the layer that comes next, if one does."""
    return torch.add(c, before, out=memories[0].room(c.shape[2]) if memories else c)


def _convolve(x: Tensor, kernel: Tensor, dilation: int = 1) -> Tensor:
    """Convolve planes by one and the same library on a CPU.

    torch takes oneDNN or a convolution of its own by the number of threads and the size of the
    batch, and the two round differently: a block would get other values from other workers.
    """
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        step = (dilation, dilation)
        return torch.mkldnn_convolution(x, kernel, None, (0, 0), (1, 1), step, 1)
    return F.conv2d(x, kernel, dilation=dilation)


def _split_outputs(kernel: Tensor) -> Tensor:
    """Go from pairs (a, b) of output channels to (a + b) / 2 and (a - b) / 2."""
    a, b = kernel.chunk(2, dim=0)
    return torch.cat(((a + b) / 2, (a - b) / 2), dim=0)


def _split_inputs(kernel: Tensor) -> Tensor:
    """Take (a + b) / 2 and (a - b) / 2 instead of pairs (a, b) of input channels."""
    a, b = kernel.chunk(2, dim=1)
    return torch.cat((a + b, a - b), dim=1)


def _folded(layer: AffineConv) -> Tensor:
    """Return the kernel of a hidden layer in the new basis, in double precision."""
    kernel = _split_outputs(layer.kernel().double())
    planes = kernel.shape[1] // kernel.shape[0]
    return torch.cat([_split_inputs(part) for part in kernel.chunk(planes, dim=1)], dim=1)


def _composed(first: Tensor, second: Tensor, dilation: int) -> Tensor:
    """Return the kernel of the first two layers together: (C, 1, 2 d + 3, 2 d + 3)."""
    m = 2 * (dilation + 1)
    point = torch.zeros(1, 1, 2 * m + 1, 2 * m + 1, dtype=first.dtype)
    point[..., m, m] = 1
    response = F.conv2d(F.conv2d(point, first), second, dilation=dilation)
    return response.transpose(0, 1).flip(2, 3)
