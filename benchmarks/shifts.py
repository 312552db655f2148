"""Whether the out-of-distribution score sees what a model was not trained for.

    python benchmarks/shifts.py MODEL [--cases N] [--json FILE] [--record]

Procedural specimens with seeds of their own are recorded twice: within the trained range, and
with one thing beyond it. Printed is the area under the ROC curve of the score for each shift: the
chance that a shifted image scores higher than one within the range.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from records import Table, print_tables, save, write_json
from scipy import ndimage

from deepcontrast_bmz.dial.ood import measure, unusual
from deepcontrast_bmz.model.loop import extend
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.draws import draw_log_uniform
from deepcontrast_bmz.physics.phantoms import KINDS, phantom
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.settings import PhysicsSettings

SIDE = 176
FIRST_SEED = 50_000
CASES = 30
DEPTHS = (0.75, 3.0)
"""Optical depths within the range; every iteration still has something to do."""
PHOTONS = (40.0, 2000.0)
"""Brightness, where the recipe leaves it to the image's own noise."""


class Light(NamedTuple):
    """What is recorded how."""

    truth: Tensor
    """(Y, X), about 0 to 1."""
    depth: float
    widths: tuple[float, ...]
    weights: tuple[float, ...]
    photons: float
    camera: Camera
    seed: int


def draw(physics: PhysicsSettings, number: int) -> Light:
    """Draw a specimen and a recording of it within the trained range."""
    rng = np.random.default_rng(FIRST_SEED + number)
    low, high = physics.width_factor
    weights = [
        w * (1 + rng.uniform(-0.3, 0.3) * physics.weight_jitter / 0.3)
        for w in physics.scatter.weights
    ]
    fewest, most = physics.photons or PHOTONS
    return Light(
        truth=torch.from_numpy(phantom(KINDS[number % len(KINDS)], (SIDE, SIDE), rng)).double(),
        depth=rng.uniform(*DEPTHS),
        widths=tuple(w * draw_log_uniform(rng, low, high) for w in physics.scatter.widths),
        weights=tuple(w / sum(weights) for w in weights),
        photons=draw_log_uniform(rng, fewest, most),
        camera=Camera(
            gain=draw_log_uniform(rng, 0.3, 3),
            offset=rng.uniform(20, 500),
            read_noise_electrons=rng.uniform(*physics.read_noise_electrons),
        ),
        seed=FIRST_SEED + number,
    )


def hazy(light: Light) -> Tensor:
    """Return the light that reaches the camera, in photons."""
    return light.photons * scatter(light.truth, light.depth, light.widths, light.weights)


def recorded(light: Light, photons: Tensor | None = None) -> Tensor:
    """Return what the camera makes of it, in counts."""
    seen = hazy(light) if photons is None else photons
    return expose(seen, light.camera, torch.Generator().manual_seed(light.seed)).float()


