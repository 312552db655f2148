"""The dilated network for stacks: it sees neighbouring planes, and shifts along z as well."""

from __future__ import annotations

__all__ = ["DilatedVolumeNetwork", "mixing_positions"]

import torch
from torch import Tensor, nn

from deepcontrast_bmz.model.network.layers import AffineConv, sort_pairs


def mixing_positions(layers: int, mixing: int) -> list[int]:
    """Return which of the layers mix planes: `mixing` of them, spread evenly, from 0.

    Examples
    --------
    >>> mixing_positions(9, 2)
    [2, 6]
    """
    return [(2 * i + 1) * layers // (2 * mixing) for i in range(mixing)]


class DilatedVolumeNetwork(nn.Module):
    r"""Sum of sorted dilated convolutions over a stack, equivariant to shift and normalisation.

    The sum of `DilatedNetwork`, where a few of its kernels are 3 x 3 x 3 and all others 1 x 3 x 3.
    Planes lie one behind the other in the batch, and a 3 x 3 x 3 kernel is a 3 x 3 one over the
    channels of three neighbouring planes: the same function as with 3-D convolutions, which the
    CPU engines compute several times more slowly.

    Parameters
    ----------
    width : int
        Channels of every hidden layer; even.
    dilations : tuple of int
        Lateral dilation of each convolution after the first; along z none is dilated.
    mixing_layers : int
        How many of these see the planes above and below, spread evenly.

    Attributes
    ----------
    dims : int
        Spatial axes: 3.
    radii : tuple of int
        Pixels on each side that the output loses against the input, along z, y, x.
    radius : int
        The lateral one of these.
    multiple : int
        Shifts by multiples of this are commuted with: here 1, every shift.
    """

    def __init__(
        self,
        width: int = 16,
        dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 8, 4, 2, 1),
        mixing_layers: int = 2,
    ) -> None:
        super().__init__()
        mixing = mixing_positions(len(dilations), mixing_layers)
        self.mixes = [i in mixing for i in range(len(dilations))]
        self.first = AffineConv(1, width)
        self.hidden = nn.ModuleList(
            AffineConv(3 * width if mixes else width, width, dilation=d)
            for d, mixes in zip(dilations, self.mixes, strict=True)
        )
        self.last = AffineConv(width, 1, size=1, total=0.0)
        self.dims = 3
        self.dilations = tuple(dilations)
        self.radius = 1 + sum(dilations)
        self.radii = (mixing_layers, self.radius, self.radius)
        self.multiple = 1
        self.scale = 0.5 ** len(dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Undo one step of the degradation.

        Parameters
        ----------
        x : Tensor, (B, 1, Z, Y, X)
            Grey values in any unit; every side above twice the radius along it.

        Returns
        -------
        Tensor, (B, 1, Z - 2 radii[0], Y - 2 radius, X - 2 radius)
            Same unit as x.
        """
        b, p, r = x.shape[0], self.radii[0], self.radius
        # Plane by plane and within a plane image by image, so that planes are slices: (Z B, ...).
        g = self.first(x[:, 0].transpose(0, 1).flatten(0, 1).unsqueeze(1))
        for layer, m, mixes in zip(self.hidden, self.dilations, self.mixes, strict=True):
            seen = g
            if mixes:
                # Cut as planes: sums with the batch size are tensors, which old fusers compile.
                planes = g.unflatten(0, (-1, b))
                seen = torch.cat((planes[:-2], planes[1:-1], planes[2:]), dim=2).flatten(0, 1)
                g = planes[1:-1].flatten(0, 1)
            # In place for the reasons given in `DilatedNetwork`.
            g = sort_pairs(layer(seen)).add_(g[:, :, m:-m, m:-m])
        change = self.last(g)[:, 0].unflatten(0, (-1, b)).transpose(0, 1).unsqueeze(1)
        return x[:, :, p:-p, r:-r, r:-r].clone().add_(change, alpha=self.scale)
