"""Decisions on a dial that tests make up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepcontrast_bmz.dial.automatic import Decision

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from deepcontrast_bmz.dial.automatic import DialChoice
    from deepcontrast_bmz.dial.look import Run
    from deepcontrast_bmz.records import LoopDescription


def deciding(choose: Callable[..., DialChoice]) -> Callable[..., Decision]:
    """Return what decides as `choose` does, and knows nothing else of a plane."""

    def decide(raw: Tensor, run: Run, description: LoopDescription, **options: Any) -> Decision:
        return Decision(choose(raw, run, **options), None, description)

    return decide
