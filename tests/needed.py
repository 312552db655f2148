"""What a test does where a foreign program is missing: it skips, or fails where it must not."""

from __future__ import annotations

import os

import pytest


def require(reason: str | None) -> None:
    """Skip with the reason if there is one; fail where `DCBMZ_ENGINES` is ``required``."""
    if reason is None:
        return
    if os.environ.get("DCBMZ_ENGINES") == "required":
        pytest.fail(f"something is missing that may not be missing here: {reason}", pytrace=False)
    pytest.skip(reason)
