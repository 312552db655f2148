"""Layers of napari to labelled images and back: axes, pixel size, what cannot be enhanced.

A layer is handled as napari hands it to writers, (data, attributes, kind), so that nothing here
needs napari.
"""

from __future__ import annotations

__all__ = ["LayerData", "LayerImage", "image_of_layer", "layer_of_image", "list_axes", "placement"]

from typing import TYPE_CHECKING, Any, NamedTuple

import xarray as xr

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import DIMS, channel_names
from deepcontrast_bmz.image.labels import known_sizes
from deepcontrast_bmz.image.units import seconds, unit_um

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LayerData = tuple[Any, dict[str, Any], str]
"""Data, attributes and kind of a layer."""

DIMS_KEY, ATTRIBUTES_KEY = "dcbmz_dims", "dcbmz_attributes"
"""In the metadata of a layer: what its axes are, and what the file said besides."""

_AXES = {2: ("yx",), 3: ("zyx", "tyx", "cyx"), 4: ("tzyx", "czyx", "tcyx"), 5: ("tczyx",)}
"""What the axes of a layer can be, the most likely first."""


class LayerImage(NamedTuple):
    """A layer as a labelled image."""

    image: xr.DataArray
    """Axes in the order of `DIMS`, pixel size in micrometres where it is known."""
    axes: str
    """Letters of the layer's axes, in its own order."""
    pixel: str
    """The pixel size in words."""


def list_axes(attributes: Mapping[str, Any], ndim: int) -> list[str]:
    """Return what the axes of a layer can be, as letters, the most likely first.

    Parameters
    ----------
    attributes : mapping
        Of the layer: ``axis_labels`` and ``metadata`` are looked at.
    ndim : int
        How many axes it has.

    Raises
    ------
    InputError
        If it has fewer than 2 or more than 5.
    """
    if ndim not in _AXES:
        raise InputError(
            f"the layer '{attributes.get('name', '')}' has {ndim} axes, and an image has 2 to 5: "
            "choose another layer, or split this one"
        )
    noted = (attributes.get("metadata") or {}).get(DIMS_KEY)
    labels = [str(label).lower() for label in attributes.get("axis_labels") or ()]
    for stated in (noted, "".join(labels)):
        if stated is None or len(stated) != ndim:
            continue
        if set(stated) <= set(DIMS) and {"y", "x"} <= set(stated) and len(set(stated)) == ndim:
            return [stated]
    return list(_AXES[ndim])


def image_of_layer(layer: LayerData | None, axes: str | None = None) -> LayerImage:
    """Return a layer as a labelled image, without reading its pixels.

    Parameters
    ----------
    layer : LayerData, optional
        As ``layer.as_layer_data_tuple()`` gives it; None where there is no layer.
    axes : str, optional
        Letters of its axes, in place of the most likely ones.

    Raises
    ------
    InputError
        If there is no layer, or it holds no grey values.
    """
    if layer is None:
        raise InputError("there is no image layer: open an image, or File > Open Sample")
    data, attributes, kind = layer
    name = str(attributes.get("name") or "the image")
    if kind != "image":
        raise InputError(
            f"'{name}' is a {kind} layer, but only image layers can be enhanced: choose the image"
        )
    if attributes.get("rgb"):
        raise InputError(
            f"'{name}' is RGB, but the model is made for grey values: split it into channels "
            "(right-click on the layer, Split RGB) and choose one"
        )
    if attributes.get("multiscale"):
        # The first level is the image, the others are made of it.
        data = data[0]
    choices = list_axes(attributes, len(data.shape))
    letters = axes if axes is not None else choices[0]
    if len(letters) != len(data.shape):
        raise InputError(
            f"the layer '{name}' has {len(data.shape)} axes, not {len(letters)} ({letters}): "
            "choose its axes again"
        )
    sizes, words = _pixel_sizes(attributes, letters)
    kept = (attributes.get("metadata") or {}).get(ATTRIBUTES_KEY) or {}
    image = xr.DataArray(
        data if hasattr(data, "__array_function__") else _as_array(data),
        dims=tuple(letters),
        attrs={**kept, **_frame_interval(attributes, letters), "pixel_size_um": sizes},
        name=name,
    )
    return LayerImage(image.transpose(*(d for d in DIMS if d in letters)), letters, words)


def _as_array(data: Any) -> Any:
    """Return an array that xarray takes: a lazy one where the layer's is."""
    import dask.array as da

    chunks: Any = (*(1,) * (len(data.shape) - 2), *data.shape[-2:])
    return da.from_array(data, chunks=chunks)


