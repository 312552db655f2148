"""The command line: exit codes, one sentence for every mistake, and nothing left behind."""

from __future__ import annotations

import io
import json
import sys
import tempfile
import webbrowser
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import xarray as xr
from conftest import raw_stack

from deepcontrast_bmz.cli import main
from deepcontrast_bmz.dial.verdict import Finding
from deepcontrast_bmz.errors import InputError, name_file
from deepcontrast_bmz.evaluate import scorer
from deepcontrast_bmz.image import read_image, write_image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deepcontrast_bmz.dial.verdict import Verdict


def run(*arguments: object) -> int:
    """Run ``dcbmz`` in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code = ended.value.code
    return code if isinstance(code, int) else 0 if code is None else 1


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run what must be refused: exit code 2, and one sentence without a traceback."""
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("dcbmz: ")]
    assert len(lines) == 1, said
    return lines[0]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    out = tmp_path_factory.mktemp("package") / "tiny.zip"
    assert run("export", tiny_run, "-o", out, "--name", "tiny model") == 0
    return out


@pytest.fixture
def odd_images(tmp_path: Path) -> dict[str, Path]:
    """Images that are unusual and must work."""
    rng = np.random.default_rng(0)
    arrays = {
        "constant": np.full((40, 40), 5, np.uint8),
        "one pixel": np.full((1, 1), 300, np.uint16),
        "one row": rng.integers(0, 255, (1, 64), dtype=np.uint8),
        "signed": rng.integers(-900, 900, (30, 31)).astype(np.int16),
        "float": rng.normal(size=(30, 31)).astype(np.float32),
        "8 bit": rng.integers(0, 255, (30, 31), dtype=np.uint8),
    }
    paths: dict[str, Path] = {}
    for name, array in arrays.items():
        paths[name] = tmp_path / f"{name}.tif"
        write_image(xr.DataArray(array, dims=("y", "x")), paths[name])
    return paths


# ---- what works


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    said = capsys.readouterr().out
    for command in ("demo", "degrade", "train", "predict", "evaluate", "view", "export", "check"):
        assert command in said
    assert run("--version") == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


def test_degrade_keeps_what_the_image_is_and_can_be_replayed(tmp_path: Path) -> None:
    source = tmp_path / "in.ome.tif"
    write_image(raw_stack(), source)
    first, second = tmp_path / "one.ome.tif", tmp_path / "two.ome.tif"
    draw = tmp_path / "draw.json"
    options = ("--optical-depth", 2, "--gain", 0.5, "--offset", 100, "--bit-depth", 16)
    assert run("degrade", source, "-o", first, *options, "--seed", 3, "--save-draw", draw) == 0
    assert json.loads(draw.read_text())["optical_depth"] == 2
    assert run("degrade", source, "-o", second, "--replay", draw) == 0
    one, two, raw = read_image(first), read_image(second), read_image(source)
    xr.testing.assert_identical(one, two)
    assert (one.dims, one.shape, one.attrs) == (raw.dims, raw.shape, raw.attrs)
    assert one.dtype == np.uint16
    relative = [float(im.std() / (im.mean() - offset)) for im, offset in ((one, 100), (raw, 0))]
    assert relative[0] < relative[1]


def test_the_whole_way(tmp_path: Path, tiny_run: Path, stack_path: Path, package: Path) -> None:
    """Run, package and every weights format enhance alike; axes and pixel size are kept."""
    results: list[xr.DataArray] = []
    for number, (model, *options) in enumerate(
        (
            (tiny_run,),
            (package,),
            (package, "--weights", "torchscript"),
            (package, "--weights", "onnx"),
        )
    ):
        out = tmp_path / f"{number}.ome.tif"
        assert run("predict", model, stack_path, "-o", out, "--dial", 1.5, *options) == 0
        results.append(read_image(out))
    raw = read_image(stack_path)
    span = float(results[0].max() - results[0].min())
    for result in results:
        assert (result.dims, result.shape) == (raw.dims, raw.shape)
        assert result.attrs["pixel_size_um"] == raw.attrs["pixel_size_um"]
        assert result.dtype == np.float32
        assert float(abs(result - results[0]).max()) < 1e-5 * span