def _factor(widths: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return tuple(width * factor for width in widths)


def _resampled(image: Tensor, side: int) -> Tensor:
    return F.interpolate(image[None, None], (side, side), mode="bilinear", antialias=True)[0, 0]


def _zoomed_out(light: Light, factor: int = 4) -> Tensor:
    """Return a larger field, recorded alike and then reduced."""
    rng = np.random.default_rng(light.seed)
    kind = KINDS[light.seed % len(KINDS)]
    large = torch.from_numpy(phantom(kind, (factor * SIDE, factor * SIDE), rng)).double()
    return _resampled(recorded(light._replace(truth=large)), SIDE)


def _striped(light: Light) -> Tensor:
    """Return the image with lines of unequal sensitivity."""
    rng = np.random.default_rng(light.seed)
    gains = torch.from_numpy(1 + 0.15 * rng.standard_normal((SIDE, 1)))
    return recorded(light, hazy(light) * gains.clamp_min(0))


def _beads(light: Light) -> Tensor:
    rng = np.random.default_rng(light.seed)
    points = np.zeros((SIDE, SIDE))
    points[rng.integers(0, SIDE, 25), rng.integers(0, SIDE, 25)] = rng.uniform(0.7, 1.3, 25)
    beads = ndimage.gaussian_filter(points, 1.2) * 2 * math.pi * 1.2**2
    return recorded(light._replace(truth=torch.from_numpy(beads)))


def _defocused(light: Light) -> Tensor:
    blurred = ndimage.gaussian_filter(hazy(light).numpy(), 3.5)
    return recorded(light, torch.from_numpy(blurred))


def shifts(physics: PhysicsSettings, deepest: float) -> dict[str, Callable[[Light], Tensor]]:
    """Return the twelve shifts, each as a way to record."""
    fewest, most = physics.photons or PHOTONS
    narrow, wide = physics.width_factor
    return {
        "a tenth of the fewest photons": lambda x: recorded(x._replace(photons=fewest / 10)),
        "ten times the most photons": lambda x: recorded(x._replace(photons=10 * most)),
        "deeper than trained": lambda x: recorded(x._replace(depth=deepest + 1.5)),
        "no tissue": lambda x: recorded(x._replace(depth=0.0)),
        "defocus": _defocused,
        "kernel a third of the narrowest": lambda x: recorded(
            x._replace(widths=_factor(physics.scatter.widths, narrow / 3))
        ),
        "kernel three times the widest": lambda x: recorded(
            x._replace(widths=_factor(physics.scatter.widths, 3 * wide))
        ),
        "enlarged": lambda x: _resampled(recorded(x), 3 * SIDE)[SIDE : 2 * SIDE, SIDE : 2 * SIDE],
        "reduced": _zoomed_out,
        "inverted": lambda x: (y := recorded(x)).max() + y.min() - y,
        "stripes": _striped,
        "beads": _beads,
    }


def auroc(within: Sequence[float], beyond: Sequence[float]) -> float:
    """Return the chance that a draw of `beyond` exceeds one of `within`, ties counting half."""
    inner, outer = np.asarray(within)[:, None], np.asarray(beyond)[None, :]
    return float(((outer > inner) + 0.5 * (outer == inner)).mean())


def score(model: Model, raw: Tensor) -> float:
    """Return the out-of-distribution score of a plane."""
    statistics = model.description.ood
    if statistics is None:
        raise SystemExit(f"{model.name} has no out-of-distribution statistics: refit them")
    count = statistics.iterations
    iterations = model.iterate(extend(raw[None, None], [count * model.radius] * 2), count)[0]
    return unusual(measure(raw, iterations, model.description), statistics).score


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="run folder, package, or name of a shipped model")
    parser.add_argument("--cases", type=int, default=CASES, help="specimens per shift (30)")
    parser.add_argument("--json", type=Path, help="also write every score to this file")
    parser.add_argument("--record", action="store_true", help="save benchmarks/records")
    given = parser.parse_args(arguments)
    if given.cases < 2:
        parser.error(f"--cases is at least 2, not {given.cases}")
    model = open_model(given.model)
    physics = model.description.training_ranges
    deepest = model.description.iterations * model.description.step_optical_depth
    within = [
        score(model, recorded(draw(physics, 100_000 + number))) for number in range(2 * given.cases)
    ]
    lights = [draw(physics, number) for number in range(given.cases)]
    found: dict[str, list[float]] = {
        name: [score(model, record(light)) for light in lights]
        for name, record in shifts(physics, deepest).items()
    }
    table = table_of(within, found, given.cases)
    print_tables([table])
    if given.record:
        seen = [auroc(within, scores) for scores in found.values()]
        cases = "" if given.cases == CASES else f" --cases {given.cases}"
        _ = save(
            "shifts",
            [table],
            title="Out-of-distribution score",
            command=f"python benchmarks/shifts.py {given.model}{cases} --record",
            order=5,
            text="AUROC is the chance that a shifted image scores higher than one within the "
            f"trained range; mean of the shifts {np.mean(seen):.3f}, least {min(seen):.3f}. "
            "Beyond: the score is above 1; a warning waits for more (`warn_above`).",
        )
    if given.json is not None:
        write_json(given.json, {"model": model.name, "within": within, "shifts": found})


def table_of(within: Sequence[float], found: Mapping[str, Sequence[float]], cases: int) -> Table:
    """Return how well each shift is told from what is within the trained range."""

    def beyond(scores: Sequence[float]) -> str:
        return f"{100 * np.mean(np.array(scores) > 1):.0f} %"

    rows = [
        (name, f"{auroc(within, scores):.3f}", beyond(scores)) for name, scores in found.items()
    ]
    columns = (f"shift ({cases} specimens)", "AUROC", "beyond")
    return Table("", columns, (("none", "", beyond(within)), *rows))


if __name__ == "__main__":
    main()
