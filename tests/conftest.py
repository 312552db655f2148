"""What several test files share: raw images to train on and one finished tiny run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: processes that share the cores use one each, as do those they start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch
import xarray as xr

from deepcontrast_bmz.image import write_image
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.records import RunRecord
from deepcontrast_bmz.settings import Recipe
from deepcontrast_bmz.train.run import train_run

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")


def raw_stack(planes: int = 4, size: int = 72, seed: int = 0) -> xr.DataArray:
    """Membranes under tissue as a 16-bit camera records them: (z, y, x)."""
    truth = np.stack(
        [
            phantom("membranes", (size, size), np.random.default_rng([seed, z]))
            for z in range(planes)
        ]
    )
    photons = scatter(torch.from_numpy(truth) * 400, 1.0, (3.0, 9.0), (0.7, 0.3))
    camera = Camera(gain=0.5, offset=100, read_noise_electrons=2, bit_depth=16)
    counts = expose(photons, camera, torch.Generator().manual_seed(seed))
    return xr.DataArray(
        counts.numpy().astype(np.uint16),
        dims=("z", "y", "x"),
        attrs={"pixel_size_um": {"z": 2.0, "y": 0.5, "x": 0.5}},
    )


def run_record(**changes: Any) -> RunRecord:
    """What is known of a run that nobody ran."""
    values: dict[str, Any] = {
        "version": "0",
        "torch_version": "2",
        "finished_utc": "2026-01-01T00:00:00+00:00",
        "device": "cpu",
        "training_seconds": 1,
        "steps": 1,
        "parameters": 92,
        "images": (),
        "validation": {},
    }
    return RunRecord.model_validate(values | changes)


def untrained_loop(recipe: Recipe) -> Loop:
    """A loop whose weights were drawn, always the same ones."""
    torch.manual_seed(3)
    return Loop.from_recipe(recipe).eval()


@pytest.fixture(autouse=True)
def threads_stay() -> Generator[None]:
    """Sums are rounded by the number of threads: a test that sets it must not change another's."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def stack_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw stack on disk."""
    path = tmp_path_factory.mktemp("raw") / "stack.tif"
    write_image(raw_stack(), path)
    return path


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """Settings that train in a second or two; two epochs of three steps and one of one."""
    return Recipe.model_validate(
        {
            "seed": 7,
            "physics": {"scatter": {"widths": [2.0, 6.0], "weights": [0.7, 0.3]}},
            "network": {"width": 4, "dilations": [1, 2, 1]},
            "loop": {"iterations": 3},
            "data": {"patch": 24},
            "training": {"steps": 7, "steps_per_epoch": 3, "batch": 2, "validation_patches": 3},
        }
    )


@pytest.fixture(scope="session")
def tiny_run(
    tmp_path_factory: pytest.TempPathFactory, stack_path: Path, tiny_recipe: Recipe
) -> Path:
    """A finished run of a tiny network."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train_run([stack_path], out, tiny_recipe, device="cpu")
    return out
