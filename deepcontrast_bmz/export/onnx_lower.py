"""Rewrites an ONNX file of a newer opset in opset 17 and IR 8, with the same values.

Fiji's onnxruntime (1.12 and 1.13) reads opset 17 at most, and torch's newer exporter writes 18
and above. Most of what changed in between are further types of numbers, which images do not have;
the rest is rewritten operator by operator, or refused with the operator's name:

- the axes of Pad, Resize, DFT and of all Reduce operators changed places between attribute and
  input, or are new; they are written out for every axis, or put back;
- Split counts its outputs in an attribute; opset 17 wants the sizes where they are unequal;
- GridSample calls its modes by other names;
- new operators that are defined by others (Gelu, Mish, GroupNormalization, ...) are written out;
- a new attribute is left away where it has no effect.

onnx's own ``version_converter`` goes down for the Reduce operators and for mere types, but knows
no way back for Pad, Split and new operators, and drops new attributes whether they have an effect
or not; so it is not used. Its ``inliner`` writes out the operators that others define.
"""

from __future__ import annotations

__all__ = [
    "IR_VERSION",
    "OPSET_VERSION",
    "NotLowerableError",
    "lower_onnx",
    "read_opset",
    "strip_debug",
]

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnx.numpy_helper
import onnx.shape_inference
from google.protobuf.message import Message
from onnx import helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

OPSET_VERSION = 17
IR_VERSION = 8

KNOWN_OPSET = 27
"""The last opset whose changes this room knows; what changed later is refused."""

_LAST_TYPE = onnx.TensorProto.BFLOAT16
"""The last type of numbers of IR 8; those after it are of 8 bits and fewer."""

_DEBUG_FIELDS = ("doc_string", "metadata_props")
_NEW_FIELDS = ("metadata_props", "device_configurations", "configuration", "overload")
"""Fields that IR 9 to 11 brought, by the message they are in; the model's own are older."""


class NotLowerableError(ValueError):
    """The file cannot be written in opset 17; the message names the operator and why."""


