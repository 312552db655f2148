"""Enhances image files: small ones in memory, large ones streamed; the values are the same."""

from __future__ import annotations

__all__ = ["Options", "predict_files"]

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict, Unpack

from deepcontrast_bmz.dial.request import parse_dial_request
from deepcontrast_bmz.errors import InputError, name_file
from deepcontrast_bmz.image import (
    Reading,
    check_output,
    parse_axes,
    read_as,
    read_mask,
    select_channel,
    write_image,
)
from deepcontrast_bmz.image.pixel_type import (
    check_compression,
    check_pixel_type,
    describe_change,
    fit_pixels,
)
from deepcontrast_bmz.predict.blocks import block_sides
from deepcontrast_bmz.predict.cluster import connect_cluster, start_threads
from deepcontrast_bmz.predict.enhance import enhance_as
from deepcontrast_bmz.predict.reliability import map_reliability
from deepcontrast_bmz.predict.resume import Journal, forget, partial_folder
from deepcontrast_bmz.predict.shared import share_among
from deepcontrast_bmz.predict.stream import Request, stream_image
from deepcontrast_bmz.predict.targets import default_targets, make_folders, name_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.predict.cluster import Workers
    from deepcontrast_bmz.predict.enhance import Enhanced

logger = logging.getLogger(__name__)

STREAMED_BYTES = 2**28
"""Inputs or outputs with more bytes than this stream."""


class Options(TypedDict, total=False):
    """How `predict_files` goes about it; what is left out is as if it were None or False."""

    dial: float | str | None
    """As in `enhance`, but `auto` is one for all images; so are the next three."""
    iterations: int | None
    all_iterations: bool
    block: int | None
    each: bool
    """Choose the dial of every image from that image alone."""
    channel: str | int | None
    """Enhance this channel only."""
    axes: str | None
    """Letters of the axes, in place of what the images say, as in `read_image`."""
    scene: str | int | None
    """Name or number of the image, where a file or folder holds several."""
    mask: Path | None
    """Image whose pixels that are not zero are part of the picture, as in `enhance`; it holds for
    all images of the call."""
    reliability: Path | None
    """Also write what `map_reliability` returns: an image, or a folder for several, in which they
    are called like the image with ``_reliability.ome.tif``."""
    resume: bool
    """Continue unfinished work at the block where it stopped."""
    scheduler: str | None
    """Address of a dask.distributed scheduler whose workers share the blocks; left out, this
    process does all."""
    sharded: bool
    """Write .zarr outputs with many chunks to a file, in OME-Zarr 0.5."""
    skip_existing: bool
    """Leave out images whose output is there already, and images that are such outputs."""
    dtype: str
    """What pixels are written as: float32 (the default), same (as the input) or uint16."""
    compression: str | None
    """How they are packed, without loss: none, zlib or zstd; left out, as suits the format."""


def predict_files(
    model: Model,
    paths: Sequence[Path],
    out: Path | None = None,
    *,
    progress: Callable[[float], None] | None = None,
    finished: Callable[[Path, Enhanced], None] | None = None,
    failed: Callable[[Path, str], None] | None = None,
    **options: Unpack[Options],
) -> list[Path]:
    """Enhance image files.

    One image goes to the file `out` if that ends like an image, else into the folder `out`;
    several go into the folder. There they are called like the input with ``_enhanced`` before
    the suffix; formats that are read but not written become ``.ome.tif``. Without `out`, every
    result lies beside its image as ``NAME_enhanced.ome.tif`` (``.ome.zarr`` for an OME-Zarr).

    Images of one call are compared with each other: an automatic dial is one for all of them, for
    each channel (or each curve along z), unless `each` is set.

    Large images stream: read, enhanced and written block by block, with memory bounded by the
    blocks under way. Until such an output is whole, it grows in ``.NAME.partial`` beside it.

    Parameters
    ----------
    model : Model
    paths : sequence of Path
        Images.
    out : Path, optional
        Image (.tif, .tiff, .zarr) or folder, which is made.
    progress : callable, optional
        Is given the share that is done, 0 to 1.
    finished : callable, optional
        Is given every written path and what was written.
    failed : callable, optional
        Is given each of several images that cannot be enhanced, and the reason; the others are
        done all the same. Left out, or with one image, the first such image ends the work.
    **options
        See `Options`: dial, iterations, all_iterations, block, channel, resume, scheduler, sharded,
        skip_existing, axes, scene, each, mask, reliability, dtype, compression.

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
    TypeError
        If there is no such option.
    """
    unknown = sorted(set(options) - Options.__optional_keys__)
    if unknown:
        raise TypeError(f"predict_files has no option {unknown[0]!r}: see Options")
    several = len(paths) > 1
    if options.get("skip_existing", False):
        paths = _without_outputs(paths, out)
    targets = name_targets(paths, out)
    requests = _requests(model, paths, targets, options)
    maps = _name_maps(paths, targets, options)
    for target in (*targets, *maps):
        check_output(target)
    beside = dict(zip(targets, maps, strict=True)) if maps else {}
    everything = requests
    if options.get("skip_existing", False):
        requests = [request for request in requests if not _is_there(request.target)]
    if requests and not options.get("each", False):
        # Those that are there already belong to the experiment, too.
        requests = share_among(model, everything, requests)
    written: list[Path] = []
    scheduler = options.get("scheduler")
    with (
        make_folders([*(request.target for request in requests), *maps]),
        start_threads() if scheduler is None else connect_cluster(scheduler) as workers,
    ):
        for number, request in enumerate(requests):
            within = _part_of(progress, number / len(requests), 1 / len(requests))
            try:
                enhanced = _enhance_file(model, request, workers, within)
                if request.target in beside:
                    _write_map(model, request, enhanced, beside[request.target])
            except (InputError, MemoryError) as error:
                if failed is None or not several:
                    with name_file(request.path):
                        raise
                failed(request.path, str(error) or "not enough memory")
                continue
            written.append(request.target)
            logger.info("%s: dial %s, %s", request.target, enhanced.dials[:1], enhanced.reason)
            if finished is not None:
                finished(request.target, enhanced)
        for target in written:
            forget(target)
    return written


