"""Training that begins from a model, and finished runs that are trained longer."""

from __future__ import annotations

import csv
import hashlib
import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from deepcontrast_bmz.cli import main
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.model.open import find_shipped_folder, open_loop
from deepcontrast_bmz.records import RunRecord
from deepcontrast_bmz.settings import Recipe, read_recipe, recipe_to_toml
from deepcontrast_bmz.train import run as run_module
from deepcontrast_bmz.train.begin import begin_at, settings_of
from deepcontrast_bmz.train.calibrate import Statistics
from deepcontrast_bmz.train.run import TrainingProgress, train_longer, train_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def _without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """What is fitted after training takes longer than all else, and is not looked at here."""

    def nothing(*_: object) -> Statistics:
        return Statistics(None, None)

    monkeypatch.setattr(run_module, "fit_statistics", nothing)


class Stop(Exception):  # noqa: N818 - it is no error
    """Ends training as a power cut would."""


def stop_at(step: int) -> Callable[[TrainingProgress], None]:
    def stop(state: TrainingProgress) -> None:
        if state.step == step:
            raise Stop

    return stop


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "weights.pt", weights_only=True)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def history(run: Path) -> list[tuple[int, int]]:
    """Return (epoch, step) of every row."""
    with (run / "history.csv").open() as file:
        return [(int(row["epoch"]), int(row["step"])) for row in csv.DictReader(file)]


def losses(run: Path) -> list[float]:
    with (run / "history.csv").open() as file:
        return [float(row["validation_loss"]) for row in csv.DictReader(file)]


