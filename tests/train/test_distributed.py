"""Training spread over processes and pieces gives the model of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.settings import Recipe, recipe_to_toml
from deepcontrast_bmz.train.distributed import Spread, is_first_process, trainer_arguments
from deepcontrast_bmz.train.run import TrainingProgress, train_run

if TYPE_CHECKING:
    from pathlib import Path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "weights.pt", weights_only=True)


def largest_difference(one: Path, two: Path) -> float:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> Recipe:
    """Few steps of four patches, some beyond the last whole epoch."""
    training = tiny_recipe.training.model_copy(
        update={"steps": 3, "steps_per_epoch": 2, "batch": 4, "unroll": 2}
    )
    return tiny_recipe.model_copy(update={"training": training})


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, stack_path: Path, recipe: Recipe) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    train_run([stack_path], out, recipe, device="cpu")
    return out


# ---- who takes what


@pytest.mark.parametrize(("devices", "nodes", "accumulate"), [(1, 1, 1), (2, 1, 1), (2, 3, 2)])
def test_every_example_of_a_step_is_taken_once(devices: int, nodes: int, accumulate: int) -> None:
    spread = Spread(devices, nodes, accumulate)
    batch, steps = 24, range(3, 5)
    piece = spread.piece(batch)
    shares = [spread.share(steps, batch, process) for process in range(spread.processes)]
    for number, step in enumerate(steps):
        taken = [i for s in shares for i in s[number * piece * accumulate :][: piece * accumulate]]
        assert sorted(taken) == list(range(step * batch, (step + 1) * batch))


def test_two_processes_take_the_two_halves() -> None:
    assert [Spread(devices=2).share(range(2), 4, process) for process in (0, 1)] == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"devices": 0}, "--devices is at least 1, not 0"),
        ({"nodes": -1}, "--nodes is at least 1, not -1"),
        ({"accumulate": 0}, "--accumulate is at least 1"),
        ({"precision": "16"}, "auto, 32, bf16, not '16'"),
    ],
)
def test_impossible_spreads_are_refused(values: dict[str, int | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Spread(**values)  # pyright: ignore[reportArgumentType]


def test_a_batch_that_cannot_be_divided_is_refused_before_anything_is_written(
    tmp_path: Path, stack_path: Path, recipe: Recipe
) -> None:
    with pytest.raises(InputError, match="4 is not one of 1 x 1 x 3 = 3"):
        train_run([stack_path], tmp_path / "run", recipe, device="cpu", spread=Spread(accumulate=3))
    assert not (tmp_path / "run").exists()


def test_the_first_process_is_told_by_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert is_first_process()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert is_first_process()
    monkeypatch.setenv("NODE_RANK", "1")
    assert not is_first_process()


# ---- what Lightning is told


def test_one_process_needs_no_strategy() -> None:
    told = trainer_arguments(Spread(), "cpu")
    assert (told["strategy"], told["precision"], told["accelerator"]) == ("auto", "32-true", "cpu")
    assert trainer_arguments(Spread(nodes=2), "cpu")["strategy"] == "ddp"


@pytest.mark.parametrize(
    ("asked", "able", "expected"),
    [
        ("auto", True, "bf16-mixed"),
        ("auto", False, "32-true"),
        ("32", True, "32-true"),
        ("bf16", True, "bf16-mixed"),
    ],
)
def test_precision_on_a_gpu(
    asked: str, able: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: able)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    told = trainer_arguments(Spread(devices=2, precision=asked), "cuda")
    assert (told["precision"], told["accelerator"], told["devices"]) == (expected, "gpu", 2)
    with pytest.raises(InputError, match="needs as many GPUs, but there are 2"):
        trainer_arguments(Spread(devices=3), "cuda")


def test_an_apple_machine_has_one_gpu() -> None:
    assert trainer_arguments(Spread(), "mps")["accelerator"] == "mps"
    with pytest.raises(InputError, match="one GPU, not 2"):
        trainer_arguments(Spread(devices=2), "mps")


# ---- training


def test_accumulated_gradients_are_those_of_the_batch(
    tmp_path: Path, stack_path: Path, recipe: Recipe, alone: Path
) -> None:
    seen: list[TrainingProgress] = []
    train_run(
        [stack_path],
        tmp_path / "run",
        recipe,
        device="cpu",
        spread=Spread(accumulate=2),
        report=seen.append,
    )
    assert [state.step for state in seen] == [1, 2, 3], "once per optimiser step"
    assert all(state.patches_per_second > 0 for state in seen)
    assert largest_difference(tmp_path / "run", alone) <= 2e-6


def test_bfloat16_trains_another_model_that_is_near(
    tmp_path: Path, stack_path: Path, recipe: Recipe, alone: Path
) -> None:
    train_run([stack_path], tmp_path / "run", recipe, device="cpu", spread=Spread(precision="bf16"))
    assert 0 < largest_difference(tmp_path / "run", alone) < 0.1


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(
    tmp_path: Path, stack_path: Path, recipe: Recipe, alone: Path
) -> None:
    """Two processes on the CPU, as `dcbmz train --devices 2` starts them, connected by gloo."""
    (tmp_path / "recipe.toml").write_text(recipe_to_toml(recipe))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "WORLD_SIZE"}
    environment = {name: value for name, value in os.environ.items() if name not in ranks}
    environment |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "error::UserWarning", "-m", "deepcontrast_bmz", "train"]
    told = ["--recipe", str(tmp_path / "recipe.toml"), "--device", "cpu", "--devices", "2"]
    done = subprocess.run(
        [*command, str(stack_path), "-o", str(tmp_path / "run"), *told],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out patches") == 1, "only the first process speaks"
    assert "patches/s" in done.stderr
    assert largest_difference(tmp_path / "run", alone) <= 2e-6
    assert (tmp_path / "run" / "run.json").is_file()
    one, two = ((run / "history.csv").read_text().splitlines() for run in (alone, tmp_path / "run"))
    assert [line.split(",")[:2] for line in one] == [line.split(",")[:2] for line in two]


@pytest.mark.slow
def test_no_process_is_left_waiting_when_one_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "recipe.toml").write_text(recipe_to_toml(recipe))
    command = [sys.executable, "-m", "deepcontrast_bmz", "train", str(tmp_path / "none.tif")]
    told = ["-o", str(tmp_path / "run"), "--recipe", str(tmp_path / "recipe.toml")]
    done = subprocess.run(
        [*command, *told, "--device", "cpu", "--devices", "2"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
