"""Calibration finds the limits that lead to the known depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deepcontrast_bmz import calibrate
from deepcontrast_bmz.loop import Loop
from deepcontrast_bmz.physics.phantom import phantom
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.settings import Recipe, StopRule

if TYPE_CHECKING:
    import numpy as np
    import pytest

RECIPE = Recipe.model_validate({"seed": 3})


class TruthLoop(Loop):
    """Stands in for a perfect network: it knows the specimen and the depth of every recording."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.iterations = 4
        self.queue: list[tuple[torch.Tensor, float]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        truth, depth = self.queue.pop(0)
        fit = torch.linalg.lstsq(
            torch.stack([self.seen(truth, depth).flatten(), torch.ones(truth.numel())], dim=1),
            x.flatten()[:, None],
        ).solution.flatten()
        channels: list[torch.Tensor] = []
        for k in range(1, 5):
            # Beyond the truth, contrast goes on growing, as it does with a real network.
            left = depth - k
            image = (
                self.seen(truth, left) if left >= 0 else truth + (truth - self.seen(truth, -left))
            )
            channels.append(fit[0] * image + fit[1])
        return torch.stack(channels)[None]

    @staticmethod
    def seen(truth: torch.Tensor, depth: float) -> torch.Tensor:
        return scatter(truth, depth, RECIPE.physics.scatter.widths, RECIPE.physics.scatter.weights)


def test_limits_lead_to_the_known_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = TruthLoop()
    depths = iter([depth for _ in calibrate.KINDS for depth in calibrate.DEPTHS])

    def remembered(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> object:
        image = phantom(kind, shape, rng)  # pyright: ignore[reportArgumentType]
        loop.queue.append((torch.from_numpy(image), next(depths)))
        return image

    monkeypatch.setattr(calibrate, "phantom", remembered)
    rule = calibrate.calibrate_stop_rule(loop, RECIPE)
    assert not loop.queue
    # A perfect restoration leaves the noise alone: the residual at the truth is 1, so the limit
    # must not lie below it by much, nor allow twice the noise.
    assert 0.9 <= rule.residual <= 1.3
    assert rule != StopRule(residual=min(calibrate.RESIDUALS), background_sd=0.5)


def test_same_seed_same_limits(tiny_run: object, tiny_recipe: Recipe) -> None:
    from pathlib import Path

    from deepcontrast_bmz.model import read_run

    _, record, loop = read_run(Path(str(tiny_run)))
    assert calibrate.calibrate_stop_rule(loop.eval(), tiny_recipe) == record.stop_rule
