"""A trained loop as files that other programs run: state dict, TorchScript, ONNX.

All three hold the same graph, (B, 1, Y, X) to (B, C, Y, X) of any size, for stacks
(B, 1, Z, Y, X) to (B, C, Z, Y, X), and are compared with the loop itself. The same loop gives the
same bytes: no file holds a path, a date or a user.

The order of the steps: the kernels, which the network computes from its parameters, are computed
once (`fold_kernels`); the folded loop is traced; what the tracer leaves behind is removed; the
files are read back and run at other sizes than the traced one.
"""

from __future__ import annotations

__all__ = [
    "ARCHITECTURE_CLASS",
    "INPUT_ID",
    "IR_VERSION",
    "OPSET_VERSION",
    "OUTPUT_ID",
    "PARITY_LIMIT",
    "PARITY_SHAPES",
    "ExportRecord",
    "ParityRow",
    "architecture_kwargs",
    "architecture_source",
    "check_parity",
    "export_weights",
    "fold_kernels",
    "onnx_bytes",
    "plain_archive",
    "state_dict_bytes",
    "torchscript_bytes",
]

import ast
import copy
import inspect
import io
import math
import operator
import re
import warnings
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcontrast_bmz.export.onnx_lower import IR_VERSION, OPSET_VERSION
from deepcontrast_bmz.export.onnx_write import write_onnx
from deepcontrast_bmz.model import loop as loop_module
from deepcontrast_bmz.model.loop import Loop, extend_symmetric, extend_volume
from deepcontrast_bmz.model.network import (
    DilatedNetwork,
    DilatedVolumeNetwork,
    InvertibleNetwork,
    layers,
)
from deepcontrast_bmz.model.network.layers import AffineConv
from deepcontrast_bmz.model.open import WEIGHTS_FORMATS, WeightsFormat
from deepcontrast_bmz.settings import NetworkSettings, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

INPUT_ID = "raw"
OUTPUT_ID = "enhanced"
ARCHITECTURE_CLASS = "DeepContrastLoop"
_PACKAGE = __name__.partition(".")[0]
PARITY_LIMIT = 1e-5
"""Largest difference between a format and the loop, over the range of the loop's output."""
PARITY_SHAPES: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 137, 151), (2, 150, 139), (1, 9, 5)),
    3: ((1, 9, 61, 47), (2, 6, 32, 45), (1, 1, 9, 5)),
}
"""Batch and sides of the images that formats are compared on, by spatial axes."""

WEIGHTS_SUFFIX: dict[WeightsFormat, str] = {
    "pytorch_state_dict": ".pt",
    "torchscript": ".torchscript.pt",
    "onnx": ".onnx",
}


class ParityRow(Record):
    """How far one weights format is from the loop on one image."""

    weights_format: WeightsFormat
    shape: tuple[int, ...]
    """Shape of the input, (B, 1, (Z,) Y, X)."""
    difference: float
    """Largest absolute difference over the range of the loop's output."""


class ExportRecord(Record):
    """The files written by `export_weights`, all in one folder."""

    weights: dict[WeightsFormat, str]
    """File name of each weights format."""
    architecture: str
    """File name of the self-contained network."""
    architecture_kwargs: dict[str, int | list[int]]
    """Arguments of `ARCHITECTURE_CLASS` that rebuild the loop."""
    parameters: int
    """Trained numbers."""
    parity: tuple[ParityRow, ...]
    """One row per format and image."""

    def largest_difference(self, weights_format: WeightsFormat) -> float:
        """Return the largest difference of one format over all images."""
        return max(r.difference for r in self.parity if r.weights_format == weights_format)


class _PlainConv(nn.Module):
    """An `AffineConv` whose kernel is computed already."""

    def __init__(self, conv: AffineConv) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", conv.kernel().detach().clone())
        self.dilation = conv.dilation
        self.margin = conv.margin

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, dilation=self.dilation)

    def same(self, x: Tensor) -> Tensor:
        m = self.margin
        return self(F.pad(x, (m, m, m, m), mode="replicate"))


def fold_kernels(loop: Loop) -> Loop:
    """Return a copy that computes the same with fixed kernels, all of its tensors buffers.

    Parameters
    ----------
    loop : Loop
        On the CPU.
    """
    folded = copy.deepcopy(loop).eval()
    for name, module in list(folded.named_modules()):
        if isinstance(module, AffineConv):
            folded.set_submodule(name, _PlainConv(module))
    for module in folded.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach().clone())
    return folded


# --------------------------------------------------------------------------- state dict


