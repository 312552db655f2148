"""Older and newer engines of Python, each in an environment of its own.

An environment is made on demand in the cache folder and kept: from then on no network is needed.
It holds the packages that are pinned here. A job that is run in it sees, as links, torch with what
torch needs from the environment of this process, since a wheel of torch brings gigabytes; nothing
else of this process is seen from inside. What is run is `environment_job.py`, beside this file.
"""

from __future__ import annotations

__all__ = [
    "ENVIRONMENTS",
    "CoreTest",
    "Environment",
    "Pin",
    "Remark",
    "check_here",
    "check_in_environment",
    "explain_missing_environment",
    "link_torch",
    "prepare_environment",
    "run_in_environment",
]

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deepcontrast_bmz.check.engines import environment_job
from deepcontrast_bmz.check.engines.cache import make_cache_folder
from deepcontrast_bmz.check.engines.engine import EngineError, EngineMissingError, EngineRun
from deepcontrast_bmz.check.engines.process import run_installer, run_job, shorten
from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

JOB = Path(environment_job.__file__)
STAMP = "ready.json"
INSTALL_SECONDS = 1800.0
START_SECONDS = 300.0
LONGEST_MESSAGE = 400


@dataclass(frozen=True)
class Pin:
    """One requirement of an environment."""

    requirement: str
    """As pip reads it."""
    reason: str
    """Why this one."""
    alone: bool = False
    """Whether it is installed without what it asks for: what of that it needs is there."""


@dataclass(frozen=True)
class Environment:
    """An engine of Python at one version."""

    name: str
    """As ``--run`` names it."""
    used_by: str
    """Whose engine it is."""
    pins: tuple[Pin, ...]
    """What is installed."""
    torch: bool
    """Whether jobs see torch."""


def _read_environments() -> dict[str, Environment]:
    path = Path(__file__).with_suffix(".toml")
    described: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        name: Environment(
            name, said["used_by"], tuple(Pin(**pin) for pin in said["pins"]), said["torch"]
        )
        for name, said in described.items()
    }


ENVIRONMENTS = _read_environments()
"""By name."""


def _environment(name: str) -> Environment:
    if name not in ENVIRONMENTS:
        raise InputError(
            f"environments are {', '.join(ENVIRONMENTS)}, not {name!r}: name one of these"
        )
    return ENVIRONMENTS[name]


# ------------------------------------------------------------------------------ torch


def _torch_and_needs() -> dict[str, metadata.Distribution]:
    """Return torch and what it asks for, as far as it is installed here."""
    found: dict[str, metadata.Distribution] = {}

    def follow(name: str) -> None:
        key = re.sub(r"[-_.]+", "-", name).lower()
        # setuptools is for compiling extensions of torch, and would change how pip works there.
        if key in found or key == "setuptools":
            return
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            return
        found[key] = distribution
        for line in distribution.requires or []:
            named = re.match(r"[\w.-]+", line)
            if named is not None and "extra ==" not in line:
                follow(named.group())

    follow("torch")
    return found


def link_torch() -> Path:
    """Return the folder that shows torch and what torch needs, and nothing else of this process.

    It stands beside the environments: they are the same for all processes that have this torch.
    """
    found = _torch_and_needs()
    digest = hashlib.sha256(json.dumps([_torch_stamp(), str(_torch_place())]).encode()).hexdigest()
    folder = make_cache_folder("environments", "torch") / digest[:12]
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder.parent) as temporary:
        fresh = Path(temporary) / "linked"
        fresh.mkdir()
        for distribution in found.values():
            tops = {Path(str(file)).parts[0] for file in distribution.files or []}
            for top in sorted(tops - {"..", "__pycache__"}):
                source = Path(str(distribution.locate_file(top)))
                link = fresh / top
                if source.exists() and not link.is_symlink() and not top.endswith(".pth"):
                    link.symlink_to(source, target_is_directory=source.is_dir())
        # Another process may have been faster.
        with contextlib.suppress(OSError):
            fresh.rename(folder)
    return folder


def _torch_stamp() -> dict[str, str]:
    return {name: distribution.version for name, distribution in _torch_and_needs().items()}


