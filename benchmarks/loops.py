"""Loops around a network: what is done to the image between two iterations.

Re-injection was part of the package up to version 0.1; it lost against the plain loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from phantoms import WEIGHTS, WIDTHS_PX
from scipy.ndimage import gaussian_filter
from torch import Tensor

from deepcontrast_bmz.model.loop import extend
from deepcontrast_bmz.physics.camera import estimate_camera
from deepcontrast_bmz.physics.noise import estimate_noise
from deepcontrast_bmz.physics.scatter import scatter, separable_terms

if TYPE_CHECKING:
    from deepcontrast_bmz.model.loop import Loop

Feedback = Callable[[int, Tensor, Tensor], Tensor]
"""Takes the number of the iteration and the images before and after it to the one to go on with."""


def plain(_k: int, _before: Tensor, after: Tensor) -> Tensor:
    """Go on with what the network returned."""
    return after


def reinjected(share: float = 0.5) -> Feedback:
    """Return the feedback of what one step leaves unexplained, slightly smoothed.

    After f(x), the residual r = x - H f(x) holds what the network dropped; H is a sum of
    separable terms.

    Parameters
    ----------
    share : float
        Weight of the residual.
    """
    amplitudes, kernels = separable_terms(1.0, WIDTHS_PX, WEIGHTS)
    reach = kernels.shape[1] // 2
    taps = torch.exp(-0.5 * torch.arange(-2.0, 3.0) ** 2 / 0.7**2)
    smooth = torch.outer(taps, taps)
    smooth = (smooth / smooth.sum())[None, None]

    def feedback(_k: int, before: Tensor, after: Tensor) -> Tensor:
        around = extend(after, [reach + 2] * 2)
        along_y = F.conv2d(around, kernels[:, None, :, None])
        scattered = F.conv2d(along_y, (kernels * amplitudes[:, None])[None, :, None, :])
        residual = F.conv2d(extend(before, [2] * 2) - scattered, smooth)
        return after + share * residual

    return feedback


def _smooth(x: Tensor, sigma: float) -> Tensor:
    smoothed = gaussian_filter(x[0, 0].double().numpy(), sigma, mode="reflect")
    return torch.from_numpy(smoothed)[None, None].to(x.dtype)


def gated(_k: int, before: Tensor, after: Tensor) -> Tensor:
    """Feed back what one step leaves unexplained, as far as it stands out of the noise."""
    residual = before - scatter(after, 1.0, WIDTHS_PX, WEIGHTS)
    noise = estimate_noise(before[0, 0]).variance(_smooth(before, 2.0))
    snr = (_smooth(residual**2, 2.0) / noise - 1).clamp_min(0)
    return (after + snr / (1 + snr) * _smooth(residual, 0.7)).to(after.dtype)


def with_lucy(raw: Tensor) -> Feedback:
    """Return a Richardson-Lucy step against the raw image, (Y, X), behind every iteration."""
    offset = estimate_camera(raw).offset
    floor = 1e-6 * float((raw - offset).abs().max())
    recorded = (raw[None, None].double() - offset).clamp_min(floor)

    def feedback(k: int, _before: Tensor, after: Tensor) -> Tensor:
        estimate = (after.double() - offset).clamp_min(floor)
        predicted = scatter(estimate, float(k), WIDTHS_PX, WEIGHTS).clamp_min(floor)
        better = estimate * scatter(recorded / predicted, float(k), WIDTHS_PX, WEIGHTS)
        return (better.clamp_min(0) + offset).to(after.dtype)

    return feedback


def iterated(loop: Loop, raw: Tensor, most: int, feedback: Feedback) -> Tensor:
    """Return (most, Y, X): iterations of whole images, each mirrored at its borders anew."""
    x = raw[None, None]
    kept: list[Tensor] = []
    for k in range(1, most + 1):
        x = feedback(k, x, loop.network(extend(x, [loop.radius] * 2)))
        kept.append(x[0, 0])
    return torch.stack(kept)


LOOPS: dict[str, Callable[[Tensor], Feedback]] = {
    "plain loop": lambda _: plain,
    "re-injected, share .5": lambda _: reinjected(),
    "re-injected, gated by the noise": lambda _: gated,
    "Richardson-Lucy step after each": with_lucy,
}