def state_dict_bytes(loop: Loop) -> bytes:
    """Return the file of the loop's state dict, readable with ``weights_only=True``."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in loop.state_dict().items()}
    file = io.BytesIO()
    # Written to memory, the archive inside is always called "archive", whatever the file is.
    torch.save(state, file)
    return file.getvalue()


_CLASS_TEMPLATE = '''

class {name}(Loop):
    """The exported loop, built from plain values: {shapes}.

    Parameters
    ----------
{texts}
    iterations : int
        Output channels: channel k is the image after k + 1 iterations.
    """

    def __init__(
        self,
{types}
        iterations: int,
    ) -> None:
        super().__init__({network}({values}), iterations)
'''


class _Argument(NamedTuple):
    """A setting of the network that becomes an argument of the exported architecture."""

    name: str
    type: str
    text: str
    value: str
    """What the network itself is given."""


_WIDTH = _Argument("width", "int", "Channels of the first layer.", "width")
_LEVELS = _Argument("levels", "int", "Resolutions.", "levels")
_DILATIONS = _Argument(
    "dilations", "list[int]", "Dilation of each 3 x 3 convolution.", "tuple(dilations)"
)
_MIXING = _Argument("mixing_layers", "int", "Layers that mix neighbouring planes.", "mixing_layers")

_NETWORKS: dict[str, tuple[type[nn.Module], tuple[_Argument, ...]]] = {
    "dilated": (DilatedNetwork, (_WIDTH, _DILATIONS)),
    "dilated_3d": (DilatedVolumeNetwork, (_WIDTH, _DILATIONS, _MIXING)),
    "invertible": (InvertibleNetwork, (_WIDTH, _LEVELS)),
}


def architecture_kwargs(loop: Loop, network: NetworkSettings) -> dict[str, int | list[int]]:
    """Return the arguments with which the exported architecture rebuilds the loop."""
    kwargs: dict[str, int | list[int]] = {}
    for argument in _NETWORKS[network.kind][1]:
        value: int | tuple[int, ...] = getattr(network, argument.name)
        kwargs[argument.name] = list(value) if isinstance(value, tuple) else value
    kwargs["iterations"] = loop.iterations
    return kwargs


class _Definition(NamedTuple):
    """A function, class or constant of a module, as it stands in the source."""

    text: str
    used: set[str]
    """Names and attributes that it uses."""
    methods: dict[str, _Definition]
    """Of a class, in order; their text is not in that of the class."""


def _definition(node: ast.stmt, lines: Sequence[str]) -> _Definition:
    """Return a statement as a definition; its decorators belong to it."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    methods = [inner for inner in body if isinstance(inner, ast.FunctionDef)]
    rest = [inner for inner in ast.iter_child_nodes(node) if inner not in methods]
    end = _first_line(methods[0]) - 1 if methods else node.end_lineno
    return _Definition(
        "\n".join(lines[_first_line(node) - 1 : end]).rstrip(),
        set[str]().union(*map(_used_in, rest)),
        {method.name: _definition(method, lines) for method in methods},
    )


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])


def _used_in(node: ast.AST) -> set[str]:
    names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return names | {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}


def _definitions(source: str) -> dict[str, _Definition]:
    """Return every function, class and constant of a module by its name."""
    lines = source.splitlines()
    found: dict[str, _Definition] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = _definition(node, lines)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = _definition(node, lines)
    return found


def _reach(definitions: dict[str, _Definition], wanted: set[str]) -> tuple[set[str], set[str]]:
    """Return the definitions and methods that are needed, and all names that these use.

    Methods count as needed if torch calls them, or something needed uses an attribute of their
    name.
    """
    reached: set[str] = set()
    used = set(wanted) | {"forward"}
    while True:
        found = {name for name in definitions if name in used}
        for name in list(found):
            for method in definitions[name].methods:
                if method in used or method.startswith("__"):
                    found.add(f"{name}.{method}")
        if found == reached:
            return reached, used
        reached = found
        for name in reached:
            owner, _, method = name.partition(".")
            entry = definitions[owner]
            used |= entry.methods[method].used if method else entry.used


def _text(name: str, definition: _Definition, reached: set[str]) -> str:
    """Return the text of a definition, of a class with the methods that are needed."""
    methods = [m.text for n, m in definition.methods.items() if f"{name}.{n}" in reached]
    return "\n\n".join([definition.text, *methods])


def _imports(source: str) -> dict[str, str]:
    """Return the import statement of every name that a module takes from outside the package."""
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name
                renamed = f" as {alias.asname}" if alias.asname else ""
                found[bound] = f"import {alias.name}{renamed}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.split(".")[0] in (_PACKAGE, "__future__"):
                continue
            for alias in node.names:
                found[alias.asname or alias.name] = f"from {node.module} import {alias.name}"
    return found


