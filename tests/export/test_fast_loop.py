"""The forms in which other programs run dilated networks fast give the values of the loop."""

from __future__ import annotations

import io
import warnings
from typing import Any

import onnxruntime
import pytest
import torch

from deepcontrast_bmz.export.fast_loop import SameSizeNetwork, is_plainly_dilated
from deepcontrast_bmz.export.onnx import serialize_onnx
from deepcontrast_bmz.export.torchscript import serialize_torchscript
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import DilatedNetwork, DilatedVolumeNetwork, InvertibleNetwork

SIZES = ((1, 1, 2, 1), (1, 1, 9, 5), (2, 1, 31, 64), (1, 1, 97, 1), (1, 1, 50, 133))
STACK_SIZES = ((1, 1, 1, 9, 5), (2, 1, 3, 21, 34), (1, 1, 7, 2, 40))


def loop_of(*dilations: int, mixing: int = 0) -> Loop:
    torch.manual_seed(4)
    network = DilatedVolumeNetwork(6, dilations, mixing) if mixing else DilatedNetwork(6, dilations)
    return Loop(network.requires_grad_(requires_grad=False), 2).eval()


def image(shape: tuple[int, ...]) -> torch.Tensor:
    return 100 + 20 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def script(content: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
        return torch.jit.load(io.BytesIO(content))


def differ(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("dilations", [(1,), (3,), (1, 2, 1), (5, 1)])
def test_every_size_gives_the_values_of_the_loop(dilations: tuple[int, ...]) -> None:
    loop = loop_of(*dilations)
    run = script(serialize_torchscript(loop))
    session = onnxruntime.InferenceSession(serialize_onnx(loop), providers=["CPUExecutionProvider"])
    for size in SIZES:
        x = image(size)
        with torch.no_grad():
            expected = loop(x)
            # Engines profile the first run and change the graph for the second.
            assert max(differ(run(x), expected) for _ in range(3)) <= 1e-6
        found = torch.from_numpy(session.run(None, {"raw": x.numpy()})[0])
        assert differ(found, expected) <= 1e-6


@pytest.mark.parametrize(("dilations", "mixing"), [((1, 2, 1), 1), ((2, 1), 2)])
def test_stacks_of_every_size_give_the_values_of_the_loop(
    dilations: tuple[int, ...], mixing: int
) -> None:
    loop = loop_of(*dilations, mixing=mixing)
    run = script(serialize_torchscript(loop))
    session = onnxruntime.InferenceSession(serialize_onnx(loop), providers=["CPUExecutionProvider"])
    for size in STACK_SIZES:
        x = image(size)
        with torch.no_grad():
            expected = loop(x)
            assert max(differ(run(x), expected) for _ in range(3)) <= 1e-6
        found = torch.from_numpy(session.run(None, {"raw": x.numpy()})[0])
        assert differ(found, expected) <= 1e-6


def test_many_strips_give_the_values_of_the_loop() -> None:
    """An image of more rows than a strip, whose kept rows move within their buffers."""
    loop = loop_of(1, 4, 2)
    x = image((1, 1, 230, 20))
    run = script(serialize_torchscript(loop))
    with torch.no_grad():
        assert differ(run(x), loop(x)) <= 1e-6


def test_the_network_of_one_size_is_cut_where_it_is_wrong() -> None:
    loop = loop_of(1, 2, 1)
    assert is_plainly_dilated(loop.network)
    x = image((1, 1, 40, 30))
    assert differ(SameSizeNetwork(loop.network)(x), loop.network(x)) <= 1e-6


def test_a_network_with_a_function_of_its_own_keeps_it() -> None:
    class Doubled(DilatedNetwork):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    torch.manual_seed(0)
    loop = Loop(Doubled(4, (1, 2)).requires_grad_(requires_grad=False), 2).eval()
    assert not is_plainly_dilated(loop.network)
    assert not is_plainly_dilated(InvertibleNetwork(4, 1))
    x = image((1, 1, 12, 15))
    with torch.no_grad():
        assert differ(script(serialize_torchscript(loop))(x), loop(x)) <= 1e-6


def test_an_archive_does_not_depend_on_the_process() -> None:
    """Optimisation that is off, and other loops before, leave no trace."""
    loop = loop_of(1, 2, 1)
    expected = serialize_torchscript(loop)
    serialize_torchscript(loop_of(2, 1))
    with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
        assert serialize_torchscript(loop) == expected
