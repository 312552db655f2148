"""Somebody else's packages through ``dcbmz port``: what each program says before and after.

    python benchmarks/ported.py [--kinds NAME ...] [--keep FOLDER] [--record]

Every package is built in a temporary folder: by the exporter that its users call where pip
installs it (in an environment of its own), else by bioimageio.spec's own functions. Then it is
checked, ported and checked again, with every engine of this process and the zoo's rules. With
``--record`` the record and the page docs/ported.md are written after every kind; rows of kinds that
were not run stay as they were recorded.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from foreign import EXPORTERS, build_environment, run_script
from records import FOLDER, Record, Table, as_markdown, load_records, print_tables, save
from torch import nn

from deepcontrast_bmz.check.check import check_package
from deepcontrast_bmz.check.findings import COLUMNS
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import replace_whole
from deepcontrast_bmz.port.port import port_package

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepcontrast_bmz.check.findings import Report, Row

PAGE = Path(__file__).parent.parent / "docs" / "ported.md"
PROGRAMS = ("fiji", "qupath", "ilastik", "core")
HEADS = ("Fiji", "QuPath", "ilastik", "bioimageio.core")
FAILURES = {
    "opens": "does not open",
    "runs": "does not run",
    "right_values": "other values",
    "any_size": "not every size",
    "seams": "seams",
}
"""The first column that failed, in words."""

ARCHITECTURE = '''"""A network of two convolutions."""

import torch
from torch import nn


class Small(nn.Module):
    """Two convolutions."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.one = conv(1, 4, 3, padding=1)
        self.two = conv(4, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x)))
