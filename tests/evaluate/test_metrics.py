from __future__ import annotations

import math
from typing import TYPE_CHECKING

import baselines
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from deepcontrast_bmz.evaluate import metrics
from deepcontrast_bmz.physics.noise import split_gaussian
from deepcontrast_bmz.physics.phantoms import phantom
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Callable

Double = NDArray[np.float64]
WIDTHS, WEIGHTS = (4.0, 12.0), (0.7, 0.3)
FINE, COARSE = metrics.BANDS["fine"], metrics.BANDS["coarse"]


def through_tissue(image: Double, optical_depth: float) -> Double:
    seen = scatter(torch.from_numpy(image), optical_depth, WIDTHS, WEIGHTS).numpy()
    return np.asarray(seen, dtype=np.float64)


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def truth() -> Double:
    """Photons of a specimen without tissue."""
    image = phantom("membranes", (128, 128), np.random.default_rng(3))
    return 400 * image.astype(np.float64) + 20


@pytest.fixture(scope="module")
def hazy(truth: Double) -> Double:
    """Expected photons at optical depth 1."""
    return through_tissue(truth, 1.0)


@pytest.fixture(scope="module")
def raw(hazy: Double) -> Double:
    return np.random.default_rng(4).poisson(hazy).astype(np.float64)


def split_photons(photons: Double, rng: np.random.Generator) -> tuple[Double, Double]:
    """Thin whole photons into halves with independent Poisson noise, each doubled."""
    first = rng.binomial(photons.astype(np.int64), 0.5).astype(np.float64)
    return 2 * first, 2 * (photons - first)


# -- contrast ---------------------------------------------------------------------------------


def test_rms_contrast_of_two_levels() -> None:
    assert metrics.rms_contrast(np.array([1.0, 3.0])) == pytest.approx(0.5)
    assert metrics.rms_contrast(np.array([101.0, 103.0]), offset=100) == pytest.approx(0.5)


def test_contrast_of_an_image_darker_than_the_offset_is_no_number() -> None:
    image = np.array([1.0, 3.0])
    assert math.isnan(metrics.rms_contrast(image, offset=2))
    assert math.isnan(metrics.split_half_contrast(image, image, offset=2))


def test_rms_contrast_knows_no_scale_but_an_offset(raw: Double) -> None:
    contrast = metrics.rms_contrast(raw)
    assert metrics.rms_contrast(7.5 * raw) == pytest.approx(contrast)
    assert metrics.rms_contrast(raw + 100, offset=100) == pytest.approx(contrast)
    assert metrics.rms_contrast(raw + 100) < contrast


def test_gain_and_recovery_of_the_same_image_are_one(raw: Double) -> None:
    assert metrics.contrast_gain(raw, raw) == 1
    assert metrics.contrast_recovery(raw, 3 * raw + 100, 0, 100) == pytest.approx(1)


def test_tissue_takes_contrast(truth: Double, hazy: Double) -> None:
    assert metrics.contrast_gain(truth, hazy) > 1.3
    assert metrics.contrast_recovery(hazy, truth) < 0.8
    assert math.isnan(metrics.contrast_gain(truth, np.ones_like(truth)))


def test_split_half_contrast_of_equal_halves_is_the_rms_contrast(raw: Double) -> None:
    assert metrics.split_half_contrast(raw, raw, 3) == pytest.approx(metrics.rms_contrast(raw, 3))


def test_noise_raises_rms_contrast_but_not_split_half_contrast(
    hazy: Double, rng: np.random.Generator
) -> None:
    contrast = metrics.rms_contrast(hazy)
    noise = 3 * hazy.std()
    noisy = [hazy + noise * rng.standard_normal(hazy.shape) for _ in range(2)]
    assert metrics.rms_contrast(noisy[0]) > 2.5 * contrast
    assert metrics.split_half_contrast(noisy[0], noisy[1]) == pytest.approx(contrast, rel=0.15)


def test_halves_that_share_nothing_have_no_contrast() -> None:
    image = np.array([[1.0, 2.0], [2.0, 1.0]])
    assert metrics.split_half_contrast(image, 3 - image) == 0