def _pixel_sizes(attributes: Mapping[str, Any], letters: str) -> tuple[dict[str, float], str]:
    """Return the known sizes in micrometres, and what to say of them."""
    scale = [float(value) for value in attributes.get("scale") or (1.0,) * len(letters)]
    units = [str(unit) for unit in attributes.get("units") or ("pixel",) * len(letters)]
    stated = dict(zip(letters, zip(scale, units, strict=True), strict=True))
    sizes = {
        dim: size * factor
        for dim, (size, unit) in stated.items()
        if dim in "zyx" and (factor := unit_um(unit)) is not None
    }
    if sizes:
        return sizes, _say_sizes(sizes)
    if stated["y"][0] == 1.0 and stated["x"][0] == 1.0:
        return {}, "unknown"
    # Most readers set the scale in micrometres, and no unit.
    sizes = {dim: stated[dim][0] for dim in "zyx" if dim in stated}
    return sizes, f"{_say_sizes(sizes)} (no unit stated: taken as µm)"


def _say_sizes(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{dim} {sizes[dim]:.4g}" for dim in "zyx" if dim in sizes) + " µm"


def _frame_interval(attributes: Mapping[str, Any], letters: str) -> dict[str, Any]:
    """Return the time between frames as an image carries it, where the layer states one."""
    if "t" not in letters or not attributes.get("units"):
        return {}
    axis = letters.index("t")
    factor = seconds(str(attributes["units"][axis]))
    if factor is None:
        return {}
    return {"frame_interval": float(attributes["scale"][axis]) * factor, "time_unit": "sec"}


def placement(layer: LayerData, axes: str, image: xr.DataArray) -> dict[str, Any]:
    """Return the attributes that put a result where its layer is: scale, units, shift, rotation.

    Parameters
    ----------
    layer : LayerData
    axes : str
        Letters of its axes.
    image : DataArray
        The same as an image: its order of axes is the result's.
    """
    attributes = layer[1]
    order = [axes.index(str(dim)) for dim in image.dims]
    placed: dict[str, Any] = {
        key: [attributes[key][i] for i in order]
        for key in ("scale", "translate", "units", "axis_labels")
        if attributes.get(key) is not None
    }
    if order == sorted(order):
        whole = ("rotate", "shear", "affine")
        placed |= {key: attributes[key] for key in whole if key in attributes}
    metadata = dict(attributes.get("metadata") or {})
    placed["metadata"] = metadata | {DIMS_KEY: "".join(map(str, image.dims))}
    return placed


def layer_of_image(image: xr.DataArray, name: str | None = None) -> list[LayerData]:
    """Return an image as layers with scale and units: one, or one for each channel.

    Parameters
    ----------
    image : DataArray, dims a subset of (t, c, z, y, x)
    name : str, optional
        Of the layer; left out, the image's.
    """
    called = name or str(image.name or "image")
    if "c" in image.dims and not image.attrs.get("colour_samples"):
        names = channel_names(image) or tuple(f"channel {i}" for i in range(image.sizes["c"]))
        parts = [
            (f"{called} {channel}", image.isel(c=i, drop=True)) for i, channel in enumerate(names)
        ]
    else:
        parts = [(called, image)]
    return [_layer(part, title) for title, part in parts]


def _layer(image: xr.DataArray, name: str) -> LayerData:
    if image.attrs.get("colour_samples") and "c" in image.dims:
        image = image.transpose(..., "c")
        dims: Sequence[str] = [str(dim) for dim in image.dims[:-1]]
    else:
        dims = [str(dim) for dim in image.dims]
    scales = {dim: (size, "micrometer") for dim, size in known_sizes(image).items()}
    kept = {key: value for key, value in image.attrs.items() if key != "pixel_size_um"}
    factor = seconds(kept.get("time_unit", "sec"))
    if kept.get("frame_interval") and factor is not None:
        scales["t"] = (float(kept["frame_interval"]) * factor, "second")
    attributes: dict[str, Any] = {
        "name": name,
        "axis_labels": tuple(dims),
        "scale": [scales.get(dim, (1.0, ""))[0] for dim in dims],
        "units": [scales.get(dim, (1.0, "pixel"))[1] for dim in dims],
        "rgb": bool(image.attrs.get("colour_samples")) and "c" in image.dims,
        "metadata": {DIMS_KEY: "".join(dims), ATTRIBUTES_KEY: kept},
    }
    return image.data, attributes, "image"
