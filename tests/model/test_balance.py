"""The local dial: blind to gain and offset, without seams, and as the formula says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from conftest import local_dial_loop

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.weights import export_weights
from deepcontrast_bmz.model.balance import BALANCE_RADIUS, FEATURES, SEEN, LocalBalance
from deepcontrast_bmz.model.loop import Loop, balance_fits, blend, extend_symmetric
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.model.open import build_loop
from deepcontrast_bmz.records import LocalDial
from deepcontrast_bmz.settings import NetworkSettings

if TYPE_CHECKING:
    from pathlib import Path

    from deepcontrast_bmz.export.weights import ExportRecord

SMALL = NetworkSettings(width=4)


@pytest.fixture(scope="module")
def loop() -> Loop:
    return local_dial_loop()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    rough = torch.rand(1, 1, 90, 101, generator=generator)
    slope = torch.linspace(0.2, 2, 101)
    return 100 + 400 * rough * slope


def run(loop: Loop, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return loop(image)


def test_there_is_one_channel_more(loop: Loop, image: torch.Tensor) -> None:
    out = run(loop, image)
    assert out.shape == (1, 5, 90, 101)
    with torch.inference_mode():
        extended = extend_symmetric(image, 4 * loop.radius)
        assert torch.equal(out[:, :4], loop.iterate(extended, 4))
    # It is none of the iterations, nor the raw image.
    spread = float(image.max() - image.min())
    for other in (*out[0, :4], image[0, 0]):
        assert float((out[0, 4] - other).abs().max()) > 1e-4 * spread


def test_gain_and_offset_pass_through(loop: Loop, image: torch.Tensor) -> None:
    one, other = run(loop, image)[:, 4], run(loop, 0.1 * image + 50)[:, 4]
    spread = float(one.max() - one.min())
    assert float((0.1 * one + 50 - other).abs().max()) < 1e-4 * spread


def test_shifts_and_seams(loop: Loop, image: torch.Tensor) -> None:
    """A part that comes with its surroundings has the very pixels of the whole."""
    margin = 4 * loop.radius
    extended = extend_symmetric(image, margin)
    with torch.inference_mode():
        whole = loop.channels(extended)
        part = loop.channels(extended[..., 7 : 7 + 2 * margin + 40, 13 : 13 + 2 * margin + 50])
    spread = float(whole.max() - whole.min())
    assert float((part - whole[..., 7:47, 13:63]).abs().max()) < 1e-5 * spread


def test_it_sees_exactly_its_radius() -> None:
    balance = LocalBalance(4, 1.0, 4).eval()
    side = 2 * BALANCE_RADIUS + 1
    images = torch.rand(1, SEEN, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert balance.dial(images).shape == (1, 1, 1, 1)
        assert balance.features(images[..., 2:-2, 2:-2]).shape == (1, FEATURES, 1, 1)


def test_an_even_dial_is_the_dial_of_the_loop(image: torch.Tensor) -> None:
    balance = LocalBalance(4, 0.7, 4)
    generator = torch.Generator().manual_seed(5)
    images = torch.cat((image, torch.rand(1, 4, 90, 101, generator=generator)), 1)
    for dial in (0.0, 0.35, 0.7, 1.9, 2.8):
        wanted = blend(images[0, 0], images[0, 1:], dial, 0.7)
        got = balance.blend(images, torch.full_like(image, dial / 0.7))[0, 0]
        assert torch.allclose(got, wanted, atol=1e-4)


def test_a_constant_image_stays_constant(loop: Loop) -> None:
    out = run(loop, torch.full((1, 1, 20, 30), 137.0))
    assert torch.allclose(out, torch.tensor(137.0), atol=1e-3)


@pytest.fixture(scope="module")
def exported(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportRecord]:
    folder = tmp_path_factory.mktemp("exported")
    return folder, export_weights(loop, folder, SMALL)


def test_all_formats_have_the_channel(exported: tuple[Path, ExportRecord]) -> None:
    """`export_weights` compares all of them with the loop itself."""
    record = exported[1]
    assert record.architecture_kwargs["local_dial"] == 8
    assert {row.difference < 1e-5 for row in record.parity} == {True}


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_no_group_that_old_runtimes_would_compile(exported: tuple[Path, ExportRecord]) -> None:
    """Pointwise operations that make new tensors, one behind the other, stall libtorch 2.0."""
    graph = torch.jit.load(exported[0] / "weights.torchscript.pt").graph
    fusible = {"aten::add", "aten::sub", "aten::mul", "aten::div", "aten::log", "aten::sqrt"}
    fusible |= {"aten::exp", "aten::clamp", "aten::abs", "aten::relu", "aten::neg"}
    for node in graph.nodes():
        if node.kind() in fusible and "Tensor" in str(node.output().type()):
            users = {use.user.kind() for use in node.output().uses()}
            assert not users & (fusible | {"aten::cat"}), node


def test_too_little_room_is_refused() -> None:
    described = LocalDial(hidden=8, recordings=1, error=0, gain_even_db=0.0, gain_uneven_db=0.0)
    assert balance_fits(2, 47, 4)
    assert not balance_fits(2, 47, 3)
    assert not balance_fits(3, 47, 4)
    with pytest.raises(InputError, match="more surroundings than 3 iterations"):
        build_loop(
            SMALL,
            iterations=3,
            reinjection=0,
            step_optical_depth=1.0,
            widths_px=(5.5,),
            weights=(1.0,),
            local_dial=described,
        )
    with pytest.raises(ValueError, match="do not hold"):
        Loop(build_network(SMALL), 3, None, LocalBalance(3, 1.0, 4))


def test_dial_stays_within_the_iterations() -> None:
    balance = LocalBalance(4, 1.0, 4)
    with torch.no_grad():
        for parameter in balance.parameters():
            parameter.fill_(5.0)
    features = torch.ones(1, FEATURES, 3, 3)
    assert float(balance.read(features).detach().max()) == 4
    assert float(balance.read(-features).detach().min()) >= 0
    assert math.isclose(float(balance.read(features).detach().min()), 4)
