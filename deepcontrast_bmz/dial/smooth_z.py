"""Numbers of the planes of a stack as a smooth curve along z."""

from __future__ import annotations

__all__ = ["smooth_along_z"]

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

_Z_REACH = 4.0
"""Planes on either side that smoothing along z looks at, at least."""

_Z_ROUNDS = 4

_LEAST_SURE = 0.05
"""Weight of a plane that nothing could be measured on."""


def smooth_along_z(
    dials: Sequence[float], confidences: Sequence[float] | None = None
) -> list[float]:
    """Return the dials of the planes of a stack as a smooth curve along z.

    Optical depth grows smoothly with depth, so single planes that stand out are wrong: a straight
    line is fitted around each plane, neighbours weighing less with distance and low confidence,
    and those far off the line next to nothing (Cleveland's robust local regression).

    Parameters
    ----------
    dials : sequence of float
        One per plane, in order, at even distances.
    confidences : sequence of float, optional
        0 to 1; equal if left out.

    Returns
    -------
    list of float
        Between the smallest and the largest of the dials.

    References
    ----------
    Cleveland, J. Am. Stat. Assoc. 74, 829 (1979), doi 10.1080/01621459.1979.10481038.
    """
    y = torch.as_tensor(list(dials), dtype=torch.float64)
    count = len(y)
    sure = torch.ones(count, dtype=torch.float64)
    if confidences is not None:
        sure = torch.as_tensor(list(confidences), dtype=torch.float64).clamp_min(_LEAST_SURE)
    if count < 3 or float(y.max() - y.min()) == 0:
        return [float(value) for value in y]
    z = torch.arange(count, dtype=torch.float64)
    reach = max(_Z_REACH, 0.3 * count)
    near = (1 - ((z[:, None] - z[None, :]).abs() / reach).clamp_max(1) ** 3) ** 3
    # The first guess is the running median, which a single outlier cannot bend.
    padded = torch.cat((y[:1], y, y[-1:]))
    fitted = padded.unfold(0, 3, 1).median(1).values
    for _ in range(_Z_ROUNDS):
        off = (y - fitted).abs()
        scale = 6 * max(float(off.median()), 1e-3)
        robust = ((1 - (off / scale).clamp_max(1) ** 2) ** 2).clamp_min(1e-3)
        weight = near * (sure * robust)[None, :]
        total = weight.sum(1)
        centre = (weight * z).sum(1) / total
        level = (weight * y).sum(1) / total
        lever = z[None, :] - centre[:, None]
        # A touch of ridge: neighbours that are all on one plane tell no slope.
        slope = (weight * lever * (y - level[:, None])).sum(1) / (
            (weight * lever**2).sum(1) + 1e-6 * total
        )
        fitted = level + slope * (z - centre)
    return [float(value) for value in fitted.clamp(float(y.min()), float(y.max()))]
