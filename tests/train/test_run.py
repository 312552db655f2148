"""Training: what a run folder holds, that it can be killed and resumed, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import xarray as xr

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import read_image, write_image
from deepcontrast_bmz.model.run_folder import read_run
from deepcontrast_bmz.records import RunRecord
from deepcontrast_bmz.settings import Recipe, read_recipe, recipe_to_toml
from deepcontrast_bmz.train import run as run_module
from deepcontrast_bmz.train import trainer
from deepcontrast_bmz.train.calibrate import Statistics
from deepcontrast_bmz.train.run import TrainingProgress, train_run

if TYPE_CHECKING:
    from pathlib import Path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "weights.pt", weights_only=True)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_folder_is_whole(tiny_run: Path, tiny_recipe: Recipe) -> None:
    assert read_recipe(tiny_run / "recipe.toml") == tiny_recipe
    record = RunRecord.model_validate_json((tiny_run / "run.json").read_text())
    assert record.steps == 7
    assert record.images[0].name == "stack.tif"
    assert record.images[0].used_for == "both"
    assert record.images[0].pixel_size_um == 0.5
    assert set(record.validation) == {"loss", "psnr_degraded", "psnr_restored"}
    history = (tiny_run / "history.csv").read_text().splitlines()
    assert len(history) == 1 + 3, "two whole epochs and what was left"
    assert len(list((tiny_run / "previews").glob("*.png"))) == 3
    assert sum(p.numel() for p in weights(tiny_run).values()) == record.parameters


@pytest.mark.slow
def test_same_seed_same_weights_other_seed_others(
    tmp_path: Path, stack_path: Path, tiny_run: Path, tiny_recipe: Recipe
) -> None:
    train_run([stack_path], tmp_path / "again", tiny_recipe, device="cpu")
    assert same(weights(tmp_path / "again"), weights(tiny_run))
    other = tiny_recipe.with_changes(seed=8)
    train_run([stack_path], tmp_path / "other", other, device="cpu")
    assert not same(weights(tmp_path / "other"), weights(tiny_run))


def test_recipe_survives_toml(tmp_path: Path, tiny_recipe: Recipe) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_to_toml(tiny_recipe))
    assert read_recipe(path) == tiny_recipe


def test_interrupted_run_resumes_to_the_same_weights(
    tmp_path: Path, stack_path: Path, tiny_run: Path, tiny_recipe: Recipe
) -> None:
    class Stop(Exception):  # noqa: N818 - it is no error
        pass

    def stop(state: TrainingProgress) -> None:
        if state.step == 5:
            raise Stop

    out = tmp_path / "run"
    with pytest.raises(Stop):
        train_run([stack_path], out, tiny_recipe, device="cpu", report=stop)
    assert not (out / "run.json").exists()
    steps: list[int] = []
    train_run([], out, resume=True, device="cpu", report=lambda state: steps.append(state.step))
    assert steps == [4, 5, 6, 7], "the epoch that was cut off is done again, whole"
    assert same(weights(out), weights(tiny_run))
    assert (out / "history.csv").read_text() == (tiny_run / "history.csv").read_text()


@pytest.mark.slow
def test_killed_run_resumes(tmp_path: Path, stack_path: Path, tiny_recipe: Recipe) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_to_toml(tiny_recipe.with_changes(steps=100_000)))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "deepcontrast_bmz", "train", str(stack_path)]
    process = subprocess.Popen(
        [*command, "-o", str(out), "--recipe", str(recipe), "--device", "cpu"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("checkpoints/*.ckpt"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, "training ended by itself"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "weights.pt").exists()
    # The newest checkpoint may be cut off anywhere: break it and resume from the one before.
    newest = max(out.glob("checkpoints/*.ckpt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    seen: list[int] = []

    def stop_soon(state: TrainingProgress) -> None:
        seen.append(state.step)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run([], out, resume=True, device="cpu", report=stop_soon)
    assert seen[0] > 1, "it went on and did not start anew"


def test_images_of_any_axes_train_together(tmp_path: Path, tiny_recipe: Recipe) -> None:
    sizes = {"t": 2, "z": 2, "c": 2, "y": 64, "x": 80}
    paths: list[Path] = []
    for dims in ("yx", "cyx", "zcyx", "tzcyx"):
        shape = [sizes[dim] for dim in dims]
        values = np.random.default_rng(0).gamma(2.0, 50.0, shape).astype(np.float32)
        order = [dim for dim in "tczyx" if dim in dims]
        paths.append(tmp_path / f"{dims}.ome.tif")
        write_image(xr.DataArray(values, dims=tuple(dims)).transpose(*order), paths[-1])
    recipe = tiny_recipe.with_changes(steps=1, channel=0)
    record = train_run(paths, tmp_path / "run", recipe, device="cpu")
    assert [image.dims for image in record.images] == ["yx", "yx", "zyx", "tzyx"]


def test_several_images_one_is_held_out(tmp_path: Path, tiny_recipe: Recipe) -> None:
    paths: list[Path] = []
    for number in range(3):
        values = np.random.default_rng(number).gamma(2.0, 50.0, (64, 64)).astype(np.float32)
        paths.append(tmp_path / f"{number}.tif")
        write_image(xr.DataArray(values, dims=("y", "x")), paths[-1])
    record = train_run(paths, tmp_path / "run", tiny_recipe.with_changes(steps=1), device="cpu")
    assert sorted(image.used_for for image in record.images) == [
        "training",
        "training",
        "validation",
    ]


def without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what is fitted after training, which takes longer than all else here."""

    def nothing(*_: object) -> Statistics:
        return Statistics(None, None)

    monkeypatch.setattr(run_module, "fit_statistics", nothing)


