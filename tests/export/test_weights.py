"""The three weights formats and the architecture: same values, same bytes, nothing to hide."""

from __future__ import annotations

import ast
import copy
import io
import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import onnx
import pytest
import torch

from deepcontrast_bmz.export.architecture import list_architecture_kwargs, write_architecture
from deepcontrast_bmz.export.fold import fold_kernels
from deepcontrast_bmz.export.onnx import serialize_onnx
from deepcontrast_bmz.export.parity import PARITY_LIMIT, check_parity
from deepcontrast_bmz.export.torchscript import serialize_torchscript
from deepcontrast_bmz.export.weights import export_weights, serialize_state_dict
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.model import WEIGHTS_FORMATS
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.settings import NetworkSettings

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from deepcontrast_bmz.export.records import ExportRecord


Kind = Literal["dilated", "invertible"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def network(kind: Kind = "dilated") -> NetworkSettings:
    return NetworkSettings(kind=kind, width=4, dilations=(1, 2, 1), levels=2)


def make_loop(kind: Kind = "dilated") -> Loop:
    torch.manual_seed(1)
    return Loop(build_network(network(kind)), 3).eval()


def load_torchscript(content: bytes, device: str = "cpu") -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
        return torch.jit.load(io.BytesIO(content), map_location=device)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportRecord]:
    folder = tmp_path_factory.mktemp("exported")
    return folder, export_weights(make_loop(), folder, network())


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_values_of_the_loop(tmp_path: Path, kind: Kind) -> None:
    """Batch 1 and 2, odd sizes, and an image smaller than all that the loop sees."""
    record = export_weights(make_loop(kind), tmp_path, network(kind))
    assert {row.weights_format for row in record.parity} == set(WEIGHTS_FORMATS)
    assert {row.shape for row in record.parity} == {
        (1, 1, 137, 151),
        (2, 1, 150, 139),
        (1, 1, 9, 5),
    }
    for weights_format in WEIGHTS_FORMATS:
        assert 0 <= record.largest_difference(weights_format) <= PARITY_LIMIT
    assert record.largest_difference("pytorch_state_dict") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_loop_gives_the_same_bytes(kind: Kind) -> None:
    loop = make_loop(kind)
    for write in (serialize_state_dict, serialize_torchscript, serialize_onnx):
        assert write(loop) == write(copy.deepcopy(loop))


@torch.no_grad()
def test_folding_changes_no_value_and_leaves_the_loop_alone() -> None:
    loop = make_loop()
    before = {name: tensor.clone() for name, tensor in loop.state_dict().items()}
    folded = fold_kernels(loop)
    x = torch.rand(1, 1, 20, 23)
    assert torch.equal(folded(x), loop(x))
    assert not list(folded.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in loop.state_dict().items())


# ---- state dict and architecture


@pytest.mark.parametrize("kind", KINDS)
def test_the_architecture_needs_torch_alone_and_has_the_same_keys(kind: Kind) -> None:
    loop = make_loop(kind)
    source = write_architecture(network(kind))
    roots: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").partition(".")[0])
    assert roots <= {"torch", *sys.stdlib_module_names}
    assert "deepcontrast_bmz" not in source
    room: dict[str, Any] = {}
    exec(compile(source, "architecture.py", "exec"), room)
    rebuilt = room["DeepContrastLoop"](**list_architecture_kwargs(loop, network(kind)))
    state = torch.load(io.BytesIO(serialize_state_dict(loop)), weights_only=True)
    assert state.keys() == rebuilt.state_dict().keys() == loop.state_dict().keys()
    rebuilt.load_state_dict(state)
    x = torch.rand(1, 1, 12, 9)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(x), loop(x))


@pytest.mark.parametrize("kind", KINDS)
def test_the_architecture_holds_nothing_that_its_loop_does_not_use(
    tmp_path: Path, kind: Kind
) -> None:
    """Every function, class and method is entered when the loop is built and run."""
    path = tmp_path / "architecture.py"
    path.write_text(write_architecture(network(kind)), encoding="utf-8")
    defined = {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    kwargs = list_architecture_kwargs(make_loop(kind), network(kind))
    entered: set[str] = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == str(path):
            entered.add(frame.f_code.co_name)

    room: dict[str, Any] = {}
    sys.setprofile(watch)
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), room)
        room["DeepContrastLoop"](**kwargs)(torch.rand(1, 1, 12, 9))
    finally:
        sys.setprofile(None)
    assert defined <= entered
    assert {"DeepContrastLoop", "Loop", "AffineConv", "sort_pairs", "crop"} <= entered


