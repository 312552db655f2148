"""Formats that an installed reader of `bioio` knows."""

from __future__ import annotations

__all__ = ["read_with_bioio"]

import re
from typing import TYPE_CHECKING

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image.reader import (
    Found,
    choose_scene,
    complete_names,
    fits_in_memory,
    name_axes,
    reading,
)
from deepcontrast_bmz.image.units import number

if TYPE_CHECKING:
    from pathlib import Path


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
        If no installed reader knows the format, the file is damaged or holds several images, or
        its axes are unknown.
    """
    try:
        import bioio
        from bioio_base.exceptions import UnsupportedFileFormatError
    except ImportError as error:
        raise InputError(
            f"'{path}' is neither a TIFF (.tif, .tiff, .ome.tif) nor an OME-Zarr (.zarr, "
            ".ome.zarr), and bioio, which reads other formats, is not installed: convert it, or "
            'pip install "deepcontrast_bmz[bioio]" and the bioio reader of its format'
        ) from error
    with reading(path, "image"):
        try:
            scenes = bioio.BioImage(path)
        except UnsupportedFileFormatError as error:
            raise InputError(
                "an image is a TIFF (.tif, .tiff, .ome.tif), an OME-Zarr (.zarr, .ome.zarr) or a "
                f"format that an installed bioio reader knows, but '{path}' is none of them: "
                "convert it, or install the bioio reader of its format"
            ) from error
        if (chosen := choose_scene(scenes.scenes, scene, path)) > 0:
            scenes.set_scene(chosen)
        pixels = scenes.xarray_dask_data
        if fits_in_memory(pixels.nbytes, lazily):
            pixels = pixels.compute()
        sizes: dict[str, float | None] = {}
        # Its TIFF reader (for .lsm) says 1 micrometre where it does not know.
        if not type(scenes.reader).__module__.startswith("bioio_tifffile"):
            spacing = scenes.physical_pixel_sizes
            sizes = {dim: number(getattr(spacing, dim.upper(), None)) for dim in ("z", "y", "x")}
        names: list[str] | None = None
        if "C" in pixels.coords:
            given = [str(name) for name in pixels.coords["C"].values]
            # bioio invents names of this form where the file has none.
            names = complete_names(["" if re.match(r"Channel:\d", n) else n for n in given])
        # bioio fills all five axes in, so an axis of length one is none, but a named channel.
        kept = "YX" if names is None else "CYX"
        single = [dim for dim, n in pixels.sizes.items() if n == 1 and str(dim) not in kept]
        pixels = pixels.squeeze(single, drop=True)
    dims, picks = name_axes("".join(str(dim) for dim in pixels.dims), pixels.shape, path)
    # S are the samples of a colour, as of a PNG.
    notes = {"colour_samples": True} if "S" in pixels.dims and pixels.sizes["S"] > 1 else {}
    return Found(pixels.data[picks], dims, names, sizes, notes)
