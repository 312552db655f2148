"""Image files in, enhanced image files out: which goes where, and by which way.

A small image is read, enhanced in memory and written; a large one, or one that a cluster shares,
streams from file to file. The values are the same.
"""

from __future__ import annotations

__all__ = ["MOST_ITERATIONS", "Enhanced", "enhance", "predict_files"]

import contextlib
import logging
import math
import tempfile
from typing import TYPE_CHECKING, Literal

from deepcontrast_bmz.dial.per_plane import MOST_ITERATIONS, wanted
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import check_output, open_image, read_image, select_channel, write_image
from deepcontrast_bmz.predict.cluster import connect_cluster, start_threads
from deepcontrast_bmz.predict.enhance import Enhanced, block_sides, enhance
from deepcontrast_bmz.predict.resume import forget, partial_folder
from deepcontrast_bmz.predict.stream import Request, stream_image

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from deepcontrast_bmz.model.model import Model

logger = logging.getLogger(__name__)

_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.zarr", ".tiff", ".tif", ".zarr")
"""Formats that are written; double suffixes first."""

_FOREIGN = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".h5", ".npy", ".czi", ".nd2", ".lif", ".ims")
"""Formats that are not written, and that nobody names a folder after."""

STREAMED_BYTES = 2**28
"""Inputs or outputs with more bytes than this stream."""


def predict_files(
    model: Model,
    paths: Sequence[Path],
    out: Path,
    *,
    dial: float | Literal["auto"] | None = None,
    iterations: int | None = None,
    all_iterations: bool = False,
    channel: str | int | None = None,
    block: int | None = None,
    resume: bool = False,
    scheduler: str | None = None,
    sharded: bool = False,
    progress: Callable[[float], None] | None = None,
    finished: Callable[[Path, Enhanced], None] | None = None,
) -> list[Path]:
    """Enhance image files.

    One image goes to the file `out` if that ends like an image, else into the folder `out`;
    several go into the folder. There they are called like the input with ``_enhanced`` before
    the suffix; formats that are read but not written become ``.ome.tif``.

    Large images stream: read, enhanced and written block by block, with memory bounded by the
    blocks under way. Until such an output is whole, it grows in ``.NAME.partial`` beside it.

    Parameters
    ----------
    model : Model
    paths : sequence of Path
        Images.
    out : Path
        Image (.tif, .tiff, .zarr) or folder, which is made.
    dial, iterations, all_iterations, block
        As in `enhance`.
    channel : str, int or None
        Enhance this channel only.
    resume : bool
        Go on with unfinished work at the block it was at.
    scheduler : str, optional
        Address of a dask.distributed scheduler whose workers share the blocks; left out, this
        process does all.
    sharded : bool
        Write .zarr outputs with many chunks to a file, in OME-Zarr 0.5.
    progress : callable, optional
        Is given the share that is done, 0 to 1.
    finished : callable, optional
        Is given every written path and what was written.

    Returns
    -------
    list of Path
        What was written, in the order of the inputs.

    Raises
    ------
    InputError
        As in `enhance`; also if an image is missing, an output would replace an input, or two
        outputs would have the same name. Names are checked before anything is computed.
    Unfinished
        If work could not be brought to its end; what is done is kept.
    """
    targets = _targets(paths, out)
    choice = wanted(model, dial, iterations, all_iterations=all_iterations)
    block_sides(model, block)
    if sharded and any(target.suffix.lower() != ".zarr" for target in targets):
        raise InputError(
            "shards belong to zarr, but not all outputs end in .zarr: leave out --sharded, or "
            "change the names"
        )
    for target in targets:
        check_output(target)
    with (
        _folders_of(targets),
        start_threads() if scheduler is None else connect_cluster(scheduler) as workers,
    ):
        for number, (path, target) in enumerate(zip(paths, targets, strict=True)):
            within = _within(progress, number / len(paths), 1 / len(paths))
            unfinished = (partial_folder(target) / "plan.json").is_file()
            if workers.remote or sharded or unfinished or _is_large(path, channel, choice.count):
                request = Request(path, target, choice, channel, block, sharded, resume)
                enhanced = stream_image(model, request, workers, progress=within)
            else:
                image = select_channel(read_image(path), channel).rename(path.name)
                enhanced = enhance(
                    model,
                    image,
                    dial=dial,
                    iterations=iterations,
                    all_iterations=all_iterations,
                    block=block,
                    progress=within,
                )
                write_image(enhanced.image, target)
            logger.info("%s: dial %s, %s", target, enhanced.dials[:1], enhanced.reason)
            if finished is not None:
                finished(target, enhanced)
        for target in targets:
            forget(target)
    return targets


