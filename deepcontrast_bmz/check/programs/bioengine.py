"""BioEngine and other homes of older cores (bioimageio.core 0.9.6 to 0.10.4)."""

from __future__ import annotations

__all__ = ["PROGRAM", "measure"]

from functools import partial
from typing import TYPE_CHECKING

from deepcontrast_bmz.check import architecture
from deepcontrast_bmz.check import faults as breaches
from deepcontrast_bmz.check.engines.engine import Engine
from deepcontrast_bmz.check.program import Program
from deepcontrast_bmz.check.rule import read_rules
from deepcontrast_bmz.package.description import as_list, as_map
from deepcontrast_bmz.package.weights import onnx_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepcontrast_bmz.check.findings import Measured
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.package.files import Package

NEW_INPUT_KEYS = ("pad", "output_of")


def _new_input_keys(package: Package) -> Iterator[str]:
    for index, tensor in enumerate(as_list(package.rdf.get("inputs"))):
        for key in NEW_INPUT_KEYS:
            if key in as_map(tensor):
                yield f"inputs[{index}].{key}"


def _unfit_architecture(package: Package) -> Iterator[str]:
    yield from architecture.unknown_callable(package)
    yield from architecture.unfit_arguments(package)
    yield from architecture.unfit_tensors(package)


def _shared_node_names(package: Package) -> Iterator[str]:
    path = package.weights_file("onnx")
    facts = onnx_facts(path) if path is not None else None
    if facts is not None and facts.shared_names > 1:
        yield f"{facts.shared_names} Slice and Gather nodes without a name of their own"


RULES = read_rules(
    "bioengine",
    {
        "plain-text": breaches.maps_for_text,
        "format-version": breaches.new_patch_version,
        "new-input-keys": _new_input_keys,
        "architecture": _unfit_architecture,
        "script-frozen": breaches.unfrozen_interpolate,
        "onnx-version": partial(breaches.onnx_too_new, opset=21, ir_version=10),
        "onnx-node-names": _shared_node_names,
    },
)

ENGINES = (
    Engine(
        "core-0.10.4",
        "environment",
        "BioEngine's bioimageio.core with its onnxruntime 1.20.1: its test and its values",
        ("runs", "right_values", "any_size"),
    ),
)


def measure(session: Session, engine: Engine, measured: Measured) -> None:
    """Run BioEngine's core."""
    from deepcontrast_bmz.check.measure import run_real, whole_image
    from deepcontrast_bmz.check.programs.running_core import run_old_core

    run_old_core(session, engine, measured)
    formats = ("torchscript", "onnx", "pytorch_state_dict")
    handling = whole_image(padded=False)
    run_real(session, measured, engine, formats, handling, program="bioengine")
    if measured.passed.get("any_size"):
        measured.note("seams", "passed", "by its default, read: whole images")


PROGRAM = Program(
    "bioengine",
    "BioEngine and older cores (bioimageio.core 0.9.6 to 0.10.4, torch 2.5.1)",
    RULES,
    "no older bioimageio.core was run (--run core-0.10.4 does)",
    ENGINES,
    measure,
)
