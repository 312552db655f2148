"""Evaluates image files and writes a folder of results for each."""

from __future__ import annotations

__all__ = ["evaluate_files", "view_file", "write_evaluation"]

import re
import shlex
from typing import TYPE_CHECKING

from deepcontrast_bmz.errors import InputError, name_file
from deepcontrast_bmz.evaluate.report.curve import price_png
from deepcontrast_bmz.evaluate.report.page import render_report
from deepcontrast_bmz.evaluate.report.tables import scores_csv
from deepcontrast_bmz.evaluate.report.words import place, summary
from deepcontrast_bmz.evaluate.stack import add_stack
from deepcontrast_bmz.evaluate.sweep import evaluate
from deepcontrast_bmz.image import (
    AS_STATED,
    Reading,
    read_as,
    read_image,
    replace_whole,
    select_channel,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from deepcontrast_bmz.evaluate.records import Evaluation
    from deepcontrast_bmz.evaluate.report.page import Section
    from deepcontrast_bmz.model.model import Model


def write_evaluation(
    evaluation: Evaluation,
    folder: Path,
    *,
    title: str | None = None,
    command: str | None = None,
    predict: str | None = None,
    sections: Sequence[Section] = (),
) -> list[Path]:
    """Write ``scores.csv``, ``scores.json``, ``curve.png`` and ``report.html``.

    Everything is made before anything is written, and each file appears whole or not at all.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        Created if missing; other files in it stay.
    title, command, predict, sections
        See `render_report`.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        If the folder is a file, or cannot be made.
    """
    _check_folder(folder)
    page = render_report(
        evaluation, title=title, command=command, predict=predict, sections=sections
    )
    contents = {
        "scores.csv": scores_csv(evaluation).encode(),
        "scores.json": (evaluation.model_dump_json(indent=2) + "\n").encode(),
        "curve.png": price_png(evaluation),
        "report.html": page.encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the results folder {folder} cannot be made ({error.strerror}): give another"
        ) from error
    for name, content in contents.items():
        with replace_whole(folder / name) as temporary:
            temporary.write_bytes(content)
    return [folder / name for name in contents]


def _words(channel: str | int | None, how: Reading) -> list[str]:
    """Return the options of the command that evaluates so."""
    options = {"--channel": channel, "--axes": how.axes, "--scene": how.scene}
    options["--mask"] = None if how.mask is None else how.mask.name
    words: list[str] = []
    for option, value in options.items():
        words += [] if value is None else [option, str(value)]
    return words


def _stems(images: Sequence[Path]) -> list[str]:
    """Return the names of the images without suffix; refuse equal ones."""
    stems = [re.sub(r"(\.ome)?\.\w+$", "", path.name) for path in images]
    for stem in stems:
        if stems.count(stem) > 1:
            raise InputError(
                f"{stems.count(stem)} images are called '{stem}', and each gets a results folder "
                "of its name: evaluate them one by one"
            )
    return stems


def _check_folder(folder: Path) -> None:
    """Raise `InputError` if the folder, or one above it, is a file."""
    for one in (folder, *folder.parents):
        if one.exists() and not one.is_dir():
            raise InputError(f"{one} is a file, but results go into a folder: choose another name")


def evaluate_files(
    model: Model,
    images: Sequence[Path],
    out: Path,
    *,
    reference: Path | None = None,
    channel: str | int | None = None,
    how: Reading = AS_STATED,
    progress: Callable[[float], None] | None = None,
    finished: Callable[[Evaluation], None] | None = None,
) -> Iterator[str]:
    """Evaluate images from files, write each result, and yield what to tell the user.

    Parameters
    ----------
    model : Model
    images : sequence of Path
    out : Path
        Results folder; with several images each has its own folder in it.
    reference : Path, optional
        Image without haze, for a single image.
    channel : str or int, optional
        Name or index of the channel.
    how : Reading
        Axes and scene of the images (not of the reference), where their files do not say them, and
        their mask.
    progress : callable, optional
        Called with the share of all images that is done.
    finished : callable, optional
        Called with every evaluation that was written.

    Yields
    ------
    str
        One line for people per image, and one per folder written.

    Raises
    ------
    InputError
        If a reference is given for several images, or names of images collide.
    """
    if reference is not None and len(images) != 1:
        raise InputError(
            f"{reference} is the reference of one image, but {len(images)} images were given: "
            "evaluate them one by one"
        )
    stems = _stems(images)
    _check_folder(out)
    truth = None
    if reference is not None:
        truth = read_image(reference)
        if truth.sizes.get("c", 1) > 1:
            truth = select_channel(truth, channel)
        truth.name = reference.name
    for done, (path, stem) in enumerate(zip(images, stems, strict=True)):

        def tell(share: float, done: int = done) -> None:
            if progress is not None:
                progress((done + share) / len(images))

        with name_file(path):
            image = select_channel(read_as(path, how), channel)
            image.name = path.name
            result = evaluate(model, image, reference=truth, progress=tell)
        folder = out if len(images) == 1 else out / stem
        written = _write(result, path, folder, _words(channel, how), reference)
        if finished is not None:
            finished(result)
        yield from _say(result, path, written)


def view_file(
    model: Model,
    path: Path,
    folder: Path,
    *,
    channel: str | int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[str]:
    """Evaluate one image with pictures of further planes, and yield what to tell the user.

    Parameters
    ----------
    model : Model
    path : Path
        The image.
    folder : Path
        Results folder.
    channel : str or int, optional
        Name or index of the channel.
    progress : callable, optional
        Called with the share that is done.

    Yields
    ------
    str
        Lines as of `evaluate_files`.
    """
    _check_folder(folder)

    def tell(share: float, begun: float, part: float) -> None:
        if progress is not None:
            progress(begun + part * share)

    image = select_channel(read_image(path), channel)
    image.name = path.name
    result = evaluate(model, image, progress=lambda share: tell(share, 0.0, 0.6))
    result = add_stack(result, model, image, lambda share: tell(share, 0.6, 0.4))
    tell(1.0, 0.0, 1.0)
    yield from _say(result, path, _write(result, path, folder, _words(channel, AS_STATED)))


def _write(
    result: Evaluation,
    path: Path,
    folder: Path,
    options: Sequence[str],
    reference: Path | None = None,
) -> Path:
    """Write one evaluation with the commands that make it, and its image, again."""
    against = [] if reference is None else ["--reference", reference.name]
    words = ["dcbmz", "evaluate", result.model, path.name, "-o", folder.name, *against, *options]
    predict = ["dcbmz", "predict", result.model, path.name, *options]
    return write_evaluation(result, folder, command=shlex.join(words), predict=shlex.join(predict))[
        -1
    ]


def _say(result: Evaluation, path: Path, report: Path) -> Iterator[str]:
    """Yield what to tell of one evaluation."""
    where = place(result)
    yield f"{path.name}{f' ({where})' if where else ''}: {summary(result)}"
    if result.warning is not None:
        yield f"{path.name}: {result.warning}"
    yield f"{path.name}: see {report}"
