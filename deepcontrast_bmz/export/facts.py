"""What is known of a model that is exported: its names, sizes and how it was made."""

from __future__ import annotations

__all__ = [
    "DEFAULT_NAME",
    "LARGEST_HALO",
    "LARGEST_STACK_HALO",
    "ModelFacts",
    "compute_shortest_side",
    "compute_smallest_block",
    "describe_photons",
    "make_model_id",
    "title",
]

import re
from typing import TYPE_CHECKING, NamedTuple

from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.export.records import ExportRecord
    from deepcontrast_bmz.records import LoopDescription, RunRecord
    from deepcontrast_bmz.settings import PhysicsSettings, Recipe

DEFAULT_NAME = "deepcontrast"
_TITLES = {DEFAULT_NAME: "DeepContrast for deep-tissue microscopy"}

LARGEST_HALO = 240
"""ilastik's tiles of 512 pixels must keep something of 16 pixels or more between two halos."""

LARGEST_STACK_HALO = 96
"""Lateral halo of a stack: its smallest block, three times as long, is ilastik's tile."""

_SMALLEST_STACK = 128
"""Least pixels along y and x of a block of a stack: below, little is left of ilastik's tiles."""

_TILE_GRID = 16
"""ilastik places tiles on this grid."""

_SPARE = 8
"""Pixels that the smallest block is longer than two halos."""


class ModelFacts(NamedTuple):
    """A trained and exported model, as card and description tell of it."""

    name: str
    """Its id and title follow from it."""
    recipe: Recipe
    run: RunRecord
    loop: LoopDescription
    """With the halo to declare."""
    exported: ExportRecord
    multiple: int
    """Pooling grid of the network."""
    sample: str | None
    """File name of the image that test tensors are cut from; None for a simulated one."""


def describe_photons(physics: PhysicsSettings) -> str:
    """Return the light of the training images in words."""
    if physics.photons is None:
        return "photons matched to the noise of each raw image"
    return "{:g} to {:g} photons per pixel".format(*physics.photons)


def make_model_id(name: str) -> str:
    """Return the id of a model, which is also the stem of its files.

    Raises
    ------
    InputError
        If the name has characters that a description may not hold, or no letter or digit.
    """
    strange = sorted(set(re.findall(r"[^A-Za-z0-9_+\- ()]", name)))
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if strange or len(slug) < 1 or not 5 <= len(title(name)) <= 64:
        met = f"with {' '.join(strange)!r}" if strange else f"of {len(name)} characters"
        raise InputError(
            f"the model cannot be called {name!r} ({met}): give it a name of 5 to 64 letters, "
            "digits, spaces and _ + - ( )"
        )
    return slug


def title(name: str) -> str:
    """Return the title that goes with a name; only the shipped model has one of its own."""
    return _TITLES.get(name, name)


def compute_shortest_side(halo: int, multiple: int) -> int:
    """Return the smallest side of a block to declare: more than two halos, on the pooling grid."""
    return -(-(2 * halo + _SPARE) // multiple) * multiple


def compute_smallest_block(halo: Sequence[int], multiple: int) -> tuple[int, ...]:
    """Return the smallest sides of a block to declare, along (z,) y, x, on the pooling grid.

    Of planes `compute_shortest_side`. ilastik works on stacks in tiles as large as this block, of
    which it keeps what lies within the halo: so the block is three halos long, at least 128 pixels
    along y and x, and 8 planes more than two halos along z. More would refuse more small images.
    """
    if len(halo) == 2:
        return tuple(compute_shortest_side(side, multiple) for side in halo)
    lateral = max(_SMALLEST_STACK, *(-(-3 * side // _TILE_GRID) * _TILE_GRID for side in halo[1:]))
    return (max(3 * halo[0], 2 * halo[0] + _SPARE), lateral, lateral)
