"""One package while it is run: what its engines share."""

from __future__ import annotations

__all__ = ["Session"]

import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from deepcontrast_bmz.check.compare import Bench
from deepcontrast_bmz.check.engines import environments
from deepcontrast_bmz.package.files import strip_lookups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.check.engines.environments import CoreTest
    from deepcontrast_bmz.package.files import Package


@dataclass
class Session:
    """One package while it is run; what was copied is removed when its block ends."""

    package: Package
    run_code: bool
    _temporary: list[tempfile.TemporaryDirectory[str]] = field(
        default_factory=list[tempfile.TemporaryDirectory[str]]
    )
    _tested: dict[str, dict[str, CoreTest]] = field(
        default_factory=dict[str, "dict[str, CoreTest]"]
    )

    @cached_property
    def bench(self) -> Bench:
        """The images and comparisons; `NotPossibleError` if nothing can be compared."""
        return Bench(self.package, self.run_code)

    @cached_property
    def offline_copy(self) -> Path:
        """A copy of the files that are named, with a description that needs no internet."""
        self._temporary.append(tempfile.TemporaryDirectory(prefix="dcbmz-check-"))
        folder = Path(self._temporary[-1].name)
        for reference in self.package.references:
            source = self.package.file(reference.source)
            if source is not None:
                target = folder / reference.source
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        description = folder / "rdf.yaml"
        plain = strip_lookups(self.package.rdf)
        description.write_text(
            yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        return description

    def test_in(self, environment: str, formats: Sequence[str]) -> dict[str, CoreTest]:
        """Return the test of another bioimageio.core, a ``core-...``; each format is run once."""
        known = self._tested.setdefault(environment, {})
        missing = [name for name in formats if name not in known]
        if missing:
            copied = self.offline_copy
            known.update(environments.check_in_environment(environment, copied, missing))
        return {name: known[name] for name in formats}

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        for temporary in self._temporary:
            temporary.cleanup()
