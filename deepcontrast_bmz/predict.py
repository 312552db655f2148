"""Images in, enhanced images out: planes, blocks, loop to the dial, joined, written."""

from __future__ import annotations

__all__ = ["MOST_ITERATIONS", "Enhanced", "enhance", "predict_files"]

import contextlib
import itertools
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xarray as xr

from deepcontrast_bmz.data import as_float32
from deepcontrast_bmz.errors import InputError, finite
from deepcontrast_bmz.image import (
    channel_names,
    check_pixels,
    pixel_size_um,
    read_image,
    select_channel,
    write_image,
)
from deepcontrast_bmz.loop import blend, dial_position
from deepcontrast_bmz.physics.camera import estimate_noise
from deepcontrast_bmz.physics.scatter import widths_in_pixels
from deepcontrast_bmz.settings import CHANNEL_PREFIX
from deepcontrast_bmz.stop import choose_dial, content_window
from deepcontrast_bmz.tiles import Block, in_blocks, read_block

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.model import Model
    from deepcontrast_bmz.stop import DialChoice

logger = logging.getLogger(__name__)

MOST_ITERATIONS = 16
"""No model is trained or exported with more; a dial beyond is a slip of the keyboard."""

_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.zarr", ".tiff", ".tif", ".zarr")
"""Formats that are written; double suffixes first."""

_FOREIGN = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".h5", ".npy", ".czi", ".nd2", ".lif", ".ims")
"""Formats that are not written, and that nobody names a folder after."""


@dataclass(frozen=True)
class Enhanced:
    """An enhanced image and the dials it was made with."""

    image: xr.DataArray
    """float32; dims, coordinates and attributes of the input, with `all_iterations` with a
    channel axis of iterations. A dask array where the input is one: computed when looked at."""
    dials: tuple[float, ...]
    """Optical depth removed from each plane, planes in the order of the leading dims."""
    reason: str
    """Where the dials come from, in one sentence."""


