"""What `networks.py` compares: networks, what each is taught, and the budget that all share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from phantoms import GRID
from unets import UNetSettings

from deepcontrast_bmz.settings import NetworkSettings, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Changes = Mapping[str, Mapping[str, Any]]
    Pairing = Literal["naive", "fresh", "refined", "depths"]


class Variant(NamedTuple):
    """A network, and what it is taught."""

    network: NetworkSettings | UNetSettings
    learning_rate: float
    pairing: Pairing = "naive"
    changes: Changes | None = None
    """Of the recipe, by section."""


DILATED = NetworkSettings()
TWO_PASSES = (1, 2, 4, 8, 4, 2, 1, 2, 4, 8, 4, 2, 1)
FIRST = "dilated, width 16"
CONDITIONED = "dilated, told the depth, once"
NETWORKS: dict[str, Variant] = {
    FIRST: Variant(DILATED, 1e-2),
    "dilated, width 24": Variant(NetworkSettings(width=24), 3e-3),
    "dilated, width 12, two passes": Variant(NetworkSettings(width=12, dilations=TWO_PASSES), 1e-2),
    "U-Net, blurred pooling": Variant(UNetSettings(kind="blurpool_unet"), 3e-3),
    "U-Net, plain": Variant(UNetSettings(kind="plain_unet"), 3e-3),
    "invertible": Variant(NetworkSettings(kind="invertible", width=32, levels=4), 1e-2),
    CONDITIONED: Variant(DILATED, 3e-3, "depths"),
}
REFINED = "refined targets, plain loop"
TAUGHT: dict[str, Variant] = {
    "light split in halves": Variant(DILATED, 1e-2, changes={"data": {"input_share": 0.5}}),
    "light split, .8 to the input": Variant(DILATED, 1e-2, changes={"data": {"input_share": 0.8}}),
    "specimens as deep as 3": Variant(
        DILATED, 1e-2, changes={"data": {"phantom_optical_depth": (0.0, 3.0)}}
    ),
    "specimens as deep as 4": Variant(
        DILATED, 1e-2, changes={"data": {"phantom_optical_depth": (0.0, 4.0)}}
    ),
    "up to two steps in one": Variant(DILATED, 1e-2, changes={"training": {"unroll": 2}}),
    "fresh noise only": Variant(DILATED, 1e-2, "fresh"),
    REFINED: Variant(DILATED, 1e-2, "refined"),
}
"""One seed of each, but for the first."""
SEEN_AGAIN = ("light split in halves", "specimens as deep as 3")
"""They gained most with one seed, hence are trained with all."""
RATES, RATES_SEED = (1e-3, 3e-3, 1e-2), 99
DEPTHS = tuple(GRID * i for i in range(1, 17))
"""Optical depths that the network which is told them learns."""


@dataclass(frozen=True)
class Options:
    """The budget, and where things lie."""

    steps: int
    seeds: int
    phantoms: int
    first_seed: int
    batch: int
    patch: int
    specimens: int
    work: Path
    data: Path | None
    cached: bool


def make_recipe(variant: Variant, seed: int, options: Options) -> Recipe:
    """Return the recipe of the shipped model, with the network and budget of this comparison."""
    each = max(1, options.steps // 6)
    # A U-Net has no place in a recipe: it is built beside it.
    chosen = variant.network.model_dump(exclude_unset=True)
    settings: dict[str, dict[str, Any]] = {
        "physics": {"photons": (40.0, 2000.0)},
        "network": {} if isinstance(variant.network, UNetSettings) else chosen,
        "data": {"patch": options.patch, "zoom": (0.5, 1.2), "phantoms": options.specimens},
        "training": {
            "steps": options.steps,
            "steps_per_epoch": each,
            "batch": options.batch,
            "learning_rate": variant.learning_rate,
            "validation_patches": 16,
        },
    }
    for section, changes in (variant.changes or {}).items():
        settings[section].update(changes)
    return Recipe.model_validate({"seed": seed, **settings})
