"""Features know neither the unit of an image nor its camera, and are always numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcontrast_bmz.dial.features import FeatureVector, image_features
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.physics.scatter import scatter

WIDTHS, WEIGHTS = (4.0, 12.0), (0.7, 0.3)


def recording(depth: float = 1.0, side: int = 96, seed: int = 0) -> Tensor:
    sharp = torch.from_numpy(phantom("nuclei", (side, side), np.random.default_rng(seed)))
    seen = 500 * scatter(sharp, depth, WIDTHS, WEIGHTS)
    camera = Camera(gain=0.5, offset=100, read_noise_electrons=1.5)
    return expose(seen, camera, torch.Generator().manual_seed(seed))


def sharper(raw: Tensor, count: int = 3) -> Tensor:
    """Iterations that undo nothing in particular."""
    return torch.stack(
        [raw + 0.5 * k * (raw - scatter(raw, 1.0, WIDTHS, WEIGHTS)) for k in range(1, count + 1)]
    )


def features_of(raw: Tensor, count: int = 3, step: float = 1.0) -> FeatureVector:
    return image_features(raw, sharper(raw, count), widths_px=WIDTHS, weights=WEIGHTS, step=step)


def test_gain_and_offset_change_nothing() -> None:
    raw = recording()
    plain, scaled = features_of(raw), features_of(7.0 * raw + 1000)
    assert plain.names == scaled.names
    assert np.allclose(plain.values, scaled.values, atol=0.02)


def test_turning_and_mirroring_change_next_to_nothing() -> None:
    raw = recording()
    plain, turned = features_of(raw), features_of(raw.T.flip(0).contiguous())
    # The camera is read off cells that turning cuts anew: what rests on it is only about the same.
    camera = ("shot", "snr", "level_dial", "range_dial", "residual_dial")
    names = [name for name in plain.names if not name.startswith(camera)]
    assert np.allclose(plain.select(names), turned.select(names), atol=0.05)


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (97, 51)])
def test_the_names_depend_on_the_iterations_alone(shape: tuple[int, int]) -> None:
    raw = recording()[: shape[0], : shape[1]]
    assert features_of(raw).names == features_of(recording()).names
    assert len(features_of(raw, 1).names) < len(features_of(raw, 3).names)


def test_more_haze_is_seen() -> None:
    thin, thick = features_of(recording(0.5)), features_of(recording(3.0))
    assert thick.select(["slope_band4"])[0] < thin.select(["slope_band4"])[0]


def test_stripes_are_seen() -> None:
    raw = recording()
    striped = raw * (1 + 0.2 * torch.randn(96, 1, generator=torch.Generator().manual_seed(0)))
    names = ["stripes_coarse", "stripes_fine"]
    assert (features_of(striped).select(names) > features_of(raw).select(names)).all()


@pytest.mark.parametrize("kind", ["black", "two values", "one pixel", "noise free"])
def test_odd_images_give_finite_numbers(kind: str) -> None:
    raw = torch.zeros(64, 64)
    if kind == "black":
        raw[:8] = recording()[:8, :64]
    elif kind == "two values":
        raw[::2] = 1
    elif kind == "one pixel":
        raw[30, 30] = 1e6
    else:
        raw = scatter(recording(side=64), 3.0, (2.0,), (1.0,))
    assert np.isfinite(features_of(raw).values).all()
