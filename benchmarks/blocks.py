"""What ``dcbmz predict`` adds to its network, and how others take the same blocks.

    python benchmarks/blocks.py PACKAGE [--side 1024] [--block 512] [--threads 1] [--runs 5]

In one process, in turn, for one image with all iterations: `enhance` block by block; the bare
network of ``dcbmz predict`` over the very same blocks, cut beforehand, results thrown away; the
package's ONNX graph by a bare ONNX Runtime loop over them; its TorchScript graph likewise; and
Richardson-Lucy iterations on the whole image, as many as `--lucy`. Printed are processor seconds
over those of `enhance` (above 1: slower), median and spread, and the share of `enhance` that is
not spent in the network. The graphs mirror at the block's border by themselves, which is part of
what they cost.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from baselines import richardson_lucy

from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.predict.enhance import enhance

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepcontrast_bmz.model.model import Model


def recording(side: int) -> np.ndarray:
    """Return a noisy specimen, uint16."""
    rng = np.random.default_rng(0)
    repeats = -(-side // 256)
    light = np.tile(phantom("mixed", (256, 256), rng), (repeats, repeats))[:side, :side]
    return (rng.poisson(200 * light + 20) * 2 + 100).astype(np.uint16)


def windows_of(model: Model, image: xr.DataArray, block: int) -> list[torch.Tensor]:
    """Return the blocks that `enhance` hands to the network, with their surroundings."""
    seen: list[torch.Tensor] = []

    class Watched:
        device = model.runner.device
        block = model.runner.block

        def __call__(self, extended: torch.Tensor, iterations: int) -> torch.Tensor:
            seen.append(extended.clone())
            return model.runner(extended, iterations)

    watched = dataclasses.replace(model, runner=Watched())
    enhance(watched, image, all_iterations=True, block=block)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lucy", type=int, default=40, help="Richardson-Lucy iterations")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = open_model(options.package, device="cpu")
    onnx = open_model(options.package, weights="onnx", device="cpu")
    script = open_model(options.package, weights="torchscript", device="cpu")
    image = xr.DataArray(recording(options.side), dims=("y", "x"))
    raw = image.to_numpy().astype(np.float64)
    count = model.description.iterations
    windows = windows_of(model, image, options.block)

    def bare(opened: Model) -> None:
        with torch.inference_mode():
            for window in windows:
                opened.runner(window, count)

    works: dict[str, Callable[[], object]] = {
        "enhance": lambda: enhance(model, image, all_iterations=True, block=options.block),
        "its bare network": lambda: bare(model),
        "bare ONNX Runtime": lambda: bare(onnx),
        "bare TorchScript": lambda: bare(script),
        f"{options.lucy} Richardson-Lucy iterations": lambda: richardson_lucy(
            raw, 1.0, (5.5, 24.0), (0.7, 0.3), options.lucy
        ),
    }
    seconds: dict[str, list[float]] = {}
    for number in range(options.runs + 1):
        for name, work in works.items():
            begun = time.process_time()
            work()
            if number:
                seconds.setdefault(name, []).append(time.process_time() - begun)
    base = seconds["enhance"]
    print(
        f"{options.side} x {options.side}, {len(windows)} blocks of {options.block}, {count} "
        f"iterations, {options.threads} thread(s), {options.runs} runs\n"
    )
    print("| what | time over enhance | spread |\n|---|---|---|")
    for name, values in seconds.items():
        ratios = [value / own for value, own in zip(values, base, strict=True)]
        median = statistics.median(ratios)
        print(f"| {name} | {median:.3f} | {min(ratios):.3f} to {max(ratios):.3f} |")
    shares = [1 - value / own for value, own in zip(seconds["its bare network"], base, strict=True)]
    print(f"\noutside the network: {100 * statistics.median(shares):.1f} % of enhance")


if __name__ == "__main__":
    main()