def enhance(
    model: Model,
    image: xr.DataArray,
    *,
    dial: float | Literal["auto"] | None = None,
    iterations: int | None = None,
    all_iterations: bool = False,
    block: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Enhanced:
    """Run the loop on an image, plane by plane and block by block.

    Without `dial`, `iterations` and `all_iterations` the dial that the model recommends is
    taken, and `auto` where it recommends none.

    Parameters
    ----------
    model : Model
    image : DataArray, dims out of (t, c, z, y, x)
        Grey values in any unit and of any integer or real type.
    dial : float or 'auto', optional
        Optical depth to remove; 0 returns the raw image, `auto` chooses it for every plane. In
        a z-stack the chosen dials are smoothed by a running median over three planes.
    iterations : int, optional
        Whole iterations instead of a dial; with `all_iterations`, how many are returned.
    all_iterations : bool
        Return the iterations as channels ``iteration_1 .. iteration_K``. Channels that the image
        has itself come first: ``GFP iteration_1``, ``GFP iteration_2``, ...; those without a
        name are called ``channel_0``, ``channel_1``, ...
    block : int, optional
        Largest side of the blocks in pixels; it bounds the memory, the result is the same. Left
        out, it is what suits the model.
    progress : callable, optional
        Is given the share that is done, 0 to 1, after every block.

    Returns
    -------
    Enhanced

    Raises
    ------
    InputError
        If the choice of dial contradicts itself or is out of the model's reach, or pixels are
        not numbers that can be computed with.
    """
    if block is not None and block < 1:
        raise InputError(f"a block has at least 1 pixel, not {block}: give more, or leave it out")
    count = _channel_count(model, dial, iterations) if all_iterations else None
    wanted, reason = _wanted(model, dial, iterations)
    check_pixels(image, str(image.name or "the image"))
    task = _Task(model, image, block, count, progress)
    if count is not None:
        dials = (count * model.description.step_optical_depth,) * task.planes
        reason = f"all {count} iterations are returned"
    elif wanted == "auto":
        dials, reason = task.choose_dials()
    else:
        dials = (wanted,) * task.planes
    data = task.run_lazily(dials) if image.chunks is not None else task.run(dials)
    return Enhanced(_labelled(image, data, count), dials, reason)


def _channel_count(model: Model, dial: object, iterations: int | None) -> int:
    if dial is not None:
        raise InputError(
            f"all iterations and one dial exclude each other, but both were asked for ({dial}): "
            "leave one out"
        )
    return model.description.iterations if iterations is None else _checked(model, iterations)


def _checked(model: Model, iterations: int) -> int:
    if iterations > MOST_ITERATIONS:
        step = model.description.step_optical_depth
        raise InputError(
            f"at most {MOST_ITERATIONS} iterations are run (dial {MOST_ITERATIONS * step:g}), "
            f"not {iterations} (dial {iterations * step:g}): choose fewer"
        )
    model.check_iterations(iterations)
    return iterations


def _wanted(
    model: Model, dial: float | Literal["auto"] | None, iterations: int | None
) -> tuple[float | Literal["auto"], str]:
    """Return the dial to go to, and why."""
    description = model.description
    if iterations is not None:
        if dial is not None:
            raise InputError(
                f"a dial ({dial}) and whole iterations ({iterations}) exclude each other: "
                "leave one out"
            )
        dial = _checked(model, iterations) * description.step_optical_depth
        return dial, f"{iterations} iterations were asked for"
    if dial is None:
        if description.recommended_dial is None:
            return "auto", ""
        dial = description.recommended_dial
        reason = f"the model recommends it: {description.recommended_dial_reason}".rstrip(": ")
    elif isinstance(dial, str):
        if dial != "auto":
            raise InputError(f"a dial is a number of at least 0, or auto, not {dial!r}: correct it")
        return "auto", ""
    else:
        reason = "it was asked for"
    dial = finite(float(dial), "the dial", minimum=0.0, hint="0 is the raw image")
    most = MOST_ITERATIONS * description.step_optical_depth
    if dial > most:
        raise InputError(
            f"at most {MOST_ITERATIONS} iterations are run (dial {most:g}), too few for dial "
            f"{dial:g}: choose a smaller dial"
        )
    needed = _needed(dial, description.step_optical_depth)
    if needed:
        _checked(model, needed)
    return dial, reason


def _needed(dial: float, step: float) -> int:
    """Return how many iterations a dial needs."""
    whole, alpha = dial_position(dial, step, MOST_ITERATIONS)
    return whole + (alpha > 0)


class _Task:
    """One image on its way through a model."""

    def __init__(
        self,
        model: Model,
        image: xr.DataArray,
        block: int | None,
        count: int | None,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.model = model
        self.image = image
        self.block = block if block is not None else model.block
        self.count = count
        self.progress = progress
        self.shape = tuple(int(n) for n in image.shape[:-2])
        self.places = list(np.ndindex(*self.shape))
        self.planes = len(self.places)
        self.step = model.description.step_optical_depth

    def plane(self, place: tuple[int, ...], rows: slice = slice(None)) -> NDArray[np.float32]:
        """Return the pixels of a plane, (Y, X)."""
        return as_float32(np.asarray(self.image.data[(*place, rows)]), "the image")

    def run(self, dials: Sequence[float]) -> NDArray[np.float32]:
        """Return all planes: (leading..., Y, X), or with iterations (leading..., K, Y, X)."""
        height, width = self.image.shape[-2:]
        result, targets = self._empty()
        done = 0
        for dial, group in itertools.groupby(
            zip(self.places, dials, strict=True), key=lambda pair: pair[1]
        ):
            members = [place for place, _ in group]
            margin = self._margin(dial)
            # Small planes go through together, as many as make up one block.
            most = (self.block + 2 * margin) ** 2
            batch = max(1, most // ((height + 2 * margin) * (width + 2 * margin)))
            for first in range(0, len(members), batch):
                part = members[first : first + batch]
                planes = np.stack([self.plane(place) for place in part])
                share = len(part) / self.planes
                self._run_planes(
                    planes,
                    dial,
                    [targets[place] for place in part],
                    _within(self.progress, done / self.planes, share),
                )
                done += len(part)
        return result

    def _margin(self, dial: float) -> int:
        return _needed(dial, self.step) * self.model.radius

    def _run_planes(
        self,
        planes: NDArray[np.float32],
        dial: float,
        out: Sequence[NDArray[np.float32]],
        progress: Callable[[float], None] | None,
        part: Block | None = None,
    ) -> None:
        """Fill `out`, arrays (C, Y, X), from planes (B, Y, X), or from a part of them."""
        needed = _needed(dial, self.step)
        if needed == 0:
            for target, plane in zip(out, planes, strict=True):
                target[0] = plane if part is None else plane[part.top : part.bottom]
            if progress is not None:
                progress(1.0)
            return
        margin = needed * self.model.radius

        def function(window: Tensor) -> Tensor:
            kept = self.model.iterate(window, needed)
            if self.count is not None:
                return kept
            height, width = window.shape[2] - margin, window.shape[3] - margin
            raw = window[:, 0, margin:height, margin:width]
            return blend(raw, kept, dial, self.step)[:, None]

        in_blocks(
            planes,
            function,
            out,
            block=self.block,
            margin=margin,
            multiple=self.model.multiple,
            part=part,
            progress=progress,
        )

    def _empty(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return an array of the result's layout, and its view as (leading..., C, Y, X)."""
        height, width = self.image.shape[-2:]
        if self.count is None:
            result = np.empty((*self.shape, height, width), np.float32)
            return result, result[..., None, :, :]
        before = self._axes_before_iterations()
        shape = (*self.shape[:before], self.count, *self.shape[before:], height, width)
        result = np.empty(shape, np.float32)
        return result, np.moveaxis(result, before, -3)

    def _axes_before_iterations(self) -> int:
        """Return where the axis of iterations stands: behind t and c, before z."""
        return sum(dim in ("t", "c") for dim in self.image.dims)

    def run_lazily(self, dials: Sequence[float]) -> Any:
        """Return what `run` does as a dask array, whose chunks are computed when looked at."""
        import dask.array as da

        height, width = (int(n) for n in self.image.shape[-2:])
        side = -(-self.block // self.model.multiple) * self.model.multiple
        tops = range(0, height, side)
        by_place = dict(zip(self.places, dials, strict=True))
        count = self.count if self.count is not None else 1
        done = itertools.count(1)
        lock = threading.Lock()

        def compute(block_id: tuple[int, ...]) -> NDArray[np.float32]:
            place, strip = block_id[: len(self.shape)], block_id[-2]
            top, bottom = tops[strip], min(tops[strip] + side, height)
            out = np.empty((count, bottom - top, width), np.float32)
            self._run_strip(place, by_place[place], top, bottom, out)
            if self.progress is not None:
                with lock:
                    self.progress(min(1.0, next(done) / (self.planes * len(tops))))
            return out.reshape((1,) * len(self.shape) + out.shape)

        rows = tuple(min(side, height - top) for top in tops)
        chunks = (*((1,) * n for n in self.shape), (count,), rows, (width,))
        lazy = da.map_blocks(
            compute, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * len(chunks), np.float32)
        )
        if self.count is None:
            return lazy[..., 0, :, :]
        return da.moveaxis(lazy, -3, self._axes_before_iterations())

    def _run_strip(
        self,
        place: tuple[int, ...],
        dial: float,
        top: int,
        bottom: int,
        out: NDArray[np.float32],
    ) -> None:
        """Fill `out`, (C, bottom - top, X), reading no more rows of the plane than it needs."""
        margin = self._margin(dial)
        first = max(0, top - margin) // self.model.multiple * self.model.multiple
        pixels = self.plane(place, slice(first, bottom + margin))
        part = Block(top - first, bottom - first, 0, pixels.shape[1])
        self._run_planes(pixels[None], dial, [out], None, part)

    def choose_dials(self) -> tuple[tuple[float, ...], str]:
        """Choose a dial for every plane, and say why."""
        description = self.model.description
        widths = widths_in_pixels(description.scatter, pixel_size_um(self.image))
        choices = [self._choose(self.plane(place), widths) for place in self.places]
        for place, choice in zip(self.places, choices, strict=True):
            logger.info("plane %s: dial %g, since %s", place, choice.dial, choice.reason)
        dials = np.array([choice.dial for choice in choices]).reshape(self.shape)
        smoothed = ""
        if "z" in self.image.dims and self.image.sizes["z"] > 2:
            dials = _running_median(dials, self.image.dims.index("z"))
            smoothed = ", smoothed along z by a running median over three planes"
        chosen = tuple(float(dial) for dial in dials.ravel())
        if self.planes == 1:
            return chosen, choices[0].reason
        return chosen, (
            f"chosen for each of {self.planes} planes, from {min(chosen):g} to {max(chosen):g}"
            f"{smoothed}; in the first, {choices[0].reason}"
        )

    def _choose(self, plane: NDArray[np.float32], widths: tuple[float, ...]) -> DialChoice:
        """Choose the dial on the part of a plane with the most content."""
        model = self.model
        count = model.description.iterations
        raw = torch.from_numpy(plane)
        rows, columns = content_window(raw)
        window = Block(
            rows.start // model.multiple * model.multiple,
            rows.stop,
            columns.start // model.multiple * model.multiple,
            columns.stop,
        )
        surroundings = np.ascontiguousarray(read_block(plane, window, count * model.radius))
        kept = model.iterate(torch.from_numpy(surroundings)[None, None], count)[0]
        return choose_dial(
            raw[window.top : window.bottom, window.left : window.right],
            kept,
            model.description,
            widths_px=widths,
            noise=estimate_noise(raw),
        )


def _running_median(dials: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Median over three neighbours along an axis, the ends repeated."""
    moved = np.moveaxis(dials, axis, 0)
    padded = np.concatenate((moved[:1], moved, moved[-1:]))
    return np.moveaxis(np.median((padded[:-2], padded[1:-1], padded[2:]), axis=0), 0, axis)


def _within(
    progress: Callable[[float], None] | None, start: float, share: float
) -> Callable[[float], None] | None:
    """Return a callback for a part of the work."""
    if progress is None:
        return None
    return lambda fraction: progress(min(1.0, start + share * fraction))


def _labelled(image: xr.DataArray, data: Any, count: int | None) -> xr.DataArray:
    """Put the input's dims, coordinates and attributes on the result."""
    if count is None:
        return xr.DataArray(
            data, dims=image.dims, coords=image.coords, attrs=dict(image.attrs), name=image.name
        )
    steps = [f"{CHANNEL_PREFIX}{k}" for k in range(1, count + 1)]
    coords = {name: value for name, value in image.coords.items() if "c" not in value.dims}
    before = [dim for dim in image.dims if dim in ("t", "c")]
    after = [dim for dim in image.dims if dim not in ("t", "c")]
    if "c" in before:
        channels = image.sizes["c"]
        names = channel_names(image) or tuple(f"channel_{i}" for i in range(channels))
        steps = [f"{name} {step}" for name in names for step in steps]
        place = before.index("c")
        data = data.reshape((*data.shape[:place], channels * count, *data.shape[place + 2 :]))
    else:
        before.append("c")
    coords.pop("c", None)
    return xr.DataArray(
        data,
        dims=[*before, *after],
        coords={**coords, "c": steps},
        attrs=dict(image.attrs),
        name=image.name,
    )


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
    progress: Callable[[float], None] | None = None,
    finished: Callable[[Path, Enhanced], None] | None = None,
) -> list[Path]:
    """Enhance image files.

    One image goes to the file `out` if that ends like an image, else into the folder `out`;
    several go into the folder. There they are called like the input with ``_enhanced`` before
    the suffix; formats that are read but not written become ``.ome.tif``.

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
    """
    targets = _targets(paths, out)
    if all_iterations:
        _channel_count(model, dial, iterations)
    _wanted(model, dial, iterations)
    with _folders_of(targets):
        for number, (path, target) in enumerate(zip(paths, targets, strict=True)):
            image = select_channel(read_image(path), channel).rename(path.name)
            enhanced = enhance(
                model,
                image,
                dial=dial,
                iterations=iterations,
                all_iterations=all_iterations,
                block=block,
                progress=_within(progress, number / len(paths), 1 / len(paths)),
            )
            write_image(enhanced.image, target)
            logger.info("%s: dial %s, %s", target, enhanced.dials[:1], enhanced.reason)
            if finished is not None:
                finished(target, enhanced)
    return targets


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
        yield
    except BaseException:
        for folder in sorted(made, key=lambda place: len(place.parts), reverse=True):
            with contextlib.suppress(OSError):  # results of other images lie in it
                folder.rmdir()
        raise


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
    stem, suffix = _split_suffix(path)
    return f"{stem}_enhanced{suffix if suffix.lower() in _SUFFIXES else '.ome.tif'}"
