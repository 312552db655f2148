"""Test tensors, sample images and cover of a package.

Test tensors are of order one, since the programs of the zoo compare with fixed tolerances: the
image is scaled by a power of two, with which the networks commute bit for bit. Without an image
of the user the input is a recorded specimen whose pixels are the same on every machine.
"""

from __future__ import annotations

__all__ = [
    "SAMPLE_SIDE",
    "Tensors",
    "choose_sample_shape",
    "cover_png",
    "crop_middle",
    "read_sample",
    "record_specimen",
    "scale_to_one",
    "serialize_npy",
    "serialize_tiff",
]

import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tifffile
import torch
from matplotlib.image import imsave

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import check_pixels, read_image, select_channel
from deepcontrast_bmz.physics.camera import Camera
from deepcontrast_bmz.physics.degrade import Degradation, degrade
from deepcontrast_bmz.physics.phantoms import exact_membranes
from deepcontrast_bmz.physics.scatter import widths_in_pixels
from deepcontrast_bmz.settings import Scatter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from deepcontrast_bmz.records import LoopDescription
    from deepcontrast_bmz.settings import Recipe

TEST_SHAPE = (264, 296)
"""Height and width of the test tensors, where the smallest block allows it; not square, so that
exchanged axes are noticed."""

SAMPLE_SIDE = 416
"""Side of the image on which the halo is measured: up to 200 pixels."""

_STACK_SIDE = 176
"""Lateral side of a stack on which the halo is measured: up to 80 pixels."""

_LARGEST_STACK = (64, _STACK_SIDE + 128, _STACK_SIDE + 128)
"""Planes, rows and columns of a stack that are read for the test tensors."""

_PHOTONS = 2000.0
"""Photons per pixel that leave the specimen of the test tensors where its brightness is 1."""


class Tensors(NamedTuple):
    """What a model is tested with."""

    raw: NDArray[np.float32]
    """((Z,) Y, X)."""
    enhanced: NDArray[np.float32]
    """(1, C, (Z,) Y, X)."""


def choose_sample_shape(description: LoopDescription) -> tuple[int, ...]:
    """Return the size of an image on which the halo of a loop can be measured, ((Z,) Y, X)."""
    if description.dims == 2:
        return (max(min(2 * description.halo_px + 16, SAMPLE_SIDE), *TEST_SHAPE),) * 2
    side = min(2 * description.halo_px + 16, _STACK_SIDE)
    return (2 * (description.halo_planes or 0) + 2, side, side)