'''
MEAN, STD = 50.0, 30.0


class Small(nn.Module):
    """The network of `ARCHITECTURE`."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.one = conv(1, 4, 3, padding=1)
        self.two = conv(4, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return two channels of the same size."""
        return self.two(torch.relu(self.one(x)))


# ------------------------------------------------------- by bioimageio.spec's own functions


def _state_dict(network: nn.Module, folder: Path, dims: int) -> Any:
    from bioimageio.spec.model import v0_5

    (folder / "small.py").write_text(ARCHITECTURE, encoding="utf-8")
    torch.save(network.state_dict(), folder / "state.pt")
    return v0_5.PytorchStateDictWeightsDescr(
        source=folder / "state.pt",
        architecture=v0_5.ArchitectureFromFileDescr(
            source=folder / "small.py", callable=v0_5.Identifier("Small"), kwargs={"dims": dims}
        ),
        pytorch_version=v0_5.Version(torch.__version__),
    )


def _torchscript(network: nn.Module, folder: Path, dims: int) -> Any:
    from bioimageio.spec.model import v0_5

    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 1, *[16] * dims)), folder / "net.pt")
    return v0_5.TorchscriptWeightsDescr(
        source=folder / "net.pt",
        pytorch_version=v0_5.Version(torch.__version__.partition("+")[0]),
    )


def _onnx(network: nn.Module, folder: Path, dims: int) -> Any:
    """Write ONNX as torch does today: the newest opset it knows, free axes."""
    from bioimageio.spec.model import v0_5

    free = {2 + i: torch.export.Dim.DYNAMIC for i in range(dims)}
    written = torch.onnx.export(
        network, (torch.zeros(1, 1, *[16] * dims),), dynamo=True, dynamic_shapes=(free,)
    )
    assert written is not None
    written.save(folder / "net.onnx", external_data=False)
    opset = next(o.version for o in written.model_proto.opset_import if not o.domain)
    return v0_5.OnnxWeightsDescr(source=folder / "net.onnx", opset_version=opset)


_WEIGHTS: dict[str, Callable[[nn.Module, Path, int], Any]] = {
    "pytorch_state_dict": _state_dict,
    "torchscript": _torchscript,
    "onnx": _onnx,
}


def _keras(folder: Path) -> Any:
    from bioimageio.spec.model import v0_5

    exporter = EXPORTERS["keras-2.15"]
    script = folder / "keras_network.py"
    script.write_text(exporter.script, encoding="utf-8")
    run_script(build_environment(exporter), folder, script, folder / "net.h5")
    return v0_5.KerasHdf5WeightsDescr(
        source=folder / "net.h5", tensorflow_version=v0_5.Version("2.15.1")
    )


def save_by_spec(
    folder: Path,
    formats: Sequence[str],
    *,
    dims: int = 2,
    tested: bool = True,
    channels_last: bool = False,
) -> Path:
    """Return a package as the installed bioimageio.spec saves it.

    Parameters
    ----------
    folder : Path
        Empty.
    formats : sequence of str
        Weights formats to hold.
    dims : int
        2 or 3.
    tested : bool
        Whether it has test tensors.
    channels_last : bool
        Whether channels are the last axis, as Keras has them; the network is Keras' then.
    """
    from bioimageio.spec import save_bioimageio_package
    from bioimageio.spec.model import v0_5

    torch.manual_seed(3)
    network = Small(dims).eval()
    if channels_last:
        weights = {"keras_hdf5": _keras(folder)}
    else:
        raw = 100 * np.random.default_rng(0).random((1, 1, *([9] * (dims - 2)), 72, 65))
        raw = raw.astype(np.float32)
        with torch.no_grad():
            result = network(torch.from_numpy((raw - MEAN) / STD)).numpy()
        np.save(folder / "in.npy", raw)
        np.save(folder / "out.npy", result)
        weights = {name: _WEIGHTS[name](network, folder, dims) for name in formats}
    if {"pytorch_state_dict", "torchscript"} <= set(weights):
        weights["torchscript"].parent = "pytorch_state_dict"
    (folder / "doc.md").write_text("# Small\n\nNothing.\n", encoding="utf-8")
    names = "zyx"[-dims:]

    def axes(channels: list[str], space: list[Any]) -> list[Any]:
        channel = v0_5.ChannelAxis(channel_names=[v0_5.Identifier(name) for name in channels])
        both = [*space, channel] if channels_last else [channel, *space]
        return [v0_5.BatchAxis(), *both]

    scaled: dict[str, Any] = {"scale": 0.5, "unit": "micrometer"}
    inside = [
        v0_5.SpaceInputAxis(
            id=v0_5.AxisId(n),
            size=v0_5.ParameterizedSize(min=4 if n == "z" else 16, step=1),
            **scaled,
        )
        for n in names
    ]
    outside = [
        v0_5.SpaceOutputAxis(
            id=v0_5.AxisId(n),
            size=v0_5.SizeReference(tensor_id=v0_5.TensorId("raw"), axis_id=v0_5.AxisId(n)),
            **scaled,
        )
        for n in names
    ]
    fixed = v0_5.FixedZeroMeanUnitVarianceDescr(
        kwargs=v0_5.FixedZeroMeanUnitVarianceKwargs(mean=MEAN, std=STD)
    )
    model = v0_5.ModelDescr(
        name="Small network",
        description="A small network.",
        authors=[v0_5.Author(name="Somebody")],
        cite=[v0_5.CiteEntry(text="nobody", doi=v0_5.Doi("10.48550/arXiv.2308.08365"))],
        license=v0_5.LicenseId("MIT"),
        documentation=v0_5.FileDescr(source=folder / "doc.md"),
        tags=["2d"],
        inputs=[
            v0_5.InputTensorDescr(
                id=v0_5.TensorId("raw"),
                axes=axes(["raw"], inside),
                preprocessing=[] if channels_last else [fixed],
                test_tensor=v0_5.FileDescr(source=folder / "in.npy") if tested else None,
            )
        ],
        outputs=[
            v0_5.OutputTensorDescr(
                id=v0_5.TensorId("out"),
                axes=axes(["a", "b"], outside),
                test_tensor=v0_5.FileDescr(source=folder / "out.npy") if tested else None,
            )
        ],
        weights=v0_5.WeightsDescr(**weights),
    )
    return Path(save_bioimageio_package(model, output_path=folder / "saved.zip"))


def save_by_spec_04(folder: Path) -> Path:
    """Return a package of format 0.4 as the installed bioimageio.spec saves it."""
    from bioimageio.spec import save_bioimageio_package
    from bioimageio.spec.model import v0_4

    torch.manual_seed(3)
    network = Small().eval()
    raw = (100 * np.random.default_rng(0).random((1, 1, 72, 65))).astype(np.float32)
    with torch.no_grad():
        result = network(torch.from_numpy((raw - MEAN) / STD)).numpy()
    np.save(folder / "in.npy", raw)
    np.save(folder / "out.npy", result)
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 1, 16, 16)), folder / "net.pt")
    (folder / "doc.md").write_text("# Small\n\nNothing.\n", encoding="utf-8")
    model = v0_4.ModelDescr.model_validate(
        {
            "type": "model",
            "format_version": "0.4.10",
            "name": "Old network",
            "description": "A network in an old description.",
            "authors": [{"name": "Somebody", "github_user": "no-such-user-on-any-list"}],
            "cite": [{"text": "nobody", "doi": "10.48550/arXiv.2308.08365"}],
            "documentation": folder / "doc.md",
            "license": "MIT",
            "tags": ["2d"],
            "timestamp": "2024-01-01T00:00:00",
            "test_inputs": [folder / "in.npy"],
            "test_outputs": [folder / "out.npy"],
            "inputs": [
                {
                    "name": "raw",
                    "axes": "bcyx",
                    "data_type": "float32",
                    "shape": {"min": [1, 1, 16, 16], "step": [0, 0, 1, 1]},
                    "preprocessing": [
                        {
                            "name": "zero_mean_unit_variance",
                            "kwargs": {"mode": "fixed", "axes": "yx", "mean": MEAN, "std": STD},
                        }
                    ],
                }
            ],
            "outputs": [
                {
                    "name": "out",
                    "axes": "bcyx",
                    "data_type": "float32",
                    "shape": {
                        "reference_tensor": "raw",
                        "scale": [1, 0, 1, 1],
                        "offset": [0, 1, 0, 0],
                    },
                }
            ],
            "weights": {"torchscript": {"source": folder / "net.pt", "pytorch_version": "1.13.1"}},
        }
    )
    return Path(save_bioimageio_package(model, output_path=folder / "saved.zip"))


# ------------------------------------------------------------------------------ all kinds


@dataclass(frozen=True)
class Kind:
    """A kind of package that is published."""

    name: str
    """For ``--kinds``."""
    what: str
    """What it holds, and who wrote it."""
    build: Callable[[Path], Path]
    """Writes it in an empty folder."""
    library: str = ""
    """Environment with the library that its network needs, where porting needs one."""


def _exported(name: str) -> Callable[[Path], Path]:
    """Return what builds a package by the real exporter."""

    def build(folder: Path) -> Path:
        exporter = EXPORTERS[name]
        script = folder / "export_it.py"
        script.write_text(exporter.script, encoding="utf-8")
        out = folder / f"{name}.zip"
        run_script(build_environment(exporter), folder, script, out)
        return out

    return build


def _spec(*formats: str, **options: Any) -> Callable[[Path], Path]:
    return lambda folder: save_by_spec(folder, formats, **options)


KINDS = (
    Kind(
        "careamics",
        "CAREamics 0.3.5, Noise2Void: state dict of a class of CAREamics",
        _exported("careamics-0.3.5"),
        library="careamics-0.3.5",
    ),
    Kind(
        "biapy",
        "BiaPy 3.7.1, denoising: state dict with BiaPy's network in a file",
        _exported("biapy-3.7.1"),
        library="torchvision",
    ),
    Kind(
        "instanseg",
        "InstanSeg 0.1.2, not trained: scripted TorchScript, two passes in one",
        _exported("instanseg-0.1.2"),
    ),
    Kind(
        "rdf-0.5",
        "format 0.5 by bioimageio.spec: state dict with its own code, and TorchScript",
        _spec("pytorch_state_dict", "torchscript"),
    ),
    Kind("rdf-0.4", "format 0.4.10 by bioimageio.spec: TorchScript", save_by_spec_04),
    Kind(
        "state-dict",
        "only a state dict with its own code, by bioimageio.spec",
        _spec("pytorch_state_dict"),
    ),
    Kind("torchscript", "only TorchScript, by bioimageio.spec", _spec("torchscript")),
    Kind("onnx", "only ONNX, as torch writes it today, by bioimageio.spec", _spec("onnx")),
    Kind(
        "keras",
        "only Keras, written by TensorFlow 2.15.1, described by bioimageio.spec",
        _spec(channels_last=True),
    ),
    Kind("3d", "stacks: TorchScript, by bioimageio.spec", _spec("torchscript", dims=3)),
    Kind(
        "untested",
        "no test tensors: TorchScript, by bioimageio.spec",
        _spec("torchscript", tested=False),
    ),
)


class Tried(NamedTuple):
    """What became of one package."""

    kind: Kind
    before: Report
    after: Report | None
    changed: tuple[str, ...]
    left: tuple[str, ...]
    unchecked: tuple[str, ...]
    refused: str
    """Why it was not ported, else empty."""
    seconds: float
    """Of porting."""


# ---------------------------------------------------------------------------- the trial

_PORT_THERE = """
import json, sys
from pathlib import Path
from deepcontrast_bmz.port.port import port_package
done = port_package(Path(sys.argv[1]), Path(sys.argv[2]), run_code=True)
Path(sys.argv[3]).write_text(done.model_dump_json(), encoding="utf-8")
"""


def _check(path: Path) -> Report:
    """Check a package with every engine of this process, and the zoo's rules where it has tests."""
    try:
        return check_package(path, run_code=True, zoo=True)
    except InputError:
        # Without test tensors the zoo tests nothing, and there is no verdict of it.
        return check_package(path, run_code=True)


def _port(kind: Kind, given: Path, out: Path, folder: Path) -> dict[str, Any]:
    """Port a package, where the library of its network is, and return the record."""
    if not kind.library:
        return port_package(given, out, run_code=True).model_dump()
    script, record = folder / "port_it.py", folder / "record.json"
    script.write_text(_PORT_THERE, encoding="utf-8")
    python = build_environment(EXPORTERS[kind.library])
    run_script(python, folder, script, given, out, record)
    return json.loads(record.read_text(encoding="utf-8"))


def try_kind(kind: Kind, folder: Path) -> Tried:
    """Build, check, port and check one kind of package in an empty folder."""
    given, out = kind.build(folder), folder / f"{kind.name}-ported.zip"
    before = _check(given)
    start = time.perf_counter()
    try:
        record = _port(kind, given, out, folder)
    except InputError as error:
        return Tried(kind, before, None, (), (), (), str(error), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    changed, left, unchecked = (tuple(record[key]) for key in ("changed", "left", "unchecked"))
    return Tried(kind, before, _check(out), changed, left, unchecked, "", seconds)


def cell(row: Row) -> str:
    """Return what a program makes of a package, in two or three words."""
    for column in COLUMNS:
        if row.verdict(column).state == "failed":
            return FAILURES[column]
    if row.right_values.state == "passed":
        return "works"
    return "opens, not run" if row.opens.state == "passed" else "not run"


def _zoo(report: Report) -> str:
    if report.zoo is None:
        return "not tested"
    low, high = report.zoo.lowest, report.zoo.highest
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def _pair(before: str, after: str) -> str:
    return before if before == after else f"{before} → **{after}**"


class NotBuilt(NamedTuple):
    """A kind that could not be built or judged here."""

    kind: Kind
    reason: str
    """The last line of what its exporter said."""


def tables(tried: Sequence[Tried | NotBuilt]) -> list[Table]:
    """Return the table of programs, that of what is left, and that of what was not built."""
    rows: list[tuple[str, ...]] = []
    rest: list[tuple[str, ...]] = []
    missing: list[tuple[str, ...]] = []
    for one in tried:
        if isinstance(one, NotBuilt):
            missing.append((one.kind.what, one.reason.replace("|", "/")))
            continue
        if one.after is None:
            cells = [f"{cell(one.before.row(p))} → refused" for p in PROGRAMS]
            rows.append((one.kind.what, *cells, f"{_zoo(one.before)} → refused"))
            rest.append((one.kind.what, "0", f"Refused: {one.refused}."))
            continue
        cells = [_pair(cell(one.before.row(p)), cell(one.after.row(p))) for p in PROGRAMS]
        rows.append((one.kind.what, *cells, _pair(_zoo(one.before), _zoo(one.after))))
        words = " ".join((*one.left, *one.unchecked)) or "Nothing."
        rest.append((one.kind.what, str(len(one.changed)), words.replace("|", "/")))
    return [
        Table(
            "What each program makes of it.", ("package", *HEADS, "score of the zoo"), tuple(rows)
        ),
        Table("What is left.", ("package", "changes", "not mended or not checked"), tuple(rest)),
        Table("What was not built here.", ("package", "why"), tuple(missing)),
    ]


# ----------------------------------------------------------------------------- the page

HEAD = """# Ported in public

`dcbmz port` on the kinds of package that are published, built by the exporters that people call.
Before and after, per program, as `dcbmz check --zoo` says it; where nothing changes there is one
entry. The command makes page and record anew, or the rows of some (`--kinds NAME ...`):

`{command}`

({versions})
"""

NOTES = """## How to read it

- **works**: the rules of the program hold, and the values are those of the test output, run through
  the program's own tiling, padding and processing.
- **does not open** and the like: the first thing that fails; `dcbmz check` says why, and what to
  change.
- **seams**: where tiles meet, values differ from those of the whole image by more than a thousandth
  of the range (CAREamics: by up to .003).
- **not every size**: the network was exported for one size of image, or for sizes in steps. Only
  its author can change that.
- **does not run** (bioimageio.core): its own test runs every weights format, and one of them needs
  a library that was not installed beside it (CAREamics, BiaPy), or fails.
- **opens, not run**: no weights that can be run here.
- **score of the zoo**: from everything that was not run failing to everything passing
  ([publish in the zoo](zoo.md)).

Each package is small and hardly trained: this is about files and programs, not about how good a
network is. Nothing of what an exporter writes was changed by hand. How to port a package of your
own: [port](port.md).
"""

TEXT = (
    "Packages built by the real exporters in environments of their own, where pip installs them, "
    "else by bioimageio.spec. Checked with the engines of one process, not in Fiji, QuPath and "
    "ilastik themselves."
)


def page(record: Record) -> str:
    """Return docs/ported.md."""
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    programs, rest, missing = record.tables
    text = "\n".join(textwrap.wrap(record.text, 99, break_on_hyphens=False))
    parts = [
        HEAD.format(command=record.command, versions=versions),
        text + "\n",
        f"## Before and after\n\n{as_markdown(programs)}\n",
        NOTES,
        f"## What is left\n\n{as_markdown(rest)}\n",
    ]
    if missing.rows:
        parts.append(f"## Not built here\n\n{as_markdown(missing)}\n")
    return "\n".join(parts)


def merged(found: Sequence[Table], kept: Sequence[Record]) -> list[Table]:
    """Return the tables with the rows of kinds that were not run now, from the record before."""
    run = {row[0] for table in found for row in table.rows}
    made: list[Table] = []
    for at, new in enumerate(found):
        old = [row for record in kept for row in record.tables[at].rows if row[0] not in run]
        rows = {row[0]: row for row in (*old, *new.rows)}
        ordered = [rows[kind.what] for kind in KINDS if kind.what in rows]
        made.append(Table(new.caption, new.columns, tuple(ordered)))
    return made


def record_page(tried: Sequence[Tried | NotBuilt]) -> None:
    """Write the record and the page; rows of kinds that were not run stay."""
    save(
        "pages/ported",
        merged(tables(tried), load_records(FOLDER / "pages")),
        title="Ported in public",
        command="python benchmarks/ported.py --record",
        order=0,
        text=TEXT,
    )
    (record,) = load_records(FOLDER / "pages")
    with replace_whole(PAGE) as temporary:
        temporary.write_text(page(record), encoding="utf-8")


def _summary(one: Tried) -> str:
    after = "refused" if one.after is None else ", ".join(cell(one.after.row(p)) for p in PROGRAMS)
    before = ", ".join(cell(one.before.row(p)) for p in PROGRAMS)
    return f"{one.kind.name}: {before} -> {after} ({one.seconds:.0f} s)"


def try_or_say(kind: Kind, keep: Path | None) -> Tried | NotBuilt:
    """Try one kind in a temporary folder; an exporter that does not run is said, not raised."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        try:
            one = try_kind(kind, folder)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            traceback.print_exc()
            return NotBuilt(kind, str(error).strip().splitlines()[-1])
        if keep is not None:
            (keep / kind.name).mkdir(parents=True, exist_ok=True)
            for path in folder.glob("*.zip"):
                shutil.copy(path, keep / kind.name)
    return one


def _try_apart(kind: Kind, options: argparse.Namespace) -> None:
    """Try one kind in a process of its own; one that is killed is recorded as not built."""
    further = [] if options.keep is None else ["--keep", str(options.keep)]
    further += ["--record"] if options.record else []
    command = [sys.executable, __file__, "--kinds", kind.name, *further]
    code = subprocess.run(command, check=False).returncode
    if code:
        why = (
            f"Python was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        )
        print(f"{kind.name}: {why}", flush=True)
        if options.record:
            record_page([NotBuilt(kind, f"{why}, while it was built or while its network ran.")])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=[kind.name for kind in KINDS])
    parser.add_argument("--keep", type=Path, help="folder to keep the packages in")
    parser.add_argument("--record", action="store_true", help="write the record and the page")
    options = parser.parse_args()
    chosen = [kind for kind in KINDS if not options.kinds or kind.name in options.kinds]
    if len(chosen) > 1:
        # Each in a process of its own: a network of somebody else may end it without a word.
        for kind in chosen:
            _try_apart(kind, options)
        return
    print(f"{chosen[0].name} ...", flush=True)
    with warnings.catch_warnings():
        # Of libraries: files left open, and that TorchScript will go.
        warnings.simplefilter("ignore")
        one = try_or_say(chosen[0], options.keep)
        gc.collect()
    print(f"{one.kind.name}: {one.reason}" if isinstance(one, NotBuilt) else _summary(one))
    if options.record:
        record_page([one])
    print_tables(tables([one]))


if __name__ == "__main__":
    sys.exit(main())
