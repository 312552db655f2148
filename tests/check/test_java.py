"""The shipped package in the engines of Fiji, Icy and QuPath, and what those engines refuse."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
import xml.etree.ElementTree as ET
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepcontrast_bmz.check.engines import java as room
from deepcontrast_bmz.check.engines.engine import EngineError, EngineMissingError
from deepcontrast_bmz.check.engines.java import (
    JAVA_ENGINES,
    explain_missing_java,
    java,
    maven,
    prepare_java,
    run_java,
)
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.package import pack_described
from deepcontrast_bmz.export.torchscript import serialize_torchscript
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import DilatedNetwork, DilatedVolumeNetwork
from deepcontrast_bmz.model.network.layers import sort_pairs
from deepcontrast_bmz.model.open import open_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent.parent
SIZES = ((37, 61), (136, 200), (301, 515))
OLDEST = {"libtorch": "libtorch-2.0.0", "onnxruntime": "onnxruntime-java-1.12.1"}
NEWEST = {"libtorch": "libtorch-2.7.1", "onnxruntime": "onnxruntime-java-1.29.0"}


def prepared(engine: str, require: Callable[[str | None], None]) -> str:
    """Fetch an engine, or skip with the reason."""
    require(explain_missing_java(engine))
    try:
        prepare_java(engine)
    except EngineMissingError as error:
        require(str(error))
    return engine


@pytest.fixture
def libtorch(require: Callable[[str | None], None]) -> str:
    return prepared(OLDEST["libtorch"], require)


@pytest.fixture
def onnxruntime(require: Callable[[str | None], None]) -> str:
    return prepared(OLDEST["onnxruntime"], require)


def images(*shapes: tuple[int, ...]) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [(100 + 1000 * rng.random(shape)).astype(np.float32) for shape in shapes]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model as users get it, unpacked."""
    folder = tmp_path_factory.mktemp("package")
    path = pack_described(ROOT / "rdf.yaml", folder / "model.zip")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def eager() -> list[NDArray[np.float32]]:
    """What the loop itself makes of images of the sizes above."""
    model = open_model("deepcontrast", device="cpu", weights="pytorch_state_dict")
    margin = model.description.iterations * model.radius
    made: list[NDArray[np.float32]] = []
    for image in images(*((1, 1, *size) for size in SIZES)):
        extended = np.pad(image[0, 0], margin, mode="symmetric")[None, None]
        made.append(model.iterate(torch.from_numpy(extended), model.description.iterations).numpy())
    return made


def weights_of(package: Path, engine: str) -> Path:
    suffix = ".torchscript.pt" if JAVA_ENGINES[engine].kind == "libtorch" else ".onnx"
    (path,) = package.glob(f"*{suffix}")
    return path


# ------------------------------------------------------------------- the shipped package


@pytest.mark.engines
@pytest.mark.slow
@pytest.mark.parametrize("engine", JAVA_ENGINES)
def test_the_shipped_package_gives_the_values_of_the_loop(
    engine: str,
    package: Path,
    eager: list[NDArray[np.float32]],
    require: Callable[[str | None], None],
) -> None:
    """At odd sizes, smaller and larger than a tile, and on its own test input."""
    prepared(engine, require)
    inputs = images(*((1, 1, *size) for size in SIZES))
    inputs.append(np.load(ROOT / "weights/deepcontrast.test_input.npy"))
    runs = run_java(engine, weights_of(package, engine), inputs)
    expected = [*eager, np.load(ROOT / "weights/deepcontrast.test_output.npy")]
    for run, wanted in zip(runs, expected, strict=True):
        assert run.output.dtype == np.float32
        assert run.output.shape == wanted.shape
        span = float(np.ptp(wanted))
        np.testing.assert_allclose(run.output, wanted, rtol=0, atol=1e-5 * span)
        assert len(run.seconds) == 1
        assert run.seconds[0] > 0


# ------------------------------------------------------------------------------- stalls


