"""The verdict accepts the truth and refuses cheap contrast, on several phantoms each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import baselines
import numpy as np
import pytest
import torch
from function_models import TISSUE, image_of, model_of
from numpy.typing import NDArray

from deepcontrast_bmz.dial.darkness import measure_darkness
from deepcontrast_bmz.dial.verdict import judge
from deepcontrast_bmz.evaluate.sweep import evaluate
from deepcontrast_bmz.physics.noise import NoiseModel
from deepcontrast_bmz.physics.phantoms import Kind, phantom
from deepcontrast_bmz.physics.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepcontrast_bmz.evaluate.records import DialScores

Double = NDArray[np.float64]
NOISE = NoiseModel(slope=1.0, intercept=-96.0, floor=1.0)
CASES: list[tuple[Kind, float, int]] = [
    ("membranes", 1.0, 11),
    ("tubes", 2.0, 12),
    ("nuclei", 2.0, 13),
]


@pytest.mark.parametrize(
    ("recovery", "misfit", "expected"),
    [
        (1.0, 0.0, "ok"),
        (None, 0.15, "ok"),
        (1.15, None, "ok"),
        (1.16, 0.0, "over-enhanced"),
        (1.5, 3.0, "over-enhanced"),
        (1.0, 0.21, "inconsistent"),
        (None, 0.21, "inconsistent"),
        (None, -0.1, "ok"),
        (None, None, "unmeasurable"),
    ],
)
def test_verdicts(recovery: float | None, misfit: float | None, expected: str) -> None:
    assert judge(recovery, misfit).verdict == expected


@pytest.mark.parametrize(
    ("options", "expected", "word"),
    [
        ({"misfit": 0.3}, "inconsistent", "systematic"),
        ({"misfit": 0.1}, "ok", "nothing"),
        ({"below_offset": (20.0, 0.2)}, "over-enhanced", "no light"),
        # Neither within the noise nor within what is known of the offset.
        ({"below_offset": (20.0, 0.01)}, "ok", "nothing"),
        ({"below_offset": (1.0, 0.2)}, "ok", "nothing"),
        ({"noise_gain": 3.0, "contrast_gain": 2.0}, "over-enhanced", "noise grew 3.0"),
        ({"noise_gain": 2.0, "contrast_gain": 2.0}, "ok", "nothing"),
        ({"misfit": 0.3, "model_error": 0.2}, "ok", "nothing"),
        # A loss of contrast is no licence to amplify noise.
        ({"noise_gain": 1.5, "contrast_gain": 0.5}, "over-enhanced", "noise grew"),
    ],
)
def test_what_else_speaks_against_an_image(
    options: dict[str, float | tuple[float, float]], expected: str, word: str
) -> None:
    found = judge(1.0, **{"misfit": 0.0} | options)  # pyright: ignore[reportArgumentType]
    assert found.verdict == expected
    assert word in found.why


def test_darkness_counts_from_the_offset() -> None:
    image = np.full((64, 64), 100.0)
    image[:, 32:] = 500.0
    deviations, share = measure_darkness(image, 100.0, NOISE)
    assert deviations == pytest.approx(0, abs=1e-6)
    assert share == pytest.approx(0, abs=1e-6)
    deviations, share = measure_darkness(image, 140.0, NOISE)
    assert deviations == pytest.approx(40 / np.sqrt(44), rel=1e-3)
    assert share == pytest.approx(40 / 360, rel=1e-3)


def test_darkness_of_tiny_counts_has_a_share() -> None:
    # In single precision their variance is zero.
    image = np.full((32, 32), 1e-24)
    image[:, :16] = -1e-24
    noise = NoiseModel(slope=0.0, intercept=0.0, floor=1e-50)
    deviations, share = measure_darkness(image, 0.0, noise)
    assert deviations > 0
    assert share == pytest.approx(1.0, rel=0.01)


def test_single_dark_pixels_are_noise_not_darkness() -> None:
    image = np.full((64, 64), 100.0)
    image[::16, ::16] = 0.0
    assert measure_darkness(image, 100.0, NOISE)[0] < 4


def specimen(kind: Kind, depth: float, seed: int) -> tuple[Double, Double]:
    """Return truth and recording, both with an offset of 100 counts."""
    sharp = phantom(kind, (112, 128), np.random.default_rng(seed))
    truth: Double = 600 * sharp.astype(np.float64) + 105
    hazy = scatter(torch.from_numpy(truth - 100), depth, *TISSUE).numpy()
    photons = np.random.default_rng(seed + 1).poisson(hazy).astype(np.float64)
    return truth, photons + 100


def known(image: Double) -> Callable[[Double, int], Double]:
    """Return a function that gives this image, whatever it is shown."""

    def function(extended: Double, _iteration: int) -> Double:
        above, left = ((a - b) // 2 for a, b in zip(extended.shape, image.shape, strict=True))
        return np.pad(image, ((above, above), (left, left)), mode="symmetric")

    return function


def rows(function: Callable[[Double, int], Double], raw: Double) -> list[DialScores]:
    """Return the scores at whole dials, where the image is what the function gives."""
    found = evaluate(model_of(function), image_of(raw), dials=[1.0, 2.0, 3.0], offset=100)
    return [row for row in found.scores if row.dial in (1.0, 2.0, 3.0)]


TRICKS: dict[str, Callable[[Double], Double]] = {
    "gamma": lambda y: np.clip(y - 100, 0, None) ** 2 / 100 + 100,
    "offset subtraction": lambda y: y - 0.4 * (y.mean() - 100),
    "background subtraction": lambda y: (
        baselines.subtract_background_gaussian(y - 100, 20, 0.8) + 100
    ),
    "unsharp masking": lambda y: baselines.unsharp_mask(y, 8, 1.5),
    "CLAHE": lambda y: baselines.clahe(y, 0.02),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_refused_whatever_depth_it_claims(
    trick: str, case: tuple[Kind, float, int]
) -> None:
    _, raw = specimen(*case)
    for row in rows(lambda y, _: TRICKS[trick](y), raw):
        assert row.contrast_gain is not None
        assert row.verdict in ("inconsistent", "over-enhanced"), row
        assert row.why


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_over_iteration_is_refused(case: tuple[Kind, float, int]) -> None:
    kind, depth, seed = case
    truth, raw = specimen(kind, depth, seed)
    hazier = scatter(torch.from_numpy(truth), 1.0, *TISSUE).numpy()
    # What a network does once the haze is gone: it goes on as if there were more.
    beyond: Double = truth + float(np.expm1(1.0)) * (truth - hazier)
    for row in rows(known(beyond), raw):
        assert row.verdict in ("inconsistent", "over-enhanced"), row


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_nobody_need_know_the_kernel(factor: float) -> None:
    """The truth explains its recording by the kernel of its own tissue, which is found."""
    widths, weights = TISSUE
    truth, _ = specimen("nuclei", 2.0, 5)
    wide = tuple(factor * width for width in widths)
    hazy = scatter(torch.from_numpy(truth - 100), 2.0, wide, weights).numpy()
    raw = np.random.default_rng(6).poisson(hazy).astype(np.float64) + 100
    row = next(row for row in rows(known(truth), raw) if row.dial == 2)
    assert row.verdict == "ok", row
    assert row.kernel_factor is not None
    assert (row.kernel_factor > 1) == (factor > 1)
    assert row.kernel_factor != 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_truth_is_accepted_at_its_depth(case: tuple[Kind, float, int]) -> None:
    kind, depth, seed = case
    truth, raw = specimen(kind, depth, seed)
    found = {row.dial: row for row in rows(known(truth), raw)}
    assert found[depth].verdict == "ok", found[depth]


def test_no_gain_is_reported_without_its_price() -> None:
    _, raw = specimen(*CASES[1])
    for row in rows(lambda y, _: TRICKS["unsharp masking"](y), raw):
        assert row.contrast_gain is not None
        assert row.forward_consistency is not None or row.contrast_recovery is not None
        assert row.detail_coarse is not None
