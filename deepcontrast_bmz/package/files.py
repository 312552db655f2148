"""Opens somebody's package as data: safe unzipping, safe YAML, and no line of its code run."""

from __future__ import annotations

__all__ = [
    "Package",
    "Reference",
    "load_tensor",
    "open_package",
    "pack_stored",
    "read_yaml",
    "sha256_of",
    "strip_lookups",
]

import copy
import hashlib
import io
import shutil
import stat
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import yaml

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.package.description import ModelView, as_list, as_map, text

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from numpy.typing import NDArray

RDF_NAMES = ("rdf.yaml", "bioimageio.yaml", "model.yaml", "rdf.yml", "model.yml")
YAML_BYTES = 4 * 2**20
YAML_NODES = 200_000
ZIP_ENTRIES = 10_000
ZIP_BYTES = 16 * 2**30
# Deflate reaches at most about 1030; weights and images reach 2 to 20.
ZIP_RATIO = 500
ZIP_RATIO_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Reference:
    """One file that a description names: where it stands, its source and the declared sha256."""

    where: str
    source: str
    sha256: str | None

    @property
    def remote(self) -> bool:
        """Whether the source is an address, not a file."""
        return "://" in self.source


@dataclass(frozen=True)
class Package:
    """A model package, opened: a folder, the file that describes it, and what that file says."""

    origin: Path
    """What the user named."""
    root: Path
    """Folder holding the files; temporary where the origin is a zip."""
    rdf_name: str
    """Name of the description in the folder."""
    rdf: dict[str, Any]
    """The description."""
    qupath_rdf: dict[str, Any] | None
    """``model.yaml`` beside it, which QuPath reads instead; None without one."""

    @cached_property
    def view(self) -> ModelView:
        """The description in the words of this project, the same for RDF 0.4 and 0.5."""
        return ModelView.read(self.rdf)

    @cached_property
    def qupath_view(self) -> ModelView:
        """The description that QuPath reads."""
        return self.view if self.qupath_rdf is None else ModelView.read(self.qupath_rdf)

    def file(self, source: str) -> Path | None:
        """Return the file a source names, or None if it is absent or lies outside the package."""
        if "://" in source or "\0" in source or not source:
            return None
        if source.startswith("/") or ".." in PurePosixPath(source).parts:
            return None
        path = (self.root / source).resolve()
        if not path.is_relative_to(self.root.resolve()) or not path.is_file():
            return None
        return path

    def weights_file(self, weights_format: str) -> Path | None:
        """Return the file of one weights format, or None if there is no such entry or file."""
        entry = self.view.weights.get(weights_format)
        return None if entry is None else self.file(text(entry.get("source")))

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """Every file that the description names."""
        return tuple(_references(self.rdf))


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in lower-case hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pack_stored(members: Mapping[str, bytes]) -> bytes:
    """Return a zip of files by name, in this order, the same bytes every time and everywhere."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return file.getvalue()


def load_tensor(package: Package, source: str) -> NDArray[Any] | None:
    """Return a test tensor, or None if it is no readable ``.npy`` file of the package."""
    path = package.file(source)
    if path is None:
        return None
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return loaded if isinstance(loaded, np.ndarray) else None


def strip_lookups(rdf: dict[str, Any]) -> dict[str, Any]:
    """Return the description without what the validator would look up on the internet.

    That is every github_user (a maintainer is nothing else), git_repo, and the address of a
    citation that has a DOI.
    """
    plain = copy.deepcopy(rdf)
    plain.pop("maintainers", None)
    plain.pop("git_repo", None)
    for author in as_list(plain.get("authors")):
        if isinstance(author, dict):
            cast("dict[str, Any]", author).pop("github_user", None)
    for cite in as_list(plain.get("cite")):
        if isinstance(cite, dict) and cast("dict[str, Any]", cite).get("doi"):
            cast("dict[str, Any]", cite).pop("url", None)
    return plain


def _entry(where: str, value: Any, sha256: Any = None) -> Iterator[Reference]:
    if isinstance(value, dict):
        entry = as_map(value)
        yield from _entry(where, entry.get("source"), entry.get("sha256"))
    elif isinstance(value, str):
        yield Reference(where, value, sha256 if isinstance(sha256, str) else None)


def _references(rdf: dict[str, Any]) -> Iterator[Reference]:
    for name, value in as_map(rdf.get("weights")).items():
        entry = as_map(value)
        where = f"weights.{name}"
        yield from _entry(where, entry)
        yield from _entry(f"{where}.external_data", entry.get("external_data"))
        yield from _entry(f"{where}.dependencies", as_map(entry.get("dependencies")))
        architecture = entry.get("architecture")
        if isinstance(architecture, dict):
            yield from _entry(f"{where}.architecture", architecture)
        elif isinstance(architecture, str) and ".py:" in architecture:
            file = architecture.rsplit(":", 1)[0]
            yield from _entry(f"{where}.architecture", file, entry.get("architecture_sha256"))
    for side in ("inputs", "outputs"):
        for index, tensor in enumerate(as_list(rdf.get(side))):
            for kind in ("test_tensor", "sample_tensor"):
                yield from _entry(f"{side}[{index}].{kind}", as_map(tensor).get(kind))
    for key in ("test_inputs", "test_outputs", "sample_inputs", "sample_outputs", "covers"):
        for index, value in enumerate(as_list(rdf.get(key))):
            yield from _entry(f"{key}[{index}]", value)
    yield from _entry("documentation", rdf.get("documentation"))
    attachments = rdf.get("attachments")
    files = as_map(attachments).get("files") if isinstance(attachments, dict) else attachments
    for index, value in enumerate(as_list(files)):
        yield from _entry(f"attachments[{index}]", value)


def _size(value: Any, known: dict[int, int], inside: frozenset[int]) -> int:
    """Count the nodes of a YAML value as if every alias were written out."""
    if not isinstance(value, dict | list):
        return 1
    key = id(cast("object", value))
    if key in inside:
        raise ValueError("it contains itself")
    if key not in known:
        children = list(value.values()) if isinstance(value, dict) else value
        known[key] = 1 + sum(_size(child, known, inside | {key}) for child in children)
    return known[key]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML map; nothing in it is constructed but plain values.

    Raises
    ------
    InputError
        If it is too large, no YAML, no map, or made to explode when its aliases are followed.
    """
    try:
        if path.stat().st_size > YAML_BYTES:
            raise InputError(
                f"{path.name} may hold {YAML_BYTES} bytes: is it really a description?"
            )
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        nodes = _size(value, {}, frozenset())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path.name} cannot be read as YAML: {reason}") from error
    if not isinstance(value, dict):
        raise InputError(
            f"{path.name} must hold a map of keys, not {type(value).__name__}: "
            "it does not describe a model"
        )
    if nodes > YAML_NODES:
        raise InputError(
            f"{path.name} may hold {YAML_NODES} values, not {nodes}: its aliases multiply them"
        )
    return as_map(value)