def _messages(message: Message) -> Iterator[Message]:
    """Yield a protobuf message and all inside of it."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                yield from _messages(child)


def _clear(message: Message, names: Sequence[str]) -> None:
    known = message.DESCRIPTOR.fields_by_name
    for name in names:
        if name in known:
            message.ClearField(name)


def strip_debug(model: onnx.ModelProto) -> None:
    """Remove doc strings and metadata, in which exporters leave paths and traces, in place."""
    for message in _messages(model):
        _clear(message, _DEBUG_FIELDS)


# ------------------------------------------------------------------------------ one graph


@dataclass
class _Scope:
    """What is known of the values of one graph: constants, sizes, types, and names in use."""

    constants: dict[str, NDArray[Any]] = field(default_factory=dict[str, "NDArray[Any]"])
    shapes: dict[str, tuple[int | None, ...]] = field(
        default_factory=dict[str, "tuple[int | None, ...]"]
    )
    taken: set[str] = field(default_factory=set[str])

    def inner(self, graph: onnx.GraphProto) -> _Scope:
        """Return what is known inside of a graph, which sees all names around it."""
        scope = _Scope(dict(self.constants), dict(self.shapes), self.taken)
        for tensor in graph.initializer:
            scope.constants[tensor.name] = onnx.numpy_helper.to_array(tensor)
            scope.shapes[tensor.name] = tuple(tensor.dims)
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type
            if value.type.HasField("tensor_type") and kind.HasField("shape"):
                scope.shapes[value.name] = tuple(
                    d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim
                )
        for node in graph.node:
            constant = _constant_of(node)
            if constant is not None:
                scope.constants[node.output[0]] = constant
        return scope

    def name(self, like: str) -> str:
        """Return a name that nothing has."""
        count = 0
        while f"{like}_{count}" in self.taken:
            count += 1
        found = f"{like}_{count}"
        self.taken.add(found)
        return found


def _constant_of(node: onnx.NodeProto) -> NDArray[Any] | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            return onnx.numpy_helper.to_array(attribute.t)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(attribute), np.int64)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(attribute), np.float32)
    return None


def _refuse(node: onnx.NodeProto, why: str) -> NotLowerableError:
    where = f" (which makes {node.output[0]!r})" if node.output else ""
    return NotLowerableError(
        f"the operator {node.op_type}{where} cannot be written in ONNX opset {OPSET_VERSION}: {why}"
    )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _word(value: Any, default: str) -> str:
    return default if value is None else value.decode() if isinstance(value, bytes) else str(value)


def _given(node: onnx.NodeProto, index: int) -> str:
    """Return the name of an input, empty where it is left out."""
    return node.input[index] if index < len(node.input) else ""


def _take_attributes(node: onnx.NodeProto, *names: str) -> None:
    kept = [copy.deepcopy(a) for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _set_inputs(node: onnx.NodeProto, names: Sequence[str]) -> None:
    """Give a node these inputs; those left out at the end are dropped."""
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    del node.input[:]
    node.input.extend(kept)


def _constant(scope: _Scope, array: NDArray[Any], like: str) -> onnx.NodeProto:
    name = scope.name(like)
    scope.constants[name] = array
    tensor = onnx.numpy_helper.from_array(array, name)
    return helper.make_node("Constant", [], [name], value=tensor)


def _rank(node: onnx.NodeProto, scope: _Scope) -> int:
    shape = scope.shapes.get(node.input[0])
    if shape is None:
        raise _refuse(node, "it names axes of a tensor whose number of axes is not known")
    return len(shape)


def _axes(node: onnx.NodeProto, scope: _Scope, name: str) -> list[int]:
    if name not in scope.constants:
        raise _refuse(node, "its axes are computed in the graph")
    return [int(a) for a in scope.constants[name].reshape(-1)]


def _pad(node: onnx.NodeProto, scope: _Scope) -> list[onnx.NodeProto]:
    if _word(_attributes(node).get("mode"), "constant") == "wrap":
        raise _refuse(node, "its mode is wrap")
    axes_name, pads_name = _given(node, 3), node.input[1]
    if not axes_name:
        return [node]
    rank = _rank(node, scope)
    axes = [a % rank for a in _axes(node, scope, axes_name)]
    places = np.array([*axes, *(a + rank for a in axes)], np.int64)
    made: list[onnx.NodeProto] = []
    full = np.zeros(2 * rank, np.int64)
    like = f"{node.output[0]}/pads"
    if pads_name in scope.constants:
        full[places] = scope.constants[pads_name]
        made.append(_constant(scope, full, like))
        pads = made[-1].output[0]
    else:
        made += [_constant(scope, full, like), _constant(scope, places, like)]
        pads = scope.name(like)
        inputs = [made[0].output[0], made[1].output[0], pads_name]
        made.append(helper.make_node("ScatterElements", inputs, [pads], axis=0))
    _set_inputs(node, [node.input[0], pads, _given(node, 2)])
    return [*made, node]


def _reduce(node: onnx.NodeProto, scope: _Scope) -> list[onnx.NodeProto]:
    name = _given(node, 1)
    axes = _axes(node, scope, name) if name else []
    noop = bool(_attributes(node).get("noop_with_empty_axes", 0))
    _take_attributes(node, "noop_with_empty_axes")
    _set_inputs(node, [node.input[0]])
    if axes:
        node.attribute.append(helper.make_attribute("axes", axes))
    elif noop:
        if node.op_type not in ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd"):
            raise _refuse(node, "it reduces no axis, but changes the values")
        return [helper.make_node("Identity", list(node.input), list(node.output))]
    return [node]


def _split(node: onnx.NodeProto, scope: _Scope) -> list[onnx.NodeProto]:
    _take_attributes(node, "num_outputs")
    if _given(node, 1):
        return [node]
    axis = int(_attributes(node).get("axis", 0))
    count = len(node.output)
    shape = scope.shapes.get(node.input[0])
    size = shape[axis] if shape is not None else None
    like = f"{node.output[0]}/split"
    if size is not None:
        if size % count == 0:
            return [node]
        chunk = -(-size // count)
        sizes = [chunk] * (count - 1) + [size - chunk * (count - 1)]
        made = [_constant(scope, np.array(sizes, np.int64), like)]
        _set_inputs(node, [node.input[0], made[0].output[0]])
        return [*made, node]
    made = [
        _constant(scope, np.array([value], np.int64), like) for value in (axis, count, count - 1)
    ]
    at, number, others = (m.output[0] for m in made)
    names = [scope.name(like) for _ in range(7)]
    whole, length, more, chunk_name, most, last, split = names
    made += [
        helper.make_node("Shape", [node.input[0]], [whole]),
        helper.make_node("Gather", [whole, at], [length]),
        helper.make_node("Add", [length, others], [more]),
        helper.make_node("Div", [more, number], [chunk_name]),
        helper.make_node("Mul", [chunk_name, others], [most]),
        helper.make_node("Sub", [length, most], [last]),
        helper.make_node("Concat", [chunk_name] * (count - 1) + [last], [split], axis=0),
    ]
    _set_inputs(node, [node.input[0], split])
    return [*made, node]


def _resize(node: onnx.NodeProto, scope: _Scope) -> list[onnx.NodeProto]:
    values = _attributes(node)
    if values.get("antialias", 0):
        raise _refuse(node, "it uses antialias")
    policy = _word(values.get("keep_aspect_ratio_policy"), "stretch")
    if policy != "stretch":
        raise _refuse(node, f"its keep_aspect_ratio_policy is {policy}")
    mode = _word(values.get("coordinate_transformation_mode"), "half_pixel")
    if mode == "half_pixel_symmetric":
        raise _refuse(node, f"its coordinate_transformation_mode is {mode}")
    _take_attributes(node, "antialias", "keep_aspect_ratio_policy", "axes")
    if "axes" not in values:
        return [node]
    rank = _rank(node, scope)
    places = np.array([int(a) % rank for a in values["axes"]], np.int64)
    x, _, scales, sizes = (_given(node, i) for i in range(4))
    if mode == "tf_crop_and_resize":
        raise _refuse(node, "it crops some of the axes")
    like = f"{node.output[0]}/size"
    made = [_constant(scope, places, like)]
    if scales:
        made.append(_constant(scope, np.ones(rank, np.float32), like))
        whole = made[-1].output[0]
    else:
        whole = scope.name(like)
        made.append(helper.make_node("Shape", [x], [whole]))
    full = scope.name(like)
    inputs = [whole, made[0].output[0], scales or sizes]
    made.append(helper.make_node("ScatterElements", inputs, [full], axis=0))
    _set_inputs(node, [x, "", full if scales else "", full if sizes else ""])
    return [*made, node]


def _scatter(node: onnx.NodeProto, scope: _Scope) -> list[onnx.NodeProto]:  # noqa: ARG001
    reduction = _word(_attributes(node).get("reduction"), "none")
    if reduction not in ("none", "add", "mul"):
        raise _refuse(node, f"its reduction is {reduction}")
    return [node]


def _grid_sample(node: onnx.NodeProto, scope: _Scope) -> list[onnx.NodeProto]:
    shape = scope.shapes.get(node.input[0])
    if shape is not None and len(shape) != 4:
        raise _refuse(node, f"its image has {len(shape)} axes, not 4")
    mode = _word(_attributes(node).get("mode"), "linear")
    _take_attributes(node, "mode")
    names = {"linear": "bilinear", "cubic": "bicubic"}
    node.attribute.append(helper.make_attribute("mode", names.get(mode, mode)))
    return [node]


def _dft(node: onnx.NodeProto, scope: _Scope) -> list[onnx.NodeProto]:
    name = _given(node, 2)
    axis = _axes(node, scope, name)[0] if name else -2
    _set_inputs(node, [node.input[0], _given(node, 1)])
    node.attribute.append(helper.make_attribute("axis", axis))
    return [node]


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_RULES: dict[str, tuple[int, Callable[[onnx.NodeProto, _Scope], list[onnx.NodeProto]]]] = {
    "Pad": (18, _pad),
    "Split": (18, _split),
    "Resize": (18, _resize),
    "ScatterElements": (18, _scatter),
    "ScatterND": (18, _scatter),
    **{f"Reduce{name}": (18, _reduce) for name in _REDUCTIONS},
    "DFT": (20, _dft),
    "GridSample": (20, _grid_sample),
}
"""By operator: the opset of the first change that matters, and how to undo it."""


def _schema(op_type: str, opset: int) -> Any | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _has_no_effect(attribute: onnx.AttributeProto, schema: Any) -> bool:
    """Return whether a new attribute does nothing: it has its default, or dilates by one."""
    value = helper.get_attribute_value(attribute)
    if attribute.name == "dilations":
        return all(v == 1 for v in value)
    default = schema.attributes[attribute.name].default_value
    return default.name == attribute.name and helper.get_attribute_value(default) == value


def _restore_attributes(node: onnx.NodeProto, new: Any, old: Any) -> onnx.NodeProto:
    """Leave away what the old operator does not have, where it does nothing."""
    for attribute in node.attribute:
        if attribute.name not in old.attributes and not _has_no_effect(attribute, new):
            value = helper.get_attribute_value(attribute)
            raise _refuse(node, f"its attribute {attribute.name} is {value}")
    _take_attributes(node, *(a.name for a in node.attribute if a.name not in old.attributes))
    if any(node.input[old.max_input :]):
        raise _refuse(node, f"it has {len(node.input)} inputs, not {old.max_input} at most")
    return node


def _lower_node(node: onnx.NodeProto, scope: _Scope, opset: int) -> list[onnx.NodeProto]:
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            if graph.node:
                _lower_graph(graph, scope, opset)
    if node.domain not in ("", "ai.onnx"):
        return [node]
    new, old = _schema(node.op_type, opset), _schema(node.op_type, OPSET_VERSION)
    if new is None:
        raise _refuse(node, f"it is not in opset {opset}")
    if new.since_version > KNOWN_OPSET:
        raise _refuse(node, f"it was changed in opset {new.since_version}, which is too new")
    if old is None or old.deprecated:
        raise _refuse(node, f"it is new in opset {new.since_version}")
    if old.since_version == new.since_version:
        return [node]
    since, rule = _RULES.get(node.op_type, (0, None))
    if rule is None or opset < since:
        return [_restore_attributes(node, new, old)]
    return [
        _restore_attributes(made, new, old) if made.op_type == node.op_type else made
        for made in rule(node, scope)
    ]


def _lower_graph(graph: onnx.GraphProto, around: _Scope, opset: int) -> None:
    scope = around.inner(graph)
    nodes = [made for node in graph.node for made in _lower_node(node, scope, opset)]
    lowered = [copy.deepcopy(node) for node in nodes]
    for node in lowered:
        # Some runtimes name what they fuse after its first node, and refuse a name met twice.
        node.name = node.name or scope.name(f"{node.op_type}_lowered")
    del graph.node[:]
    graph.node.extend(lowered)


# ------------------------------------------------------------------------------ the model


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for message in _messages(graph):
        if isinstance(message, onnx.NodeProto):
            yield from (*message.input, *message.output)
        elif isinstance(message, onnx.ValueInfoProto | onnx.TensorProto):
            yield message.name


def _new_operators(model: onnx.ModelProto, opset: int) -> list[tuple[str, str]]:
    """Return the operators that opset 17 lacks and that others define."""
    found: set[str] = set()
    for message in _messages(model.graph):
        if isinstance(message, onnx.NodeProto) and message.domain in ("", "ai.onnx"):
            new = _schema(message.op_type, opset)
            if new is None or _schema(message.op_type, OPSET_VERSION) is not None:
                continue
            if new.has_function or new.has_context_dependent_function:
                found.add(message.op_type)
    return [("", name) for name in sorted(found)]


def _check_types(model: onnx.ModelProto) -> None:
    for message in _messages(model.graph):
        if isinstance(message, onnx.TensorProto):
            kind, what = message.data_type, message.name
            if message.data_location == onnx.TensorProto.EXTERNAL:
                raise NotLowerableError(
                    f"the tensor {what!r} lies in a second file: load the model with its "
                    "external data first"
                )
        elif isinstance(message, onnx.ValueInfoProto):
            kind, what = message.type.tensor_type.elem_type, message.name
        else:
            continue
        if kind > _LAST_TYPE:
            name = onnx.TensorProto.DataType.Name(cast("Any", kind))
            raise NotLowerableError(
                f"the tensor {what!r} is of type {name}, which IR {IR_VERSION} does not have"
            )


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without functions of its own and without new operators others define."""
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    if lowered.functions:
        lowered = onnx.inliner.inline_local_functions(lowered)
        del lowered.functions[:]
    # What defines an operator may itself be defined by others.
    for _ in range(5):
        new = _new_operators(lowered, read_opset(lowered))
        if not new:
            break
        lowered = onnx.shape_inference.infer_shapes(lowered)
        # The inliner asks for the type of every input, also of weights.
        lowered.graph.value_info.extend(
            helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
            for t in lowered.graph.initializer
        )
        lowered = onnx.inliner.inline_selected_functions(lowered, new, inline_schema_functions=True)
        del lowered.graph.value_info[:]
    return lowered


