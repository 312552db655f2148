"""Images opened and saved in napari by this project's readers and writers: pixel sizes stay."""

from __future__ import annotations

__all__ = ["choose_reader", "read_layers", "write_layer"]

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.napari.layers import image_of_layer, layer_of_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepcontrast_bmz.napari.layers import LayerData


def choose_reader(path: str | list[str]) -> Callable[[str], list[LayerData]] | None:
    """Return the reader of a path; None for several paths, which napari stacks itself.

    Parameters
    ----------
    path : str or list of str
        What is opened.
    """
    return read_layers if isinstance(path, str) else None


def read_layers(path: str) -> list[LayerData]:
    """Return an image file as layers with scale, units and names of axes.

    Parameters
    ----------
    path : str
        TIFF, OME-TIFF, OME-Zarr or a folder of planes.

    Raises
    ------
    InputError
        As `read_image`.
    """
    from deepcontrast_bmz.image import read_image

    return layer_of_image(read_image(Path(path)), Path(path).name)


def write_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer as OME-TIFF or OME-Zarr, with its pixel size.

    Parameters
    ----------
    path : str
        Ends in .tif, .tiff or .zarr.
    data : array
        Of the layer; what is enhanced lazily is computed.
    attributes : dict
        Of the layer.

    Returns
    -------
    list of str
        What was written.

    Raises
    ------
    InputError
        If the layer is RGB, or the path cannot be written.
    """
    from deepcontrast_bmz.image import write_image

    if attributes.get("rgb"):
        raise InputError(
            f"'{attributes.get('name')}' is RGB, and grey values are written: save it by another "
            "writer, or split it into channels first"
        )
    write_image(image_of_layer((data, attributes, "image")).image, Path(path))
    return [path]