def test_masks_come_from_bright_and_dark_and_do_not_overlap(raw: Double) -> None:
    signal, background = metrics.michelson_masks(raw)
    assert not (signal & background).any()
    assert signal.any()
    assert background.mean() == pytest.approx(0.35, abs=0.01)
    assert raw[signal].mean() > raw[background].mean()


def test_masks_of_a_constant_image_are_empty_and_its_contrast_no_number() -> None:
    flat = np.full((16, 16), 7.0)
    signal, background = metrics.michelson_masks(flat)
    assert not signal.any()
    assert not background.any()
    assert math.isnan(metrics.michelson_contrast(flat, signal, background))


def test_michelson_contrast_of_two_levels() -> None:
    image = np.array([[1.0, 1.0], [3.0, 3.0]])
    signal, background = image > 2, image < 2
    assert metrics.michelson_contrast(image, signal, background) == pytest.approx(0.5)
    assert metrics.michelson_contrast(image + 10, signal, background, 10) == pytest.approx(0.5)
    assert math.isnan(metrics.michelson_contrast(image, signal, background, 9))


# -- detail -----------------------------------------------------------------------------------


@pytest.mark.parametrize("band", [*metrics.BANDS.values(), metrics.MIDDLE_BAND])
def test_band_pass_stops_flat_images_and_is_linear(
    band: metrics.Band, raw: Double, hazy: Double
) -> None:
    assert np.abs(metrics.band_pass(np.full((32, 32), 9.0), band)).max() < 1e-12
    together = metrics.band_pass(2 * raw + hazy, band)
    apart = 2 * metrics.band_pass(raw, band) + metrics.band_pass(hazy, band)
    np.testing.assert_allclose(together, apart, atol=1e-9)


def test_band_correlation_laws(truth: Double, raw: Double) -> None:
    assert metrics.band_correlation(truth, truth) == pytest.approx(1)
    assert metrics.band_correlation(5 * truth + 2, truth) == pytest.approx(1)
    assert metrics.band_correlation(-truth, truth) == pytest.approx(-1)
    assert metrics.band_correlation(raw, truth) == metrics.band_correlation(truth, raw)
    assert math.isnan(metrics.band_correlation(np.ones((9, 9)), np.eye(9)))


def test_noise_costs_detail_and_most_in_the_finest_band(
    truth: Double, rng: np.random.Generator
) -> None:
    noise = rng.standard_normal(truth.shape)
    fine = [metrics.band_correlation(truth + a * noise, truth, FINE) for a in (0, 30, 100)]
    assert fine == sorted(fine, reverse=True)
    assert fine[2] < metrics.band_correlation(truth + 100 * noise, truth, COARSE)


def test_gaussian_halves_have_independent_noise_too(
    hazy: Double, raw: Double, rng: np.random.Generator
) -> None:
    first, second = split_gaussian(raw, hazy, rng)
    np.testing.assert_allclose((first + second) / 2, raw)
    noise = (first - hazy) / np.sqrt(2 * hazy), (second - hazy) / np.sqrt(2 * hazy)
    assert noise[0].std() == pytest.approx(1, abs=0.03)
    assert float((noise[0] * noise[1]).mean()) == pytest.approx(0, abs=0.03)


def test_split_half_detail_follows_the_true_detail(
    hazy: Double, raw: Double, rng: np.random.Generator
) -> None:
    first, second = split_photons(raw, rng)
    for enhanced in (first, np.asarray(ndimage.gaussian_filter(first, 1.0))):
        detail = metrics.split_half_detail(enhanced, first, second, COARSE)
        assert detail.reliability > 0.5
        expected = metrics.band_correlation(enhanced, hazy, COARSE)
        assert detail.retention == pytest.approx(expected, abs=0.03)


def test_transfer_tells_detail_that_was_removed_from_detail_that_was_kept(
    raw: Double, rng: np.random.Generator
) -> None:
    first, second = split_photons(raw, rng)
    kept = metrics.split_half_detail(3 * first, first, second, COARSE)
    smoothed = metrics.split_half_detail(ndimage.gaussian_filter(first, 3), first, second, COARSE)
    assert kept.transfer == pytest.approx(3)
    assert smoothed.transfer is not None
    assert smoothed.transfer < 0.6


