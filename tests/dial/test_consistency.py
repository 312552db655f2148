"""What the recording says of an image: by which kernel, and how exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepcontrast_bmz.dial.consistency import (
    MODEL_ERROR,
    find_comparable,
    model_error,
    shared_misfit,
    tissue_kernels,
)
from deepcontrast_bmz.physics.noise import NoiseModel
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.physics.scatter import scatter


def test_the_middle_kernel_comes_first_and_the_range_is_covered() -> None:
    kernels = tissue_kernels((5.0, 20.0), (0.5, 2.0))
    factors = [factor for factor, _ in kernels]
    assert factors[0] == 1.0
    assert sorted(factors) == pytest.approx([0.5, 0.5**0.5, 1.0, 2**0.5, 2.0])
    assert kernels[-1][1] == pytest.approx((5.0 * factors[-1], 20.0 * factors[-1]))


@pytest.mark.parametrize("ends", [(1.2, 1.5), (0.5, 0.9)])
def test_no_kernel_lies_outside_the_range(ends: tuple[float, float]) -> None:
    factors = [factor for factor, _ in tissue_kernels((5.0,), ends)]
    assert len(factors) == 3
    assert ends[0] - 1e-9 <= min(factors) < max(factors) <= ends[1] + 1e-9


def test_a_model_of_one_kernel_tries_no_other() -> None:
    assert tissue_kernels((5.0,), (1.0, 1.0)) == [(1.0, (5.0,))]


@pytest.mark.parametrize("contrast", [10.0, 100.0])
def test_what_the_tissue_model_is_off_by_counts_in_noise(contrast: float) -> None:
    rng = np.random.default_rng(0)
    signal = contrast * rng.standard_normal((300, 300))
    raw = torch.from_numpy(signal + 4 * rng.standard_normal(signal.shape))
    noise = NoiseModel(slope=0.0, intercept=16.0, floor=1.0)
    expected = (MODEL_ERROR * contrast) ** 2 / 16
    used = torch.ones(raw.shape, dtype=torch.bool)
    assert model_error(raw, noise, used) == pytest.approx(expected, rel=0.03)
    # Neither hot pixels nor what is not looked at are contrast.
    raw[5, 5], raw[7, 9] = 60000, 60000
    raw[:100] -= 5000
    used[:100] = False
    assert model_error(raw, noise, used) == pytest.approx(expected, rel=0.05)


def test_noise_alone_has_no_contrast_to_be_off_by() -> None:
    raw = torch.from_numpy(np.random.default_rng(1).standard_normal((200, 200)))
    used = torch.ones(raw.shape, dtype=torch.bool)
    assert model_error(raw, NoiseModel(slope=0.0, intercept=2.0, floor=1.0), used) == 0


TISSUE = ((4.0, 12.0), (0.7, 0.3))
NOISE = NoiseModel(slope=1.0, intercept=0.0, floor=1.0)


def truth_and_recording() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a specimen, and its recording through an optical depth of 1: photons."""
    sharp = 600 * torch.from_numpy(phantom("nuclei", (256, 256), np.random.default_rng(3))) + 20
    hazy = scatter(sharp, 1.0, *TISSUE)
    return sharp, torch.poisson(hazy, generator=torch.Generator().manual_seed(0))


def misfit(raw: torch.Tensor, image: torch.Tensor, used: torch.Tensor) -> float:
    """As from two recordings of the same light."""
    widths, weights = TISSUE
    again = torch.poisson(
        scatter(truth_and_recording()[0], 1.0, *TISSUE), generator=torch.Generator().manual_seed(7)
    )
    hot = (raw - raw.clamp_max(2000)).float()
    return shared_misfit(
        (raw, again + hot),
        (image, image),
        1.0,
        widths_px=widths,
        weights=weights,
        noise=NOISE,
        used=used,
    )


def test_the_truth_leaves_no_coarse_misfit_and_wrong_contrast_does() -> None:
    sharp, raw = truth_and_recording()
    used = find_comparable(raw, TISSUE[0])
    assert used is not None
    assert abs(misfit(raw, sharp, used)) < 0.03
    assert misfit(raw, sharp + 0.5 * (sharp - sharp.mean()), used) > 1


def test_hot_pixels_are_no_misfit_and_are_not_smeared_into_one() -> None:
    sharp, raw = truth_and_recording()
    rows, columns = np.random.default_rng(1).integers(30, 226, (2, 20))
    raw[rows, columns] += 3000
    used = find_comparable(raw, TISSUE[0])
    assert used is not None
    assert misfit(raw, sharp, used) < 0.1


def test_finer_than_scattering_nothing_counts_as_contrast() -> None:
    sharp, raw = truth_and_recording()
    used = find_comparable(raw, TISSUE[0])
    assert used is not None
    y, x = np.mgrid[:256, :256]
    fine = torch.from_numpy((-1.0) ** (y + x))
    coarse = torch.from_numpy((-1.0) ** (y // 8 + x // 8))
    assert misfit(raw, sharp * (1 + 0.3 * fine), used) < 0.1
    assert misfit(raw, sharp * (1 + 0.3 * coarse), used) > 0.5


def test_where_hardly_a_pixel_is_left_nothing_is_compared() -> None:
    _, raw = truth_and_recording()
    raw[:, 40:] = 0
    assert find_comparable(raw, TISSUE[0]) is None
    assert find_comparable(torch.rand(3, 3), TISSUE[0]) is not None
