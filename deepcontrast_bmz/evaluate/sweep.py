"""The sweep over the dial: what every setting gains, what it costs, and a verdict.

One plane is enhanced three times, whole and as two halves with independent noise
(`split_gaussian`); all scores of all dials come from those. Contrast gain is never
reported alone: beside it stand the recovery (with a reference), the detail that was kept, and the
systematic misfit, which background subtraction, gamma and the like do not pass.
"""

from __future__ import annotations

__all__ = [
    "DIAL_GRID",
    "PRICES",
    "DialScores",
    "Evaluation",
    "Preview",
    "Price",
    "evaluate",
]

import dataclasses
import logging
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from deepcontrast_bmz import __version__
from deepcontrast_bmz.dial.automatic import choose_dial, look_at
from deepcontrast_bmz.dial.consistency import tissue_kernels
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.evaluate import metrics
from deepcontrast_bmz.evaluate.planes import judged_part, reference_part
from deepcontrast_bmz.evaluate.previews import shrunk
from deepcontrast_bmz.evaluate.records import PRICES, DialScores, Evaluation, Preview, Price
from deepcontrast_bmz.evaluate.scorer import Scorer
from deepcontrast_bmz.image import pixel_size_um
from deepcontrast_bmz.image.blocks import Box, cut
from deepcontrast_bmz.model.loop import blend
from deepcontrast_bmz.model.units import Source
from deepcontrast_bmz.physics.camera import estimate_camera
from deepcontrast_bmz.physics.noise import estimate_noise, split_gaussian
from deepcontrast_bmz.physics.scatter import widths_in_pixels
from deepcontrast_bmz.predict.enhance import block_grids, block_sides, run_box

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from torch import Tensor

    from deepcontrast_bmz.evaluate.planes import Judged
    from deepcontrast_bmz.model.open import Model
    from deepcontrast_bmz.physics.noise import NoiseModel

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

DIAL_GRID = 0.25
"""Optical depth between the dials of a sweep."""

_log = logging.getLogger(__name__)


