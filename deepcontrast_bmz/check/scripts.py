"""What is said of the scripts that a package attaches for a program: they need the program."""

from __future__ import annotations

__all__ = ["describe_scripts"]

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import deepcontrast_bmz

if TYPE_CHECKING:
    from deepcontrast_bmz.package.files import Package

OWN = Path(deepcontrast_bmz.__file__).parent / "export" / "scripts"


def describe_scripts(package: Package, suffix: str, needs: str) -> tuple[str, ...]:
    """Return one sentence per attached script: it was not run, and whose text it has.

    Scripts are told by the `suffix` of their names; `needs` is what would run them.
    """
    said: list[str] = []
    for reference in package.references:
        name = PurePosixPath(reference.source).name
        if not reference.where.startswith("attachments") or not name.endswith(suffix):
            continue
        path = package.file(reference.source)
        if path is None:
            continue
        own = OWN / f"deepcontrast_{'fiji' if suffix == '.ijm' else 'qupath'}{suffix}"
        same = own.is_file() and own.read_bytes() == path.read_bytes()
        text = (
            "it is word for word the script of this version of dcbmz, whose tests run it in "
            f"{'the macro interpreter of ImageJ' if suffix == '.ijm' else 'Groovy'}"
            if same
            else "its text is not that of this version of dcbmz, and nothing is known of it"
        )
        said.append(f"{name} was not run, since it needs {needs}: {text}")
    return tuple(said)