def test_all_iterations_become_channels(tmp_path: Path, package: Path, stack_path: Path) -> None:
    out = tmp_path / "all.ome.tif"
    assert run("predict", package, stack_path, "-o", out, "--all-iterations") == 0
    image = read_image(out)
    assert list(image.coords["c"].values) == ["iteration_1", "iteration_2", "iteration_3"]


@pytest.mark.parametrize("name", ["constant", "one pixel", "one row", "signed", "float", "8 bit"])
@pytest.mark.parametrize("choice", [("--dial", "auto"), ("--all-iterations",)])
def test_unusual_images_work(
    tmp_path: Path,
    tiny_run: Path,
    odd_images: dict[str, Path],
    name: str,
    choice: Sequence[str],
) -> None:
    out = tmp_path / "out.tif"
    assert run("predict", tiny_run, odd_images[name], "-o", out, *choice) == 0
    image = read_image(out)
    assert image.shape[-2:] == read_image(odd_images[name]).shape
    assert bool(np.isfinite(image).all())


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("unmeasurable", 0), ("inconsistent", 1)])
def test_evaluate_writes_table_plot_and_report_and_tells_the_verdict_by_its_exit_code(
    verdict: Verdict,
    code: int,
    tmp_path: Path,
    tiny_run: Path,
    stack_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def judge(*_: object, **__: object) -> Finding:
        return Finding(verdict, "of a test")

    # What seven steps of training gave would really be refused.
    monkeypatch.setattr(scorer, "judge_evidence", judge)
    assert run("evaluate", tiny_run, stack_path, "-o", tmp_path / "scores") == code
    # A refused image is written, too: one wants to see why.
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {
        "scores.csv",
        "scores.json",
        "curve.png",
        "report.html",
    }
    said = capsys.readouterr().out
    assert "stack.tif" in said
    assert f"Verdict: {verdict}" in said or "dial is 0" in said


def test_check_passes_and_fails_by_exit_code(
    tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", package, "--run", "none", "--json") == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    broken = tmp_path / "broken"
    broken.mkdir()
    import zipfile

    with zipfile.ZipFile(package) as archive:
        archive.extractall(broken)
    rdf = (broken / "rdf.yaml").read_text()
    (broken / "rdf.yaml").write_text(rdf.replace("id: tiny-model\n", "", 1))
    assert run("check", broken, "--run", "none") == 1
    assert "fiji" in capsys.readouterr().out


# ---- what is refused


@pytest.fixture
def bad_files(tmp_path: Path) -> dict[str, Path]:
    files = {name: tmp_path / f"{name}.tif" for name in ("empty", "text", "truncated", "missing")}
    files["empty"].touch()
    files["text"].write_text("this is no image\n" * 50)
    whole = tmp_path / "whole.tif"
    write_image(raw_stack(), whole)
    files["truncated"].write_bytes(whole.read_bytes()[:5000])
    import tifffile

    for name, values in {
        "nan": np.full((24, 24), np.nan, np.float32),
        "infinite": np.full((24, 24), np.inf, np.float32),
        "complex": np.ones((24, 24), np.complex64),
    }.items():
        files[name] = tmp_path / f"{name}.tif"
        tifffile.imwrite(files[name], values)
    return files


def test_a_batch_with_one_bad_image(
    tmp_path: Path, tiny_run: Path, odd_images: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = odd_images["8 bit"]
    bad.write_bytes(bad.read_bytes()[:400])
    images = [odd_images[name] for name in ("float", "8 bit", "signed")]
    assert run("predict", tiny_run, *images) == 1
    said = capsys.readouterr()
    listed = [line for line in said.err.splitlines() if line.startswith("failed: ")]
    assert len(listed) == 1
    assert listed[0].startswith(f"failed: {bad}: ")
    for name in ("float", "signed"):
        written = tmp_path / f"{name}_enhanced.ome.tif"
        assert str(written) in said.out
        assert read_image(written).shape == (30, 31)
    assert run("predict", tiny_run, *images[::2], "--skip-existing") == 0
    assert capsys.readouterr().out == ""
    # What is wrong with the call is said before anything is computed.
    refused(capsys, "predict", tiny_run, *images, tmp_path / "none.tif")
    refused(capsys, "predict", tiny_run, *images, "--dial", "-1")
    refused(capsys, "predict", tiny_run, bad)


@pytest.mark.parametrize(
    "name", ["empty", "text", "truncated", "missing", "nan", "infinite", "complex"]
)
@pytest.mark.parametrize("command", ["predict", "degrade", "train", "evaluate"])
def test_bad_images(
    tmp_path: Path,
    tiny_run: Path,
    bad_files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    name: str,
    command: str,
) -> None:
    out = tmp_path / "out.tif"
    model = () if command in ("degrade", "train") else (tiny_run,)
    said = refused(capsys, command, *model, bad_files[name], "-o", out)
    assert f"{name}.tif" in said
    assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--dial", "-1"),
        ("--dial", "much"),
        ("--dial", "nan"),
        ("--dial", "inf"),
        ("--iterations", "0"),
        ("--iterations", "-2"),
        ("--dial", "1", "--iterations", "2"),
        ("--dial", "1", "--all-iterations"),
        ("--weights", "keras"),
        ("--device", "tpu"),
        ("--block", "0"),
        ("--channel", "DAPI"),
    ],
)
def test_bad_choices_of_predict(
    tmp_path: Path,
    tiny_run: Path,
    stack_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: Sequence[str],
) -> None:
    out = tmp_path / "out.tif"
    refused(capsys, "predict", tiny_run, stack_path, "-o", out, *options)
    assert not out.exists()


def test_bad_models(
    tmp_path: Path, stack_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.tif"
    no_zip = tmp_path / "no.zip"
    no_zip.write_text("no zip")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "recipe.toml").write_bytes((tiny_run / "recipe.toml").read_bytes())
    for model in ("deepcontrst", no_zip, unfinished, tmp_path, tmp_path / "gone"):
        refused(capsys, "predict", model, stack_path, "-o", out)
        assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--optical-depth", "-1"),
        ("--optical-depth", "nan"),
        ("--widths", "5,x"),
        ("--widths", "5", "--weights", "0.5,0.5"),
        ("--widths", "-5,24"),
        ("--weights", "0.2,0.3"),
        ("--unit", "mm"),
        ("--absorption", "-1"),
        ("--photons", "0"),
        ("--gain", "0"),
        ("--bit-depth", "0"),
    ],
)
def test_bad_choices_of_degrade(
    tmp_path: Path,
    stack_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: Sequence[str],
) -> None:
    out = tmp_path / "out.tif"
    refused(capsys, "degrade", stack_path, "-o", out, *options)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--veil", "1e40"), "at most 1e+15 photons"),
        (("--photons", "1e300"), "at most 1e+15 photons"),
        (("--gain", "1e-300"), "must fit 32 bits"),
        (("--read-noise", "1e300"), "must fit 32 bits"),
    ],
)
def test_degrade_refuses_what_no_camera_can_record(
    tmp_path: Path,
    stack_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: Sequence[str],
    message: str,
) -> None:
    out = tmp_path / "out.tif"
    assert message in refused(capsys, "degrade", stack_path, "-o", out, *options)
    assert not out.exists()