def _without_outputs(paths: Sequence[Path], out: Path | None) -> list[Path]:
    """Leave out images that are the outputs of others, as a pattern names them the second time."""
    made = {place.resolve() for path in paths for place in default_targets([path], out)}
    return [path for path in paths if path.resolve() not in made]


def _is_there(target: Path) -> bool:
    """Say whether an output is there, and no work on it is unfinished."""
    if not target.exists() or (Journal(target).exists and not Journal(target).is_finished):
        return False
    forget(target)
    return True


def _requests(
    model: Model, paths: Sequence[Path], targets: Sequence[Path], options: Options
) -> list[Request]:
    """Return what is wanted of each image, checked as far as possible without opening it."""
    dial = parse_dial_request(
        model,
        options.get("dial"),
        options.get("iterations"),
        all_iterations=options.get("all_iterations", False),
    )
    block = options.get("block")
    how = Reading(options.get("axes"), options.get("scene"))
    if how.axes is not None:
        parse_axes(how.axes)
    sides = block_sides(model, block)
    mask_path = options.get("mask")
    mask = None if mask_path is None else read_mask(mask_path)
    sharded = options.get("sharded", False)
    if sharded and any(target.suffix.lower() != ".zarr" for target in targets):
        raise InputError(
            "shards belong to zarr, but not all outputs end in .zarr: leave out --sharded, or "
            "change the names"
        )
    dtype, compression = options.get("dtype", "float32"), options.get("compression")
    check_pixel_type(dtype)
    check_compression(compression)
    return [
        Request(
            path=path,
            target=target,
            wanted=dial,
            sides=sides,
            channel=options.get("channel"),
            how=how,
            block=block,
            sharded=sharded,
            resume=options.get("resume", False),
            mask=mask,
            mask_path=mask_path,
            dtype=dtype,
            compression=compression,
        )
        for path, target in zip(paths, targets, strict=True)
    ]


def _enhance_file(
    model: Model, request: Request, workers: Workers, progress: Callable[[float], None] | None
) -> Enhanced:
    """Enhance one image, in memory if it is small and nothing speaks against it."""
    unfinished = (partial_folder(request.target) / "plan.json").is_file()
    if workers.remote or request.sharded or unfinished or _is_large(request):
        return stream_image(model, request, workers, progress=progress)
    image = select_channel(read_as(request.path, request.how), request.channel)
    image = image.rename(request.path.name)
    written = request.check(image)
    enhanced = enhance_as(
        model, image, request.wanted, request.sides, mask=request.mask, progress=progress
    )
    pixels, clipped = fit_pixels(enhanced.image.to_numpy(), written)
    result = enhanced.image.copy(data=pixels)
    write_image(result, request.target, compression=request.compression)
    change = describe_change(written, clipped, pixels.size)
    return replace(enhanced, image=result, change=change)


def _name_maps(paths: Sequence[Path], targets: Sequence[Path], options: Options) -> list[Path]:
    """Return where the maps of reliability go; none if they were not asked for."""
    out = options.get("reliability")
    if out is None:
        return []
    if options.get("all_iterations", False):
        raise InputError(
            "reliability is that of one dial, but all iterations were asked for: leave one out"
        )
    if out.suffix.lower() in (".tif", ".tiff", ".zarr"):
        maps = name_targets(paths, out)
    else:
        maps = [out / f"{path.name.split('.')[0]}_reliability.ome.tif" for path in paths]
    taken = {target.resolve() for target in (*targets, *paths)}
    for number, place in enumerate(maps):
        if place.resolve() in taken:
            raise InputError(
                f"{place} would hold two outputs, or replace an input: give --reliability another "
                "name"
            )
        taken.add(maps[number].resolve())
    return maps


def _write_map(model: Model, request: Request, enhanced: Enhanced, target: Path) -> None:
    """Write the map of reliability of an image that was enhanced."""
    image = select_channel(read_as(request.path, request.how), request.channel)
    image = image.rename(request.path.name)
    found = map_reliability(model, image, enhanced.dial, mask=request.mask, block=request.block)
    write_image(found, target)


def _is_large(request: Request) -> bool:
    """Say whether an image is too large to be read, enhanced and written in memory."""
    image = request.open()
    enhanced = math.prod(image.shape) * 4 * (request.wanted.count or 1)
    return max(image.nbytes, enhanced) > STREAMED_BYTES


def _part_of(
    progress: Callable[[float], None] | None, start: float, share: float
) -> Callable[[float], None] | None:
    """Return a callback for a part of the work."""
    if progress is None:
        return None
    return lambda fraction: progress(min(1.0, start + share * fraction))
