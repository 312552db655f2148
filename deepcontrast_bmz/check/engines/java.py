"""The engines of Fiji, Icy and QuPath: libtorch and onnxruntime for Java, run as they run them.

The first run of an engine lets Maven fetch its jars into Maven's own repository and compile the
runner of the folder ``java`` beside this file; classes, class path and unpacked libraries are kept
in the cache folder. From then on neither Maven nor a network is needed. Every run has a Java
process of its own, since two versions of libtorch cannot share one.
"""

from __future__ import annotations

__all__ = [
    "JAVA_ENGINES",
    "JavaEngine",
    "explain_missing_java",
    "java",
    "maven",
    "prepare_java",
    "run_java",
]

import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from deepcontrast_bmz.check.engines.cache import make_cache_folder
from deepcontrast_bmz.check.engines.engine import EngineError, EngineMissingError, EngineRun
from deepcontrast_bmz.check.engines.process import run_installer, run_job, shorten
from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "java"
OLDEST_JAVA = 11
REFUSED = 3
"""Exit code of the runner when the engine refused, its sentence left in a file."""
LONGEST_MESSAGE = 600
MAVEN_SECONDS = 3600.0
"""Half a gigabyte over a slow line."""


@dataclass(frozen=True)
class JavaEngine:
    """An engine that programs written in Java load."""

    kind: Literal["libtorch", "onnxruntime"]
    version: str
    programs: tuple[str, ...]
    """Who runs it."""
    runner: str
    """Class of the runner."""
    platforms: tuple[str, ...]
    """Where there are native libraries, named by operating system and processor."""


_TORCH_PLATFORMS = ("linux-x86_64", "osx-aarch64", "win-x86_64")

JAVA_ENGINES: dict[str, JavaEngine] = {
    "libtorch-2.0.0": JavaEngine(
        "libtorch",
        "2.0.0",
        ("Fiji (deepImageJ) and Icy, through JDLL 0.6",),
        "TorchRunner",
        (*_TORCH_PLATFORMS, "osx-x86_64"),
    ),
    "libtorch-2.5.1": JavaEngine(
        "libtorch", "2.5.1", ("QuPath 0.6",), "TorchRunner", _TORCH_PLATFORMS
    ),
    "libtorch-2.7.1": JavaEngine(
        "libtorch", "2.7.1", ("QuPath 0.7",), "TorchRunner", (*_TORCH_PLATFORMS, "linux-aarch64")
    ),
    "onnxruntime-java-1.12.1": JavaEngine(
        "onnxruntime",
        "1.12.1",
        ("Fiji (deepImageJ) and Icy, through JDLL 0.6, for opset 17",),
        "OnnxRunner",
        ("linux-x86_64", "linux-aarch64", "osx-x86_64", "osx-aarch64", "win-x86_64"),
    ),
    "onnxruntime-java-1.29.0": JavaEngine(
        "onnxruntime",
        "1.29.0",
        ("programs to come: the newest release",),
        "OnnxRunner",
        ("linux-x86_64", "linux-aarch64", "osx-aarch64", "win-x86_64"),
    ),
}
"""By the names of the profiles in pom.xml; versions as read in the programs' sources."""


def _engine(name: str) -> JavaEngine:
    if name not in JAVA_ENGINES:
        raise InputError(
            f"Java engines are {', '.join(JAVA_ENGINES)}, not {name!r}: name one of these"
        )
    return JAVA_ENGINES[name]


# -------------------------------------------------------------------- what is installed


def _tool(name: str, *homes: str) -> Path | None:
    """Find a program in the folder that a variable names, else on the path."""
    folders = [Path(os.environ[home]) / "bin" for home in homes if os.environ.get(home)]
    for folder in [*map(str, folders), None]:
        found = shutil.which(name, path=folder)
        if found:
            return Path(found)
    return None


def java() -> Path | None:
    """Return the program `java` of JAVA_HOME or of the path, None if there is none."""
    return _tool("java", "JAVA_HOME")


def maven() -> Path | None:
    """Return the program `mvn` of MAVEN_HOME or of the path, None if there is none."""
    return _tool("mvn", "MAVEN_HOME", "M2_HOME")


