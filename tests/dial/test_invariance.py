"""What is not tissue, and how an image is written, does not move the dial."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from benchmark_scripts import load
from torch import Tensor

from deepcontrast_bmz.dial.automatic import choose_dial
from deepcontrast_bmz.dial.mirrored import iterate_mirrored
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.physics.scatter import scatter

DECISION = load("decision")
# Half the pixels in each direction are another recording: see the benchmark for how far it moves.
LAWS: list[str] = [name for name in DECISION.CHANGES if not name.startswith("binned")]


@cache
def recording() -> Tensor:
    truth = torch.from_numpy(phantom("nuclei", (240, 240), np.random.default_rng(3))).double()
    seen = 400 * scatter(truth, 1.5, (5.5, 24.0), (0.7, 0.3)).clamp_min(0)
    camera = Camera(gain=0.5, offset=100.0, read_noise_electrons=1.5, bit_depth=16)
    return expose(seen, camera, torch.Generator().manual_seed(0)).float()


def dial_of(raw: Tensor) -> float:
    model = open_model("deepcontrast")
    widths = model.description.scatter.widths
    return choose_dial(raw, iterate_mirrored(model), model.description, widths_px=widths).dial


before = cache(lambda: dial_of(recording()))


@pytest.mark.parametrize("law", LAWS)
def test_it_does_not_move_the_dial(law: str) -> None:
    after = dial_of(DECISION.CHANGES[law](recording()))
    assert before() > 1.0
    assert after == pytest.approx(before(), abs=0.1 + 1e-9)
