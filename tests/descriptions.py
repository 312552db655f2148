"""What a model says of its loop, for stand-ins in tests."""

from __future__ import annotations

from typing import Any

from deepcontrast_bmz.records import LoopDescription
from deepcontrast_bmz.settings import NetworkSettings, PhysicsSettings, Scatter


def described(iterations: int = 2, **changes: Any) -> LoopDescription:
    """Return the description of a loop with steps of optical depth 1 and a radius of 2 pixels."""
    settings: dict[str, Any] = {
        "step_optical_depth": 1.0,
        "iterations": iterations,
        "channels": tuple(f"iteration_{k}" for k in range(1, iterations + 1)),
        "network": NetworkSettings(),
        "radius_px": 2,
        "halo_px": 2,
        "halo_tolerance": 1e-3,
        "scatter": Scatter(),
        "training_ranges": PhysicsSettings(),
        "seed": 0,
        "torch_version": "2",
    }
    return LoopDescription(**settings | changes)