def test_detail_buried_in_noise_is_called_unmeasurable(rng: np.random.Generator) -> None:
    photons = rng.poisson(np.full((96, 96), 5.0)).astype(np.float64)
    first, second = split_photons(photons, rng)
    detail = metrics.split_half_detail(first, first, second, FINE)
    assert detail.reliability < metrics.RELIABLE
    assert (detail.retention, detail.transfer) == (None, None)


def test_detail_of_empty_images_is_unmeasurable_and_of_an_emptied_image_zero(raw: Double) -> None:
    flat = np.ones_like(raw)
    assert metrics.split_half_detail(raw, flat, flat, FINE) == (0.0, None, None)
    assert metrics.split_half_detail(flat, raw, raw, COARSE).retention == 0


# -- agreement with the recording -------------------------------------------------------------


def residual(raw: Double, predicted: Double) -> float:
    """The photon chi-square per pixel: 1 for the truth, 0 for the recording itself."""
    return float(((raw - predicted) ** 2 / np.maximum(predicted, 1)).mean())


def consistency(image: Double, optical_depth: float, raw: Double) -> float:
    return residual(raw, through_tissue(image, optical_depth))


def test_truth_is_consistent_and_the_raw_image_repeats_itself(truth: Double, raw: Double) -> None:
    assert consistency(truth, 1.0, raw) == pytest.approx(1, abs=0.03)
    assert residual(raw, raw) == 0


def gamma(y: Double) -> Double:
    return y**2 * (y.mean() / (y**2).mean())


def subtract_offset(y: Double) -> Double:
    return y - 0.5 * np.quantile(y, 0.05)


TRICKS: dict[str, Callable[[Double], Double]] = {
    "gamma": gamma,
    "offset subtraction": subtract_offset,
    "background subtraction": baselines.subtract_background_gaussian,
    "rolling ball": baselines.subtract_background_ball,
    "unsharp masking": baselines.unsharp_mask,
    "wavelet": baselines.wavelet_enhance,
    "stretching about the mean": lambda y: 2 * y - y.mean(),
}


@pytest.mark.parametrize("trick", sorted(TRICKS))
@pytest.mark.parametrize("claimed_depth", [0.0, 1.0])
def test_tricks_gain_contrast_but_the_recording_contradicts_them(
    trick: str, claimed_depth: float, raw: Double, hazy: Double, rng: np.random.Generator
) -> None:
    play = TRICKS[trick]
    assert metrics.contrast_gain(play(raw), raw) > 1.05
    first, second = split_photons(raw, rng)
    predictions = [through_tissue(play(half), claimed_depth) for half in (first, second)]
    score = metrics.split_half_consistency(first, second, *predictions, variance=hazy)
    assert score > 1.1
    if claimed_depth == 0:
        assert consistency(play(raw), 0.0, raw) > 1.1


def test_split_half_consistency_is_one_for_the_truth_and_for_the_untouched_recording(
    truth: Double, hazy: Double, raw: Double, rng: np.random.Generator
) -> None:
    first, second = split_photons(raw, rng)
    seen = through_tissue(truth, 1.0)
    score = metrics.split_half_consistency(first, second, seen, seen, hazy)
    assert score == pytest.approx(1, abs=0.04)
    assert metrics.split_half_consistency(first, second, first, second, hazy) == 1
    # Nor do residuals that are all alike leave nothing to average.
    assert metrics.split_half_consistency(first, second, first, second, hazy, 0.01) == 1


def test_hot_pixels_are_left_out_before_they_are_smoothed(
    raw: Double, hazy: Double, rng: np.random.Generator
) -> None:
    first, second = split_photons(raw, rng)
    spots = np.zeros(hazy.shape)
    spots[20::30, 20::30] = 400 * np.sqrt(hazy.max())
    score = metrics.split_half_consistency(
        first + spots, second + spots, hazy, hazy, hazy, 0.005, smoothing=1.5
    )
    assert score == pytest.approx(1, abs=0.05)
    kept = metrics.split_half_consistency(
        first + spots, second + spots, hazy, hazy, hazy, smoothing=1.5
    )
    assert kept > 1.5


