"""What shorter numbers would cost: one iteration with rounded operands, against double precision.

    python benchmarks/precision.py [WEIGHTS.pt] [--side 256]

A noisy specimen on a camera offset of 0, 100 and 2000 counts goes through one iteration of trained
weights, with the operands of every convolution rounded to the mantissa of TF32, float16 and
bfloat16 (for the latter two, the results as well), sums in float32, as GPUs do it. Once as it is,
once with the mean grey level taken off before and put back after, which changes nothing in exact
arithmetic, since the network commutes with it. Printed is the largest difference over the range of
the result.
"""

from __future__ import annotations

import argparse
import copy
import functools
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F

from deepcontrast_bmz.model.network import DilatedNetwork
from deepcontrast_bmz.model.network.layers import sort_pairs
from deepcontrast_bmz.physics.phantoms import phantom

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from deepcontrast_bmz.model.network.layers import AffineConv

    Rounding = Callable[[Tensor], Tensor]

FORMATS = {"TF32": (10, False), "float16": (10, True), "bfloat16": (7, True)}
"""Bits of the mantissa, and whether results are stored with so few."""


def rounded(x: Tensor, bits: int) -> Tensor:
    """Round to nearest, ties to even."""
    integers, spare = x.contiguous().view(torch.int32), 23 - bits
    half = (1 << (spare - 1)) - 1 + ((integers >> spare) & 1)
    return ((integers + half) & ~((1 << spare) - 1)).view(torch.float32)


def keep(x: Tensor) -> Tensor:
    return x


def one_pass(network: DilatedNetwork, x: Tensor, operand: Rounding, result: Rounding) -> Tensor:
    r = network.radius
    g = result(F.conv2d(operand(x), operand(network.first.kernel())))
    for module in network.hidden:
        layer = cast("AffineConv", module)
        m = layer.dilation
        c = result(F.conv2d(operand(g), operand(layer.kernel()), dilation=m))
        g = result(sort_pairs(c) + g[:, :, m:-m, m:-m])
    correction = F.conv2d(operand(g), operand(network.last.kernel())) * network.scale
    return x[:, :, r:-r, r:-r] + correction


def specimen(side: int) -> Tensor:
    rng = np.random.default_rng(0)
    light = phantom("mixed", (side, side), rng)
    return torch.from_numpy(rng.poisson(200 * light + 20) * 2.0).float()[None, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "weights", type=Path, nargs="?", default=Path("weights/deepcontrast.pt"),
        help="state dict of a loop around the default network",
    )  # fmt: skip
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = DilatedNetwork().eval().requires_grad_(requires_grad=False)
    state = torch.load(options.weights, map_location="cpu", weights_only=True)
    network.load_state_dict({k.removeprefix("network."): v for k, v in state.items()})
    exact = copy.deepcopy(network).double()
    print("| camera offset | number | as it is | mean grey level taken off |\n|---|---|---|---|")
    with torch.inference_mode():
        for offset in (0.0, 100.0, 2000.0):
            x = specimen(options.side) + offset
            truth = exact(x.double())
            level = float(x.mean())
            for name, (bits, stored) in {"float32": (23, False), **FORMATS}.items():
                operand = keep if bits == 23 else functools.partial(rounded, bits=bits)
                result = operand if stored else keep
                whole = one_pass(network, x, operand, result)
                shifted = one_pass(network, x - level, operand, result) + level
                spread = truth.max() - truth.min()
                off = [float((y - truth).abs().max() / spread) for y in (whole, shifted)]
                print(f"| {offset:g} | {name} | {off[0]:.0e} | {off[1]:.0e} |")


if __name__ == "__main__":
    main()
