"""The comparison with rivals runs, small, goes on where it was, and counts right."""

from __future__ import annotations

import collections
import importlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from benchmark_scripts import FOLDER, Sharpener, sharpener
from scipy import ndimage

from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.settings import DataSettings, NetworkSettings, Recipe, TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path

    pass


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As when a script is run from its own folder."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def model() -> Sharpener:
    return sharpener()


@pytest.fixture
def small(benchmarks: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the benchmark, its phantoms small and its rivals quick."""
    monkeypatch.setattr(benchmarks("phantoms"), "SIDES", (64, 72))
    monkeypatch.setattr(benchmarks("phantoms"), "LUCY_ITERATIONS", 15)
    monkeypatch.setattr(benchmarks("rival_methods"), "BLIND_DEPTHS", (1.0,))
    monkeypatch.setattr(benchmarks("rival_methods"), "BLIND_WIDTHS", (1.0,))
    return benchmarks("rivals")


def test_the_design_is_full_and_each_third_of_it_balanced(benchmarks: Any) -> None:
    rivals = benchmarks("rivals")
    cells = rivals.design(1)
    assert len({cell.key for cell in cells}) == len({cell.seed for cell in cells}) == 135
    for first in (0, 45, 90):
        for pair in ((0, 1), (1, 2), (1, 3), (2, 3)):
            counts = collections.Counter(
                tuple(cell[i] for i in pair) for cell in cells[first : first + 45]
            )
            assert len(set(counts.values())) == 1
    more = rivals.design(2)
    assert more[:135] == cells
    assert min(cell.seed for cell in more[135:]) > max(cell.seed for cell in cells)
    assert [cell.depth for cell in rivals.design(1, quick=True)] == list(rivals.DEPTHS)


def test_a_cell_is_drawn_with_its_light_and_kernel(small: Any) -> None:
    dim, bright = (small.Cell("tubes", 1.0, b, k, 7).draw() for b, k in ((0.3, 0), (3.0, 1)))
    np.testing.assert_allclose(bright.truth, 10 * dim.truth)
    assert bright.widths_px == tuple(1.5 * width for width in dim.widths_px)


def test_every_method_is_scored_once_and_the_command_goes_on(
    small: Any,
    model: Sharpener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[float] = []
    saved: list[str] = []

    def ceiling_score(_: Any, case: Any) -> Any:
        made.append(case.seed)
        return small.score(1, case.truth, case)

    def denoise(images: list[Any], *_: Any, **__: Any) -> list[Any]:
        return [ndimage.gaussian_filter(image, 1.0) for image in images]

    def environment(folder: Path) -> Path:
        return folder

    def open_model(_: str) -> Sharpener:
        return model

    def ceiling(*_: Any) -> None:
        return None

    def save(name: str, *_: Any, **given: Any) -> None:
        saved.append(f"{name} {given['order']} {given['command']}")

    for name, stand_in in {
        "open_model": open_model,
        "ceiling_score": ceiling_score,
        "denoise": denoise,
        "environment": environment,
        "_ceiling": ceiling,
        "save": save,
    }.items():
        monkeypatch.setattr(small, name, stand_in)
    given = ["sharpener", "--work", str(tmp_path), "--quick", "--images", "2", "--record"]
    given += ["--ceiling-steps", "7"]
    small.main(given)
    first = capsys.readouterr().out
    assert len(made) == 2
    assert saved == [
        "rivals 10 python benchmarks/rivals.py sharpener --record --quick --images 2 "
        "--ceiling-steps 7"
    ]
    table = first[first.index("| method") :].split("\n\n")[0].splitlines()[2:]
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table}
    assert len(cells) == len(table) == 18
    assert [*cells][-5] == "Noise2Void"
    assert cells["raw"][2] == "1.00"
    # The truth itself: contrast and correlation one, in every image.
    assert cells["same network, taught with the truth"][3:] == ["1.00", "100 %", "1.000 |"]
    psnr = {name: float(line[1]) for name, line in cells.items() if name[:4] != "same"}
    for name in ("wavelet", "unsharp", "Richardson-Lucy, blind", "Gaussian background"):
        assert psnr[name] > psnr["raw"]
    assert psnr["model, best dial"] >= psnr["model, `--dial auto`"]
    assert "| all | 2 |" in first

    # Nothing is made again, not even after a line that was cut off.
    with (tmp_path / "scores.jsonl").open("a", encoding="utf-8") as file:
        _ = file.write('{"image": "torn')

    def never(*_: Any) -> None:
        raise AssertionError("made again")

    for name in ("ceiling_score", "rivals", "recent_rivals", "learned"):
        monkeypatch.setattr(small, name, never)
    small.main(given)
    assert capsys.readouterr().out == first


def test_a_rival_that_cannot_be_run_is_said(
    small: Any,
    model: Sharpener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def environment(_: Path) -> Path:
        raise small.UnusableError("`pip install` failed: no network")

    def open_model(_: str) -> Sharpener:
        return model

    monkeypatch.setattr(small, "open_model", open_model)
    monkeypatch.setattr(small, "environment", environment)
    small.main(["--work", str(tmp_path), "--quick", "--images", "1", "--without", "ceiling"])
    printed = capsys.readouterr().out
    assert "Noise2Void could not be run: `pip install` failed: no network." in printed
    assert "| Noise2Void |" not in printed


@pytest.mark.parametrize("given", [["--seeds", "0"], ["--images", "0"]])
def test_no_phantom_is_no_benchmark(
    small: Any, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        small.main(given)
    assert stop.value.code == 2
    assert f"{given[0]} is at least 1" in capsys.readouterr().err


def test_scores_survive_an_interruption(benchmarks: Any, tmp_path: Path) -> None:
    methods, phantoms = benchmarks("rival_methods"), benchmarks("phantoms")
    path = tmp_path / "scores.jsonl"
    known = {"raw": phantoms.Score(0.0, 20.0, 0.5, 0.9)}
    assert methods.Store(path, phantoms.Score).get("a", "classical", lambda: known) == known
    with path.open("a", encoding="utf-8") as file:
        _ = file.write('{"image": "b"')
    store = methods.Store(path, phantoms.Score)
    assert store.get("a", "classical", dict) == known
    assert store.get("b", "classical", lambda: known) == known
    whole = [line for line in path.read_text(encoding="utf-8").splitlines() if line[-1:] == "}"]
    assert [json.loads(line)["image"] for line in whole] == ["a", "b"]


# ---- the ceiling


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        network=NetworkSettings(width=4, dilations=(1, 1)),
        data=DataSettings(patch=16),
        training=TrainingSettings(batch=2),
    )


def test_the_ceiling_is_taught_the_specimen_at_depths_of_all_kinds(
    benchmarks: Any, recipe: Recipe
) -> None:
    ceiling = benchmarks("ceiling")
    sharp = 1000 * phantom("tubes", (160, 160), np.random.default_rng(1))
    planes = [ceiling.RawPlane(sharp, 0, "tubes", (5.5, 24.0))]
    recipe = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"zoom": (1.0, 1.0)}),
            "physics": recipe.physics.model_copy(update={"photons": (1e6, 1e6)}),
        }
    )
    pairs = ceiling.TruePairs(planes, recipe, radius=2, length=6)
    ratios: list[float] = []
    for index in range(6):
        pair, again = pairs[index], pairs[index]
        assert torch.equal(pair["degraded"], again["degraded"])
        assert pair["raw"].shape == (1, 16, 16)
        assert pair["degraded"].shape == (1, 20, 20)
        # Every target is a piece of the specimen, unrotated or not.
        assert np.isin(pair["raw"].numpy().round(2), sharp.round(2)).mean() > 0.99
        ratios.append(float(pair["degraded"].std() / pair["raw"].std()))
    assert min(ratios) < 0.5 * max(ratios)


def test_the_ceiling_goes_on_to_the_weights_it_would_have_had(
    benchmarks: Any, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ceiling = benchmarks("ceiling")
    monkeypatch.setattr(ceiling, "STEPS_PER_CHECKPOINT", 1)
    few = {"specimens": 2, "side": 64}
    whole = ceiling.train_ceiling(tmp_path / "whole", 3, recipe, **few)

    class Interrupted(Exception):  # noqa: N818 - it is caught here
        pass

    def write(*given: Any, **_: Any) -> None:
        if "step 2 of 3" in given[0]:
            raise Interrupted

    monkeypatch.setattr("builtins.print", write)
    with pytest.raises(Interrupted):
        ceiling.train_ceiling(tmp_path / "cut", 3, recipe, **few)
    assert ceiling.load_ceiling(tmp_path / "cut", 3, recipe) is None
    resumed = ceiling.train_ceiling(tmp_path / "cut", 3, recipe, **few)
    loaded = ceiling.load_ceiling(tmp_path / "cut", 3, recipe)
    assert loaded is not None
    counts = torch.rand(30, 40, generator=torch.Generator().manual_seed(1)) * 50 + 100
    expected = ceiling.one_pass(whole, counts)
    assert expected.shape == counts.shape
    for loop in (resumed, loaded):
        assert torch.equal(ceiling.one_pass(loop, counts), expected)


# ---- Noise2Void


def test_what_noise2void_made_is_kept_and_a_failure_is_told_in_one_sentence(
    benchmarks: Any, tmp_path: Path
) -> None:
    noise2void = benchmarks("noise2void")
    images = [np.full((8, 8), float(i), np.float32) for i in range(12)]
    np.savez(tmp_path / "denoised.npz", **{f"image_{i:04d}": a for i, a in enumerate(images)})  # pyright: ignore[reportArgumentType]
    kept = noise2void.denoise(images, tmp_path, tmp_path / "no-python", steps=1, seed=0)
    assert [float(image[0, 0]) for image in kept] == list(range(12))
    broken = tmp_path / "broken"
    (tmp_path / "false").write_text("#!/bin/sh\necho it broke >&2\nexit 3\n", encoding="utf-8")
    (tmp_path / "false").chmod(0o755)
    with pytest.raises(noise2void.UnusableError, match=r"noise2void.py.* failed: it broke"):
        noise2void.denoise(images, broken, tmp_path / "false", steps=1, seed=0)


# ---- local contrast and real images


def test_local_contrast_is_compared_place_by_place(benchmarks: Any) -> None:
    factor = benchmarks("local_contrast").local_contrast_factor
    sharp = 100 + 100 * phantom("membranes", (96, 96), np.random.default_rng(2)).astype(np.float64)
    smooth = ndimage.gaussian_filter(sharp, 12.0)
    assert factor(sharp, sharp) == 1
    assert factor(7 * sharp, sharp) == pytest.approx(1)
    for share in (0.5, 2.0):
        weaker = smooth + share * (sharp - smooth)
        assert factor(weaker, sharp) == pytest.approx(2, rel=0.05)
    # Too much on one side and too little on the other do not cancel.
    sides = np.where(np.arange(96) < 48, 0.5, 2.0)
    assert factor(smooth + sides * (sharp - smooth), sharp) == pytest.approx(2, rel=0.1)
    valid = np.zeros((96, 96), bool)
    valid[:, 64:] = True
    right = np.where(np.arange(96) < 48, 0.5, 1.0)
    half_right = smooth + right * (sharp - smooth)
    assert factor(half_right, sharp, valid=valid) == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match="no pixel counts"):
        factor(sharp, sharp, valid=np.zeros_like(valid))
    with pytest.raises(ValueError, match="one shape"):
        factor(sharp[1:], sharp)


def test_two_microscopes_are_brought_together(benchmarks: Any) -> None:
    real = benchmarks("real_pairs")
    specimen = phantom("nuclei", (100, 110), np.random.default_rng(3)).astype(np.float64)
    other = phantom("tubes", (100, 110), np.random.default_rng(4)).astype(np.float64)
    confocal = np.stack([0.1 * other, specimen])
    shifted = ndimage.shift(ndimage.gaussian_filter(specimen, 1.0), (0, 3.5), mode="nearest")
    widefield = np.stack([other, ndimage.gaussian_filter(other, 3.0), shifted])
    blurred, reference = real._registered(widefield, confocal)
    assert blurred.shape == reference.shape
    assert np.corrcoef(blurred.ravel(), reference.ravel())[0, 1] > 0.85
    np.testing.assert_array_equal(blurred, shifted[5:-5, 5:-5])
