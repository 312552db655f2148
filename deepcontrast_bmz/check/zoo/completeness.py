"""Which keys of a description are given: the zoo's metadata completeness, key by key.

bioimageio.spec 0.5.12.0, _internal/common_nodes.py: keys that are set over all keys, lists not
entered. With files at hand the spec sets the sha256 of a file that is named without one.
"""

from __future__ import annotations

__all__ = ["Completeness", "MissingKeys", "measure_completeness"]

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.package.description import as_map
from deepcontrast_bmz.package.files import strip_lookups

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deepcontrast_bmz.package.files import Package

Kind = Literal["give", "zoo", "leave"]

SET_BY_THE_ZOO = ("id", "id_emoji", "uploader", "version")
# Keys that say something only of some models.
OTHER_MODELS = (
    "config.stardist",
    "icon",
    "parent",
    "run_mode",
    "version_comment",
    "weights.keras_hdf5",
    "weights.keras_v3",
    "weights.onnx",
    "weights.pytorch_state_dict",
    "weights.tensorflow_js",
    "weights.tensorflow_saved_model_bundle",
    "weights.torchscript",
    "config.bioimageio.new_version",
)
ADVICE: Mapping[str, str] = {
    "authors": "name the people, with github_user and orcid",
    "config.bioimageio": "fill in the model card (training, evaluations, limits) as far as known",
    "config.bioimageio.environmental_impact": "give what is known of the training's energy",
    "config.bioimageio.evaluations": "describe a test set and its measures",
    "config.bioimageio.training": "describe the training",
    "covers": "add a picture of input and output, 2:1 or 1:1, under 500 kB",
    "documentation": "write a README.md with a heading Validation",
    "git_repo": "give the address of the repository",
    "license": "name an SPDX licence",
    "links": "name related resources of the zoo, such as ilastik/ilastik",
    "maintainers": "name who answers questions, with github_user",
    "packaged_by": "name who made the package, where that is not the authors",
    "training_data": "name the zoo's data set, or describe the training data",
}


@dataclass(frozen=True)
class MissingKeys:
    """Keys that are not given, below one that is not given either."""

    key: str
    """The topmost."""
    count: int
    """How many, itself among them."""
    kind: Kind
    """Whether the authors can give it, the zoo sets it, or it is for other models."""
    mend: str
    """What to do."""


@dataclass(frozen=True)
class Completeness:
    """How complete a description is."""

    given: int
    total: int
    missing: tuple[MissingKeys, ...]
    problem: str = ""
    """Why it is not valid; it then counts as 0."""

    @property
    def value(self) -> float:
        """Share of the keys that are given."""
        return self.given / self.total if self.total else 0.0


def _keys(value: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, entry in value.items():
        key = f"{above}.{name}" if above else name
        yield key
        if isinstance(entry, dict):
            yield from _keys(as_map(entry), key)


def _advice(key: str) -> tuple[Kind, str]:
    if key in SET_BY_THE_ZOO:
        return "zoo", "the zoo sets it"
    if key.startswith(OTHER_MODELS) and key not in ADVICE:
        return "leave", "leave it out unless it says something true of this model"
    return "give", ADVICE.get(key, "give it")


def _grouped(missing: set[str]) -> tuple[MissingKeys, ...]:
    def top(key: str) -> str:
        parts = key.split(".")
        above = (".".join(parts[:n]) for n in range(1, len(parts)))
        return next((name for name in above if name in missing), key)

    counts: dict[str, int] = {}
    for key in missing:
        counts[top(key)] = counts.get(top(key), 0) + 1
    found = [MissingKeys(key, count, *_advice(key)) for key, count in counts.items()]
    return tuple(sorted(found, key=lambda m: (-m.count, m.kind, m.key)))


def _read(rdf: Mapping[str, Any], root: Path, name: str, files: bool) -> tuple[Any, str]:
    """Return the description as bioimageio.spec reads it, and why it is refused."""
    with quiet():
        from bioimageio.spec import InvalidDescr, ValidationContext, build_description

        context = ValidationContext(root=root, file_name=name, perform_io_checks=files)
        try:
            description = build_description(copy.deepcopy(dict(rdf)), context=context)
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"
        if isinstance(description, InvalidDescr):
            errors = [e for d in description.validation_summary.details for e in d.errors]
            said = [f"{'.'.join(map(str, e.loc))}: {e.msg}" for e in errors]
            return None, " ".join("; ".join(said[:3]).split())[:300] or "it is refused"
    return description, ""


def _both(description: Any) -> tuple[set[str], set[str]]:
    """Return the keys that are given, and all keys."""
    given = description.model_dump(mode="json", exclude_unset=True)
    return set(_keys(given)), set(_keys(description.model_dump(mode="json")))


def measure_completeness(package: Package, rdf: Mapping[str, Any] | None = None) -> Completeness:
    """Count the keys of a description as bioimageio.spec does, without a network.

    `rdf` is another description of the same files, whose hashes the spec adds; None is the
    package's.
    """
    described = dict(package.rdf if rdf is None else rdf)
    description, problem = _read(described, package.root, package.rdf_name, files=False)
    if description is None:
        return Completeness(0, 0, (), problem)
    given, total = _both(description)
    # Only what needs no look-up can be read with its files, so only what they add is taken.
    plain = strip_lookups(described)
    without, _ = _read(plain, package.root, package.rdf_name, files=False)
    with_files, problem = _read(plain, package.root, package.rdf_name, files=True)
    if with_files is None:
        return Completeness(0, 0, (), problem)
    if without is not None:
        given |= _both(with_files)[0] - _both(without)[0]
    return Completeness(len(given & total), len(total), _grouped(total - given))
