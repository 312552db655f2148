"""Dials as a smooth curve along z."""

from __future__ import annotations

import numpy as np
import pytest

from deepcontrast_bmz.dial.smooth_z import smooth_along_z


def test_a_line_along_z_stays_as_it_is() -> None:
    line = [0.1 * z for z in range(20)]
    assert smooth_along_z(line) == pytest.approx(line, abs=1e-3)


def test_an_outlier_along_z_is_passed_by() -> None:
    line = [0.1 * z for z in range(20)]
    bent = [*line[:7], 3.5, *line[8:]]
    assert smooth_along_z(bent) == pytest.approx(line, abs=0.02)


def test_noise_along_z_is_averaged() -> None:
    rng = np.random.default_rng(0)
    line = np.linspace(0.5, 2.5, 30)
    noisy = line + 0.2 * rng.standard_normal(30)
    smooth = np.array(smooth_along_z(noisy.tolist()))
    assert np.abs(smooth - line).mean() < 0.6 * np.abs(noisy - line).mean()
    assert np.abs(np.diff(smooth, 2)).max() < np.abs(np.diff(noisy, 2)).max() / 3


def test_planes_weigh_by_their_confidence() -> None:
    dials, sure = [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0], [1, 1, 0.05, 0.05, 1, 1, 0.05]
    assert max(smooth_along_z(dials, sure)) < 1.3
    assert np.mean(smooth_along_z(dials, [1.05 - c for c in sure])) > 1.7


@pytest.mark.parametrize("dials", [[], [1.5], [1.0, 2.0], [2.0, 2.0, 2.0]])
def test_too_few_or_equal_planes_are_left_alone(dials: list[float]) -> None:
    assert smooth_along_z(dials) == dials


def test_smoothing_stays_within_what_was_measured() -> None:
    smooth = smooth_along_z([0.0, 0.0, 0.1, 1.9, 2.0, 2.0])
    assert min(smooth) >= 0
    assert max(smooth) <= 2
