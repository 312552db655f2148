"""Sweeps the dial over one plane and scores every setting: gain, price and verdict.

One plane is enhanced three times, whole and as two halves with independent noise
(`split_gaussian`); all scores of all dials come from those. Contrast gain is never
reported alone: beside it stand the recovery (with a reference), the detail that was kept, and the
systematic misfit, which background subtraction, gamma and the like do not pass.
"""

from __future__ import annotations

__all__ = [
    "DIAL_GRID",
    "PRICES",
    "SPLIT_SEED",
    "DialScores",
    "Evaluation",
    "Preview",
    "Price",
    "evaluate",
]

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from deepcontrast_bmz import __version__
from deepcontrast_bmz.dial.look import SPLIT_SEED
from deepcontrast_bmz.dial.per_plane import decide_plane
from deepcontrast_bmz.dial.verdict import LIMITS
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.evaluate import metrics
from deepcontrast_bmz.evaluate.planes import select_judged, select_reference
from deepcontrast_bmz.evaluate.previews import shrink
from deepcontrast_bmz.evaluate.records import PRICES, DialScores, Evaluation, Preview, Price
from deepcontrast_bmz.evaluate.scorer import Candidate, Scorer
from deepcontrast_bmz.image import pixel_size_um
from deepcontrast_bmz.image.blocks import Box, cut
from deepcontrast_bmz.model.loop import blend
from deepcontrast_bmz.model.units import Source
from deepcontrast_bmz.physics.camera import estimate_camera
from deepcontrast_bmz.physics.noise import estimate_noise, split_gaussian
from deepcontrast_bmz.physics.scatter import widths_in_pixels
from deepcontrast_bmz.predict.blocks import block_grids, block_sides, run_box
from deepcontrast_bmz.predict.reliability import compare_detail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from torch import Tensor

    from deepcontrast_bmz.dial.automatic import Decision
    from deepcontrast_bmz.evaluate.planes import Judged
    from deepcontrast_bmz.model.model import Model
    from deepcontrast_bmz.physics.noise import NoiseModel

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

DIAL_GRID = 0.25
"""Optical depth between the dials of a sweep."""
AGREEMENT_SIDE = 512
"""Largest side of the maps of agreement, in pixels: they are smooth."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Subject:
    """What is evaluated: the plane, what is known of its camera, and the reference."""

    image: xr.DataArray
    judged: Judged
    noise: NoiseModel
    offset: float
    offset_estimated: bool
    reference: xr.DataArray | None
    truth: Float32 | None
    truth_offset: float


class _Iterated(NamedTuple):
    """A plane and all iterations of it."""

    raw: Tensor
    """(Y, X)."""
    iterations: Tensor
    """(K, Y, X)."""

    def at(self, dial: float, step: float) -> Float32:
        return blend(self.raw, self.iterations, dial, step).numpy()


class _Sweep(NamedTuple):
    """Scores and pictures of all dials."""

    scores: tuple[DialScores, ...]
    previews: tuple[Preview, ...]
    agreement: tuple[Preview, ...]
    reference_preview: Preview | None
    residual_preview: Preview | None


def evaluate(
    model: Model,
    image: xr.DataArray,
    *,
    reference: xr.DataArray | None = None,
    dials: Sequence[float] | None = None,
    plane: int | None = None,
    offset: float | None = None,
    reference_offset: float | None = None,
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
    plane : int, optional
        Which plane, counted over all axes but y and x; None: the one with the most content.
    offset : float, optional
        Counts the camera records in the dark; None: estimated from the plane.
    reference_offset : float, optional
        The same of the reference; None: the image's, if the reference nowhere falls below it,
        else estimated.
    progress : callable, optional
        Called with the share that is done, 0 .. 1.

    Raises
    ------
    InputError
        If the image has several channels, is too small or constant, if the plane or a dial does
        not exist, or if the reference does not match.
    """
    description = model.description
    step = description.step_optical_depth
    judged = select_judged(image, plane, _planes_seen(model))
    truth = None if reference is None else select_reference(reference, image, judged)
    raw = torch.from_numpy(judged.raw)
    noise = estimate_noise(raw)
    estimated = offset is None
    if offset is None:
        offset = estimate_camera(raw).offset
        _log.info("the camera offset is estimated as %.4g counts", offset)
    truth_offset = _reference_offset(truth, offset, reference_offset)
    subject = _Subject(image, judged, noise, offset, estimated, reference, truth, truth_offset)
    widths = widths_in_pixels(description.scatter, pixel_size_um(image))
    tell = _stay_quiet if progress is None else progress

    parts = _iterate_halves(model, subject, tell)
    decision = _decide(model, subject, widths, None if estimated else offset)
    automatic = round(decision.choice.dial, 9)
    scorer = Scorer(
        raw=judged.raw,
        halves=(parts[1].raw.numpy(), parts[2].raw.numpy()),
        noise=noise,
        offset=offset,
        widths_px=widths,
        weights=description.scatter.weights,
        truth=truth,
        truth_offset=truth_offset,
    )
    swept = _list_dials(dials, step, description.iterations, automatic)
    sweep = _score_dials(scorer, parts, swept, decision, step, tell)
    return _summarise(model, subject, scorer, sweep, decision)


