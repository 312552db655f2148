"""Runs inside an environment: one job, described by a file, answered by a file.

It knows the standard library, numpy and the engine of its environment, and nothing of this
package: it is started as a file by the environment's own python.
"""

from __future__ import annotations

__all__ = ["list_remarks", "main", "run_test"]

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

WARNING = 30
"""Severity of bioimageio.spec from which a remark is a warning."""


def _stay_offline(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse connections: what waits for an answer would otherwise hang where there is none."""
    if event == "socket.getaddrinfo":
        raise OSError(f"a look-up of {arguments[0]} was refused: engines are run offline")
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        raise OSError(f"a connection to {arguments[1]} was refused: engines are run offline")


def _versions() -> dict[str, str]:
    from importlib import metadata

    names = ("bioimageio.core", "bioimageio.spec", "onnxruntime", "torch", "numpy", "pydantic")
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _start() -> dict[str, Any]:
    """Import what the environment is for."""
    versions = _versions()
    if "onnxruntime" in versions:
        import onnxruntime

        onnxruntime.get_available_providers()
    if "bioimageio.core" in versions:
        import importlib

        import torch

        importlib.import_module("bioimageio.core")
        torch.from_numpy(torch.zeros(2).numpy())
    return {"versions": versions}


def _threads() -> int:
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdigit() else 0


def _run_all(
    folder: Path, job: dict[str, Any], process: Callable[[Any], Any], answer: dict[str, Any]
) -> None:
    import numpy as np

    answer["seconds"] = []
    for index in range(job["inputs"]):
        x = np.load(folder / f"input_{index}.npy", allow_pickle=False)
        seconds: list[float] = []
        out = None
        for _ in range(max(job["repeats"], 1)):
            begin = time.perf_counter()
            done = process(x)
            seconds.append(time.perf_counter() - begin)
            out = done if out is None else out
        np.save(folder / f"output_{index}.npy", np.ascontiguousarray(out, dtype=np.float32))
        answer["seconds"].append(seconds)
    answer["outputs"] = job["inputs"]


def _onnx(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    session: Any = onnxruntime.InferenceSession(
        job["source"], options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    answer: dict[str, Any] = {"versions": _versions()}

    def process(x: Any) -> Any:
        return session.run(None, {name: x})[0]

    _run_all(folder, job, process, answer)
    return answer


def _devices(weights_format: str) -> list[str] | None:
    return None if weights_format == "onnx" else ["cpu"]


def _predict(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    from bioimageio.core import create_prediction_pipeline, load_description
    from bioimageio.core.digest_spec import create_sample_for_model, get_member_id

    description: Any = load_description(job["source"], perform_io_checks=False)
    invalid = getattr(description, "validation_summary", None)
    if type(description).__name__ == "InvalidDescr":
        errors = [e.msg for d in invalid.details for e in d.errors] if invalid else []
        raise ValueError(f"the description is invalid: {'; '.join(map(str, errors[:3]))}")
    pipeline = create_prediction_pipeline(
        description,
        weight_format=job["weights_format"],
        devices=_devices(job["weights_format"]),
    )
    entry = get_member_id(description.inputs[0])
    exit_ = get_member_id(description.outputs[0])

    def process(x: Any) -> Any:
        sample = create_sample_for_model(description, inputs={entry: x})
        return pipeline.predict_sample_without_blocking(sample).members[exit_].data.values

    answer: dict[str, Any] = {"versions": _versions()}
    with pipeline:
        _run_all(folder, job, process, answer)
    return answer


def list_remarks(details: Any) -> list[dict[str, Any]]:
    """Return the errors of a summary's details, and their remarks that are worth a warning."""
    found: list[dict[str, Any]] = []
    for detail in details:
        entries = [(e, True) for e in detail.errors]
        entries += [(w, False) for w in detail.warnings if w.severity >= WARNING]
        for entry, is_error in entries:
            place = ".".join(map(str, entry.loc))
            found.append(
                {
                    "where": detail.name,
                    "words": f"{place}: {entry.msg}" if place else str(entry.msg),
                    "error": is_error,
                    "crash": bool(is_error and getattr(entry, "with_traceback", False)),
                }
            )
    return found


def run_test(
    source: str, weights_format: str, devices: list[str] | None, **options: Any
) -> dict[str, Any]:
    """Return status and remarks of the core's own test of one weights format."""
    from bioimageio.core import test_description

    try:
        summary = test_description(
            source,
            weight_format=cast("Any", weights_format),
            devices=devices,
            expected_type="model",
            **options,
        )
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        stopped = {"where": "test", "words": words, "error": True, "crash": True}
        return {"status": "stopped", "remarks": [stopped]}
    return {"status": summary.status, "remarks": list_remarks(summary.details)}


def _test(_: Path, job: dict[str, Any]) -> dict[str, Any]:
    tests = {name: run_test(job["source"], name, _devices(name)) for name in job["formats"]}
    return {"versions": _versions(), "tests": tests}


def _said(error: BaseException) -> str:
    """Return the words of an error and, where it only bundles others, theirs."""
    words = [f"{type(error).__name__}: {error}"]
    words += [_said(inner) for inner in getattr(error, "exceptions", ())]
    return "; ".join(words)


def main(folder: Path) -> None:
    """Do the job that ``job.json`` in a folder describes and write ``answer.json``."""
    sys.addaudithook(_stay_offline)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    # Behind the packages of the environment: what is pinned there comes first.
    sys.path += job["path"]
    try:
        if job["task"] == "start":
            answer = _start()
        elif job["task"] == "onnx":
            answer = _onnx(folder, job)
        elif job["task"] == "predict":
            answer = _predict(folder, job)
        else:
            answer = _test(folder, job)
    except Exception as error:
        answer = {"error": _said(error)}
    draft = folder / "answer.part"
    draft.write_text(json.dumps(answer), encoding="utf-8")
    draft.replace(folder / "answer.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
