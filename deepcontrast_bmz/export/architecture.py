"""The loop as one Python file that needs torch alone, cut out of the sources of this package."""

from __future__ import annotations

__all__ = [
    "ARCHITECTURE_CLASS",
    "architecture_kwargs",
    "architecture_source",
]

import ast
import inspect
from typing import TYPE_CHECKING, NamedTuple

from deepcontrast_bmz.model import loop as loop_module
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import (
    DilatedNetwork,
    DilatedVolumeNetwork,
    InvertibleNetwork,
    layers,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from deepcontrast_bmz.settings import NetworkSettings

ARCHITECTURE_CLASS = "DeepContrastLoop"
_PACKAGE = __name__.partition(".")[0]

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


def _read_definition(node: ast.stmt, lines: Sequence[str]) -> _Definition:
    """Return a statement as a definition; its decorators belong to it."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    methods = [inner for inner in body if isinstance(inner, ast.FunctionDef)]
    rest = [inner for inner in ast.iter_child_nodes(node) if inner not in methods]
    end = _first_line(methods[0]) - 1 if methods else node.end_lineno
    return _Definition(
        "\n".join(lines[_first_line(node) - 1 : end]).rstrip(),
        set[str]().union(*map(_used_in, rest)),
        {method.name: _read_definition(method, lines) for method in methods},
    )


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])


def _used_in(node: ast.AST) -> set[str]:
    names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return names | {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}


def _read_definitions(source: str) -> dict[str, _Definition]:
    """Return every function, class and constant of a module by its name."""
    lines = source.splitlines()
    found: dict[str, _Definition] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = _read_definition(node, lines)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = _read_definition(node, lines)
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


def _read_imports(source: str) -> dict[str, str]:
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


def _merge_imports(statements: set[str]) -> list[str]:
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
    """Return one Python file with the loop and the network it iterates, which needs torch alone.

    It is cut out of this package's own sources: every function, class and constant that the loop
    and the network reach, as it stands, with the imports they need.
    """
    kind, arguments = _NETWORKS[network.kind]
    definitions: dict[str, _Definition] = {}
    imports: dict[str, str] = {}
    for module in (layers, inspect.getmodule(kind) or layers, loop_module):
        source = inspect.getsource(module)
        definitions |= _read_definitions(source)
        imports |= _read_imports(source)
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
    head += "\n".join(_merge_imports(statements)) + "\n\n\n"
    return head + "\n\n\n".join(parts) + "\n" + last
