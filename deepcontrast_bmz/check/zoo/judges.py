"""The judges of the zoo, one function each: what it will say of a package, and why.

Every title names the file and version that the judge was read from.
"""

from __future__ import annotations

__all__ = [
    "judge_biapy",
    "judge_bioengine",
    "judge_careamics",
    "judge_completeness",
    "judge_core",
    "judge_format",
    "judge_icy",
    "judge_ilastik",
    "judge_review",
    "judge_upload",
]

import ast
import sys
from typing import TYPE_CHECKING

from deepcontrast_bmz.check.engines.engine import EngineError, EngineMissingError
from deepcontrast_bmz.check.rule import apply_rules
from deepcontrast_bmz.check.zoo.biapy import find_obstacle
from deepcontrast_bmz.check.zoo.records import Remark, ZooRow, build_tool_row
from deepcontrast_bmz.check.zoo.rules import REVIEW_RULES, UPLOAD_RULES
from deepcontrast_bmz.check.zoo.score import count_core_points
from deepcontrast_bmz.package.description import as_list, as_map, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deepcontrast_bmz.check.zoo.case import Case, Reproduced
    from deepcontrast_bmz.check.zoo.records import State

COLLECTION = "bioimage-io/collection 0d660e5"
NOTHING_RUN = "nothing was run (--run none)"
ILASTIK_CORE = "core-0.10.2"
BIOENGINE_CORE = "core-0.10.4"
BIOENGINE_TORCH = "libtorch-2.5.1"
SERVED = frozenset(
    {
        "bioimageio",
        "careamics",
        "cellpose",
        "numpy",
        "onnxruntime",
        "psutil",
        "scipy",
        "stardist",
        "tensorflow",
        "timm",
        "torch",
        "torchvision",
        "xarray",
    }
)
"""What an architecture file may import in BioEngine, beside the standard library.

Read in aicell-lab/bioengine 03b490c, apps/model-runner/requirements-runtime.txt; scipy comes with
bioimageio.core.
"""


def judge_format(case: Case) -> ZooRow:
    """Return whether the newest bioimageio.spec accepts the description."""
    from importlib import metadata

    problem = case.completeness.problem
    version = metadata.version("bioimageio.spec")
    return ZooRow(
        name="format",
        title=f"Format: bioimageio.spec {version}, offline",
        state="failed" if problem else "passed",
        reasons=(problem or "the description is valid",),
        low=float(not problem),
        high=float(not problem),
        counted=True,
    )


def judge_completeness(case: Case) -> ZooRow:
    """Return how many keys are given."""
    found = case.completeness
    words = f"{found.given} of {found.total} keys are given"
    after = case.website_completeness
    reasons = (words,)
    if after is not None and not after.problem:
        reasons += (
            f"after an upload by the website, which drops config.bioimageio, {after.given} of "
            f"{after.total}: {after.value:.3f}",
        )
    return ZooRow(
        name="completeness",
        title="Completeness of the metadata: bioimageio.spec 0.5.12.0, _internal/common_nodes.py",
        state="failed" if found.problem else "measured",
        reasons=(found.problem,) if found.problem else reasons,
        low=found.value,
        high=found.value,
        counted=True,
    )


def _reproduction(
    found: Mapping[str, Reproduced], kept_back: Sequence[str], who: str
) -> tuple[State, tuple[str, ...], tuple[str, ...]]:
    """Return state, reasons and notes: one format that reproduces is enough."""
    good = [name for name, result in found.items() if result.done]
    said = [result.words for result in found.values() if result.words]
    if good:
        # One that reproduces is enough, so what was not run changes nothing.
        return (
            "passed",
            (f"{', '.join(good)}: {who} reproduced the test output",),
            (*said, *kept_back),
        )
    if kept_back:
        # One of these might do.
        return "skipped", (*said, *kept_back), ()
    return "failed", tuple(said) or ("there are no weights that it runs",), ()


def judge_core(case: Case) -> ZooRow:
    """Return what the zoo makes of bioimageio.core's own test."""
    from importlib import metadata

    version = metadata.version("bioimageio.core")
    title = (
        f"bioimageio.core {version}, determinism full: {COLLECTION}, "
        "scripts/check_compatibility_bioimageio_core.py (one weights format is enough)"
    )
    notes: tuple[str, ...] = ()
    if not case.valid:
        state, reasons = "failed", ("the description is invalid",)
    elif "core" not in case.engines:
        state, reasons = "skipped", ("bioimageio.core was not run (--run core does)",)
    else:
        found = case.reproduced_here
        who = f"bioimageio.core {version}"
        state, reasons, notes = _reproduction(found, case.kept_back, who)
    low = count_core_points(valid=case.valid, reproduced=state == "passed")
    high = 1.0 if state == "skipped" else low
    return ZooRow(
        name="core",
        title=title,
        state=state,
        reasons=reasons,
        notes=notes,
        low=low,
        high=high,
        counted=True,
    )


