"""What a MODEL is: a loop built from settings, opened from a run, a package or by name."""

from __future__ import annotations

__all__ = ["build_loop"]

from typing import TYPE_CHECKING

from deepcontrast_bmz.loop import Loop, Reinjection
from deepcontrast_bmz.network import build_network
from deepcontrast_bmz.physics.scatter import separable_terms

if TYPE_CHECKING:
    from deepcontrast_bmz.settings import NetworkSettings


def build_loop(
    network: NetworkSettings,
    *,
    iterations: int,
    reinjection: float,
    step_optical_depth: float,
    widths_px: tuple[float, ...],
    weights: tuple[float, ...],
) -> Loop:
    """Return a loop with a freshly initialised network.

    Parameters
    ----------
    network : NetworkSettings
    iterations : int
        How many iterations the loop returns.
    reinjection : float
        Share of the one-step residual fed back; 0 leaves that part out.
    step_optical_depth : float
        Optical depth of one iteration, for the residual.
    widths_px, weights : tuple of float
        Scattering kernel in pixels, for the residual.
    """
    feedback = None
    if reinjection > 0:
        amplitudes, kernels = separable_terms(step_optical_depth, widths_px, weights)
        feedback = Reinjection(reinjection, kernels.shape[0], kernels.shape[1] // 2)
        feedback.set_kernels(amplitudes, kernels)
    return Loop(build_network(network), iterations, feedback)