def test_degrade_never_replaces_an_input_or_its_other_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, link = tmp_path / "raw.tif", tmp_path / "link.tif"
    write_image(raw_stack(planes=1, size=24), raw)
    link.symlink_to(raw)
    draw, out = tmp_path / "draw.json", tmp_path / "out.tif"
    assert run("degrade", raw, "-o", out, "--save-draw", draw) == 0
    before = {path: path.read_bytes() for path in (raw, draw)}
    out.unlink()
    for arguments in (
        (raw, "-o", raw),
        (link, "-o", raw),
        (raw, "-o", out, "--save-draw", raw),
        (raw, "-o", out, "--save-draw", out),
        (raw, "-o", draw, "--replay", draw),
        (raw, "-o", out, "--replay", draw, "--save-draw", draw),
    ):
        assert "never replaces" in refused(capsys, "degrade", *arguments)
    assert {path: path.read_bytes() for path in (raw, draw)} == before
    assert not out.exists()


def test_degrade_writes_both_outputs_or_none(
    tmp_path: Path, stack_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, here = tmp_path / "no" / "folder", tmp_path / "here"
    here.mkdir()
    image, draw = "out.tif", "draw.json"
    refused(capsys, "degrade", stack_path, "-o", here / image, "--save-draw", nowhere / draw)
    refused(capsys, "degrade", stack_path, "-o", nowhere / image, "--save-draw", here / draw)
    assert list(here.iterdir()) == []


def test_a_channel_called_by_a_digit_that_is_no_number_is_a_name(
    tmp_path: Path, stack_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.tif"
    assert "'²'" in refused(capsys, "degrade", stack_path, "-o", out, "--channel", "²")


def test_settings_from_the_command_line_have_the_ranges_of_a_recipe(
    tmp_path: Path, stack_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    said = refused(capsys, "train", stack_path, "-o", out, "--seed", 10**20)
    assert "seed" in said
    assert not out.exists()


def test_names_that_the_terminal_cannot_show_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="ascii", errors="strict"))
    raw, out = tmp_path / "raw.tif", tmp_path / "über.tif"
    write_image(raw_stack(planes=1, size=24), raw)
    assert run("degrade", raw, "-o", out) == 0
    sys.stdout.flush()
    assert b"\\xfcber.tif" in shown.getvalue()


def test_outputs_that_cannot_be_written(
    tmp_path: Path, tiny_run: Path, stack_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "no" / "such" / "folder" / "out.tif"
    file = tmp_path / "file"
    file.touch()
    refused(capsys, "predict", tiny_run, stack_path, "-o", file / "out.tif")
    refused(capsys, "degrade", stack_path, "-o", nowhere)
    refused(capsys, "export", tiny_run, "-o", nowhere.with_suffix(".zip"))
    refused(capsys, "evaluate", tiny_run, stack_path, "-o", file)
    refused(capsys, "evaluate", tiny_run, stack_path, "-o", file / "deep" / "results")
    refused(capsys, "train", stack_path, "-o", file / "run")
    refused(capsys, "predict", tiny_run, stack_path, "-o", stack_path)


def test_axes_and_scene_of_every_command(
    tmp_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    movie = tmp_path / "movie.tif"
    tifffile.imwrite(movie, np.full((5, 40, 40), 7, np.uint16), metadata=None)
    out = tmp_path / "out.tif"
    for command in (
        ("predict", tiny_run, movie, "-o", out),
        ("degrade", movie, "-o", out),
        ("evaluate", tiny_run, movie, "-o", tmp_path / "results"),
        ("train", movie, "-o", tmp_path / "run", "--steps", "1"),
    ):
        for option in (("--axes", "ZZ"), ("--axes", "TCZYX"), ("--scene", "99")):
            assert option[1] in refused(capsys, *command, *option)
    assert [path.name for path in tmp_path.iterdir()] == ["movie.tif"]
    assert run("predict", tiny_run, movie, "-o", out, "--dial", "0", "--axes", "TYX") == 0
    assert read_image(out).dims == ("t", "y", "x")


def test_what_is_said_of_an_image_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = tmp_path / "huge.tif"
    tifffile.imwrite(huge, np.full((40, 40), 1e22))
    assert "huge.tif: " in refused(capsys, "degrade", huge, "-o", tmp_path / "out.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["huge.tif"]
    for said, heard in (("too dark", "huge.tif: too dark"), ("huge.tif is dark",) * 2):
        with pytest.raises(InputError) as caught, name_file(huge):
            raise InputError(said)
        assert str(caught.value) == heard


def test_masks_of_every_command(
    tmp_path: Path, tiny_run: Path, stack_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, half = tmp_path / "small.tif", tmp_path / "half.tif"
    used = np.ones((72, 72), np.uint8)
    tifffile.imwrite(small, used[1:])
    used[:, 40:] = 0
    tifffile.imwrite(half, used)
    out = tmp_path / "out"
    for command in (
        ("predict", tiny_run, stack_path, "-o", out / "out.tif"),
        ("degrade", stack_path, "-o", tmp_path / "out.tif"),
        ("evaluate", tiny_run, stack_path, "-o", out),
        ("train", stack_path, "-o", out, "--steps", "1"),
    ):
        said = refused(capsys, *command, "--mask", small)
        assert "'small.tif' has y 71 x x 72" in said
        assert "'stack.tif' has z 4 x y 72 x x 72" in said
    assert {path.name for path in tmp_path.iterdir()} == {"small.tif", "half.tif"}
    said = refused(capsys, "train", "-o", out, "--mask", half, "--resume")
    assert "half.tif" in said

    bright = read_image(stack_path)
    bright.values[:, :, 40:] = 65535
    write_image(bright, tmp_path / "bright.tif")
    pages: list[dict[str, object]] = []
    for image in (stack_path, tmp_path / "bright.tif"):
        assert run("evaluate", tiny_run, image, "-o", out, "--mask", half) in (0, 1)
        pages.append(json.loads((out / "scores.json").read_text()))
    one, other = ({k: v for k, v in page.items() if k != "image"} for page in pages)
    assert one["window"] == [0, 0, 72, 40]
    assert one == other
    assert "--mask half.tif" in (out / "report.html").read_text()


def test_export_refuses_what_is_no_run(
    tmp_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.zip"
    refused(capsys, "export", tmp_path, "-o", out)
    refused(capsys, "export", tiny_run, "-o", out, "--maintainer", "nobody")
    refused(capsys, "export", tiny_run, "-o", out, "--name", "")
    refused(capsys, "export", tiny_run, "-o", out, "--card", tmp_path / "gone.md")
    assert not out.exists()


def test_check_refuses_what_is_no_package(
    tmp_path: Path, stack_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "check", tmp_path)
    refused(capsys, "check", stack_path)
    refused(capsys, "check", tmp_path / "gone.zip")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from deepcontrast_bmz.errors import InputError

    with pytest.raises(InputError):
        main(["check", str(tmp_path), "--debug"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict",),
        ("nonsense",),
        ("train", "-o", "x", "--seed", "-1"),
        ("predict", "deepcontrast", "a.tif", "-o", "x.tif", "--iterations", "2.5"),
        ("predict", "--no-such-option"),
    ],
)
def test_the_parser_too_answers_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str]
) -> None:
    assert "see 'dcbmz --help'" in refused(capsys, *arguments)


# ---- view


@pytest.fixture
def opened_pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a browser is told to open; none is started."""
    pages: list[str] = []

    def open_page(address: str) -> bool:
        pages.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", open_page)
    return pages


def test_view_writes_the_report_and_opens_it(
    tmp_path: Path, tiny_run: Path, stack_path: Path, opened_pages: list[str]
) -> None:
    out = tmp_path / "a folder"
    assert run("view", stack_path, "--model", tiny_run, "-o", out) == 0
    assert opened_pages == [(out / "report.html").as_uri()]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'id="plane"' in page
    assert "dcbmz predict tiny stack.tif --dial" in page


def test_view_without_a_folder_takes_a_temporary_one_and_can_leave_the_browser_alone(
    tmp_path: Path,
    tiny_run: Path,
    stack_path: Path,
    opened_pages: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run("view", stack_path, "--model", tiny_run, "--no-open") == 0
    (report,) = tmp_path.glob("dcbmz_view_*/report.html")
    assert str(report) in capsys.readouterr().out
    assert opened_pages == []


def test_view_of_no_image_is_one_sentence_and_leaves_nothing(
    tmp_path: Path,
    tiny_run: Path,
    opened_pages: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    missing = tmp_path / "missing.tif"
    assert "missing.tif" in refused(capsys, "view", missing, "--model", tiny_run)
    assert list(tmp_path.iterdir()) == []
    assert opened_pages == []


def test_view_says_so_where_no_browser_starts(
    tmp_path: Path,
    tiny_run: Path,
    stack_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def open_nothing(_address: str) -> bool:
        return False

    monkeypatch.setattr(webbrowser, "open", open_nothing)
    assert run("view", stack_path, "--model", tiny_run, "-o", tmp_path / "out") == 0
    assert "no browser could be started" in capsys.readouterr().out