def _is_large(path: Path, channel: str | int | None, count: int | None) -> bool:
    """Say whether an image is too large to be read, enhanced and written in memory."""
    image = open_image(path).channel(channel)
    return max(image.nbytes, math.prod(image.shape) * 4 * (count or 1)) > STREAMED_BYTES


def _within(
    progress: Callable[[float], None] | None, start: float, share: float
) -> Callable[[float], None] | None:
    """Return a callback for a part of the work."""
    if progress is None:
        return None
    return lambda fraction: progress(min(1.0, start + share * fraction))


def _split_suffix(path: Path) -> tuple[str, str]:
    """Return stem and suffix of an image's name; an unknown suffix counts as such, too."""
    for suffix in _SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)], path.name[-len(suffix) :]
    return path.stem, path.suffix


@contextlib.contextmanager
def _folders_of(targets: Sequence[Path]) -> Generator[None]:
    """Make the folders of outputs before anything is computed; on failure, unmake empty ones."""
    made: list[Path] = []
    try:
        for folder in dict.fromkeys(target.parent for target in targets):
            made += [place for place in (folder, *folder.parents) if not place.exists()]
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"an output needs a folder that can be made, but {folder} cannot "
                    f"({error.strerror}): give another place"
                ) from error
            _try_to_write(folder)
        yield
    except BaseException:
        for folder in sorted(made, key=lambda place: len(place.parts), reverse=True):
            with contextlib.suppress(OSError):  # results of other images lie in it
                folder.rmdir()
        raise


def _try_to_write(folder: Path) -> None:
    """Raise `InputError` if nothing can be written there: better now than after the work."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"an output is written where that is allowed, but in '{folder}' it is not "
            f"({error.strerror}): give another place"
        ) from error


def _targets(paths: Sequence[Path], out: Path) -> list[Path]:
    """Return where every image goes."""
    if not paths:
        raise InputError("at least one image is needed, but none was given: name the images")
    for path in paths:
        if not path.exists():
            raise InputError(f"there is no image {path}: check its name")
    single = out.name.lower().endswith(_SUFFIXES)
    if single and len(paths) > 1:
        raise InputError(
            f"several images go into a folder, but {out} is called like one image: name a folder"
        )
    if not single and out.exists() and not out.is_dir():
        raise InputError(
            f"results go into a folder or an image (.tif, .tiff, .zarr), but {out} is neither: "
            "give another name"
        )
    if not single and out.suffix.lower() in _FOREIGN and not out.exists():
        raise InputError(
            f"results are written as .tif, .tiff or .zarr, or into a folder, but {out} ends in "
            f"{out.suffix}: change the suffix"
        )
    targets = [out] if single else [out / _name_of(path) for path in paths]
    for target in targets:
        folder = target.suffix.lower() == ".zarr"
        if target.exists() and target.is_dir() != folder:
            kinds = ("a folder", "a file") if folder else ("a file", "a folder")
            raise InputError(
                f"a {target.suffix} is {kinds[0]}, but {target} is {kinds[1]} already: "
                "give another name"
            )
    sources = {path.resolve(): path for path in paths}
    seen: dict[Path, Path] = {}
    for path, target in zip(paths, targets, strict=True):
        real = target.resolve()
        for place in (real, *real.parents):
            if place in sources:
                raise InputError(
                    f"an output never replaces an input or lies inside it, but {target} would "
                    f"({sources[place]}): give another --out"
                )
        if real in seen:
            raise InputError(
                f"every output needs a name of its own, but {seen[real]} and {path} would both "
                f"become {target.name}: run them separately, into different folders"
            )
        seen[real] = path
    return targets


def _name_of(path: Path) -> str:
    if path.is_dir() and path.suffix.lower() != ".zarr":
        # A folder of planes may have any dots in its name.
        return f"{path.resolve().name}_enhanced.ome.tif"
    stem, suffix = _split_suffix(path)
    return f"{stem}_enhanced{suffix if suffix.lower() in _SUFFIXES else '.ome.tif'}"
