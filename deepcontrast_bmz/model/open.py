"""Opens a MODEL: a run folder, a package, or a shipped model by its name.

A package is read as data. Its weights are checked against their sha256 and the state dict is
loaded into the network that ``config.dcbmz`` describes; the Python file that packages carry for
other programs is never run.
"""

from __future__ import annotations

__all__ = ["SHIPPED", "OpenedLoop", "find_shipped_folder", "open_loop", "open_model"]

import hashlib
import importlib.resources
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.model.build import wrap_graph, wrap_loop
from deepcontrast_bmz.model.devices import choose_device
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.model import WEIGHTS_FORMATS, Model, Origin, WeightsFormat
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.model.run_folder import describe_run, read_run
from deepcontrast_bmz.model.weights import load_onnx, load_state, load_torchscript
from deepcontrast_bmz.package.description import as_map
from deepcontrast_bmz.package.files import open_package
from deepcontrast_bmz.records import LoopDescription
from deepcontrast_bmz.settings import describe_invalid

if TYPE_CHECKING:
    from collections.abc import Generator

    from deepcontrast_bmz.package.files import Package

SHIPPED = ("deepcontrast",)
"""Names of the models that come with this project."""


class _Target(NamedTuple):
    """Which weights to run, and where."""

    weights: str | None
    """None for the first that there are."""
    device: str
    insisted: bool
    """The user named the device; another one must not be taken."""


def open_model(name: str | Path, *, weights: str | None = None, device: str = "auto") -> Model:
    """Open a model.

    Parameters
    ----------
    name : str or Path
        A finished run folder, a package (folder, zip or its description, ``rdf.yaml`` or
        ``bioimageio.yaml``), or the name of a shipped model. A str that is the name of a shipped
        model is taken for that, a Path for a path.
    weights : {'pytorch_state_dict', 'torchscript', 'onnx'}, optional
        Which weights to run; the first of these that the model has, if left out.
    device : {'auto', 'cpu', 'cuda', 'mps'}
        Where to run.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        If there is no such model, it is broken, or the device is not there.
    """
    if weights is not None and weights not in WEIGHTS_FORMATS:
        raise InputError(
            f"weights are one of {', '.join(WEIGHTS_FORMATS)}, not {weights!r}: choose one of them"
        )
    path, shipped = _locate(name)
    # Only where the user insists on a device is another one an error.
    target = _Target(weights, choose_device(device), insisted=device != "auto")
    with _reading(name):
        if not shipped and _is_run(path):
            model = _open_run(path, target)
        else:
            model = _open_package(path, target, title=str(name) if shipped else None)
    options = (("weights", weights), ("device", device))
    return replace(model, origin=Origin(str(name if shipped else path.absolute()), options))


def _locate(name: str | Path) -> tuple[Path, bool]:
    """Return where a model lies, and whether it is a shipped one."""
    path = Path(name)
    shipped = str(name) in SHIPPED and (isinstance(name, str) or not path.exists())
    return (find_shipped_folder() / "rdf.yaml" if shipped else path), shipped


@contextmanager
def _reading(name: str | Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the model {name} cannot be read ({error.strerror or error}): "
            "check the file and its permissions"
        ) from error


class OpenedLoop(NamedTuple):
    """A trained loop as torch trains it, not yet made fast."""

    name: str
    """Of a shipped model its name, else that of the file or folder."""
    loop: Loop
    description: LoopDescription
    """What is known of the loop."""
    sha256: str
    """Of its weights file."""


def open_loop(name: str | Path) -> OpenedLoop:
    """Open the network of a model, named as for `open_model`, to train it further.

    Raises
    ------
    InputError
        If there is no such model, it is broken, or it holds no weights that can be trained.
    """
    path, shipped = _locate(name)
    with _reading(name):
        if shipped or not _is_run(path):
            found = _open_packed_loop(path)
        else:
            recipe, record, loop = read_run(path)
            sha256 = _hash((path / "weights.pt").read_bytes())
            found = OpenedLoop("", loop, describe_run(recipe, record, loop), sha256)
    return found._replace(name=str(name) if shipped else path.resolve().name)


def _open_packed_loop(path: Path) -> OpenedLoop:
    with open_package(path) as package:
        what = f"{package.rdf_name} of {path}"
        description = _describe(package, what)
        entries = as_map(package.rdf.get("weights"))
        chosen = _choose_weights(entries, "pytorch_state_dict", what)
        data = _read_verified(package, as_map(entries[chosen]), chosen, what)
    loop = _build_loop(description, what)
    load_state(loop, data, f"{chosen} weights of {path}")
    return OpenedLoop("", loop, description, _hash(data))


