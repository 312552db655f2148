"""Scores beside PSNR have the right values where those are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from benchmark_scripts import load
from scipy import ndimage


@pytest.fixture(scope="module")
def fidelity() -> Any:
    return load("fidelity")


def test_rings_of_an_image_with_itself_are_one(fidelity: Any) -> None:
    image = np.random.default_rng(0).normal(size=(64, 80))
    np.testing.assert_allclose(fidelity.correlate_rings(image, 3 * image + 7), np.ones(32))
    assert fidelity.find_cut_off(np.ones(32)) == 0.5
    np.testing.assert_allclose(fidelity.correlate_rings(image, -image), -np.ones(32))
    with pytest.raises(ValueError, match="one shape"):
        fidelity.correlate_rings(image, image[1:])


def test_rings_agree_up_to_the_frequency_that_both_have(fidelity: Any) -> None:
    rng = np.random.default_rng(1)
    spectrum = np.fft.fft2(rng.normal(size=(128, 128)))
    radius = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None, :])
    shared = np.real(np.fft.ifft2(np.where(radius < 0.2, spectrum, 0)))
    fine = np.where(radius < 0.2, 0, np.fft.fft2(rng.normal(size=(128, 128))))
    other = shared + np.real(np.fft.ifft2(fine))
    rings = fidelity.correlate_rings(shared, other)
    assert rings[:20].min() > 0.95
    assert fidelity.find_cut_off(rings) == pytest.approx(0.2, abs=0.04)
    # Half of the power is noise in each: the correlation is that share.
    one, two = (shared + shared.std() * rng.normal(size=shared.shape) for _ in range(2))
    signal = np.abs(np.fft.fft2(shared))[(radius > 0.05) & (radius < 0.15)] ** 2
    expected = signal.mean() / (signal.mean() + 128**2 * shared.std() ** 2)
    found = fidelity.correlate_rings(one, two)[8:18].mean()
    assert found == pytest.approx(expected, abs=0.06)


def _discs(shift: float = 0.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    y, x = np.mgrid[:96, :96]
    image = np.zeros((96, 96))
    for cy, cx in ((20, 20), (20, 60), (60, 24), (70, 70)):
        image = np.maximum(image, np.hypot(y - cy, x - cx - shift) < 9)
    return 10 + 100 * ndimage.gaussian_filter(image, 1.0)


def test_nuclei_are_found_and_touching_ones_parted(fidelity: Any) -> None:
    labels = fidelity.find_nuclei(_discs())
    assert labels.max() == 4
    np.testing.assert_allclose(np.bincount(labels.ravel())[1:], np.pi * 9**2, rtol=0.1)
    y, x = np.mgrid[:64, :64]
    pair = np.maximum(np.hypot(y - 32, x - 22) < 10, np.hypot(y - 32, x - 39) < 10)
    assert fidelity.find_nuclei(pair.astype(np.float64)).max() == 2
    assert fidelity.find_nuclei(np.full((16, 16), 3.0)).max() == 0


def test_the_score_of_nuclei_counts_what_was_missed_and_what_was_made_up(fidelity: Any) -> None:
    truth = fidelity.find_nuclei(_discs())
    assert fidelity.score_nuclei(truth, truth) == 1
    assert fidelity.score_nuclei(np.where(truth == 1, 0, truth), truth) == 2 * 3 / 7
    extra = truth.copy()
    extra[85:95, 5:15] = 9
    assert fidelity.score_nuclei(extra, truth) == 2 * 4 / 9
    # Half of a nucleus is none.
    assert fidelity.score_nuclei(fidelity.find_nuclei(_discs(shift=10.0)), truth) == 0
    nothing = np.zeros_like(truth)
    assert fidelity.score_nuclei(nothing, truth) == 0
    assert fidelity.score_nuclei(nothing, nothing) == 1


def test_micro_ssim_is_blind_to_scale_and_offset(fidelity: Any) -> None:
    if not fidelity.has_micro_ssim():
        pytest.skip(f"MicroSSIM is not installed: {fidelity.MICRO_SSIM_COMMAND}")
    # With noise: where an image is even, the library's rounding makes a variance negative.
    image = np.random.default_rng(0).poisson(20 + 200 * _discs()).astype(np.float64)
    assert fidelity.micro_ssim(4 * image + 3, image) == pytest.approx(1.0, abs=1e-6)
    assert fidelity.micro_ssim(ndimage.gaussian_filter(image, 4.0), image) < 0.95
