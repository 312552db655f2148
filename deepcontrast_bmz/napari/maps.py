"""Maps of how far both halves of the light agree on what a dial added, plane by plane."""

from __future__ import annotations

__all__ = ["Maps"]

from itertools import accumulate, product
from typing import TYPE_CHECKING

import numpy as np
import psutil

from deepcontrast_bmz.napari.iterations import LARGEST_SIDE
from deepcontrast_bmz.napari.planewise import Kept, Planewise, list_nearest
from deepcontrast_bmz.predict.reliability import map_reliability

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import xarray as xr
    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.napari.iterations import Iterations

_SHARE = 0.1
"""Of the memory at hand, for maps that are kept."""


class Maps(Planewise):
    """The maps of the planes of an image at one dial, as `map_reliability` makes them.

    Parameters
    ----------
    iterations : Iterations
        Of the image.
    dial : float, optional
        None for the automatic one of each plane.
    missing : callable, optional
        Told of the first plane that was asked for and is not there yet.

    Attributes
    ----------
    dial : str
        As `predict` takes it.
    words : str
        The same in short.
    """

    def __init__(
        self,
        iterations: Iterations,
        dial: float | None,
        missing: Callable[[tuple[int, ...]], None] | None = None,
    ) -> None:
        super().__init__(iterations.image.shape, iterations.planes, missing)
        self.model = iterations.model
        self.dial = iterations.dial_words(dial)
        self.words = "the automatic dial" if dial is None else f"dial {dial:g}"
        image = iterations.image
        self._image = image if image.chunks is not None else image.chunk()
        self._kept = Kept(_SHARE * psutil.virtual_memory().available)

    def _lazily(self, model: Model) -> xr.DataArray:
        block = LARGEST_SIDE if model.dims == 2 else None
        return map_reliability(model, self._image, self.dial, block=block)

    def list_missing(self, first: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the planes that are not there, as many as are kept at once, the nearest first.

        Parameters
        ----------
        first : tuple of int
            Where to begin.
        """
        most = max(1, int(self._kept.memory // (4 * np.prod(self.shape[-2:]))))
        near = list_nearest(self.planes, first)[:most]
        return [plane for plane in near if not self._kept.has(plane)]

    def compute(
        self, plane: tuple[int, ...], model: Model | None = None
    ) -> Iterator[tuple[int, int]]:
        """Compute the map of a plane (of the slab that it lies in), and keep it.

        Parameters
        ----------
        plane : tuple of int
        model : Model, optional
            The same one made cancellable.

        Yields
        ------
        done, blocks : int
            After every block.
        """
        if self._kept.has(plane):
            return
        lazy = self._lazily(model or self.model).data
        numbers = [
            int(np.searchsorted(list(accumulate(lengths)), place, side="right"))
            for lengths, place in zip(lazy.chunks, plane, strict=False)
        ]
        grid = list(product(*(range(len(lengths)) for lengths in lazy.chunks[-2:])))
        starts = [sum(lengths[:n]) for lengths, n in zip(lazy.chunks, numbers, strict=False)]
        depths = [lengths[n] for lengths, n in zip(lazy.chunks, numbers, strict=False)]
        found = np.empty((*depths, *self.shape[-2:]), np.float32)
        edges = [(0, *accumulate(lengths)) for lengths in lazy.chunks[-2:]]
        for done, (row, column) in enumerate(grid, start=1):
            rows = slice(edges[0][row], edges[0][row + 1])
            columns = slice(edges[1][column], edges[1][column + 1])
            # In this thread, so that it ends when it is cancelled.
            part = lazy.blocks[(*numbers, row, column)].compute(scheduler="synchronous")
            found[..., rows, columns] = part
            yield done, len(grid)
        for at in np.ndindex(*depths):
            self._kept.put(tuple(a + b for a, b in zip(starts, at, strict=True)), found[at])

    def look(self, plane: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Return the map of a plane, (Y, X); None where it is not there yet."""
        return self._kept.get(plane)

    def get(self, plane: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the map of a plane, (Y, X), computed first where it is missing."""
        while (shown := self.look(plane)) is None:
            for _ in self.compute(plane):
                pass
        return shown