def test_a_run_begins_from_another_and_a_resumed_one_still_does(
    tmp_path: Path, stack_path: Path, tiny_run: Path, tiny_recipe: Recipe
) -> None:
    recipe = tiny_recipe.with_changes(steps=4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    record = train_run([stack_path], whole, recipe, device="cpu", begin_from=tiny_run)
    assert record == RunRecord.model_validate_json((whole / "run.json").read_text())
    assert record.begun_from is not None
    assert record.begun_from.name == "tiny"
    stored = (tiny_run / "weights.pt").read_bytes()
    assert record.begun_from.sha256 == hashlib.sha256(stored).hexdigest()
    assert history(whole) == [(0, 0), (1, 3), (2, 4)], "the model itself is judged first"
    # Same seed, same held-out patches: the model scores what its own run wrote down.
    before = RunRecord.model_validate_json((tiny_run / "run.json").read_text())
    assert losses(whole)[0] == pytest.approx(before.validation["loss"], rel=1e-5)
    assert record.validation["loss"] == min(losses(whole))

    # Killed before its first checkpoint, it begins from the same weights again.
    with pytest.raises(Stop):
        train_run([stack_path], cut, recipe, device="cpu", begin_from=tiny_run, report=stop_at(2))
    assert not list(cut.glob("checkpoints/*.ckpt"))
    again = train_run([], cut, resume=True, device="cpu")
    assert again.begun_from == record.begun_from
    assert same(weights(cut), weights(whole))


def test_a_finished_run_is_trained_longer_and_stays_whole_until_then(
    tmp_path: Path, stack_path: Path, tiny_run: Path, tiny_recipe: Recipe
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    shutil.copytree(tiny_run, whole)
    shutil.copytree(tiny_run, cut)
    seen: list[tuple[int, int]] = []
    record = train_longer(
        whole, 4, device="cpu", report=lambda state: seen.append((state.step, state.steps))
    )
    assert seen == [(8, 11), (9, 11), (10, 11), (11, 11)]
    assert (record.steps, record.restarts) == (11, (7,))
    assert read_recipe(whole / "recipe.toml") == tiny_recipe.with_changes(steps=11)
    assert history(whole) == [(1, 3), (2, 6), (3, 7), (4, 10), (5, 11)]
    assert record.validation["loss"] == min(losses(whole))
    assert len(list((whole / "previews").glob("*.png"))) == 5

    with pytest.raises(Stop):
        train_longer(cut, 4, [stack_path], device="cpu", report=stop_at(11))
    assert same(weights(cut), weights(tiny_run)), "it is what it was"
    assert open_loop(cut).name == "cut"
    with pytest.raises(InputError, match="being trained longer already"):
        train_longer(cut, 2, device="cpu")
    again = train_run([], cut, resume=True, device="cpu")
    assert (again.steps, again.restarts) == (11, (7,))
    assert same(weights(cut), weights(whole))
    assert (cut / "history.csv").read_text() == (whole / "history.csv").read_text()
    with pytest.raises(InputError, match="has ended"):
        train_run([], cut, resume=True, device="cpu")


def test_without_a_recipe_network_and_physics_are_the_models(
    tiny_run: Path, tiny_recipe: Recipe
) -> None:
    settings = settings_of(tiny_run)
    assert (settings.network, settings.physics) == (tiny_recipe.network, tiny_recipe.physics)
    assert settings.loop == tiny_recipe.loop
    assert settings.training == Recipe().training
    begin_at(tiny_run, settings)


def test_the_shipped_model_and_a_package_are_begun_from(tmp_path: Path) -> None:
    shipped = begin_at("deepcontrast", settings_of("deepcontrast"))
    assert shipped.begun_from is not None
    assert shipped.begun_from.name == "deepcontrast"
    content = (find_shipped_folder() / "weights" / "deepcontrast.pt").read_bytes()
    assert shipped.begun_from.sha256 == hashlib.sha256(content).hexdigest()
    described = begin_at(find_shipped_folder() / "rdf.yaml", settings_of("deepcontrast"))
    assert described.begun_from is not None
    assert described.begun_from.name == "rdf.yaml"
    assert same(described.weights, shipped.weights)
    with pytest.raises(InputError, match="does not exist"):
        begin_at(tmp_path / "gone.zip", Recipe())


# ---- refusals


@pytest.mark.parametrize(
    ("network", "key"),
    [
        ({"width": 6}, "width"),
        ({"dilations": [1, 2, 2]}, "dilations"),
        ({"kind": "dilated_3d"}, "kind"),
        ({"kind": "invertible"}, "kind"),
    ],
)
def test_another_network_is_refused_in_one_sentence(
    tmp_path: Path,
    stack_path: Path,
    tiny_run: Path,
    tiny_recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    network: dict[str, object],
    key: str,
) -> None:
    values = tiny_recipe.model_dump()
    values["network"] |= network
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(recipe_to_toml(Recipe.model_validate(values)))
    begin = ["--from", str(tiny_run), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main(["train", str(stack_path), "-o", str(out), "--recipe", str(recipe), *begin])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"network.{key}" in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_settings_that_mean_nothing_to_the_network_may_differ(
    tiny_run: Path, tiny_recipe: Recipe
) -> None:
    network = tiny_recipe.network.model_copy(update={"levels": 2, "mixing_layers": 1})
    start = begin_at(tiny_run, tiny_recipe.model_copy(update={"network": network}))
    assert same(start.weights, weights(tiny_run))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume", "--from", "deepcontrast"], "keeps what it began from"),
        (["--resume", "--steps", "3", "--from", "deepcontrast"], "leave out --recipe and --from"),
        (["--resume", "--steps", "3", "--seed", "2"], "with its own settings"),
        (["--from", "nowhere"], "does not exist"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path,
    stack_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", str(stack_path), "-o", str(tmp_path / "run"), *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_only_a_finished_run_is_trained_longer(tmp_path: Path, tiny_run: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("recipe.toml", "images.json"):
        shutil.copy(tiny_run / name, out / name)
    with pytest.raises(InputError, match="has not finished"):
        train_longer(out, 3)
    with pytest.raises(InputError, match="at least 1"):
        train_longer(tiny_run, 0)