def _check_name(info: zipfile.ZipInfo, archive: Path) -> None:
    name = info.filename
    parts = PurePosixPath(name).parts
    if name.startswith(("/", "\\")) or "\\" in name or ".." in parts or ":" in name:
        raise InputError(
            f"{archive.name} holds an entry {name!r} that would be written outside its folder: "
            "do not unpack it anywhere"
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise InputError(
            f"{archive.name} holds a link, {name!r}, where only files are allowed: zip the file"
        )
    if info.flag_bits & 1:
        raise InputError(
            f"{archive.name} is encrypted at {name!r}: make a package without password"
        )


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip whose every entry is a plain file inside the folder and of honest size."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            if len(entries) > ZIP_ENTRIES:
                raise InputError(
                    f"{archive.name} may hold {ZIP_ENTRIES} files, not {len(entries)}: "
                    "it is not a model package"
                )
            seen: set[str] = set()
            for info in entries:
                _check_name(info, archive)
                if info.filename in seen:
                    raise InputError(
                        f"{archive.name} holds {info.filename!r} twice: programs differ in "
                        "which one they read, so pack it again"
                    )
                seen.add(info.filename)
            total = sum(info.file_size for info in entries)
            packed = max(archive.stat().st_size, 1)
            if total > ZIP_BYTES or (total > ZIP_RATIO_BYTES and total / packed > ZIP_RATIO):
                raise InputError(
                    f"{archive.name} would unpack from {packed} to {total} bytes, more than a "
                    "model package can: do not unpack it anywhere"
                )
            for info in entries:
                target = folder / info.filename
                if info.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                # ZipFile stops at the declared size, whatever the stream holds, and checks the CRC.
                with opened.open(info) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 2**20)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise InputError(
            f"{archive.name} is not a complete zip file ({error}): download or export it again"
        ) from error
    except OSError as error:
        raise InputError(f"{archive.name} cannot be unpacked: {error}") from error


def _find_description(folder: Path, origin: Path) -> str:
    for name in RDF_NAMES:
        if (folder / name).is_file():
            return name
    other = sorted(p.name for p in folder.iterdir() if p.name.endswith((".rdf.yaml", ".rdf.yml")))
    if other:
        return other[0]
    nested = sorted(
        path
        for name in RDF_NAMES
        for path in folder.glob(f"*/{name}")
        if path.parent.name != "__MACOSX"
    )
    if nested:
        raise InputError(
            f"{origin} must hold rdf.yaml at its root, where programs look for it, but has it in "
            f"{nested[0].relative_to(folder).as_posix()}: pack the files, not their folder"
        )
    raise InputError(f"{origin} is not a model package: it holds no rdf.yaml")


def _load(origin: Path, folder: Path, name: str) -> Package:
    rdf = read_yaml(folder / name)
    if not any(key in rdf for key in ("format_version", "inputs", "weights")):
        raise InputError(
            f"{name} of {origin} does not describe a model: it has neither format_version nor "
            "inputs nor weights"
        )
    kind = rdf.get("type", "model")
    if kind != "model":
        raise InputError(f"{origin} must describe a model, not a resource of type {kind!r}")
    second = folder / "model.yaml"
    qupath = read_yaml(second) if second.is_file() and second.name != name else None
    return Package(origin, folder, name, rdf, qupath)


@contextmanager
def open_package(path: Path) -> Generator[Package]:
    """Open a package: a zip, a folder, or the description inside a folder.

    Parameters
    ----------
    path : Path
        Zip file, folder, or YAML file.

    Yields
    ------
    Package
        Valid until the block ends; what was unpacked is then removed.

    Raises
    ------
    InputError
        If it is no package, cannot be read completely, or is unsafe to unpack.
    """
    if path.is_dir():
        yield _load(path, path, _find_description(path, path))
    elif not path.is_file():
        raise InputError(f"a package is a zip, a folder or an rdf.yaml, but {path} does not exist")
    elif path.suffix.lower() in (".yaml", ".yml"):
        yield _load(path, path.parent, path.name)
    else:
        with tempfile.TemporaryDirectory(prefix="dcbmz-check-") as temporary:
            folder = Path(temporary)
            _unpack(path, folder)
            yield _load(path, folder, _find_description(folder, path))
