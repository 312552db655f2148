"""Reads a finished run folder: its settings, its record and its trained loop."""

from __future__ import annotations

__all__ = [
    "describe_run",
    "read_run",
]

from typing import TYPE_CHECKING

from pydantic import ValidationError

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.weights import load_state
from deepcontrast_bmz.records import CHANNEL_PREFIX, LoopDescription, RunRecord
from deepcontrast_bmz.settings import Recipe, describe_invalid, read_recipe

if TYPE_CHECKING:
    from pathlib import Path


_EXACT_TOLERANCE = 1e-6
"""Rounding, over the output's range: what is left beyond the exact radius of a loop."""


def describe_run(recipe: Recipe, record: RunRecord, loop: Loop) -> LoopDescription:
    """Describe the loop of a finished run; the halo is the exact one, not a measured one."""
    iterations = recipe.loop.iterations
    names = [f"{CHANNEL_PREFIX}{k}" for k in range(1, iterations + 1)]
    sizes = {image.pixel_size_um for image in record.images}
    return LoopDescription(
        step_optical_depth=recipe.physics.step_optical_depth,
        iterations=iterations,
        channels=tuple(names),
        network=recipe.network,
        dims=recipe.network.dims,
        radius_px=loop.radius,
        radius_planes=loop.radii[0] if loop.dims == 3 else None,
        halo_px=iterations * loop.radius,
        halo_planes=iterations * loop.radii[0] if loop.dims == 3 else None,
        halo_tolerance=_EXACT_TOLERANCE,
        scatter=recipe.physics.scatter,
        depth=record.depth,
        ood=record.ood,
        training_ranges=recipe.physics,
        training_pixel_size_um=sizes.pop() if len(sizes) == 1 else None,
        seed=recipe.seed,
        torch_version=record.torch_version,
    )


def read_run(folder: Path) -> tuple[Recipe, RunRecord, Loop]:
    """Return settings, record and trained loop of a finished run folder.

    Raises
    ------
    InputError
        If the run has not finished, or one of its files is broken.
    """
    record_path, weights_path = folder / "run.json", folder / "weights.pt"
    if not (record_path.is_file() and weights_path.is_file()):
        raise InputError(
            f"a run becomes a model when training ends, but {folder} has not finished: "
            "go on with dcbmz train --resume"
        )
    recipe = read_recipe(folder / "recipe.toml")
    try:
        record = RunRecord.model_validate_json(record_path.read_bytes())
    except ValidationError as error:
        raise InputError(describe_invalid(error, str(record_path))) from error
    loop = Loop.from_recipe(recipe)
    load_state(loop, weights_path.read_bytes(), str(weights_path))
    return recipe, record, loop
