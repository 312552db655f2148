"""Loads the weights of a package into the torch or onnxruntime of this process."""

from __future__ import annotations

__all__ = ["RUNNABLE", "is_foreign_code", "load_network", "reads_itself"]

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from deepcontrast_bmz.check import faults as breaches
from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.check.tiling import NotPossibleError, mirror_indices
from deepcontrast_bmz.package.description import as_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepcontrast_bmz.package.files import Package

Array = NDArray[Any]

RUNNABLE = ("torchscript", "onnx", "pytorch_state_dict")
"""Weights formats that run here; the first that a package has is compared with the others."""


def is_foreign_code(package: Package, weights_format: str) -> str:
    """Return why running these weights would run code of the package; empty if it would not."""
    if weights_format == "pytorch_state_dict":
        return "its architecture is code that comes with the package or from a library"
    if any(operation.name == "custom" for _, operation in breaches.steps(package.view)):
        return "its custom postprocessing is code that comes with the package"
    return ""


def reads_itself(package: Package) -> bool:
    """Whether the network of a package can be built from ``config.dcbmz`` without its code."""
    return bool(as_map(as_map(package.rdf.get("config")).get("dcbmz")))


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


def _own_state_dict(package: Package) -> Callable[[Array], Array]:
    """Load the state dict into the network that ``config.dcbmz`` describes, running no code."""
    import torch

    from deepcontrast_bmz.model.open import open_model

    model = open_model(package.root / package.rdf_name, weights="pytorch_state_dict", device="cpu")
    iterations = model.description.iterations

    def run(x: Array) -> Array:
        extended, sizes = _float32(x), x.shape[2:]
        for axis, (size, radius) in enumerate(zip(sizes, model.radii, strict=True), start=2):
            grid = model.multiple if radius == model.radius else 1
            stop = -(-size // grid) * grid + iterations * radius
            indices = mirror_indices(-iterations * radius, stop, size, "symmetric")
            extended = extended.take(indices, axis=axis)
        given = torch.from_numpy(_float32(extended))
        out = model.iterate(given, iterations).numpy()
        return out[(slice(None), slice(None), *(slice(size) for size in sizes))]

    return run


def load_network(
    package: Package, weights_format: str, *, run_code: bool
) -> Callable[[Array], Array]:
    """Return the network of one weights format as a function of arrays.

    Parameters
    ----------
    package : Package
    weights_format : str
        ``torchscript``, ``onnx`` or ``pytorch_state_dict``.
    run_code : bool
        Whether a state dict may be loaded by the Python code of the package; without, only one of
        this project can be.

    Returns
    -------
    callable
        Takes what comes after preprocessing, returns what postprocessing is given.

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
            return _state_dict(package) if run_code else _own_state_dict(package)
    raise NotPossibleError(f"no engine for {weights_format}")
