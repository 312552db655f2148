"""Weights that every program loads: TorchScript frozen, ONNX of opset 17, no local paths.

What needs no mending stays as it is, byte for byte.
"""

from __future__ import annotations

__all__ = ["add_from_state_dict", "mend_weights", "order_for_fiji"]

import io
import re
import zipfile
from typing import TYPE_CHECKING, Any

import onnx
import torch

from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.check.tolerances import SAME_TOLERANCE
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.fiji_order import VERSION_KEYS, order_formats, shares_slot
from deepcontrast_bmz.export.onnx_lower import (
    IR_VERSION,
    OPSET_VERSION,
    NotLowerableError,
    lower_onnx,
    read_opset,
    strip_debug,
)
from deepcontrast_bmz.export.onnx_write import write_onnx
from deepcontrast_bmz.export.torchscript import strip_archive
from deepcontrast_bmz.package.description import as_list, as_map, text
from deepcontrast_bmz.package.weights import (
    find_local_paths,
    read_onnx_facts,
    script_defines_interpolate,
)
from deepcontrast_bmz.port.draft import short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from deepcontrast_bmz.port.draft import Draft

JAVA_FORMATS = ("torchscript", "onnx", "tensorflow_saved_model_bundle")
SAFE_TORCH = ("2.5.1", "2.4.1", "2.6.0", "2.0.0", "2.2.2", "2.3.1", "2.1.2")
"""Torch versions to declare, the first that makes Fiji load TorchScript first."""


def _entries(draft: Draft) -> dict[str, dict[str, Any]]:
    weights = draft.rdf["weights"]
    return {k: v for k, v in weights.items() if isinstance(v, dict)}


def _replace(draft: Draft, entry: dict[str, Any], content: bytes) -> None:
    name = text(entry["source"])
    (draft.folder / name).write_bytes(content)
    entry |= draft.entry(name)


# --------------------------------------------------------------------------- TorchScript


def _freeze(module: Any) -> bytes:
    """Return a module frozen, as an archive of the same bytes whatever was traced before."""
    file = io.BytesIO()
    # Without it torch freezes by half, and cannot save what comes out.
    with torch.jit.optimized_execution(True):  # pyright: ignore[reportPrivateImportUsage]
        torch.jit.save(torch.jit.freeze(module), file)
    archive = file.getvalue()
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        names = [name for name in opened.namelist() if name.endswith(".py")]
    plain = {re.sub(r"/___torch_mangle_\d+(?=\.py$)", "", name) for name in names}
    # Counters in the names of classes go, unless two differ by them alone.
    return strip_archive(archive, demangle=len(plain) == len(names))


def _largest_difference(first: Any, second: Any) -> float:
    a, b = (x[0] if isinstance(x, list | tuple) else x for x in (first, second))
    if a.shape != b.shape:
        return float("inf")
    span = float(b.max() - b.min()) or 1.0
    return float((a - b).abs().max()) / span


def _agrees(
    one: Callable[[Tensor], Any], two: Callable[[Tensor], Any], examples: list[Tensor]
) -> bool:
    with torch.inference_mode():
        return all(_largest_difference(two(x), one(x)) <= SAME_TOLERANCE for x in examples)


def _freeze_file(path: Path, examples: list[Tensor]) -> bytes | None:
    """Return a TorchScript archive frozen, None if it does not come out with the same values."""
    loaded = torch.jit.load(path, map_location="cpu").eval()
    for by_trace in (False, True):
        try:
            graph = torch.jit.trace(loaded, examples[0], check_trace=False) if by_trace else loaded
            content = _freeze(graph)
            same = _agrees(loaded, torch.jit.load(io.BytesIO(content)), examples)
        except RuntimeError:
            continue
        if same:
            return content
    return None


