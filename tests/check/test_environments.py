from __future__ import annotations

import json
import shutil
import subprocess
import threading
import warnings
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from deepcontrast_bmz.check.check import PROGRAMS, check_package
from deepcontrast_bmz.check.engines import environments
from deepcontrast_bmz.check.engines.cache import make_cache_folder
from deepcontrast_bmz.check.engines.engine import EngineError, EngineMissingError
from deepcontrast_bmz.check.engines.environments import (
    ENVIRONMENTS,
    Environment,
    Pin,
    explain_missing_environment,
    link_torch,
    prepare_environment,
    run_in_environment,
)
from deepcontrast_bmz.check.engines.java import explain_missing_java
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.onnx import serialize_onnx

from .spoilt_packages import (
    Brighter,
    Copy,
    draw_loop,
    opset_18,
    save_descriptions,
    save_script,
    script,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Require = Callable[[str | None], None]

CORES = [name for name in ENVIRONMENTS if name.startswith("core-")]


def prepared(name: str, require: Require) -> Path:
    """Make an environment; what is missing is skipped, or a failure where it may not be."""
    require(explain_missing_environment(name))
    try:
        return prepare_environment(name)
    except EngineMissingError as error:
        require(str(error))
        raise


def inside(python: Path, code: str) -> str:
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


# ---- what needs no engine


def test_every_pin_has_a_reason() -> None:
    for name, environment in ENVIRONMENTS.items():
        assert environment.name == name
        assert environment.used_by
        assert all(pin.reason for pin in environment.pins)


def test_unknown_environment_is_refused() -> None:
    with pytest.raises(InputError, match=r"not 'core-0\.1'"):
        explain_missing_environment("core-0.1")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("DCBMZ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "environments"


def bare(monkeypatch: pytest.MonkeyPatch, *pins: Pin, torch: bool = False) -> None:
    """Let `bare` be an environment of these pins."""
    environment = Environment("bare", "nobody", pins, torch=torch)
    monkeypatch.setitem(ENVIRONMENTS, "bare", environment)


def no_installer(_: Path) -> None:
    return None


def test_environment_that_cannot_be_made_leaves_nothing_and_says_why(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare(monkeypatch, Pin("./no-such-folder-anywhere", "to fail without a network"))
    with pytest.raises(EngineMissingError, match="bare could not be made, the installer says"):
        prepare_environment("bare")
    assert [p.name for p in own_cache.iterdir() if not p.name.endswith(".lock")] == []
    monkeypatch.setattr(environments, "_installer", no_installer)
    assert explain_missing_environment("bare") == (
        "there is neither pip nor uv, which make environments: install pip"
    )


def made_of(folder: Path) -> list[str]:
    return json.loads((folder / "ready.json").read_text())["pins"]


def do_nothing(*_: object) -> None:
    return


def test_environment_is_made_once_and_anew_when_a_pin_changes(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "run_installer", do_nothing)
    bare(monkeypatch, Pin("a==1", "first"))
    python = prepare_environment("bare")
    assert inside(python, "import sys; print(sys.prefix)") == str(own_cache / "bare")
    (own_cache / "bare" / "mark").touch()
    assert prepare_environment("bare") == python
    assert (own_cache / "bare" / "mark").exists()
    bare(monkeypatch, Pin("a==2", "second"))
    assert prepare_environment("bare") == python
    assert not (own_cache / "bare" / "mark").exists()
    assert made_of(own_cache / "bare") == ["a==2"]
    assert not [p for p in own_cache.iterdir() if p.name.startswith("unfinished")]


def test_the_same_torch_elsewhere_makes_no_environment_anew(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "run_installer", do_nothing)
    bare(monkeypatch, Pin("a==1", "first"), torch=True)
    python = prepare_environment("bare")
    here = link_torch()
    code = f"import sys, importlib.metadata as m; sys.path.append({str(here)!r})"
    assert inside(python, f"{code}; print(m.version('torch'))") == metadata.version("torch")
    (own_cache / "bare" / "mark").touch()
    monkeypatch.setattr(environments, "_torch_place", lambda: tmp_path)
    assert link_torch() != here
    assert prepare_environment("bare") == python
    assert (own_cache / "bare" / "mark").exists()


def test_makers_at_the_same_time_make_it_once(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installs: list[str] = []

    def count(_: list[str], failed: str, *_more: object) -> None:
        installs.append(failed)

    monkeypatch.setattr(environments, "run_installer", count)
    bare(monkeypatch, Pin("a==1", "all at once"))
    threads = [threading.Thread(target=prepare_environment, args=("bare",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert installs == ["bare could not be made"]
    assert (own_cache / "bare" / "ready.json").is_file()


@pytest.mark.usefixtures("own_cache")
def test_job_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "run_installer", do_nothing)
    bare(monkeypatch)
    prepare_environment("bare")
    slow = tmp_path / "slow.py"
    slow.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(environments, "JOB", slow)
    with pytest.raises(EngineError, match=r"bare was not done after 0\.5 s"):
        run_in_environment("bare", tmp_path, [], timeout=0.5)


@pytest.mark.usefixtures("own_cache")
def test_job_that_dies_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "run_installer", do_nothing)
    bare(monkeypatch)
    prepare_environment("bare")
    dying = tmp_path / "dying.py"
    dying.write_text(
        "import os, sys\nsys.stderr.write('out of luck')\nsys.stderr.flush()\nos._exit(9)\n"
    )
    monkeypatch.setattr(environments, "JOB", dying)
    with pytest.raises(EngineError, match="bare ended with code 9: out of luck"):
        run_in_environment("bare", tmp_path, [])


@pytest.mark.usefixtures("own_cache")
def test_job_refuses_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "run_installer", do_nothing)
    bare(monkeypatch)
    python = prepare_environment("bare")
    code = (
        f"import sys; sys.path.insert(0, {str(environments.JOB.parent)!r})\n"
        "import environment_job as job, socket\n"
        "sys.addaudithook(job._stay_offline)\n"
        "for attempt in (lambda: socket.create_connection(('127.0.0.1', 9), 1),\n"
        "                lambda: socket.getaddrinfo('example.org', 80)):\n"
        "    try:\n        attempt()\n"
        "    except OSError as error:\n        print(error)\n"
    )
    lines = inside(python, code).splitlines()
    assert len(lines) == 2
    assert all(line.endswith("refused: engines are run offline") for line in lines)
    assert tmp_path.is_dir()


# ---- real engines


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize("name", CORES)
def test_core_sees_the_torch_that_is_installed_and_nothing_else(
    name: str, require: Require
) -> None:
    # That both can be imported there was tried when the environment was made.
    python = prepared(name, require)
    code = (
        f"import sys; sys.path.append({str(link_torch())!r});"
        "import json, importlib.metadata as m, importlib.util as u;"
        "print(json.dumps([m.version('torch'), m.version('bioimageio.core'),"
        "[n for n in ('lightning', 'deepcontrast_bmz', 'zarr') if u.find_spec(n)]]))"
    )
    versions = json.loads(inside(python, code))
    assert versions == [metadata.version("torch"), name.removeprefix("core-"), []]


@pytest.mark.engines
@pytest.mark.parametrize("name", ["onnxruntime-1.15", "onnxruntime-newest"])
def test_onnxruntime_gives_the_values_of_this_process(
    name: str, good: Path, require: Require
) -> None:
    prepared(name, require)
    raw = np.load(good / "test_input.npy")
    odd = raw[:, :, :57, :63]
    first, second = run_in_environment(name, good / "weights.onnx", [raw, odd], repeats=2)
    expected = np.load(good / "test_output.npy")
    assert np.allclose(first.output, expected, rtol=1e-5, atol=1e-6 * np.ptp(expected))
    assert second.output.shape == (1, 4, 57, 63)
    assert len(first.seconds) == len(second.seconds) == 2


def environments_of(program: str) -> list[str]:
    (found,) = [p for p in PROGRAMS if p.name == program]
    return [engine.name for engine in found.engines if engine.where == "environment"]


@pytest.mark.slow
@pytest.mark.engines
def test_real_python_engines_pass_a_good_package_offline(
    good: Path, require: Require, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ENVIRONMENTS:
        prepared(name, require)
    # From here on nothing may be fetched.
    monkeypatch.setattr(environments, "_installer", no_installer)
    report = check_package(good, run=list(ENVIRONMENTS))
    assert report.passed, report.to_text()
    for program in ("core", "bioengine", "ilastik"):
        row = report.row(program)
        for column in ("runs", "right_values", "any_size"):
            verdict = row.verdict(column)
            assert verdict.state == "passed", (program, column, verdict.reasons)
            ran = {n for n in ENVIRONMENTS for r in verdict.reasons if r.startswith(n)}
            assert ran == set(environments_of(program)), (program, column)
    assert report.row("ilastik").seams.state == "passed"
    assert all(f.source == "measured" for row in report.rows for f in row.findings)


@pytest.mark.slow
@pytest.mark.engines
def test_state_dict_runs_in_an_old_core_only_when_its_code_may(
    spoilt: Copy, require: Require
) -> None:
    prepared("core-0.9.6", require)
    for name in ("torchscript", "onnx"):
        del spoilt.rdf["weights"][name]
    save_descriptions(spoilt.folder, spoilt.rdf)
    core = check_package(spoilt.folder, run=["core-0.9.6"]).row("core")
    assert core.runs.state == core.right_values.state == "skipped"
    core = check_package(spoilt.folder, run=["core-0.9.6"], run_code=True).row("core")
    assert core.runs.state == core.right_values.state == "passed"


@pytest.mark.engines
def test_documentation_as_a_map_is_refused_by_the_old_cores_themselves(
    spoilt: Copy, require: Require
) -> None:
    prepared("core-0.10.2", require)
    spoilt.rdf["documentation"] = {"source": "README.md"}
    ilastik = spoilt.check("core-0.10.2").row("ilastik")
    assert any(reason.startswith("core-0.10.2 (torchscript)") for reason in ilastik.opens.reasons)


@pytest.mark.slow
@pytest.mark.engines
def test_fused_nodes_without_names_are_refused_by_bioengines_onnxruntime(
    spoilt: Copy, require: Require, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared("core-0.10.4", require)
    path = spoilt.weights("onnx")

    # The network as it stands, whose sorts are fused; our own form has nothing to fuse twice.
    def refuse(_network: nn.Module) -> bool:
        return False

    monkeypatch.setattr("deepcontrast_bmz.export.onnx.is_plainly_dilated", refuse)
    model = onnx.load_from_string(serialize_onnx(draw_loop(torch.Generator().manual_seed(1))))
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, path)
    spoilt.rehash(spoilt.rdf["weights"]["onnx"])
    report = spoilt.check("core-0.10.4")
    bioengine = report.row("bioengine")
    assert bioengine.runs.state == "failed"
    assert any("core-0.10.4 (onnx)" in reason for reason in bioengine.runs.reasons)
    assert "bioengine.onnx-node-names" in {f.rule for f in bioengine.findings}


@pytest.mark.engines
def test_five_percent_more_is_seen_by_the_libtorch_of_fiji(spoilt: Copy, require: Require) -> None:
    require(explain_missing_java())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner = torch.jit.load(str(spoilt.weights("torchscript")))
        brighter = torch.jit.freeze(script(Brighter(inner)))
    save_script(spoilt, brighter)
    fiji = spoilt.check("libtorch-2.0.0").row("fiji")
    assert fiji.runs.state == "passed"
    assert fiji.right_values.state == "failed"
    assert fiji.right_values.reasons[0].startswith("libtorch-2.0.0 (torchscript)")


@pytest.mark.engines
def test_opset_18_is_refused_by_the_onnxruntime_of_fiji(spoilt: Copy, require: Require) -> None:
    require(explain_missing_java())
    opset_18(spoilt)
    fiji = spoilt.check("onnxruntime-java-1.12.1").row("fiji")
    assert "fiji.onnx-version" in {finding.rule for finding in fiji.findings}
    assert any(r.startswith("onnxruntime-java-1.12.1") for r in fiji.runs.reasons)


@pytest.mark.slow
@pytest.mark.engines
def test_real_java_engines_pass_a_good_package(good: Path, require: Require) -> None:
    require(explain_missing_java())
    names = ["libtorch-2.0.0", "onnxruntime-java-1.12.1", "libtorch-2.5.1"]
    report = check_package(good, run=names)
    assert report.passed, report.to_text()
    for program in ("fiji", "qupath"):
        row = report.row(program)
        assert row.passed, report.to_text()
        assert row.findings == ()


def test_cache_folder_is_where_it_is_named(tmp_path: Path, own_cache: Path) -> None:
    assert make_cache_folder("a", "b") == own_cache.parent / "a" / "b"
    assert (own_cache.parent / "a" / "b").is_dir()
    shutil.rmtree(own_cache.parent)
    own_cache.parent.write_text("in the way")
    with pytest.raises(InputError, match="DCBMZ_CACHE"):
        make_cache_folder("a")
    assert tmp_path.is_dir()
