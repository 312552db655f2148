"""The comparison of networks: its own network, its pairs and loops, and a whole tiny run."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import loops
import networks
import networks_compared as compared
import networks_judged as judged
import networks_taught as taught
import numpy as np
import phantoms
import pytest
import torch

from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.settings import NetworkSettings
from deepcontrast_bmz.train.pairs import PairDataset

if TYPE_CHECKING:
    from pathlib import Path

TINY = NetworkSettings(width=2, dilations=(1, 2))


def options(work: Path) -> Any:
    return compared.Options(
        steps=1, seeds=1, phantoms=1, first_seed=1, batch=2, patch=16, specimens=2,
        work=work, data=None, cached=False,
    )  # fmt: skip


def recorded(tmp_path: Path) -> tuple[Any, list[Any]]:
    variant = compared.Variant(TINY, 1e-3)
    recipe = compared.make_recipe(variant, 0, options(tmp_path))
    return recipe, taught.draw_specimens(recipe, 2, 1)


@torch.no_grad()
def test_the_network_that_is_told_the_depth_keeps_the_laws() -> None:
    torch.manual_seed(1)
    network = taught.ConditionedNetwork(NetworkSettings(width=4, dilations=(1, 2, 1))).double()
    for name, parameter in network.named_parameters():
        if "slope" in name:
            parameter.normal_()
    x = torch.rand(1, 1, 24, 21, dtype=torch.float64)
    r = network.radius
    torch.testing.assert_close(network.at(x, 0.0), x[:, :, r:-r, r:-r])
    y = network.at(x, 2.5)
    assert y.shape == (1, 1, 24 - 2 * r, 21 - 2 * r)
    torch.testing.assert_close(network.at(3 * x + 50, 2.5), 3 * y + 50)
    torch.testing.assert_close(network.at(x[..., 1:, 3:], 2.5), y[..., 1:, 3:])
    assert float((network.at(x, 1.0) - y).abs().max()) > 1e-2, "the depth must change something"
    torch.testing.assert_close(network.iterate(x, 2), network.at(x, 2.0))


def test_what_is_taught_differs_by_the_recipe(tmp_path: Path) -> None:
    def recipe(variant: Any) -> Any:
        return compared.make_recipe(variant, 0, options(tmp_path))

    shared = recipe(compared.NETWORKS[compared.FIRST])
    assert shared.data.input_share is None
    found = {name: recipe(variant) for name, variant in compared.TAUGHT.items()}
    assert found["light split in halves"].data.input_share == 0.5
    assert found["specimens as deep as 3"].data.phantom_optical_depth == (0.0, 3.0)
    assert found["up to two steps in one"].training.unroll == 2
    for name, variant in compared.TAUGHT.items():
        assert (found[name] != shared) == (variant.changes is not None)
        assert found[name].data.patch == shared.data.patch


def test_pairs_of_two_recordings_show_one_place(tmp_path: Path) -> None:
    recipe, found = recorded(tmp_path)
    raw = [made.raw for made in found]
    naive = PairDataset(raw, recipe, radius=4, length=3, stream=0)
    quiet = PairDataset([made.noiseless for made in found], recipe, radius=4, length=3, stream=0)
    paired = taught.Paired(quiet, raw)
    assert len(paired) == 3
    for index in range(3):
        assert torch.equal(paired[index]["degraded"], quiet[index]["degraded"])
        target = paired[index]["raw"]
        assert not torch.equal(target, quiet[index]["raw"])
        both = torch.stack((target.flatten(), quiet[index]["raw"].flatten()))
        assert float(torch.corrcoef(both)[0, 1]) > 0.5
    assert naive[0]["raw"].shape == paired[0]["raw"].shape


def test_pairs_of_many_depths_are_of_one_depth_per_batch(tmp_path: Path) -> None:
    recipe, found = recorded(tmp_path)
    pairs = PairDataset([made.raw for made in found], recipe, radius=4, length=24, stream=0)
    drawn = taught.OfManyDepths(pairs)
    depths = [float(drawn[index]["depth"]) for index in range(24)]
    assert depths[::2] == depths[1::2]
    assert len(set(depths)) > 3
    assert set(depths) <= set(compared.DEPTHS)
    assert torch.equal(drawn[0]["raw"], pairs[0]["raw"])
    assert not torch.equal(drawn[0]["degraded"], pairs[0]["degraded"])
    assert pairs.recipe.physics.step_optical_depth == 1.0


@torch.no_grad()
def test_loops_differ_by_what_they_feed_back() -> None:
    torch.manual_seed(2)
    loop = Loop(build_network(TINY)).eval()
    case = phantoms.draw_case("tubes", 1.0, 5)
    raw = case.counts[:80, :72]
    found = {name: loops.iterated(loop, raw, 2, make(raw)) for name, make in loops.LOOPS.items()}
    alone = found["plain loop"]
    assert alone.shape == (2, 80, 72)
    inside = loop.iterate(raw[None, None], 2)[0]
    torch.testing.assert_close(alone[:, 8:-8, 8:-8], inside, rtol=1e-4, atol=1e-2)
    for name, images in found.items():
        assert torch.isfinite(images).all()
        if images is not alone:
            assert float((images - alone).std()) > 0.01 * float(raw.std()), name


def test_the_gate_closes_where_only_noise_is_left() -> None:
    generator = torch.Generator().manual_seed(3)
    after = torch.full((1, 1, 96, 96), 200.0)
    noise = 5 * torch.randn(1, 1, 96, 96, generator=generator)
    fed = (loops.gated(1, after + noise, after) - after).std()
    all_of_it = loops.reinjected(1.0)(1, after + noise, after) - after
    assert float(fed) < 0.5 * float(all_of_it.std())
    structure = 50 * torch.sin(torch.arange(96.0) / 2)[None, None, None, :].repeat(1, 1, 96, 1)
    missed = loops.gated(1, after + structure + noise, after) - after
    both = torch.stack((missed.flatten(), structure.flatten()))
    assert float(torch.corrcoef(both)[0, 1]) > 0.95
    assert float(missed.std()) > 0.6 * float(structure.std())


def test_a_network_on_a_grid_shows_that_the_window_moved() -> None:
    raw = phantoms.draw_case("tubes", 1.0, 5).counts[:40, :40]
    torch.manual_seed(4)
    errors = [
        judged.measure_shift(Loop(build_network(settings)).eval(), raw, 1)
        for settings in (TINY, NetworkSettings(kind="invertible", width=2, levels=2))
    ]
    assert errors[0] == 0
    assert errors[1] > 1e-4


def test_a_repeated_command_trains_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(phantoms, "SIDES", (64,))
    for room in (phantoms, networks):
        monkeypatch.setattr(room, "OPTICAL_DEPTHS", (1.0,))
    monkeypatch.setattr(taught, "SIDE", 96)
    monkeypatch.setattr(judged, "LUCY_ITERATIONS", 5)
    monkeypatch.setattr(networks, "measure_time", lambda _loop: 0.25)  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(networks, "LOOPS", {"plain loop": loops.LOOPS["plain loop"]})
    for table in (compared.NETWORKS, compared.TAUGHT):
        for name, variant in table.items():
            monkeypatch.setitem(table, name, variant._replace(network=TINY))
    budget = {"steps": 1, "seeds": 1, "phantoms": 1, "batch": 1, "patch": 16, "specimens": 2}
    words = [word for name, value in budget.items() for word in (f"--{name}", str(value))]
    words += ["--work", str(tmp_path), "--only", "width 16", "told", "refined", "loop"]
    networks.main(words)
    first = capsys.readouterr().out
    assert first.count("trained ") == 3
    networks.main([*words, "--cached"])
    again = capsys.readouterr().out
    assert "trained " not in again
    table = "Networks in the plain loop"
    assert first[first.index(table) :] == again[again.index(table) :]
    assert "| dilated, told the depth, once | 1 |" in again
    assert "| refined targets, plain loop | 1 |" in again
    assert "| network, loop or pairs | optical depth 1 |" in again
    (scores,) = tmp_path.glob("dilated_2_depths*/scores*.json")
    assert len(json.loads(scores.read_text())) == 3
    assert not list(tmp_path.glob("*/checkpoints"))


def test_a_record_says_the_command_that_makes_it_again() -> None:
    parser = networks.build_parser()
    for words in (
        "--record",
        "--steps 60 --first-seed 7 --record",
        "--seeds 3 --data FOLDER --only 'width 16' loop --record",
    ):
        given = parser.parse_args(shlex.split(words))
        command = networks.write_command(given, parser)
        assert command == f"python benchmarks/networks.py {words}"
        assert parser.parse_args(shlex.split(command)[2:]) == given


def test_less_than_one_of_anything_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        networks.main(["--seeds", "0"])
    assert stop.value.code == 2
    assert "--seeds is at least 1" in capsys.readouterr().err


def test_deeper_specimens_are_drawn_for_the_recipe_that_asks_for_them(tmp_path: Path) -> None:
    runs = taught.Runs(options(tmp_path))
    shared, deeper = (
        compared.make_recipe(compared.Variant(TINY, 1e-3, changes=changes), 0, runs.options)
        for changes in (None, {"data": {"phantom_optical_depth": (2.5, 3.0)}})
    )
    first, other = (runs.data(recipe).training[0].raw.pixels for recipe in (shared, deeper))
    assert not np.array_equal(first, other)
    assert np.array_equal(runs.data(shared).training[0].raw.pixels, first)