def _decide(
    model: Model, subject: _Subject, widths: tuple[float, ...], offset: float | None
) -> Decision:
    """Decide the dial of the judged plane, as it is decided for `predict`."""
    whole = subject.image.squeeze("c", drop=True) if "c" in subject.image.dims else subject.image
    dims = [str(dim) for dim in whole.dims]
    source = Source(whole.data, dims, model, str(whole.name or "image"))
    plane = tuple(subject.judged.index[dim] for dim in dims[:-2])
    return decide_plane(model, source, plane, widths, offset=offset)


def _stay_quiet(share: float) -> None:
    """Tell nobody."""


def _planes_seen(model: Model) -> int | None:
    """Return how many planes a model of stacks sees on either side; None for one of planes."""
    return None if model.dims == 2 else model.description.iterations * model.radii[0]


def _iterate_halves(
    model: Model, subject: _Subject, tell: Callable[[float], None]
) -> list[_Iterated]:
    """Run the judged plane, and two halves of it with independent noise, through the model."""
    judged = subject.judged
    halves = _split_judged(judged, subject.noise, np.random.default_rng(SPLIT_SEED))
    parts: list[_Iterated] = []
    for number, part in enumerate([judged, *halves]):
        parts.append(_Iterated(torch.from_numpy(part.raw), _all_iterations(model, part)))
        tell(0.8 * (number + 1) / 3)
    return parts


def _score_dials(
    scorer: Scorer,
    parts: Sequence[_Iterated],
    dials: Sequence[float],
    decision: Decision,
    step: float,
    tell: Callable[[float], None],
) -> _Sweep:
    """Score every dial, and keep a picture of each between one black and one white."""
    automatic = round(decision.choice.dial, 9)
    shown = parts[0].at(automatic, step)
    black, white = (float(v) for v in np.quantile(shown, (0.003, 0.998)))
    rows: list[DialScores] = []
    previews: list[Preview] = []
    agreement: list[Preview] = []
    residual: Preview | None = None
    for number, dial in enumerate(dials):
        candidate = Candidate(dial, *(part.at(dial, step) for part in parts))
        row, z = scorer.score(candidate, decision.weigh(dial))
        rows.append(row)
        previews.append(shrink(candidate.whole, black, white))
        agreement.append(_map_agreement(parts, candidate))
        if dial == automatic:
            residual = shrink(z, -6.0, 6.0)
        tell(0.8 + 0.2 * (number + 1) / len(dials))
    reference = None
    if scorer.truth is not None:
        fitted = metrics.best_scale_and_offset(scorer.truth, shown)
        reference = shrink(fitted, black, white)
    return _Sweep(tuple(rows), tuple(previews), tuple(agreement), reference, residual)


