"""A loop as one ONNX file; what the exporter leaves behind is removed."""

from __future__ import annotations

__all__ = [
    "serialize_onnx",
]

import copy
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from deepcontrast_bmz.export.fast_loop import SameSizeNetwork, is_plainly_dilated
from deepcontrast_bmz.export.fold import fold_kernels, make_example_image
from deepcontrast_bmz.export.onnx_lower import IR_VERSION, OPSET_VERSION
from deepcontrast_bmz.export.onnx_write import write_onnx
from deepcontrast_bmz.export.records import INPUT_ID, OUTPUT_ID
from deepcontrast_bmz.model.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


def serialize_onnx(loop: Loop) -> bytes:
    """Return the loop as one ONNX file, opset 17 and IR 8, batch and sizes free.

    Raises
    ------
    RuntimeError
        If the exporter wrote another opset or IR, or keeps tensors outside the file.
    """
    if is_plainly_dilated(loop.network):
        folded = Loop(SameSizeNetwork(loop.network), loop.iterations).eval()
    else:
        folded = fold_kernels(loop)
    free = {0: "batch", **dict(enumerate("zyx"[-loop.dims :], start=2))}
    model = write_onnx(folded, make_example_image(loop), names=(INPUT_ID, OUTPUT_ID), free=free)
    _tidy(model, loop.iterations)
    content = model.SerializeToString(deterministic=True)
    _check_onnx(content)
    return content


def _check_onnx(content: bytes) -> None:
    model = onnx.load_from_string(content)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET_VERSION} or model.ir_version != IR_VERSION:
        raise RuntimeError(
            f"the ONNX file must be opset {OPSET_VERSION}, IR {IR_VERSION} for programs in the "
            f"field, but torch {torch.__version__} wrote opsets {opsets}, IR {model.ir_version}"
        )
    outside = [t.name for t in model.graph.initializer if t.external_data]
    if outside:
        raise RuntimeError(f"the ONNX file must be one file, but {outside[0]} lies outside of it")
    onnx.checker.check_model(model, full_check=True)


def _constant_values(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}


def _tidy(model: onnx.ModelProto, count: int) -> None:
    """Remove what the exporter leaves: constants as nodes, one slice per axis, repetitions."""
    graph = model.graph
    model.producer_version = ""
    model.doc_string = ""
    graph.name = "deepcontrast"
    del model.metadata_props[:]
    for node in graph.node:
        if node.op_type == "Constant":
            tensor = copy.deepcopy(node.attribute[0].t)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    _replace_nodes(graph, [node for node in graph.node if node.op_type != "Constant"])
    _fold_channel_counts(graph)
    while _merge_repeated(graph) or _merge_slices(model):
        pass
    _drop_unused(graph)
    for index, node in enumerate(graph.node):
        node.doc_string = ""
        # onnxruntime 1.20 names what it fuses after the first node, and refuses a name met twice.
        node.name = f"{node.op_type}_{index}"
    del graph.value_info[:]
    # The exporter cannot know the number of channels behind a graph of any size.
    channels = graph.output[0].type.tensor_type.shape.dim[1]
    channels.Clear()
    channels.dim_value = count


def _replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    kept = [copy.deepcopy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.floordiv,
}


def _fold_channel_counts(graph: onnx.GraphProto) -> None:
    """Compute at once where to cut channels: a convolution's kernel tells how many there are.

    The exporter asks every convolution's output for its shape, since it does not follow types
    through a graph of any size.
    """
    values = _constant_values(graph)
    producers = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        known: NDArray[Any] | None = None
        if node.op_type == "Gather" and node.input[1] in values:
            shape = producers.get(node.input[0])
            if shape is not None and shape.op_type == "Shape":
                conv = producers.get(shape.input[0])
                index = values[node.input[1]]
                if conv is not None and conv.op_type == "Conv" and np.all(index == 1):
                    known = np.full(index.shape, values[conv.input[1]].shape[0], np.int64)
        elif node.op_type in _ARITHMETIC and all(name in values for name in node.input):
            left, right = (values[name] for name in node.input)
            if left.dtype == right.dtype == np.int64:
                known = np.asarray(_ARITHMETIC[node.op_type](left, right))
        if known is None:
            nodes.append(node)
        else:
            values[node.output[0]] = known
            graph.initializer.append(onnx.numpy_helper.from_array(known, node.output[0]))
    _replace_nodes(graph, nodes)


def _merge_repeated(graph: onnx.GraphProto) -> bool:
    """Give equal initializers, and nodes with equal inputs, one name; tell if anything was."""
    renamed: dict[str, str] = {}
    first: dict[bytes, str] = {}
    tensors: list[onnx.TensorProto] = []
    for tensor in graph.initializer:
        nameless = copy.deepcopy(tensor)
        nameless.name = ""
        kept = first.setdefault(nameless.SerializeToString(deterministic=True), tensor.name)
        if kept == tensor.name:
            tensors.append(copy.deepcopy(tensor))
        else:
            renamed[tensor.name] = kept
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    nodes: list[onnx.NodeProto] = []
    seen: dict[bytes, Sequence[str]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        nameless = copy.deepcopy(node)
        nameless.name = ""
        del nameless.output[:]
        key = nameless.SerializeToString(deterministic=True)
        if key in seen:
            renamed |= dict(zip(node.output, seen[key], strict=True))
        else:
            seen[key] = list(node.output)
            nodes.append(node)
    _replace_nodes(graph, nodes)
    return bool(renamed)


def _merge_slices(model: onnx.ModelProto) -> bool:
    """Join a slice along y with the slice along x behind it; tell if any was joined."""
    graph = model.graph
    values = _constant_values(graph)
    users: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    producers = {node.output[0]: node for node in graph.node if node.op_type == "Slice"}
    for node in graph.node:
        before = producers.get(node.input[0]) if node.op_type == "Slice" else None
        if before is None or users[before.output[0]] != 1:
            continue
        if not all(name in values for name in (*before.input[1:], *node.input[1:])):
            continue
        joined = [
            np.concatenate([values[a], values[b]])
            for a, b in zip(before.input[1:], node.input[1:], strict=True)
        ]
        axes = joined[2]
        if len(set(axes.tolist())) != axes.size:
            continue
        inputs = [before.input[0]]
        for part, array in zip(("starts", "ends", "axes", "steps"), joined, strict=True):
            name = f"{node.output[0]}/{part}"
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            inputs.append(name)
        del node.input[:]
        node.input.extend(inputs)
        _replace_nodes(graph, [n for n in graph.node if n.output[0] != before.output[0]])
        return True
    return False


def _drop_unused(graph: onnx.GraphProto) -> None:
    needed = {output.name for output in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    _replace_nodes(graph, nodes[::-1])
    tensors = [copy.deepcopy(t) for t in graph.initializer if t.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
