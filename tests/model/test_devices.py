"""Devices are taken only if they compute what the CPU computes; runtimes say where they run."""

from __future__ import annotations

import io
import logging
import math
from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
import torch

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.model import devices as backends
from deepcontrast_bmz.model.devices import (
    choose_device,
    fast_loop,
    find_device_fault,
    open_onnx_session,
)
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import DilatedNetwork, DilatedVolumeNetwork, InvertibleNetwork
from deepcontrast_bmz.model.network.strips import InStrips

if TYPE_CHECKING:
    from collections.abc import Callable

    Spoiling = Callable[[Callable[[torch.Tensor], "torch.Tensor | None"]], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that a machine has GPUs, each with a reason why it does not work, or None."""

    def make(**gpus: str | None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in gpus)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Pretended GPU")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in gpus)
        monkeypatch.setattr(backends, "find_device_fault", gpus.__getitem__)

    return make


@pytest.mark.parametrize(
    ("gpus", "asked", "expected"),
    [
        ({}, "auto", "cpu"),
        ({}, "cpu", "cpu"),
        ({"cuda": None}, "auto", "cuda"),
        ({"cuda": None}, "cuda", "cuda"),
        ({"cuda": None}, "cpu", "cpu"),
        ({"mps": None}, "auto", "mps"),
        ({"cuda": None, "mps": None}, "auto", "cuda"),
        ({"cuda": None, "mps": None}, "mps", "mps"),
        ({"cuda": "no kernel image"}, "auto", "cpu"),
        ({"cuda": "no kernel image", "mps": None}, "auto", "mps"),
    ],
)
def test_the_fastest_device_that_works_is_taken(
    gpus: dict[str, str | None], asked: str, expected: str, machine: Callable[..., None]
) -> None:
    machine(**gpus)
    assert choose_device(asked) == expected


@pytest.mark.parametrize(
    ("gpus", "asked", "message"),
    [
        ({}, "cuda", "cuda needs a GPU that torch can use, and there is none"),
        ({"cuda": None}, "mps", "mps needs an Apple GPU"),
        ({"cuda": "no kernel image"}, "cuda", r"cuda does not \(no kernel image\)"),
        ({"cuda": None}, "tpu", "auto, cpu, cuda, mps, not 'tpu'"),
    ],
)
def test_a_device_that_was_asked_for_is_never_replaced(
    gpus: dict[str, str | None], asked: str, message: str, machine: Callable[..., None]
) -> None:
    machine(**gpus)
    with pytest.raises(InputError, match=message):
        choose_device(asked)


def test_the_log_names_the_device_and_what_is_wrong_with_others(
    machine: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    machine(cuda=None)
    with caplog.at_level(logging.INFO, logger="deepcontrast_bmz"):
        choose_device("auto")
    assert "device cuda (Pretended GPU) (asked for: auto)" in caplog.text
    machine(cuda="no kernel image")
    choose_device("auto")
    assert [record.levelname for record in caplog.records][-1:] == ["WARNING"]
    assert "cuda is there but cannot be used: no kernel image" in caplog.text


# ---- the trial


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> Spoiling:
    """Pretend that a device called 'broken' computes on the CPU and then something goes wrong."""

    def make(spoil: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        honest = backends.fast_loop

        def on_device(loop: Loop, device: str) -> Any:
            ready = honest(loop, "cpu")

            def run(image: torch.Tensor) -> torch.Tensor | None:
                return spoil(ready(image))

            return run if device == "broken" else ready

        def to(self: torch.Tensor, *_: object) -> torch.Tensor:
            return self

        monkeypatch.setattr(backends, "fast_loop", on_device)
        monkeypatch.setattr(torch.Tensor, "to", to)
        find_device_fault.cache_clear()

    return make


def test_the_cpu_agrees_with_itself() -> None:
    assert find_device_fault("cpu") is None


def test_a_device_that_agrees_is_good(spoiled: Spoiling) -> None:
    spoiled(lambda result: result * (1 + 1e-9))
    assert find_device_fault("broken") is None
    find_device_fault.cache_clear()


@pytest.mark.parametrize(
    "spoil",
    [
        # Eleven bits, as in TF32: the offset of 1000 leaves too few of them for the signal.
        torch.Tensor.half,
        torch.Tensor.bfloat16,
        torch.zeros_like,
        torch.log1p,
    ],
)
def test_a_device_that_differs_is_refused(
    spoil: Callable[[torch.Tensor], torch.Tensor], spoiled: Spoiling
) -> None:
    spoiled(lambda result: spoil(result).float())
    reason = find_device_fault("broken")
    assert reason is not None
    assert "differs by" in reason
    find_device_fault.cache_clear()


def test_a_device_that_makes_no_numbers_is_refused(spoiled: Spoiling) -> None:
    spoiled(lambda result: result * math.nan)
    assert "differs by nan" in str(find_device_fault("broken"))
    find_device_fault.cache_clear()


def test_a_device_that_fails_is_refused_with_its_reason(spoiled: Spoiling) -> None:
    def fail(_result: object) -> None:
        raise RuntimeError("no kernel image\n is available")

    spoiled(fail)
    assert find_device_fault("broken") == "no kernel image is available"
    find_device_fault.cache_clear()


def test_the_trial_leaves_the_random_numbers_alone() -> None:
    find_device_fault.cache_clear()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    find_device_fault("cpu")
    assert torch.equal(torch.rand(3), expected)


# ---- loops


def test_the_dilated_networks_run_in_strips_and_others_as_they_are() -> None:
    torch.manual_seed(0)
    image = 100 + torch.rand(1, 1, 24, 24)
    for network in (DilatedNetwork(4, (1, 2)), InvertibleNetwork(4, 2)):
        loop = Loop(network, 2)
        with torch.inference_mode():
            expected = loop(image)
            fast = fast_loop(loop, "cpu")
            found = fast(image)
        assert isinstance(fast.network, InStrips) == isinstance(network, DilatedNetwork)
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize(("spent", "expected"), [((1.0, 0.5), True), ((0.5, 1.0), False)])
@pytest.mark.parametrize("network", [DilatedNetwork(2, (1,)), DilatedVolumeNetwork(2, (1,), 1)])
def test_the_layout_of_a_gpu_is_the_faster_one(
    network: DilatedNetwork | DilatedVolumeNetwork,
    spent: tuple[float, float],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]

    def run(self: InStrips, x: torch.Tensor) -> torch.Tensor:
        clock[0] += spent[self.channels_last]
        return x

    monkeypatch.setattr(backends.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(InStrips, "forward", run)
    assert backends._faster_layout(network, "cpu") is expected  # pyright: ignore[reportPrivateUsage]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_real_gpu_gives_the_values_of_the_cpu() -> None:
    assert choose_device("cuda") == "cuda"
    torch.manual_seed(0)
    loop = Loop(DilatedNetwork(), 2)
    image = 1000 + 10 * torch.rand(2, 1, 150, 130)
    with torch.inference_mode():
        expected = fast_loop(loop, "cpu")(image)
        found = fast_loop(loop, "cuda")(image.to("cuda")).cpu()
    assert (found - expected).abs().max() <= 1e-4 * (expected.max() - expected.min())


# ---- ONNX Runtime


def small_graph() -> bytes:
    file = io.BytesIO()
    export: Any = torch.onnx.export
    export(
        torch.nn.Conv2d(1, 1, 3), (torch.rand(1, 1, 8, 8),), file, dynamo=False, opset_version=17
    )
    return file.getvalue()


class PretendedSession:
    """Takes providers, and in the end uses those it is told to."""

    used: tuple[str, ...] = ("CPUExecutionProvider",)
    asked: tuple[Any, ...] = ()

    def __init__(self, _data: bytes, options: Any, providers: list[Any]) -> None:
        PretendedSession.asked = tuple(providers)
        self.threads = options.intra_op_num_threads

    def get_providers(self) -> list[str]:
        return list(PretendedSession.used)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_runs_on_the_cpu_with_the_threads_of_torch() -> None:
    session, device = open_onnx_session(small_graph(), "cpu")
    assert device == "cpu"
    assert session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("there", "used", "expected"),
    [
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "CUDAExecutionProvider", "cuda"),
        # The GPU build without its CUDA libraries: the session falls back and says nothing.
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "CPUExecutionProvider", "cpu"),
        (["CPUExecutionProvider"], "CPUExecutionProvider", "cpu"),
    ],
)
def test_onnx_says_where_it_really_runs(
    there: list[str], used: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnxruntime, "InferenceSession", PretendedSession)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(PretendedSession, "used", (used,))
    _, device = open_onnx_session(b"", "cuda")
    assert device == expected
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
    assert (PretendedSession.asked[0] == cuda) == (there[0] == "CUDAExecutionProvider")
