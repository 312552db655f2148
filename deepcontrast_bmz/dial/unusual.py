"""How unusual the part of a plane with the most content is for a model."""

from __future__ import annotations

__all__ = ["SMALLEST", "find_unusual", "score_window"]

from typing import TYPE_CHECKING

from deepcontrast_bmz.dial.look import look_at_plane
from deepcontrast_bmz.dial.mirrored import iterate_mirrored
from deepcontrast_bmz.dial.ood import measure, unusual
from deepcontrast_bmz.dial.structure import shows_structure
from deepcontrast_bmz.dial.window import content_window

if TYPE_CHECKING:
    from torch import Tensor

    from deepcontrast_bmz.dial.look import Look
    from deepcontrast_bmz.dial.ood import OodScore
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.records import LoopDescription

SMALLEST = 48
"""Side of a plane below which its spectrum tells nothing, in pixels."""

_SIDE = 256
"""Side of the window that the out-of-distribution score is taken from, in pixels."""


def score_window(look: Look, description: LoopDescription) -> OodScore | None:
    """Return how unusual the part of a plane with the most content is, where that can be said.

    Parameters
    ----------
    look : Look
    description : LoopDescription
    """
    known = description.ood
    if known is None or known.iterations > description.iterations:
        return None
    if min(look.raw.shape) < SMALLEST:
        return None
    rows, columns = content_window(look.raw, _SIDE)
    part = look.raw[rows, columns]
    if float(part.max() - part.min()) == 0:
        return None
    kept = look.iterate(known.iterations)[: known.iterations, rows, columns]
    return unusual(measure(part, kept, description), known)


def find_unusual(model: Model, raw: Tensor, mask: Tensor | None = None) -> OodScore | None:
    """Return how unusual a plane is for a model, from its window with the most content.

    Parameters
    ----------
    model : Model
    raw : Tensor, (Y, X)
        Counts, NaN allowed.
    mask : Tensor of bool, (Y, X), optional
        Pixels that may count.

    Returns
    -------
    OodScore or None
        None where nothing can be said: the model has no statistics or works on stacks, or the
        plane is constant, without structure, or smaller than they can tell.
    """
    known = model.description.ood
    enough = (
        model.max_iterations is None or known is None or known.iterations <= model.max_iterations
    )
    finite = raw[raw.isfinite()]
    if known is None or model.dims != 2 or not enough or min(raw.shape) < SMALLEST:
        return None
    if not finite.numel() or float(finite.max() - finite.min()) == 0:
        return None
    widths = model.description.scatter.widths
    look = look_at_plane(raw.float(), iterate_mirrored(model), widths, mask=mask)
    if look.noisy and not shows_structure(look.structure):
        return None
    return score_window(look, model.description)
