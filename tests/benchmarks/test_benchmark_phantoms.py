"""The benchmark runs, on small phantoms and with a stand-in for trained weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from benchmark_scripts import Sharpener, load, recorded, sharpener

from deepcontrast_bmz.evaluate.metrics import psnr_after_fit
from deepcontrast_bmz.physics.camera import to_photons

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def benchmark() -> Any:
    return load("phantoms")


@pytest.fixture
def model() -> Sharpener:
    return sharpener()


def test_a_case_is_drawn_by_its_seed_and_its_camera_explains_it(benchmark: Any) -> None:
    case, same, other = (benchmark.draw_case("tubes", 1.0, seed) for seed in (1000, 1000, 1001))
    assert torch.equal(case.counts, same.counts)
    assert case.camera != other.camera
    photons = to_photons(case.counts, case.camera).double().numpy()
    assert photons.mean() == pytest.approx(case.truth.mean(), rel=0.02)
    assert 10 < psnr_after_fit(photons, case.truth) < 35


def test_the_tables_compare_everything_on_every_phantom(
    benchmark: Any,
    model: Sharpener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, "SIDES", (64, 72))
    monkeypatch.setattr(benchmark, "LUCY_ITERATIONS", 30)
    monkeypatch.setattr(benchmark, "OPTICAL_DEPTHS", (1.0, 2.0))
    monkeypatch.setattr(benchmark, "open_model", lambda _: model)  # pyright: ignore[reportUnknownLambdaType]
    kept = recorded(monkeypatch, tmp_path)
    benchmark.main(["sharpener", "--json", str(tmp_path / "scores.json"), "--record"])
    printed = capsys.readouterr().out
    assert kept("phantoms") in printed
    record = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert record["model"] == "sharpener"
    assert len(record["phantoms"]) == 6
    scores = [phantom["scores"] for phantom in record["phantoms"]]
    for found in scores:
        for name in ("wavelet", "unsharp", "Richardson-Lucy, true kernel"):
            assert found[name]["psnr_after_fit"] > found["raw"]["psnr_after_fit"]
        best = found["model, best dial"]["psnr_after_fit"]
        assert best >= found["model, best k"]["psnr_after_fit"]
        assert best >= found["model, automatic dial"]["psnr_after_fit"]
        assert found["model, best k"]["setting"] in (1, 2, 3, 4, 5)
    mean = np.mean([found["raw"]["psnr_after_fit"] for found in scores])
    assert f"| raw | {mean:.2f} |" in printed
    assert printed.count("| membranes |") == 2
    assert "automatic dial against the true optical depth" in printed


def test_no_phantom_is_no_benchmark(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["sharpener", "--seeds", "0"])
    assert stop.value.code == 2
    assert "--seeds is at least 1" in capsys.readouterr().err