def fused(script: bytes, shape: tuple[int, ...]) -> int:
    """Count what TorchScript's fuser compiles, anew for each size, when images come in.

    The fuser of libtorch 2.0 is still in today's torch, where it is off on processors.
    """
    flags: Any = torch._C  # pyright: ignore[reportPrivateUsage]
    before = flags._jit_can_fuse_on_cpu(), flags._jit_texpr_fuser_enabled()
    compiled = flags._jit_get_te_must_use_llvm_cpu()
    flags._jit_override_can_fuse_on_cpu(True)
    flags._jit_set_texpr_fuser_enabled(True)
    flags._jit_set_te_must_use_llvm_cpu(False)
    try:
        jit: Any = torch.jit
        with torch.no_grad(), jit.optimized_execution(True):
            network = load_script(script)
            # Profiled, then compiled.
            for _ in range(3):
                network(torch.rand(shape))
        graph = jit.last_executed_optimized_graph()
    finally:
        flags._jit_override_can_fuse_on_cpu(before[0])
        flags._jit_set_texpr_fuser_enabled(before[1])
        flags._jit_set_te_must_use_llvm_cpu(compiled)
    return len(graph.findAllNodes("prim::TensorExprGroup", True))


class _NotInPlace(DilatedNetwork):
    """The same network, its sums written as one would write them first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r = self.radius
        g = self.first(x)
        for layer, m in zip(self.hidden, self.dilations, strict=True):
            g = g[:, :, m:-m, m:-m] + sort_pairs(layer(g))
        return x[:, :, r:-r, r:-r] + self.last(g) * self.scale


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_is_compiled_anew_at_every_image_size(dims: int) -> None:
    """What stalls the second call at a new size in libtorch 2.0: fused operations."""
    torch.manual_seed(0)
    shape = (1, 1, 5, 9, 11) if dims == 3 else (1, 1, 9, 11)
    network = DilatedVolumeNetwork(4, (1, 2), 1) if dims == 3 else DilatedNetwork(4, (1, 2))
    assert fused(serialize_torchscript(Loop(network, 2)), shape) == 0


def test_the_fuser_would_compile_sums_that_are_not_in_place() -> None:
    """So that the test above can fail."""
    torch.manual_seed(0)
    assert fused(serialize_torchscript(Loop(_NotInPlace(4, (1, 2)), 2)), (1, 1, 9, 11)) > 0


# ------------------------------------------------------------------ other networks, ranks


def load_script(content: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
        return torch.jit.load(io.BytesIO(content))


def save_script(network: nn.Module, path: Path, *example: torch.Tensor) -> Path:
    """Write a network as TorchScript: traced with the example, or scripted without one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
        network = network.eval()
        script = torch.jit.trace(network, example) if example else torch.jit.script(network)
        torch.jit.save(script, path)
    return path


def onnx_file(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    opset: int = 17,
    ir_version: int = 8,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    weights: dict[str, NDArray[Any]] | None = None,
    output_type: int = onnx.TensorProto.FLOAT,
) -> Path:
    def info(name: str, kind: int) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, kind, None)

    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [info(name, onnx.TensorProto.FLOAT) for name in inputs],
        [info(name, output_type) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), path)
    return path


class _Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def volume_files(folder: Path) -> tuple[_Volume, dict[str, Path]]:
    """A convolution over stacks in both formats."""
    torch.manual_seed(0)
    network = _Volume().eval()
    node = onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 6)
    weights = {"w": network.conv.weight.detach().numpy(), "b": network.conv.bias.detach().numpy()}  # pyright: ignore[reportOptionalMemberAccess]
    return network, {
        "libtorch": save_script(network, folder / "v.pt", torch.rand(1, 1, 4, 5, 6)),
        "onnxruntime": onnx_file(folder / "v.onnx", [node], weights=weights),
    }


@pytest.mark.engines
@pytest.mark.parametrize("engine", JAVA_ENGINES)
def test_stacks_run(engine: str, tmp_path: Path, require: Callable[[str | None], None]) -> None:
    prepared(engine, require)
    network, files = volume_files(tmp_path)
    stacks = images((1, 1, 3, 7, 9), (2, 1, 5, 4, 6))
    runs = run_java(engine, files[JAVA_ENGINES[engine].kind], stacks, repeats=3)
    for run, stack in zip(runs, stacks, strict=True):
        with torch.no_grad():
            expected = network(torch.from_numpy(stack)).numpy()
        assert run.output.shape == expected.shape
        np.testing.assert_allclose(run.output, expected, rtol=0, atol=1e-5 * np.ptp(expected))
        assert len(run.seconds) == 3
        assert all(second > 0 for second in run.seconds)


