"""Writes a torch module as ONNX of opset 17, by whichever exporter the installed torch has.

The older exporter (``dynamo=False``) writes opset 17 itself, and is announced to be removed. The
newer one writes opset 18 and above whatever it is asked for; its files are lowered by
`onnx_lower`. Which one is there is found out by trying.
"""

from __future__ import annotations

__all__ = ["has_older_exporter", "write_onnx", "write_onnx_by_newer", "write_onnx_by_older"]

import importlib.util
import io
import itertools
import logging
import warnings
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch import Tensor, nn

from deepcontrast_bmz.export.onnx_lower import OPSET_VERSION, lower_onnx, read_opset, strip_debug

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

logger = logging.getLogger(__name__)

_QUIET = (
    r"You are using the legacy TorchScript-based ONNX export",
    r"The feature will be removed\. Please remove usage of this function",
    # The older exporter tries, cannot, and goes on: the slice stays in the graph.
    r"Constant folding - Only steps=1 can be constant folded",
    r"`torch\.jit\.\w+` is deprecated",
    # Said of modules that hold no layer which would behave differently.
    r"Exporting a model while it is in training mode",
)
"""What the exporters say of themselves, which is known here."""
_CATEGORIES = (DeprecationWarning, FutureWarning, UserWarning)


@contextmanager
def _quietly() -> Generator[None]:
    # The newer exporter logs every library that it would know, too, and does not find.
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message, category in itertools.product(_QUIET, _CATEGORIES):
                warnings.filterwarnings("ignore", message=message, category=category)
            yield
    finally:
        exporter.setLevel(level)


def write_onnx_by_older(
    module: nn.Module, example: Tensor, *, names: tuple[str, str], free: Mapping[int, str]
) -> onnx.ModelProto:
    """Return the module as the older exporter writes it; parameters as in `write_onnx`."""
    file: Any = io.BytesIO()
    axes = dict(free)
    with _quietly():
        torch.onnx.export(
            module,
            (example,),
            file,
            dynamo=False,
            opset_version=OPSET_VERSION,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes={names[0]: axes, names[1]: axes},
        )
    return onnx.load_from_string(file.getvalue())


def _remainder(x: Any, y: Any) -> Any:
    """Translate ``x % y`` with a whole number y that only a run tells, such as a size."""
    from onnxscript import opset18

    op: Any = opset18
    divisor = op.CastLike(y, x)
    if x.dtype is not None and x.dtype.is_floating_point():
        return op.Sub(x, op.Mul(op.Floor(op.Div(x, divisor)), divisor))
    return op.Mod(x, divisor)


def write_onnx_by_newer(
    module: nn.Module, example: Tensor, *, names: tuple[str, str], free: Mapping[int, str]
) -> onnx.ModelProto:
    """Return the module as the newer exporter writes it, lowered; as in `write_onnx`."""
    if importlib.util.find_spec("onnxscript") is None:
        raise RuntimeError(
            "this torch writes ONNX with the help of onnxscript, which is not installed: "
            "install it with 'pip install onnxscript'"
        )
    # An axis of size one would be taken for one that always is.
    twice = [max(2, n) if axis in free else n for axis, n in enumerate(example.shape)]
    dynamic = dict.fromkeys(free, torch.export.Dim.DYNAMIC)
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (example.expand(twice).contiguous(),),
            dynamo=True,
            opset_version=OPSET_VERSION + 1,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=(dynamic,),
            custom_translation_table={torch.ops.aten.remainder.Scalar: _remainder},
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    called = {sizes[axis].dim_param: name for axis, name in free.items()}
    model = lower_onnx(model)
    strip_debug(model)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in called:
                dim.dim_param = called[dim.dim_param]
    # The sizes inside are called by the names of the trace.
    del model.graph.value_info[:]
    return model


@cache
def has_older_exporter() -> bool:
    """Return whether the installed torch still writes opset 17 when asked for it."""
    try:
        tried = write_onnx_by_older(
            nn.ReLU(), torch.zeros(1, 1), names=("x", "y"), free={0: "batch"}
        )
    except Exception as error:
        # Nobody knows how a torch without that exporter will say so.
        logger.info("this torch has no older ONNX exporter: %s", error)
        return False
    return read_opset(tried) == OPSET_VERSION


def write_onnx(
    module: nn.Module, example: Tensor, *, names: tuple[str, str], free: Mapping[int, str]
) -> onnx.ModelProto:
    """Return a module in evaluation mode, one input and one output, as ONNX of opset 17.

    `example` is an input it takes, `names` are those of input and output, and `free` names the
    axes, of both alike, whose size is free.

    Raises
    ------
    RuntimeError
        If onnxscript is needed and not installed.
    NotLowerableError
        If the network uses an operator that opset 17 does not have.
    """
    write = write_onnx_by_older if has_older_exporter() else write_onnx_by_newer
    return write(module, example, names=names, free=free)
