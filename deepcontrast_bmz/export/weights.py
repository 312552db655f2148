"""A trained loop as files that other programs run: state dict, TorchScript, ONNX.

All three hold the same graph, (B, 1, Y, X) to (B, C, Y, X) of any size, for stacks
(B, 1, Z, Y, X) to (B, C, Z, Y, X), and are compared with the loop itself. The same loop gives the
same bytes: no file holds a path, a date or a user.
"""

from __future__ import annotations

__all__ = ["export_weights", "serialize_state_dict"]

import copy
import io
from typing import TYPE_CHECKING

import torch

from deepcontrast_bmz.export.architecture import list_architecture_kwargs, write_architecture
from deepcontrast_bmz.export.onnx import serialize_onnx
from deepcontrast_bmz.export.parity import check_parity
from deepcontrast_bmz.export.records import ExportRecord
from deepcontrast_bmz.export.torchscript import serialize_torchscript
from deepcontrast_bmz.model.model import WEIGHTS_FORMATS, WeightsFormat

if TYPE_CHECKING:
    from pathlib import Path

    from deepcontrast_bmz.model.loop import Loop
    from deepcontrast_bmz.settings import NetworkSettings

_SUFFIX: dict[WeightsFormat, str] = {
    "pytorch_state_dict": ".pt",
    "torchscript": ".torchscript.pt",
    "onnx": ".onnx",
}


def serialize_state_dict(loop: Loop) -> bytes:
    """Return the file of the loop's state dict, readable with ``weights_only=True``."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in loop.state_dict().items()}
    file = io.BytesIO()
    # Written to memory, the archive inside is always called "archive", whatever the file is.
    torch.save(state, file)
    return file.getvalue()


def export_weights(loop: Loop, folder: Path, network: NetworkSettings) -> ExportRecord:
    """Write a loop in all weights formats, with its architecture, into a folder, and compare them.

    `network` holds the settings that the loop's network was built from.

    Raises
    ------
    RuntimeError
        If a format does not give the loop's values.
    """
    loop = copy.deepcopy(loop).cpu().float().eval()
    architecture = "architecture.py"
    files: dict[WeightsFormat, str] = {name: f"weights{_SUFFIX[name]}" for name in WEIGHTS_FORMATS}
    (folder / files["pytorch_state_dict"]).write_bytes(serialize_state_dict(loop))
    (folder / files["torchscript"]).write_bytes(serialize_torchscript(loop))
    (folder / files["onnx"]).write_bytes(serialize_onnx(loop))
    (folder / architecture).write_text(write_architecture(network), encoding="utf-8", newline="\n")
    record = ExportRecord(
        weights=files,
        architecture=architecture,
        architecture_kwargs=list_architecture_kwargs(loop, network),
        parameters=sum(parameter.numel() for parameter in loop.parameters()),
        parity=(),
    )
    return record.model_copy(update={"parity": check_parity(loop, folder, record)})