def evaluate(
    model: Model,
    image: xr.DataArray,
    *,
    reference: xr.DataArray | None = None,
    dials: Sequence[float] | None = None,
    block: int | None = None,
    plane: int | None = None,
    offset: float | None = None,
    reference_offset: float | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Sweep the dial over one plane of an image and score every setting.

    Parameters
    ----------
    model : Model
    image : xarray.DataArray
        One channel; dims of "tzyx", y and x among them.
    reference : xarray.DataArray, optional
        The same specimen without haze: ground truth, or a shallow plane; one plane, or as many
        as the image. Its unit may differ.
    dials : sequence of float, optional
        Optical depths; None: every 0.25 up to all iterations. 0 and the automatic dial are always
        among them.
    block : int, optional
        Largest side of the blocks the model runs on, in pixels; None: what suits its weights.
    plane : int, optional
        Which plane, counted over all axes but y and x; None: the one with the most content.
    offset : float, optional
        Counts the camera records in the dark; None: estimated from the plane.
    reference_offset : float, optional
        The same of the reference; None: the image's, if the reference nowhere falls below it,
        else estimated.
    seed : int
        Of the noise that splits the image into halves.
    progress : callable, optional
        Called with the share that is done, 0 .. 1.

    Raises
    ------
    InputError
        If the image has several channels, is too small or constant, if the plane or a dial does
        not exist, or if the reference does not match.
    """
    description = model.description
    step, iterations = description.step_optical_depth, description.iterations
    reach = None if model.dims == 2 else iterations * model.radii[0]
    judged = judged_part(image, plane, reach)
    truth = None if reference is None else reference_part(reference, image, judged)
    pixel_size = pixel_size_um(image)
    widths = widths_in_pixels(description.scatter, pixel_size)
    weights = description.scatter.weights

    raw = judged.raw
    raw_tensor = torch.from_numpy(raw)
    noise = estimate_noise(raw_tensor)
    estimated = offset is None
    if offset is None:
        offset = estimate_camera(raw_tensor).offset
        _log.info("the camera offset is estimated as %.4g counts", offset)

    def tell(share: float) -> None:
        if progress is not None:
            progress(share)

    halves = _halves(judged, noise, np.random.default_rng(seed))
    stacks: list[tuple[Tensor, Tensor]] = []
    for number, part in enumerate([judged, *halves]):
        stacks.append((torch.from_numpy(part.raw), _all_iterations(model, part, block)))
        tell(0.8 * (number + 1) / 3)
    choice = choose_dial(*stacks[0], description, widths_px=widths, noise=noise, offset=offset)
    automatic = round(choice.dial, 9)
    sweep = _dials(dials, step, iterations, automatic)

    scorer = Scorer(
        raw=raw,
        halves=(stacks[1][0].numpy(), stacks[2][0].numpy()),
        noise=noise,
        offset=offset,
        kernels=tissue_kernels(widths, description.training_ranges.width_factor),
        weights=weights,
        truth=truth,
        truth_offset=_truth_offset(truth, offset, reference_offset),
    )
    shown = blend(*stacks[0], automatic, step).numpy()
    black, white = (float(v) for v in np.quantile(shown, (0.003, 0.998)))
    rows: list[DialScores] = []
    previews: list[Preview] = []
    residual: Preview | None = None
    for number, dial in enumerate(sweep):
        whole, one, two = (blend(part, stack, dial, step).numpy() for part, stack in stacks)
        row, z = scorer.score(dial, whole, one, two)
        rows.append(row)
        previews.append(shrunk(whole, black, white))
        if dial == automatic:
            residual = shrunk(z, -6.0, 6.0)
        tell(0.8 + 0.2 * (number + 1) / len(sweep))
    found = look_at(model, stacks[0][0], stacks[0][1])
    reliability = {name: scorer.reliability(band) for name, band in metrics.BANDS.items()}
    return Evaluation(
        version=__version__,
        image="image" if image.name is None else str(image.name),
        model=model.name,
        weights_format=model.weights_format,
        step_optical_depth=step,
        iterations=iterations,
        plane=judged.index,
        plane_reason=judged.reason,
        window=judged.window,
        plane_shape=(image.sizes["y"], image.sizes["x"]),
        pixel_size_um=pixel_size,
        misfit_limit=scorer.misfit_limit,
        offset=offset,
        offset_estimated=estimated,
        reference=None if reference is None else str(reference.name or "reference"),
        reference_offset=None if truth is None else scorer.truth_offset,
        noise=noise,
        reliability_fine=reliability["fine"],
        reliability_coarse=reliability["coarse"],
        chosen_dial=automatic,
        chosen_reason=choice.reason,
        chosen_confidence=choice.confidence,
        ood_score=None if found is None else found.score,
        warning=None if found is None else found.warning,
        scores=tuple(rows),
        previews=tuple(previews),
        reference_preview=None
        if truth is None
        else shrunk(metrics.best_scale_and_offset(truth, shown), black, white),
        residual_preview=residual,
    )


def _halves(judged: Judged, noise: NoiseModel, rng: np.random.Generator) -> list[Judged]:
    """Split what the model sees into two halves with independent noise."""
    planes = judged.image.values.reshape(-1, *judged.raw.shape)
    variances: list[Float64] = []
    for z, plane in enumerate(planes):
        own = noise if judged.centre in (None, z) else estimate_noise(torch.from_numpy(plane))
        level = torch.from_numpy(np.asarray(ndimage.gaussian_filter(plane, 1.0)))
        variances.append(own.variance(level).double().numpy())
    variance = np.stack(variances).reshape(judged.image.shape)
    split = split_gaussian(judged.image.values, variance, rng)
    halves = (judged.image.copy(data=half.astype(np.float32)) for half in split)
    return [dataclasses.replace(judged, image=half) for half in halves]


def _all_iterations(model: Model, judged: Judged, block: int | None) -> Tensor:
    """Return all iterations of the judged plane, (K, Y, X)."""
    image, z = judged.image, judged.centre
    source = Source(image.data, [str(dim) for dim in image.dims], model, str(image.name or "image"))
    count = model.description.iterations
    largest = count * model.description.step_optical_depth
    result = torch.empty((count, *judged.raw.shape))
    for plane in cut(judged.raw.shape, block_sides(model, block)[-2:], block_grids(model)[-2:]):
        box = plane if z is None else Box((z, *plane.starts), (z + 1, *plane.stops))
        found = run_box(model, source, [()], [largest], box, count)
        result[(slice(None), *plane.slices)] = torch.from_numpy(found).reshape(count, *plane.shape)
    return result


def _truth_offset(truth: Float32 | None, offset: float, given: float | None) -> float:
    """Return the offset of the reference: the image's own camera's, unless that cannot be."""
    if given is not None or truth is None:
        return 0.0 if given is None else given
    if float(np.quantile(truth, 0.01)) >= offset:
        return offset
    return min(estimate_camera(torch.from_numpy(truth)).offset, float(truth.min()))


def _dials(
    given: Sequence[float] | None, step: float, iterations: int, automatic: float
) -> list[float]:
    """Return the dials of the sweep, rising, the automatic one among them."""
    largest = step * iterations
    if given is None:
        count = math.floor(largest / DIAL_GRID + 1e-9)
        dials = {DIAL_GRID * k for k in range(count + 1)} | {largest}
    else:
        dials = {float(dial) for dial in given}
        for dial in dials:
            if not 0 <= dial <= largest * (1 + 1e-9):
                raise InputError(
                    f"a dial lies between 0 and {largest:g}, all that {iterations} iterations of "
                    f"{step:g} remove, not at {dial:g}: choose another"
                )
    # Rounded, so that the same dial computed in two ways is one.
    return sorted({round(dial, 9) for dial in dials | {0.0, automatic}})
