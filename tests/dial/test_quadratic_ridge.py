"""A quadratic form is found again, kept in text, and refuses what is not one."""

from __future__ import annotations

import numpy as np
import pytest

from deepcontrast_bmz.dial.quadratic_ridge import fit_form, pack, read_form, unpack


def examples(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((count, 6)) * [1, 2, 3, 1, 1, 1] + 5
    centred = features - 5
    return features, 1 + centred[:, 0] - 0.3 * centred[:, 1] + 0.2 * centred[:, 2] ** 2


def test_a_quadratic_relation_is_found() -> None:
    features, targets = examples()
    form = fit_form(features[:300], targets[:300], ridge=1.0)
    found = form(features[300:])
    assert np.abs(found - targets[300:]).mean() < 0.15 * targets.std()


@pytest.mark.parametrize("directions", [2, 4, 6])
def test_a_form_survives_its_text(directions: int) -> None:
    features, targets = examples()
    form = fit_form(features, targets, directions=directions)
    again = read_form(pack(form), 6)
    assert again.directions.shape == (6, directions)
    assert np.allclose(again(features), form(features), atol=0.02)


def test_features_beyond_the_examples_count_as_their_edge() -> None:
    features, targets = examples()
    form = fit_form(features, targets)
    far = features[:1].copy()
    far[0, 2] = 1e6
    farther = far.copy()
    farther[0, 2] = 1e9
    assert form(far)[0] == form(farther)[0]
    assert np.isfinite(form(far)[0])


def test_the_shares_name_the_feature_that_matters() -> None:
    features, targets = examples()
    form = fit_form(features, targets)
    row = np.full(6, 5.0)
    row[0] = 8.0
    assert int(np.argmax(form.shares(row))) == 0


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!"])
def test_a_text_of_another_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="numbers were expected"):
        read_form(text, 6)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        unpack(pack([np.array([1.0, np.inf])]), [(2,)])
