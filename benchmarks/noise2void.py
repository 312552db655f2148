"""Noise2Void by CAREamics, in an environment of its own.

Two roles in one file: imported by a benchmark it makes the environment and calls itself there;
run by that environment's Python it trains on images and denoises them:

    ENVIRONMENT/bin/python benchmarks/noise2void.py IMAGES.npz OUT.npz --steps N --seed S
"""

from __future__ import annotations

__all__ = ["VERSION", "UnusableError", "denoise", "environment"]

import argparse
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]

VERSION = "0.3.5"
PATCH, BATCH = 64, 8


class UnusableError(Exception):
    """Noise2Void cannot be run here; the message says what failed."""


def environment(folder: Path) -> Path:
    """Return the Python of an environment with CAREamics, made if it is not there.

    CAREamics asks for an older torch than ours, and an install beside us would replace it. Its
    Noise2Void runs with ours, so the environment sees the packages of the running one, and only
    what these lack is installed, without its own wishes.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    whole = folder / "whole"
    if whole.is_file() and whole.read_text(encoding="utf-8") == VERSION:
        return python
    venv.create(folder, with_pip=True, clear=True)
    own = _output([str(python), "-c", "import site; print(site.getsitepackages()[-1])"]).strip()
    ours = [path for path in sys.path if Path(path).name == "site-packages"]
    _ = (Path(own) / "zz_ours.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
    wanted = [f"careamics=={VERSION}", "microssim", "tqdm", "torchvision"]
    _ = _output([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *wanted])
    _ = _output([str(python), "-c", "import careamics.config"])
    _ = whole.write_text(VERSION, encoding="utf-8")
    return python


def denoise(
    images: Sequence[Float32], work: Path, python: Path, *, steps: int, seed: int
) -> list[Float32]:
    """Train one network on images of like brightness and return them denoised.

    Parameters
    ----------
    images : sequence of ndarray, (Y, X)
        Sides a multiple of 4.
    work : Path
        A folder of this training's own; a result that lies there is returned.
    python : Path
        From `environment`.
    steps : int
        Optimiser steps, about.
    seed : int

    Raises
    ------
    UnusableError
        If the training fails.
    """
    out = work / "denoised.npz"
    if not out.is_file():
        work.mkdir(parents=True, exist_ok=True)
        named = {f"image_{number:04d}": image for number, image in enumerate(images)}
        np.savez(work / "images.npz", **named)  # pyright: ignore[reportArgumentType]
        inner = [str(Path(__file__).absolute()), "images.npz", "denoised.npz"]
        given = ["--steps", str(steps), "--seed", str(seed)]
        _ = _output([str(python), "-P", "-W", "ignore", *inner, *given], work)
    with np.load(out) as found:
        return [found[name] for name in sorted(found.files)]


def _output(command: Sequence[str], folder: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        names = [Path(part).name for part in command if not part.startswith("-")]
        raise UnusableError(f"`{' '.join(names[:3])}` failed: {last}")
    return done.stdout


def _run(images: dict[str, Float32], steps: int, seed: int) -> dict[str, Float32]:
    """Train and predict; runs where CAREamics is installed."""
    from careamics import CAREamist  # pyright: ignore
    from careamics.config.factories.n2v_factory import (  # pyright: ignore
        create_advanced_n2v_config,
    )

    pixels = sum(image.size for image in images.values())
    per_epoch = max(1, round(pixels / PATCH**2 / BATCH))
    configuration: Any = create_advanced_n2v_config(
        experiment_name="noise2void",
        data_type="array",
        axes="YX",
        patch_size=[PATCH, PATCH],
        batch_size=BATCH,
        num_epochs=max(1, round(steps / per_epoch)),
        num_workers=0,
        trainer_params={"accelerator": "cpu", "enable_model_summary": False},
        seed=seed,
    )
    careamist: Any = CAREamist(configuration, work_dir=Path.cwd(), enable_progress_bar=False)
    careamist.train(train_data=list(images.values()))
    denoised: dict[str, Float32] = {}
    for name, image in images.items():
        found: Any = careamist.predict(pred_data=image, batch_size=1, num_workers=0)[0]
        denoised[name] = np.asarray(found[0], dtype=np.float32).reshape(image.shape)
    return denoised


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args(arguments)
    with np.load(given.images) as stored:
        images = {name: stored[name] for name in stored.files}
    denoised = _run(images, given.steps, given.seed)
    partial = given.out.with_suffix(".partial.npz")
    np.savez(partial, **denoised)  # pyright: ignore[reportArgumentType]
    _ = partial.replace(given.out)
    print(json.dumps({"images": len(denoised)}))


if __name__ == "__main__":
    main()
