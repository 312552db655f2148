"""Pre- and postprocessing of model descriptions in plain numpy, on one image or one tile."""

from __future__ import annotations

__all__ = ["UnsupportedError", "apply_operations"]

from typing import TYPE_CHECKING, Any

import numpy as np

from deepcontrast_bmz.package.description import LETTERS, as_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.package.description import Operation

EPS = 1e-6


class UnsupportedError(ValueError):
    """An operation is not emulated; the message names it."""


def _find_axes(kwargs: dict[str, Any], axes: Sequence[str]) -> tuple[int, ...]:
    """Return the positions over which statistics run: those asked for, else all."""
    given = kwargs.get("axes")
    if isinstance(given, str):
        names = [LETTERS.get(letter, ("", letter))[1] for letter in given]
    else:
        names = [str(name) for name in as_list(given)]
    found = tuple(i for i, axis in enumerate(axes) if axis in names)
    return found or tuple(range(len(axes)))


def _shape_per_channel(value: Any, axes: Sequence[str], axis: Any) -> Any:
    """Shape a list of numbers so that it runs along its axis."""
    if not isinstance(value, list):
        return value
    numbers = np.asarray(value, dtype=np.float32)
    if numbers.size == 1:
        return float(numbers[0])
    name = str(axis or "channel")
    if name not in axes:
        raise UnsupportedError(f"a list of numbers along {name}")
    shape = [1] * len(axes)
    shape[list(axes).index(name)] = numbers.size
    return numbers.reshape(shape)


def _normalise(
    x: NDArray[Any], kwargs: dict[str, Any], axes: Sequence[str], *, fixed: bool
) -> NDArray[Any]:
    if fixed or kwargs.get("mode") == "fixed":
        mean = _shape_per_channel(kwargs.get("mean", 0.0), axes, kwargs.get("axis"))
        deviation = _shape_per_channel(kwargs.get("std", 1.0), axes, kwargs.get("axis"))
        return (x - mean) / deviation
    over = _find_axes(kwargs, axes)
    deviation = x.std(axis=over, keepdims=True) + float(kwargs.get("eps", EPS))
    return (x - x.mean(axis=over, keepdims=True)) / deviation


def _scale_range(x: NDArray[Any], kwargs: dict[str, Any], axes: Sequence[str]) -> NDArray[Any]:
    if kwargs.get("reference_tensor"):
        raise UnsupportedError("scale_range with a reference tensor")
    over = _find_axes(kwargs, axes)
    limits = [float(kwargs.get("min_percentile", 0.0)), float(kwargs.get("max_percentile", 100.0))]
    low, high = np.percentile(x, limits, axis=over, keepdims=True)
    return (x - low) / (high - low + float(kwargs.get("eps", EPS)))


def _binarise(x: NDArray[Any], kwargs: dict[str, Any], axes: Sequence[str]) -> NDArray[Any]:
    return x > _shape_per_channel(kwargs.get("threshold", 0.5), axes, kwargs.get("axis"))


def apply_operations(
    operations: Sequence[Operation], image: NDArray[Any], axes: Sequence[str]
) -> NDArray[np.float32]:
    """Apply the steps in order to one image or tile; statistics are those of what is handed in.

    Raises
    ------
    UnsupportedError
        If a step is not among those emulated.
    """
    x = np.asarray(image, dtype=np.float32)
    for operation in operations:
        kwargs = operation.kwargs
        if operation.name == "ensure_dtype":
            x = x.astype(str(kwargs.get("dtype", "float32")))
        elif operation.name == "scale_linear":
            gain = _shape_per_channel(kwargs.get("gain", 1.0), axes, kwargs.get("axis"))
            x = x * gain + _shape_per_channel(kwargs.get("offset", 0.0), axes, kwargs.get("axis"))
        elif operation.name == "clip" and "min_percentile" not in kwargs:
            x = np.clip(x, kwargs.get("min"), kwargs.get("max"))
        elif operation.name == "scale_range":
            x = _scale_range(x, kwargs, axes)
        elif operation.name in ("zero_mean_unit_variance", "fixed_zero_mean_unit_variance"):
            x = _normalise(x, kwargs, axes, fixed=operation.name.startswith("fixed"))
        elif operation.name == "sigmoid":
            x = 1 / (1 + np.exp(-x))
        elif operation.name == "binarize":
            x = _binarise(x, kwargs, axes)
        else:
            raise UnsupportedError(operation.name)
    return np.asarray(x, dtype=np.float32)
