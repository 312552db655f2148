"""Somebody else's package, rewritten so that it opens everywhere.

Descriptions, files and weights of RDF 0.4 and 0.5 become the dialect of `rdf`; the network and its
values stay. What was given is never changed, and what could not be mended is said.
"""

from __future__ import annotations

__all__ = ["PortRecord", "port_package"]

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepcontrast_bmz.check.check import check_package
from deepcontrast_bmz.check.compare import Bench
from deepcontrast_bmz.check.engines.networks import RUNNABLE
from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.check.processing import UnsupportedError
from deepcontrast_bmz.check.tiling import NotPossibleError
from deepcontrast_bmz.check.tolerances import TEST_TOLERANCE
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.rdf import absolute_tolerance, adapt_for_qupath, order_keys, to_yaml
from deepcontrast_bmz.export.samples import cover_png, serialize_tiff
from deepcontrast_bmz.image import replace_whole
from deepcontrast_bmz.package.description import as_list, as_map, text
from deepcontrast_bmz.package.description import number as as_number
from deepcontrast_bmz.package.files import Package, open_package, pack_stored
from deepcontrast_bmz.port.description import mend_description
from deepcontrast_bmz.port.draft import CONFIG_KEY, Draft, draft_package, short
from deepcontrast_bmz.port.halo import declare_halo
from deepcontrast_bmz.port.sizes import free_sizes
from deepcontrast_bmz.port.weights import add_from_state_dict, mend_weights, order_for_fiji
from deepcontrast_bmz.settings import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

LARGEST_RELATIVE = 0.01
"""Largest relative tolerance that the zoo accepts."""


class PortRecord(Record):
    """What was done to a package."""

    package: str
    """File name of what was written."""
    changed: tuple[str, ...]
    """What was changed, sentences."""
    left: tuple[str, ...]
    """What could not be mended, sentences."""
    unchecked: tuple[str, ...]
    """What was not run or not compared, and why, sentences."""


def _check_places(path: Path, out: Path) -> None:
    """Refuse what is no name for a package, and what would overwrite the given one."""
    if out.suffix.lower() != ".zip":
        raise InputError(f"a package is a zip file, but {out} does not end in .zip: rename it")
    if out.is_dir():
        raise InputError(f"a package is a file, but {out} is a folder: give another name")
    if out.exists() and path.exists() and out.samefile(path):
        raise InputError(f"the given package is not changed, but {out} is it: give another name")
    inside = path if path.is_dir() else path.parent
    in_folder = path.is_dir() or path.suffix.lower() in (".yaml", ".yml")
    if in_folder and out.resolve().is_relative_to(inside.resolve()):
        raise InputError(
            f"the given package is not changed, but {out} lies in its folder: give another place"
        )


def _open_draft(draft: Draft) -> Package:
    """Return the draft as a package, as far as it is."""
    (draft.folder / "rdf.yaml").write_text(to_yaml(draft.rdf), encoding="utf-8", newline="\n")
    return Package(draft.folder, draft.folder, "rdf.yaml", draft.rdf, None)


def _make_bench(draft: Draft, run_code: bool) -> Bench | None:
    try:
        return Bench(_open_draft(draft), run_code)
    except NotPossibleError as error:
        draft.skip(f"Values were not compared: {short(error)}.")
        return None


def _make_examples(bench: Bench | None) -> list[Tensor]:
    """Return what the network is given for the test image, and where it can be for another size."""
    if bench is None:
        return []
    images = [bench.test_input]
    larger = {a.name: a.legal((a.smallest or 1) + 19) for a in bench.input.spatial}
    if any(larger[a.name] != n for a, n in _pair_sizes(bench)):
        images.append(bench.make_image(larger))
    try:
        return [torch.from_numpy(np.ascontiguousarray(bench.preprocess(x))) for x in images]
    except UnsupportedError:
        return []


def _pair_sizes(bench: Bench) -> list[tuple[Any, int]]:
    pairs = zip(bench.input.axes, bench.test_input.shape, strict=True)
    return [(axis, size) for axis, size in pairs if axis.kind == "space"]