def read_opset(model: onnx.ModelProto) -> int:
    """Return the opset of the standard operators; 0 if the model uses none."""
    return max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=0)


def lower_onnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in opset 17 and IR 8 or lower, with the same values; onnx's checker accepts it.

    Raises
    ------
    NotLowerableError
        If an operator does what opset 17 cannot, numbers are of a type that IR 8 does not
        have, or weights lie in a second file.
    """
    opset = read_opset(model)
    installed = onnx.defs.onnx_opset_version()
    if opset > installed:
        raise NotLowerableError(
            f"the model has opset {opset}, but the installed onnx knows {installed} at most: "
            "install a newer onnx"
        )
    _check_types(model)
    if opset > OPSET_VERSION:
        lowered = _inline(model)
        lowered = onnx.shape_inference.infer_shapes(lowered, data_prop=True)
        scope = _Scope(taken=set(_names(lowered.graph)))
        _lower_graph(lowered.graph, scope, opset)
        for entry in lowered.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = OPSET_VERSION
        # What was inferred belongs to the operators as they were.
        _restore_value_info(lowered, model)
    else:
        lowered = onnx.ModelProto()
        lowered.CopyFrom(model)
    if lowered.ir_version > IR_VERSION:
        lowered.ir_version = IR_VERSION
        for message in _messages(lowered):
            _clear(message, [n for n in _NEW_FIELDS if not _is_models_own(message, n)])
    try:
        onnx.checker.check_model(lowered, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        words = " ".join(str(error).split())[:300]
        raise NotLowerableError(
            f"the model is not one of ONNX opset {OPSET_VERSION} after rewriting: {words}"
        ) from error
    return lowered


def _is_models_own(message: Message, name: str) -> bool:
    return isinstance(message, onnx.ModelProto) and name == "metadata_props"


def _restore_value_info(lowered: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Keep of the inferred sizes only those that the model itself gave."""
    given = {value.name for value in model.graph.value_info}
    made = {name for node in lowered.graph.node for name in node.output}
    kept = [v for v in lowered.graph.value_info if v.name in given & made]
    values = [copy.deepcopy(value) for value in kept]
    del lowered.graph.value_info[:]
    lowered.graph.value_info.extend(values)
