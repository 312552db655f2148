"""Loads the weights of a package into the torch or onnxruntime of this process."""

from __future__ import annotations

__all__ = [
    "RUNNABLE",
    "describe_stand_in",
    "explain_not_run",
    "load_network",
    "repeats_our_source",
]

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from deepcontrast_bmz.check import faults as breaches
from deepcontrast_bmz.check.architecture import read_own_network
from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.check.tiling import NotPossibleError
from deepcontrast_bmz.package.description import as_map, integer, text
from deepcontrast_bmz.settings import NetworkSettings, describe_invalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepcontrast_bmz.model.loop import Loop
    from deepcontrast_bmz.package.files import Package

Array = NDArray[Any]

RUNNABLE = ("torchscript", "onnx", "pytorch_state_dict")
"""Weights formats that run here; the first that a package has is compared with the others."""


def explain_not_run(
    package: Package, weights_format: str, *, run_code: bool, own: bool = False
) -> str:
    """Return why weights may not be run, since they would run code of the package; empty if not.

    `own`: whether a network of this project, which needs none of that code, will do.
    """
    reason = _find_foreign_code(package, weights_format)
    ours = as_map(as_map(package.rdf.get("config")).get("dcbmz")) and read_own_network(package)
    if own and weights_format == "pytorch_state_dict" and ours:
        return ""
    return f"{weights_format} was not run: {reason}" if reason and not run_code else ""


def _find_foreign_code(package: Package, weights_format: str) -> str:
    if weights_format == "pytorch_state_dict":
        return "its architecture is code that comes with the package or from a library"
    if any(operation.name == "custom" for _, operation in breaches.steps(package.view)):
        return "its custom postprocessing is code that comes with the package"
    return ""


def _float32(x: Array) -> Array:
    return np.ascontiguousarray(x, dtype=np.float32)


def _first(out: Any) -> Array:
    out = out[0] if isinstance(out, list | tuple) else out
    return cast("Array", out.numpy())


def _torchscript(path: str) -> Callable[[Array], Array]:
    import torch

    module = torch.jit.load(path, map_location="cpu").eval()

    def run(x: Array) -> Array:
        # Optimising takes seconds at every new size, and only few images of a size are run.
        with (
            torch.inference_mode(),
            torch.jit.optimized_execution(  # pyright: ignore[reportPrivateImportUsage]
                False
            ),
        ):
            return _first(module(torch.from_numpy(_float32(x))))

    return run


def _onnx(path: str) -> Callable[[Array], Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: Array) -> Array:
        return np.asarray(session.run(None, {name: _float32(x)})[0])

    return run


def _state_dict(package: Package) -> Callable[[Array], Array]:
    """Run the architecture that comes with the package: its code."""
    import torch
    from bioimageio.core.backends.pytorch_backend import load_torch_model
    from bioimageio.spec import load_description

    description: Any = load_description(package.root / package.rdf_name, perform_io_checks=False)
    module = load_torch_model(description.weights.pytorch_state_dict, load_state=True).eval()

    def run(x: Array) -> Array:
        with torch.inference_mode():
            return _first(module(torch.from_numpy(_float32(x))))

    return run


def _own_loop(package: Package) -> Callable[[Array], Array]:
    """Load the state dict into a loop of this project with the kwargs of the architecture."""
    import torch

    loop = _build_loop(package)
    path = package.weights_file("pytorch_state_dict")
    try:
        state = torch.load(str(path), map_location="cpu", weights_only=True)
        loop.load_state_dict(state)
    # torch names no common base class for what a file can hold.
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise NotPossibleError(
            f"pytorch_state_dict does not load into the network of architecture.kwargs ({words})"
        ) from error
    loop.eval()

    def run(x: Array) -> Array:
        with torch.inference_mode():
            return _first(loop(torch.from_numpy(_float32(x))))

    return run


def _settings(package: Package) -> NetworkSettings:
    """Return the network of this project that architecture file and kwargs declare."""
    own = read_own_network(package)
    if own is None:
        raise NotPossibleError("the architecture is none of this project")
    known = {k: v for k, v in own.kwargs.items() if k in NetworkSettings.model_fields}
    try:
        return NetworkSettings.model_validate({"kind": own.kind, **known})
    except ValidationError as error:
        words = describe_invalid(error, "architecture.kwargs")
        raise NotPossibleError(f"pytorch_state_dict was not run: {words}") from error


def _build_loop(package: Package) -> Loop:
    from deepcontrast_bmz.model.loop import Loop
    from deepcontrast_bmz.model.network import build_network

    own = read_own_network(package)
    iterations = None if own is None else integer(own.kwargs.get("iterations"))
    if iterations is None or iterations < 1:
        raise NotPossibleError("pytorch_state_dict was not run: kwargs.iterations is no number")
    return Loop(build_network(_settings(package)), iterations)


def repeats_our_source(package: Package) -> bool:
    """Return whether the architecture file is, word for word, what this version exports."""
    from deepcontrast_bmz.export.architecture import write_architecture

    architecture = as_map(package.view.weights["pytorch_state_dict"].get("architecture"))
    path = package.file(text(architecture.get("source")))
    if path is None:
        return False
    return path.read_bytes() == write_architecture(_settings(package)).encode()


def describe_stand_in(package: Package, weights_format: str, *, run_code: bool) -> str:
    """Return what runs these weights in place of the package's own code; empty if nothing does."""
    if weights_format != "pytorch_state_dict" or run_code:
        return ""
    if repeats_our_source(package):
        return "in this project's network, which the architecture file repeats word for word"
    return (
        "in this project's network with architecture.kwargs, not in the architecture file, "
        "which differs from this version's and was not run"
    )


def load_network(
    package: Package, weights_format: str, *, run_code: bool
) -> Callable[[Array], Array]:
    """Return the network of one weights format as a function of arrays, without its processing.

    Without `run_code`, a state dict is loaded only into a network of this project, never by the
    Python code of the package.

    Raises
    ------
    NotPossibleError
        If there are no such weights, or nothing here runs them.
    """
    path = package.weights_file(weights_format)
    if path is None:
        raise NotPossibleError(f"there is no file with {weights_format} weights")
    with quiet():
        if weights_format == "torchscript":
            return _torchscript(str(path))
        if weights_format == "onnx":
            return _onnx(str(path))
        if weights_format == "pytorch_state_dict":
            return _state_dict(package) if run_code else _own_loop(package)
    raise NotPossibleError(f"no engine for {weights_format}")
