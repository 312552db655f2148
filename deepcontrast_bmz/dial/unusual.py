"""How unusual the part of a plane with the most content is for a model."""

from __future__ import annotations

__all__ = ["SMALLEST", "find_unusual", "score_window"]

from typing import TYPE_CHECKING

from deepcontrast_bmz.dial.ood import measure, unusual
from deepcontrast_bmz.dial.window import content_window
from deepcontrast_bmz.model.loop import extend

if TYPE_CHECKING:
    from torch import Tensor

    from deepcontrast_bmz.dial.ood import OodScore
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.records import LoopDescription

SMALLEST = 48
"""Side of a plane below which its spectrum tells nothing, in pixels."""

_SIDE = 256
"""Side of the window that the out-of-distribution score is taken from, in pixels."""


def score_window(raw: Tensor, iterations: Tensor, description: LoopDescription) -> OodScore | None:
    """Return how unusual the part of a plane with the most content is, where that can be said.

    Parameters
    ----------
    raw : Tensor, (Y, X)
        Counts.
    iterations : Tensor, (K, Y, X)
    description : LoopDescription
    """
    known = description.ood
    if known is None or known.iterations > iterations.shape[0] or min(raw.shape) < SMALLEST:
        return None
    rows, columns = content_window(raw, _SIDE)
    part = raw[rows, columns]
    if float(part.max() - part.min()) == 0:
        return None
    return unusual(measure(part, iterations[: known.iterations, rows, columns], description), known)


def find_unusual(model: Model, raw: Tensor, iterations: Tensor | None = None) -> OodScore | None:
    """Return how unusual a plane is for a model, from its window with the most content.

    Parameters
    ----------
    model : Model
    raw : Tensor, (Y, X)
        Counts.
    iterations : Tensor, (K, Y, X), optional
        Iterations 1 to K, where they are at hand; else the window is run.

    Returns
    -------
    OodScore or None
        None where nothing can be said: the model has no statistics or works on stacks, or the
        plane is constant or smaller than they can tell.
    """
    known = model.description.ood
    if iterations is not None:
        return score_window(raw.float(), iterations, model.description)
    enough = (
        model.max_iterations is None or known is None or known.iterations <= model.max_iterations
    )
    if known is None or model.dims != 2 or not enough or min(raw.shape) < SMALLEST:
        return None
    part = raw[content_window(raw, _SIDE)].float()
    count = known.iterations
    kept = model.iterate(extend(part[None, None], [count * model.radius] * 2), count)[0]
    return score_window(part, kept, model.description)