@pytest.mark.engines
def test_any_memory_layout_and_type_of_numbers_goes_in(tmp_path: Path, libtorch: str) -> None:
    path = save_script(nn.Identity(), tmp_path / "identity.pt")
    array: Any = np.arange(24, dtype=">f8").reshape(1, 1, 6, 4).transpose(0, 1, 3, 2)
    (run,) = run_java(libtorch, path, [array])
    np.testing.assert_array_equal(run.output, array)
    assert run.output.dtype == np.float32


@pytest.mark.engines
def test_whole_numbers_come_out_as_floats(tmp_path: Path, onnxruntime: str) -> None:
    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.INT64)
    path = onnx_file(tmp_path / "whole.onnx", [node], output_type=onnx.TensorProto.INT64)
    (run,) = run_java(onnxruntime, path, [np.full((1, 1, 2, 3), 7.9, np.float32)])
    np.testing.assert_array_equal(run.output, np.full((1, 1, 2, 3), 7, np.float32))


# ------------------------------------------------------------------------------ refusals


class _Upscale(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class _Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x + 1


class _WrongShape(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(7)


@pytest.mark.engines
def test_libtorch_says_why_it_refuses(tmp_path: Path, libtorch: str) -> None:
    none = tmp_path / "none.pt"
    none.write_bytes(b"these are no weights")
    files = {
        none: "not a ZIP archive",
        # Scripted but not frozen, it carries every branch of today's function along.
        save_script(_Upscale(), tmp_path / "up.pt"): "Unknown builtin op: aten::_upsample",
        save_script(_Two(), tmp_path / "two.pt"): "the network has 2 outputs",
        save_script(_WrongShape(), tmp_path / "shape.pt"): "shape '[7]' is invalid for input of",
    }
    for path, words in files.items():
        with pytest.raises(EngineError, match=re.escape(words)) as raised:
            run_java(libtorch, path, images((1, 1, 4, 6)))
        assert "\n" not in str(raised.value)
        assert "frame #" not in str(raised.value)
        assert len(str(raised.value)) <= 600


@pytest.mark.engines
def test_onnxruntime_says_why_it_refuses(tmp_path: Path, onnxruntime: str) -> None:
    none = tmp_path / "none.onnx"
    none.write_bytes(b"these are no weights")
    negate = [onnx.helper.make_node("Neg", ["x"], ["y"])]
    again = [*negate, onnx.helper.make_node("Neg", ["y"], ["z"])]
    add = [onnx.helper.make_node("Add", ["x", "y"], ["z"])]
    as_bool = [onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.BOOL)]
    newer = onnx_file(tmp_path / "newer.onnx", negate, opset=18)
    files = {
        none: "Protobuf parsing failed",
        newer: "official support for domain ai.onnx is till opset 17",
        onnx_file(tmp_path / "ir.onnx", negate, ir_version=9): "max supported IR version: 8",
        onnx_file(tmp_path / "two.onnx", again, outputs=("y", "z")): "the network has 2 outputs",
        onnx_file(
            tmp_path / "both.onnx", add, inputs=("x", "y"), outputs=("z",)
        ): "the network has 2 inputs",
        onnx_file(
            tmp_path / "bool.onnx", as_bool, output_type=onnx.TensorProto.BOOL
        ): "the output holds BOOL",
    }
    for path, words in files.items():
        with pytest.raises(EngineError, match=re.escape(words)) as raised:
            run_java(onnxruntime, path, images((1, 1, 4, 6)))
        assert "std::" not in str(raised.value)


@pytest.mark.engines
def test_newer_engines_take_what_old_ones_refuse(
    tmp_path: Path, require: Callable[[str | None], None]
) -> None:
    """So that the refusals above are the old engine's, not the runner's."""
    engine = prepared(NEWEST["onnxruntime"], require)
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    path = onnx_file(tmp_path / "newer.onnx", [node], opset=18, ir_version=10)
    (image,) = images((1, 1, 4, 6))
    np.testing.assert_array_equal(run_java(engine, path, [image])[0].output, -image)


@pytest.mark.engines
def test_weights_alone_are_loaded(tmp_path: Path, libtorch: str) -> None:
    """DJL would read settings and load libraries that lie beside a file of weights."""
    path = save_script(nn.Identity(), tmp_path / "identity.pt")
    (tmp_path / "serving.properties").write_text("engine=OnnxRuntime\n")
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "broken.so").write_bytes(b"no library")
    (image,) = images((1, 1, 4, 6))
    np.testing.assert_array_equal(run_java(libtorch, path, [image])[0].output, image)


