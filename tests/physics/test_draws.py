"""Draws that are uniform in the logarithm."""

from __future__ import annotations

import numpy as np
import pytest

from deepcontrast_bmz.physics.draws import draw_log_uniform


def test_every_factor_is_as_likely_as_its_inverse() -> None:
    rng = np.random.default_rng(1)
    drawn = np.array([draw_log_uniform(rng, 0.25, 4.0) for _ in range(4000)])
    assert drawn.min() >= 0.25
    assert drawn.max() <= 4.0
    # Four doublings, each with a quarter of the draws; 3.5 standard errors.
    counts, _ = np.histogram(drawn, [0.25, 0.5, 1.0, 2.0, 4.0])
    assert counts == pytest.approx([1000] * 4, abs=96)


def test_one_number_is_taken_from_the_generator() -> None:
    """Runs repeat bit by bit only if each draw takes as many numbers as it did."""
    used, other = np.random.default_rng(2), np.random.default_rng(2)
    _ = draw_log_uniform(used, 10.0, 1000.0)
    _ = other.random()
    assert used.random() == other.random()