def _merged_imports(statements: set[str]) -> list[str]:
    """Merge ``from a import b`` lines and order them as import sorters do."""
    plain = [s for s in statements if s.startswith("import ")]
    members: dict[str, list[str]] = {}
    for statement in statements:
        if statement.startswith("from "):
            module, _, name = statement.removeprefix("from ").partition(" import ")
            members.setdefault(module, []).append(name)
    # Constants, classes, then the rest, as isort does with case.
    merged = [
        f"from {module} import {', '.join(sorted(names, key=lambda n: (n.islower(), n)))}"
        for module, names in sorted(members.items())
    ]
    standard = [s for s in sorted(plain) if not s.startswith("import torch")]
    external = [s for s in sorted(plain) if s.startswith("import torch")] + merged
    return [*standard, *([""] if standard and external else []), *external]


def architecture_source(network: NetworkSettings) -> str:
    """Return one Python file with the loop and its network, which needs torch alone.

    It is cut out of this package's own sources: every function, class and constant that the loop
    and the network reach, as it stands, with the imports they need.

    Parameters
    ----------
    network : NetworkSettings
        The network that is iterated.
    """
    kind, arguments = _NETWORKS[network.kind]
    definitions: dict[str, _Definition] = {}
    imports: dict[str, str] = {}
    for module in (layers, inspect.getmodule(kind) or layers, loop_module):
        source = inspect.getsource(module)
        definitions |= _definitions(source)
        imports |= _imports(source)
    reached, used = _reach(definitions, {kind.__name__, Loop.__name__})
    statements = {imports[name] for name in used & imports.keys()}
    parts = [
        _text(name, definition, reached)
        for name, definition in definitions.items()
        if name in reached
    ]
    axes = "Z, Y, X" if network.dims == 3 else "Y, X"
    last = _CLASS_TEMPLATE.format(
        name=ARCHITECTURE_CLASS,
        network=kind.__name__,
        shapes=f"(B, 1, {axes}) to (B, iterations, {axes})",
        texts="\n".join(f"    {a.name} : {a.type}\n        {a.text}" for a in arguments),
        types="\n".join(f"        {a.name}: {a.type}," for a in arguments),
        values=", ".join(a.value for a in arguments),
    )
    head = '"""The exported loop in one file: torch is all it needs."""\n\n'
    head += "from __future__ import annotations\n\n"
    head += "\n".join(_merged_imports(statements)) + "\n\n\n"
    return head + "\n\n\n".join(parts) + "\n" + last


# -------------------------------------------------------------------------- TorchScript


