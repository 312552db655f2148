"""One package before the zoo's judges, and what several of them ask to be run."""

from __future__ import annotations

__all__ = ["Case", "Reproduced", "as_published"]

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from deepcontrast_bmz.check.engines.networks import RUNNABLE, is_foreign_code
from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.check.zoo.completeness import Completeness, measure_completeness
from deepcontrast_bmz.package.description import as_map, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def as_published(package: Package) -> Package:
    """Return the package with an id, as the zoo gives one, where it has none."""
    if text(package.rdf.get("id")):
        return package
    return dataclasses.replace(package, rdf={**package.rdf, "id": PUBLISHED_ID})


def _short(words: str) -> str:
    return " ".join(words.split())[:300]


@dataclass
class Case:
    """What the judges look at."""

    given: Package
    """As it is now."""
    package: Package
    """As it will be in the zoo: with an id."""
    session: Session
    """Runs `package`."""
    engines: Sequence[str]
    """What may be run."""
    rows: Mapping[str, Row]
    """What the programs themselves make of it, by program."""

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
            reason = is_foreign_code(self.package, name)
            if name not in RUNNABLE:
                found[name] = f"{name}: its engine is not among {', '.join(RUNNABLE)}"
            elif reason and not self.session.run_code:
                found[name] = f"{name} was not run: {reason}"
            elif self.package.weights_file(name) is None:
                found[name] = f"{name} was not run: its file is not in the package"
            else:
                found[name] = ""
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
        return {name: self._reproduce(name) for name in self.runnable}

    def _reproduce(self, name: str) -> Reproduced:
        with quiet():
            import bioimageio.core
            import torch

            before = torch.are_deterministic_algorithms_enabled()
            try:
                summary = bioimageio.core.test_description(
                    self.session.offline_copy,
                    weight_format=cast("Any", name),
                    devices=["cpu"] if name != "onnx" else ["CPUExecutionProvider"],
                    determinism="full",
                    expected_type="model",
                )
            except Exception as error:
                return Reproduced(False, False, f"{name}: {_short(str(error))}")
            finally:
                torch.use_deterministic_algorithms(before)
        done = any(
            d.name.startswith("Reproduce test outputs") and d.status == "passed"
            for d in summary.details
        )
        errors = [str(e.msg) for d in summary.details for e in d.errors]
        complete = summary.status == "passed"
        words = "" if complete else f"{name}: {_short('; '.join(errors) or summary.status)}"
        return Reproduced(done, complete, words)

    def reproduced_in(self, environment: str) -> dict[str, Reproduced]:
        """Return what another bioimageio.core reproduces, by weights format.

        Parameters
        ----------
        environment : str
            A ``core-...``.

        Raises
        ------
        EngineMissingError
            If its environment cannot be made.
        EngineError
            If it stops or takes too long.
        """
        from deepcontrast_bmz.check.engines.environments import check_in_environment

        tested = check_in_environment(environment, self.session.offline_copy, self.runnable)
        found: dict[str, Reproduced] = {}
        for name, (status, remarks) in tested.items():
            errors = [r for r in remarks if r.error]
            stopped = status not in ("passed", "valid-format")
            failed = stopped or any(r.where.startswith("Reproduce") for r in errors)
            said = "; ".join(r.words for r in errors) or status
            complete = status == "passed"
            words = "" if complete else f"{name}: {_short(said)}"
            found[name] = Reproduced(not failed, complete, words)
        return found