class _Endless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = 0
        while count >= 0:
            count = (count + 1) % 7
        return x + count


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


@pytest.mark.engines
def test_an_engine_without_end_is_ended(tmp_path: Path, libtorch: str) -> None:
    path = save_script(_Endless(), tmp_path / "endless.pt")
    with pytest.raises(EngineError, match=r"libtorch 2\.0\.0 was not done after 3 s"):
        run_java(libtorch, path, images((1, 1, 4, 6)), timeout=3)
    assert children(os.getpid()) == []


@pytest.mark.engines
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the child")
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_the_engine_ends_with_its_caller(tmp_path: Path, libtorch: str, name: str) -> None:
    path = save_script(_Endless(), tmp_path / "endless.pt")
    code = (
        # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; from pathlib import Path; import numpy as np; "
        "from deepcontrast_bmz.check.engines.java import run_java; "
        f"run_java({libtorch!r}, Path(sys.argv[1]), [np.zeros((1, 1, 4, 6), 'f4')])"
    )
    # What a killed caller leaves behind shall lie where it is swept away.
    where = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code, path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=where) as caller:

        def engines() -> list[int]:
            found = children(caller.pid)
            return [p for p in found if b"TorchRunner" in Path(f"/proc/{p}/cmdline").read_bytes()]

        wait_for(lambda: bool(engines()) or caller.poll() is not None)
        (engine,) = engines()
        caller.send_signal(getattr(signal, name))
        try:
            assert caller.wait(60) != 0
        finally:
            caller.kill()
    wait_for(lambda: not is_running(engine))


def is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie that waits for its parent."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not come to pass within a minute")


def test_names_and_files_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Java engines are libtorch-2\.0\.0, .* not 'libtorch'"):
        run_java("libtorch", tmp_path, [])
    with pytest.raises(InputError, match="Java engines are"):
        explain_missing_java("onnxruntime")
    with pytest.raises(InputError, match="weights are a file"):
        run_java("libtorch-2.0.0", tmp_path / "none.pt", [])


