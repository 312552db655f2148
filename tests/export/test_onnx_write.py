from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from deepcontrast_bmz.export import onnx_write
from deepcontrast_bmz.export.onnx import serialize_onnx
from deepcontrast_bmz.export.onnx_write import has_older_exporter, write_onnx, write_onnx_by_newer
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.model.run_folder import read_run
from deepcontrast_bmz.package.weights import find_local_paths
from deepcontrast_bmz.settings import NetworkSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


ROOT = Path(__file__).parents[2]
FREE = {0: "batch", 2: "y", 3: "x"}


@pytest.fixture
def _only_newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if torch had dropped its older exporter."""
    export = torch.onnx.export

    def without_older(*args: Any, dynamo: bool = True, **kwargs: Any) -> Any:
        if not dynamo:
            raise ValueError("dynamo=False is not supported any more")
        return export(*args, dynamo=dynamo, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", without_older)
    onnx_write.has_older_exporter.cache_clear()
    yield
    onnx_write.has_older_exporter.cache_clear()


def tiny_loop() -> Loop:
    torch.manual_seed(1)
    return Loop(build_network(NetworkSettings(width=4, dilations=(1, 2, 1))), 2).eval()


def shipped_loop(folder: Path) -> Loop:
    for part, name in (("pt", "weights.pt"), ("recipe.toml",) * 2, ("run.json",) * 2):
        (folder / name).write_bytes((ROOT / f"weights/deepcontrast.{part}").read_bytes())
    return read_run(folder)[2].cpu().eval()


def sizes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def assert_same_values(content: bytes, loop: Loop, shapes: list[tuple[int, int, int]]) -> None:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in shapes:
        x = 100 + 1000 * torch.rand(batch, 1, height, width, generator=generator)
        with torch.inference_mode():
            expected = loop(x)
        got = torch.from_numpy(session.run(None, {"raw": x.numpy()})[0])
        assert got.shape == expected.shape
        assert float((got - expected).abs().max()) < 1e-5 * float(expected.max() - expected.min())


@pytest.mark.usefixtures("_only_newer")
@pytest.mark.parametrize("which", ["tiny", pytest.param("shipped", marks=pytest.mark.slow)])
def test_without_the_older_exporter_the_same_file_comes_out(which: str, tmp_path: Path) -> None:
    loop = tiny_loop() if which == "tiny" else shipped_loop(tmp_path)
    assert not has_older_exporter()
    content = serialize_onnx(loop)
    path = tmp_path / "weights.onnx"
    path.write_bytes(content)
    read = onnx.load(path, load_external_data=False)
    assert {(e.domain, e.version) for e in read.opset_import} == {("", 17)}
    assert read.ir_version == 8
    onnx.checker.check_model(read, full_check=True)
    assert sizes(read.graph.input[0]) == ["batch", 1, "y", "x"]
    assert sizes(read.graph.output[0]) == ["batch", loop.iterations, "y", "x"]
    assert not any(t.external_data for t in read.graph.initializer)
    assert find_local_paths(path) == []
    for trace in (b"stack_trace", b"pkg.torch", b".py", b"deepcontrast_bmz"):
        assert trace not in content
    assert_same_values(content, loop, [(1, 137, 151), (2, 40, 33), (1, 9, 5)])


def test_older_exporter_is_found_out_by_trying() -> None:
    assert has_older_exporter() is ("dynamo" in torch.onnx.export.__code__.co_varnames)
    module = nn.Conv2d(1, 2, 3, padding=1).eval()
    written = write_onnx(module, torch.zeros(1, 1, 8, 8), names=("a", "b"), free=FREE)
    assert written.graph.input[0].name == "a"
    assert sizes(written.graph.output[0]) == ["batch", 2, "y", "x"]


def test_missing_onnxscript_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        assert name == "onnxscript"

    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    with pytest.raises(RuntimeError, match="pip install onnxscript"):
        write_onnx_by_newer(nn.ReLU(), torch.zeros(2, 2), names=("a", "b"), free={0: "batch"})
