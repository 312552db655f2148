"""Rivals that remove a background do what their authors' programs do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from benchmark_scripts import load
from scipy import ndimage

from deepcontrast_bmz.physics.phantoms import phantom


@pytest.fixture(scope="module")
def background() -> Any:
    return load("background")


@pytest.fixture(scope="module")
def baselines() -> Any:
    return load("baselines")


@pytest.fixture(scope="module")
def sharp() -> np.ndarray[Any, np.dtype[np.float64]]:
    rng = np.random.default_rng(3)
    return 100 * phantom("tubes", (120, 144), rng).astype(np.float64)


def test_haze_is_removed_and_structure_is_kept(background: Any, sharp: Any) -> None:
    hazy = sharp + 2 * ndimage.gaussian_filter(sharp, 15.0) + 30
    clear = background.dark_sectioning(hazy, 1.5)
    assert clear.shape == hazy.shape
    assert clear.min() >= 0

    def like(image: Any) -> float:
        return float(np.corrcoef(image.ravel(), sharp.ravel())[0, 1])

    assert like(clear) > like(hazy) + 0.05
    # The background is darker against the structure than it was.
    dark, bright = hazy < np.quantile(hazy, 0.3), hazy > np.quantile(hazy, 0.98)
    before = hazy[dark].mean() / hazy[bright].mean()
    assert clear[dark].mean() / clear[bright].mean() < 0.5 * before
    severe = background.dark_sectioning(hazy, 1.5, rounds=background.SEVERE)
    assert severe[dark].mean() / severe[bright].mean() < clear[dark].mean() / clear[bright].mean()


def test_dark_sectioning_is_blind_to_gain_and_offset(background: Any, sharp: Any) -> None:
    once = background.dark_sectioning(sharp, 2.0)
    np.testing.assert_allclose(background.dark_sectioning(7 * sharp + 100, 2.0), once, atol=1e-8)
    assert not background.dark_sectioning(np.full((40, 40), 5.0), 2.0).any()


def test_the_window_of_the_dark_channel_grows_with_the_point_spread(background: Any) -> None:
    blocks = [background._choose_block(each) for each in (1.0, 2.0, 4.0)]
    assert blocks == [6, 11, 21]
    image = np.full((30, 30), 9.0)
    image[15, 15] = 1.0
    dark = background._find_darkest(image, 5)
    assert (dark == 1).sum() == 25
    assert dark[13, 13] == dark[17, 17] == 1


def test_the_guided_filter_keeps_edges_and_smooths_between(background: Any) -> None:
    rng = np.random.default_rng(1)
    step = np.where(np.arange(80) < 40, 0.0, 50.0)[None].repeat(80, axis=0)
    made = background._follow_edges(step, step / 100 + 0.1 * rng.normal(size=step.shape))
    np.testing.assert_allclose(made, step / 100, atol=0.02)


def test_wavelet_background_and_noise_are_subtracted(background: Any) -> None:
    # Haar's approximations are means of blocks; an odd last line counts twice.
    image = np.arange(25, dtype=np.float64).reshape(5, 5)
    once = background._average_blocks(image, 1)
    assert once[0, 0] == once[1, 1] == np.mean([0, 1, 5, 6])
    assert once[4, 4] == 24
    assert once[0, 4] == np.mean([4, 9])
    twice = background._average_blocks(image, 2)
    assert twice[0, 0] == np.mean([image[:2, :2], image[:2, 2:4], image[2:4, :2], image[2:4, 2:4]])
    # Even light is all background.
    even = np.full((32, 48), 12.0)
    assert not background.subtract_background_and_noise(even, 4.0).any()
    spot = even.copy()
    spot[16, 16] = 112.0
    kept = background.subtract_background_and_noise(spot, 4.0, noise_levels=0)
    # Four pixels share 100 / 4 in the background before it is smoothed over 4 px.
    assert kept[16, 16] == pytest.approx(100, abs=1.5)
    assert kept[0, 0] == 0
    noisy = 100 + np.random.default_rng(2).normal(size=(64, 64))
    quiet = background.subtract_background_and_noise(noisy, 4.0)
    loud = background.subtract_background_and_noise(noisy, 4.0, noise_levels=0)
    assert quiet.std() < 0.7 * loud.std()


def test_consensus_changes_nothing_where_the_halves_disagree(baselines: Any) -> None:
    tissue = baselines.Tissue(1.0, (2.0, 6.0), (0.7, 0.3))
    rng = np.random.default_rng(4)
    specimen = 4 + 300 * phantom("nuclei", (64, 64), rng).astype(np.float64)
    blurred = baselines._Transfer(specimen.shape, *tissue)(specimen)
    photons = rng.poisson(blurred).astype(np.float64)
    found = list(baselines.gradient_consensus_iterates(photons, tissue, 40, rng))
    plain = list(baselines.richardson_lucy_iterates(photons, *tissue, 40))
    assert [n for n, _ in found] == list(range(1, 41))

    def error(image: Any) -> float:
        return float(((image - specimen) ** 2).mean())

    # It stops by itself where plain iteration goes on into the noise.
    assert error(found[-1][1]) < error(photons)
    assert error(found[-1][1]) < 0.8 * error(plain[-1][1])
    # All noise, no structure: hardly anything is drawn into it.
    even = rng.poisson(50.0, (64, 64)).astype(np.float64)
    drawn = list(baselines.gradient_consensus_iterates(even, tissue, 30, rng))[-1][1]
    over = list(baselines.richardson_lucy_iterates(even, *tissue, 30))[-1][1]
    assert drawn.std() < 0.5 * over.std()
    assert drawn.mean() == pytest.approx(50, rel=0.02)