def judge_ilastik(case: Case) -> ZooRow:
    """Return what the zoo's check for ilastik says: core's test, in ilastik's environment."""
    title = f"ilastik: {COLLECTION}, scripts/check_compatibility_ilastik.py"
    counts = [len(case.package.view.inputs), len(case.package.view.outputs)]
    if counts[0] > 1 or counts[1] > 1:
        words = f"it takes one input and one output, not {counts[0]} and {counts[1]}"
        return build_tool_row("ilastik", title, "failed", [words])
    if not case.valid:
        return build_tool_row("ilastik", title, "failed", ["the description is invalid"])
    missing = f"{ILASTIK_CORE}, the core of ilastik, was not run (--run {ILASTIK_CORE} does)"
    if ILASTIK_CORE in case.engines:
        try:
            found = case.reproduced_in(ILASTIK_CORE)
        except EngineMissingError as error:
            missing = f"{ILASTIK_CORE}, the core of ilastik, was not run: {error}"
        except EngineError as error:
            return build_tool_row("ilastik", title, "failed", [f"{ILASTIK_CORE}: {error}"])
        else:
            state, reasons, notes = _reproduction(found, case.kept_back, ILASTIK_CORE)
            return build_tool_row("ilastik", title, state, reasons, notes=notes)
    if "core" not in case.engines:
        return build_tool_row("ilastik", title, "skipped", [missing])
    who = "the bioimageio.core of this process"
    state, reasons, notes = _reproduction(case.reproduced_here, case.kept_back, who)
    return build_tool_row("ilastik", title, state, reasons, notes=notes, not_run=[missing])


def judge_biapy(case: Case) -> ZooRow:
    """Return what BiaPy's rule says."""
    title = (
        "BiaPy 3.7.1, biapy/models/__init__.py, check_bmz_model_compatibility; called by "
        f"{COLLECTION}, scripts/check_compatibility_biapy.py"
    )
    obstacle, looked_up = find_obstacle(case.package.rdf)
    if obstacle:
        return build_tool_row("biapy", title, "failed", [obstacle])
    if looked_up:
        words = f"it looks up {looked_up} in the zoo, by the model's name there"
        return build_tool_row("biapy", title, "skipped", [words])
    return build_tool_row(
        "biapy", title, "passed", ["the description follows its rule; it runs nothing"]
    )


def judge_careamics(case: Case) -> ZooRow:
    """Return whether CAREamics looks at the model."""
    title = f"CAREamics: {COLLECTION}, scripts/check_compatibility_careamics.py"
    tags = [text(tag) for tag in as_list(case.package.rdf.get("tags"))]
    if case.package.view.is_04 or not {"CAREamics", "careamics"} & set(tags):
        words = "only models of format 0.5 with the tag CAREamics are looked at"
        return build_tool_row("careamics", title, "not applicable", [words])
    names = [r.source.split("/")[-1] for r in case.package.references]
    if "careamics.yaml" not in names:
        return build_tool_row(
            "careamics", title, "failed", ["no attachment is called careamics.yaml"]
        )
    words = "CAREamics itself is not run here: the zoo loads the model and predicts with it"
    return build_tool_row("careamics", title, "skipped", [words])


def judge_icy(_: Case) -> ZooRow:
    """Return that the zoo has no check for Icy."""
    words = "the score knows Icy, but no script writes a report on it"
    return build_tool_row("icy", f"Icy: {COLLECTION}", "not applicable", [words])


# -------------------------------------------------------------------------- BioEngine


def _foreign_imports(case: Case) -> Iterator[str]:
    """Yield modules that the architecture file imports and BioEngine does not have."""
    entry = as_map(case.package.view.weights.get("pytorch_state_dict"))
    architecture = entry.get("architecture")
    if isinstance(architecture, str):
        source = architecture.rsplit(":", 1)[0]
    else:
        source = text(as_map(architecture).get("source"))
        module = text(as_map(architecture).get("import_from"))
        if module and module.split(".")[0] not in SERVED:
            yield module
    path = case.package.file(source)
    if path is None:
        return
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        yield f"{path.name}, which is no Python"
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." if node.level else node.module or ""]
        for name in names:
            top = name.split(".")[0]
            if top not in SERVED and top not in sys.stdlib_module_names:
                yield name


def _served_here(case: Case) -> tuple[list[str], list[str]]:
    """Run torch 2.5.1's library on the test input; what passed, and what was not run."""
    if BIOENGINE_TORCH not in case.engines or "torchscript" not in case.runnable:
        return [], [f"torch 2.5.1 was not run (--run {BIOENGINE_TORCH} runs its library)"]
    from deepcontrast_bmz.check.engines.java import run_java
    from deepcontrast_bmz.check.tiling import NotPossibleError
    from deepcontrast_bmz.check.tolerances import TILE_TOLERANCE

    path = case.package.weights_file("torchscript")
    assert path is not None  # else it would not be runnable
    try:
        bench = case.session.bench
        (run,) = run_java(BIOENGINE_TORCH, path, [bench.preprocess(bench.test_input)])
        found = bench.measure(bench.postprocess(run.output), bench.test_output, bench.halo)
    except (EngineMissingError, NotPossibleError) as error:
        return [], [f"{BIOENGINE_TORCH} was not run: {error}"]
    worst = max(found.within, found.border)
    if worst > TILE_TOLERANCE:
        raise EngineError(f"{BIOENGINE_TORCH} is {worst:.2g} of the range off the test output")
    return [f"{BIOENGINE_TORCH} (torchscript) gave the test output to {worst:.1g} of the range"], [
        "torch 2.5.1 for Python: the registry has it for Linux with CUDA only; its library "
        f"({BIOENGINE_TORCH}) ran instead"
    ]


