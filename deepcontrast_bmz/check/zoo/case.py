"""One package before the zoo's judges, and what several of them ask to be run."""

from __future__ import annotations

__all__ = ["Case", "Reproduced", "give_id"]

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from deepcontrast_bmz.check.engines import environments
from deepcontrast_bmz.check.engines.networks import RUNNABLE, explain_not_run
from deepcontrast_bmz.check.engines.process import shorten
from deepcontrast_bmz.check.zoo.completeness import Completeness, measure_completeness
from deepcontrast_bmz.package.description import as_map, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deepcontrast_bmz.check.engines.environments import CoreTest
    from deepcontrast_bmz.check.findings import Row
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.package.files import Package

PUBLISHED_ID = "adjective-animal"


@dataclass(frozen=True)
class Reproduced:
    """Whether a bioimageio.core reproduced the test output with one weights format."""

    done: bool
    """Its step "Reproduce test outputs" passed."""
    complete: bool
    """All of its test passed, other sizes too."""
    words: str
    """What it said where not."""


def give_id(package: Package) -> Package:
    """Return the package with an id, as the zoo gives one, where it has none."""
    if text(package.rdf.get("id")):
        return package
    return dataclasses.replace(package, rdf={**package.rdf, "id": PUBLISHED_ID})


def _judge(name: str, test: CoreTest) -> Reproduced:
    errors = [remark for remark in test.remarks if remark.error]
    stopped = test.status not in ("passed", "valid-format")
    failed = stopped or any(remark.where.startswith("Reproduce") for remark in errors)
    if test.status == "passed":
        return Reproduced(not failed, True, "")
    said = "; ".join(remark.words for remark in errors) or test.status
    return Reproduced(not failed, False, f"{name}: {shorten(said, 300)}")


@dataclass
class Case:
    """What the judges look at."""

    given: Package
    """As it is now."""
    session: Session
    """Runs it as it will be in the zoo: with an id."""
    engines: Sequence[str]
    """What may be run."""
    rows: Mapping[str, Row]
    """What the programs themselves make of it, by program."""

    @property
    def package(self) -> Package:
        """As it will be in the zoo."""
        return self.session.package

    @cached_property
    def completeness(self) -> Completeness:
        """Keys given, of the description as it is now."""
        return measure_completeness(self.given)

    @cached_property
    def website_completeness(self) -> Completeness | None:
        """Keys given after the website's upload, which drops config.bioimageio; None without."""
        config = as_map(self.given.rdf.get("config"))
        if not config.get("bioimageio"):
            return None
        kept = {key: value for key, value in config.items() if key != "bioimageio"}
        rdf = {key: value for key, value in self.given.rdf.items() if key != "config"}
        return measure_completeness(self.given, {**rdf, "config": kept} if kept else rdf)

    @property
    def valid(self) -> bool:
        """Whether bioimageio.spec accepts the description, without a network."""
        return not self.completeness.problem

    @cached_property
    def formats(self) -> dict[str, str]:
        """Weights formats, and why each may not be run; empty where it may."""
        found: dict[str, str] = {}
        for name in self.package.view.weights:
            run_code = self.session.run_code
            found[name] = explain_not_run(self.package, name, run_code=run_code)
            if name not in RUNNABLE:
                found[name] = f"{name}: its engine is not among {', '.join(RUNNABLE)}"
            elif not found[name] and self.package.weights_file(name) is None:
                found[name] = f"{name} was not run: its file is not in the package"
        return found

    @property
    def runnable(self) -> list[str]:
        """Weights formats that may be run."""
        return [name for name, reason in self.formats.items() if not reason]

    @property
    def kept_back(self) -> tuple[str, ...]:
        """Why other formats may not."""
        return tuple(reason for reason in self.formats.values() if reason)

    @cached_property
    def reproduced_here(self) -> dict[str, Reproduced]:
        """What the bioimageio.core of this process reproduces, by weights format."""
        import torch

        before = torch.are_deterministic_algorithms_enabled()
        try:
            return {
                name: _judge(
                    name,
                    environments.check_here(self.session.offline_copy, name, determinism="full"),
                )
                for name in self.runnable
            }
        finally:
            torch.use_deterministic_algorithms(before)

    def reproduced_in(self, environment: str) -> dict[str, Reproduced]:
        """Return what another bioimageio.core, a ``core-...``, reproduces, by weights format."""
        tested = self.session.test_in(environment, self.runnable)
        return {name: _judge(name, test) for name, test in tested.items()}