def _add_weights(draft: Draft, bench: Bench, examples: list[Tensor], run_code: bool) -> None:
    weights = draft.rdf["weights"]
    if "pytorch_state_dict" not in weights or {"torchscript", "onnx"} <= set(weights):
        return
    if not run_code:
        if "torchscript" not in weights:
            draft.leave(
                "There is no TorchScript, which Fiji and QuPath need. It can be made of the state "
                "dict, by the code that comes with it: allow that with --run-code if you trust it."
            )
        return
    if not examples:
        draft.leave("No weights were added: the preprocessing cannot be done here.")
        return
    try:
        with quiet():
            from bioimageio.core.backends.pytorch_backend import load_torch_model
            from bioimageio.spec import load_description

            described: Any = load_description(draft.folder / "rdf.yaml", perform_io_checks=False)
            module = load_torch_model(described.weights.pytorch_state_dict, load_state=True).eval()
    # It is somebody's code: it may end in any way.
    except Exception as error:
        draft.leave(
            f"The code of the state dict did not run here: {type(error).__name__}: {short(error)}."
        )
        return
    axes = enumerate(bench.input.axes)
    free = {i: a.name for i, a in axes if a.kind == "batch" or a.minimum is not None}
    add_from_state_dict(draft, module, examples, free)


def _read_tolerance(draft: Draft, weights_format: str) -> tuple[float, float]:
    """Return the absolute and relative tolerance a package asks for, within the zoo's limits."""
    zoo = as_map(as_map(draft.rdf["config"]).get("bioimageio"))
    entries = [as_map(e) for e in as_list(zoo.get("reproducibility_tolerance"))]
    fitting = [e for e in entries if weights_format in (e.get("weights_formats") or RUNNABLE)]
    entry = fitting[0] if fitting else as_map(as_map(zoo.get("test_kwargs")).get(weights_format))
    absolute, relative = (
        as_number(entry.get(key)) or 1e-3 for key in ("absolute_tolerance", "relative_tolerance")
    )
    return absolute, min(relative, LARGEST_RELATIVE)


def _run_formats(draft: Draft, bench: Bench) -> dict[str, NDArray[Any]]:
    """Return what each weights format gives for the test input."""
    found: dict[str, NDArray[Any]] = {}
    for name in (n for n in RUNNABLE if n in draft.rdf["weights"]):
        try:
            (found[name],) = bench.run_here(name)([bench.test_input])
        except (NotPossibleError, UnsupportedError) as error:
            draft.skip(f"The values of {name} were not compared: {short(error)}.")
        # Every engine fails in its own way.
        except Exception as error:
            draft.leave(f"The weights in {name} do not run here: {short(error)}.")
    return found


def _compare(draft: Draft, run_code: bool) -> dict[str, float]:
    """Return how far each weights format is from the test output, over the range.

    A test output within the tolerance of the package, but not within ours, is computed anew.
    Refused if all that could be run give something else.
    """
    bench = _make_bench(draft, run_code)
    if bench is None:
        return {}
    results = _run_formats(draft, bench)
    expected = bench.test_output

    def apart(result: NDArray[Any]) -> float:
        try:
            difference = bench.measure(result, expected, bench.halo)
        except NotPossibleError:
            return math.inf
        return max(difference.within, difference.border)

    found = {name: apart(result) for name, result in results.items()}
    if found and min(found.values()) > TEST_TOLERANCE:
        best = min(found, key=lambda name: found[name])
        absolute, relative = _read_tolerance(draft, best)
        close = results[best].shape == expected.shape and np.allclose(
            results[best], expected, rtol=relative, atol=absolute
        )
        if not close:
            words = ", ".join(f"{name} by {d:.2g}" for name, d in found.items())
            raise InputError(
                "the test output of a package is what its weights give, but these differ from it "
                f"({words} of the range; {TEST_TOLERANCE:g} is allowed): find out first which is "
                "right"
            )
        draft.change(
            f"The test output is computed anew: the given one differs by {found[best]:.2g} of its "
            "range, which the package allows itself, but which hides mistakes."
        )
        expected = np.ascontiguousarray(results[best], np.float32)
        entry = draft.tensors("outputs")[0]["test_tensor"]
        np.save(draft.folder / text(entry["source"]), expected, allow_pickle=False)
        entry |= draft.entry(text(entry["source"]))
        found = {name: apart(result) for name, result in results.items()}
    for name, d in found.items():
        if not d <= TEST_TOLERANCE:
            draft.leave(
                f"The weights in {name} differ from the test output by {d:.2g} of the range: they "
                "are another network than the other weights."
            )
    return {name: d for name, d in found.items() if d <= TEST_TOLERANCE}


