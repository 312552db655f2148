"""Where training begins: at drawn weights, at those of a model, or at the end of a finished run.

Weights of a model are copied into the run folder, so that a run that was killed needs nothing but
its folder and its images to go on. A finished run that is trained longer stays whole until the
further steps are done: what they are is written into ``longer.json``, which goes with the last of
them.
"""

from __future__ import annotations

__all__ = [
    "Start",
    "begin_at",
    "begin_longer",
    "end_longer",
    "read_longer",
    "read_start",
    "settings_of",
    "write_start",
]

import csv
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import replace_whole
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.open import open_loop
from deepcontrast_bmz.model.run_folder import read_run
from deepcontrast_bmz.model.weights import load_state
from deepcontrast_bmz.records import BeginRecord
from deepcontrast_bmz.settings import Recipe, Record, describe_invalid

if TYPE_CHECKING:
    from pathlib import Path

    from deepcontrast_bmz.settings import NetworkSettings

_BEGUN_FROM = "begun_from"
_LONGER = "longer.json"

_ONLY_OF = {
    "dilations": ("dilated", "dilated_3d"),
    "mixing_layers": ("dilated_3d",),
    "levels": ("invertible",),
}
"""Settings of a network that mean nothing to other kinds than these."""


@dataclass(frozen=True)
class Start:
    """Where training begins."""

    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """To begin from; none: they are drawn by the seed."""
    scores: dict[str, float] = field(default_factory=dict[str, float])
    """Of these weights on the held-out patches; none: not known."""
    begun_from: BeginRecord | None = None
    """The model that the run began from, if it did."""
    steps: int = 0
    """Steps of the run that were done before."""
    restarts: tuple[int, ...] = ()
    """After how many steps the run was trained longer, this time included."""
    seconds: float = 0.0
    """That they took."""
    history: tuple[dict[str, float], ...] = ()
    """Rows of ``history.csv`` so far."""

    @property
    def checkpoints(self) -> str:
        """Folder below ``checkpoints`` for what is trained from here: none for the first steps."""
        return f"after_{self.steps}" if self.steps else ""


class _Longer(Record):
    """Further steps of a finished run: ``longer.json`` in its folder."""

    before: int = Field(ge=0)
    """Steps that were done when they were asked for."""
    steps: int = Field(ge=1)
    """How many more."""


def settings_of(model: str | Path) -> Recipe:
    """Return the settings to train a model further: its network, loop and physics.

    Parameters
    ----------
    model : str or Path
        As for `open_model`.

    Raises
    ------
    InputError
        If there is no such model, or its weights cannot be trained.
    """
    description = open_loop(model).description
    return Recipe.model_validate(
        {
            "physics": description.training_ranges.model_dump(),
            "network": description.network.model_dump(),
            "loop": {"iterations": description.iterations},
        }
    )


def begin_at(model: str | Path, recipe: Recipe) -> Start:
    """Return the weights of a model, to begin from.

    Parameters
    ----------
    model : str or Path
        As for `open_model`.
    recipe : Recipe
        Of the run; its network has to be that of the model.

    Raises
    ------
    InputError
        If there is no such model, its weights cannot be trained, or its network is another.
    """
    opened = open_loop(model)
    theirs, ours = opened.description.network, recipe.network
    for key in type(ours).model_fields:
        of_model, of_recipe = getattr(theirs, key), getattr(ours, key)
        if of_model != of_recipe and _counts(key, ours):
            raise InputError(
                f"--from {opened.name} begins with weights of a network of {key} {of_model}, but "
                f"network.{key} of the recipe is {of_recipe}: change the recipe, or leave it out"
            )
    weights = {name: value.clone() for name, value in opened.loop.state_dict().items()}
    return Start(weights, begun_from=BeginRecord(name=opened.name, sha256=opened.sha256))


def _counts(key: str, network: NetworkSettings) -> bool:
    return network.kind in _ONLY_OF.get(key, (network.kind,))


def write_start(start: Start, out: Path) -> None:
    """Keep in a run folder what a run begins from."""
    if start.begun_from is None:
        return
    with replace_whole(out / f"{_BEGUN_FROM}.pt") as path:
        torch.save(start.weights, path)
    with replace_whole(out / f"{_BEGUN_FROM}.json") as path:
        path.write_text(start.begun_from.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_start(out: Path, recipe: Recipe) -> Start:
    """Return where a run that was begun, but has not finished, began.

    Raises
    ------
    InputError
        If what it began from cannot be read any more.
    """
    described = out / f"{_BEGUN_FROM}.json"
    if not described.is_file():
        return Start()
    loop, weights = Loop.from_recipe(recipe), out / f"{_BEGUN_FROM}.pt"
    try:
        record = BeginRecord.model_validate_json(described.read_bytes())
        load_state(loop, weights.read_bytes(), str(weights))
    except ValidationError as error:
        raise InputError(describe_invalid(error, str(described))) from error
    except OSError as error:
        raise InputError(
            f"{weights}, which the run begins from, cannot be read ({error.strerror}): "
            "start a new run"
        ) from error
    return Start(dict(loop.state_dict()), begun_from=record)


def read_longer(out: Path, more: int | None) -> tuple[int, Start] | None:
    """Return the further steps of a finished run and where they begin, None if there are none.

    Parameters
    ----------
    out : Path
        Run folder.
    more : int or None
        How many to begin with now; None to go on with those that were begun, if any were.

    Raises
    ------
    InputError
        If there are none yet and the run has not finished, there are some and `more` asks for
        others, or a file of the run is broken.
    """
    path = out / _LONGER
    begun = path.is_file()
    if more is not None and begun:
        raise InputError(
            f"{out} is being trained longer already, which was interrupted: go on with --resume "
            "alone, then ask for more steps"
        )
    if more is None and not begun:
        return None
    _, record, loop = read_run(out)
    if begun:
        try:
            longer = _Longer.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(describe_invalid(error, str(path))) from error
    else:
        longer = _Longer(before=record.steps, steps=more or 0)
    before = tuple(steps for steps in record.restarts if steps < longer.before)
    return longer.steps, Start(
        dict(loop.state_dict()),
        scores=record.validation,
        begun_from=record.begun_from,
        steps=longer.before,
        restarts=(*before, longer.before),
        seconds=record.training_seconds,
        history=tuple(row for row in _history(out) if row["step"] <= longer.before),
    )


def begin_longer(out: Path, start: Start, more: int) -> None:
    """Write down that a finished run is trained longer: from `start` on, `more` steps."""
    longer = _Longer(before=start.steps, steps=more)
    with replace_whole(out / _LONGER) as path:
        path.write_text(longer.model_dump_json(indent=1) + "\n", encoding="utf-8")


def end_longer(out: Path) -> None:
    """Take note that the further steps are done."""
    (out / _LONGER).unlink(missing_ok=True)


def _history(out: Path) -> list[dict[str, Any]]:
    path = out / "history.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]
    return [row | {"epoch": int(row["epoch"]), "step": int(row["step"])} for row in rows]
