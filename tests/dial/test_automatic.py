"""The automatic dial: what is read, what limits it, and how it is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from descriptions import described
from torch import Tensor

from deepcontrast_bmz.dial.automatic import choose_dial
from deepcontrast_bmz.dial.consistency import forward_residual
from deepcontrast_bmz.dial.darkness import is_too_dark
from deepcontrast_bmz.dial.evidence import weigh_dial
from deepcontrast_bmz.dial.features import FeatureVector, image_features
from deepcontrast_bmz.dial.look import look_at_plane
from deepcontrast_bmz.dial.ood import fit_ood
from deepcontrast_bmz.dial.optical_depth import Example, fit_depth
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.noise import NoiseModel, estimate_noise
from deepcontrast_bmz.physics.phantoms import Kind, phantom
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.settings import Scatter

if TYPE_CHECKING:
    from deepcontrast_bmz.dial.look import Run
    from deepcontrast_bmz.records import LoopDescription, OodStatistics

WIDTHS = (4.0, 12.0)
WEIGHTS = (0.7, 0.3)
KINDS: tuple[Kind, ...] = ("membranes", "tubes", "nuclei")


def description(step: float = 1.0) -> LoopDescription:
    return described(
        4,
        step_optical_depth=step,
        radius_px=47,
        halo_px=188,
        halo_tolerance=1e-6,
        scatter=Scatter(widths=WIDTHS, weights=WEIGHTS),
    )


def truth(kind: Kind, size: int = 160) -> Tensor:
    return torch.from_numpy(phantom(kind, (size, size), np.random.default_rng(3)))


def perfect_iterations(
    sharp: Tensor, depth: float, step: float = 1.0, *, clipped: bool = False
) -> Tensor:
    """Return what a perfect network gives; beyond the truth it goes on sharpening.

    With `clipped` it then cuts off below zero, so that only the residual can tell.
    """
    kept: list[Tensor] = []
    for k in range(1, 5):
        left = depth - k * step
        if left >= 0:
            kept.append(scatter(sharp, left, WIDTHS, WEIGHTS))
        else:
            haze = scatter(sharp, 1.0, WIDTHS, WEIGHTS)
            sharper = sharp + np.expm1(-left) * (sharp - haze)
            kept.append(sharper.clamp_min(0) if clipped else sharper)
    return torch.stack(kept)


def recorded(sharp: Tensor, depth: float, photons: float, offset: float = 100.0) -> Tensor:
    seen = scatter(sharp, depth, WIDTHS, WEIGHTS).clamp_min(0) * photons
    camera = Camera(gain=0.5, offset=offset, read_noise_electrons=1.5)
    return expose(seen, camera, torch.Generator().manual_seed(0))


def giving(raw: Tensor, kept: Tensor) -> Run:
    """Return what makes these iterations of a recording, and passes the noise of others on."""

    def run(image: Tensor, count: int) -> Tensor:
        height, width = image.shape
        cut = (..., slice(raw.shape[0] - height, None), slice(raw.shape[1] - width, None))
        return kept[:count][cut] + (image - raw[cut])

    return run


def test_masked_pixels_do_not_count_in_the_residual() -> None:
    sharp = truth("nuclei", 256)
    raw = recorded(sharp, 1.0, 500.0)
    masked = torch.zeros_like(raw, dtype=torch.bool)
    masked[:, 100:140] = True
    broken = torch.where(masked, torch.zeros_like(raw), raw)

    def residual(image: Tensor, used: Tensor | None) -> float:
        return forward_residual(
            image,
            1000 * sharp + 100,
            1.0,
            widths_px=WIDTHS,
            weights=WEIGHTS,
            noise=estimate_noise(raw),
            used=used,
        )

    assert residual(broken, None) > 5
    assert residual(broken, ~masked) == pytest.approx(residual(raw, ~masked), rel=1e-4)
    assert residual(broken, torch.zeros_like(masked)) == 0


def test_a_constant_image_has_nothing_to_gain() -> None:
    raw = torch.full((40, 50), 7.0)
    choice = choose_dial(raw, giving(raw, raw.expand(4, -1, -1)), description(), widths_px=WIDTHS)
    assert choice.dial == 0
    assert "constant" in choice.reason


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (5, 7), (30, 3)])
def test_tiny_images_get_a_dial(shape: tuple[int, int]) -> None:
    raw = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 50
    choice = choose_dial(raw, giving(raw, raw.expand(4, -1, -1)), description(), widths_px=WIDTHS)
    assert 0 <= choice.dial <= 4


def test_noise_alone_leaves_a_residual_of_one() -> None:
    sharp = truth("nuclei", 256)
    raw = recorded(sharp, 1.0, 500.0)
    residual = forward_residual(
        raw,
        1000 * sharp + 100,
        1.0,
        widths_px=WIDTHS,
        weights=WEIGHTS,
        noise=NoiseModel(slope=2.0, intercept=-200.0 + 9.0, floor=1.0),
    )
    assert residual == pytest.approx(1.0, abs=0.03)


def test_a_hot_pixel_is_no_misfit() -> None:
    sharp = truth("nuclei", 256)
    raw = recorded(sharp, 1.0, 500.0)
    noise = NoiseModel(slope=2.0, intercept=-191.0, floor=1.0)
    hot = raw.clone()
    hot[128, 128] += 60000
    residuals = [
        forward_residual(y, 1000 * sharp + 100, 1.0, widths_px=WIDTHS, weights=WEIGHTS, noise=noise)
        for y in (raw, hot)
    ]
    assert residuals[1] == pytest.approx(residuals[0], rel=0.01)


# ---- an estimator of optical depth


def learned(depth: float, *, cut: float = 0.0) -> tuple[Tensor, Tensor]:
    sharp = truth("nuclei")
    raw = recorded(sharp, depth, 500.0)
    kept = 1000 * perfect_iterations(sharp, depth) + 100
    return (raw - cut).clamp_min(0), kept - cut


def with_estimator(reading: float, **changes: object) -> LoopDescription:
    """A description whose estimator reads one depth off every image."""
    raw, kept = learned(1.0)
    names = image_features(raw, kept, widths_px=WIDTHS, weights=WEIGHTS, step=1.0).names
    rng = np.random.default_rng(0)
    examples = [
        Example(FeatureVector(names, rng.standard_normal(len(names))), reading, number % 2 == 0)
        for number in range(40)
    ]
    fit = fit_depth(examples, iterations=4, deepest=4.0, step=1.0)
    return description().model_copy(update={"depth": fit, **changes})


@pytest.mark.parametrize("reading", [0.0, 0.62, 1.4])
def test_the_estimator_decides_where_there_is_one(reading: float) -> None:
    raw, kept = learned(2.0)
    choice = choose_dial(raw, giving(raw, kept), with_estimator(reading), widths_px=WIDTHS)
    assert choice.dial == pytest.approx(reading, abs=0.03)
    # All specimens left out were met: the interval is as good as closed.
    around = f"80% within {reading:.1f} to {reading:.1f}"
    assert choice.reason == f"dial {choice.dial:g} (optical depth {reading:.1f}, {around})"
    assert choice.confidence == 1


def test_it_goes_no_further_than_it_was_calibrated() -> None:
    raw, kept = learned(3.0)
    choice = choose_dial(raw, giving(raw, kept), with_estimator(9.0), widths_px=WIDTHS)
    assert choice.dial >= 3.0
    assert "(optical depth 4.0, 80% within" in choice.reason


def test_dark_parts_keep_above_the_camera_offset() -> None:
    """As the verdict asks: a dial it would refuse is not taken."""
    raw, kept = learned(1.0)
    choice = choose_dial(raw, giving(raw, kept), with_estimator(3.5), widths_px=WIDTHS)
    assert 1.0 <= choice.dial < 3.5
    assert "limited by " in choice.reason
    assert choice.most == choice.dial
    look = look_at_plane(raw, giving(raw, kept), WIDTHS)
    for dial, dark in ((choice.dial, False), (3.5, True)):
        below = weigh_dial(look, dial, description()).below_offset
        assert below is not None
        assert is_too_dark(below) is dark


@pytest.mark.parametrize(
    ("kept", "known", "why"),
    [(2, True, "that takes 4 iterations"), (4, False, "the model has no estimator of it")],
)
def test_where_no_depth_can_be_read_one_iteration_is_a_beginning(
    kept: int, *, known: bool, why: str
) -> None:
    raw, iterations = learned(2.0)
    model = with_estimator(1.3) if known else description()
    model = model.model_copy(update={"iterations": kept})
    choice = choose_dial(raw, giving(raw, iterations[:kept]), model, widths_px=WIDTHS)
    assert choice.dial == 1.0
    assert choice.confidence == 0
    assert choice.reason == f"dial 1 (no optical depth read: {why})"


def test_the_beginning_is_limited_by_the_recording_too() -> None:
    raw, kept = learned(1.0)
    wild = raw + 6 * (kept - raw)
    choice = choose_dial(raw, giving(raw, wild), description(), widths_px=WIDTHS)
    assert choice.dial < 0.8
    assert "limited by" in choice.reason


def test_the_dial_does_not_depend_on_the_unit_of_grey_values() -> None:
    raw, kept = learned(2.0)
    model = with_estimator(3.5)
    once = choose_dial(raw, giving(raw, kept), model, widths_px=WIDTHS)
    assert (
        choose_dial(16 * raw, giving(16 * raw, 16 * kept), model, widths_px=WIDTHS).dial
        == once.dial
    )


def test_a_tiny_plane_says_why_it_is_not_read() -> None:
    raw, kept = learned(1.0)
    choice = choose_dial(
        raw[:20], giving(raw[:20], kept[:, :20]), with_estimator(1.3), widths_px=WIDTHS
    )
    assert "the plane is smaller than 48 pixels" in choice.reason


def test_dark_parts_never_shine_less_than_not_at_all() -> None:
    raw, kept = learned(1.0, cut=125.0)
    choice = choose_dial(raw, giving(raw, kept), with_estimator(3.5), widths_px=WIDTHS)
    assert 0.5 <= choice.dial <= 2.0
    assert "limited by dark parts, which would fall below zero" in choice.reason


def test_the_reason_says_why_it_is_less_certain() -> None:
    raw, kept = learned(1.0)
    black = raw.clamp_min(float(raw.quantile(0.2)))
    choice = choose_dial(black, giving(black, kept), with_estimator(1.0), widths_px=WIDTHS)
    assert ", black cut off in 20%)" in choice.reason


def test_masked_parts_say_nothing_of_the_dark() -> None:
    raw, kept = learned(1.0)
    raw[:, :20], kept[:, :, :20] = 0, -500
    choice = choose_dial(raw, giving(raw, kept), with_estimator(1.0), widths_px=WIDTHS)
    assert choice.dial == pytest.approx(1.0, abs=0.03)


def unusual_to(raw: Tensor, kept: Tensor) -> OodStatistics:
    """Statistics that this image is far from."""
    names = image_features(raw, kept[:1], widths_px=WIDTHS, weights=WEIGHTS, step=1.0).names
    rng = np.random.default_rng(0)
    vectors = [FeatureVector(names, 500 + rng.standard_normal(len(names))) for _ in range(60)]
    return fit_ood(vectors[:40], vectors[40:], iterations=1)


def test_an_unusual_image_gets_a_warning_and_the_same_dial() -> None:
    raw, kept = learned(3.0)
    plain = choose_dial(raw, giving(raw, kept), with_estimator(2.6), widths_px=WIDTHS)
    changed = with_estimator(2.6, ood=unusual_to(raw, kept))
    choice = choose_dial(raw, giving(raw, kept), changed, widths_px=WIDTHS)
    assert choice.dial == plain.dial == pytest.approx(2.6, abs=0.03)
    assert plain.warning is None
    assert choice.warning is not None
    assert (choice.ood_score or 0) > 1
    assert choice.confidence == 0.5


def test_no_dial_beyond_what_explains_the_recording() -> None:
    """However deep the haze looks: what contradicts the recording is not taken."""
    raw, kept = learned(1.0)
    free = choose_dial(raw, giving(raw, kept), with_estimator(1.0), widths_px=WIDTHS)
    wild = raw + 6 * (kept - raw)
    held = choose_dial(raw, giving(raw, wild), with_estimator(1.0), widths_px=WIDTHS)
    assert held.dial < free.dial - 0.2
    assert "limited by the recording, which more would not explain" in held.reason
    assert "explain" not in free.reason
