"""What an upload through bioimageio.spec would send, without sending it."""

from __future__ import annotations

__all__ = ["list_left_behind", "list_upload"]

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import yaml

from deepcontrast_bmz.check.zoo.records import SentFile
from deepcontrast_bmz.package.files import sha256_of

if TYPE_CHECKING:
    from deepcontrast_bmz.package.files import Package


def list_upload(package: Package) -> tuple[SentFile, ...]:
    """Return the files that bioimageio.spec's upload sends: the description and what it names.

    Read in bioimageio.spec 0.5.12.0, _package.py, get_package_content: every file that the
    description names, by its name without folders, and the description as ``rdf.yaml``.
    """
    written = yaml.safe_dump(package.rdf, sort_keys=False, allow_unicode=True)
    found = {
        "rdf.yaml": SentFile(
            name="rdf.yaml",
            size=len(written.encode()),
            sha256=None,
            source=package.rdf_name,
        )
    }
    for reference in package.references:
        name = PurePosixPath(reference.source.split("?")[0]).name
        path = package.file(reference.source)
        if path is None and not reference.remote:
            continue
        size, digest = (path.stat().st_size, sha256_of(path)) if path is not None else (None, None)
        found.setdefault(
            name, SentFile(name=name, size=size, sha256=digest, source=reference.source)
        )
    return tuple(found.values())


def list_left_behind(package: Package) -> tuple[str, ...]:
    """Return the files of a zip or folder that the description does not name."""
    if package.origin.is_file() and package.origin.suffix.lower() in (".yaml", ".yml"):
        return ()
    named = {(package.root / r.source).resolve() for r in package.references if not r.remote}
    named.add((package.root / package.rdf_name).resolve())
    files = (path for path in sorted(Path(package.root).rglob("*")) if path.is_file())
    return tuple(p.relative_to(package.root).as_posix() for p in files if p.resolve() not in named)
