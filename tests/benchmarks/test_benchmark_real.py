"""The benchmark on real recordings runs, small, and counts right."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from benchmark_scripts import load, recorded
from scipy import ndimage
from skimage.io import imread

from deepcontrast_bmz.image import write_image
from deepcontrast_bmz.physics.phantoms import phantom

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def hazed() -> Any:
    return load("hazed")


@pytest.fixture(scope="module")
def real() -> Any:
    return load("real")


def test_tissue_weakens_every_wave_as_its_kernel_says(hazed: Any) -> None:
    tails = (hazed.Tail(2.0, 0.25), hazed.Tail(9.0, 0.75))
    x = np.arange(64)
    frequency = 10 / (2 * 64)
    wave = 5 + np.cos(2 * np.pi * frequency * (x + 0.5))[None].repeat(48, axis=0)
    kernel = sum(
        share * (1 + (2 * np.pi * length * frequency) ** 2) ** -1.5 for length, share in tails
    )
    seen = hazed.see_through_tissue(wave, 1.5, tails)
    np.testing.assert_allclose(seen, 5 + np.exp(-1.5 * (1 - kernel)) * (wave - 5))
    twice = hazed.see_through_tissue(hazed.see_through_tissue(wave, 0.5, tails), 1.0, tails)
    np.testing.assert_allclose(twice, seen)
    np.testing.assert_allclose(hazed.see_through_tissue(wave, 0.0), wave)
    with pytest.raises(ValueError, match="not negative"):
        hazed.see_through_tissue(wave, -0.1)


def test_the_kernel_has_the_deviation_that_is_said(hazed: Any) -> None:
    point = np.zeros((129, 129))
    point[64, 64] = 1.0
    # So thin that a photon is scattered once or not at all.
    seen = hazed.see_through_tissue(point, 1e-6, (hazed.Tail(3.0, 1.0),)) - (1 - 1e-6) * point
    x = np.arange(129) - 64
    assert (seen.sum(axis=0) * x**2).sum() / seen.sum() == pytest.approx(3 * 3.0**2, rel=0.01)


def test_a_recording_has_the_light_and_the_noise_it_says(hazed: Any) -> None:
    recorder = hazed.Recorder(photons=50.0, read_noise=3.0)
    found = recorder.record(np.full((200, 200), 7.0), 2.0, 1)
    assert found.truth.min() == found.truth.max() == 50
    assert found.photons.mean() == pytest.approx(50, abs=0.2)
    # Rounding to whole counts adds a twelfth of a count, squared.
    assert found.photons.var() == pytest.approx(50 + 9 + 0.8**2 / 12, rel=0.03)
    assert np.array_equal(found.counts, recorder.record(np.full((200, 200), 7.0), 2.0, 1).counts)


def _write_folder(folder: Path) -> None:
    rng = np.random.default_rng(5)
    kinds = ("membranes", "nuclei")
    made = [
        (200 * np.clip(phantom(kind, (72, 72), rng), 0, 1.2)).astype(np.uint8) for kind in kinds
    ]
    two = xr.DataArray(np.stack(made), dims=("c", "y", "x"))
    write_image(two, folder / "membranes_nuclei_2d.tif")
    sharp = made[0].astype(np.float32)
    pair = xr.DataArray(np.stack([ndimage.gaussian_filter(sharp, 2), sharp]), dims=("c", "y", "x"))
    write_image(pair, folder / "gt_factin_widefield_vs_sim.tif")
    layers = np.zeros((2, 128, 128), np.uint8)
    layers[:, 4:-4, 4:-4] = 20 + 200 * np.clip(phantom("membranes", (120, 120), rng), 0, 1)
    write_image(
        xr.DataArray(layers, dims=("z", "y", "x")), folder / "drosophila_caax_depth_layers.tif"
    )


def test_every_part_is_run_and_kept(
    real: Any,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    _write_folder(data)
    monkeypatch.setattr(real, "DEPTHS", (0.0, 1.0))
    monkeypatch.setattr(real, "SHARP_PLANES", real.SHARP_PLANES[:2])
    monkeypatch.setattr(real, "MADE", 1)
    monkeypatch.setattr(real, "MADE_SIDE", 72)
    record = recorded(monkeypatch, tmp_path)
    scores = tmp_path / "scores.json"
    given = ["--model", str(tiny_run), "--data", str(data), "--planes", "1"]
    real.main([*given, "--json", str(scores), "--pictures", str(tmp_path / "seen"), "--record"])
    printed = capsys.readouterr().out
    assert record("real") in printed
    assert [path.name for path in sorted((tmp_path / "seen").iterdir())] == [
        "membranes.png",
        "nuclei.png",
    ]
    found = json.loads(scores.read_text(encoding="utf-8"))
    assert [(each["name"], each["use"], each["depth"]) for each in found] == [
        ("membranes", "not seen in training", 0.0),
        ("membranes", "not seen in training", 1.0),
        ("nuclei", "not seen in training", 0.0),
        ("nuclei", "not seen in training", 1.0),
        ("nuclei 1", "procedural", 0.0),
        ("nuclei 1", "procedural", 1.0),
    ]
    # The tables are made of what was written, too.
    again = ["--model", str(tiny_run), "--data", str(data), "--parts", "degraded"]
    real.main([*again, "--scores", str(scores)])
    tables = capsys.readouterr().out.split("\n\nPublic images")[0]
    assert tables.count("\n|---") == 3
    assert tables in printed
    for each in found:
        psnr = {name: score["psnr"] for name, score in each["scores"].items()}
        assert [*psnr] == ["raw", "model, best dial", "model, `auto`"]
        assert psnr["model, best dial"] >= psnr["raw"]
        # No haze, and only noise between the recording and the specimen.
        assert each["depth"] or each["scores"]["raw"]["correlation"] > 0.9
    assert "| SIM, widefield: F-actin (not seen in training) | raw |" in printed
    # A layer against one that is the same: nothing is better than the raw one.
    assert "| 1 | 1.000 / 1.000 / 1.00 |" in printed
    assert "| drosophila_caax_depth_layers | not seen in training | 1 |" in printed


def test_the_gallery_is_drawn_from_black_to_bright(real: Any, tmp_path: Path) -> None:
    del real
    gallery = sys.modules["gallery"]
    ramp = np.linspace(100, 300, 50)[None].repeat(50, axis=0)
    panels = (gallery.Panel("before", ramp, 100.0), gallery.Panel("after", ramp, 200.0))
    gallery.draw_rows([gallery.Row("ramp", panels)], tmp_path / "ramp.png")
    drawn = imread(tmp_path / "ramp.png")[..., :3].mean(axis=2)
    middle = drawn[drawn.shape[0] // 2]
    left, right = np.array_split(middle[: middle.size], 2)
    # Half of the ramp is below the black of the second picture.
    assert (right < 3).sum() > 5 * max((left < 3).sum(), 1)
    assert left.max() == right.max() == 255


def test_light_without_structure_is_in_the_gallery(
    real: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del real
    gallery, judge, hazed = (sys.modules[name] for name in ("gallery", "judge", "hazed"))

    def take(_: Any, plane: Any) -> Any:
        return judge.Taken(plane, 1.25, "because", "unlike" if plane.std() > 30 else None)

    monkeypatch.setattr(gallery, "take_auto", take)
    rows = gallery.make_rows(None, hazed.Recorder(), side=96)
    assert [row.title for row in rows][-1] == "no structure, optical depth 2"
    assert len(rows) == 4
    for row in rows:
        recorded, auto, specimen = row.panels
        assert auto.caption.startswith("auto: dial 1.25")
        assert recorded.black == auto.black == hazed.Recorder().offset
        assert specimen.image.std() / specimen.image.mean() > 0.1


def test_rivals_are_scored_once_and_beside_the_model(
    real: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, methods = sys.modules["judge"], sys.modules["rival_methods"]
    monkeypatch.setattr(methods, "BLIND_DEPTHS", (1.0,))
    monkeypatch.setattr(methods, "BLIND_WIDTHS", (1.0,))
    monkeypatch.setattr(judge, "LUCY_ITERATIONS", 12)
    monkeypatch.setattr(judge, "RLGC_ITERATIONS", 12)
    monkeypatch.setattr(real, "DEPTHS", (1.0,))

    def judged(_: Any, recording: Any, **__: Any) -> Any:
        score = judge.score(0.0, recording.photons, recording.truth)
        return judge.Judged(score, score, score, "told nothing", None)

    monkeypatch.setattr(real, "judge", judged)
    light = 100 * phantom("nuclei", (72, 72), np.random.default_rng(8)).astype(np.float64)
    specimen = real.Specimen("nuclei", "held out in training", light, 7)
    store = methods.Store(tmp_path / "scores.jsonl", judge.Score)
    known = specimen._replace(name="pollen", use="trained on")
    found, spared = real.degrade([specimen, known], None, real.Recorder(), store)
    assert not spared.rivals
    assert [*found.rivals] == list(judge.RIVALS)
    for name in ("Richardson-Lucy, blind", "RLGC, blind", "Dark sectioning"):
        assert found.rivals[name].psnr > found.judged.raw.psnr + 0.5
        assert found.rivals[name].recovery > found.judged.raw.recovery

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(real, "score_rivals", never)
    again = methods.Store(tmp_path / "scores.jsonl", judge.Score)
    assert real.degrade([specimen], None, real.Recorder(), again) == [found]
    table = real.methods_table([found, spared])
    assert [row[1] for row in table.rows[:3]] == ["raw", *judge.RIVALS[:2]]
    assert table.rows[0][0] == "held out in training (1)"
    nuclei = real.nuclei_table([found, spared])
    assert nuclei.rows[0][:2] == ("real", "raw")
    assert float(nuclei.rows[0][2]) == pytest.approx(found.judged.raw.nuclei, abs=0.005)


def test_parts_have_records_of_their_own(
    real: Any,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    light = (200 * phantom("tubes", (48, 48), np.random.default_rng(2))).astype(np.uint8)
    write_image(xr.DataArray(light, dims=("y", "x")), data / "mine.tif")
    records = sys.modules["records"]
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    given = ["--model", str(tiny_run), "--data", str(data), "--parts", "asis", "pairs"]
    real.main([*given, "--record"])
    assert "| mine | not seen in training | 1 |" in capsys.readouterr().out
    (kept,) = records.load_records(tmp_path / "records")
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["real_pairs_asis.json"]
    assert kept.title == "On real images: two microscopes, as they come"
    assert kept.command.endswith(f"--model {tiny_run} --parts pairs asis --record")


def test_the_dial_follows_by_what_it_rises(real: Any) -> None:
    score = real.Score(0.0, 20.0, 0.9, 1.0, 0.3, 0.5, None)

    def plane(depth: float, dial: float) -> Any:
        judged = real.Judged(score, score, score._replace(setting=dial), "", None)
        return real.Degraded("a", "trained on", depth, judged, {})

    found = [plane(0.0, 0.4), plane(0.5, 0.9), plane(2.0, 2.0)]
    assert [rise for _, rise in real.follows(found)] == pytest.approx([0.0, -0.4])
    tables = real.degraded_tables(found)
    (line,) = (row for row in tables[1].rows if row[:2] == ("all", "all"))
    assert line[3:] == ("0.20", "-0.20", "50 %", "0.20", "+0.20")


@pytest.mark.usefixtures("real")
def test_correlation_is_taken_where_a_mask_says() -> None:
    compare = sys.modules["as_recorded"].compare
    rng = np.random.default_rng(1)
    image = rng.normal(size=(40, 40))
    other = image.copy()
    other[:, 20:] = rng.normal(size=(40, 20))
    left = np.zeros((40, 40), bool)
    left[:, :12] = True
    assert compare(image, other, left) == pytest.approx((1.0, 1.0), abs=1e-3)
    assert compare(image, other).all < 0.7


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--planes", "0"], "--planes is at least 1"),
        (["--photons", "0"], "--photons is above 0"),
        (["--data", "nowhere"], "--data is a folder of images"),
    ],
)
def test_what_cannot_be_run_is_refused(
    real: Any, given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        real.main(["--data", str(tmp_path), *given])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_deconvolution_is_given_point_spreads_on_pairs(
    real: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del real
    pairs, judge, methods = (sys.modules[n] for n in ("as_recorded", "judge", "rival_methods"))
    monkeypatch.setattr(methods, "BLIND_DEPTHS", (1.0,))
    monkeypatch.setattr(methods, "BLIND_WIDTHS", (1.0,))
    monkeypatch.setattr(judge, "LUCY_ITERATIONS", 15)
    monkeypatch.setattr(judge, "RLGC_ITERATIONS", 15)
    rng = np.random.default_rng(6)
    sharp = 400 * phantom("tubes", (80, 88), rng).astype(np.float64)
    blurred = rng.poisson(ndimage.gaussian_filter(sharp, 2.0)).astype(np.float64)
    before = pairs.compare(blurred, sharp)
    wrong, right = {}, {}
    for widths, found in (((), wrong), ((2.0,), right)):
        monkeypatch.setattr(pairs, "SPREADS_PX", widths)
        found |= pairs._score_deconvolution(blurred, sharp)
    plain = f"{judge.RIVALS[0]} {pairs.IN_ALL}"
    assert right[plain].all > max(before.all, wrong[plain].all) + 0.02
    for name in judge.RIVALS[:2]:
        by_all, by_band = (right[f"{name} {by}"] for by in (pairs.IN_ALL, pairs.IN_BAND))
        assert by_all.all >= by_band.all
        assert by_band.band >= by_all.band
