"""Fit, validate, checkpoint, resume: from raw images to a run folder.

A run folder holds ``recipe.toml`` (all settings), ``images.json`` (what was read), ``history.csv``,
``previews/``, ``checkpoints/`` and, once training has ended, ``weights.pt`` and ``run.json``.
An epoch is the unit that is never half kept: a run that was killed goes on from the end of the
last whole epoch and, on the same machine, ends with the weights it would have had. A run that
begins from a model holds that model's weights, too: ``begun_from.pt`` and ``begun_from.json``.
"""

from __future__ import annotations

__all__ = ["TrainingProgress", "recalibrate", "train_longer", "train_run"]

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from deepcontrast_bmz import __version__
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import replace_whole
from deepcontrast_bmz.model.devices import choose_device
from deepcontrast_bmz.model.run_folder import read_run
from deepcontrast_bmz.progress import TrainingProgress
from deepcontrast_bmz.records import RunRecord
from deepcontrast_bmz.settings import Recipe, read_recipe, recipe_to_toml
from deepcontrast_bmz.train.begin import (
    Start,
    begin_at,
    begin_longer,
    end_longer,
    read_longer,
    read_start,
    settings_of,
    write_start,
)
from deepcontrast_bmz.train.calibrate import fit_statistics
from deepcontrast_bmz.train.distributed import Spread, is_first_process, trainer_arguments
from deepcontrast_bmz.train.phantoms import phantom_planes
from deepcontrast_bmz.train.raw_images import (
    MaskedPath,
    check_same,
    mark_use,
    mask_paths,
    read_list,
    read_planes,
    write_list,
)
from deepcontrast_bmz.train.raw_planes import split_planes
from deepcontrast_bmz.train.trainer import Training, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from deepcontrast_bmz.records import ImageRecord


def train_run(
    paths: Sequence[Path | MaskedPath],
    out: Path,
    recipe: Recipe | None = None,
    *,
    device: str = "auto",
    spread: Spread | None = None,
    resume: bool = False,
    begin_from: str | Path | None = None,
    report: Callable[[TrainingProgress], None] | None = None,
) -> RunRecord:
    """Train on raw images and write a run folder.

    Parameters
    ----------
    paths : sequence of Path or MaskedPath
        Raw images, where wanted with their masks; with `resume` they may be left out.
    out : Path
        The run folder, new, or with `resume` one that was begun.
    recipe : Recipe, optional
        All settings. Left out, with `resume` the recipe of the run, with `begin_from` that of
        `settings_of`, else the defaults.
    device : {'auto', 'cpu', 'cuda', 'mps'}
        Where to train.
    spread : Spread, optional
        Over how many devices, nodes and pieces, and how precisely; one of each if left out. With
        several processes, Lightning starts the running program anew for each of them on this
        node; they end when training does, and only the first returns.
    resume : bool
        Go on from the last whole epoch; a run that began from a model still does.
    begin_from : str or Path, optional
        Model, as for `open_model`, whose weights to begin from; the best weights are these, if
        the held-out patches come out no better with any other.
    report : callable, optional
        Called after every step.

    Returns
    -------
    RunRecord
        What ``run.json`` holds.

    Raises
    ------
    InputError
        If an image, the recipe, the folder, the device or the model to begin from cannot be used,
        or the loss stops being a number.
    """
    spread = spread if spread is not None else Spread()
    if resume:
        if begin_from is not None:
            raise InputError(
                "a resumed run keeps what it began from: leave out --from, or start a new run"
            )
        begun = _read_begun(out, paths, recipe)
        return _train(begun, out, device, spread, report)
    if is_first_process() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"a new run needs a new or empty folder, but {out} holds something: "
            "give another folder, or --resume to go on with a run"
        )
    start = Start()
    if begin_from is not None:
        recipe = recipe if recipe is not None else settings_of(begin_from)
        start = begin_at(begin_from, recipe)
    begun = _Begun(
        mask_paths(paths), recipe if recipe is not None else Recipe(), start, resume=False
    )
    return _train(begun, out, device, spread, report)


def train_longer(
    out: Path,
    steps: int,
    paths: Sequence[Path | MaskedPath] = (),
    *,
    device: str = "auto",
    spread: Spread | None = None,
    report: Callable[[TrainingProgress], None] | None = None,
) -> RunRecord:
    """Train a finished run longer, from its weights and under a learning rate that begins anew.

    Until the further steps are done the run stays what it was; if they are interrupted,
    `train_run` goes on with them by `resume`. Its best weights so far stay, if the held-out
    patches come out no better with any other.

    Parameters
    ----------
    out : Path
        Run folder.
    steps : int
        How many more, at least 1.
    paths : sequence of Path or MaskedPath
        The images it was trained on; where ``images.json`` says they lie, if left out.
    device, spread, report
        As for `train_run`.

    Returns
    -------
    RunRecord
        What ``run.json`` now holds.

    Raises
    ------
    InputError
        If the run has not finished, its images are not there any more or have changed, or the
        loss stops being a number.
    """
    if steps < 1:
        raise InputError(f"--steps is at least 1, not {steps}: give more, or leave it out")
    # Only the first process writes down what it begins; the others find it.
    begun = _read_begun(out, paths, None, more=steps if is_first_process() else None)
    return _train(begun, out, device, spread if spread is not None else Spread(), report)


class _Begun(NamedTuple):
    """What a run is made of, new or begun before."""

    images: Sequence[MaskedPath]
    recipe: Recipe
    """Of the steps to do; those done before do not count."""
    start: Start
    resume: bool


