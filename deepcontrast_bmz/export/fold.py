"""A loop with fixed kernels: what the network computes from its parameters is computed once."""

from __future__ import annotations

__all__ = [
    "fold_kernels",
    "make_example_image",
]

import copy
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcontrast_bmz.model.network.layers import AffineConv

if TYPE_CHECKING:
    from deepcontrast_bmz.model.loop import Loop


class _PlainConv(nn.Module):
    """An `AffineConv` whose kernel is computed already."""

    def __init__(self, conv: AffineConv) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", conv.kernel().detach().clone())
        self.dilation = conv.dilation
        self.margin = conv.margin

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, dilation=self.dilation)

    def same(self, x: Tensor) -> Tensor:
        m = self.margin
        return self(F.pad(x, (m, m, m, m), mode="replicate"))


def fold_kernels(loop: Loop) -> Loop:
    """Return a copy that computes the same with fixed kernels, all its tensors buffers."""
    folded = copy.deepcopy(loop).eval()
    for name, module in list(folded.named_modules()):
        if isinstance(module, AffineConv):
            folded.set_submodule(name, _PlainConv(module))
    for module in folded.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach().clone())
    return folded


def make_example_image(loop: Loop) -> Tensor:
    """Return an image to trace the loop with, no two of its sides alike."""
    side = 2 * loop.multiple * 8
    shape = (1, 1, 5, side, side + 8)[-loop.dims :]
    return torch.linspace(0, 1, math.prod(shape)).reshape(1, 1, *shape)
