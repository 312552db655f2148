"""Opens TIFFs, also OME-TIFFs of several files, and finds which planes were recorded.

tifffile puts an OME-TIFF of several files together; it does not look for a companion file, fills
missing planes with zeros, and trusts what an ImageJ header announces.
"""

from __future__ import annotations

__all__ = ["HEADER_SUFFIXES", "Series", "find_lengths", "open_series"]

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.reader import Reading, choose_scene, find_recorded, say_once
from deepcontrast_bmz.image.tiff_header import find_main_file, find_pixels, name_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tifffile

HEADER_SUFFIXES = (".companion.ome", ".ome", ".ome.xml")
"""Of files that hold the header of OME-TIFFs, and no pixels."""


class Series(NamedTuple):
    """One image of an open TIFF."""

    tif: tifffile.TiffFile
    pages: tifffile.TiffPageSeries
    axes: str | None
    """Letters of t, c, z, y and x that replace what the file says."""


def open_series(path: Path, how: Reading) -> Series:
    """Open the image of a TIFF that is meant; the caller closes its file.

    Of an OME-TIFF of several files it is the image whose planes all lie in this file, if there is
    one such.

    Parameters
    ----------
    path : Path
        A TIFF, or the companion file of several.
    how : Reading
        Which image is meant, where there are several, and its axes.

    Raises
    ------
    InputError
        If there is none, several and none was chosen, files are missing, or a header does not fit.
    """
    tif, main = _open(path)
    try:
        pages = _choose(tif, main, path, how.scene)
        # Beyond 4 GB, ImageJ writes one directory for all planes.
        there = len(pages.pages) * pages.keyframe.size
        if pages.kind == "imagej" and len(pages.pages) > 1 and there != pages.size:
            tif.close()
            return _open_all_pages(path, pages, how)
        _check_header(tif, pages, path, how)
        if any(page is not None and page.parent is not tif for page in pages.pages):
            # tifffile would look in the file that was opened for what begins here in another.
            vars(pages)["dataoffset"] = None
    except IndexError as error:
        tif.close()
        raise InputError(
            f"the header of '{path}' announces more planes than the file holds: copy it again, or "
            "export it anew"
        ) from error
    except BaseException:
        tif.close()
        raise
    return Series(tif, pages, how.axes)


def _open(path: Path) -> tuple[tifffile.TiffFile, Path | None]:
    """Open a TIFF; a part whose header is in another file by that one, which is returned too."""
    import tifffile

    if path.name.lower().endswith(HEADER_SUFFIXES):
        return _open_by_header(path), None
    # As OME-TIFF, files of Micro-Manager tell their pixel size.
    tif = tifffile.TiffFile(path, is_mmstack=False)
    try:
        named = find_main_file(tif.ome_metadata or "") if tif.is_ome else None
    except BaseException:
        tif.close()
        raise
    if named is None:
        return tif, None
    tif.close()
    main = path.parent / named
    if not main.is_file():
        say_once(path, "its header is in '%s', which is missing, and is not used", named)
        return tifffile.TiffFile(path, is_mmstack=False, is_ome=False), None
    if named.lower().endswith(HEADER_SUFFIXES):
        return _open_by_header(main), main
    return tifffile.TiffFile(main, is_mmstack=False), main


def _open_by_header(path: Path) -> tifffile.TiffFile:
    """Open the TIFFs that a companion file names."""
    import tifffile

    root = ElementTree.fromstring(path.read_bytes())
    names = name_files(root)
    if not names:
        raise InputError(
            f"'{path}' names no TIFF with its pixels: give the image itself, or export it as "
            "OME-TIFF"
        )
    there = [name for name in names if (path.parent / name).is_file()]
    if not there:
        raise InputError(_say_missing(path, names))
    header = ElementTree.tostring(root, encoding="unicode")
    return tifffile.TiffFile(path.parent / there[0], omexml=header, is_mmstack=False)


def _say_missing(path: Path, missing: Sequence[str]) -> str:
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"'{path}' is an image in several files, of which '{missing[0]}'{more} is missing: copy "
        "all of them into one folder"
    )


def _choose(
    tif: tifffile.TiffFile, main: Path | None, path: Path, scene: str | int | None
) -> tifffile.TiffPageSeries:
    # Thumbnails and other reduced copies are no images of their own.
    found = [s for s in tif.series if not s.keyframe.is_reduced] or tif.series
    if not found:
        raise InputError(f"'{path}' is a TIFF without an image: copy or save it again")
    own = [series for series in found if _list_files(series) == {path.resolve()}]
    if scene is None and len(own) == 1:
        return own[0]
    if main is not None and not own:
        raise InputError(f"'{path}' is a part of an image in several files: give '{main}' instead")
    names = [series.name if series.kind == "ome" else "" for series in found]
    return found[choose_scene(names, scene, path)]


def _list_files(series: tifffile.TiffPageSeries) -> set[Path]:
    parents = {id(page.parent): page.parent for page in series.pages if page is not None}
    return {Path(parent.filehandle.path).resolve() for parent in parents.values()}


def _open_all_pages(path: Path, announced: tifffile.TiffPageSeries, how: Reading) -> Series:
    """Open the pages that there are, where an ImageJ header announces more or fewer."""
    import tifffile

    tif = tifffile.TiffFile(path, is_mmstack=False, is_imagej=False)
    try:
        pages = _choose(tif, None, path, how.scene)
    except BaseException:
        tif.close()
        raise
    vars(tif)["is_imagej"] = True  # for its pixel size
    long = [axis for axis, n in zip(announced.axes, announced.shape, strict=True) if n > 1]
    axes = how.axes or ("".join(long) if len(long) == len(pages.shape) else None)
    say_once(
        path,
        "its ImageJ header announces %d planes; the %d that are there are read",
        announced.size // announced.keyframe.size,
        len(pages.pages),
    )
    return Series(tif, pages, axes)


def _check_header(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path, how: Reading
) -> None:
    """Refuse an OME header that names missing files, or does not fit the planes."""
    if series.kind == "ome" and any(page is None for page in series.pages):
        pixels = find_pixels(tif, series)
        folder = Path(tif.filehandle.path).parent
        names = [] if pixels is None else name_files(pixels)
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise InputError(_say_missing(path, missing))
    unfit = tif.is_ome and how.axes is None
    if unfit and series.kind in ("generic", "uniform", "shaped") and len(series.shape) > 2:
        raise InputError(
            f"the OME header of '{path}' does not fit its stack of shape {series.shape}: export "
            "it again as OME-TIFF, or name its axes with --axes"
        )


def find_lengths(series: tifffile.TiffPageSeries, path: Path) -> dict[int, int]:
    """Return how far the axes of an image reach whose recording was stopped early; say so.

    Parameters
    ----------
    series : TiffPageSeries
        Planes that were announced and are not there are None.
    path : Path
        Named in messages.

    Returns
    -------
    dict of int to int
        Length of every axis that is shorter than announced.

    Raises
    ------
    InputError
        If planes are missing in between.
    """
    there = np.array([page is not None for page in series.pages])
    if there.all():
        return {}
    shape = series.shape[: series.ndim - len(series.keyframe.shape)]
    lengths = None
    if there.size == np.prod(shape):
        lengths = find_recorded(there.reshape(shape), series.axes, path)
    if lengths is None:
        raise InputError(
            f"planes in the middle of '{path}' are missing ({there.size - there.sum()} of "
            f"{there.size}): copy or save it again"
        )
    return {axis: n for axis, n in enumerate(lengths) if n < shape[axis]}