def test_tiny_grey_values_train_the_same_network(
    tmp_path: Path,
    stack_path: Path,
    tiny_run: Path,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_statistics(monkeypatch)
    stack = read_image(stack_path)
    tiny = (stack.astype(np.float32) * np.float32(2.0**-40)).assign_attrs(stack.attrs)
    write_image(tiny, tmp_path / "tiny.tif")
    record = train_run([tmp_path / "tiny.tif"], tmp_path / "run", tiny_recipe, device="cpu")
    assert same(weights(tmp_path / "run"), weights(tiny_run))
    whole = RunRecord.model_validate_json((tiny_run / "run.json").read_text())
    assert record.validation == whole.validation


def test_a_mostly_masked_image_trains_to_numbers(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_statistics(monkeypatch)
    values = np.zeros((400, 90), np.float32)
    values[150:200, 20:60] = np.random.default_rng(0).gamma(2.0, 5e-12, (50, 40))
    write_image(xr.DataArray(values, dims=("y", "x")), tmp_path / "mosaic.tif")
    recipe = tiny_recipe.with_changes(steps=1)
    record = train_run([tmp_path / "mosaic.tif"], tmp_path / "run", recipe, device="cpu")
    assert all(np.isfinite(score) and abs(score) < 100 for score in record.validation.values())
    assert read_run(tmp_path / "run")[1] == record


def test_scores_that_are_no_numbers_end_training_in_words(
    tmp_path: Path, stack_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_statistics(monkeypatch)
    monkeypatch.setattr(trainer, "_to_decibel", lambda ratio: ratio * math.nan)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(InputError, match="diverged"):
        train_run([stack_path], tmp_path / "run", tiny_recipe.with_changes(steps=1), device="cpu")
    assert not (tmp_path / "run" / "weights.pt").exists()


# ---- refusals


def test_unknown_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[training]\nstep = 3\n")
    with pytest.raises(InputError, match=r"unknown key 'training.step'"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = -1", "seed"),
        ("[physics]\nphotons = [9.0, 2.0]", "range"),
        ("[physics.scatter]\nweights = [0.5, 0.4]", "weights sum to one"),
        ("[physics.scatter]\nunit = 'um'\n[data]\nphantoms = 3", "data.phantoms"),
        ("seed = ", "not valid TOML"),
    ],
)
def test_bad_recipes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_recipe(path)


def test_a_folder_that_holds_something_is_not_overwritten(
    tmp_path: Path, stack_path: Path, tiny_recipe: Recipe
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something"):
        train_run([stack_path], tmp_path, tiny_recipe, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a run that was begun"):
        train_run([], tmp_path, resume=True)


def test_resume_refuses_a_finished_run(tiny_run: Path) -> None:
    with pytest.raises(InputError, match="has ended"):
        train_run([], tiny_run, resume=True)


def test_resume_refuses_other_images(
    tmp_path: Path, stack_path: Path, tiny_run: Path, tiny_recipe: Recipe
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("recipe.toml", "images.json"):
        (out / name).write_bytes((tiny_run / name).read_bytes())
    other = tmp_path / "other.tif"
    values = np.random.default_rng(0).gamma(2.0, 50.0, (64, 64)).astype(np.float32)
    write_image(xr.DataArray(values, dims=("y", "x")), other)
    with pytest.raises(InputError, match="differ from those"):
        train_run([other], out, resume=True)
    with pytest.raises(InputError, match="keeps its recipe"):
        train_run([stack_path], out, tiny_recipe.with_changes(steps=3), resume=True)


def test_no_image_and_nan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one image"):
        train_run([], tmp_path / "run")
    values = np.ones((40, 40), np.float32)
    values[3, 3] = np.nan
    path = tmp_path / "nan.tif"
    write_image(xr.DataArray(values, dims=("y", "x")), path)
    with pytest.raises(InputError, match=r"nan\.tif"):
        train_run([path], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_divergence_is_said(tmp_path: Path, stack_path: Path, tiny_recipe: Recipe) -> None:
    wild = tiny_recipe.training.model_copy(update={"learning_rate": 1e12, "gradient_clip": 1e12})
    with pytest.raises(InputError, match="training diverged"):
        train_run(
            [stack_path],
            tmp_path / "run",
            tiny_recipe.model_copy(update={"training": wild}),
            device="cpu",
        )


def test_images_json_holds_what_was_read(tiny_run: Path, stack_path: Path) -> None:
    (entry,) = json.loads((tiny_run / "images.json").read_text())
    assert entry["path"] == str(stack_path)
