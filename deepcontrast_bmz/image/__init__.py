"""Files to labelled images and back; how an image is cut into blocks."""

from __future__ import annotations

__all__ = [
    "AS_STATED",
    "DIMS",
    "IN_MEMORY_BYTES",
    "OpenImage",
    "Reading",
    "channel_names",
    "check_output",
    "check_pixels",
    "image_sha256",
    "label_channels",
    "open_image",
    "parse_axes",
    "pixel_size_um",
    "planes",
    "read_as",
    "read_image",
    "read_mask",
    "replace_whole",
    "select_channel",
    "take_place",
    "write_image",
]

from deepcontrast_bmz.image.atomic import image_sha256, replace_whole, take_place
from deepcontrast_bmz.image.files import (
    check_output,
    open_image,
    read_as,
    read_image,
    read_mask,
    write_image,
)
from deepcontrast_bmz.image.labels import (
    DIMS,
    channel_names,
    check_pixels,
    label_channels,
    pixel_size_um,
    planes,
    select_channel,
)
from deepcontrast_bmz.image.lazy_image import OpenImage
from deepcontrast_bmz.image.reader import AS_STATED, IN_MEMORY_BYTES, Reading, parse_axes
