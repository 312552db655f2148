"""The out-of-distribution score: familiar images below 1, others above, and what stands out."""

from __future__ import annotations

import numpy as np
import pytest

from deepcontrast_bmz.dial.features import FeatureVector
from deepcontrast_bmz.dial.ood import fit_ood, unusual
from deepcontrast_bmz.records import OodStatistics

NAMES = (
    "snr",
    "shot",
    "slope_band0",
    "slope_band1",
    "residual1_band2",
    "gain1_band2",
    "stripes_fine",
    "black",
    "white",
    "kurtosis0",
    "skewness0",
    "floor1",
    "depth_of_dark1",
    "level_dial_0.5",
    "range_dial_0.02",
    "residual_dial_1.1",
)


def drawn(count: int, seed: int, **moved: float) -> list[FeatureVector]:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).standard_normal((4, len(NAMES)))
    values = rng.standard_normal((count, 4)) @ mixing
    values += 0.3 * rng.standard_normal(values.shape)
    for name, by in moved.items():
        values[:, NAMES.index(name)] += by
    return [FeatureVector(NAMES, row) for row in values]


@pytest.fixture(scope="module")
def statistics() -> OodStatistics:
    return fit_ood(drawn(300, 1), drawn(100, 2, snr=-4), iterations=1)


def scores(statistics: OodStatistics, vectors: list[FeatureVector]) -> np.ndarray:
    return np.array([unusual(vector, statistics).score for vector in vectors])


def test_familiar_images_are_below_the_limit(statistics: OodStatistics) -> None:
    assert (scores(statistics, drawn(200, 3)) > 1).mean() <= 0.05


def test_what_it_was_shown_is_above_the_limit(statistics: OodStatistics) -> None:
    assert (scores(statistics, drawn(100, 4, snr=-4)) > 1).mean() > 0.8


@pytest.mark.parametrize(
    ("name", "words"),
    [("stripes_fine", "stripes"), ("skewness0", "dark on bright"), ("black", "black pixels")],
)
def test_what_it_was_never_shown_is_found_too_and_named(
    statistics: OodStatistics, name: str, words: str
) -> None:
    vectors = drawn(50, 5, **{name: 6.0})
    assert (scores(statistics, vectors) > 1).mean() > 0.9
    told = [unusual(vector, statistics).feature for vector in vectors]
    assert sum(words in one for one in told) > 25


def test_only_unusual_images_are_warned_of(statistics: OodStatistics) -> None:
    familiar = unusual(drawn(1, 6)[0], statistics)
    assert familiar.warning is None
    strange = unusual(drawn(1, 6, stripes_fine=20.0)[0], statistics).warning
    assert strange is not None
    assert "unlike those the model was trained for" in strange
    assert "stripes" in strange
    assert "\n" not in strange


def test_the_limit_of_the_warning_is_that_of_images_left_out() -> None:
    images = [number % 8 for number in range(160)]
    fitted = fit_ood(drawn(160, 11), drawn(80, 12, black=4.0), iterations=1, images=images)
    assert fitted.warn_above >= 1
    warned = [unusual(vector, fitted).warning is not None for vector in drawn(300, 13)]
    assert sum(warned) <= 0.15 * 300
    few = fit_ood(drawn(160, 11), drawn(80, 12, black=4.0), iterations=1, images=[0] * 160)
    assert few.warn_above == OodStatistics.model_fields["warn_above"].default


def test_farther_is_more_unusual(statistics: OodStatistics) -> None:
    found = [scores(statistics, drawn(1, 6, floor1=by))[0] for by in (0.0, 5.0, 10.0, 20.0)]
    assert found == sorted(found)


def test_other_features_are_refused(statistics: OodStatistics) -> None:
    with pytest.raises(ValueError, match="numbers were expected"):
        unusual(FeatureVector(NAMES[:3], np.zeros(3)), statistics)


def test_the_record_survives_json(statistics: OodStatistics) -> None:
    assert OodStatistics.model_validate_json(statistics.model_dump_json()) == statistics
