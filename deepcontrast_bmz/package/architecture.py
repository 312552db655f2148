"""What can be read of a state dict and its architecture file without running either.

The Python file is parsed, never imported; of the state dict only names and shapes are read, by an
unpickler that knows tensors and containers and constructs nothing else.
"""

from __future__ import annotations

__all__ = ["Architecture", "Signature", "Tensors", "read_architecture", "read_tensors"]

import ast
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE_BYTES = 4 * 2**20
PICKLE_BYTES = 64 * 2**20

_PLAIN_BASES = {"Module", "nn.Module", "torch.nn.Module"}
_REGISTERS = ("add_module", "register_buffer", "register_module", "register_parameter")
_DYNAMIC = ("setattr", "__setattr__", "exec", "eval")
_LOADS = ("load_state_dict", "_load_from_state_dict", "_register_load_state_dict_pre_hook")


# ------------------------------------------------------------------------ architecture file


@dataclass(frozen=True)
class Signature:
    """What a callable can be given by keyword."""

    accepted: frozenset[str]
    """Names."""
    required: frozenset[str]
    """Names without a default."""
    any_name: bool
    """Whether it takes every name."""


@dataclass(frozen=True)
class Architecture:
    """The source of an architecture file, parsed."""

    problem: str = ""
    """Why it cannot be parsed; empty if it can."""
    names: frozenset[str] = frozenset()
    """What the file defines or imports at its top."""
    open_ended: bool = False
    """Whether more names may be there: ``from x import *``."""
    classes: dict[str, ast.ClassDef] = field(default_factory=dict[str, ast.ClassDef])
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict[str, ast.FunctionDef])

    def find_signature(self, name: str) -> Signature | None:
        """Return what a class or function of the file takes; None where the file does not say."""
        if name in self.functions:
            return _signature(self.functions[name], bound=False)
        for owner in self._ancestry(name):
            if owner is None:
                return None
            for node in owner.body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    return None if node.decorator_list else _signature(node, bound=True)
            if owner.decorator_list:
                # A dataclass gets its own from the decorator.
                return None
        return None

    def find_attributes(self, name: str) -> frozenset[str] | None:
        """Return the attributes that a class of the file may hold tensors in.

        Returns
        -------
        frozenset of str or None
            None where the file alone does not say: a function, a base from elsewhere, or code that
            names attributes while it runs.
        """
        if name not in self.classes:
            return None
        found: set[str] = set()
        for owner in self._ancestry(name):
            if owner is None:
                return None
            for node in ast.walk(owner):
                if _names_attributes(node):
                    return None
                found.update(_attribute_names(node))
        return frozenset(found)

    def find_used(self, name: str) -> frozenset[str]:
        """Return every name that a class or function of the file mentions."""
        node = self.classes.get(name) or self.functions.get(name)
        if node is None:
            return frozenset()
        return frozenset(inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))

    def _ancestry(self, name: str) -> Iterator[ast.ClassDef | None]:
        """Yield a class and its bases, None where one lies outside of the file."""
        waiting, seen = [name], set[str]()
        while waiting:
            current = waiting.pop(0)
            if current in seen or current in _PLAIN_BASES:
                continue
            seen.add(current)
            owner = self.classes.get(current)
            yield owner
            if owner is not None:
                waiting += [ast.unparse(base) for base in owner.bases]
                if owner.keywords:
                    yield None


def _signature(node: ast.FunctionDef, *, bound: bool) -> Signature:
    arguments = node.args
    positional = [a.arg for a in arguments.posonlyargs + arguments.args]
    optional = positional[len(positional) - len(arguments.defaults) :]
    by_name = [a.arg for a in arguments.args][1 if bound and not arguments.posonlyargs else 0 :]
    keyword = [a.arg for a in arguments.kwonlyargs]
    missing = [
        a.arg
        for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is None
    ]
    required = {n for n in by_name if n not in optional} | set(missing)
    accepted = frozenset({*by_name, *keyword})
    return Signature(accepted, frozenset(required), arguments.kwarg is not None)


def _names_attributes(node: ast.AST) -> bool:
    """Return whether a node may hold tensors under names that the source does not tell."""
    if isinstance(node, ast.Call):
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in _REGISTERS:
            first = node.args[0] if node.args else None
            return not isinstance(first, ast.Constant)
        return name in (*_DYNAMIC, *_LOADS)
    if isinstance(node, ast.FunctionDef):
        return node.name in _LOADS
    return isinstance(node, ast.Attribute) and node.attr in ("__dict__", "_modules", "_parameters")


def _attribute_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self":
        yield node.attr
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        first = node.args[0] if node.args else None
        if node.func.attr in _REGISTERS and isinstance(first, ast.Constant):
            yield str(first.value)


def _top_names(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements at the top of a file define, in branches too."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((a.asname or a.name).split(".")[0] for a in node.names)
        else:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    yield inner.id
                elif isinstance(inner, ast.ClassDef | ast.FunctionDef):
                    yield inner.name
                elif isinstance(inner, ast.Import | ast.ImportFrom):
                    yield from _top_names([inner])


@lru_cache(maxsize=8)
def _parse(path: Path, _changed: int) -> Architecture:
    try:
        if path.stat().st_size > SOURCE_BYTES:
            return Architecture(problem=f"{path.name} has more than {SOURCE_BYTES} bytes")
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        words = " ".join(str(error).split())[:150]
        return Architecture(problem=f"{path.name} is not Python that can be read ({words})")
    names = frozenset(_top_names(tree.body))
    return Architecture(
        names=names,
        open_ended="*" in names,
        classes={n.name: n for n in tree.body if isinstance(n, ast.ClassDef)},
        functions={n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)},
    )


def read_architecture(path: Path) -> Architecture:
    """Return what an architecture file defines; it is parsed and not run."""
    return _parse(path, path.stat().st_mtime_ns)


# ------------------------------------------------------------------------------- state dict


@dataclass(frozen=True)
class Tensors:
    """Names and shapes of a state dict; `problem` says why they cannot be read."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, "tuple[int, ...]"])
    problem: str = ""


@dataclass(frozen=True)
class _Shape:
    sizes: tuple[int, ...]


def _tensor(_storage: object, _offset: object, sizes: Any, *_rest: object) -> _Shape:
    return _Shape(tuple(int(size) for size in sizes))


def _parameter(data: object, *_rest: object) -> object:
    return data


class _Reader(pickle.Unpickler):
    """Knows how torch writes tensors, and refuses to construct anything else."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _parameter
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any, /) -> object:
        return pid


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int) -> Tensors:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [i for i in archive.infolist() if i.filename.endswith("/data.pkl")]
            if len(infos) != 1 or infos[0].file_size > PICKLE_BYTES:
                return Tensors(problem=f"{path.name} is no file that torch.save wrote")
            with archive.open(infos[0]) as stream:
                state: object = _Reader(stream).load()
    # A damaged pickle fails in as many ways as there are opcodes.
    except Exception as error:
        words = " ".join(str(error).split())[:150]
        return Tensors(problem=f"the tensors of {path.name} cannot be read: {words}")
    if not isinstance(state, dict):
        return Tensors(problem=f"{path.name} holds no names of tensors")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in cast("dict[object, object]", state).items():
        if not isinstance(name, str) or not isinstance(value, _Shape):
            return Tensors(problem=f"{path.name} holds other things than tensors by name")
        shapes[name] = value.sizes
    return Tensors(shapes)


def read_tensors(path: Path) -> Tensors:
    """Return names and shapes of the tensors in a state dict, without torch."""
    return _read(path, path.stat().st_mtime_ns)
