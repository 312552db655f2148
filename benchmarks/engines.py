"""Seconds of the first, second and third run at new image sizes, in the engines of Java programs.

    python benchmarks/engines.py [--engines NAME ...] [--rounds 3] [--control]

An engine that compiles anew for every image size stalls on the second run at each (libtorch 2.0,
where TorchScript is profiled by the first). Every round is a Java process of its own that meets
the sizes in the same order; the table gives, for each size, the least seconds of all rounds (a
stall is in every round, other work of the machine is not) and the ratios to the first run. With
`--control` the default network is run as well with its sums not done in place, which libtorch 2.0
fuses: what a stall looks like.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from deepcontrast_bmz.check.engines.engine import EngineMissingError
from deepcontrast_bmz.check.engines.java import JAVA_ENGINES, prepare_java, run_java
from deepcontrast_bmz.export.onnx import onnx_bytes
from deepcontrast_bmz.export.torchscript import torchscript_bytes
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import DilatedNetwork
from deepcontrast_bmz.model.network.layers import sort_pairs

SIZES = ((37, 61), (136, 200), (301, 515), (120, 90), (256, 256))
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


def measure(engine: str, weights: Path, rounds: int) -> None:
    """Print the table of one engine."""
    rng = np.random.default_rng(0)
    inputs = [rng.random((1, 1, *size), dtype=np.float32) for size in SIZES]
    seconds = np.array(
        [
            [run.seconds for run in run_java(engine, weights, inputs, repeats=REPEATS)]
            for _ in range(rounds)
        ]
    ).min(axis=0)
    for size, calls in zip(SIZES, seconds, strict=True):
        ratios = calls[1:] / calls[0]
        shown = " ".join(f"{second:7.3f}" for second in calls)
        stalls = "  stalls" if ratios.max() > ALLOWED else ""
        words = " ".join(f"{ratio:5.2f}" for ratio in ratios)
        print(f"  {size[0]:4d} x {size[1]:4d}   {shown} s   ratios {words}{stalls}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="*", choices=list(JAVA_ENGINES), default=[*JAVA_ENGINES])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torchscript", type=Path, help="instead of the default network")
    parser.add_argument("--onnx", type=Path, help="instead of the default network")
    parser.add_argument("--control", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        loop = Loop(DilatedNetwork())
        weights: dict[str, Path | None] = {"libtorch": options.torchscript}
        weights["onnxruntime"] = options.onnx
        if weights["libtorch"] is None:
            weights["libtorch"] = folder / "loop.pt"
            weights["libtorch"].write_bytes(torchscript_bytes(loop))
        if weights["onnxruntime"] is None:
            weights["onnxruntime"] = folder / "loop.onnx"
            weights["onnxruntime"].write_bytes(onnx_bytes(loop))
        for engine in options.engines:
            path = weights[JAVA_ENGINES[engine].kind]
            assert path is not None
            try:
                prepare_java(engine)
            except EngineMissingError as error:
                print(f"{engine}: not run, {error}")
                continue
            print(engine, flush=True)
            measure(engine, path, options.rounds)
            if options.control and engine.startswith("libtorch"):
                control = folder / "control.pt"
                control.write_bytes(torchscript_bytes(Loop(SumsNotInPlace())))
                print(f"{engine}, sums not in place", flush=True)
                measure(engine, control, 1)


if __name__ == "__main__":
    main()
