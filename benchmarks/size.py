"""Growth with image size: time per pixel and peak memory of ``dcbmz predict``.

    python benchmarks/size.py [MODEL] [--megapixels 1,4,16,64,400] [--iterations 2] [--runs 1]
                              [--stream]
    python benchmarks/size.py [MODEL] --bytes

Every image is a square uint16 TIFF, enhanced into an OME-Zarr by a process of its own, timed from
outside; the start of the program, measured on one pixel, is taken off. Images beyond
``STREAMED_BYTES`` stream; ``--stream`` makes all of them do so. Ratios of time per pixel
are to the image nearest to 2048 x 2048. Of the resident memory, *own* is what the program
allocated, the rest pages of files, such as libraries, which the system takes back when it needs
the room.

The processor time shows whether another program was in the way. Last, the time outside the network
at blocks of 512 is taken from one streamed image: the share of the processor time that is not the
model's, after a first run that loads what there is to load.

``--bytes`` measures instead what a block takes per pixel with its surroundings, from which
``--block auto`` is reckoned: the peak of a process while it runs a block, less what it took
before, for every kind of network and two sizes. The graphs of MODEL have all its iterations, and
mirror at the border of a block by themselves, so that they take more for a small one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
import torch

from deepcontrast_bmz.model.model import Model
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.phantoms import phantom

_CHILD = """
import json, psutil, resource, sys, threading
import deepcontrast_bmz.predict.files as room
if sys.argv[1] == "stream":
    room.STREAMED_BYTES = 0
peak, own, over = [0], [0], threading.Event()
def watch():
    this = psutil.Process()
    while not over.wait(0.05):
        memory = this.memory_info()
        peak[0] = max(peak[0], memory.rss)
        own[0] = max(own[0], memory.rss - getattr(memory, "shared", 0))
if __name__ == "__main__":
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    from deepcontrast_bmz.cli import main
    try:
        main(sys.argv[2:])
    except SystemExit as ended:
        over.set()
        watcher.join()
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = used.ru_utime + used.ru_stime
        most = max(used.ru_maxrss * 1024, peak[0])
        print("MEASURED", json.dumps([cpu, most / 1e6, own[0] / 1e6]))
        raise
"""

_BLOCK = """
import sys, torch
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.settings import NetworkSettings
from deepcontrast_bmz.model.devices import fast_loop
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.model.open import open_model
kind, iterations, *sides = sys.argv[1], *map(int, sys.argv[2:])
def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
way, _, name = kind.partition(" of ")
multiple = 1
if way == "onnx" and name == "dilated_3d":
    from deepcontrast_bmz.model.devices import open_onnx_session
    from deepcontrast_bmz.export.onnx import serialize_onnx
    loop = Loop(build_network(NetworkSettings(kind=name)), iterations).eval()
    session, _ = open_onnx_session(serialize_onnx(loop), "cpu")
    radii, given = loop.network.radii, session.get_inputs()[0].name
    run = lambda x, _: session.run(None, {given: x.numpy()})
elif name and way != "whole":
    model = open_model(name, weights=way, device="cpu")
    iterations, radii, run = model.description.iterations, model.radii, model.runner
else:
    loop = Loop(build_network(NetworkSettings(kind=name or kind)), iterations).eval()
    loop = loop if name else fast_loop(loop, "cpu")
    radii, run = getattr(loop.network, "radii", (loop.network.radius,) * 2), loop.iterate
    multiple = loop.network.multiple
