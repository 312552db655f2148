"""A package on its way into the dialect: its description, its files in one folder, what was done.

Opened as data: no line of the package's code is run here.
"""

from __future__ import annotations

__all__ = ["CONFIG_KEY", "Draft", "draft_package", "short"]

import copy
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.package.description import as_list, as_map, text
from deepcontrast_bmz.package.files import sha256_of, strip_lookups

if TYPE_CHECKING:
    from deepcontrast_bmz.package.files import Package

CONFIG_KEY = "dcbmz_port"
"""Where in `config` stands what the dialect has no place for."""

_OWN_NAMES = {"rdf.yaml", "model.yaml"}
_FILE_KEYS = ("documentation", "icon")


def short(error: object) -> str:
    """Return an error's words on one line, without the full stop that a sentence adds.

    The words of what caused it follow in brackets, unless it repeats them: a library that fails to
    import somebody's file hides there what is missing.
    """
    words = " ".join(str(error).split())[:200].rstrip(".")
    cause = getattr(error, "__cause__", None)
    behind = "" if cause is None else short(cause)
    return words if behind in words else f"{words} ({behind})"


@dataclass
class Draft:
    """What is written in the end, and what was done until then."""

    rdf: dict[str, Any]
    """The description, format 0.5."""
    folder: Path
    """Holds the files, flat."""
    package: Package
    """What was given; never changed."""
    changed: list[str] = field(default_factory=list[str])
    """Sentences."""
    left: list[str] = field(default_factory=list[str])
    """What could not be mended, sentences."""
    unchecked: list[str] = field(default_factory=list[str])
    """What was not run or not compared, and why, sentences."""
    moved: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the dialect has no place for."""

    def change(self, sentence: str) -> None:
        """Note what was changed, once."""
        if sentence not in self.changed:
            self.changed.append(sentence)

    def leave(self, sentence: str) -> None:
        """Note what could not be mended, once."""
        if sentence not in self.left:
            self.left.append(sentence)

    def skip(self, sentence: str) -> None:
        """Note what was not run or compared, once."""
        if sentence not in self.unchecked:
            self.unchecked.append(sentence)

    def entry(self, name: str) -> dict[str, Any]:
        """Return how the description points to a file in the folder."""
        return {"source": name, "sha256": sha256_of(self.folder / name)}

    def free_name(self, wanted: str) -> str:
        """Return a file name that is not taken yet and that every system takes."""
        safe = re.sub(r"[^\w.+-]", "_", wanted, flags=re.ASCII).lstrip(".") or "file"
        stem, suffix = PurePosixPath(safe).stem, PurePosixPath(safe).suffix
        name, count = safe, 1
        taken = {path.name.lower() for path in self.folder.iterdir()} | _OWN_NAMES
        while name.lower() in taken:
            count += 1
            name = f"{stem}_{count}{suffix}"
        return name

    def tensors(self, side: str) -> list[dict[str, Any]]:
        """Return the inputs or the outputs that are maps."""
        entries = as_list(self.rdf.get(side))
        return [cast("dict[str, Any]", e) for e in entries if isinstance(e, dict)]


def _copy_plain(value: Any) -> Any:
    """Return a copy of plain values with text keys."""
    if isinstance(value, dict):
        return {str(k): _copy_plain(v) for k, v in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_copy_plain(v) for v in cast("list[Any]", value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _upgrade(package: Package) -> dict[str, Any]:
    """Return a 0.4 description as the reference library writes it in 0.5."""
    with quiet():
        from bioimageio.spec import InvalidDescr, ValidationContext, build_description
        from bioimageio.spec import dump_description as dump

        context = ValidationContext(
            root=package.root, file_name=package.rdf_name, perform_io_checks=False
        )
        plain = strip_lookups(package.rdf)
        built = build_description(copy.deepcopy(plain), context=context, format_version="latest")
        if isinstance(built, InvalidDescr):
            errors = [
                f"{'.'.join(map(str, error.loc))}: {error.msg}"
                for detail in built.validation_summary.details
                for error in detail.errors
            ]
            words = " ".join((errors or ["no reason"])[0].split())[:300]
            raise InputError(
                f"a 0.4 description must be a valid one to be rewritten, but {package.rdf_name} is "
                f"not ({words}): correct it first"
            )
        upgraded = _copy_plain(dump(built, exclude_unset=False))
    # These were left out so that nothing is looked up on the internet.
    for key in ("authors", "maintainers", "cite", "git_repo"):
        if package.rdf.get(key):
            upgraded[key] = _copy_plain(package.rdf[key])
    for cite in as_list(upgraded.get("cite")):
        # 0.4 wrote some DOIs as addresses.
        entry = as_map(cite)
        if text(entry.get("doi")).startswith("http"):
            cite["doi"] = re.sub(r"^https?://(dx\.)?doi\.org/", "", text(entry["doi"]))
    return upgraded


def _drop_nulls(value: Any, where: str, found: list[str]) -> Any:
    if isinstance(value, dict):
        kept: dict[str, Any] = {}
        for key, entry in cast("dict[str, Any]", value).items():
            place = f"{where}.{key}" if where else key
            if entry is None:
                found.append(place)
            else:
                kept[key] = _drop_nulls(entry, place, found)
        return kept
    if isinstance(value, list):
        entries = cast("list[Any]", value)
        found += [f"{where}[{i}]" for i, entry in enumerate(entries) if entry is None]
        return [_drop_nulls(e, f"{where}[]", found) for e in entries if e is not None]
    return value


class _Files:
    """Copies every file a description names into one folder, and renames it there."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.names: dict[str, str] = {}

    def take(self, where: str, source: str, sha256: str | None) -> str | None:
        """Return the flat name of a file, None if it is not there."""
        needed = where.startswith("weights") or ".test_tensor" in where
        if "://" in source:
            if needed:
                raise InputError(
                    f"a package holds its weights and test tensors, but {where} is an address, "
                    f"{source}: download the package whole"
                )
            return source
        path = self.draft.package.file(source)
        if path is None:
            if needed:
                raise InputError(
                    f"a package holds the files it names, but {where} is {source!r}, which is not "
                    "in it: add the file"
                )
            self.draft.change(f"{where} named {source!r}, which is not in the package: left out.")
            return None
        actual = sha256_of(path)
        if sha256 is not None and sha256.lower() != actual:
            self.draft.change(
                f"{where}: {source} has the sha256 {actual[:12]}..., not {sha256[:12]}... as was "
                "said: it was damaged or exchanged, or the number was never brought up to date. "
                "The file's own is written; make sure that it is the right file."
            )
        if source not in self.names:
            name = self.draft.free_name(PurePosixPath(source).name)
            shutil.copyfile(path, self.draft.folder / name)
            self.names[source] = name
            if name != source:
                self.draft.change(f"{source} lies in the root of the package, as {name}.")
        return self.names[source]

    def rewrite(self, value: Any, where: str) -> Any:
        """Return a part of the description with flat names; None where a file is missing."""
        if isinstance(value, list):
            parts = [
                self.rewrite(v, f"{where}[{i}]") for i, v in enumerate(cast("list[Any]", value))
            ]
            return [part for part in parts if part is not None]
        if not isinstance(value, dict):
            return value
        entry = cast("dict[str, Any]", value)
        source = entry.get("source")
        if not isinstance(source, str):
            rewritten = {k: self.rewrite(v, f"{where}.{k}") for k, v in entry.items()}
            return {k: v for k, v in rewritten.items() if v is not None}
        name = self.take(where, source, text(entry.get("sha256")) or None)
        if name is None:
            return None
        here = {} if "://" in name else self.draft.entry(name)
        rest = {k: v for k, v in entry.items() if k not in ("source", "sha256")}
        others = {k: self.rewrite(v, f"{where}.{k}") for k, v in rest.items()}
        return {"source": name, **here, **{k: v for k, v in others.items() if v is not None}}


