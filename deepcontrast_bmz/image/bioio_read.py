"""Formats that an installed reader of `bioio` knows."""

from __future__ import annotations

__all__ = ["read_with_bioio"]

import re
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.reader import (
    Found,
    choose_scene,
    complete_names,
    explain_failures,
    fits_in_memory,
    name_axes,
    say_once,
)
from deepcontrast_bmz.image.units import parse_number

if TYPE_CHECKING:
    from pathlib import Path

    import bioio


def read_with_bioio(
    path: Path, *, lazily: bool | None = None, scene: str | int | None = None
) -> Found:
    """Read a format that an installed reader of bioio knows; its sizes are micrometres.

    Parameters
    ----------
    path : Path
        A file of any format.
    lazily : bool, optional
        Whether pixels are read only when they are asked for; large ones are, if left out.
    scene : str or int, optional
        Name or number of the image, where there are several.

    Raises
    ------
    InputError
        If no installed reader knows the format, a reader is broken, the file is damaged or holds
        several images and none was chosen, or its axes are unknown.
    """
    try:
        import bioio
    except ImportError as error:
        if error.name == "bioio":
            raise InputError(
                f"'{path}' is neither a TIFF (.tif, .tiff, .ome.tif) nor an OME-Zarr (.zarr, "
                ".ome.zarr), and bioio, which reads other formats, is not installed: convert it, "
                'or pip install "deepcontrast_bmz[bioio]" and the bioio reader of its format'
            ) from error
        raise InputError(_say_broken("bioio", path, error)) from error
    with explain_failures(path, "image"):
        try:
            return _read(bioio.BioImage(path), path, lazily, scene)
        except (InputError, MemoryError):
            raise
        except Exception as error:
            raise InputError(_explain(path, error)) from error


def _say_broken(name: str, path: Path, error: Exception) -> str:
    return (
        f"'{path}' cannot be read, since {name} is installed but does not work "
        f"({_one_line(error)}): install it again, or convert the image"
    )


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200].rstrip(".")


def _explain(path: Path, error: Exception) -> str:
    """Return why bioio could not read a file, and by which of its readers, in one sentence.

    bioio loads every reader before it chooses one, so that any broken one keeps it from reading;
    and of a reader that fails on the file it says that the format is unknown.
    """
    able: list[str] = []
    for entry in entry_points(group="bioio.readers"):
        try:
            about = entry.load().ReaderMetadata
            if not path.name.lower().endswith(tuple(about.get_supported_extensions())):
                continue
            reader = about.get_reader()
        except Exception as broken:
            return _say_broken(f"the bioio reader {entry.name}", path, broken)
        able.append(entry.name)
        try:
            _ = reader.is_supported_image(path)
        except Exception as failed:
            error = failed
    if not able:
        return (
            f"'{path}' is neither a TIFF (.tif, .tiff, .ome.tif) nor an OME-Zarr (.zarr, "
            ".ome.zarr), and no installed bioio reader knows its format: convert it, or install "
            "the bioio reader of its format"
        )
    reason = _one_line(error).replace(". ", "; ")
    return (
        f"the bioio reader {' or '.join(able)} cannot read '{path}' ({reason}): copy or save it "
        "again, try another version of the reader, or convert the image"
    )


def _read(
    scenes: bioio.BioImage, path: Path, lazily: bool | None, scene: str | int | None
) -> Found:
    if (chosen := choose_scene(scenes.scenes, scene, path)) > 0:
        scenes.set_scene(chosen)
    pixels = scenes.xarray_dask_data
    if fits_in_memory(pixels.nbytes, lazily):
        pixels = pixels.compute()
    sizes: dict[str, float | None] = {}
    # Its TIFF reader (for .lsm) says 1 micrometre where it does not know.
    if not type(scenes.reader).__module__.startswith("bioio_tifffile"):
        spacing = scenes.physical_pixel_sizes
        sizes = {dim: parse_number(getattr(spacing, dim.upper(), None)) for dim in ("z", "y", "x")}
    names: list[str] | None = None
    if "C" in pixels.coords:
        given = [str(name) for name in pixels.coords["C"].values]
        # bioio invents names of this form where the file has none.
        names = complete_names(["" if re.match(r"Channel:\d", n) else n for n in given])
    # bioio fills all five axes in, so an axis of length one is none, but a named channel.
    kept = "YX" if names is None else "CYX"
    single = [dim for dim, n in pixels.sizes.items() if n == 1 and str(dim) not in kept]
    pixels = pixels.squeeze(single, drop=True)
    if "S" in pixels.dims and pixels.sizes["S"] in (2, 4):
        say_once(path, "its alpha channel is no intensity and is left out")
        pixels = pixels.isel(S=slice(-1))
    dims, picks = name_axes("".join(str(dim) for dim in pixels.dims), pixels.shape, path)
    # S are the samples of a colour, as of a PNG.
    notes = {"colour_samples": True} if "S" in pixels.dims and pixels.sizes["S"] > 1 else {}
    return Found(pixels.data[picks], dims, names, sizes, notes)
