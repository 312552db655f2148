"""Loads weights files; no code that they may hold is run."""

from __future__ import annotations

__all__ = [
    "ignore_deprecations",
    "load_onnx",
    "load_state",
    "load_torchscript",
]

import io
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.model.devices import open_onnx_session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from deepcontrast_bmz.model.loop import Loop

logger = logging.getLogger(__name__)


@contextmanager
def ignore_deprecations() -> Generator[None]:
    """Silence what torch says of `torch.jit`: programs of the zoo load nothing else."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", category)
        yield


def load_state(loop: Loop, data: bytes, what: str) -> None:
    """Load a state dict into a loop without running code it may hold; `what` names it in errors.

    Raises
    ------
    InputError
        If the file holds anything but the finite tensors of this loop.
    """
    try:
        with warnings.catch_warnings():
            # What torch has to say about a foreign pickle, the error below says, too.
            warnings.simplefilter("ignore", UserWarning)
            state: object = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common base class for what a file can hold
        raise InputError(
            f"{what} must be plain tensors saved by torch, but cannot be loaded as such "
            f"({type(error).__name__}): the file is damaged, or do not trust it"
        ) from error
    expected = loop.state_dict()
    if not isinstance(state, dict) or set(cast("dict[str, object]", state)) != set(expected):
        raise InputError(
            f"{what} do not hold the tensors of the network that is described: export again"
        )
    tensors = cast("dict[str, object]", state)
    for name, own in expected.items():
        tensor = tensors[name]
        if not isinstance(tensor, Tensor) or tensor.shape != own.shape:
            met = str(tuple(tensor.shape)) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputError(
                f"{name} in {what} should be a tensor of {tuple(own.shape)}, not {met}: "
                "export again"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} in {what} holds NaN or infinity: train again")
    loop.load_state_dict(cast("dict[str, Tensor]", tensors))


def load_torchscript(data: bytes, device: str, what: str) -> Callable[[Tensor], Tensor]:
    """Load a TorchScript file onto a device, or raise `InputError`, in which `what` names it."""
    try:
        with ignore_deprecations():
            graph = torch.jit.load(io.BytesIO(data), map_location=device)
    except RuntimeError as error:
        raise InputError(
            f"{what} must be a TorchScript file, but cannot be loaded: get the package again"
        ) from error
    graph.eval()
    return cast("Callable[[Tensor], Tensor]", graph)


def load_onnx(
    data: bytes, device: str, what: str, *, insisted: bool
) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return the graph and the device it really runs on: ONNX Runtime falls back silently.

    Where the user `insisted` on the device, another is an error; `what` names the file in errors.

    Raises
    ------
    InputError
        If it is no ONNX file of one input and output, or cannot run on the device.
    """
    try:
        session, real = open_onnx_session(data, device)
    except Exception as error:  # its exceptions share no public base class
        raise InputError(
            f"{what} must be an ONNX file, but cannot be loaded ({type(error).__name__}): "
            "get the package again"
        ) from error
    if real != device:
        if insisted:
            raise InputError(
                f"onnx weights run on the device {device} only with an onnxruntime that can "
                "use it (onnxruntime-gpu for cuda), and the installed one runs on the CPU: use "
                "--device cpu, or --weights pytorch_state_dict"
            )
        logger.warning("onnxruntime runs on the CPU: it cannot use the device %s", device)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{what} should have one input and one output, not {len(inputs)} and {len(outputs)}: "
            "export again"
        )
    given, returned = inputs[0].name, outputs[0].name

    def run(extended: Tensor) -> Tensor:
        result = session.run([returned], {given: extended.cpu().numpy()})[0]
        return torch.from_numpy(result)

    return run, real