def _torch_place() -> Path:
    return Path(str(metadata.distribution("torch").locate_file("")))


# ----------------------------------------------------------------------------- making


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _stamp(environment: Environment) -> dict[str, Any]:
    """Say what an environment is made of: another stamp, another environment."""
    stamp: dict[str, Any] = {
        "pins": [pin.requirement for pin in environment.pins],
        "python": platform.python_version(),
        "base": sys.base_prefix,
    }
    if environment.torch:
        stamp["torch"] = _torch_stamp()
    return stamp


def _ready(environment: Environment) -> Path | None:
    """Return the python of an environment that is there and made of what it should be."""
    folder = make_cache_folder("environments") / environment.name
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    python = _python(folder)
    return python if stamp == _stamp(environment) and python.exists() else None


def _installer(python: Path) -> list[str] | None:
    """Return the command that installs into an environment, None if there is none."""
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
        return [*pip, "--disable-pip-version-check", "--no-input", "--no-compile", "--quiet"]
    uv = shutil.which("uv")
    return None if uv is None else [uv, "pip", "install", "--python", str(python), "--quiet"]


def explain_missing_environment(name: str) -> str | None:
    """Say why an environment is not there and cannot be made; None if it may be.

    That a download fails shows only when it is tried.
    """
    environment = _environment(name)
    if _ready(environment) is not None:
        return None
    if _installer(Path("python")) is None:
        return "there is neither pip nor uv, which make environments: install pip"
    return None


def _installer_words(said: str) -> str:
    """Return the installer's own sentence out of what it printed."""
    lines = said.strip().splitlines() or ["no reason"]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    return shorten(errors[-1].removeprefix("ERROR:"), LONGEST_MESSAGE)


def _make(environment: Environment, folder: Path) -> None:
    """Make an environment in a folder that does not exist yet."""
    import venv

    try:
        venv.EnvBuilder(symlinks=os.name != "nt", with_pip=False).create(folder)
        python = _python(folder)
        installer = _installer(python)
        if installer is None:
            raise EngineMissingError(str(explain_missing_environment(environment.name)))
        together = [pin.requirement for pin in environment.pins if not pin.alone]
        alone = [["--no-deps", pin.requirement] for pin in environment.pins if pin.alone]
        for wanted in (together, *alone):
            command = [*installer, *wanted]
            failed = f"{environment.name} could not be made"
            run_installer(command, failed, "the installer", INSTALL_SECONDS, _installer_words)
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineMissingError(f"{environment.name} could not be made: {error}") from error
    try:
        started = _run(environment.name, python, {"task": "start"}, [], START_SECONDS)
    except EngineError as error:
        raise EngineMissingError(f"{environment.name} does not start here: {error}") from error
    log.info("%s is made of %s", environment.name, started["versions"])
    (folder / STAMP).write_text(json.dumps(_stamp(environment), indent=1), encoding="utf-8")


def prepare_environment(name: str) -> Path:
    """Make an environment, unless it is there already, and return its python.

    It appears whole or not at all; processes that want the same one at the same time wait.

    Raises
    ------
    EngineMissingError
        If it cannot be made: no network, no installer, no wheel for this Python.
    """
    from filelock import FileLock

    environment = _environment(name)
    ready = _ready(environment)
    if ready is not None:
        return ready
    parent = make_cache_folder("environments")
    with FileLock(parent / f"{name}.lock"):
        ready = _ready(environment)
        if ready is not None:
            return ready
        log.info("making the environment %s, up to 150 MB; this happens once", name)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=parent) as temporary:
            fresh = Path(temporary) / name
            _make(environment, fresh)
            if (parent / name).exists():
                (parent / name).rename(Path(temporary) / "old")
            fresh.rename(parent / name)
        ready = _ready(environment)
    if ready is None:
        raise EngineMissingError(f"{name} was made, but is gone again")
    return ready


# ---------------------------------------------------------------------------- running