def _declare_tolerances(draft: Draft, differences: dict[str, float]) -> None:
    """Declare tolerances that fit the scale of the output, one for each format that needs it."""
    config = as_map(draft.rdf["config"])
    zoo = as_map(config.get("bioimageio"))
    outputs = draft.tensors("outputs")
    arrays = [np.load(draft.folder / text(o["test_tensor"]["source"])) for o in outputs]
    low = min(float(a.min()) for a in arrays)
    high = max(float(a.max()) for a in arrays)
    absolute = absolute_tolerance(low, high)
    given = [as_map(e) for e in as_list(zoo.get("reproducibility_tolerance"))]
    if given and all(float(e.get("absolute_tolerance") or 0) >= absolute / 10 for e in given):
        return
    entry = {"relative_tolerance": 1e-3, "mismatched_elements_per_million": 100}
    entries: list[dict[str, Any]] = []
    for name, apart in differences.items():
        needed = 3 * apart * (high - low)
        if absolute < needed <= 0.01 * high:
            entries.append(
                {**entry, "absolute_tolerance": float(f"{needed:.1e}"), "weights_formats": [name]}
            )
    entries.append({**entry, "absolute_tolerance": absolute})
    zoo["reproducibility_tolerance"] = entries
    draft.rdf["config"] = {**config, "bioimageio": zoo}
    draft.change(
        f"The tolerance of the test is {absolute:g}, a thousandth of the range of the test output "
        "or less."
    )


# ------------------------------------------------------------------------------- pictures


def _image(draft: Draft, tensor: dict[str, Any]) -> NDArray[Any] | None:
    """Return the first image of a test tensor as (C, (Z,) Y, X), None for other axes."""
    array = np.load(draft.folder / text(tensor["test_tensor"]["source"]))
    kinds = [text(a["id"]) if a["type"] == "space" else text(a["type"]) for a in tensor["axes"]]
    if "batch" in kinds:
        array = array.take(0, axis=kinds.index("batch"))
        kinds.remove("batch")
    if "channel" not in kinds:
        array, kinds = array[None], ["channel", *kinds]
    order = [k for k in ("channel", "z", "y", "x") if k in kinds]
    if len(order) != len(kinds) or order[-2:] != ["y", "x"]:
        return None
    return np.ascontiguousarray(array.transpose([kinds.index(k) for k in order]), np.float32)


def _add_pictures(draft: Draft) -> None:
    """Add samples that ImageJ reads, and a cover, where they are missing."""
    shown: list[NDArray[Any]] = []
    for kind in ("inputs", "outputs"):
        for tensor in draft.tensors(kind):
            image = _image(draft, tensor)
            if image is None:
                continue
            shown.append(image)
            sample = text(as_map(tensor.get("sample_tensor")).get("source"))
            if sample.lower().endswith((".tif", ".tiff")):
                continue
            channels = [a for a in tensor["axes"] if a["type"] == "channel"]
            labels = channels[0]["channel_names"] if channels else [text(tensor["id"])]
            name = draft.free_name(f"sample_{kind[:-1]}.tif")
            (draft.folder / name).write_bytes(serialize_tiff(image, [text(n) for n in labels]))
            if sample:
                (draft.folder / sample).unlink(missing_ok=True)
            tensor["sample_tensor"] = draft.entry(name)
            draft.change("Samples are TIFF files of the test tensors, which ImageJ opens.")
    same = len(shown) > 1 and shown[0].shape[1:] == shown[-1].shape[1:]
    if not draft.rdf.get("covers") and same:
        name = draft.free_name("cover.png")
        (draft.folder / name).write_bytes(cover_png(shown[0][0], shown[-1][0]))
        draft.rdf["covers"] = [name]
        draft.change("A cover was made of the test tensors.")


