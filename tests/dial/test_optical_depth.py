"""The estimator of optical depth learns from examples, and knows how often it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deepcontrast_bmz.dial.features import FeatureVector
from deepcontrast_bmz.dial.optical_depth import Example, estimate_depth, fit_depth
from deepcontrast_bmz.records import DepthEstimator

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = ("black", *(f"residual_dial_{i}" for i in range(7)), "white", "stripes_fine")


def example(depth: float, rng: np.random.Generator, noise: float, *, noisy: bool = True) -> Example:
    values = np.linspace(-1, 1, len(NAMES)) * depth + noise * rng.standard_normal(len(NAMES))
    return Example(FeatureVector(NAMES, values), depth, noisy)


def fitted(noise: float, count: int = 200) -> DepthEstimator:
    rng = np.random.default_rng(1)
    drawn = [
        example(rng.uniform(0, 4), rng, noise * (1 + 4 * (i % 2)), noisy=i % 2 == 0)
        for i in range(count)
    ]
    return fit_depth(drawn, iterations=4, deepest=4.0, step=1.0)


@pytest.mark.parametrize("depth", [0.3, 1.0, 2.5, 3.8])
def test_the_depth_is_read_off(depth: float) -> None:
    unseen = example(depth, np.random.default_rng(9), 0.02)
    found = estimate_depth(unseen.features, fitted(0.02), step=1.0, noisy=True)
    assert found.optical_depth == pytest.approx(depth, abs=0.25)


def test_it_is_surer_where_it_was_right_more_often() -> None:
    estimator = fitted(0.4)
    assert 0 < estimator.within_without_noise < estimator.within < 1
    seen = example(1.0, np.random.default_rng(0), 0.1).features
    assert estimate_depth(seen, estimator, step=1.0, noisy=True).confidence == estimator.within
    assert (
        estimate_depth(seen, estimator, step=1.0, noisy=False).confidence
        == estimator.within_without_noise
    )
    assert fitted(0.02).within > estimator.within


def test_its_interval_covers_four_in_five_of_those_left_out() -> None:
    estimator = fitted(0.3, 600)
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(200):
        depth = float(rng.uniform(0, 4))
        seen = example(depth, rng, 0.3).features
        low, high = estimate_depth(seen, estimator, step=1.0, noisy=True).interval
        inside += low <= depth <= high
    assert 0.72 <= inside / 200 <= 0.9
    width = estimator.half_width
    assert width is not None
    # Whoever wrote no width wrote how many lay within a quarter: 68.27 % within one deviation.
    old = estimator.model_copy(update={"within": 0.6827, "half_width": None})
    seen = example(2.0, rng, 0.1).features
    low, high = estimate_depth(seen, old, step=0.5, noisy=True).interval
    assert high - low == pytest.approx(2 * 1.2816 * 0.25 * 0.5, rel=1e-3)


def test_it_stays_within_the_depths_it_knows() -> None:
    far = FeatureVector(NAMES, 1e3 * np.linspace(-1, 1, len(NAMES)))
    none = FeatureVector(NAMES, -1e3 * np.linspace(-1, 1, len(NAMES)))
    estimator = fitted(0.02)
    assert estimate_depth(far, estimator, step=1.0, noisy=True).optical_depth <= 4.0
    assert estimate_depth(none, estimator, step=1.0, noisy=True).optical_depth >= 0.0


def test_features_that_tell_the_kind_of_image_do_not_count() -> None:
    seen = example(2.0, np.random.default_rng(0), 0.02).features
    other = FeatureVector(NAMES, seen.values.copy())
    other.values[-2:] += 100
    estimator = fitted(0.02)
    assert estimate_depth(seen, estimator, step=1.0, noisy=True) == estimate_depth(
        other, estimator, step=1.0, noisy=True
    )


def real_examples(haze: float) -> list[Example]:
    """Six raw images, degraded by known amounts; another texture, so that specimens mislead."""
    rng = np.random.default_rng(5)
    found: list[Example] = []
    for number in range(120):
        added = rng.uniform(0, 3)
        made = example(added + haze, rng, 0.05)
        values = made.features.values.copy()
        values[[1, 2]] += [-0.6, 0.4]
        found.append(Example(FeatureVector(NAMES, values), added, noisy=True, image=number % 6))
    return found


def readings(haze: float, real: Sequence[Example]) -> float:
    """Return how much too high unseen images of that texture are read, on average."""
    rng = np.random.default_rng(1)
    drawn = [example(rng.uniform(0, 4), rng, 0.1, noisy=i % 2 == 0) for i in range(200)]
    estimator = fit_depth([*drawn, *real], iterations=4, deepest=4.0, step=1.0)
    assert estimator.recordings == 200 + len(real)
    off = [
        estimate_depth(e.features, estimator, step=1.0, noisy=True).optical_depth
        - e.optical_depth
        - haze
        for e in real_examples(haze)
    ]
    return float(np.mean(off))


def test_real_images_correct_what_specimens_mislead_to() -> None:
    alone = readings(0.0, [])
    assert abs(alone) > 0.15
    assert abs(readings(0.0, real_examples(0.0))) < 0.4 * abs(alone)


def test_haze_that_real_images_bring_along_is_not_all_unlearned() -> None:
    """Part of it is taken for texture, since images are trained on for their contrast."""
    learned = readings(1.0, real_examples(1.0))
    assert -0.9 < learned < -0.1


def test_other_features_are_refused() -> None:
    with pytest.raises(ValueError, match="numbers were expected"):
        estimate_depth(FeatureVector(NAMES[:5], np.zeros(5)), fitted(0.02), step=1.0, noisy=True)


def test_the_record_survives_json() -> None:
    estimator = fitted(0.1)
    assert DepthEstimator.model_validate_json(estimator.model_dump_json()) == estimator
