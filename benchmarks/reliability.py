"""Whether the map of reliability says how much of the added detail is true.

    python benchmarks/reliability.py MODEL [--cases N] [--record]

Phantoms are recorded through tissue at several depths and levels of light and enhanced at the
depth they were recorded at. What the dial added, between 1 and 4 pixels, is compared around every
pixel with what the tissue took away: its share that agrees is the squared correlation, 0 where
they are opposed. Printed are the deciles of reliability beside that share, and the reliability of
light without structure.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import xarray as xr
from records import Table, print_tables, save

from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.phantoms import KINDS, phantom
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.predict.enhance import enhance
from deepcontrast_bmz.predict.reliability import correlate_detail, map_reliability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deepcontrast_bmz.model.model import Model

SIDE = 160
FIRST_SEED = 70_000
PHOTONS = (10.0, 40.0, 160.0, 640.0)
DEPTHS = (0.5, 1.0, 2.0)
FACTORS = (1.0, 1.5)
"""Widths of the tissue's kernel over those of the model's."""
CASES = 1
EVERY = 7
"""Pixels between those that are counted, along each axis: neighbours say the same."""


class Seen(NamedTuple):
    """Pixels of a recording that are counted."""

    reliability: NDArray[np.float64]
    share: NDArray[np.float64]
    """Of the added detail that agrees with the truth."""


def look_at(model: Model, number: int, photons: float, depth: float, factor: float) -> Seen:
    """Return reliability and truth of one recording."""
    rng = np.random.default_rng([FIRST_SEED + number, round(photons), round(10 * depth)])
    truth = phantom(KINDS[number % len(KINDS)], (SIDE, SIDE), rng)
    truth = truth / truth.mean() * photons
    kernel = model.description.scatter
    widths = tuple(factor * width for width in kernel.widths)
    light = scatter(torch.from_numpy(truth).double(), depth, widths, kernel.weights).numpy()
    raw = xr.DataArray(rng.poisson(light.clip(0)).astype(np.float32), dims=("y", "x"))
    enhanced = enhance(model, raw, dial=depth).image.values
    found = map_reliability(model, raw, depth).values
    share = np.clip(correlate_detail(enhanced - raw.values, truth - light), 0, 1) ** 2
    every = (slice(EVERY // 2, None, EVERY),) * 2
    return Seen(found[every].ravel().astype(np.float64), share[every].ravel())


def structureless(model: Model, photons: float, number: int) -> float:
    """Return the mean reliability of even light at dial 1."""
    rng = np.random.default_rng([FIRST_SEED, number, round(photons)])
    raw = xr.DataArray(rng.poisson(photons, (SIDE, SIDE)).astype(np.float32), dims=("y", "x"))
    return float(map_reliability(model, raw, 1.0).mean())


def deciles_of(seen: Seen) -> list[tuple[float, float, float]]:
    """Return mean reliability, mean share and median share of each tenth of the pixels."""
    order = np.argsort(seen.reliability, kind="stable")
    return [
        (
            float(seen.reliability[part].mean()),
            float(seen.share[part].mean()),
            float(np.median(seen.share[part])),
        )
        for part in np.array_split(order, 10)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="run folder, package, or name of a shipped model")
    parser.add_argument("--cases", type=int, default=CASES, help="of each kind of phantom (1)")
    parser.add_argument("--record", action="store_true", help="save benchmarks/records")
    given = parser.parse_args(arguments)
    if given.cases < 1:
        parser.error(f"--cases is at least 1, not {given.cases}")
    model = open_model(given.model)
    most = model.description.iterations * model.description.step_optical_depth
    tables: list[Table] = []
    errors: list[float] = []
    for factor in FACTORS:
        parts = [
            look_at(model, number, photons, depth, factor)
            for number in range(given.cases * len(KINDS))
            for photons in PHOTONS
            for depth in DEPTHS
            if depth <= most
        ]
        deciles = deciles_of(Seen(*(np.concatenate(part) for part in zip(*parts, strict=True))))
        errors.append(float(np.mean([abs(found - share) for found, share, _ in deciles])))
        rows = [
            (str(n), f"{found:.2f}", f"{share:.2f}", f"{median:.2f}")
            for n, (found, share, median) in enumerate(deciles, 1)
        ]
        words = "as the model's" if factor == 1 else f"{factor:g} times as wide"
        columns = ("decile", "reliability", "share that is true, mean", "median")
        tables.append(
            Table(f"Tissue with a kernel {words}, {len(parts)} recordings.", columns, tuple(rows))
        )
    even = [(f"{photons:g}", f"{structureless(model, photons, 0):.2f}") for photons in PHOTONS]
    tables.append(
        Table("Even light, dial 1.", ("photons per pixel", "mean reliability"), tuple(even))
    )
    print_tables(tables)
    if given.record:
        cases = "" if given.cases == CASES else f" --cases {given.cases}"
        wide = ", ".join(f"{error:.2f} at {f:g}" for f, error in zip(FACTORS, errors, strict=True))
        _ = save(
            "reliability",
            tables,
            title="Reliability",
            command=f"python benchmarks/reliability.py {given.model}{cases} --record",
            order=6,
            text="Reliability against the share of the added detail, 1-4 px, that agrees with what "
            f"the tissue took away; phantoms at {min(PHOTONS):g} to {max(PHOTONS):g} photons and "
            f"optical depths {min(DEPTHS):g} to {min(max(DEPTHS), most):g}. Mean difference over "
            f"the deciles, by the width of the kernel over the model's: {wide}.",
        )


if __name__ == "__main__":
    main()
