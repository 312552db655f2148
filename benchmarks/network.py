"""Time of one iteration on 512 x 512 pixels, as ratios within one run.

    python benchmarks/network.py [--threads 1] [--runs 5]

Compared are the default network as it stands (every convolution shrinks the image), the same with
the edge replicated before every convolution, the same in strips of rows as `dcbmz predict` runs it
on a CPU, and 40 Richardson-Lucy iterations with the true kernel by cosine transform. Each is run
in turn and the median of the ratios to the first is printed with its spread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from deepcontrast_bmz.baselines import richardson_lucy
from deepcontrast_bmz.network import DilatedNetwork
from deepcontrast_bmz.network.layers import sort_pairs
from deepcontrast_bmz.tiles import InStrips

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SIDE = 512


def padded(network: DilatedNetwork, x: Tensor) -> Tensor:
    """Run the same layers with the edge replicated before each, so that the size stays."""
    g = network.first.same(x)
    for layer in network.hidden:
        g = g + sort_pairs(layer.same(g))  # pyright: ignore[reportCallIssue]
    return x + network.last(g) * network.scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = DilatedNetwork().eval()
    strips = InStrips(network)
    r = network.radius
    image = torch.rand(1, 1, SIDE, SIDE) * 100 + 10
    extended = F.pad(image, (r, r, r, r), mode="replicate")
    raw = image[0, 0].numpy().astype(np.float64)
    works: dict[str, Callable[[], object]] = {
        "shrinking": lambda: network(extended),
        "padded per layer": lambda: padded(network, image),
        "in strips": lambda: strips(extended),
        "40 Richardson-Lucy iterations": lambda: richardson_lucy(
            raw, 1.0, (5.5, 24.0), (0.7, 0.3), 40
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with torch.inference_mode():
        for number in range(options.runs + 1):
            for name, work in works.items():
                begun = time.perf_counter()
                work()
                if number:
                    seconds[name].append(time.perf_counter() - begun)
    first = seconds["shrinking"]
    print(f"{SIDE} x {SIDE}, {options.threads} thread(s), {options.runs} runs, time over shrinking")
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        print(
            f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"{1000 * statistics.median(values):.0f} ms"
        )


if __name__ == "__main__":
    main()