def _train(
    begun: _Begun,
    out: Path,
    device: str,
    spread: Spread,
    report: Callable[[TrainingProgress], None] | None,
) -> RunRecord:
    """Train from where a run begins, or from its last checkpoint, and write what came out."""
    images, recipe, start, resume = begun
    chosen = choose_device(device)
    first = is_first_process()
    if not images:
        raise InputError("training needs at least one image, but none was given: name the images")
    spread.piece(recipe.training.batch)
    placement = trainer_arguments(spread, chosen)
    found, records = read_planes(images, recipe)
    found_training, found_validation = split_planes(
        found, recipe.data.validation_fraction, recipe.seed
    )
    records = mark_use(records, found_training, found_validation)
    found_training += phantom_planes(recipe, len(images))
    if resume:
        check_same(images, records, out)
        if first and start.restarts:
            begin_longer(out, start, recipe.training.steps)
    elif first:
        _begin(out, begun, records)

    torch.manual_seed(recipe.seed)
    module = Training(recipe, spread, out, found_training, found_validation, report, start)
    started = time.monotonic()
    fit(module, out, placement, resume=resume)
    if not first:
        raise SystemExit
    return _finish(module, out, chosen, records, time.monotonic() - started)


def _read_begun(
    out: Path,
    paths: Sequence[Path | MaskedPath],
    recipe: Recipe | None,
    more: int | None = None,
) -> _Begun:
    """Return what a run that was begun is made of, checked against what was given."""
    if not (out / "recipe.toml").is_file() or not (out / "images.json").is_file():
        raise InputError(
            f"--resume needs a run that was begun, but {out} holds no recipe.toml and "
            "images.json: leave out --resume, or name the run folder"
        )
    recorded = read_recipe(out / "recipe.toml")
    longer = read_longer(out, more)
    if longer is None and (out / "run.json").is_file():
        raise InputError(
            f"--resume needs an unfinished run, but {out} has ended: use it as it is, or add "
            "--steps to train so many steps more"
        )
    if recipe is not None and recipe != recorded:
        raise InputError(
            f"a resumed run keeps its recipe, but the one given differs from {out}/recipe.toml: "
            "leave out --recipe"
        )
    images = read_list(out, mask_paths(paths))
    if longer is None:
        return _Begun(images, recorded, read_start(out, recorded), resume=True)
    steps, start = longer
    return _Begun(images, recorded.with_changes(steps=steps), start, resume=True)


def _begin(out: Path, begun: _Begun, records: Sequence[ImageRecord]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_start(begun.start, out)
        (out / "recipe.toml").write_text(recipe_to_toml(begun.recipe), encoding="utf-8")
        write_list(begun.images, records, out)
    except OSError as error:
        raise InputError(
            f"the run folder must be writable, but {out} is not ({error.strerror}): give another"
        ) from error


def _finish(
    module: Training, out: Path, device: str, records: Sequence[ImageRecord], seconds: float
) -> RunRecord:
    """Write weights and record; the record comes last, so its presence means a whole run."""
    with replace_whole(out / "weights.pt") as path:
        torch.save(module.best, path)
    module.loop.load_state_dict(module.best)
    parameters = sum(p.numel() for p in cast("Iterable[Tensor]", module.loop.parameters()))
    loop = module.loop.cpu().eval()
    start = module.start
    steps = start.steps + module.global_step
    recipe = module.recipe.with_changes(steps=start.steps + module.recipe.training.steps)
    statistics = fit_statistics(loop, recipe, module.planes)
    if start.restarts:
        with replace_whole(out / "recipe.toml") as path:
            path.write_text(recipe_to_toml(recipe), encoding="utf-8")
    record = RunRecord(
        version=__version__,
        torch_version=torch.__version__,
        finished_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        training_seconds=round(module.seconds_before + seconds, 1),
        steps=steps,
        begun_from=start.begun_from,
        restarts=start.restarts,
        parameters=parameters,
        images=tuple(records),
        phantoms=module.recipe.data.phantoms,
        validation=module.best_scores,
        depth=statistics.depth,
        ood=statistics.ood,
    )
    _write_record(record, out)
    end_longer(out)
    return record


def _write_record(record: RunRecord, out: Path) -> None:
    """Write ``run.json``, if it can be read back: JSON has no word for what is no number."""
    text = record.model_dump_json(indent=1) + "\n"
    RunRecord.model_validate_json(text)
    with replace_whole(out / "run.json") as path:
        path.write_text(text, encoding="utf-8")


def recalibrate(folder: Path, paths: Sequence[Path | MaskedPath] = ()) -> RunRecord:
    """Fit everything that is fitted after training again, for a run that has ended.

    The network stays as it is; ``run.json`` gets the estimator of optical depth and the
    out-of-distribution statistics.

    Parameters
    ----------
    folder : Path
        Run folder.
    paths : sequence of Path or MaskedPath
        The images it was trained on; where ``images.json`` says they lie, if left out.

    Returns
    -------
    RunRecord
        What ``run.json`` now holds.

    Raises
    ------
    InputError
        If the run has not ended, or its images are not there any more or have changed.
    """
    recipe, record, loop = read_run(folder)
    images = read_list(folder, mask_paths(paths))
    found, records = read_planes(images, recipe)
    check_same(images, records, folder)
    loop = loop.eval()
    training, validation = split_planes(found, recipe.data.validation_fraction, recipe.seed)
    training += phantom_planes(recipe, len(images))
    statistics = fit_statistics(loop, recipe, [*training, *validation])
    record = record.model_copy(
        update={
            "depth": statistics.depth,
            "ood": statistics.ood,
        }
    )
    _write_record(record, folder)
    return record
