"""Where downloads and environments are kept between runs."""

from __future__ import annotations

__all__ = ["VARIABLE", "make_cache_folder"]

import os
from pathlib import Path

from deepcontrast_bmz.errors import InputError

VARIABLE = "DCBMZ_CACHE"
"""Environment variable that names another folder."""


def make_cache_folder(*parts: str) -> Path:
    """Return a folder for what may be made or downloaded again, and create it.

    Raises
    ------
    InputError
        If the folder cannot be made.
    """
    named = os.environ.get(VARIABLE)
    if named:
        root = Path(named).expanduser().absolute()
    else:
        from platformdirs import user_cache_path

        root = user_cache_path("deepcontrast_bmz")
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"downloads are kept in a folder that can be made, and {folder} cannot "
            f"({error.strerror}): name another with the variable {VARIABLE}"
        ) from error
    return folder
