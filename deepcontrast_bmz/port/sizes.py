"""Sizes that a network takes, tried with its weights, where a package states one alone."""

from __future__ import annotations

__all__ = ["find_step", "free_sizes"]

from typing import TYPE_CHECKING, Any

import numpy as np

from deepcontrast_bmz.check.engines.networks import RUNNABLE
from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.check.processing import UnsupportedError
from deepcontrast_bmz.check.tiling import NotPossibleError
from deepcontrast_bmz.check.tolerances import SAME_TOLERANCE
from deepcontrast_bmz.export.facts import compute_shortest_side
from deepcontrast_bmz.package.description import as_map, text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.check.compare import Bench
    from deepcontrast_bmz.port.draft import Draft

    Network = Callable[[NDArray[Any]], NDArray[Any]]

STEPS = (1, 2, 4, 8, 16, 32, 64)
"""Steps of the size that are tried, the finest first: those of networks with pooling."""


def free_sizes(draft: Draft, bench: Bench) -> bool:
    """Declare that a network takes more sizes in y and x than the one stated, where it does.

    A larger image, the test image with a mirrored rim at its end, must give the same values in the
    half that lies far from the rim: what looks at the whole image keeps its one size. Weights whose
    code may not be run are taken to be the network of the others.

    Parameters
    ----------
    draft : Draft
        Its description is changed.
    bench : Bench
        Made of it.

    Returns
    -------
    bool
        Whether something was changed.
    """
    fixed = [axis for axis in bench.input.spatial if axis.name in ("y", "x") and axis.size]
    places = [bench.in_names.index(axis.name) for axis in fixed]
    networks = _load(draft, bench)
    if len(fixed) != 2 or not networks or bench.in_names != bench.out_names:
        return False
    try:
        image = bench.preprocess(bench.test_input)
    except UnsupportedError:
        return False
    step = find_step(networks, image, places)
    if step is None:
        return False
    declared = bench.package.view.halo
    least: dict[str, int] = {}
    for axis in fixed:
        size = int(axis.size or 0)
        smallest = compute_shortest_side(declared.get(axis.name, 0), step)
        wanted = size - max(0, (size - smallest) // step) * step
        least[axis.name] = wanted
    sizes = [least[axis.name] for axis in fixed]
    if not all(_gives(run, image, places, sizes) for run in networks):
        least = {axis.name: int(axis.size or 0) for axis in fixed}
    _write(draft, bench, least, step)
    return True


def find_step(
    networks: Sequence[Network], image: NDArray[Any], places: Sequence[int]
) -> int | None:
    """Return the finest step by which all networks take larger images, with the same values.

    Parameters
    ----------
    networks : sequence of callable
        Arrays to arrays.
    image : ndarray
        Of a size that they take.
    places : sequence of int
        Its axes that are made larger.

    Returns
    -------
    int or None
        None if there is none up to 64, or a value depends on the whole image.
    """
    every = (s for s in STEPS if all(_takes(run, image, places, s) for run in networks))
    return next(every, None)


def _load(draft: Draft, bench: Bench) -> list[Network]:
    """Return the networks of all weights that can be run here."""
    found: list[Network] = []
    for name in (n for n in RUNNABLE if n in draft.rdf["weights"]):
        try:
            found.append(bench.load_graph(name))
        except NotPossibleError:
            continue
        # Every engine fails in its own way, and the comparison after this says how.
        except Exception:
            return []
    return found


def _run(network: Network, image: NDArray[Any]) -> NDArray[Any] | None:
    """Return what a network gives; None where it refuses the size."""
    try:
        with quiet():
            return network(np.ascontiguousarray(image))
    # Every engine fails in its own way.
    except Exception:
        return None


def _takes(network: Network, image: NDArray[Any], places: Sequence[int], step: int) -> bool:
    """Return whether a network takes a size one and three steps larger, with the same values."""
    base = _run(network, image)
    if base is None:
        return False
    span = float(base.max() - base.min()) or 1.0
    near = [slice(None)] * base.ndim
    for place in places:
        near[place] = slice(0, image.shape[place] // 2)
    for more in (step, 3 * step):
        if any(more >= image.shape[place] for place in places):
            return False
        rims = [(0, more if place in places else 0) for place in range(image.ndim)]
        found = _run(network, np.pad(image, rims, mode="reflect"))
        wanted = tuple(n + rim for n, (_, rim) in zip(base.shape, rims, strict=True))
        if found is None or found.shape != wanted:
            return False
        apart = np.abs(found[tuple(near)] - base[tuple(near)]).max() / span
        if not apart <= SAME_TOLERANCE:
            return False
    return True


def _gives(network: Network, image: NDArray[Any], places: list[int], sizes: list[int]) -> bool:
    """Return whether a network takes the beginning of an image, and gives as many pixels."""
    part = [slice(None)] * image.ndim
    for place, size in zip(places, sizes, strict=True):
        part[place] = slice(0, size)
    found = _run(network, image[tuple(part)])
    return found is not None and [found.shape[place] for place in places] == sizes


def _write(draft: Draft, bench: Bench, least: dict[str, int], step: int) -> None:
    source = draft.tensors("inputs")[0]
    for axis in source["axes"]:
        if text(axis.get("id")) in least:
            axis["size"] = {"min": least[text(axis["id"])], "step": step}
    for axis in draft.tensors("outputs")[0]["axes"]:
        name = text(axis.get("id"))
        if name in least and "tensor_id" not in as_map(axis.get("size")):
            axis["size"] = {"tensor_id": source["id"], "axis_id": name, "offset": 0}
    stated = " x ".join(str(bench.test_input.shape[bench.in_names.index(name)]) for name in least)
    words = " and ".join(f"{size} along {name}" for name, size in least.items())
    draft.change(
        f"Sizes from {words} in steps of {step} are declared, not {stated} alone: the weights take "
        "them, and give the same values."
    )
