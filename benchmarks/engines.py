"""The exported graph in the engines of Java programs: against predict, and at new image sizes.

    python benchmarks/engines.py [--engines NAME ...] [--rounds 3] [--stacks] [--control]

First, processor seconds of the second and third run on one large image, one thread, over those of
`dcbmz predict`'s network on it, which runs before and after; then processor seconds of the first,
second and third run at each of several sizes.

An engine that compiles anew for every image size stalls on the second run at each (libtorch 2.0,
where TorchScript is profiled by the first). Every round is a Java process of its own that meets
the sizes in the same order; the table gives, for each size, the least seconds of all rounds (a
stall is in every round, other work of the machine is not) and the ratios to the first run. With
`--control` the default network is run as well with its sums not done in place, which libtorch 2.0
fuses: what a stall looks like.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepcontrast_bmz.check.engines.engine import EngineMissingError
from deepcontrast_bmz.check.engines.java import JAVA_ENGINES, prepare_java, run_java
from deepcontrast_bmz.export.onnx import serialize_onnx
from deepcontrast_bmz.export.torchscript import serialize_torchscript
from deepcontrast_bmz.model.devices import fast_loop
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import DilatedNetwork, DilatedVolumeNetwork
from deepcontrast_bmz.model.network.layers import sort_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = ((37, 61), (136, 200), (301, 515), (120, 90), (256, 256))
LARGE = (900, 1300)
STACK_SIZES = ((2, 37, 61), (5, 136, 120), (3, 90, 200))
LARGE_STACK = (16, 256, 256)
REPEATS = 3
ALLOWED = 1.5


class SumsNotInPlace(DilatedNetwork):
    """The default network as one would write it first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Undo one step: (B, 1, Y, X) to (B, 1, Y - 2 radius, X - 2 radius)."""
        r = self.radius
        g = self.first(x)
        for layer, m in zip(self.hidden, self.dilations, strict=True):
            g = g[:, :, m:-m, m:-m] + sort_pairs(layer(g))
        return x[:, :, r:-r, r:-r] + self.last(g) * self.scale


def compare(engine: str, weights: Path, loop: Loop, size: tuple[int, ...]) -> None:
    """Print the ratio of one engine to `dcbmz predict`, and the difference of their values."""
    image = np.random.default_rng(0).random((1, 1, *size), dtype=np.float32)
    fast = fast_loop(copy.deepcopy(loop), "cpu")

    def predict() -> tuple[np.ndarray, float]:
        with torch.inference_mode():
            begun = time.process_time()
            result = fast(torch.from_numpy(image))
            return result.numpy(), time.process_time() - begun

    predict()
    expected, before = predict()
    (run,) = run_java(engine, weights, [image], repeats=REPEATS)
    after = predict()[1]
    least = min(run.processor_seconds[1:])
    difference = np.abs(run.output - expected).max() / np.ptp(expected)
    first = run.processor_seconds[0]
    print(
        f"  {' x '.join(map(str, size))}: {least:.2f} s of processor (first run {first:.2f} s), "
        f"predict {before:.2f} and {after:.2f} s: {2 * least / (before + after):.2f} times; "
        f"difference {difference:.0e} of the range",
        flush=True,
    )


def measure(engine: str, weights: Path, rounds: int, sizes: Sequence[tuple[int, ...]]) -> None:
    """Print the table of one engine."""
    rng = np.random.default_rng(0)
    inputs = [rng.random((1, 1, *size), dtype=np.float32) for size in sizes]
    seconds = np.array(
        [
            [run.processor_seconds for run in run_java(engine, weights, inputs, repeats=REPEATS)]
            for _ in range(rounds)
        ]
    ).min(axis=0)
    for size, calls in zip(sizes, seconds, strict=True):
        ratios = calls[1:] / calls[0]
        shown = " ".join(f"{second:7.3f}" for second in calls)
        stalls = "  stalls" if ratios.max() > ALLOWED else ""
        words = " ".join(f"{ratio:5.2f}" for ratio in ratios)
        print(f"  {' x '.join(f'{n:4d}' for n in size)}   {shown} s   ratios {words}{stalls}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="*", choices=list(JAVA_ENGINES), default=[*JAVA_ENGINES])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torchscript", type=Path, help="instead of the default network")
    parser.add_argument("--onnx", type=Path, help="instead of the default network")
    parser.add_argument("--stacks", action="store_true", help="the network for stacks")
    parser.add_argument("--control", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # What Java processes read.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        network = DilatedVolumeNetwork() if options.stacks else DilatedNetwork()
        loop = Loop(network.requires_grad_(requires_grad=False)).eval()
        sizes, large = (STACK_SIZES, LARGE_STACK) if options.stacks else (SIZES, LARGE)
        weights: dict[str, Path | None] = {"libtorch": options.torchscript}
        weights["onnxruntime"] = options.onnx
        if weights["libtorch"] is None:
            weights["libtorch"] = folder / "loop.pt"
            weights["libtorch"].write_bytes(serialize_torchscript(loop))
        if weights["onnxruntime"] is None:
            weights["onnxruntime"] = folder / "loop.onnx"
            weights["onnxruntime"].write_bytes(serialize_onnx(loop))
        for engine in options.engines:
            path = weights[JAVA_ENGINES[engine].kind]
            assert path is not None
            try:
                prepare_java(engine)
            except EngineMissingError as error:
                print(f"{engine}: not run, {error}")
                continue
            print(engine, flush=True)
            if options.torchscript is None and options.onnx is None:
                compare(engine, path, loop, large)
            measure(engine, path, options.rounds, sizes)
            if options.control and engine.startswith("libtorch"):
                control = folder / "control.pt"
                control.write_bytes(serialize_torchscript(Loop(SumsNotInPlace())))
                print(f"{engine}, sums not in place", flush=True)
                measure(engine, control, 1, SIZES)


if __name__ == "__main__":
    main()
