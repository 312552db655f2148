"""Structure is what both halves of the light have in common; of nothing there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from deepcontrast_bmz.dial.automatic import NO_STRUCTURE, choose_dial
from deepcontrast_bmz.dial.look import look_at_plane
from deepcontrast_bmz.dial.mirrored import iterate_mirrored
from deepcontrast_bmz.dial.structure import shows_structure
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.phantoms import Kind, phantom
from deepcontrast_bmz.physics.scatter import scatter

SIDE = 144
WIDTHS = (5.5, 24.0)


def nothing(what: str) -> Tensor:
    """Return light without structure, at most 1."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    glow = ndimage.gaussian_filter(
        np.random.default_rng(0).standard_normal((SIDE, SIDE)), 28, truncate=6
    )
    haze = 0.6 + 0.12 * glow / glow.std()
    fields = {
        "dark": 0 * x,
        "even": 0 * x + 1,
        "ramp": 0.2 + 0.8 * x,
        "haze": np.clip(haze, 0, 1),
        "blob": 0.05 + 0.95 * np.exp(-((x - 0.5) ** 2 + (y - 0.4) ** 2) / (2 * 0.2**2)),
        "empty margin": 0.3 + 0.7 * (x > 2),
    }
    return torch.from_numpy(fields[what])


def recorded(light: Tensor, photons: float, bits: int, seed: int = 0) -> Tensor:
    """Return counts of a camera that fits so much light into its bits."""
    camera = Camera(
        gain=0.5 if bits == 16 else max(0.5, photons / 180),
        offset=100.0 if bits == 16 else 4.0,
        read_noise_electrons=1.5,
        bit_depth=bits,
    )
    return expose(photons * light, camera, torch.Generator().manual_seed(seed)).float()


def unused(image: Tensor, count: int) -> Tensor:
    raise AssertionError(f"no network is needed to see that there is nothing: {image}, {count}")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photons", [2.0, 40.0, 1000.0, 10000.0])
@pytest.mark.parametrize("what", ["dark", "even", "ramp", "haze", "blob", "empty margin"])
def test_of_nothing_there_is_no_structure(what: str, photons: float, bits: int) -> None:
    raw = recorded(nothing(what), photons, bits)
    if what == "empty margin":
        raw[:, : SIDE // 3] = 0
    look = look_at_plane(raw, unused, WIDTHS)
    assert not (look.noisy and shows_structure(look.structure))


@pytest.mark.parametrize("side", [56, 100, 133])
def test_small_planes_of_noise_show_no_structure(side: int) -> None:
    rng = np.random.default_rng(side)
    for _ in range(15):
        photons = np.exp(rng.uniform(-1, 8)) * torch.ones(side, side, dtype=torch.float64)
        camera = Camera(
            gain=float(np.exp(rng.uniform(-1, 1))),
            offset=100.0,
            read_noise_electrons=rng.uniform(0, 3),
            bit_depth=16,
        )
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        look = look_at_plane(expose(photons, camera, generator).float(), unused, WIDTHS)
        # Far from it: of 700 such planes the largest was .35.
        assert look.structure < 0.6


@pytest.mark.parametrize("what", ["dark", "even", "blob"])
def test_without_structure_there_is_no_dial(what: str) -> None:
    model = open_model("deepcontrast")
    raw = recorded(nothing(what), 300.0, 16)
    choice = choose_dial(raw, iterate_mirrored(model), model.description, widths_px=WIDTHS)
    assert choice.dial == 0
    assert choice.most == 0
    assert choice.empty
    assert choice.warning is None
    assert choice.reason == f"dial 0 ({NO_STRUCTURE})"


@pytest.mark.parametrize("kind", ["membranes", "tubes", "nuclei"])
@pytest.mark.parametrize(("depth", "photons"), [(1.0, 30.0), (2.0, 150.0), (3.0, 600.0)])
def test_structure_is_found_where_there_is_some(kind: Kind, depth: float, photons: float) -> None:
    truth = torch.from_numpy(phantom(kind, (SIDE, SIDE), np.random.default_rng(3))).double()
    raw = recorded(scatter(truth, depth, WIDTHS, (0.7, 0.3)).clamp_min(0), photons, 16)
    look = look_at_plane(raw, unused, WIDTHS)
    assert look.noisy
    assert shows_structure(look.structure)