def _map_agreement(parts: Sequence[_Iterated], candidate: Candidate) -> Preview:
    """Return how far both halves agree on what a dial added, as `predict --reliability` maps it."""
    halves = (candidate.one, candidate.two)
    added = [half - part.raw.numpy() for half, part in zip(halves, parts[1:], strict=True)]
    return shrink(compare_detail(added[0], added[1]), 0.0, 1.0, AGREEMENT_SIDE)


def _summarise(
    model: Model,
    subject: _Subject,
    scorer: Scorer,
    sweep: _Sweep,
    decision: Decision,
) -> Evaluation:
    """Return all that was found as one record."""
    choice = decision.choice
    evidence = decision.weigh(0.0)
    image, judged, reference = subject.image, subject.judged, subject.reference
    return Evaluation(
        version=__version__,
        image="image" if image.name is None else str(image.name),
        model=model.name,
        weights_format=model.weights_format,
        step_optical_depth=model.description.step_optical_depth,
        iterations=model.description.iterations,
        plane=judged.index,
        plane_reason=judged.reason,
        window=judged.window,
        plane_shape=(image.sizes["y"], image.sizes["x"]),
        pixel_size_um=pixel_size_um(image),
        misfit_limit=None if evidence.misfit is None else LIMITS.misfit + evidence.model_error,
        offset=subject.offset,
        offset_estimated=subject.offset_estimated,
        reference=None if reference is None else str(reference.name or "reference"),
        reference_offset=None if reference is None else subject.truth_offset,
        noise=subject.noise,
        reliability_fine=scorer.reliability(metrics.BANDS["fine"]),
        reliability_coarse=scorer.reliability(metrics.BANDS["coarse"]),
        chosen_dial=round(choice.dial, 9),
        chosen_reason=choice.reason,
        chosen_confidence=choice.confidence,
        ood_score=choice.ood_score,
        warning=choice.warning,
        **sweep._asdict(),
    )


def _split_judged(judged: Judged, noise: NoiseModel, rng: np.random.Generator) -> list[Judged]:
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


def _all_iterations(model: Model, judged: Judged) -> Tensor:
    """Return all iterations of the judged plane, (K, Y, X)."""
    image, z = judged.image, judged.centre
    source = Source(image.data, [str(dim) for dim in image.dims], model, str(image.name or "image"))
    count = model.description.iterations
    largest = count * model.description.step_optical_depth
    result = torch.empty((count, *judged.raw.shape))
    for plane in cut(judged.raw.shape, block_sides(model, None)[-2:], block_grids(model)[-2:]):
        box = plane if z is None else Box((z, *plane.starts), (z + 1, *plane.stops))
        found = run_box(model, source, [()], [largest], box, count)
        result[(slice(None), *plane.slices)] = torch.from_numpy(found).reshape(count, *plane.shape)
    return result


def _reference_offset(truth: Float32 | None, offset: float, given: float | None) -> float:
    """Return the offset of the reference: the image's own camera's, unless that cannot be.

    No camera offset lies below zero counts: what is read off texture as noise would put it there.
    """
    if given is not None or truth is None:
        return 0.0 if given is None else given
    if float(np.quantile(truth, 0.01)) >= offset:
        return offset
    darkest = float(truth.min())
    return max(min(estimate_camera(torch.from_numpy(truth)).offset, darkest), min(darkest, 0.0))


def _list_dials(
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
                    f"dial {dial:g} is outside 0 to {largest:g}, the most that {iterations} "
                    f"iterations of {step:g} remove: choose another"
                )
    # Rounded, so that the same dial computed in two ways is one.
    return sorted({round(dial, 9) for dial in dials | {0.0, automatic}})