def record_specimen(
    recipe: Recipe, description: LoopDescription, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return membranes as deep as all iterations reach, recorded with a 16-bit camera.

    Counts of the shape ((Z,) Y, X), the same on every machine. The recipe gives the kernel.
    """
    kernel = recipe.physics.scatter
    pixel_size_um = description.training_pixel_size_um
    if kernel.unit == "um" and pixel_size_um is None:
        kernel = Scatter()
    photons = torch.from_numpy(exact_membranes(shape, seed=20))
    recording = Degradation(
        optical_depth=description.iterations * description.step_optical_depth,
        widths_px=widths_in_pixels(kernel, pixel_size_um),
        weights=kernel.weights,
        veil_photons=_PHOTONS / 20,
        camera=Camera(gain=0.5, offset=100.0, read_noise_electrons=1.5, bit_depth=16),
        seed=21,
    )
    counts = degrade(photons * _PHOTONS, recording, by_pixel=True)
    return counts.numpy().astype(np.float32)


def read_sample(path: Path, recipe: Recipe) -> NDArray[np.float32]:
    """Return the middle of an image, ((Z,) Y, X), for planes of its middle plane.

    Raises
    ------
    InputError
        If the image cannot be read, or has no z axis and the model is for stacks.
    """
    data = recipe.data
    image = select_channel(read_image(path, axes=data.axes, scene=data.scene), data.channel)
    stacks = recipe.network.dims == 3
    most = _LARGEST_STACK if stacks else (SAMPLE_SIDE,) * 2
    dims = ("z", "y", "x")[-len(most) :]
    if stacks and "z" not in image.dims:
        raise InputError(
            f"{path.name} has axes {', '.join(str(dim) for dim in image.dims)}, but a model for "
            "stacks needs a sample with a z axis: give a z-stack"
        )
    for dim in ("t", "c", "z"):
        if dim in image.dims and dim not in dims:
            image = image.isel({dim: image.sizes["z"] // 2 if dim == "z" else 0})
    cut = {
        dim: slice((n - min(n, least)) // 2, (n + min(n, least)) // 2)
        for dim, least in zip(dims, most, strict=True)
        for n in (image.sizes[dim],)
    }
    image = image.isel(cut)
    check_pixels(image, path.name)
    return np.ascontiguousarray(image.transpose(*dims).to_numpy(), dtype=np.float32)


def crop_middle(image: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the middle of an image in a given size."""
    starts = ((n - m) // 2 for n, m in zip(image.shape, shape, strict=True))
    window = tuple(slice(start, start + m) for start, m in zip(starts, shape, strict=True))
    return np.ascontiguousarray(image[window])


def scale_to_one(raw: NDArray[np.float32], loop: Callable[[Tensor], Tensor]) -> Tensors:
    """Scale an image ((Z,) Y, X) by a power of two so that no value, in or out, is larger than one.

    The zoo's test in Fiji allows 1.5e-4 + 1e-4 |value| at every pixel: engines that differ by
    2e-5 of the range pass it with values of order one, and would not with those of a camera.
    """
    with torch.inference_mode():
        enhanced = loop(torch.from_numpy(raw)[None, None])
        largest = max(float(np.abs(raw).max()), float(enhanced.abs().max()))
        scaled = np.ldexp(raw, -math.frexp(largest)[1])
        enhanced = loop(torch.from_numpy(scaled)[None, None])
    return Tensors(scaled, enhanced.numpy())


def serialize_npy(array: NDArray[Any]) -> bytes:
    """Return an array as a ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _display_range(plane: NDArray[Any]) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(plane, (0.3, 99.8)))
    return (low, high) if high > low else (low, low + 1)


def serialize_tiff(image: NDArray[Any], labels: list[str]) -> bytes:
    """Return (C, (Z,) Y, X) as an ImageJ TIFF with a display range that shows something.

    There is one label for each channel.
    """
    ranges = [_display_range(channel) for channel in image]
    # ImageJ has channels behind planes.
    ordered = image if image.ndim == 3 else image.swapaxes(0, 1)
    axes = "CYX" if image.ndim == 3 else "ZCYX"
    planes = 1 if image.ndim == 3 else image.shape[1]
    if len(image) == 1:
        ordered, axes = ordered.squeeze(axes.index("C")), axes.replace("C", "")
    metadata: dict[str, Any] = {"axes": axes, "Labels": labels * planes}
    if len(image) == 1:
        metadata |= {"min": ranges[0][0], "max": ranges[0][1]}
    else:
        metadata |= {"mode": "grayscale", "Ranges": tuple(v for pair in ranges for v in pair)}
    file = io.BytesIO()
    ordered = np.ascontiguousarray(ordered)
    tifffile.imwrite(file, ordered, imagej=True, metadata=metadata, software=False)
    return file.getvalue()


def cover_png(raw: NDArray[Any], enhanced: NDArray[Any]) -> bytes:
    """Return a PNG twice as wide as high: before on the left, after on the right.

    Of stacks, (Z, Y, X), the plane in the middle.
    """
    if raw.ndim == 3:
        raw, enhanced = raw[len(raw) // 2], enhanced[len(enhanced) // 2]
    side = min(256, *raw.shape)
    panels: list[NDArray[Any]] = []
    for plane in (raw, enhanced):
        part = crop_middle(plane, (side, side))
        low, high = _display_range(part)
        grey = np.clip((part - low) / (high - low), 0, 1)
        panels.append(np.kron((255 * grey).round().astype(np.uint8), np.ones((2, 2), np.uint8)))
    picture = np.concatenate(panels, axis=1)
    picture[:, 2 * side - 2 : 2 * side + 2] = 255
    file = io.BytesIO()
    rgb = np.repeat(picture[:, :, None], 3, axis=2)
    unsigned: Any = {"Software": None}
    imsave(file, rgb, format="png", metadata=unsigned)
    return file.getvalue()
