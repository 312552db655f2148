"""Fills the templates of an export with what is known of a model."""

from __future__ import annotations

__all__ = ["join_sizes", "render_template"]

import functools
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Iterable


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("deepcontrast_bmz", "export/templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    functions: dict[str, Any] = {"number": _number, "numbers": _numbers, "sizes": join_sizes}
    environment.globals.update(functions)
    return environment


def _number(value: float) -> str:
    return f"{value:g}"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def join_sizes(sides: Iterable[int]) -> str:
    """Return ``512 x 512``."""
    return " x ".join(map(str, sides))


def render_template(name: str, **values: Any) -> str:
    """Return a template of the folder ``templates``, filled."""
    return _environment().get_template(name).render(**values)
