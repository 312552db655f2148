"""Whole-process speed and memory of ``dcbmz predict`` against ``bioimageio predict``.

    python benchmarks/predict.py PACKAGE [--images 8] [--side 1024] [--runs 3] [--large]
                                 [--rivals whole blocks]

The programs enhance the same folder of images with the same package, all iterations, in turn:
dcbmz, bioimageio on whole images, and bioimageio block by block; each run is a process of its own
with one thread per core, timed from outside, start-up included. Printed are the ratios of each
round, their median and spread, by the clock and in processor time, which a shared machine disturbs
least, and the largest difference of the results on an image of
517 x 391 pixels over their range. ``--large`` adds the same for one image of 2048 x 2048, with peak
memory. Only ratios within one run mean anything.
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

from deepcontrast_bmz.physics.phantoms import phantom

WHOLE, BLOCKS = "bioimageio, whole images", "bioimageio, block by block"


def recording(height: int, width: int, seed: int) -> np.ndarray:
    """Return a noisy specimen, uint16."""
    rng = np.random.default_rng(seed)
    tile = phantom("mixed", (256, 256), rng)
    repeats = (-(-height // 256), -(-width // 256))
    light = np.tile(tile, repeats)[:height, :width]
    return (rng.poisson(200 * light + 20) * 2 + 100).astype(np.uint16)


class Spent(NamedTuple):
    """What a process took."""

    seconds: float
    processor: float
    """Processor seconds."""
    megabytes: float
    """Largest resident memory."""


def measured(command: list[str], cwd: Path) -> Spent:
    """Run a command; its memory is read in a process of its own, which has no other child."""
    code = (
        "import resource, subprocess, sys;"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True);"
        "sys.stderr.write(done.stderr[-2000:]);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024);"
        "sys.exit(done.returncode)"
    )
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    whole = [sys.executable, "-S", "-c", code, *command]
    begun = time.perf_counter()
    done = subprocess.run(whole, cwd=cwd, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed: {done.stderr}")
    return Spent(seconds, *map(float, done.stdout.split()))


def commands(package: Path, images: list[str], out: str, blockwise: int) -> dict[str, list[str]]:
    tools = Path(sys.executable).parent
    listed = json.dumps([[name] for name in images])
    target = out if len(images) > 1 else f"{out}.out.tif"
    dcbmz = [str(tools / "dcbmz"), "predict", str(package), *images, "-o", target]
    reference = [str(tools / "bioimageio"), "predict", f"--inputs={listed}"]
    return {
        "dcbmz": [*dcbmz, "--all-iterations"],
        WHOLE: [*reference, f"--outputs={out}_core/{{sample_id}}.tif", str(package)],
        BLOCKS: [
            *reference,
            f"--outputs={out}_blocks/{{sample_id}}.tif",
            f"--blockwise={blockwise}",
            str(package),
        ],
    }


def compare(
    package: Path, images: list[str], folder: Path, options: argparse.Namespace
) -> dict[str, list[Spent]]:
    """Run all programs in turn and print their ratios to dcbmz."""
    rivals = [{"whole": WHOLE, "blocks": BLOCKS}[name] for name in options.rivals]
    spent: dict[str, list[Spent]] = {}
    for number in range(options.runs):
        turn = commands(package, images, f"{images[0]}_{number}", options.blockwise)
        for name, command in turn.items():
            if name != "dcbmz" and name not in rivals:
                continue
            spent.setdefault(name, []).append(measured(command, folder))
        print(
            f"run {number + 1}: "
            + ", ".join(
                f"{name} {runs[-1].seconds:.1f} s ({runs[-1].processor:.1f} of processors)"
                for name, runs in spent.items()
            )
            + f", load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    for name in rivals:
        pairs = list(zip(spent["dcbmz"], spent[name], strict=True))
        clock = [other.seconds / own.seconds for own, other in pairs]
        processor = [other.processor / own.processor for own, other in pairs]
        print(
            f"dcbmz is {statistics.median(clock):.2f} times as fast as {name} (median of "
            f"{options.runs}, {min(clock):.2f} to {max(clock):.2f}), in processor time "
            f"{statistics.median(processor):.2f} ({min(processor):.2f} to {max(processor):.2f})",
            flush=True,
        )
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--blockwise", type=int, default=512, help="size of bioimageio's blocks")
    parser.add_argument("--rivals", nargs="+", choices=["whole", "blocks"])
    parser.set_defaults(rivals=["whole", "blocks"])
    parser.add_argument("--large", action="store_true", help="one image of 2048 x 2048, too")
    options = parser.parse_args()
    package = options.package.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = [f"image_{number}.tif" for number in range(options.images)]
        for number, name in enumerate(images):
            tifffile.imwrite(folder / name, recording(options.side, options.side, number))
        print(f"{options.images} images of {options.side} x {options.side}")
        compare(package, images, folder, options)
        tifffile.imwrite(folder / "odd.tif", recording(517, 391, 99))
        turn = commands(package, ["odd.tif"], "odd", options.blockwise)
        for name in ("dcbmz", WHOLE):
            measured(turn[name], folder)
        mine = np.squeeze(tifffile.imread(folder / "odd.out.tif"))
        theirs = np.squeeze(tifffile.imread(next((folder / "odd_core").glob("*.tif"))))
        difference = float(np.abs(mine - theirs).max() / np.ptp(theirs))
        print(f"517 x 391, all iterations: largest difference {difference:.1e} of the range")
        if options.large:
            tifffile.imwrite(folder / "large.tif", recording(2048, 2048, 100))
            print("one image of 2048 x 2048")
            for name, runs in compare(package, ["large.tif"], folder, options).items():
                print(f"peak memory of {name}: {max(run.megabytes for run in runs):.0f} MB")


if __name__ == "__main__":
    main()