def test_split_half_consistency_measures_the_misfit_in_units_of_the_noise(
    hazy: Double, raw: Double, rng: np.random.Generator
) -> None:
    first, second = split_photons(raw, rng)
    wrong = hazy + np.sqrt(0.5 * hazy)
    score = metrics.split_half_consistency(first, second, wrong, wrong, hazy)
    assert score == pytest.approx(1.5, abs=0.05)


def test_residual_of_the_truth_is_standard_normal(hazy: Double, rng: np.random.Generator) -> None:
    large = np.tile(hazy, (2, 2))
    z = metrics.residual_z(rng.poisson(large).astype(np.float64), large, large)
    assert z.std() == pytest.approx(1, abs=0.05)
    assert metrics.flagged_share(z) < 1e-3


def test_an_invented_spot_is_flagged_where_it_lies(hazy: Double, raw: Double) -> None:
    invented = hazy.copy()
    invented[60:64, 40:44] += 150
    z = metrics.residual_z(raw, invented, hazy)
    assert np.unravel_index(np.argmin(z), z.shape) == pytest.approx((61.5, 41.5), abs=2)
    assert 0 < metrics.flagged_share(z) < 0.02


# -- against a reference ----------------------------------------------------------------------


def test_psnr_by_hand() -> None:
    reference = np.array([0.0, 10.0])
    assert metrics.psnr(reference + 1, reference) == pytest.approx(20)
    assert metrics.psnr(reference + 1, reference, data_range=100) == pytest.approx(40)
    assert metrics.psnr(reference, reference) == math.inf
    assert math.isnan(metrics.psnr(reference, np.ones(2)))


@pytest.mark.parametrize(("scale", "offset"), [(0.01, 0.0), (3.0, -50.0), (1.0, 1e4)])
def test_psnr_after_fit_is_blind_to_scale_and_offset_and_psnr_is_not(
    scale: float, offset: float, truth: Double, raw: Double
) -> None:
    fitted = metrics.psnr_after_fit(raw, truth)
    assert metrics.psnr_after_fit(scale * raw + offset, truth) == pytest.approx(fitted)
    assert metrics.psnr(scale * raw + offset, truth) < metrics.psnr(raw, truth) <= fitted


def test_an_inverted_image_is_no_fit(truth: Double) -> None:
    np.testing.assert_allclose(metrics.best_scale_and_offset(-truth, truth), truth.mean())
    np.testing.assert_allclose(
        metrics.best_scale_and_offset(np.ones_like(truth), truth), truth.mean()
    )


def test_ssim_laws(truth: Double, raw: Double) -> None:
    assert metrics.ssim(truth, truth) == pytest.approx(1)
    assert metrics.ssim(raw, truth) < metrics.ssim(0.5 * (raw + truth), truth) < 1
    assert metrics.ssim(4 * raw, 4 * truth) == pytest.approx(metrics.ssim(raw, truth))
    assert math.isnan(metrics.ssim(truth, np.ones_like(truth)))


def test_average_precision_laws(truth: Double, rng: np.random.Generator) -> None:
    mask = truth > np.quantile(truth, 0.8)
    assert metrics.average_precision(truth, mask) == 1
    assert metrics.average_precision(np.ones_like(truth), mask) == pytest.approx(mask.mean())
    noise = rng.standard_normal(truth.shape)
    assert metrics.average_precision(noise, mask) == pytest.approx(mask.mean(), abs=0.03)
    # No threshold is chosen, so no monotone change of brightness matters.
    noisy = truth + 80 * noise
    score = metrics.average_precision(noisy, mask)
    assert mask.mean() < score < 1
    assert metrics.average_precision(np.exp(noisy / 400), mask) == pytest.approx(score)
    assert math.isnan(metrics.average_precision(truth, np.zeros_like(mask)))


def test_average_precision_by_hand() -> None:
    score = metrics.average_precision(
        np.array([0.9, 0.8, 0.7, 0.7]), np.array([True, False, True, False])
    )
    assert score == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)


@pytest.mark.parametrize(
    "score",
    [
        metrics.psnr,
        metrics.psnr_after_fit,
        metrics.ssim,
        metrics.band_correlation,
        metrics.split_half_contrast,
    ],
)
def test_images_of_two_shapes_are_refused(score: object) -> None:
    assert callable(score)
    with pytest.raises(ValueError, match="one shape"):
        score(np.ones((16, 16)), np.ones((16, 17)))