# ------------------------------------------------------------ Java, Maven, the cache folder


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path with nothing on it, and an empty cache folder."""
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    for home in ("JAVA_HOME", "MAVEN_HOME", "M2_HOME"):
        monkeypatch.delenv(home, raising=False)
    monkeypatch.setenv("DCBMZ_CACHE", str(tmp_path / "cache"))
    return tools


posix = pytest.mark.skipif(sys.platform == "win32", reason="tools are shell scripts")


def tool(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("cache/java/engines/*"))


@posix
def test_what_is_missing_is_said(bare: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"")
    assert java() is None
    assert explain_missing_java() == "there is no Java: install Java 11 or newer"
    with pytest.raises(EngineMissingError, match="there is no Java"):
        run_java("libtorch-2.0.0", weights, images((1, 1, 4, 4)))
    said = tool(bare, "java", "echo 'openjdk version \"1.8.0_402\"' >&2")
    assert explain_missing_java() == f"{said} is Java 8: install Java 11 or newer"
    room._java_release.cache_clear()  # pyright: ignore[reportPrivateUsage]
    tool(bare, "java", "exit 1")
    assert "does not tell its version" in str(explain_missing_java())
    room._java_release.cache_clear()  # pyright: ignore[reportPrivateUsage]
    tool(bare, "java", "echo 'openjdk version \"17.0.1\" 2021-10-19' >&2")
    assert "there is no Maven" in str(explain_missing_java())
    tool(bare, "mvn", "exit 1")
    assert "install a JDK" in str(explain_missing_java())
    tool(bare, "javac", "exit 1")
    assert explain_missing_java() is None
    assert maven() == bare / "mvn"
    room._java_release.cache_clear()  # pyright: ignore[reportPrivateUsage]


@posix
def test_homes_come_before_the_path(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(bare, "java", "exit 1")
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    wanted = tool(home / "bin", "java", "exit 1")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert java() == wanted


@posix
def test_maven_says_why_it_fails_and_nothing_is_left(bare: Path, tmp_path: Path) -> None:
    tool(bare, "java", "echo 'openjdk version \"17.0.1\"' >&2")
    tool(bare, "javac", "exit 1")
    tool(bare, "mvn", "echo '[ERROR] Could not transfer jar: Unknown host -> [Help 1]'; exit 1")
    room._java_release.cache_clear()  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(
        EngineMissingError,
        match=r"libtorch-2\.0\.0 could not be fetched, Maven says: .* Unknown host$",
    ):
        prepare_java("libtorch-2.0.0")
    assert left_over(tmp_path) == []
    # A jar that is not whole is not taken.
    jar = tmp_path / "half.jar"
    jar.write_bytes(b"PK half of it")
    tool(
        bare, "mvn", f'for a; do case $a in *outputFile=*) printf {jar} > "${{a#*=}}";; esac; done'
    )
    with pytest.raises(EngineMissingError, match=r"half\.jar is no jar, delete it"):
        prepare_java("libtorch-2.0.0")
    assert left_over(tmp_path) == []
    room._java_release.cache_clear()  # pyright: ignore[reportPrivateUsage]


def test_platforms_without_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert re.fullmatch(
        r"libtorch-2\.5\.1 has no libraries for \w+-riscv64, "
        "only for linux-x86_64, osx-aarch64, win-x86_64",
        str(explain_missing_java("libtorch-2.5.1")),
    )


@posix
@pytest.mark.engines
def test_the_second_run_needs_no_maven(
    tmp_path: Path, libtorch: str, onnxruntime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = java()
    assert program is not None
    tools = tmp_path / "bin"
    tools.mkdir()
    tool(tools, "java", f'exec {program.resolve()} "$@"')
    tool(tools, "mvn", f": > {tmp_path / 'asked'}; exit 1")
    monkeypatch.setenv("PATH", str(tools))
    for home in ("JAVA_HOME", "MAVEN_HOME", "M2_HOME"):
        monkeypatch.delenv(home, raising=False)
    assert explain_missing_java(libtorch) is None
    network, files = volume_files(tmp_path)
    (stack,) = images((1, 1, 3, 4, 5))
    with torch.no_grad():
        expected = network(torch.from_numpy(stack)).numpy()
    for engine in (libtorch, onnxruntime):
        (run,) = run_java(engine, files[JAVA_ENGINES[engine].kind], [stack])
        np.testing.assert_allclose(run.output, expected, rtol=0, atol=1e-5 * np.ptp(expected))
    assert not (tmp_path / "asked").exists()


@pytest.mark.engines
@pytest.mark.slow
def test_first_runs_at_the_same_time(
    tmp_path: Path, onnxruntime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them prepares, the others wait and find it; a folder left behind is swept away."""
    monkeypatch.setenv("DCBMZ_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/java/engines/unfinished-abc/classes").mkdir(parents=True)
    code = (
        "import sys; from deepcontrast_bmz.check.engines.java import prepare_java; "
        "print(prepare_java(sys.argv[1]))"
    )

    def prepare(_: int) -> str:
        command = [sys.executable, "-c", code, onnxruntime]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(prepare, range(3)))
    assert len(paths) == 1
    (folder,) = left_over(tmp_path)
    assert folder.startswith(onnxruntime)
    # A jar that has changed since is fetched again, not run.
    stamp = tmp_path / "cache/java/engines" / folder / "ready.json"
    sizes = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({jar: size + 1 for jar, size in sizes.items()}))
    assert prepare_java(onnxruntime) in {path.strip() for path in paths}
    assert json.loads(stamp.read_text()) == sizes


def test_engines_are_the_profiles_of_the_project() -> None:
    """Names and versions are those of the jars that Maven is told to fetch."""
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    tree = ET.parse(room.SOURCES / "pom.xml")
    seen: list[str] = []
    for profile in tree.iterfind(".//m:profile", space):
        name = profile.findtext("m:id", "", space)
        seen.append(name)
        versions = {
            found.findtext("m:artifactId", "", space): found.findtext("m:version", "", space)
            for found in profile.iterfind(".//m:dependency", space)
        }
        engine = JAVA_ENGINES[name]
        if engine.kind == "onnxruntime":
            assert versions == {"onnxruntime": engine.version}
        else:
            assert versions["pytorch-native-cpu"] == engine.version
            assert versions["pytorch-jni"] == f"{engine.version}-{versions['api']}"
            assert versions["pytorch-engine"] == versions["api"]
        left_out = profile.findtext(".//m:left.out", "", space)
        assert not left_out.endswith(f"/{engine.runner}.java")
        assert engine.programs
    assert seen == list(JAVA_ENGINES)
