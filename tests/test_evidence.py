"""What the recording says of an image: by which kernel, and how exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepcontrast_bmz.evidence import MODEL_ERROR, model_error, tissue_kernels
from deepcontrast_bmz.physics.camera import NoiseModel


def test_the_middle_kernel_comes_first_and_the_range_is_covered() -> None:
    kernels = tissue_kernels((5.0, 20.0), (0.5, 2.0))
    factors = [factor for factor, _ in kernels]
    assert factors[0] == 1.0
    assert sorted(factors) == pytest.approx([0.5, 0.5**0.5, 1.0, 2**0.5, 2.0])
    assert kernels[-1][1] == pytest.approx((5.0 * factors[-1], 20.0 * factors[-1]))


def test_a_model_of_one_kernel_tries_no_other() -> None:
    assert tissue_kernels((5.0,), (1.0, 1.0)) == [(1.0, (5.0,))]


@pytest.mark.parametrize("contrast", [10.0, 100.0])
def test_what_the_tissue_model_is_off_by_counts_in_noise(contrast: float) -> None:
    rng = np.random.default_rng(0)
    signal = contrast * rng.standard_normal((300, 300))
    raw = torch.from_numpy(signal + 4 * rng.standard_normal(signal.shape))
    noise = NoiseModel(slope=0.0, intercept=16.0, floor=1.0)
    expected = (MODEL_ERROR * contrast) ** 2 / 16
    assert model_error(raw, noise) == pytest.approx(expected, rel=0.02)


def test_noise_alone_has_no_contrast_to_be_off_by() -> None:
    raw = torch.from_numpy(np.random.default_rng(1).standard_normal((200, 200)))
    assert model_error(raw, NoiseModel(slope=0.0, intercept=2.0, floor=1.0)) == 0
