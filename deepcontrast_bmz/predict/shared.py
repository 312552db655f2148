"""One automatic dial for all images of a call, planned before the first is enhanced."""

from __future__ import annotations

__all__ = ["share_among"]

import dataclasses
import logging
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from deepcontrast_bmz.dial.experiment import channel_keys, share_dials
from deepcontrast_bmz.dial.per_plane import choose_per_plane
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import pixel_size_um
from deepcontrast_bmz.predict.enhance import check_grey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deepcontrast_bmz.dial.experiment import PlaneChoices
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.predict.stream import Request

logger = logging.getLogger(__name__)

_MOST_IMAGES = 25
"""Images of one kind that are looked at, at even distances."""


def share_among(
    model: Model, experiment: Sequence[Request], requests: Sequence[Request]
) -> list[Request]:
    """Return requests whose dials are settled together, where they are to be chosen.

    Parameters
    ----------
    model : Model
    experiment : sequence of Request
        All images that share the dials.
    requests : sequence of Request
        Those that are to be enhanced.

    Returns
    -------
    list of Request
        As they were, where the dials were asked for, there is one image, or an image cannot be
        opened: why not is said at its turn.
    """
    if len(experiment) < 2 or experiment[0].wanted.table is not None:
        return list(requests)
    kinds: dict[tuple[tuple[str | int, ...], bool], list[Request]] = defaultdict(list)
    for request in sorted(experiment, key=lambda one: str(one.path)):
        kind = _kind_of(request)
        if kind is not None:
            kinds[kind].append(request)
    looked_at: dict[Path, PlaneChoices] = {}
    for members in kinds.values():
        for place in _spread(len(members)):
            found = _look_at(model, members[place])
            if found is not None:
                looked_at[members[place].path] = found
    shared = dict(zip(looked_at, share_dials(list(looked_at.values())), strict=True))
    settled: dict[Path, Request] = {}
    for members in kinds.values():
        known = next((shared[one.path] for one in members if one.path in shared), None)
        for request in members:
            table, reason = shared.get(request.path, known) or (None, "")
            wanted = dataclasses.replace(request.wanted, table=table, reason=reason)
            settled[request.path] = dataclasses.replace(request, wanted=wanted)
    return [settled.get(request.path, request) for request in requests]


def _kind_of(request: Request) -> tuple[tuple[str | int, ...], bool] | None:
    """Return what images with the same dials have in common; None for one that is no image."""
    try:
        image = request.open()
    except (InputError, MemoryError):
        return None
    sizes = dict(zip(image.dims, image.shape, strict=True))
    return tuple(channel_keys(sizes.get("c", 1), image.names)), "z" in image.dims


def _spread(count: int) -> list[int]:
    """Return the images that are looked at."""
    return sorted({int(i) for i in np.rint(np.linspace(0, count - 1, min(count, _MOST_IMAGES)))})


def _look_at(model: Model, request: Request) -> PlaneChoices | None:
    """Return the dials that planes of an image would have on their own."""
    try:
        image = request.open()
        labels = image.labelled()
        check_grey(labels, request.path.name)
        source = request.source(image, model)
        return choose_per_plane(model, source, pixel_size_um(labels), image.names)
    except (InputError, MemoryError) as error:
        logger.info("%s does not count for the shared dial: %s", request.path, error)
        return None
