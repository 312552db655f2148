"""The default network: dilated convolutions, no pooling, exactly shift-equivariant."""

from __future__ import annotations

__all__ = ["DilatedNetwork"]

from torch import Tensor, nn

from deepcontrast_bmz.model.network.layers import AffineConv, sort_pairs


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