def _is_run(path: Path) -> bool:
    """Say whether a path is a run folder; raise `InputError` if it is no package either."""
    if path.is_dir():
        if (path / "recipe.toml").is_file():
            return True
        # A package zipped or copied within its folder is told what is wrong with it.
        if any(next(path.glob(f"{below}*.y*ml"), None) for below in ("", "*/")):
            return False
    elif path.is_file() and path.suffix.lower() in (".yaml", ".yml", ".zip"):
        return False
    met = "holds neither recipe.toml nor rdf.yaml" if path.is_dir() else "is none of them"
    if not path.exists():
        met = "does not exist"
    raise InputError(
        f"a MODEL is a run folder, a package (folder, .zip or rdf.yaml) or the name of a shipped "
        f"model ({', '.join(SHIPPED)}), but {path} {met}: name one of these"
    )


def find_shipped_folder() -> Path:
    """Return the folder of the shipped model: in the installed package, or a checkout."""
    package = Path(str(importlib.resources.files("deepcontrast_bmz")))
    installed = package / "shipped"
    return installed if (installed / "rdf.yaml").is_file() else package.parent


def _open_run(folder: Path, target: _Target) -> Model:
    if target.weights not in (None, "pytorch_state_dict"):
        raise InputError(
            f"a run folder holds pytorch_state_dict weights, not {target.weights}: "
            f"export {folder} with dcbmz export, then open the package"
        )
    recipe, record, loop = read_run(folder)
    description = describe_run(recipe, record, loop)
    model = wrap_loop(loop, folder.resolve().name, description, target.device)
    return replace(model, sha256=_hash((folder / "weights.pt").read_bytes()))


def _open_package(path: Path, target: _Target, title: str | None = None) -> Model:
    with open_package(path) as package:
        what = f"{package.rdf_name} of {path}"
        description = _describe(package, what)
        entries = as_map(package.rdf.get("weights"))
        chosen = _choose_weights(entries, target.weights, what)
        data = _read_verified(package, as_map(entries[chosen]), chosen, what)
        described_by = path if path.is_file() else package.root / package.rdf_name
        sha256 = _hash(described_by.read_bytes())
        name = title or str(package.rdf.get("name") or path)
    loop = _build_loop(description, what)
    where, device = f"{chosen} weights of {path}", target.device
    if chosen == "pytorch_state_dict":
        load_state(loop, data, where)
        return replace(wrap_loop(loop, name, description, device), sha256=sha256)
    if chosen == "torchscript":
        graph = load_torchscript(data, device, where)
    else:
        graph, device = load_onnx(data, device, where, insisted=target.insisted)
    model = wrap_graph(graph, loop, name, description, chosen, device)
    return replace(model, sha256=sha256)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _describe(package: Package, what: str) -> LoopDescription:
    """Return what a package of this project says of its loop."""
    described = as_map(package.rdf.get("config")).get("dcbmz")
    if described is None:
        raise InputError(
            f"{what} has no config.dcbmz, so it is not a package of this project: "
            "run it with bioimageio predict"
        )
    try:
        return LoopDescription.model_validate(described)
    except ValidationError as error:
        raise InputError(describe_invalid(error, f"config.dcbmz in {what}")) from error


def _choose_weights(entries: dict[str, Any], asked: str | None, what: str) -> WeightsFormat:
    there: list[WeightsFormat] = [name for name in WEIGHTS_FORMATS if name in entries]
    if not there or (asked is not None and asked not in there):
        raise InputError(
            f"{what} has weights {', '.join(map(str, entries)) or 'none'}, but "
            f"{asked or ' or '.join(WEIGHTS_FORMATS)} was asked for: choose what is there"
        )
    return next(name for name in there if asked in (None, name))


def _read_verified(package: Package, entry: dict[str, Any], name: str, what: str) -> bytes:
    """Return the bytes of a weights file, if they are what the description says they are."""
    source, expected = entry.get("source"), entry.get("sha256")
    if not isinstance(source, str) or not isinstance(expected, str):
        raise InputError(
            f"weights.{name} in {what} needs a source and a sha256, both text: export it again"
        )
    if "://" in source:
        raise InputError(
            f"weights.{name} in {what} lies at {source}, and nothing is fetched: "
            "download the whole package"
        )
    path = package.file(source)
    if path is None:
        raise InputError(
            f"weights.{name} in {what} names {source!r}, but the package holds no such file inside "
            "it: export or download it again"
        )
    data = path.read_bytes()
    found = _hash(data)
    if found != expected.lower():
        raise InputError(
            f"the sha256 of {source} should be {expected:.16}... by {what}, but is {found:.16}...: "
            "the file is damaged or was exchanged, get the package again"
        )
    return data


def _build_loop(description: LoopDescription, what: str) -> Loop:
    loop = Loop(build_network(description.network), description.iterations)
    if loop.radius != description.radius_px:
        raise InputError(
            f"radius_px of the network that config.dcbmz in {what} describes is {loop.radius}, "
            f"not {description.radius_px}: export it again"
        )
    planes = loop.radii[0] if loop.dims == 3 else None
    if (loop.dims, planes) != (description.dims, description.radius_planes):
        raise InputError(
            f"dims and radius_planes of the network that config.dcbmz in {what} describes are "
            f"{loop.dims} and {planes}, not {description.dims} and {description.radius_planes}: "
            "export it again"
        )
    return loop
