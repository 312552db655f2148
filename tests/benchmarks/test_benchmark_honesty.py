"""The benchmarks of score and verdict run, small, and count right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from benchmark_scripts import load, recorded

from deepcontrast_bmz.settings import PhysicsSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def shifts() -> Any:
    return load("shifts")


@pytest.fixture(scope="module")
def verdict() -> Any:
    return load("verdict")


def test_the_area_under_the_curve(shifts: Any) -> None:
    assert shifts.auroc([1, 2, 3], [4, 5]) == 1
    assert shifts.auroc([1, 2, 3], [0, 0]) == 0
    assert shifts.auroc([1, 2], [1, 2]) == 0.5


def test_there_are_twelve_shifts_and_each_is_one(shifts: Any) -> None:
    physics = PhysicsSettings(photons=(40.0, 2000.0))
    light = shifts.draw(physics, 3)
    ways = shifts.shifts(physics, 4.0)
    assert len(ways) == 12
    plain = shifts.recorded(light)
    assert torch.equal(plain, shifts.recorded(shifts.draw(physics, 3)))
    for way in ways.values():
        shifted = way(light)
        assert shifted.shape == plain.shape
        assert bool(torch.isfinite(shifted).all())
        assert not torch.equal(shifted, plain)


def test_the_score_of_every_shift_is_printed(
    shifts: Any,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = recorded(monkeypatch, tmp_path)
    shifts.main(
        [str(tiny_run), "--cases", "2", "--json", str(tmp_path / "scores.json"), "--record"]
    )
    printed = capsys.readouterr().out
    assert record("shifts") in printed
    found = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert len(found["shifts"]) == 12
    assert all(len(scores) == 2 for scores in found["shifts"].values())
    for name in found["shifts"]:
        assert f"| {name} |" in printed


@pytest.mark.slow
def test_the_verdicts_are_counted(
    verdict: Any,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(verdict, "KINDS", ("nuclei",))
    monkeypatch.setattr(verdict, "OPTICAL_DEPTHS", (1.0,))
    # The truth is only the truth through the tissue that the model knows.
    monkeypatch.setattr(verdict, "WIDTHS_PX", (2.0, 6.0))
    record = recorded(monkeypatch, tmp_path)
    verdict.main([str(tiny_run), "--json", str(tmp_path / "verdicts.json"), "--record"])
    printed = capsys.readouterr().out
    assert record("verdict") in printed
    found = json.loads((tmp_path / "verdicts.json").read_text(encoding="utf-8"))["accepted"]
    assert found["truth"] == [True]
    for trick in ("gamma", "background subtraction", "unsharp masking", "CLAHE"):
        assert not any(found[trick])
        assert f"| {trick} | 0 |" in printed


def test_deciles_of_reliability_follow_the_pixels() -> None:
    reliability = load("reliability")
    values = np.linspace(0, 1, 100)
    deciles = reliability.deciles_of(reliability.Seen(values[::-1], values[::-1] ** 2))
    assert len(deciles) == 10
    assert deciles[0][0] == pytest.approx(values[:10].mean())
    assert deciles[9][1] == pytest.approx((values[90:] ** 2).mean())