def _mend_script(draft: Draft, entry: dict[str, Any], examples: list[Tensor]) -> None:
    path = draft.folder / text(entry["source"])
    if script_defines_interpolate(path):
        with quiet():
            content = _freeze_file(path, examples) if examples else None
        if content is None:
            draft.leave(
                "The TorchScript weights, scripted and not frozen, could not be frozen with the "
                "same values: torch before 2.8 does not load them."
            )
        else:
            _replace(draft, entry, content)
            draft.change(
                "The TorchScript weights are frozen: as they were, no torch before 2.8 loads them. "
                "The values are the same."
            )
    if find_local_paths(path):
        _replace(draft, entry, strip_archive(path.read_bytes(), demangle=False))
        draft.change(
            "The TorchScript weights are without debug files, which held paths of the machine "
            "that wrote them."
        )


# --------------------------------------------------------------------------------- ONNX


def _mend_onnx(draft: Draft, entry: dict[str, Any]) -> None:
    path = draft.folder / text(entry["source"])
    original = draft.package.weights_file("onnx")
    facts = read_onnx_facts(path)
    if facts.problem or original is None:
        draft.leave(f"The ONNX weights cannot be read: {facts.problem}.")
        return
    old = facts.opset > OPSET_VERSION or facts.ir_version > IR_VERSION
    paths = find_local_paths(path)
    external = facts.external_data
    if old or paths or external:
        try:
            # From where it lay: weights in a second file are found by its name.
            model = onnx.load(original)
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise InputError(
                f"ONNX weights come with all of their files, but {original.name} cannot be "
                f"loaded ({short(error)}): add the missing file"
            ) from error
        if external:
            second = entry.pop("external_data", None)
            (draft.folder / (text(as_map(second).get("source")) or "?")).unlink(missing_ok=True)
            draft.change("The ONNX weights are one file.")
        if old:
            try:
                model = lower_onnx(model)
            except NotLowerableError as error:
                draft.leave(f"The ONNX weights are of opset {facts.opset}: {error}.")
            else:
                draft.change(
                    f"The ONNX weights are of opset {min(facts.opset, OPSET_VERSION)} and IR "
                    f"{IR_VERSION}, not {facts.opset} and {facts.ir_version}. The values are the "
                    "same."
                )
        if paths:
            strip_debug(model)
            draft.change(
                "The ONNX weights are without doc strings and metadata, which held paths of the "
                "machine that wrote them."
            )
        _replace(draft, entry, model.SerializeToString(deterministic=True))
    facts = read_onnx_facts(path)
    if entry.get("opset_version") != facts.opset:
        draft.change(f"opset_version is {facts.opset}, as in the ONNX file.")
    entry["opset_version"] = facts.opset
    _declare_batch(draft, facts.input_shape)


def _declare_batch(draft: Draft, shape: Sequence[int | None]) -> None:
    """Declare a batch of one where the graph takes no other: bioimageio.core tries two."""
    first = as_list(draft.tensors("inputs")[0]["axes"])
    taken = dict(zip((text(as_map(axis)["type"]) for axis in first), shape, strict=False))
    if taken.get("batch") != 1:
        return
    for tensor in (*draft.tensors("inputs"), *draft.tensors("outputs")):
        for axis in tensor["axes"]:
            if axis["type"] == "batch" and axis.get("size") is None:
                axis["size"] = 1
                draft.change("The batch is of one image, since the ONNX weights take no other.")


def mend_weights(draft: Draft, examples: list[Tensor]) -> None:
    """Mend the weights files of a draft, and what is said of them.

    `examples` are what the network takes, after preprocessing; empty where that is not known.
    """
    entries = _entries(draft)
    if "torchscript" in entries:
        _mend_script(draft, entries["torchscript"], examples)
    if "onnx" in entries:
        _mend_onnx(draft, entries["onnx"])
    for name in ("pytorch_state_dict", "torchscript"):
        version = text(entries.get(name, {}).get("pytorch_version"))
        if "+" in version:
            entries[name]["pytorch_version"] = version.partition("+")[0]


# ----------------------------------------------------------------- from the state dict


