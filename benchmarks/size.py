"""Growth with image size: time per pixel and peak resident memory of ``dcbmz predict``.

    python benchmarks/size.py [MODEL] [--megapixels 1,4,16,64,400] [--workers 0,1,2,4]
                              [--workers-megapixels 16] [--iterations 2] [--runs 1]

Every image is a square uint16 TIFF, enhanced into an OME-Zarr by a process of its own, timed from
outside; the start of the program, measured on one pixel, is taken off. Images beyond
``predict.STREAMED_BYTES`` stream; ``--stream`` makes all of them do so. Ratios of time per pixel
are to the image nearest to 2048 x 2048. Then one image is enhanced by 1, 2, 4 worker processes
(0 is no worker: threads), and the results are compared bit for bit. Last, the time outside the
network at blocks of 512 is taken from one streamed image: the share of the processor time that
is not the model's, after a first run that loads what there is to load.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import torch

from deepcontrast_bmz.image import open_image
from deepcontrast_bmz.model import Model, open_model
from deepcontrast_bmz.physics.phantom import phantom

_CHILD = """
import resource, sys, psutil, threading, time
import deepcontrast_bmz.predict as room
if sys.argv[1] == "stream":
    room.STREAMED_BYTES = 0
peak, over = [0], threading.Event()
def watch():
    own = psutil.Process()
    while not over.wait(0.2):
        total = 0
        for process in (own, *own.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                pass
        peak[0] = max(peak[0], total)
if __name__ == "__main__":
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    from deepcontrast_bmz.cli import main
    try:
        main(sys.argv[2:])
    except SystemExit as ended:
        over.set()
        watcher.join()
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print("PEAK", max(own, peak[0]))
        raise
"""


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


def run(script: Path, mode: str, *words: object) -> tuple[float, float]:
    """Return seconds and peak megabytes, children included, of one ``dcbmz predict``."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(script), mode, "predict", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stderr)
    line = next(line for line in done.stdout.splitlines() if line.startswith("PEAK"))
    return seconds, float(line.split()[1]) / 1e6


def same(one: Path, other: Path) -> bool:
    """Say whether two images have the very same pixels."""
    first, second = open_image(one), open_image(other)
    height = first.shape[-2]
    return first.shape == second.shape and all(
        np.array_equal(
            first.pixels[..., top : top + 1024, :], second.pixels[..., top : top + 1024, :]
        )
        for top in range(0, height, 1024)
    )


def outside_the_network(model: Model, image: Path, out: Path, iterations: int) -> float:
    """Return the share of the processor time that is not the model's, at blocks of 512."""
    from deepcontrast_bmz import predict as room

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


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="deepcontrast")
    parser.add_argument("--megapixels", type=numbers, default=[1, 4, 16])
    parser.add_argument("--workers", type=numbers, default=[0, 1, 2, 4])
    parser.add_argument("--workers-megapixels", type=float, default=16)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--block", default="auto")
    parser.add_argument("--stream", action="store_true", help="stream small images, too")
    options = parser.parse_args()
    mode = "stream" if options.stream else "usual"
    common = ["--iterations", options.iterations, "--block", options.block, "--device", "cpu"]
    print(f"{os.cpu_count()} cores, {options.iterations} iterations, {options.runs} runs of each")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        script = folder / "child.py"
        script.write_text(_CHILD, encoding="utf-8")
        raw, out = folder / "raw.tif", folder / "out.zarr"
        tifffile.imwrite(raw, np.ones((1, 1), np.uint16))
        start = min(run(script, mode, options.model, raw, "-o", out, *common)[0] for _ in range(2))
        print(f"start of the program: {start:.1f} s", flush=True)
        measured: list[tuple[int, float]] = []
        for megapixels in options.megapixels:
            # 4 and 400 are 2048 x 2048 and 20,000 x 20,000.
            side = {4.0: 2048, 16.0: 4096}.get(megapixels) or round(float(megapixels * 1e6) ** 0.5)
            write_recording(raw, side)
            runs = [
                run(script, mode, options.model, raw, "-o", out, *common)
                for _ in range(options.runs)
            ]
            seconds = [max(taken - start, 0.0) / side**2 * 1e6 for taken, _ in runs]
            middle = statistics.median(seconds)
            measured.append((side, middle))
            peak = max(megabytes for _, megabytes in runs)
            print(
                f"{side} x {side}: {middle:.3f} microseconds per pixel "
                f"({min(seconds):.3f} to {max(seconds):.3f}), peak {peak:.0f} MB",
                flush=True,
            )
        reference = min(measured, key=lambda pair: abs(pair[0] - 2048))
        for side, middle in measured:
            print(f"{side} x {side}: {middle / reference[1]:.2f} times that at {reference[0]}")
        if options.workers:
            write_recording(raw, round((options.workers_megapixels * 1e6) ** 0.5))
            first: tuple[Path, float] | None = None
            for count in map(int, options.workers):
                target = folder / f"workers_{count}.zarr"
                words = [] if count == 0 else ["--workers", count]
                seconds, peak = run(
                    script, "stream", options.model, raw, "-o", target, *common, *words
                )
                first = first or (target, seconds)
                print(
                    f"{count} workers: {seconds:.1f} s, {first[1] / seconds:.2f} of the throughput "
                    f"of {first[0].stem}, peak {peak:.0f} MB, "
                    f"{'the same' if same(first[0], target) else 'OTHER'} pixels",
                    flush=True,
                )
        write_recording(raw, 1536)
        model = open_model(options.model, device="cpu")
        share = outside_the_network(model, raw, out, options.iterations)
        print(f"time outside the network at blocks of 512: {share:.1%}")


if __name__ == "__main__":
    main()
