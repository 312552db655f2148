"""What can be read off weights files without loading them into an engine."""

from __future__ import annotations

__all__ = [
    "OnnxFacts",
    "find_local_paths",
    "read_onnx_facts",
    "read_script_code",
    "script_calls",
    "script_defines_interpolate",
]

import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOCAL_PATH = re.compile(
    rb"(?<![\w.])(?:/(?:home|Users|root|tmp)(?:/[\w.+@-]+)+|/(?:[\w.+@-]+/)+[\w.+@-]+\.py\b"
    rb"|[A-Z]:\\(?:Users|home)\\[\w.+-]+)"
)
MEMBER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class OnnxFacts:
    """Versions and layout of an ONNX file; `problem` says why it cannot be read."""

    opset: int = 0
    ir_version: int = 0
    external_data: bool = False
    input_shape: tuple[int | None, ...] = ()
    """Sizes of the first input; None where any size goes."""
    shared_names: int = 0
    """Slice and Gather nodes whose name is missing or that of another."""
    problem: str = ""


@lru_cache(maxsize=8)
def _onnx_facts(path: Path, _changed: int) -> OnnxFacts:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        return OnnxFacts(problem=f"{path.name} is no ONNX file ({error})")
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not opsets or not model.graph.node:
        return OnnxFacts(problem=f"{path.name} is no ONNX file (it holds no graph)")
    external = any(
        tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer
    )
    shape = model.graph.input[0].type.tensor_type.shape.dim if model.graph.input else ()
    sizes = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in shape)
    names = [node.name for node in model.graph.node if node.op_type in ("Slice", "Gather")]
    shared = sum(1 for name in names if not name or names.count(name) > 1)
    return OnnxFacts(max(opsets), model.ir_version, external, sizes, shared)


def read_onnx_facts(path: Path) -> OnnxFacts:
    """Return opset, IR version, and whether weights lie in a second file."""
    return _onnx_facts(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _script_code(path: Path, _changed: int) -> dict[str, str]:
    code: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".py") and info.file_size <= MEMBER_BYTES:
                    code[info.filename] = archive.read(info).decode("utf-8", "replace")
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError):
        return {}
    return code


def read_script_code(path: Path) -> dict[str, str]:
    """Return the code files of a TorchScript archive by name; none if it is no archive."""
    return _script_code(path, path.stat().st_mtime_ns)


def script_defines_interpolate(path: Path) -> bool:
    """Return whether a TorchScript archive carries ``torch.nn.functional.interpolate`` whole.

    That is what scripting without freezing leaves. The function then names every operator of
    every interpolation mode of the torch that wrote it, and a torch that lacks a single one
    refuses the archive, used or not. The newer modes are the sign: the antialiased Lanczos
    operator, unknown to any torch the foreign programs carry.
    """
    return any(
        "def interpolate(" in code and "_upsample_lanczos2d_aa" in code
        for name, code in read_script_code(path).items()
        if "torch/nn/functional" in name
    )


def script_calls(path: Path, function: str) -> bool:
    """Return whether the code of a TorchScript archive calls a function, e.g. ``quantile``."""
    call = re.compile(rf"\btorch\.{re.escape(function)}\(")
    return any(call.search(code) for code in read_script_code(path).values())


def find_local_paths(path: Path) -> list[str]:
    """Return paths of the writing machine that a weights file carries, at most three of them."""
    found: list[str] = []

    def scan(data: bytes) -> None:
        for match in LOCAL_PATH.finditer(data):
            words = match.group().decode("utf-8", "replace").strip()
            if words not in found:
                found.append(words)
            if len(found) >= 3:
                return

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename
                if name.endswith((".debug_pkl", ".py")) and info.file_size <= MEMBER_BYTES:
                    scan(archive.read(info))
                if len(found) >= 3:
                    break
    elif path.suffix == ".onnx" and path.stat().st_size <= 16 * MEMBER_BYTES:
        scan(path.read_bytes())
    return found[:3]
