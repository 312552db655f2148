"""The house: imports point down, no circles, doors are named, the command line stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import deepcontrast_bmz

HOUSE = Path(deepcontrast_bmz.__file__).parent

FLOORS = [
    {"errors"},
    {"settings"},
    {"image"},
    {"physics"},
    {"records", "package", "progress"},
    {"model"},
    {"dial", "export"},
    {"predict", "train", "check"},
    {"evaluate", "port"},
    {"demo"},
    {"cli", "napari"},
    {"__init__", "__main__"},
]
"""From the ground up: a folder or module may import from floors below its own, and from itself."""


def modules() -> list[Path]:
    return sorted(HOUSE.rglob("*.py"))


def dotted(path: Path) -> str:
    """Return the name within the package: ``image.labels``, ``image`` for its door."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Return the modules imported anywhere in a file, in functions and for types too."""
    known = {dotted(module) for module in modules()}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            # A name from a folder is a module of it, or stands in its door.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n.partition(".")[2] in known else node.module for n in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {n.partition(".")[2] or "__init__" for n in names if n.split(".")[0] == HOUSE.name}
    return found & known


def floor(room: str) -> int:
    levels = [level for level, rooms in enumerate(FLOORS) if room in rooms]
    assert levels, f"{room} has no floor: give it one"
    return levels[0]


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_point_down(path: Path) -> None:
    room = dotted(path).split(".")[0]
    for name in imported(path) - {"__init__"}:
        other = name.split(".")[0]
        assert other == room or floor(other) < floor(room), f"{dotted(path)} imports {name}"


def test_no_circle_of_imports() -> None:
    """Type-only imports count, too: what needs each other's types is one room."""
    # Everybody may ask the package for its version; its own door imports lazily.
    graph = {dotted(path): imported(path) - {"__init__"} for path in modules()}
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"circle: {' -> '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for name in sorted(graph[module] - {module}):
                walk(name, (*way, module))
            done.add(module)

    for module in sorted(graph):
        walk(module, ())


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_only_the_command_line_prints(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    printed = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not printed or dotted(path) == "cli"


def names_of(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return what a module defines in public, and all that it has."""
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    public = {name for name in defined if not name.startswith("_")}
    everything = set(defined)
    # The door of the package imports what it offers for type checkers alone.
    body = [inner for n in tree.body for inner in (n.body if isinstance(n, ast.If) else [n])]
    for node in body:
        if isinstance(node, ast.ImportFrom):
            everything |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                everything |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
    return public, everything


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_every_public_name_is_in_all(path: Path) -> None:
    tree = ast.parse(path.read_text())
    listed: set[str] | None = None
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            listed = set(ast.literal_eval(node.value))
    public, everything = names_of(tree)
    if listed is None:
        assert (len(tree.body) == 1 and path.stem == "__init__") or path.stem == "__main__", (
            f"{dotted(path)} has no __all__"
        )
        return
    assert listed <= everything | {"__version__"}, "a name in __all__ does not exist"
    if dotted(path) != "cli":
        assert public <= listed, f"missing in __all__: {sorted(public - listed)}"


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, deepcontrast_bmz.cli; "
        "heavy = {'torch', 'bioimageio', 'numpy', 'xarray', 'lightning', 'pydantic', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