@contextmanager
def _without_deprecations() -> Generator[None]:
    """Silence what torch 2.15 says of `torch.jit`: programs in the field load nothing else."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", category)
        yield


class _Iterations(nn.Module):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, extended: Tensor) -> Tensor:
        return self.loop.iterate(extended, self.loop.iterations)


class _FlatLoop(nn.Module):
    """A folded loop whose tensors are buffers of one single module.

    One class in the archive has one name, whatever was traced before in the same process, and
    buffers that stay attributes follow the module to another device, as constants do not.
    """

    def __init__(self, folded: Loop, extend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.extend = extend
        # One lateral margin, since both are the same; for stacks that along z before it.
        self.margins = folded.margins(folded.iterations)[:-1]
        self.slots: list[tuple[nn.Module, str, str]] = []
        for path, tensor in folded.named_buffers():
            owner, _, name = path.rpartition(".")
            flat = path.replace(".", "_")
            self.register_buffer(flat, tensor.contiguous())
            self.slots.append((folded.get_submodule(owner), name, flat))
        # In a list, so that the tracer does not find it as a submodule.
        self.hidden = [_Iterations(folded)]

    def forward(self, x: Tensor) -> Tensor:
        for owner, name, flat in self.slots:
            setattr(owner, name, getattr(self, flat))
        return self.hidden[0](self.extend(x, *self.margins))


_MANGLED = re.compile(rb"\.___torch_mangle_\d+")


def plain_archive(archive: bytes, *, demangle: bool = True) -> bytes:
    """Return a TorchScript archive without debug files, counters, dates or compression.

    Parameters
    ----------
    archive : bytes
    demangle : bool
        Whether the counters in the names of classes go too; where two classes differ by them
        alone, they may not.
    """
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as source,
        zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target,
    ):
        for name in source.namelist():
            # The serialization id is a hash over the debug files, too.
            if name.endswith((".debug_pkl", "/serialization_id")):
                continue
            content = source.read(name)
            if demangle and name.endswith((".py", "/data.pkl")):
                content = _MANGLED.sub(b"", content)
                name = re.sub(r"/___torch_mangle_\d+(?=\.py$)", "", name)
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            # torch maps tensors into memory where they begin at a multiple of 64 bytes.
            begin = out.tell() + 30 + len(entry.filename.encode()) + 4
            pad = -begin % 64
            entry.extra = b"FB" + pad.to_bytes(2, "little") + b"Z" * pad
            target.writestr(entry, content)
    return out.getvalue()


def _example(loop: Loop) -> Tensor:
    """Return an image to trace the loop with, no two of its sides alike."""
    side = 2 * loop.multiple * 8
    shape = (1, 1, 5, side, side + 8)[-loop.dims :]
    return torch.linspace(0, 1, math.prod(shape)).reshape(1, 1, *shape)


def torchscript_bytes(loop: Loop) -> bytes:
    """Return the loop as a frozen TorchScript archive that torch 2.0 and later load.

    The mirroring is scripted, since a trace would write down the device of its indices; all the
    rest is traced. Sizes are free; tensors follow ``to(device)`` and ``map_location``.
    """
    with _without_deprecations(), torch.no_grad():
        extend = extend_volume if loop.dims == 3 else extend_symmetric
        flat = _FlatLoop(fold_kernels(loop), torch.jit.script(extend)).eval()
        traced = torch.jit.trace(flat, _example(loop), check_trace=False)
        names = [name for name, _ in flat.named_buffers()]
        frozen = torch.jit.freeze(traced, preserved_attrs=names)
        file = io.BytesIO()
        torch.jit.save(frozen, file)
    return plain_archive(file.getvalue())


# --------------------------------------------------------------------------------- ONNX


def onnx_bytes(loop: Loop) -> bytes:
    """Return the loop as one ONNX file, opset 17 and IR 8, batch and sizes free.

    Raises
    ------
    RuntimeError
        If the exporter wrote another opset or IR, or keeps tensors outside the file.
    """
    folded = fold_kernels(loop)
    free = {0: "batch", **dict(enumerate("zyx"[-loop.dims :], start=2))}
    model = write_onnx(folded, _example(loop), names=(INPUT_ID, OUTPUT_ID), free=free)
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


# ------------------------------------------------------------------------------- parity


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
    with _without_deprecations():
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
    limit: float = PARITY_LIMIT,
) -> tuple[ParityRow, ...]:
    """Run the written files and compare them with the loop.

    Parameters
    ----------
    loop : Loop
        What was exported.
    folder : Path
        Where the files of `record` lie.
    record : ExportRecord
    shapes : sequence of (batch, (z,) y, x), optional
        Images of random grey values to run; left out, some of odd sizes, one of them tiny.
    limit : float
        Largest difference allowed, over the range of the loop's output.

    Returns
    -------
    tuple of ParityRow
        One per format and shape.

    Raises
    ------
    RuntimeError
        If a format gives another shape or differs by more than the limit.
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
            if not difference <= limit:
                raise RuntimeError(
                    f"{name} must give the loop's values within {limit:g} of their range, "
                    f"but differs by {difference:.2g} for an input of {tuple(x.shape)}"
                )
            rows.append(ParityRow(weights_format=name, shape=tuple(x.shape), difference=difference))
    return tuple(rows)


def export_weights(
    loop: Loop, folder: Path, network: NetworkSettings, *, stem: str = "weights"
) -> ExportRecord:
    """Write the loop in all weights formats, with its architecture, and compare them.

    Parameters
    ----------
    loop : Loop
        On the CPU.
    folder : Path
        Exists; files of the same names are replaced.
    network : NetworkSettings
        The settings that the loop's network was built from.
    stem : str
        Name of the weights files, without suffix.

    Returns
    -------
    ExportRecord

    Raises
    ------
    RuntimeError
        If a format does not give the loop's values.
    """
    loop = copy.deepcopy(loop).cpu().float().eval()
    architecture = "architecture.py" if stem == "weights" else f"{stem}.py"
    files: dict[WeightsFormat, str] = {
        name: f"{stem}{WEIGHTS_SUFFIX[name]}" for name in WEIGHTS_FORMATS
    }
    (folder / files["pytorch_state_dict"]).write_bytes(state_dict_bytes(loop))
    (folder / files["torchscript"]).write_bytes(torchscript_bytes(loop))
    (folder / files["onnx"]).write_bytes(onnx_bytes(loop))
    (folder / architecture).write_text(architecture_source(network), encoding="utf-8", newline="\n")
    record = ExportRecord(
        weights=files,
        architecture=architecture,
        architecture_kwargs=architecture_kwargs(loop, network),
        parameters=sum(parameter.numel() for parameter in loop.parameters()),
        parity=(),
    )
    return record.model_copy(update={"parity": check_parity(loop, folder, record)})
