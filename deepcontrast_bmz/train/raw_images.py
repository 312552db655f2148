"""Raw images of a run: read into planes, listed in images.json, recognised by their content."""

from __future__ import annotations

__all__ = [
    "MaskedPath",
    "check_same",
    "mark_use",
    "mask_paths",
    "read_list",
    "read_planes",
    "write_list",
]

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deepcontrast_bmz.errors import InputError, name_file
from deepcontrast_bmz.image import (
    Reading,
    check_pixels,
    image_sha256,
    pixel_size_um,
    read_as,
    select_channel,
)
from deepcontrast_bmz.physics.scatter import widths_in_pixels
from deepcontrast_bmz.records import ImageRecord
from deepcontrast_bmz.train.large_images import excerpts_of, excerpts_sha256
from deepcontrast_bmz.train.raw_planes import RawPlane, planes_of, rescale, stacks_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deepcontrast_bmz.settings import Recipe

_LIST = "images.json"


class MaskedPath(NamedTuple):
    """A raw image and, where it has one, its mask."""

    path: Path
    mask: Path | None = None
    """Image whose zeros say which pixels are no part of the picture."""


def mask_paths(paths: Sequence[Path | MaskedPath]) -> list[MaskedPath]:
    """Return images with their masks, none for those that came without."""
    return [one if isinstance(one, MaskedPath) else MaskedPath(one) for one in paths]


def write_list(images: Sequence[MaskedPath], records: Sequence[ImageRecord], out: Path) -> None:
    """Write ``images.json`` of a run.

    Parameters
    ----------
    images : sequence of MaskedPath
    records : sequence of ImageRecord
        Of the same images.
    out : Path
        Run folder.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    entries = [
        {"path": str(image.path.absolute()), **_describe_mask(image), **record.model_dump()}
        for image, record in zip(images, records, strict=True)
    ]
    (out / _LIST).write_text(json.dumps(entries, indent=1), encoding="utf-8")


def _describe_mask(image: MaskedPath) -> dict[str, str]:
    if image.mask is None:
        return {}
    return {"mask": str(image.mask.absolute()), "mask_sha256": image_sha256(image.mask)}


def read_list(out: Path, given: Sequence[MaskedPath] = ()) -> list[MaskedPath]:
    """Return the images of a run that was begun.

    Parameters
    ----------
    out : Path
        Run folder.
    given : sequence of MaskedPath
        The same images in the same order, if they lie elsewhere now; masks that are left out are
        those of the list.
    """
    stored = json.loads((out / _LIST).read_text(encoding="utf-8"))
    listed = [MaskedPath(Path(e["path"]), Path(e["mask"]) if "mask" in e else None) for e in stored]
    if not given:
        return listed
    masks = [image.mask for image in listed] + [None] * len(given)
    return [MaskedPath(path, own or mask) for (path, own), mask in zip(given, masks, strict=False)]


def check_same(images: Sequence[MaskedPath], records: Sequence[ImageRecord], out: Path) -> None:
    """Raise `InputError` if images or masks are not those that a run began with.

    Parameters
    ----------
    images : sequence of MaskedPath
    records : sequence of ImageRecord
        Of the same images, as they were read now.
    out : Path
        Run folder.
    """
    stored = json.loads((out / _LIST).read_text(encoding="utf-8"))
    then = [(entry["sha256"], entry.get("mask_sha256")) for entry in stored]
    now = [
        (record.sha256, _describe_mask(image).get("mask_sha256"))
        for image, record in zip(images, records, strict=True)
    ]
    if then != now:
        raise InputError(
            f"a resumed run needs the images it began with, but they differ from those in "
            f"{out}/images.json: give the same images and mask in the same order, or start a new "
            "run"
        )


def read_planes(
    images: Sequence[MaskedPath], recipe: Recipe
) -> tuple[list[RawPlane], list[ImageRecord]]:
    """Read the planes, or stacks, of images, and what is known of every image.

    Parameters
    ----------
    images : sequence of MaskedPath
    recipe : Recipe

    Raises
    ------
    InputError
        If an image or a mask cannot be read, they do not belong together, or there is nothing in
        an image to learn from.
    """
    found: list[RawPlane] = []
    records: list[ImageRecord] = []
    for number, image in enumerate(images):
        with name_file(image.path):
            own, record = _read_one(image, number, recipe)
        found += rescale(own)
        records.append(record)
    return found, records


def _read_one(
    masked: MaskedPath, number: int, recipe: Recipe
) -> tuple[list[RawPlane], ImageRecord]:
    """Read the planes, or stacks, of an image, and what is known of it."""
    path, mask = masked
    data = recipe.data
    image = select_channel(read_as(path, Reading(data.axes, data.scene, mask)), data.channel)
    size = pixel_size_um(image)
    widths = widths_in_pixels(recipe.physics.scatter, size)
    fewest = recipe.data.patch_planes if recipe.network.dims == 3 else None
    if image.chunks is not None:
        seed = recipe.seed
        own = excerpts_of(image, number, path.name, widths, seed=seed, planes=fewest)
        sha256 = excerpts_sha256(image, own)
    else:
        check_pixels(image, path.name, holes=True)
        if fewest is None:
            own = planes_of(image, number, path.name, widths)
        else:
            own = stacks_of(image, number, path.name, widths, fewest=fewest)
        sha256 = image_sha256(path)
    return own, ImageRecord(
        name=path.name,
        sha256=sha256,
        dims="".join(str(dim) for dim in image.dims),
        shape=tuple(image.shape),
        pixel_size_um=size,
    )


def mark_use(
    records: Sequence[ImageRecord], training: Iterable[RawPlane], validation: Iterable[RawPlane]
) -> list[ImageRecord]:
    """Return the records of images with what each was used for.

    Parameters
    ----------
    records : sequence of ImageRecord
    training, validation : iterable of RawPlane
        Planes of these images.
    """
    trained = {plane.image for plane in training}
    validated = {plane.image for plane in validation}
    marked: list[ImageRecord] = []
    for number, record in enumerate(records):
        use = "validation" if number in validated else "training"
        if number in trained and number in validated:
            use = "both"
        marked.append(record.model_copy(update={"used_for": use}))
    return marked
