"""Who made a model and who answers for it, as given on the command line or in a recipe."""

from __future__ import annotations

__all__ = ["make_publication", "merge_publication", "parse_author", "parse_maintainer"]

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.settings import Maintainer, Person, PublicationSettings, describe_invalid

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse_maintainer(text: str) -> Maintainer:
    """Return the maintainer given as ``NAME:GITHUB_USER``.

    Raises
    ------
    InputError
        If there is no name, or no legal GitHub user.
    """
    name, _, user = (part.strip() for part in text.rpartition(":"))
    try:
        return Maintainer(name=name, github_user=user)
    except ValidationError as error:
        raise InputError(
            f"{text!r} is no maintainer: give NAME:GITHUB_USER, such as 'Ada Lovelace:ada-l'"
        ) from error


def parse_author(text: str) -> Person:
    """Return the author given as ``NAME[:GITHUB_USER[:ORCID[:AFFILIATION]]]``.

    Parts may be empty; the affiliation may hold colons.

    Raises
    ------
    InputError
        If there is no name, or a part is not what it should be.
    """
    parts = [part.strip() or None for part in text.split(":", 3)]
    keys = ("name", "github_user", "orcid", "affiliation")
    try:
        return Person.model_validate(dict(zip(keys, parts, strict=False)))
    except ValidationError as error:
        raise InputError(
            f"{describe_invalid(error, f'author {text!r}')}: give "
            "NAME:GITHUB_USER:ORCID:AFFILIATION, of which all but the name may be left out"
        ) from error


def make_publication(
    *,
    authors: Sequence[str] = (),
    maintainers: Sequence[str] = (),
    git_repo: str | None = None,
    version: str | None = None,
    training_data: str | None = None,
) -> PublicationSettings:
    """Return what a user gave, checked; people as for `parse_author` and `parse_maintainer`.

    Raises
    ------
    InputError
        If something is not what it should be.
    """
    values: dict[str, Any] = {
        "authors": [parse_author(author) for author in authors],
        "maintainers": [parse_maintainer(maintainer) for maintainer in maintainers],
        "git_repo": git_repo,
        "version": version,
        "training_data": training_data,
    }
    try:
        return PublicationSettings.model_validate(values)
    except ValidationError as error:
        raise InputError(describe_invalid(error, "the publication")) from error


def merge_publication(
    recorded: PublicationSettings, given: PublicationSettings | None
) -> PublicationSettings:
    """Return the settings of a recipe with what was given in their place."""
    if given is None:
        return recorded
    changes = {name: value for name, value in given if value not in (None, ())}
    return recorded.model_copy(update=changes)
