"""BioEngine and other homes of older cores (bioimageio.core 0.9.6 to 0.10.4)."""

from __future__ import annotations

__all__ = ["PROGRAM", "measure"]

from functools import partial
from typing import TYPE_CHECKING

from deepcontrast_bmz.check import architecture
from deepcontrast_bmz.check import faults as breaches
from deepcontrast_bmz.check.engines.engine import read_engines
from deepcontrast_bmz.check.program import Program
from deepcontrast_bmz.check.rule import read_rules
from deepcontrast_bmz.package.description import as_list, as_map
from deepcontrast_bmz.package.weights import read_onnx_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepcontrast_bmz.check.engines.engine import Engine
    from deepcontrast_bmz.check.findings import Measured
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.package.files import Package

NEW_INPUT_KEYS = ("pad", "output_of")


def _find_new_input_keys(package: Package) -> Iterator[str]:
    for index, tensor in enumerate(as_list(package.rdf.get("inputs"))):
        for key in NEW_INPUT_KEYS:
            if key in as_map(tensor):
                yield f"inputs[{index}].{key}"


def _find_unfit_architecture(package: Package) -> Iterator[str]:
    yield from architecture.find_unknown_callable(package)
    yield from architecture.find_unfit_arguments(package)
    yield from architecture.find_unfit_tensors(package)


def _find_shared_node_names(package: Package) -> Iterator[str]:
    path = package.weights_file("onnx")
    facts = read_onnx_facts(path) if path is not None else None
    if facts is not None and facts.shared_names > 1:
        yield f"{facts.shared_names} Slice and Gather nodes without a name of their own"


RULES = read_rules(
    "bioengine",
    {
        "plain-text": breaches.find_maps_for_text,
        "format-version": breaches.find_new_patch_version,
        "new-input-keys": _find_new_input_keys,
        "architecture": _find_unfit_architecture,
        "script-frozen": breaches.find_unfrozen_interpolate,
        "onnx-version": partial(breaches.find_onnx_too_new, opset=21, ir_version=10),
        "onnx-node-names": _find_shared_node_names,
    },
)


def measure(session: Session, engine: Engine, measured: Measured) -> None:
    """Run BioEngine's core."""
    from deepcontrast_bmz.check.measure import handle_whole, run_real
    from deepcontrast_bmz.check.programs.running_core import run_old_core

    run_old_core(session, engine, measured)
    formats = ("torchscript", "onnx", "pytorch_state_dict")
    handling = handle_whole(padded=False)
    run_real(session, measured, engine, formats, handling, program="bioengine")
    if measured.passed.get("any_size"):
        measured.note("seams", "passed", "by its default, read: whole images")


PROGRAM = Program(
    "bioengine",
    "BioEngine and older cores (bioimageio.core 0.9.6 to 0.10.4, torch 2.5.1)",
    RULES,
    "no older bioimageio.core was run (--run core-0.10.4 does)",
    read_engines("bioengine"),
    measure,
)
