r"""Small-angle multiple scattering as a semigroup.

A photon is scattered n ~ Poisson(tau) times on its way out, each time displaced by a draw from
the kernel s. In the Fourier domain

.. math:: H_\tau(f) = \exp(-\tau (1 - s(f))), \quad s(0) = 1

so that H_0 = 1, H_a H_b = H_{a+b}, the mean is kept, and the ballistic share is exp(-tau). The
border is mirrored: on the mirrored plane all four laws hold exactly. Textbook multiple-scattering
theory (Wells 1969; Arnush 1972) gives the exponential form; the Gaussian mixture is our choice.
"""

from __future__ import annotations

__all__ = ["ballistic_fraction", "scatter", "separable_terms", "widths_in_pixels"]

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.settings import Scatter


def ballistic_fraction(optical_depth: float) -> float:
    """Return the share of the light that was never scattered, exp(-optical_depth)."""
    return math.exp(-optical_depth)


def widths_in_pixels(kernel: Scatter, pixel_size_um: float | None) -> tuple[float, ...]:
    """Return the widths of a scattering kernel in pixels.

    Parameters
    ----------
    kernel : Scatter
        Kernel with widths in pixels or micrometres.
    pixel_size_um : float or None
        Size of a pixel in micrometres, if known.

    Raises
    ------
    InputError
        If the widths are in micrometres and the pixel size is not known.
    """
    if kernel.unit == "px":
        return kernel.widths
    if pixel_size_um is None:
        raise InputError(
            "a scattering kernel in micrometres needs a pixel size, and the image has none: "
            "give the widths in pixels (unit = 'px') or write the pixel size into the image"
        )
    return tuple(width / pixel_size_um for width in kernel.widths)


def _mirrored_frequencies(length: int, device: torch.device) -> Tensor:
    """Frequencies, in cycles per pixel, of a line of `length` pixels and its mirror image."""
    return torch.fft.fftfreq(2 * length, device=device)


def _mirror(image: Tensor, dim: int) -> Tensor:
    return torch.cat((image, image.flip(dim)), dim=dim)


def scatter(
    image: Tensor,
    optical_depth: float | Tensor,
    widths_px: Sequence[float],
    weights: Sequence[float],
) -> Tensor:
    r"""Return the image as seen through tissue: :math:`H_\tau` applied to every plane.

    Parameters
    ----------
    image : Tensor, (..., Y, X)
        Light per pixel, any unit.
    optical_depth : float or Tensor, shape of the leading dims
        Optical depth of the tissue above each plane, not below 0.
    widths_px : sequence of float
        Standard deviation of each Gaussian of the kernel, in pixels.
    weights : sequence of float
        Share of each Gaussian; they sum to one.

    Returns
    -------
    Tensor, same shape and dtype as image
        Same unit; the mean of every plane is kept.

    Raises
    ------
    ValueError
        If an optical depth is negative.
    """
    depth = torch.as_tensor(optical_depth, dtype=image.dtype, device=image.device)
    if bool((depth < 0).any()):
        raise ValueError(f"optical depth is not negative, but the smallest is {depth.min():g}")
    height, width = image.shape[-2:]
    fy = _mirrored_frequencies(height, image.device).to(image.dtype)[:, None]
    fx = _mirrored_frequencies(width, image.device).to(image.dtype)[None, : width + 1]
    squared = fy**2 + fx**2
    kernel = torch.zeros_like(squared)
    for width_px, weight in zip(widths_px, weights, strict=True):
        kernel += weight * torch.exp(-2 * math.pi**2 * width_px**2 * squared)
    transfer = torch.exp(-depth[..., None, None] * (1 - kernel))
    mirrored = _mirror(_mirror(image, -2), -1)
    spectrum = torch.fft.rfft2(mirrored) * transfer
    return torch.fft.irfft2(spectrum, s=mirrored.shape[-2:])[..., :height, :width]


def separable_terms(
    optical_depth: float,
    widths_px: Sequence[float],
    weights: Sequence[float],
    *,
    neglected: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    r"""Write :math:`H_\tau` as a sum of separable convolutions, for graphs that know no FFT.

    The exponential is expanded in scattering orders; each order is a Gaussian, and Gaussians
    whose amplitude falls below `neglected` are left out, the rest rescaled to keep the mean.

    Parameters
    ----------
    optical_depth : float
    widths_px, weights : sequence of float
        The kernel, in pixels.
    neglected : float
        Smallest amplitude kept.

    Returns
    -------
    amplitudes : Tensor, (T,)
        Share of each term; they sum to one. The first is the ballistic one.
    kernels : Tensor, (T, 2 R + 1)
        One-dimensional kernels, each summing to one, to be applied along y and along x.
    """
    found: dict[float, float] = {}
    largest_order = 1
    while optical_depth**largest_order / math.factorial(largest_order) > neglected:
        largest_order += 1
    for orders in itertools.product(range(largest_order + 1), repeat=len(widths_px)):
        amplitude = math.exp(-optical_depth)
        for order, weight in zip(orders, weights, strict=True):
            amplitude *= (optical_depth * weight) ** order / math.factorial(order)
        variance = sum(n * w**2 for n, w in zip(orders, widths_px, strict=True))
        if amplitude > neglected:
            found[variance] = found.get(variance, 0.0) + amplitude
    variances = sorted(found)
    amplitudes = torch.tensor([found[v] for v in variances], dtype=torch.float64)
    reach = math.ceil(3 * math.sqrt(variances[-1]))
    position = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernels = torch.stack(
        [
            torch.exp(-0.5 * position**2 / v) if v > 0 else (position == 0).double()
            for v in variances
        ]
    )
    kernels /= kernels.sum(dim=1, keepdim=True)
    return (amplitudes / amplitudes.sum()).float(), kernels.float()
