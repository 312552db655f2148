"""The local dial learns what it is shown, the same way every time, and only stays if it helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from conftest import untrained_loop

from deepcontrast_bmz.model.balance import FEATURES, LocalBalance
from deepcontrast_bmz.settings import Recipe
from deepcontrast_bmz.train import balance_fit
from deepcontrast_bmz.train.balance_fit import fit_balance

if TYPE_CHECKING:
    from deepcontrast_bmz.model.loop import Loop

RECIPE = Recipe.model_validate({"network": {"width": 2}})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance_fit, "FEWEST_FOR_LOCAL", 5)
    monkeypatch.setattr(balance_fit, "STEPS", 40)
    monkeypatch.setattr(balance_fit, "SIDE", 96)


@pytest.fixture(scope="module")
def loop() -> Loop:
    return untrained_loop(RECIPE).requires_grad_(requires_grad=False)


def bad_dial(_: torch.Tensor, iterations: torch.Tensor) -> float:
    return float(len(iterations))


def _worse(*_: object) -> float:
    return -0.1


def test_features_that_tell_the_depth_are_learned() -> None:
    balance = LocalBalance(4, 1.0, 8)
    generator = torch.Generator().manual_seed(0)
    features = 3 + 5 * torch.rand(4000, FEATURES, generator=generator)
    depths = 4 * (features[:, 7] - 3) / 5
    balance_fit._fit(balance, features, depths, seed=1)  # pyright: ignore[reportPrivateUsage]
    with torch.inference_mode():
        read = balance.read(features.T[None, :, :, None]).flatten()
    # Without learning anything, the mean alone is 1 off.
    assert float((read - depths).abs().mean()) < 0.15


@pytest.mark.usefixtures("quick")
def test_the_same_seed_fits_the_same(loop: Loop) -> None:
    # An untrained network makes nothing better, but the largest dial is worse still.
    found = [fit_balance(loop, RECIPE, 6, bad_dial, (None, "smoothed")) for _ in range(2)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0][1] == found[1][1]
    assert found[0][1].recordings == 6
    for name, tensor in found[0][0].state_dict().items():
        assert torch.equal(tensor, found[1][0].state_dict()[name]), name


@pytest.mark.usefixtures("quick")
def test_it_goes_where_it_is_no_better(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance_fit, "_gain", _worse)
    assert fit_balance(loop, RECIPE, 6, bad_dial, (None,)) is None


def test_few_recordings_and_short_loops_have_none(loop: Loop) -> None:
    few = balance_fit.FEWEST_FOR_LOCAL - 1
    assert fit_balance(loop, RECIPE, few, bad_dial, (None,)) is None
    short = Recipe.model_validate({"network": {"width": 2}, "loop": {"iterations": 3}})
    assert fit_balance(untrained_loop(short), short, 10**6, bad_dial, (None,)) is None
