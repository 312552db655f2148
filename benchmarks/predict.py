"""Whole-process speed and memory of ``dcbmz predict`` against ``bioimageio predict``.

    python benchmarks/predict.py PACKAGE.zip [--images 8] [--side 1024] [--runs 3]

Both programs enhance the same folder of images with the same package, all iterations, in turn;
each run is a process of its own, timed from outside. Printed are the ratio of every pair of runs,
its median and spread, the peak memory of one 2048 x 2048 image, and the largest difference of the
results on an image of 517 x 391 pixels over their range. Only ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from deepcontrast_bmz.physics.phantom import phantom


def recording(height: int, width: int, seed: int) -> np.ndarray:
    """Return a noisy specimen, uint16."""
    rng = np.random.default_rng(seed)
    tile = phantom("mixed", (256, 256), rng)
    repeats = (-(-height // 256), -(-width // 256))
    light = np.tile(tile, repeats)[:height, :width]
    return (rng.poisson(200 * light + 20) * 2 + 100).astype(np.uint16)


def timed(command: list[str], cwd: Path) -> float:
    begun = time.perf_counter()
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - begun


def commands(package: Path, images: list[str], out: str) -> dict[str, list[str]]:
    tools = Path(sys.executable).parent
    listed = json.dumps([[name] for name in images])
    target = out if len(images) > 1 else f"{out}.out.tif"
    dcbmz = [str(tools / "dcbmz"), "predict", str(package), *images, "-o", target]
    reference = [str(tools / "bioimageio"), "predict", f"--inputs={listed}"]
    return {
        "dcbmz": [*dcbmz, "--all-iterations"],
        "bioimageio": [*reference, f"--outputs={out}_core/{{sample_id}}.tif", str(package)],
    }


def peak_megabytes(command: list[str], cwd: Path) -> float:
    """Largest resident memory of a child process, measured in a process of its own."""
    code = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, capture_output=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=cwd, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-large", action="store_true", help="leave 2048 x 2048 out")
    options = parser.parse_args()
    package = options.package.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = [f"image_{number}.tif" for number in range(options.images)]
        for number, name in enumerate(images):
            tifffile.imwrite(folder / name, recording(options.side, options.side, number))
        ratios: list[float] = []
        for number in range(options.runs):
            pair = commands(package, images, f"folder_{number}")
            seconds = {name: timed(command, folder) for name, command in pair.items()}
            ratios.append(seconds["bioimageio"] / seconds["dcbmz"])
            print(
                f"run {number + 1}: dcbmz {seconds['dcbmz']:.1f} s, bioimageio "
                f"{seconds['bioimageio']:.1f} s, ratio {ratios[-1]:.2f}",
                flush=True,
            )
        print(
            f"{options.images} images of {options.side} x {options.side}: dcbmz is "
            f"{statistics.median(ratios):.2f} times as fast (median of {options.runs}, "
            f"{min(ratios):.2f} to {max(ratios):.2f})"
        )
        tifffile.imwrite(folder / "odd.tif", recording(517, 391, 99))
        pair = commands(package, ["odd.tif"], "odd")
        for command in pair.values():
            timed(command, folder)
        mine = np.squeeze(tifffile.imread(folder / "odd.out.tif"))
        theirs = np.squeeze(tifffile.imread(next((folder / "odd_core").glob("*.tif"))))
        difference = float(np.abs(mine - theirs).max() / np.ptp(theirs))
        print(f"517 x 391, all iterations: largest difference {difference:.1e} of the range")
        if not options.no_large:
            tifffile.imwrite(folder / "large.tif", recording(2048, 2048, 100))
            for name, command in commands(package, ["large.tif"], "large").items():
                peak = peak_megabytes(command, folder)
                print(f"2048 x 2048, peak memory of {name}: {peak:.0f} MB", flush=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"processor time of all runs: {usage.ru_utime + usage.ru_stime:.0f} s")


if __name__ == "__main__":
    main()
