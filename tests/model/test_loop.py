"""The loop: iteration, extension at the border and the dial."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deepcontrast_bmz.model.loop import (
    Loop,
    blend,
    dial_position,
    extend,
    fraction_weight,
)
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.settings import NetworkSettings


def loop(kind: str = "dilated", iterations: int = 3) -> Loop:
    torch.manual_seed(0)
    network = NetworkSettings(kind=kind, width=4, dilations=(1, 2), levels=2)  # pyright: ignore[reportArgumentType]
    return Loop(build_network(network), iterations).eval()


def image(height: int = 40, width: int = 33) -> torch.Tensor:
    return torch.rand((1, 1, height, width), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (1, 6), (3, 40)])
@pytest.mark.parametrize("margin", [0, 1, 4, 23])
def test_extension_is_symmetric_at_any_size(shape: tuple[int, int], margin: int) -> None:
    x = image(*shape)
    expected = np.pad(x.numpy()[0, 0], margin, mode="symmetric")
    np.testing.assert_array_equal(extend(x, [margin] * 2).numpy()[0, 0], expected)


@pytest.mark.parametrize("kind", ["dilated", "invertible"])
@torch.no_grad()
def test_iterating_is_applying_again(kind: str) -> None:
    """On an image that comes with its surroundings, k iterations are k single ones."""
    run = loop(kind)
    r = run.radius
    x = image(6 * r + 20, 6 * r + 16)
    together = run.iterate(x, 3)
    one = run.iterate(x, 1)
    two = run.iterate(one, 1)
    three = run.iterate(two, 1)
    torch.testing.assert_close(together[:, 2:], three)
    torch.testing.assert_close(together[:, 1:2], two[:, :, r:-r, r:-r])
    torch.testing.assert_close(together[:, :1], one[:, :, 2 * r : -2 * r, 2 * r : -2 * r])


@pytest.mark.parametrize("shape", [(40, 33), (1, 1), (1, 64), (3, 5)])
@torch.no_grad()
def test_whole_image_keeps_its_size(shape: tuple[int, int]) -> None:
    y = loop()(image(*shape))
    assert y.shape == (1, 3, *shape)
    assert bool(torch.isfinite(y).all())


@torch.no_grad()
def test_loop_commutes_with_grey_values() -> None:
    run = loop().double()
    x = image().double()
    torch.testing.assert_close(run(250 * x + 32768), 250 * run(x) + 32768)


@torch.no_grad()
def test_mirrored_image_gives_the_mirrored_border() -> None:
    """A symmetric extension done by the caller changes nothing."""
    run = loop(iterations=2)
    margin = 2 * run.radius
    x = image()
    extended = extend(x, [margin] * 2)
    torch.testing.assert_close(run.iterate(extended, 2), run(x))


# ---- the dial


def test_fraction_of_a_step_runs_from_none_to_all() -> None:
    assert fraction_weight(0.0, 1.0) == 0
    assert fraction_weight(1.0, 1.0) == pytest.approx(1)
    assert fraction_weight(0.5, 1.0) == pytest.approx((math.exp(0.5) - 1) / (math.e - 1))


def test_fraction_is_exact_where_scattering_empties_a_frequency() -> None:
    """Where s = 0, H_tau is exp(-tau): going alpha of the way leaves exp(-(tau - b))."""
    tau, step, b = 2.0, 1.0, 0.3
    before, after = math.exp(-tau), math.exp(-(tau - step))
    alpha = fraction_weight(b, step)
    assert before + alpha * (after - before) == pytest.approx(math.exp(-(tau - b)))


@pytest.mark.parametrize(
    ("dial", "expected"),
    [(0.0, (0, 0.0)), (1.0, (1, 0.0)), (3.0, (3, 0.0)), (2.5, (2, fraction_weight(0.5, 1.0)))],
)
def test_dial_position(dial: float, expected: tuple[int, float]) -> None:
    whole, alpha = dial_position(dial, 1.0, 3)
    assert (whole, alpha) == (expected[0], pytest.approx(expected[1]))


@pytest.mark.parametrize("dial", [-0.1, 3.1, math.nan, math.inf])
def test_dial_out_of_range_is_refused(dial: float) -> None:
    with pytest.raises(ValueError, match="dial lies between 0 and 3"):
        dial_position(dial, 1.0, 3)


@torch.no_grad()
def test_blend_meets_the_iterations_and_is_continuous() -> None:
    x = image()
    channels = loop()(x)[0]
    raw = x[0, 0]
    torch.testing.assert_close(blend(raw, channels, 0.0, 1.0), raw)
    for k in (1, 2, 3):
        torch.testing.assert_close(blend(raw, channels, float(k), 1.0), channels[k - 1])
        below = blend(raw, channels, k - 1e-6, 1.0)
        torch.testing.assert_close(below, channels[k - 1], atol=1e-4, rtol=0)
