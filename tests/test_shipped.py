"""The shipped model: whole, opened by name from anywhere, and what its parts make again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from deepcontrast_bmz.export.package import pack_described, write_repository_model
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.settings import read_recipe

ROOT = Path(__file__).parent.parent


def described() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "rdf.yaml").read_text(encoding="utf-8"))


def sources(value: Any) -> list[dict[str, Any]]:
    """Every entry with a file and its hash."""
    if isinstance(value, list):
        return [found for item in value for found in sources(item)]
    if not isinstance(value, dict):
        return []
    here = [value] if "source" in value and "sha256" in value else []
    return here + [found for item in value.values() for found in sources(item)]


def without_hashes(value: Any) -> Any:
    """Leave out what the last bits of another processor or torch release change."""
    if isinstance(value, dict):
        skipped = ("sha256", "pytorch_version", "torch_version")
        return {k: without_hashes(v) for k, v in value.items() if k not in skipped}
    if isinstance(value, list):
        return [without_hashes(item) for item in value]
    return value


def test_every_file_is_the_one_described() -> None:
    entries = sources(described())
    assert len(entries) >= 10
    for entry in entries:
        content = (ROOT / entry["source"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["source"]


def test_the_recipe_in_the_repository_made_it() -> None:
    """The short recipe of the card and the full one of the run say the same."""
    short = read_recipe(ROOT / "model_cards/deepcontrast.recipe.toml")
    assert short == read_recipe(ROOT / "weights/deepcontrast.recipe.toml")


def test_the_card_says_what_the_patches_were_compared_with() -> None:
    share = read_recipe(ROOT / "model_cards/deepcontrast.recipe.toml").data.input_share
    assert share is not None
    card = (ROOT / "model_cards/deepcontrast.md").read_text(encoding="utf-8")
    assert f"of {share:.0%} of the light" in " ".join(card.split())
    assert "The raw image is the target" not in " ".join(card.split())


@pytest.mark.reproducible
def test_parts_make_the_description_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for part, name in (("pt", "weights.pt"), ("recipe.toml",) * 2, ("run.json",) * 2):
        (run / name).write_bytes((ROOT / f"weights/deepcontrast.{part}").read_bytes())
    root = tmp_path / "root"
    root.mkdir()
    card = ROOT / "model_cards/deepcontrast.md"
    write_repository_model(run, root, name="deepcontrast", card=card)
    again = yaml.safe_load((root / "rdf.yaml").read_text(encoding="utf-8"))
    assert without_hashes(again) == without_hashes(described())
    for name, tolerance in (("test_input.npy", 0), ("test_output.npy", 1e-5)):
        recorded = np.load(ROOT / f"weights/deepcontrast.{name}")
        rebuilt = np.load(root / f"weights/deepcontrast.{name}")
        span = float(np.ptp(recorded))
        np.testing.assert_allclose(rebuilt, recorded, rtol=0, atol=tolerance * span)
    before = torch.load(ROOT / "weights/deepcontrast.pt", weights_only=True)
    after = torch.load(root / "weights/deepcontrast.pt", weights_only=True)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["pytorch_state_dict", "torchscript", "onnx"])
def test_opens_by_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    monkeypatch.chdir(tmp_path)
    model = open_model("deepcontrast", weights=weights, device="cpu")
    test_input = np.load(ROOT / "weights/deepcontrast.test_input.npy")
    test_output = np.load(ROOT / "weights/deepcontrast.test_output.npy")
    whole = np.pad(test_input[0, 0], 4 * model.radius, mode="symmetric")
    result = model.iterate(torch.from_numpy(whole)[None, None], 4).numpy()
    span = float(np.ptp(test_output))
    np.testing.assert_allclose(result, test_output, rtol=0, atol=1e-5 * span)


def test_it_is_small() -> None:
    assert (ROOT / "weights/deepcontrast.pt").stat().st_size < 500_000


def test_flattened_package_holds_the_same_weights(tmp_path: Path) -> None:
    package = pack_described(ROOT / "rdf.yaml", tmp_path / "model.zip")
    test_input = np.load(ROOT / "weights/deepcontrast.test_input.npy")[..., :40, :50]
    block = torch.from_numpy(test_input)
    one = open_model(package, device="cpu")
    two = open_model("deepcontrast", device="cpu")
    padded = torch.nn.functional.pad(block, (one.radius,) * 4, mode="replicate")
    assert torch.equal(one.iterate(padded, 1), two.iterate(padded, 1))


def test_card_says_what_must_be_said() -> None:
    card = (ROOT / "model_cards/deepcontrast.md").read_text(encoding="utf-8").lower()
    for word in ("validation", "recovery", "licence", "not for", "rebuild", "arxiv 2308.08365"):
        assert word in card, word
    for image in yaml.safe_load((ROOT / "weights/deepcontrast.run.json").read_text())["images"]:
        assert image["name"].lower() in card, image["name"]
