"""Keeps foreign programs from talking over ours; what they say goes to our log."""

from __future__ import annotations

__all__ = ["quiet"]

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

log = logging.getLogger(__name__)


@contextmanager
def quiet() -> Generator[None]:
    """Send warnings and log lines of the judged programs to this module's debug log."""
    from loguru import logger

    names = ("bioimageio.core", "bioimageio.spec")
    for name in names:
        logger.disable(name)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            log.debug("%s: %s", warning.category.__name__, warning.message)
    finally:
        for name in names:
            logger.enable(name)
