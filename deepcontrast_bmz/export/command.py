"""What ``dcbmz export`` does with a run or the name of a shipped model."""

from __future__ import annotations

__all__ = ["export_named"]

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.package import export_run, export_shipped, write_repository_model
from deepcontrast_bmz.export.rdf import Purpose
from deepcontrast_bmz.model.open import SHIPPED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepcontrast_bmz.settings import PublicationSettings


def export_named(
    name: str,
    out: Path,
    purpose: str,
    publication: PublicationSettings,
    options: Mapping[str, Any],
) -> Path:
    """Export a run folder, or a shipped model by its name, and return what was written.

    Parameters
    ----------
    name : str
        A shipped model if it is the name of one, as for `open_model`; else a folder.
    out : Path
        Package, or folder for a repository.
    purpose : str
        One of `Purpose`.
    publication : PublicationSettings
    options : mapping
        What else was asked for: iterations, card, name, sample, repository.

    Raises
    ------
    InputError
        If there is no such run or model, or an option cannot be used.
    """
    if purpose not in get_args(Purpose):
        raise InputError(f"a package is not written for {purpose!r}: give --for files or --for zoo")
    chosen = cast("Purpose", purpose)
    if name in SHIPPED:
        if options:
            asked = ", ".join(f"--{option}" for option in options)
            raise InputError(
                f"{asked} cannot be used for {name!r}, which is written as it was released: leave "
                "it out, or give a run folder"
            )
        return export_shipped(name, out, publication=publication, purpose=chosen)
    kept = {option: value for option, value in options.items() if option != "repository"}
    if "repository" not in options:
        return export_run(Path(name), out, publication=publication, purpose=chosen, **kept)
    if chosen != "files":
        raise InputError("--repository writes no package for the zoo: leave out --for zoo")
    return write_repository_model(Path(name), out, publication=publication, **kept)
