"""Rules as data: the words of each stand in ``rules/NAME.toml``, what finds a breach in Python."""

from __future__ import annotations

__all__ = ["Rule", "apply_rules", "read_rules"]

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from deepcontrast_bmz.package.files import Package
    from deepcontrast_bmz.settings import Record

    AnyFinding = TypeVar("AnyFinding", bound=Record)
    Find = Callable[[Package], Iterable[str]]

WAY_OUT = (
    "dcbmz writes it so: `dcbmz export deepcontrast` for the shipped model, `dcbmz port PACKAGE` "
    "for any other"
)
"""How a user gets a package that opens in Fiji and QuPath, for rules that a folder for
bioimageio.core, or what ``bioimageio package`` makes of it, breaks."""


@dataclass(frozen=True)
class Rule:
    """One rule of one program, or of the zoo."""

    name: str
    """Its id: program, dot, a few words."""
    words: Mapping[str, str]
    """severity (an error fails the row, a warning does not), checks (what must hold), mend (what to
    change), source (where it was read or observed); of a program also column (what goes wrong) and
    sees (what its user would see)."""
    find: Find
    """Returns the value met at every breach; nothing if the rule holds."""


def read_rules(name: str, finders: Mapping[str, Find]) -> tuple[Rule, ...]:
    """Return the rules of ``rules/NAME.toml`` with what finds their breaches, in that order.

    Raises
    ------
    ValueError
        If words and finders are not of the same rules.
    """
    path = Path(__file__).parent / "rules" / f"{name}.toml"
    words: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    if words.keys() != finders.keys():
        raise ValueError(f"{path.name} and its finders differ: {words.keys() ^ finders.keys()}")
    return tuple(
        Rule(
            f"{name}.{key}",
            {"severity": "error", **said, "mend": said["mend"].format(way_out=WAY_OUT)},
            finders[key],
        )
        for key, said in words.items()
    )


def apply_rules(
    rules: Sequence[Rule], package: Package, record: type[AnyFinding]
) -> list[AnyFinding]:
    """Return one record per breach of the rules, errors first."""
    return [
        record.model_validate({"rule": rule.name, "met": met, **rule.words})
        for rule in sorted(rules, key=lambda rule: rule.words["severity"] != "error")
        for met in rule.find(package)
    ]
