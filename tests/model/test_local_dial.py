"""A local dial from training to the image: run folder, package, blocks, files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import local_dial_loop, run_record

from deepcontrast_bmz.cli import main
from deepcontrast_bmz.dial.per_plane import LOCAL
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.package import export_run
from deepcontrast_bmz.image import read_image, write_image
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.predict import files as predict_room
from deepcontrast_bmz.predict.enhance import enhance
from deepcontrast_bmz.records import LocalDial
from deepcontrast_bmz.settings import Recipe, recipe_to_toml
from deepcontrast_bmz.train import calibrate
from deepcontrast_bmz.train.calibrate import fit_statistics

if TYPE_CHECKING:
    from pathlib import Path

DIAL = LocalDial(hidden=8, recordings=300, error=0.4, gain_even_db=-0.5, gain_uneven_db=1.0)
CLOSE = 1e-4
"""Of the range: strips of rows and tiles round otherwise."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "run"
    folder.mkdir()
    recipe = Recipe.model_validate({"network": {"width": 4}, "loop": {"local_dial": True}})
    (folder / "recipe.toml").write_text(recipe_to_toml(recipe), encoding="utf-8")
    torch.save(local_dial_loop().state_dict(), folder / "weights.pt")
    record = run_record(local_dial=DIAL)
    (folder / "run.json").write_text(record.model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def package(run: Path) -> Path:
    return export_run(run, run.parent / "package.zip", name="with a local dial")


@pytest.fixture(scope="module")
def image() -> xr.DataArray:
    rough = np.random.default_rng(0).poisson(80, (1, 90, 101)) * np.linspace(0.5, 3, 101)
    return xr.DataArray(
        (100 + rough).astype(np.uint16), dims=("z", "y", "x"), attrs={"pixel_size_um": {}}
    )


@pytest.fixture(scope="module")
def expected(image: xr.DataArray) -> torch.Tensor:
    raw = torch.from_numpy(image.to_numpy().astype(np.float32))
    with torch.inference_mode():
        return local_dial_loop()(raw[:, None])[:, 4]


def off(found: object, expected: torch.Tensor) -> float:
    spread = float(expected.max() - expected.min())
    return float((torch.as_tensor(np.asarray(found)) - expected).abs().max()) / spread


@pytest.mark.parametrize(
    ("weights", "block"), [("pytorch_state_dict", 50), ("torchscript", None), ("onnx", None)]
)
def test_every_format_and_block_gives_it(
    package: Path, image: xr.DataArray, expected: torch.Tensor, weights: str, block: int | None
) -> None:
    model = open_model(package, weights=weights, device="cpu")
    assert model.description.channels[-1] == "balanced"
    found = enhance(model, image, dial="local", block=block)
    assert set(found.dials) == {LOCAL}
    assert found.image.dims == image.dims
    assert off(found.image, expected) < CLOSE
    # The iterations are what they are without it.
    assert enhance(model, image[:, :9, :9], all_iterations=True).image.sizes["c"] == 4


def test_streamed_by_the_command_line(
    run: Path,
    image: xr.DataArray,
    expected: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(predict_room, "STREAMED_BYTES", 0)
    write_image(image, tmp_path / "raw.tif")
    out = tmp_path / "out.tif"
    words = ["predict", run, tmp_path / "raw.tif", "-o", out, "--dial", "local", "--block", "64"]
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code in (0, None)
    assert "local dial; every pixel has its own" in capsys.readouterr().out
    assert off(read_image(out).to_numpy(), expected) < CLOSE


def test_a_model_without_one_is_refused(tiny_run: Path, image: xr.DataArray) -> None:
    model = open_model(tiny_run, device="cpu")
    with pytest.raises(InputError, match="needs a model with a local dial, which tiny has not"):
        enhance(model, image, dial="local")
    with pytest.raises(InputError, match="needs a model with a local dial"):
        model.balanced(torch.zeros(1, 1, 400, 400))


def test_fewer_iterations_go_without(run: Path, tmp_path: Path) -> None:
    shorter = export_run(run, tmp_path / "short.zip", name="three iterations", iterations=3)
    description = open_model(shorter, device="cpu").description
    assert (len(description.channels), description.local_dial) == (3, None)


def test_training_fits_one_where_the_recipe_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fitted(*words: object) -> tuple[None, LocalDial]:
        asked.append(int(str(words[2])))
        automatic = words[3]
        assert callable(automatic)
        raw = 100 + 50 * torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
        dial: Any = automatic(raw, raw.repeat(4, 1, 1))
        assert 0 <= dial <= 4
        return None, DIAL

    monkeypatch.setattr(calibrate, "fit_balance", fitted)
    monkeypatch.setattr(calibrate, "FEWEST", 12)
    for wanted in (False, True):
        settings = {"network": {"width": 4}, "loop": {"local_dial": wanted}}
        recipe = Recipe.model_validate({**settings, "training": {"steps": 1}})
        found = fit_statistics(local_dial_loop(), recipe)
        assert found.local_dial == (DIAL if wanted else None)
    assert asked == [24]


def test_stacks_have_none_and_a_fit_that_gives_none_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = {"loop": {"local_dial": True}}
    with pytest.raises(ValueError, match="needs a network for planes"):
        Recipe.model_validate({**wanted, "network": {"kind": "dilated_3d"}})
    monkeypatch.setattr(calibrate, "fit_balance", lambda *_, **__: None)  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(calibrate, "FEWEST", 12)
    settings = {**wanted, "network": {"width": 4}, "training": {"steps": 1}}
    found = fit_statistics(local_dial_loop(), Recipe.model_validate(settings))
    assert (found.local_dial, found.balance) == (None, None)
    assert "no local dial" in caplog.text