def _describe_validation(draft: Draft, differences: dict[str, float]) -> None:
    """Say in the documentation what was compared, where it has no section on validation."""
    path = draft.folder / text(draft.rdf["documentation"])
    if not differences or not path.is_file():
        return
    words = path.read_text(encoding="utf-8", errors="replace")
    lines = words.splitlines()
    if any(line.startswith("#") and "validation" in line.lower() for line in lines):
        return
    rows = "".join(f"| {name} | {apart:.1e} |\n" for name, apart in differences.items())
    path.write_text(
        f"{words.rstrip()}\n\n## Technical validation\n\nThe weights were run on the test input, "
        "through the declared pre- and postprocessing, and compared with the test output. Whether "
        "the results are right in the sense of biology is not told by this.\n\n| weights | largest "
        f"difference, of the range |\n|---|---|\n{rows}",
        encoding="utf-8",
        newline="\n",
    )
    draft.change("The documentation says how the weights were compared with the test output.")


# ------------------------------------------------------------------------------ the whole


def _collect_members(draft: Draft) -> dict[str, bytes]:
    """Return all files by name: descriptions first, then in the order of their names."""
    texts = {"rdf.yaml": to_yaml(draft.rdf).encode()}
    if not any(a["id"] == "z" for t in draft.rdf["inputs"] for a in t["axes"]):
        texts["model.yaml"] = to_yaml(adapt_for_qupath(draft.rdf)).encode()
    files = sorted(p for p in draft.folder.iterdir() if p.name not in ("rdf.yaml", "model.yaml"))
    return {**texts, **{p.name: p.read_bytes() for p in files}}


def _say_objections(draft: Draft, path: Path) -> None:
    """Say what the rules of the programs still object to."""
    report = check_package(path, run=["none"])
    objections: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        for finding in row.findings:
            if finding.severity == "error":
                key = (f"{finding.met}: {finding.sees}", finding.mend)
                objections.setdefault(key, []).append(row.program)
    for (words, mend), programs in objections.items():
        draft.leave(f"{words} ({', '.join(dict.fromkeys(programs))}; to mend it, {mend}.)")


def _rewrite(draft: Draft, run_code: bool) -> None:
    mend_description(draft)
    bench = _make_bench(draft, run_code)
    if bench is not None and free_sizes(draft, bench):
        bench = _make_bench(draft, run_code)
    examples = _make_examples(bench)
    mend_weights(draft, examples)
    if bench is not None:
        _open_draft(draft)
        _add_weights(draft, bench, examples, run_code)
    order_for_fiji(draft)
    differences = _compare(draft, run_code)
    bench = _make_bench(draft, run_code) if differences else None
    if bench is not None:
        declare_halo(draft, bench, next(iter(differences)))
    _declare_tolerances(draft, differences)
    _add_pictures(draft)
    _describe_validation(draft, differences)
    if draft.moved:
        draft.rdf["config"] = {**as_map(draft.rdf["config"]), CONFIG_KEY: draft.moved}
    draft.rdf = order_keys(draft.rdf)


def port_package(path: Path, out: Path, *, run_code: bool = False) -> PortRecord:
    """Rewrite a package so that it opens in every program.

    Parameters
    ----------
    path : Path
        Somebody's package: zip, folder, or the description in a folder; RDF 0.4 or 0.5. It is
        not changed.
    out : Path
        The zip file to write; one that exists is replaced if all goes well.
    run_code : bool
        Whether the Python code that comes with a state dict may be run, to make TorchScript and
        ONNX of it. Allow it for packages you trust.

    Returns
    -------
    PortRecord
        What was changed, and what could not be mended.

    Raises
    ------
    InputError
        If it is no package, files are missing, its weights do not give its test output, or `out`
        cannot be written.
    """
    _check_places(path, out)
    with replace_whole(out) as temporary, tempfile.TemporaryDirectory(prefix="dcbmz-port-") as room:
        folder = Path(room)
        with open_package(path) as package:
            draft = draft_package(package, folder)
            _rewrite(draft, run_code)
        temporary.write_bytes(pack_stored(_collect_members(draft)))
        _say_objections(draft, temporary)
    return PortRecord(
        package=out.name,
        changed=tuple(draft.changed),
        left=tuple(draft.left),
        unchecked=tuple(draft.unchecked),
    )