def _variables() -> dict[str, str]:
    """Return the variables of this process without those that would change an engine."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "BIOIMAGEIO_"))}
    kept["BIOIMAGEIO_PERFORM_IO_CHECKS"] = "false"
    return kept


def _run(
    name: str,
    python: Path,
    job: dict[str, Any],
    inputs: Sequence[NDArray[np.float32]],
    timeout: float,
) -> dict[str, Any]:
    """Run one job in an environment; return its answer, arrays under ``outputs``."""
    with tempfile.TemporaryDirectory(prefix="dcbmz-env-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        for index, array in enumerate(inputs):
            np.save(folder / f"input_{index}.npy", np.asarray(array, np.float32))
        shown = [str(link_torch())] if _environment(name).torch else []
        request = {**job, "inputs": len(inputs), "path": shown}
        (folder / "job.json").write_text(json.dumps(request), encoding="utf-8")
        # Isolated: neither this folder nor the user's packages are seen.
        command = [str(python), "-I", str(JOB), str(folder)]
        code, last = run_job(command, folder, _variables(), name, timeout)
        try:
            answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            words = " ".join(last.split())[-LONGEST_MESSAGE:]
            raise EngineError(f"{name} ended with code {code}: {words}") from None
        if "error" in answer:
            raise EngineError(shorten(answer["error"], LONGEST_MESSAGE))
        answer["outputs"] = [
            np.load(folder / f"output_{index}.npy", allow_pickle=False)
            for index in range(int(answer.get("outputs", 0)))
        ]
        return answer


def run_in_environment(
    name: str,
    source: Path,
    inputs: Sequence[NDArray[np.float32]],
    *,
    weights_format: str = "onnx",
    repeats: int = 1,
    timeout: float = 1800.0,
) -> list[EngineRun]:
    """Run a model on arrays in an environment, each `repeats` times, and return one run for each.

    `source` is for ``core-...`` the description, whose pre- and postprocessing are run too, on
    whole arrays with all axes of the input tensor; for ``onnxruntime-...`` the ONNX file. State
    dicts run Python code of the package: the caller decides.

    Raises
    ------
    EngineMissingError
        If the environment cannot be made.
    EngineError
        If the engine refuses, crashes or takes longer than `timeout` seconds; in its own words.
    """
    python = prepare_environment(name)
    job = {
        "task": "onnx" if name.startswith("onnxruntime") else "predict",
        "source": str(source.resolve()),
        "weights_format": weights_format,
        "repeats": repeats,
    }
    answer = _run(name, python, job, inputs, timeout)
    return [
        EngineRun(output, tuple(seconds))
        for output, seconds in zip(answer["outputs"], answer["seconds"], strict=True)
    ]


@dataclass(frozen=True)
class Remark:
    """What a core's own test says of one weights format."""

    where: str
    """The core's name for the step."""
    words: str
    """Its own."""
    error: bool
    """Whether the test fails for it; else it is a warning."""
    crash: bool
    """Whether the engine stopped, as against wrong values."""


class CoreTest(NamedTuple):
    """A core's own test of one weights format."""

    status: str
    """The core's word; ``stopped`` where it did not come to an end."""
    remarks: tuple[Remark, ...]


def check_in_environment(
    name: str, description: Path, formats: Sequence[str], *, timeout: float = 1800.0
) -> dict[str, CoreTest]:
    """Run the test of an older or newer core on weights formats of a description.

    Nothing in the description may have to be looked up on the internet. Errors are those of
    `run_in_environment`.
    """
    python = prepare_environment(name)
    job = {"task": "test", "source": str(description.resolve()), "formats": list(formats)}
    answer = _run(name, python, job, [], timeout)
    return {name: _read_test(tested) for name, tested in answer["tests"].items()}


def _read_test(tested: dict[str, Any]) -> CoreTest:
    remarks = tuple(
        Remark(r["where"], shorten(r["words"], LONGEST_MESSAGE), r["error"], r["crash"])
        for r in tested["remarks"]
    )
    return CoreTest(str(tested["status"]), remarks)


def check_here(description: Path, weights_format: str, **options: Any) -> CoreTest:
    """Run the test of the core of this process; options are those of its `test_description`."""
    devices = ["cpu"] if weights_format != "onnx" else ["CPUExecutionProvider"]
    with quiet():
        tested = environment_job.run_test(str(description), weights_format, devices, **options)
    return _read_test(tested)
