"""Where a state dict, its architecture file and ``architecture.kwargs`` contradict each other.

Nothing of the package is run: the file is parsed, names and shapes of the tensors are read. Of
other people's networks this tells whether the callable is there, takes the arguments, and has the
attributes that the tensors belong to; of this project's, what the arguments have to be.
"""

from __future__ import annotations

__all__ = [
    "OwnNetwork",
    "find_unfit_arguments",
    "find_unfit_outputs",
    "find_unfit_tensors",
    "find_unknown_callable",
    "read_own_network",
]

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepcontrast_bmz.package.architecture import Architecture, read_architecture, read_tensors
from deepcontrast_bmz.package.description import as_list, as_map, integer, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepcontrast_bmz.package.files import Package

CALLABLE = "DeepContrastLoop"
KINDS = {
    "DilatedNetwork": "dilated",
    "DilatedVolumeNetwork": "dilated_3d",
    "InvertibleNetwork": "invertible",
}
"""Networks that this project exports, by the class that the exported loop is made of."""


@dataclass(frozen=True)
class _Declared:
    """What a description says of the architecture of its state dict."""

    callable: str
    kwargs: dict[str, Any]
    file: Architecture | None
    """The source; None where the architecture is that of a library, or its file is missing."""
    file_name: str


def _read_declared(package: Package) -> _Declared | None:
    entry = package.view.weights.get("pytorch_state_dict")
    if entry is None:
        return None
    given = entry.get("architecture")
    if isinstance(given, str):
        # Format 0.4: file.py:Class, and the arguments beside it.
        source, _, name = given.rpartition(":")
        kwargs = as_map(entry.get("kwargs"))
    else:
        described = as_map(given)
        source, name = text(described.get("source")), text(described.get("callable"))
        kwargs = as_map(described.get("kwargs"))
    path = package.file(source) if source.endswith(".py") else None
    return _Declared(name, kwargs, None if path is None else read_architecture(path), source)


def find_unknown_callable(package: Package) -> Iterator[str]:
    """Yield a callable that the architecture file does not define."""
    declared = _read_declared(package)
    if declared is None or declared.file is None:
        return
    if declared.file.problem:
        yield declared.file.problem
    elif declared.callable not in declared.file.names and not declared.file.open_ended:
        yield f"{declared.callable or 'no callable'}, which {declared.file_name} does not define"


def find_unfit_arguments(package: Package) -> Iterator[str]:
    """Yield arguments that the callable does not take, and those that it needs and does not get."""
    declared = _read_declared(package)
    signature = (
        declared.file.find_signature(declared.callable) if declared and declared.file else None
    )
    if declared is None or signature is None:
        return
    if not signature.any_name:
        for name in sorted(declared.kwargs.keys() - signature.accepted):
            yield f"kwargs.{name}, which {declared.callable} does not take"
    for name in sorted(signature.required - declared.kwargs.keys()):
        yield f"no kwargs.{name}, which {declared.callable} needs"


def find_unfit_tensors(package: Package) -> Iterator[str]:
    """Yield where the tensors of the state dict are not those of the declared network."""
    path = package.weights_file("pytorch_state_dict")
    declared = _read_declared(package)
    if path is None or declared is None or declared.file is None:
        return
    tensors = read_tensors(path)
    if tensors.problem:
        # What else torch.load reads, the engines say.
        return
    attributes = declared.file.find_attributes(declared.callable)
    if attributes is not None:
        strange = sorted({n.split(".")[0] for n in tensors.shapes} - attributes)
        if strange:
            yield f"tensors of {', '.join(strange)}, which {declared.callable} does not have"
    own = read_own_network(package)
    if own is not None:
        yield from _find_contradictions(own.kind, tensors.shapes, declared.kwargs, "kwargs")
        described = _read_described_network(package)
        yield from _find_contradictions(own.kind, tensors.shapes, described, "config.dcbmz.network")
        for name in sorted(described.keys() & declared.kwargs.keys()):
            if described[name] != declared.kwargs[name]:
                yield (
                    f"kwargs.{name} {declared.kwargs[name]}, where config.dcbmz.network has "
                    f"{described[name]}"
                )


def find_unfit_outputs(package: Package) -> Iterator[str]:
    """Yield iterations that are not as many as the channels of the output."""
    own = read_own_network(package)
    if own is None or not package.view.outputs:
        return
    channel = package.view.outputs[0].channel
    iterations = integer(own.kwargs.get("iterations"))
    if channel is not None and channel.size is not None and channel.size != iterations:
        yield f"kwargs.iterations {iterations} for {channel.size} channels of the output"


# ------------------------------------------------------------------- networks of this project


@dataclass(frozen=True)
class OwnNetwork:
    """A network of this project, as the description declares it."""

    kind: str
    """``dilated``, ``dilated_3d`` or ``invertible``, by the class in the architecture file."""
    kwargs: dict[str, Any]
    """``architecture.kwargs``."""


def read_own_network(package: Package) -> OwnNetwork | None:
    """Return what a package declares of a network of this project; None for all other networks."""
    declared = _read_declared(package)
    if declared is None or declared.file is None or declared.callable != CALLABLE:
        return None
    used = declared.file.find_used(CALLABLE)
    kinds = [kind for name, kind in KINDS.items() if name in used]
    return OwnNetwork(kinds[0], declared.kwargs) if len(kinds) == 1 else None


def _read_described_network(package: Package) -> dict[str, Any]:
    config = as_map(as_map(package.rdf.get("config")).get("dcbmz"))
    return as_map(config.get("network"))


def _read_off(kind: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Return what the tensors say of the arguments: `width`, and how many layers there are."""
    sizes = {name.removeprefix("network."): shape for name, shape in shapes.items()}
    if kind == "invertible":
        levels = {m[1] for n in sizes if (m := re.match(r"couplings\.(\d+)\.", n))}
        first = sizes.get("couplings.0.0.of_coarse.one.weight")
        return {"width": first[0], "levels": len(levels) + 1} if first else {}
    first = sizes.get("first.weight")
    if not first:
        return {}
    width = first[0]
    hidden = [s for n, s in sizes.items() if re.fullmatch(r"hidden\.\d+\.weight", n)]
    found = {"width": width, "dilations": len(hidden)}
    if kind == "dilated_3d":
        found["mixing_layers"] = sum(1 for shape in hidden if shape[1:2] == (3 * width,))
    return found


def _find_contradictions(
    kind: str, shapes: dict[str, tuple[int, ...]], given: dict[str, Any], where: str
) -> Iterator[str]:
    found = _read_off(kind, shapes)
    if not found:
        yield f"no tensor of a {kind} network"
    for name, actual in found.items():
        if name not in given:
            continue
        if name == "dilations":
            count = len(as_list(given[name]))
            if count != actual:
                yield f"{where}.dilations of {count} layers, weights of {actual}"
        elif given[name] != actual:
            yield f"{where}.{name} {given[name]}, weights of {actual}"
