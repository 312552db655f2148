"""The written weights, run and compared with the loop."""

from __future__ import annotations

__all__ = [
    "PARITY_LIMIT",
    "PARITY_SHAPES",
    "check_parity",
]

import copy
from typing import TYPE_CHECKING, Any

import onnxruntime
import torch
from torch import Tensor, nn

from deepcontrast_bmz.export.architecture import ARCHITECTURE_CLASS
from deepcontrast_bmz.export.records import INPUT_ID, OUTPUT_ID, ParityRow
from deepcontrast_bmz.model.model import WEIGHTS_FORMATS, WeightsFormat
from deepcontrast_bmz.model.weights import ignore_deprecations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from deepcontrast_bmz.export.records import ExportRecord
    from deepcontrast_bmz.model.loop import Loop

PARITY_LIMIT = 1e-5
"""Largest difference between a format and the loop, over the range of the loop's output."""
PARITY_SHAPES: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 137, 151), (2, 150, 139), (1, 9, 5)),
    3: ((1, 9, 61, 47), (2, 6, 32, 45), (1, 1, 9, 5)),
}
"""Batch and sides of the images that formats are compared on, by spatial axes."""


def _run_state_dict(folder: Path, record: ExportRecord) -> Callable[[Tensor], Tensor]:
    source = (folder / record.architecture).read_text(encoding="utf-8")
    # Not imported: no byte code is to be left beside the weights.
    room: dict[str, Any] = {"__name__": "exported_architecture"}
    exec(compile(source, record.architecture, "exec"), room)
    network: nn.Module = room[ARCHITECTURE_CLASS](**record.architecture_kwargs)
    state = torch.load(folder / record.weights["pytorch_state_dict"], weights_only=True)
    network.load_state_dict(state)
    return network.eval()


def _run_torchscript(folder: Path, record: ExportRecord) -> Callable[[Tensor], Tensor]:
    with ignore_deprecations():
        return torch.jit.load(folder / record.weights["torchscript"])


def _run_onnx(folder: Path, record: ExportRecord) -> Callable[[Tensor], Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        folder / record.weights["onnx"], options, providers=["CPUExecutionProvider"]
    )

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT_ID], {INPUT_ID: x.numpy()})[0])

    return run


_RUNNERS: dict[WeightsFormat, Callable[[Path, ExportRecord], Callable[[Tensor], Tensor]]] = {
    "pytorch_state_dict": _run_state_dict,
    "torchscript": _run_torchscript,
    "onnx": _run_onnx,
}


def check_parity(
    loop: Loop,
    folder: Path,
    record: ExportRecord,
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> tuple[ParityRow, ...]:
    """Run the written files and compare them with the loop: one row per format and shape.

    `shapes` are (batch, (z,) y, x) of images of random grey values; left out, some of odd sizes,
    one of them tiny.

    Raises
    ------
    RuntimeError
        If a format gives another shape or differs by more than `PARITY_LIMIT`.
    """
    loop = copy.deepcopy(loop).eval()
    runners: dict[WeightsFormat, Callable[[Tensor], Tensor]] = {
        name: _RUNNERS[name](folder, record) for name in WEIGHTS_FORMATS
    }
    generator = torch.Generator().manual_seed(0)
    rows: list[ParityRow] = []
    for batch, *size in shapes or PARITY_SHAPES[loop.dims]:
        x = 100 + 1000 * torch.rand(batch, 1, *size, generator=generator)
        with torch.inference_mode():
            expected = loop(x)
        spread = float(expected.max() - expected.min())
        for name, run in runners.items():
            with torch.no_grad():
                got = run(x)
            if got.shape != expected.shape:
                raise RuntimeError(
                    f"{name} gives {tuple(got.shape)} for an input of {tuple(x.shape)}, "
                    f"but the loop gives {tuple(expected.shape)}"
                )
            difference = float((got - expected).abs().max()) / spread
            # A NaN must not pass.
            if not difference <= PARITY_LIMIT:
                raise RuntimeError(
                    f"{name} must give the loop's values within {PARITY_LIMIT:g} of their range, "
                    f"but differs by {difference:.2g} for an input of {tuple(x.shape)}"
                )
            rows.append(ParityRow(weights_format=name, shape=tuple(x.shape), difference=difference))
    return tuple(rows)
