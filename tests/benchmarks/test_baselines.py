from __future__ import annotations

from typing import TYPE_CHECKING

import baselines
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepcontrast_bmz.evaluate.metrics import psnr_after_fit, rms_contrast
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Callable

Double = NDArray[np.float64]
TISSUE = (1.5, (4.0, 14.0), (0.7, 0.3))


def through_tissue(image: Double) -> Double:
    return np.asarray(scatter(torch.from_numpy(image), *TISSUE).numpy(), dtype=np.float64)


@pytest.fixture(scope="module")
def truth() -> Double:
    return 400 * phantom("nuclei", (72, 96), np.random.default_rng(11)).astype(np.float64) + 5


@pytest.fixture(scope="module")
def raw(truth: Double) -> Double:
    return np.random.default_rng(12).poisson(through_tissue(truth)).astype(np.float64)


PLAIN: dict[str, Callable[[Double], Double]] = {
    "unsharp": baselines.unsharp_mask,
    "wavelet": baselines.wavelet_enhance,
    "clahe": baselines.clahe,
    "gaussian": baselines.subtract_background_gaussian,
    "ball": lambda image: baselines.subtract_background_ball(image, 12),
}


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_every_plain_enhancement_gains_contrast_and_leaves_its_input(
    name: str, raw: Double
) -> None:
    before = raw.copy()
    enhanced = PLAIN[name](raw)
    np.testing.assert_array_equal(raw, before)
    assert enhanced.shape == raw.shape
    assert enhanced.dtype == np.float64
    if name == "clahe":  # evens out the whole image, and gains contrast where it is dim
        dim = raw < np.quantile(raw, 0.3)
        assert enhanced[dim].std() > 1.1 * raw[dim].std()
    else:
        assert rms_contrast(enhanced) > 1.05 * rms_contrast(raw)


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_a_flat_image_gains_no_structure(name: str) -> None:
    assert np.ptp(PLAIN[name](np.full((48, 48), 30.0))) < 1e-9


@pytest.mark.parametrize("name", ["unsharp", "wavelet", "gaussian"])
def test_linear_enhancements_are_linear(name: str, raw: Double, truth: Double) -> None:
    enhance = PLAIN[name]
    np.testing.assert_allclose(enhance(2 * raw + truth), 2 * enhance(raw) + enhance(truth))


def test_neutral_settings_return_the_image(raw: Double) -> None:
    np.testing.assert_allclose(baselines.unsharp_mask(raw, amount=0), raw)
    np.testing.assert_allclose(baselines.wavelet_enhance(raw, (1, 1, 1)), raw)
    np.testing.assert_allclose(baselines.subtract_background_gaussian(raw, share=0), raw)
    np.testing.assert_allclose(baselines.richardson_lucy(raw, 0.0, *TISSUE[1:], 5), raw, atol=1e-2)
    np.testing.assert_allclose(baselines.wiener(raw, 0.0, *TISSUE[1:]), raw)


def test_clahe_stays_within_the_range_of_its_input(raw: Double) -> None:
    enhanced = baselines.clahe(raw)
    assert raw.min() <= enhanced.min() < enhanced.max() <= raw.max()


def test_the_ball_never_takes_more_than_there_is(raw: Double) -> None:
    assert baselines.subtract_background_ball(raw, 12).min() >= 0


def test_richardson_lucy_keeps_light_and_fits_the_recording_ever_better(raw: Double) -> None:
    misfit: list[float] = []
    for _, estimate in baselines.richardson_lucy_iterates(raw, *TISSUE, 12):
        assert estimate.min() >= 0
        assert estimate.sum() == pytest.approx(raw.sum(), rel=1e-3)
        predicted = np.maximum(through_tissue(estimate), 1e-6)
        misfit.append(float((predicted - raw * np.log(predicted)).mean()))
    assert misfit == sorted(misfit, reverse=True)


def test_deconvolution_without_noise_finds_the_truth(truth: Double) -> None:
    hazy = through_tissue(truth)
    np.testing.assert_allclose(baselines.wiener(hazy, *TISSUE, 0.0), truth, rtol=1e-4, atol=1e-3)
    estimate = baselines.richardson_lucy(hazy, *TISSUE, 100)
    assert psnr_after_fit(estimate, truth) > psnr_after_fit(hazy, truth) + 10


def test_deconvolution_with_the_true_kernel_beats_the_raw_image(truth: Double, raw: Double) -> None:
    start = psnr_after_fit(raw, truth)
    best = baselines.best_by_truth(baselines.richardson_lucy_iterates(raw, *TISSUE, 25), truth)
    assert best.psnr_after_fit > start + 2
    assert 1 < best.setting <= 25
    filtered = baselines.wiener(raw, *TISSUE, 0.02)
    assert psnr_after_fit(filtered, truth) > start + 1
    assert filtered.mean() == pytest.approx(raw.mean())
    # It explains the recording, and some of its noise.
    predicted = through_tissue(best.image)
    assert 0.3 < float(((raw - predicted) ** 2 / np.maximum(predicted, 1)).mean()) < 1.1


def test_best_by_truth_keeps_the_image_of_its_setting(truth: Double, raw: Double) -> None:
    candidates = [(n, e.copy()) for n, e in baselines.richardson_lucy_iterates(raw, *TISSUE, 8)]
    best = baselines.best_by_truth(iter(candidates), truth)
    scores = [psnr_after_fit(image, truth) for _, image in candidates]
    assert best.psnr_after_fit == max(scores)
    np.testing.assert_array_equal(best.image, dict(candidates)[int(best.setting)])
    np.testing.assert_array_equal(
        best.image, baselines.richardson_lucy(raw, *TISSUE, int(best.setting))
    )


def test_nothing_to_choose_from_is_refused(truth: Double, raw: Double) -> None:
    with pytest.raises(ValueError, match="no candidate"):
        baselines.best_by_truth([], truth)
    with pytest.raises(ValueError, match="at least 1"):
        baselines.richardson_lucy(raw, *TISSUE, 0)


def test_blind_deconvolution_tells_much_tissue_from_little(truth: Double) -> None:
    candidates = [baselines.Tissue(depth, *TISSUE[1:]) for depth in (0.25, 1.0, 2.0, 3.0)]
    found: list[float] = []
    for depth in (0.25, 2.0):
        hazy = scatter(torch.from_numpy(4 * truth), depth, *TISSUE[1:]).numpy()
        rng = np.random.default_rng(13)
        photons = rng.poisson(hazy).astype(np.float64) + 0.5 * rng.standard_normal(hazy.shape)
        chosen = baselines.estimate_tissue(
            photons, iter(candidates), np.random.default_rng(14), read_noise=0.5, iterations=25
        )
        assert chosen in candidates
        found.append(chosen.optical_depth)
    assert found[0] < found[1]
    assert abs(found[1] - 2.0) <= 1.0


def test_blind_deconvolution_needs_candidates(raw: Double) -> None:
    with pytest.raises(ValueError, match="no candidate"):
        baselines.estimate_tissue(raw, [], np.random.default_rng(0))
