"""Layers as images and back: axes, units, and what is refused; no napari needed."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

import deepcontrast_bmz
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import write_image
from deepcontrast_bmz.napari.files import choose_reader, read_layers, write_layer
from deepcontrast_bmz.napari.layers import (
    LayerData,
    image_of_layer,
    layer_of_image,
    list_axes,
    placement,
)
from deepcontrast_bmz.napari.samples import DEEPEST, make_section, make_stack
from deepcontrast_bmz.physics.section import CAMERA

PLUGIN = Path(deepcontrast_bmz.__file__).parent / "napari"


def layer(shape: tuple[int, ...] = (4, 8, 8), kind: str = "image", **changes: Any) -> LayerData:
    """A layer as napari describes it, with the units that it sets where none were given."""
    attributes: dict[str, Any] = {
        "name": "stack",
        "scale": [1.0] * len(shape),
        "units": ("pixel",) * len(shape),
        "axis_labels": tuple(str(i) for i in range(-len(shape), 0)),
        "translate": [0.0] * len(shape),
        "rotate": np.eye(len(shape)),
        "metadata": {},
        "rgb": False,
    }
    return np.zeros(shape, np.uint16), attributes | changes, kind


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, "there is no image layer: open an image, or File > Open Sample"),
        (layer(kind="labels"), "'stack' is a labels layer, but only image layers can be enhanced"),
        (layer(kind="points"), "'stack' is a points layer"),
        (layer((8, 8, 3), rgb=True), "'stack' is RGB, but the model is made for grey values"),
        (layer((8,)), "the layer 'stack' has 1 axes, and an image has 2 to 5"),
        (layer((1,) * 6), "the layer 'stack' has 6 axes"),
    ],
)
def test_what_is_no_grey_image_is_refused_in_one_sentence(
    given: LayerData | None, sentence: str
) -> None:
    with pytest.raises(InputError) as refused:
        image_of_layer(given)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_axes_are_stated_noted_or_offered() -> None:
    assert list_axes(layer()[1], 3) == ["zyx", "tyx", "cyx"]
    assert list_axes(layer(axis_labels=("T", "y", "x"))[1], 3) == ["tyx"]
    assert list_axes(layer(axis_labels=("a", "y", "x"))[1], 3) == ["zyx", "tyx", "cyx"]
    assert list_axes(layer(metadata={"dcbmz_dims": "cyx"})[1], 3) == ["cyx"]
    assert image_of_layer(layer(), "tyx").image.dims == ("t", "y", "x")


@pytest.mark.parametrize(
    ("scale", "units", "sizes"),
    [
        ((2, 0.5, 0.5), ("micrometer",) * 3, {"z": 2.0, "y": 0.5, "x": 0.5}),
        ((2000, 500, 500), ("nanometer",) * 3, {"z": 2.0, "y": 0.5, "x": 0.5}),
        ((1, 0.5, 0.5), ("pixel", "um", "um"), {"y": 0.5, "x": 0.5}),
        ((1, 1, 1), ("pixel",) * 3, {}),
        # Only the ratio of planes to pixels: no size is made of it.
        ((4, 1, 1), ("pixel",) * 3, {}),
        # As readers that set no units leave it.
        ((2, 0.5, 0.5), ("pixel",) * 3, {"z": 2.0, "y": 0.5, "x": 0.5}),
    ],
)
def test_pixel_sizes_are_those_of_the_layer(
    scale: tuple[float, ...], units: tuple[str, ...], sizes: dict[str, float]
) -> None:
    taken = image_of_layer(layer(scale=list(scale), units=units))
    assert taken.image.attrs["pixel_size_um"] == pytest.approx(sizes)
    guessed = "taken as µm" in taken.pixel
    assert guessed == (units == ("pixel",) * 3 and bool(sizes))


def test_time_between_frames_is_kept() -> None:
    movie = layer(axis_labels=("t", "y", "x"), units=("minute", "um", "um"), scale=[0.5, 0.1, 0.1])
    image = image_of_layer(movie).image
    assert (image.attrs["frame_interval"], image.attrs["time_unit"]) == (30.0, "sec")
    ((_, attributes, _),) = layer_of_image(image)
    assert attributes["scale"] == pytest.approx([30.0, 0.1, 0.1])
    assert attributes["units"] == ["second", "micrometer", "micrometer"]


def test_other_orders_of_axes_are_put_in_ours_with_their_scale() -> None:
    data = layer(
        (3, 4, 5, 6),
        axis_labels=("c", "t", "y", "x"),
        scale=[1.0, 2.0, 0.5, 0.25],
        translate=[0.0, 1.0, 2.0, 3.0],
    )
    taken = image_of_layer(data)
    assert taken.image.dims == ("t", "c", "y", "x")
    assert taken.image.shape == (4, 3, 5, 6)
    placed = placement(data, taken.axes, taken.image)
    assert placed["scale"] == [2.0, 1.0, 0.5, 0.25]
    assert placed["translate"] == [1.0, 0.0, 2.0, 3.0]
    assert placed["axis_labels"] == ["t", "c", "y", "x"]
    # A rotation is of the axes as they were.
    assert "rotate" not in placed
    assert "rotate" in placement(layer(), "zyx", image_of_layer(layer()).image)


def test_the_first_level_of_several_is_taken() -> None:
    levels = [np.ones((8, 8)), np.ones((4, 4))]
    _, attributes, _ = layer((8, 8), multiscale=True)
    assert image_of_layer((levels, attributes, "image")).image.shape == (8, 8)


def test_saved_and_opened_again_it_has_scale_units_and_values(tmp_path: Path) -> None:
    data = layer(scale=[2.0, 0.5, 0.5], units=("micrometer",) * 3, axis_labels=("z", "y", "x"))
    data[0][:] = np.arange(256).reshape(4, 8, 8)
    for name in ("a.ome.tif", "a.zarr"):
        path = str(tmp_path / name)
        assert write_layer(path, *data[:2]) == [path]
        reader = choose_reader(path)
        assert reader is read_layers
        assert reader is not None
        ((values, attributes, kind),) = reader(path)
        assert kind == "image"
        assert np.array_equal(np.asarray(values), data[0])
        assert attributes["scale"] == [2.0, 0.5, 0.5]
        assert attributes["units"] == ["micrometer"] * 3
        assert attributes["axis_labels"] == ("z", "y", "x")
    assert choose_reader(["a.tif", "b.tif"]) is None


def test_each_channel_is_a_layer_of_its_name(tmp_path: Path) -> None:
    image = xr.DataArray(
        np.arange(128, dtype=np.uint16).reshape(2, 8, 8),
        dims=("c", "y", "x"),
        coords={"c": ["DAPI", "GFP"]},
        attrs={"pixel_size_um": {"y": 0.2, "x": 0.2}},
    )
    write_image(image, tmp_path / "two.ome.tif")
    found = read_layers(str(tmp_path / "two.ome.tif"))
    assert [attributes["name"] for _, attributes, _ in found] == [
        "two.ome.tif DAPI",
        "two.ome.tif GFP",
    ]
    assert np.array_equal(np.asarray(found[1][0]), image.values[1])


def test_an_rgb_layer_is_not_written_as_grey(tmp_path: Path) -> None:
    data = layer((8, 8, 3), rgb=True)
    with pytest.raises(InputError, match="is RGB, and grey values are written"):
        write_layer(str(tmp_path / "a.tif"), *data[:2])
    assert list(tmp_path.iterdir()) == []


def test_samples_are_recordings() -> None:
    ((section, attributes, _),) = make_section()
    assert section.shape == (512, 512)
    assert section.dtype == np.uint16
    assert attributes["units"] == ["pixel", "pixel"]
    # Nothing was recorded below the offset of the camera, but its noise.
    assert CAMERA.offset - 40 < section.min() < section.mean()
    ((stack, attributes, _),) = make_stack()
    assert attributes["scale"] == [2.0, 0.5, 0.5]
    contrast = stack.std((1, 2)) / (stack.mean((1, 2)) - 100)
    # Scattering at depth 3 leaves exp(-3) of what is finer than the kernel.
    assert contrast[-1] < 0.5 * contrast[0]
    assert DEEPEST == 3.0


def test_the_manifest_names_what_is_there() -> None:
    """What npe2 validates with napari, and more: every command leads to a public name."""
    manifest = yaml.safe_load((PLUGIN / "napari.yaml").read_text(encoding="utf-8"))
    commands = {one["id"]: one["python_name"] for one in manifest["contributions"]["commands"]}
    for place in commands.values():
        module, name = place.split(":")
        file = PLUGIN.parent.parent / (module.replace(".", "/") + ".py")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, place
    used = {
        one["command"]
        for kind, items in manifest["contributions"].items()
        if kind not in ("commands", "menus")
        for one in items
    }
    for items in manifest["contributions"]["menus"].values():
        used |= {one["command"] for one in items}
    assert used == set(commands)