def _bioengine_obstacles(case: Case) -> list[str]:
    row = case.rows.get("bioengine")
    found = [
        f"{f.rule}: {f.checks}, but met {f.met}; {f.mend}"
        for f in (row.findings if row is not None else ())
        if f.severity == "error"
    ]
    imports = sorted(set(_foreign_imports(case)))
    if imports and not {"torchscript", "onnx"} & set(case.package.view.weights):
        found.append(
            f"the architecture needs {', '.join(imports)}, which BioEngine does not have: add "
            "TorchScript or ONNX"
        )
    return found


def judge_bioengine(case: Case) -> ZooRow:
    """Return whether BioEngine runs the model and reproduces its output, with its pins."""
    state, reasons, not_run = _bioengine(case)
    title = (
        "BioEngine: aicell-lab/bioengine 03b490c, apps/model-runner/runtime.py and "
        "requirements-runtime.txt (bioimageio.core 0.10.4, numpy 1.26.4, onnxruntime 1.20.1, "
        "torch 2.5.1)"
    )
    return ZooRow(
        name="bioengine", title=title, state=state, reasons=tuple(reasons), not_run=tuple(not_run)
    )


def _bioengine(case: Case) -> tuple[State, Sequence[str], Sequence[str]]:
    """Return state, reasons and what was not run."""
    obstacles = _bioengine_obstacles(case)
    if obstacles or not case.valid:
        return "failed", obstacles or ["the description is invalid"], ()
    if BIOENGINE_CORE not in case.engines:
        words = f"{BIOENGINE_CORE} was not run (--run {BIOENGINE_CORE},{BIOENGINE_TORCH} does)"
        return "skipped", [words], ()
    try:
        found = case.reproduced_in(BIOENGINE_CORE)
        ran, left_out = _served_here(case)
    except EngineMissingError as error:
        return "skipped", [f"{BIOENGINE_CORE} was not run: {error}"], ()
    except EngineError as error:
        return "failed", [str(error)], ()
    wrong = [result.words for result in found.values() if not result.complete]
    right = [name for name, result in found.items() if result.complete]
    if wrong:
        return "failed", wrong, ()
    if not right:
        return "skipped", case.kept_back or ["there are no weights that may be run"], ()
    words = f"{', '.join(right)}: {BIOENGINE_CORE} with its numpy and onnxruntime passed its test"
    return "passed", [words, *ran], [*left_out, *case.kept_back]


# ------------------------------------------------------------------------- the upload


def _ruled(name: str, title: str, remarks: Sequence[Remark], praise: str) -> ZooRow:
    broken = [remark for remark in remarks if remark.severity == "error"]
    reasons = tuple(f"{r.rule}: {r.met}" for r in broken) or (praise,)
    state: State = "failed" if broken else "passed"
    return ZooRow(name=name, title=title, state=state, reasons=reasons, remarks=tuple(remarks))


def judge_upload(case: Case, *, by_spec: bool) -> ZooRow:
    """Return whether an upload is accepted; through bioimageio.spec an id is refused."""
    remarks = apply_rules(UPLOAD_RULES, case.given, Remark)
    if by_spec:
        remarks = [
            r.model_copy(update={"severity": "error"}) if r.rule == "upload.id" else r
            for r in remarks
        ]
        remarks.sort(key=lambda remark: remark.severity != "error")
    row = _ruled(
        "upload",
        "Upload: bioimageio.spec 0.5.12.0, _upload.py; bioimage-io/bioimage.io 645a3cc, Upload.tsx",
        remarks,
        "the website takes it, bioimageio.spec's upload refuses it for its id"
        if any(remark.rule == "upload.id" for remark in remarks)
        else "the files break no rule; a token and the network are the zoo's",
    )
    if case.valid:
        return row
    said = ("an invalid description is refused", *(row.reasons if row.failed else ()))
    return row.model_copy(update={"state": "failed", "reasons": said})


def judge_review(case: Case) -> ZooRow:
    """Return what reviewers will miss, as far as files can tell."""
    return _ruled(
        "review",
        "Review: bioimage-io/bioimage.io 645a3cc, ReviewWriter.tsx and the writing guide",
        apply_rules(REVIEW_RULES, case.given, Remark),
        "nothing that reviewers list is missing; what it says is for people to judge",
    )