full = [n + 2 * iterations * r for n, r in zip(sides, radii, strict=True)]
full = full[:-2] + [-(-n // multiple) * multiple for n in full[-2:]]
block = 100 + torch.rand(1, 1, *full)
with torch.inference_mode():
    run(torch.ones(1, 1, *(2 * iterations * r + 8 * multiple for r in radii)), iterations)
    before = memory("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # forgets the peak so far
    run(block, iterations)
pixels = block.numel()
print("MEASURED", [(memory("VmHWM") - before) / pixels, pixels])
"""


class Spent(NamedTuple):
    """What a process took."""

    seconds: float
    cpu: float
    """Processor seconds."""
    peak: float
    """Largest resident memory in megabytes."""
    own: float
    """The part of it that is no page of a file."""


def write_recording(path: Path, side: int) -> None:
    """Write a noisy specimen of `side` x `side` pixels, a band of rows at a time."""
    rng = np.random.default_rng(side)
    tile = phantom("mixed", (256, 256), rng)

    def rows(top: int) -> np.ndarray:
        count = min(256, side - top)
        light = np.tile(tile, (1, -(-side // 256)))[:count, :side]
        return (rng.poisson(200 * light + 20) * 2 + 100).astype(np.uint16)

    target = tifffile.memmap(path, shape=(side, side), dtype=np.uint16, photometric="minisblack")
    for top in range(0, side, 256):
        target[top : top + 256] = rows(top)
    target.flush()


def child(script: Path, *words: object) -> tuple[float, list[float]]:
    """Return the seconds of a process, and what it says that it measured."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stderr)
    line = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED"))
    return seconds, json.loads(line.removeprefix("MEASURED"))


def run(script: Path, mode: str, *words: object) -> Spent:
    """Return what one ``dcbmz predict`` took."""
    seconds, measured = child(script, mode, "predict", *words)
    return Spent(seconds, *measured)


def outside_the_network(model: Model, image: Path, out: Path, iterations: int) -> float:
    """Return the share of the processor time that is not the model's, at blocks of 512."""
    from deepcontrast_bmz.predict import files as room

    room.STREAMED_BYTES = 0
    inside: list[float] = []
    iterate = Model.iterate

    def timed(self: Model, *arguments: object) -> object:
        begun = time.thread_time()
        result = iterate(self, *arguments)  # pyright: ignore[reportArgumentType]
        inside.append(time.thread_time() - begun)
        return result

    # With one thread, the time of the thread that calls the model is all of the model's.
    torch.set_num_threads(1)
    room.predict_files(model, [image], out, iterations=1, block=512)
    Model.iterate = timed  # pyright: ignore[reportAttributeAccessIssue]
    try:
        begun = time.process_time()
        room.predict_files(model, [image], out, iterations=iterations, block=512)
        return 1 - sum(inside) / (time.process_time() - begun)
    finally:
        Model.iterate = iterate


def bytes_per_pixel(folder: Path, model: str) -> None:
    """Print what a block of every kind of network takes per pixel."""
    script = folder / "block.py"
    script.write_text(_BLOCK, encoding="utf-8")
    kinds: list[tuple[str, int, list[tuple[int, ...]]]] = [
        ("dilated", 4, [(1024, 1024), (2048, 2048)]),
        ("invertible", 4, [(384, 384), (768, 768)]),
        (f"onnx of {model}", 4, [(384, 384), (768, 768)]),
        (f"torchscript of {model}", 4, [(384, 384), (768, 768)]),
        ("dilated_3d", 2, [(16, 128, 128), (16, 256, 256)]),
        ("whole of dilated_3d", 1, [(16, 64, 64), (16, 128, 128)]),
        ("onnx of dilated_3d", 1, [(16, 64, 64), (16, 128, 128)]),
    ]
    print("| network | iterations | block | bytes per pixel with surroundings | together |")
    print("|---|---|---|---|---|")
    for kind, iterations, blocks in kinds:
        for sides in blocks:
            _, (each, pixels) = child(script, kind, iterations, *sides)
            size, together = " x ".join(map(str, sides)), each * pixels / 1e6
            print(f"| {kind} | {iterations} | {size} | {each:.0f} | {together:.0f} MB |")
            sys.stdout.flush()


def growth(
    script: Path, folder: Path, mode: str, options: argparse.Namespace, common: list[object]
) -> None:
    """Print time per pixel and memory as images grow."""
    raw, out = folder / "raw.tif", folder / "out.zarr"
    tifffile.imwrite(raw, np.ones((1, 1), np.uint16))
    start = min(
        (run(script, mode, options.model, raw, "-o", out, *common) for _ in range(2)),
        key=lambda spent: spent.seconds,
    )
    print(f"start of the program: {start.seconds:.1f} s, {start.cpu:.1f} s of processors")
    measured: list[tuple[int, float, float]] = []
    for megapixels in options.megapixels:
        # 4 and 400 are 2048 x 2048 and 20,000 x 20,000.
        side = {4.0: 2048, 16.0: 4096}.get(megapixels) or round(float(megapixels * 1e6) ** 0.5)
        write_recording(raw, side)
        runs = [
            run(script, mode, options.model, raw, "-o", out, *common) for _ in range(options.runs)
        ]
        seconds = [max(one.seconds - start.seconds, 0.0) / side**2 * 1e6 for one in runs]
        cpu = statistics.median((one.cpu - start.cpu) / side**2 * 1e6 for one in runs)
        middle = statistics.median(seconds)
        measured.append((side, middle, cpu))
        print(
            f"{side} x {side}: {middle:.3f} microseconds per pixel "
            f"({min(seconds):.3f} to {max(seconds):.3f}), {cpu:.3f} of processors, "
            f"peak {max(one.peak for one in runs):.0f} MB, own {max(one.own for one in runs):.0f}",
            flush=True,
        )
    reference = min(measured, key=lambda found: abs(found[0] - 2048))
    for side, middle, cpu in measured:
        print(
            f"{side} x {side}: {middle / reference[1]:.2f} times that at {reference[0]}, "
            f"{cpu / reference[2]:.2f} times the processor time",
            flush=True,
        )


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="deepcontrast")
    parser.add_argument("--megapixels", type=numbers, default=[1, 4, 16])
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--block", default="auto")
    parser.add_argument("--stream", action="store_true", help="stream small images, too")
    parser.add_argument("--bytes", action="store_true", help="bytes per pixel of a block, instead")
    options = parser.parse_args()
    mode = "stream" if options.stream else "usual"
    common: list[object] = ["--iterations", options.iterations, "--device", "cpu"]
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.iterations} iterations, "
        f"{options.runs} runs of each",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.bytes:
            bytes_per_pixel(folder, options.model)
            return
        script = folder / "child.py"
        script.write_text(_CHILD, encoding="utf-8")
        if options.megapixels:
            growth(script, folder, mode, options, ["--block", options.block, *common])
        raw = folder / "raw.tif"
        write_recording(raw, 1536)
        model = open_model(options.model, device="cpu")
        share = outside_the_network(model, raw, folder / "out.zarr", options.iterations)
        print(f"time outside the network at blocks of 512: {share:.1%}")


if __name__ == "__main__":
    main()
