"""Where a loop runs, and on what terms: devices, threads, precision, runtimes.

A device is taken only if a small computation on it agrees with the CPU, and is named in the log.
Everything is computed in float32: the TF32 that GPUs put in its place rounds grey levels to 11
bits, which a camera offset alone can use up (``docs/performance.md`` has the figures).
"""

from __future__ import annotations

__all__ = [
    "DEVICES",
    "choose_device",
    "fast_loop",
    "find_device_fault",
    "memory_ran_out",
    "open_onnx_session",
]

import functools
import logging
import math
import time
from typing import Any

import torch

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import DilatedNetwork, DilatedVolumeNetwork
from deepcontrast_bmz.model.network.strips import InStrips

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "mps")
"""What can be asked for: ``mps`` is Apple's GPU, ``auto`` the first of cuda, mps, cpu to work."""

_NEEDS = {
    "cuda": "a GPU that torch can use",
    "mps": "an Apple GPU that torch can use",
}

_AGREEMENT = 1e-5
"""Largest difference between a device and the CPU, over the range of the result."""

_TRIAL_SIDE, _TRIAL_RUNS = 256, 3


# ---- devices


def choose_device(device: str) -> str:
    """Return ``cpu``, ``cuda`` or ``mps``; for ``auto`` the fastest that agrees with the CPU.

    Raises
    ------
    InputError
        If the device is unknown, or asked for and not there or not working.
    """
    if device not in DEVICES:
        raise InputError(
            f"a device is one of {', '.join(DEVICES)}, not {device!r}: choose one of them"
        )
    chosen = "cpu"
    if device == "auto":
        chosen = next((name for name in _list_gpus() if _check_gpu(name)), "cpu")
    elif device != "cpu":
        if device not in _list_gpus():
            raise InputError(
                f"the device {device} needs {_NEEDS[device]}, and there is none: "
                "use --device cpu or auto"
            )
        reason = find_device_fault(device)
        if reason is not None:
            raise InputError(
                f"a device must compute what the CPU computes, but {device} does not "
                f"({reason}): use --device cpu, or update its driver and torch"
            )
        chosen = device
    logger.info("device %s%s (asked for: %s)", chosen, _describe_gpu(chosen), device)
    return chosen


def _list_gpus() -> list[str]:
    """Return the GPUs that torch sees."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [name for name, present in there.items() if present]


def _describe_gpu(device: str) -> str:
    return f" ({torch.cuda.get_device_name()})" if device == "cuda" else ""


def _check_gpu(device: str) -> bool:
    reason = find_device_fault(device)
    if reason is not None:
        logger.warning("device %s is there but cannot be used: %s", device, reason)
    return reason is None


@functools.cache
def find_device_fault(device: str) -> str | None:
    """Return why a device that torch sees cannot be used; None if it computes what the CPU does."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        loop = Loop(DilatedNetwork(4, (1, 2, 1)), 2)
        # Small signal on a large offset: what reduced precision cannot do.
        image = 1000 + 10 * torch.rand(1, 1, 40, 40)
    try:
        with torch.inference_mode():
            expected = fast_loop(loop, "cpu")(image)
            found = fast_loop(loop, device)(image.to(device)).cpu()
    except RuntimeError as error:  # what torch raises for a device
        return " ".join(str(error).split())[:200]
    off = float((found - expected).abs().max() / (expected.max() - expected.min()))
    # A signal of 10 on 1000 leaves 1e-5 of it to float32.
    if math.isfinite(off) and off <= 10 * _AGREEMENT:
        return None
    return f"a test image differs by {off:.1e} of its range"


# ---- loops


def fast_loop(loop: Loop, device: str) -> Loop:
    """Return a loop for inference on a device, moved and frozen, in the form that is fastest there.

    Its values differ from those of `loop` by rounding.
    """
    if device == "cuda":
        # For the whole process: a flag that comes and goes would race between threads.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    loop = loop.to(device).eval().requires_grad_(requires_grad=False)
    if not isinstance(loop.network, DilatedNetwork | DilatedVolumeNetwork):
        return loop
    layout = None if device == "cpu" else _faster_layout(loop.network, device)
    strips = InStrips(loop.network, channels_last=layout)
    return Loop(strips, loop.iterations)


def _faster_layout(network: DilatedNetwork | DilatedVolumeNetwork, device: str) -> bool:
    """Return whether channels last is the faster layout on a device, by trying both."""
    sides = [2 * radius + _TRIAL_SIDE for radius in (network.radius, network.radius)]
    if isinstance(network, DilatedVolumeNetwork):
        sides.insert(0, 2 * network.radii[0] + 1)
    image = torch.zeros(1, 1, *sides, device=device)
    best: dict[bool, float] = {}
    with torch.inference_mode():
        for channels_last in (False, True):
            strips = InStrips(network, channels_last=channels_last)
            for _ in range(_TRIAL_RUNS):
                begun = time.perf_counter()
                strips(image).sum().item()  # waits for the device
                spent = time.perf_counter() - begun
                best[channels_last] = min(best.get(channels_last, spent), spent)
    logger.debug("channels first %.4f s, last %.4f s on %s", best[False], best[True], device)
    return best[True] < best[False]


# ---- ONNX Runtime


def open_onnx_session(data: bytes, device: str) -> tuple[Any, str]:
    """Open an ONNX file with ONNX Runtime; return its session, and the device it really runs on.

    ONNX Runtime falls back to the CPU silently.
    """
    import onnxruntime  # only these weights need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads slow everybody down on a shared machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    session = onnxruntime.InferenceSession(data, options, providers=providers)
    used = session.get_providers()
    return session, "cuda" if used[0] == "CUDAExecutionProvider" else "cpu"


# ---- memory


def memory_ran_out(error: BaseException) -> bool:
    """Say whether an error is one of memory; torch has no class of its own for that on a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text
        or "not enough memory" in text
        or "failed to allocate" in text
    )