def _trace(module: torch.nn.Module, examples: list[Tensor]) -> bytes | None:
    """Return a network traced, or else scripted, and frozen; None if neither gives its values."""
    for by_trace in (True, False):
        try:
            graph: Any = (
                torch.jit.trace(module, examples[0], check_trace=False)
                if by_trace
                else torch.jit.script(module)
            )
            content = _freeze(graph)
            same = _agrees(module, torch.jit.load(io.BytesIO(content)), examples)
        except (RuntimeError, TypeError, ValueError):
            continue
        if same:
            return content
    return None


def add_from_state_dict(
    draft: Draft, module: torch.nn.Module, examples: list[Tensor], free: dict[int, str]
) -> None:
    """Add TorchScript and ONNX, where they are missing, of a network in evaluation mode.

    `examples` are what it takes, after preprocessing: at least one, of different sizes where sizes
    are free; `free` names the axes of free size.
    """
    entries = _entries(draft)
    weights = draft.rdf["weights"]
    if "torchscript" not in entries:
        with quiet():
            content = _trace(module, examples)
        if content is None:
            draft.leave(
                "No TorchScript could be made of the state dict: neither tracing nor scripting "
                "gives the values of the network."
            )
        else:
            name = draft.free_name("weights.torchscript.pt")
            (draft.folder / name).write_bytes(content)
            version = torch.__version__.partition("+")[0]
            weights["torchscript"] = {
                **draft.entry(name),
                "parent": "pytorch_state_dict",
                "pytorch_version": version,
            }
            draft.change("TorchScript weights were traced from the state dict, and frozen.")
    if "onnx" not in entries:
        names = (text(draft.tensors("inputs")[0]["id"]), text(draft.tensors("outputs")[0]["id"]))
        try:
            with quiet():
                model = write_onnx(module, examples[0], names=names, free=free)
        # Exporters fail in many ways at what they do not know.
        except Exception as error:
            draft.leave(f"No ONNX could be written from the state dict: {short(error)}.")
            return
        strip_debug(model)
        name = draft.free_name("weights.onnx")
        (draft.folder / name).write_bytes(model.SerializeToString(deterministic=True))
        weights["onnx"] = {
            **draft.entry(name),
            "parent": "pytorch_state_dict",
            "opset_version": read_opset(model),
        }
        draft.change("ONNX weights were written from the state dict.")


# ------------------------------------------------------------------------- Fiji's order


def _loads_torchscript(versions: dict[str, str]) -> bool:
    order = [name for name in order_formats(versions) if name in JAVA_FORMATS]
    tie = "onnx" in versions and shares_slot(versions, "torchscript", "onnx")
    return order[0] == "torchscript" and not tie


def order_for_fiji(draft: Draft) -> None:
    """Declare a torch version with which Fiji tries TorchScript before ONNX."""
    weights = _entries(draft)
    script = weights.get("torchscript")
    if script is None:
        return
    given = text(script.get("pytorch_version"))
    versions = {
        name: text(entry.get(VERSION_KEYS[name]))
        for name, entry in weights.items()
        if name in VERSION_KEYS
    }
    known = given.split(".")[0] in ("1", "2")
    for version in (given, *SAFE_TORCH) if known else SAFE_TORCH:
        if _loads_torchscript({**versions, "torchscript": version}):
            break
    else:
        draft.leave("No torch version makes Fiji load TorchScript before the other weights.")
        return
    if version != given:
        draft.moved["torchscript_pytorch_version"] = given or "not given"
        draft.change(
            f"The declared pytorch_version of TorchScript is {version}, not {given or 'missing'}: "
            "Fiji loads TorchScript before ONNX then."
        )
    script["pytorch_version"] = version
    # Those that share a place keep the order of the file.
    first = {
        k: draft.rdf["weights"][k]
        for k in ("pytorch_state_dict", "torchscript", "onnx")
        if k in draft.rdf["weights"]
    }
    draft.rdf["weights"] = {**first, **draft.rdf["weights"]}
