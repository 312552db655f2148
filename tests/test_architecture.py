"""The house: imports point down, doors are named, and the command line stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import deepcontrast_bmz

HOUSE = Path(deepcontrast_bmz.__file__).parent

FLOORS = [
    "errors",
    "blocks",
    "settings",
    "cache",
    "image.whole",
    "image.labelled",
    "image.units",
    "image.reading",
    "image.pixels",
    "image.opened",
    "image.pyramid",
    "image.tiff_header",
    "image.tiff",
    "image.tiff_write",
    "image.ome_zarr",
    "image.zarr_write",
    "image.folder",
    "image.installed",
    "image",
    "metrics",
    "physics.scatter",
    "physics.camera",
    "verdict",
    "physics.degrade",
    "physics.phantom",
    "network.layers",
    "network.dilated",
    "network.unets",
    "network.invertible",
    "network.volumes",
    "network",
    "strips",
    "data",
    "excerpts",
    "simulate",
    "balance",
    "loop",
    "backends",
    "tiles",
    "halos",
    "model",
    "features",
    "quadratic",
    "depth",
    "ood",
    "windows",
    "along_z",
    "evidence",
    "stop",
    "specimens",
    "balance_fit",
    "calibrate",
    "parallel",
    "train",
    "sources",
    "dials",
    "enhance",
    "journal",
    "workers",
    "stream",
    "predict",
    "baselines",
    "evaluate.found",
    "evaluate.planes",
    "evaluate.previews",
    "evaluate.scorer",
    "evaluate",
    "jdll_order",
    "onnx_lower",
    "onnx_write",
    "export",
    "rdf",
    "package",
    "report.words",
    "report.marks",
    "report.curve",
    "report.tables",
    "report.pictures",
    "report.page",
    "report.files",
    "report",
    "consumers",
    "port.draft",
    "port.processing",
    "port.description",
    "port.halo",
    "port.weights",
    "port",
    "demo",
    "cli",
]
"""From the ground up; a room may import only rooms named before it."""


def room_of(path: Path) -> str:
    parts = path.relative_to(HOUSE).with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__")
    return "consumers" if name.startswith("consumers") else name


def rooms() -> list[Path]:
    outside = {"__init__", "__main__"}
    found = sorted(HOUSE.rglob("*.py"))
    return [p for p in found if not (p.parent == HOUSE and p.stem in outside)]


def imported(tree: ast.AST) -> list[str]:
    """Rooms imported anywhere in a module, inside functions too."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    prefix = "deepcontrast_bmz."
    short = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    known = set(FLOORS)
    collapsed = ["consumers" if name.startswith("consumers") else name for name in short]
    return [name for name in collapsed if name in known]


@pytest.mark.parametrize("path", rooms(), ids=lambda path: room_of(path) or "physics")
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room == "physics":
        assert not imported(ast.parse(path.read_text())), "the folder's door imports nothing"
        return
    assert room in FLOORS, f"{room} has no floor: give it one"
    allowed = FLOORS[: FLOORS.index(room)]
    for name in imported(ast.parse(path.read_text())):
        assert name in allowed or name == room, f"{room} imports {name}, which lies above it"


@pytest.mark.parametrize("path", rooms(), ids=lambda path: room_of(path) or "physics")
def test_only_the_command_line_prints(path: Path) -> None:
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    printed = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not printed or room_of(path) == "cli"


@pytest.mark.parametrize("path", rooms(), ids=lambda path: room_of(path) or "physics")
def test_every_public_name_is_in_all(path: Path) -> None:
    tree = ast.parse(path.read_text())
    listed: set[str] | None = None
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            listed = set(ast.literal_eval(node.value))
    if listed is None:
        assert room_of(path) == "physics", f"{room_of(path)} has no __all__"
        return
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    public = {name for name in defined if not name.startswith("_")}
    imported_names = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    assert listed <= defined | imported_names | assigned, "a name in __all__ does not exist"
    if room_of(path) not in ("cli", "consumers"):
        assert public <= listed, f"missing in __all__: {sorted(public - listed)}"


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, deepcontrast_bmz.cli; "
        "heavy = {'torch', 'bioimageio', 'numpy', 'xarray', 'lightning', 'pydantic', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