def _check_portable(package: Package) -> None:
    version = package.view.version
    if version.split(".")[:2] not in (["0", "4"], ["0", "5"]):
        raise InputError(
            f"a package to port has format_version 0.4 or 0.5, not {version or 'none'}: "
            "bring it to one of these first"
        )
    if not package.view.weights:
        raise InputError(f"a package to port has weights, but {package.rdf_name} names none")


def _read_source(value: Any) -> tuple[str, str | None]:
    """Return source and sha256 of a file that is named alone or in a map."""
    entry = as_map(value)
    source = value if isinstance(value, str) else text(entry.get("source"))
    return source, text(entry.get("sha256")) or None


def _take_texts(draft: Draft, files: _Files) -> None:
    """Copy documentation and icon, and name them alone."""
    for key in _FILE_KEYS:
        value = draft.rdf.get(key)
        source, sha256 = _read_source(value)
        if not source or (key == "icon" and draft.package.file(source) is None):
            continue
        name = files.take(key, source, sha256)
        draft.rdf.pop(key)
        if name is None:
            continue
        draft.rdf[key] = name
        if isinstance(value, dict):
            draft.change(f"{key} is a file name, not a map.")


def _take_covers(draft: Draft, files: _Files) -> None:
    """Copy the covers, and name them alone."""
    covers: list[str] = []
    for index, cover in enumerate(as_list(draft.rdf.pop("covers", None))):
        name = files.take(f"covers[{index}]", *_read_source(cover))
        covers += [] if name is None else [name]
        if isinstance(cover, dict):
            draft.change("covers are file names, not maps.")
    if covers:
        draft.rdf["covers"] = covers


def draft_package(package: Package, folder: Path) -> Draft:
    """Copy a package into an empty folder, flat, with a 0.5 description without nulls.

    Raises
    ------
    InputError
        If weights or test tensors are missing or remote, or a 0.4 description is invalid.
    """
    _check_portable(package)
    rdf: dict[str, Any] = _upgrade(package) if package.view.is_04 else _copy_plain(package.rdf)
    draft = Draft(rdf, folder, package)
    if package.rdf_name != "rdf.yaml":
        draft.change(f"The description is called rdf.yaml, not {package.rdf_name}.")
    nulls: list[str] = []
    config = as_map(rdf.pop("config", None))
    rdf = as_map(_drop_nulls(rdf, "", nulls))
    if package.view.is_04:
        draft.change(f"The description is of format 0.5.4, not {package.view.version}.")
    elif nulls:
        shown = ", ".join(nulls[:4]) + (" ..." if len(nulls) > 4 else "")
        draft.change(f"Keys that hold null are left out: {shown}.")
    draft.rdf = rdf
    files = _Files(draft)
    _take_texts(draft, files)
    _take_covers(draft, files)
    for key in ("weights", "inputs", "outputs", "attachments"):
        if key in rdf:
            rdf[key] = files.rewrite(rdf[key], key)
    rdf["config"] = config
    return draft