@pytest.mark.parametrize("kind", KINDS)
def test_the_architecture_is_clean_python(tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "architecture.py"
    path.write_text(write_architecture(network(kind)), encoding="utf-8")
    rules = ["--isolated", "--line-length", "100", "--no-cache"]
    for command in (["check", "--select", "E,F,W,I,UP,B"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *rules, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


# ---- TorchScript


@pytest.mark.parametrize("kind", KINDS)
def test_torchscript_follows_to_another_device(kind: Kind) -> None:
    """The device `meta` holds no values, but refuses tensors of another device as any does."""
    content = serialize_torchscript(make_loop(kind))
    x = torch.zeros(2, 1, 31, 17, device="meta")
    modules = [load_torchscript(content).to("meta")]
    if kind == "dilated":
        # Of the constants of other networks, loading compares the values, which `meta` lacks.
        modules.append(load_torchscript(content, "meta"))
    for module in modules:
        y = module(x)
        assert y.shape == (2, 3, 31, 17)
        assert y.device.type == "meta"


def test_torchscript_keeps_nothing_of_the_machine() -> None:
    with zipfile.ZipFile(io.BytesIO(serialize_torchscript(make_loop()))) as archive:
        for entry in archive.infolist():
            assert not entry.filename.endswith((".debug_pkl", "serialization_id"))
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            content = archive.read(entry)
            assert b"torch_mangle" not in content
            assert b".py\x00" not in content
        assert sum(name.endswith(".py") for name in archive.namelist()) == 1


def test_torchscript_keeps_its_name_when_the_code_moves() -> None:
    with zipfile.ZipFile(io.BytesIO(serialize_torchscript(make_loop()))) as archive:
        code = [name for name in archive.namelist() if name.endswith(".py")]
    assert code == ["archive/code/__torch__/deepcontrast_bmz/export.py"]


def test_torchscript_tensors_lie_where_they_can_be_mapped() -> None:
    content = serialize_torchscript(make_loop())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [entry for entry in archive.infolist() if "/data/" in entry.filename]
    assert entries
    for entry in entries:
        name_length, extra_length = np.frombuffer(content, "<u2", 2, entry.header_offset + 26)
        assert (entry.header_offset + 30 + int(name_length) + int(extra_length)) % 64 == 0


# ---- ONNX


def test_onnx_declares_what_old_runtimes_read() -> None:
    model = onnx.load_from_string(serialize_onnx(make_loop()))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    shape = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}["raw"]
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", 1, "y", "x"]
    shape = {value.name: value.type.tensor_type.shape.dim for value in model.graph.output}
    assert [d.dim_param or d.dim_value for d in shape["enhanced"]][1] == 3
    assert not model.metadata_props
    assert not any(node.doc_string for node in model.graph.node)
    # onnxruntime 1.20 names what it fuses after its nodes, and refuses a name met twice.
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_onnx_has_no_needless_nodes() -> None:
    """Layers are convolutions, sums and Relu alone: what ONNX Runtime knows in its own layout."""
    graph = onnx.load_from_string(serialize_onnx(make_loop())).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert not {"ReduceMean", "Reciprocal", "Constant", "Identity", "Max"} & kinds.keys()
    assert kinds["Shape"] == 1
    # The numbers of mirrored rows and columns.
    assert kinds["Min"] == 2
    iterations, layers = 3, 3
    # One more for the scale before each Relu, and the first and the last.
    assert kinds["Conv"] == iterations * (2 * layers + 2)
    assert kinds["Relu"] == iterations * layers
    # What an iteration loses, and the crop of every kept one but the last.
    assert kinds["Slice"] == iterations + iterations - 1
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used


def test_another_opset_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write = cast("Any", torch.onnx.export)

    def older(*args: Any, **kwargs: Any) -> None:
        write(*args, **(kwargs | {"opset_version": 16}))

    monkeypatch.setattr(torch.onnx, "export", older)
    with pytest.raises(RuntimeError, match=r"must be opset 17, IR 8.*16"):
        serialize_onnx(make_loop())


# ---- parity


def copy_of(exported: tuple[Path, ExportRecord], to: Path) -> tuple[Path, ExportRecord]:
    folder, record = exported
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to, record


@pytest.mark.parametrize("change", [1e-2, float("nan")])
def test_other_values_are_an_error(
    exported: tuple[Path, ExportRecord], tmp_path: Path, change: float
) -> None:
    folder, record = copy_of(exported, tmp_path)
    loop = make_loop()
    with torch.no_grad():
        next(loop.parameters())[0, 0, 0, 0] += change
    (folder / "weights.pt").write_bytes(serialize_state_dict(loop))
    with pytest.raises(RuntimeError, match="pytorch_state_dict must give the loop's values"):
        check_parity(make_loop(), folder, record, shapes=[(1, 20, 20)])


def test_another_number_of_channels_is_an_error(
    exported: tuple[Path, ExportRecord], tmp_path: Path
) -> None:
    folder, record = copy_of(exported, tmp_path)
    loop = make_loop()
    loop.iterations = 2
    (folder / "weights.onnx").write_bytes(serialize_onnx(loop))
    with pytest.raises(RuntimeError, match=r"onnx gives \(1, 2, 20, 20\)"):
        check_parity(make_loop(), folder, record, shapes=[(1, 20, 20)])


def test_nothing_but_the_named_files_is_written(exported: tuple[Path, ExportRecord]) -> None:
    folder, record = exported
    assert {path.name for path in folder.iterdir()} == {
        *record.weights.values(),
        record.architecture,
    }
    assert record.parameters == sum(p.numel() for p in make_loop().parameters())
