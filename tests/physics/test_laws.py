"""Laws of tissue and detector: what must hold whatever the numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.physics.camera import Camera, estimate_camera, expose, to_photons
from deepcontrast_bmz.physics.degrade import (
    Degradation,
    degrade,
    draw_degradation,
    remove_known_part,
)
from deepcontrast_bmz.physics.noise import estimate_noise
from deepcontrast_bmz.physics.phantoms import KINDS, phantom
from deepcontrast_bmz.physics.scatter import (
    ballistic_fraction,
    scatter,
    separable_terms,
    widths_in_pixels,
)
from deepcontrast_bmz.settings import PhysicsSettings, Scatter

WIDTHS, WEIGHTS = (2.0, 6.0), (0.7, 0.3)
SHAPES = [(33, 47), (1, 1), (1, 64), (2, 3, 20, 21)]


def image(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def seen(x: torch.Tensor, optical_depth: float) -> torch.Tensor:
    return scatter(x, optical_depth, WIDTHS, WEIGHTS)


# ---- scattering


@pytest.mark.parametrize("shape", SHAPES)
def test_no_depth_is_the_identity(shape: tuple[int, ...]) -> None:
    x = image(shape)
    torch.testing.assert_close(seen(x, 0.0), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_depths_add_up(shape: tuple[int, ...]) -> None:
    x = image(shape)
    torch.testing.assert_close(seen(seen(x, 0.7), 1.6), seen(x, 2.3))


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_is_kept(shape: tuple[int, ...]) -> None:
    x = image(shape)
    torch.testing.assert_close(seen(x, 3.0).mean((-2, -1)), x.mean((-2, -1)))


def test_scattering_is_linear() -> None:
    x, y = image((30, 31)), image((30, 31), seed=1)
    torch.testing.assert_close(seen(2 * x - 3 * y, 1.0), 2 * seen(x, 1.0) - 3 * seen(y, 1.0))


def test_deeper_has_less_contrast() -> None:
    x = image((40, 40))
    spread = [float(seen(x, depth).std()) for depth in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert spread == sorted(spread, reverse=True)
    assert len(set(spread)) == len(spread)


def test_a_point_keeps_its_ballistic_light() -> None:
    """Far narrower than the kernel, only unscattered light stays in the pixel."""
    x = torch.zeros(301, 301, dtype=torch.float64)
    x[150, 150] = 1
    centre = float(scatter(x, 2.0, (30.0,), (1.0,))[150, 150])
    # What multiple scattering returns to the pixel is of the order of 1 / (2 pi 30^2).
    assert ballistic_fraction(2.0) < centre < ballistic_fraction(2.0) + 2e-4


def test_light_is_not_negative() -> None:
    x = torch.zeros(64, 64, dtype=torch.float64)
    x[10, 50] = 1
    assert float(seen(x, 1.5).min()) > -1e-12


def test_every_plane_may_have_its_own_depth() -> None:
    x = image((3, 16, 18))
    depths = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)
    together = scatter(x, depths, WIDTHS, WEIGHTS)
    for number, depth in enumerate(depths):
        torch.testing.assert_close(together[number], seen(x[number], float(depth)))


def test_negative_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="optical depth is not negative"):
        seen(image((4, 4)), -0.1)


def test_units_rescale() -> None:
    """The same kernel in micrometres is wider in pixels where pixels are smaller."""
    kernel = Scatter(widths=(3.0, 12.0), weights=(0.5, 0.5), unit="um")
    assert widths_in_pixels(kernel, 0.5) == (6.0, 24.0)
    coarse = F.avg_pool2d(image((1, 64, 64)), 2)[0]
    fine = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1)
    seen_coarse = scatter(coarse, 1.0, widths_in_pixels(kernel, 1.0), kernel.weights)
    seen_fine = scatter(fine, 1.0, widths_in_pixels(kernel, 0.5), kernel.weights)
    binned = F.avg_pool2d(seen_fine[None], 2)[0]
    # Binning itself blurs by half a pixel, which the widths of 3 and 12 hardly feel.
    assert float((binned - seen_coarse).abs().max()) < 0.02 * float(coarse.std())


def test_micrometres_need_a_pixel_size() -> None:
    with pytest.raises(InputError, match="pixel size"):
        widths_in_pixels(Scatter(unit="um"), None)


def test_separable_terms_are_the_same_operator() -> None:
    amplitudes, kernels = separable_terms(1.0, WIDTHS, WEIGHTS, neglected=1e-6)
    assert float(amplitudes.sum()) == pytest.approx(1, abs=1e-6)
    assert float(amplitudes[0]) == pytest.approx(math.exp(-1), abs=1e-4)
    reach = kernels.shape[1] // 2
    x = image((2 * reach + 9, 2 * reach + 8)).float()
    total = torch.zeros(9, 8)
    for amplitude, kernel in zip(amplitudes, kernels, strict=True):
        along_y = F.conv2d(x[None, None], kernel[None, None, :, None])
        total += amplitude * F.conv2d(along_y, kernel[None, None, None, :])[0, 0]
    expected = seen(x.double(), 1.0)[reach:-reach, reach:-reach].float()
    torch.testing.assert_close(total, expected, atol=2e-4, rtol=0)


# ---- detector


def test_poisson_mean_equals_variance() -> None:
    photons = torch.full((400, 400), 37.0)
    counts = expose(photons, Camera(), torch.Generator().manual_seed(0))
    assert float(counts.mean()) == pytest.approx(37, rel=5e-3)
    assert float(counts.var()) == pytest.approx(37, rel=2e-2)


def test_gain_offset_and_read_noise() -> None:
    camera = Camera(gain=0.5, offset=100, read_noise_electrons=3)
    counts = expose(torch.full((400, 400), 50.0), camera, torch.Generator().manual_seed(0))
    assert float(counts.mean()) == pytest.approx(100 + 50 / 0.5, rel=1e-3)
    assert float(counts.var()) == pytest.approx((50 + 9) / 0.5**2, rel=2e-2)
    assert float(to_photons(counts, camera).mean()) == pytest.approx(50, rel=5e-3)


def test_bit_depth_rounds_and_clips() -> None:
    photons = torch.tensor([[0.0, 10.0, 1e6]])
    counts = expose(photons, Camera(bit_depth=8), torch.Generator().manual_seed(0))
    assert float(counts.max()) == 255
    torch.testing.assert_close(counts, counts.round())


def test_negative_light_records_as_darkness() -> None:
    counts = expose(torch.full((8, 8), -5.0), Camera(), torch.Generator().manual_seed(0))
    assert float(counts.abs().max()) == 0


@pytest.mark.parametrize("kind", ["membranes", "nuclei", "tubes"])
@pytest.mark.parametrize("gain", [0.5, 4.0])
def test_camera_is_read_off_an_image(kind: str, gain: float) -> None:
    truth = torch.from_numpy(phantom(kind, (192, 192), np.random.default_rng(3)))  # pyright: ignore[reportArgumentType]
    photons = scatter(truth * 400, 1.0, (5.5, 24.0), WEIGHTS)
    counts = expose(photons, Camera(gain=gain, offset=100), torch.Generator().manual_seed(1))
    estimate = estimate_camera(counts)
    assert estimate.gain == pytest.approx(gain, rel=0.35)
    assert estimate.offset < float(counts.quantile(0.02))
    middle = photons.median() / gain + 100
    variance = float(estimate_noise(counts).variance(middle))
    assert variance == pytest.approx(float(photons.median()) / gain**2, rel=0.3)


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e6])
def test_an_image_without_noise_has_none_in_any_unit(unit: float) -> None:
    axis = torch.linspace(0, 1, 64, dtype=torch.float64)
    smooth = axis[:, None] * axis[None, :] * 0.9
    one, other = estimate_noise(smooth), estimate_noise(smooth * unit)
    assert other.floor == pytest.approx(one.floor * unit**2, rel=1e-6)


@pytest.mark.parametrize("unit", [1e-11, 1 / 65535, 1e6])
def test_the_noise_of_counts_is_found_in_any_unit(unit: float) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.linspace(0, 40, 64).expand(64, 64), generator=generator)
    one = estimate_noise(counts)
    other = estimate_noise((counts.double() * unit).float())
    assert other.slope == pytest.approx(one.slope * unit, rel=1e-4)
    assert other.intercept == pytest.approx(one.intercept * unit**2, rel=1e-3)
    assert other.floor == pytest.approx(one.floor * unit**2, rel=1e-4)
    assert one.in_unit(unit).floor == pytest.approx(other.floor, rel=1e-4)


@pytest.mark.parametrize(
    "flat", [torch.zeros(64, 64), torch.full((1, 1), 7.0), torch.zeros(1, 64), torch.zeros(0, 0)]
)
def test_noise_of_a_constant_image_is_next_to_nothing(flat: torch.Tensor) -> None:
    model = estimate_noise(flat)
    assert float(model.variance(torch.tensor(5.0))) < 1e-9


# ---- both together


def draw(steps: int = 1, seed: int = 0) -> Degradation:
    return draw_degradation(
        PhysicsSettings(),
        np.random.default_rng(seed),
        widths_px=(5.5, 24.0),
        mean_photons=100.0,
        steps=steps,
    )


def test_a_recorded_draw_can_be_replayed() -> None:
    first = draw()
    again = type(first).model_validate_json(first.model_dump_json())
    assert again == first
    x = image((32, 32)).float() * 50
    torch.testing.assert_close(degrade(x, again), degrade(x, first), rtol=0, atol=0)


def test_same_seed_same_draw_other_seed_another() -> None:
    assert draw() == draw()
    assert draw(seed=1) != draw()


def test_steps_multiply_the_depth() -> None:
    assert draw(steps=3).optical_depth == pytest.approx(3 * draw().optical_depth)


def test_known_part_is_removed() -> None:
    """With plenty of light, only scattering is left."""
    x = image((64, 64)).float() * 1e7
    drawn = draw()
    left = remove_known_part(degrade(x, drawn), drawn)
    expected = scatter(x, drawn.optical_depth, drawn.widths_px, drawn.weights)
    assert float((left - expected).abs().max()) < 0.01 * float(x.max())


def test_absorption_dims() -> None:
    x = image((64, 64)).float() * 1000
    clear = draw().model_copy(update={"absorption_optical_depth": 0.0, "veil_photons": 0.0})
    dim = clear.model_copy(update={"absorption_optical_depth": 1.0})
    ratio = float(degrade(x, dim).mean() / degrade(x, clear).mean())
    assert ratio == pytest.approx(math.exp(-1), rel=1e-2)


# ---- specimens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(96, 80), (12, 40, 48)])
def test_phantoms_are_seeded_light(kind: str, shape: tuple[int, ...]) -> None:
    first = phantom(kind, shape, np.random.default_rng(5))  # pyright: ignore[reportArgumentType]
    assert first.shape == shape
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert 0.3 < first.max() < 20
    assert first.std() > 0.02
    np.testing.assert_array_equal(first, phantom(kind, shape, np.random.default_rng(5)))  # pyright: ignore[reportArgumentType]
    assert not np.array_equal(first, phantom(kind, shape, np.random.default_rng(6)))  # pyright: ignore[reportArgumentType]


def test_phantom_of_another_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="a phantom is"):
        phantom("nuclei", (64,), np.random.default_rng(0))