@cache
def _java_release(program: Path) -> int | None:
    """Ask a Java for its release, 8, 11, 17, ...; None if it does not say."""
    try:
        done = subprocess.run(
            [program, "-version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found[1]) if found else None


def _classifier() -> str:
    """Name this platform as Maven artifacts with native libraries do."""
    system = {"linux": "linux", "darwin": "osx", "win32": "win"}.get(sys.platform, sys.platform)
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    return f"{system}-{machine}"


def explain_missing_java(engine: str | None = None) -> str | None:
    """Say why Java engines cannot run here; None if they can.

    An engine that is prepared needs no Maven; without a name, what every engine needs is asked for.
    """
    if engine is not None:
        record = _engine(engine)
        if _classifier() not in record.platforms:
            return (
                f"{engine} has no libraries for {_classifier()}, only for "
                f"{', '.join(record.platforms)}"
            )
    program = java()
    if program is None:
        return f"there is no Java: install Java {OLDEST_JAVA} or newer"
    release = _java_release(program)
    if release is None:
        return f"{program} does not tell its version: install Java {OLDEST_JAVA} or newer"
    if release < OLDEST_JAVA:
        return f"{program} is Java {release}: install Java {OLDEST_JAVA} or newer"
    if engine is not None and _prepared(engine) is not None:
        return None
    if maven() is None:
        return "there is no Maven, which fetches the engines: install Maven 3.6 or newer"
    if _tool("javac", "JAVA_HOME") is None:
        return "there is no Java compiler: install a JDK, not only the runtime"
    return None


# --------------------------------------------------------------- fetching and compiling


def _folder(engine: str) -> Path:
    """Name the folder of one engine, sources and platform: other sources, other folder."""
    digest = hashlib.sha256()
    for path in (SOURCES / "pom.xml", *sorted((SOURCES / "src").glob("*.java"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    name = f"{engine}-{_classifier()}-{digest.hexdigest()[:12]}"
    return make_cache_folder("java", "engines") / name


def _unpacked() -> Path:
    """Return where DJL unpacks libtorch, under folders that it names by version."""
    return make_cache_folder("java", "djl")


def _is_unpacked(record: JavaEngine) -> bool:
    return record.kind != "libtorch" or any(
        _unpacked().glob(f"pytorch/{record.version}-*/*djl_torch*")
    )


def _prepared(engine: str) -> str | None:
    """Return the class path if the engine is prepared and all of its files are still there."""
    folder = _folder(engine)
    stamp = folder / "ready.json"
    try:
        jars: dict[str, int] = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for jar, size in jars.items():
        path = Path(jar)
        if not path.is_file() or path.stat().st_size != size:
            log.info("%s has changed or is gone: fetching the engine again", path.name)
            return None
    if not _is_unpacked(_engine(engine)):
        return None
    return os.pathsep.join([str(folder / "classes"), *jars])


def _maven_words(said: str) -> str:
    """Return Maven's own sentence out of what it printed."""
    lines = [line.removeprefix("[ERROR]").strip() for line in said.splitlines()]
    lines = [line for line in lines if line and not line.startswith("->")]
    first = lines[0] if lines else "it gave no reason"
    first = re.sub(r"\s*-> \[Help \d+\].*$", "", first)
    return first[:LONGEST_MESSAGE]


def _run_maven(engine: str, work: Path) -> list[Path]:
    """Compile the runner into `work`/classes; return the jars of the class path."""
    program = maven()
    if program is None:
        raise EngineMissingError(str(explain_missing_java(engine)))
    listed = work / "classpath.txt"
    command = [
        str(program),
        "--batch-mode",
        "--quiet",
        "--strict-checksums",
        f"--file={SOURCES / 'pom.xml'}",
        f"--activate-profiles={engine}",
        f"-Dbuild.folder={work}",
        f"-Dnative.classifier={_classifier()}",
        "compiler:compile",
        "dependency:build-classpath",
        f"-Dmdep.outputFile={listed}",
    ]
    log.info("fetching %s with Maven, up to 150 MB; this happens once", engine)
    failed = f"{engine} could not be fetched"
    run_installer(command, failed, "Maven", MAVEN_SECONDS, _maven_words)
    return [Path(jar) for jar in listed.read_text(encoding="utf-8").strip().split(os.pathsep)]


def prepare_java(engine: str) -> str:
    """Return the class path of an engine; fetch, compile and start it once if that was never done.

    Raises
    ------
    EngineMissingError
        If Java, Maven, the network or the libraries of this platform are missing.
    """
    record = _engine(engine)
    missing = explain_missing_java(engine)
    if missing is not None:
        raise EngineMissingError(missing)
    ready = _prepared(engine)
    if ready is not None:
        return ready
    # Processes that come at the same time wait: Maven's repository and DJL's are shared.
    from filelock import FileLock

    with FileLock(make_cache_folder("java") / "preparing.lock"):
        ready = _prepared(engine)
        if ready is not None:
            return ready
        folder = _folder(engine)
        for left in folder.parent.glob("unfinished-*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder.parent) as name:
            work = Path(name)
            jars = _run_maven(engine, work)
            for jar in jars:
                if not zipfile.is_zipfile(jar):
                    raise EngineMissingError(
                        f"{engine} is not whole: {jar} is no jar, delete it and try again"
                    )
            # Unpacks the native libraries and shows that they load on this machine.
            class_path = os.pathsep.join(map(str, [work / "classes", *jars]))
            try:
                _run(record, class_path, None, [], 0, 600.0)
            except EngineError as error:
                raise EngineMissingError(f"{engine} does not start here: {error}") from error
            stamp = {str(jar): jar.stat().st_size for jar in jars}
            (work / "ready.json").write_text(json.dumps(stamp, indent=1), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            work.rename(folder)
            work.mkdir()
        ready = _prepared(engine)
    if ready is None:
        raise EngineMissingError(f"{engine} was fetched, but its files are gone again")
    return ready


# ------------------------------------------------------------------------------ running


def _threads() -> int:
    """Return the threads of an engine: those that OMP_NUM_THREADS names, else all, at most 8."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdigit() and int(named) > 0 else min(os.cpu_count() or 1, 8)


def _environment() -> dict[str, str]:
    """Return the variables of this process without those that would change an engine."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DJL_", "PYTORCH_"))}
    kept["DJL_CACHE_DIR"] = kept["ENGINE_CACHE_DIR"] = str(_unpacked())
    kept["DJL_OFFLINE"] = kept["OPT_OUT_TRACKING"] = "true"
    kept["OMP_NUM_THREADS"] = str(_threads())
    return kept


_STACK = re.compile(r"\n?Exception raised from .*|\s*:?\s*File \"code/.*", re.DOTALL)
_RAISED = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception): ", re.MULTILINE)
_PLACE = re.compile(r"/\S+\.(?:h|cc):\d+ [^(]*\(")


def _without_place(words: str) -> str:
    """Cut out the file, the line and the C++ function in which onnxruntime gave up."""
    found = _PLACE.search(words)
    if found is None:
        return words
    end, depth = found.end(), 1
    while depth and end < len(words):
        depth += {"(": 1, ")": -1}.get(words[end], 0)
        end += 1
    return f"{words[: found.start()]} {words[end:].removeprefix(' const')}"


def _engine_words(text: str) -> str:
    """Return an engine's message in one line, without traces of its own code."""
    raised = list(_RAISED.finditer(text))
    if raised and "Traceback of TorchScript" in text:
        # Last of all comes what went wrong.
        text = text[raised[-1].start() :]
    return shorten(_without_place(_STACK.sub("", text)), LONGEST_MESSAGE)


def _run(
    record: JavaEngine,
    class_path: str,
    weights: Path | None,
    inputs: Sequence[NDArray[np.float32]],
    repeats: int,
    timeout: float,
) -> list[EngineRun]:
    """Start the runner on arrays in a temporary folder and read back what it wrote."""
    program = java()
    if program is None:
        raise EngineMissingError(str(explain_missing_java()))
    with tempfile.TemporaryDirectory(prefix="dcbmz-java-", ignore_cleanup_errors=True) as name:
        job = Path(name)
        loaded = weights
        if weights is not None and record.kind == "libtorch":
            # DJL reads settings and libraries that lie beside the weights: none shall.
            loaded = job / "weights" / "model.pt"
            loaded.parent.mkdir()
            shutil.copyfile(weights, loaded)
        for index, array in enumerate(inputs):
            np.save(job / f"input_{index}.npy", array, allow_pickle=False)
        largest = max((array.nbytes for array in inputs), default=0)
        command = [
            str(program),
            # Room for several copies of a result with more channels than the input.
            f"-Xmx{512 + 64 * largest // 2**20}m",
            "-XX:+UseSerialGC",
            "-Djava.awt.headless=true",
            f"-Dai.djl.pytorch.num_threads={_threads()}",
            "-cp",
            class_path,
            record.runner,
            str(loaded),
            str(job),
            str(len(inputs)),
            str(repeats),
            str(_threads()),
        ]
        who = f"{record.kind} {record.version}"
        code, last = run_job(command, job, _environment(), who, timeout)
        if code == REFUSED:
            words = (job / "error.txt").read_text(encoding="utf-8")
            raise EngineError(_engine_words(words))
        if code != 0:
            words = _engine_words(last)
            raise EngineError(f"the Java process ended with code {code}: {words}")
        return [
            EngineRun(
                np.load(job / f"output_{index}.npy", allow_pickle=False),
                *(
                    tuple(map(float, (job / f"{kind}_{index}.txt").read_text().split()))
                    for kind in ("seconds", "processor")
                ),
            )
            for index in range(len(inputs))
        ]


def run_java(
    engine: str,
    weights: Path,
    inputs: Sequence[NDArray[np.float32]],
    *,
    repeats: int = 1,
    timeout: float = 900.0,
) -> list[EngineRun]:
    """Run weights in an engine of Java programs, in a process of its own; one run for each input.

    TorchScript for libtorch, ONNX for onnxruntime, of one input and one output tensor; inputs are
    of any rank, in the order of axes of the weights, and each is run `repeats` times.

    Raises
    ------
    EngineMissingError
        If the engine is not here and cannot be fetched.
    EngineError
        If the engine refuses the weights or an input, or needs more than `timeout` seconds.
    InputError
        If there is no such engine or no file of weights.
    """
    record = _engine(engine)
    if not weights.is_file():
        raise InputError(f"weights are a file, and {weights} is none: give the file's path")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    class_path = prepare_java(engine)
    # Single values in C order: what .npy files of the runner hold.
    arrays = [np.ascontiguousarray(array, "<f4") for array in inputs]
    return _run(record, class_path, weights.absolute(), arrays, repeats, timeout)
