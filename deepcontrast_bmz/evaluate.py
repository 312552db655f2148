"""The sweep over the dial: what every setting gains, what it costs, and a verdict.

One plane is enhanced three times, whole and as two halves with independent noise
(`metrics.split_gaussian`); all scores of all dials come from those. Contrast gain is never
reported alone: beside it stand the recovery (with a reference), the detail that was kept, and the
forward consistency, which background subtraction, gamma and the like do not pass.
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

import logging
import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from skimage.filters import threshold_otsu

from deepcontrast_bmz import __version__, metrics
from deepcontrast_bmz.data import as_float32
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import check_pixels, pixel_size_um
from deepcontrast_bmz.loop import blend
from deepcontrast_bmz.physics.camera import NoiseModel, estimate_camera, estimate_noise
from deepcontrast_bmz.physics.scatter import scatter, widths_in_pixels
from deepcontrast_bmz.predict import enhance
from deepcontrast_bmz.settings import Record
from deepcontrast_bmz.stop import choose_dial, content_window, forward_residual, look_at, measurable
from deepcontrast_bmz.verdict import Verdict, darkness, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from deepcontrast_bmz.model import Model

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Price = Literal["reference_middle", "detail_fine", "detail_coarse", "forward_consistency"]

PRICES: Mapping[Price, str] = {
    "reference_middle": "detail retention (correlation with the reference, 1-4 px)",
    "detail_fine": "detail retention (split halves, 0.7-1.6 px)",
    "detail_coarse": "detail retention (split halves, 1.6-5 px)",
    "forward_consistency": "forward consistency (1 is perfect)",
}
"""What a contrast gain can be weighed against, in plain words."""

DIAL_GRID = 0.25
"""Optical depth between the dials of a sweep."""
LARGEST_SIDE = 2048
"""Larger planes are evaluated on the window of this side with the most content, in pixels."""
SMALLEST_SIDE = 16
"""Smaller images have no statistics to speak of."""
PREVIEW_SIDE = 1024
"""Largest side of a preview, in pixels."""
CUT_OFF = 0.01
"""Share of pixels at the smallest value from which black counts as cut off."""
OUTLIERS = 0.001
"""Share of the pixels left out of a misfit: hot pixels are not structure."""

_log = logging.getLogger(__name__)


class Preview(Record):
    """A small picture of a plane, 8 bits a pixel."""

    height: int
    width: int
    pixels: bytes
    """Row by row, `height` * `width` bytes, 0 is black."""


class DialScores(Record):
    """The scores at one dial; None where something cannot be measured."""

    dial: float
    """Optical depth removed."""
    contrast_gain: float | None
    """RMS contrast over that of the raw image, both from split halves: noise does not count."""
    contrast_gain_with_noise: float | None
    """The same from the whole images, amplified noise included."""
    michelson_gain: float | None
    """Michelson contrast over that of the raw image, masks from the raw image."""
    contrast_recovery: float | None
    """RMS contrast over that of the reference: 1 is the aim."""
    detail_fine: float | None
    """Detail retention 0.7-1.6 px without a reference; None is unmeasurable."""
    detail_coarse: float | None
    """Detail retention 1.6-5 px without a reference; None is unmeasurable."""
    transfer_fine: float | None
    """Amplitude of the detail 0.7-1.6 px against the raw image's."""
    transfer_coarse: float | None
    """Amplitude of the detail 1.6-5 px against the raw image's."""
    forward_consistency: float | None
    """Mean of (raw - H_D x_D)^2 over the noise variance: 1 for the truth, 0 for the raw image
    itself; None without measurable noise."""
    systematic_misfit: float | None
    """Its part that is no noise, from split halves: 0 for the truth and for the raw image."""
    flagged_share: float | None
    """Share of the pixels whose smoothed residual exceeds 4 standard deviations."""
    reference_fine: float | None
    """Correlation with the reference, 0.7-1.6 px."""
    reference_coarse: float | None
    """Correlation with the reference, 1.6-5 px."""
    reference_middle: float | None
    """Correlation with the reference, 1-4 px."""
    psnr: float | None
    """PSNR against the reference in dB, nothing fitted: only for one unit."""
    psnr_after_fit: float | None
    """PSNR against the reference in dB, after the best scale and offset."""
    ssim: float | None
    """Structural similarity to the reference, after the best scale and offset."""
    average_precision: float | None
    """Of brightness for the reference's foreground (Otsu), at no threshold."""
    noise_gain: float | None = None
    """Deviation of the noise over the raw image's, from split halves."""
    below_offset: float | None = None
    """How far the dark parts lie below the camera offset, in shares of the brightness; None where
    black was cut off, so that the offset cannot be known."""
    verdict: Verdict
    """See `verdict.judge`."""
    why: str = ""
    """Why that verdict, in plain words."""


class Evaluation(Record):
    """A sweep over the dial on one plane of one image."""

    schema_version: Literal[1] = 1
    version: str
    """Version of this project."""
    image: str
    """What the image is called."""
    model: str
    """What the model is called."""
    weights_format: str
    """Which weights were run."""
    step_optical_depth: float
    """Optical depth of one iteration."""
    iterations: int
    """Iterations at hand; the largest dial is their number times the step."""
    plane: dict[str, int]
    """Index of the evaluated plane along every other axis; empty for a single plane."""
    plane_reason: str
    """Why this plane."""
    window: tuple[int, int, int, int]
    """Evaluated window of the plane: first row, first column, rows, columns, in pixels."""
    pixel_size_um: float | None
    """Pixel size along x, where known."""
    offset: float
    """Counts in the dark that contrasts are taken above."""
    reference: str | None = None
    """What the reference is called."""
    reference_offset: float | None = None
    """The same of the reference."""
    noise: NoiseModel
    """Noise read off the plane."""
    reliability_fine: float
    """Correlation of the raw halves 0.7-1.6 px; below 0.1 detail is unmeasurable."""
    reliability_coarse: float
    """Correlation of the raw halves 1.6-5 px."""
    chosen_dial: float
    """The automatic dial."""
    chosen_reason: str
    """Why that one."""
    chosen_confidence: float
    """How sure it is, 0 to 1, see `DialChoice`."""
    ood_score: float | None = None
    """Out-of-distribution score: above 1 the image is unlike those the model was trained for; None
    where the model has no statistics, or the plane is too small."""
    warning: str | None = None
    """What to say of that, in one sentence."""
    scores: tuple[DialScores, ...]
    """One per dial, rising from 0, the raw image."""
    previews: tuple[Preview, ...] = Field(default=(), exclude=True, repr=False)
    """One per dial, all between the same black and white; not part of the JSON."""
    reference_preview: Preview | None = Field(default=None, exclude=True, repr=False)
    """The reference, fitted to the chosen dial's grey values."""
    residual_preview: Preview | None = Field(default=None, exclude=True, repr=False)
    """Residual at the chosen dial, -6 (black) to 6 (white) standard deviations."""

    @property
    def chosen(self) -> DialScores:
        """The scores at the automatic dial."""
        return min(self.scores, key=lambda row: abs(row.dial - self.chosen_dial))

    @property
    def price(self) -> Price:
        """What the gain is best weighed against on this image: the strictest that is measurable."""
        candidates: tuple[Price, ...] = ("reference_middle", "detail_fine", "detail_coarse")
        for name in candidates:
            if all(getattr(row, name) is not None for row in self.scores):
                return name
        return "forward_consistency"


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
    name = "image" if image.name is None else str(image.name)
    raw_plane, index, reason = _one_plane(image, plane)
    check_pixels(_labelled(raw_plane, image), name)
    window = _window(raw_plane)
    raw = _cut(raw_plane, window)
    spread = float(np.ptp(raw))
    if spread == 0:
        raise InputError(
            f"a contrast needs an image that is not constant, but plane {index or 0} is "
            f"{float(raw[0, 0]):g} everywhere: choose another plane"
        )
    truth = None
    if reference is not None:
        truth_plane = _reference_plane(reference, image, index)
        check_pixels(_labelled(truth_plane, reference), str(reference.name or "reference"))
        truth = _cut(truth_plane, window)
    pixel_size = pixel_size_um(image)
    widths = widths_in_pixels(description.scatter, pixel_size)
    weights = description.scatter.weights

    raw_tensor = torch.from_numpy(raw)
    noise = estimate_noise(raw_tensor)
    if offset is None:
        offset = estimate_camera(raw_tensor).offset
        _log.info("the camera offset is estimated as %.4g counts", offset)
    level = torch.from_numpy(np.asarray(ndimage.gaussian_filter(raw, 1.0)))
    variance = noise.variance(level).double().numpy()
    rng = np.random.default_rng(seed)
    halves = [half.astype(np.float32) for half in metrics.split_gaussian(raw, variance, rng)]

    def tell(share: float) -> None:
        if progress is not None:
            progress(share)

    stacks: list[tuple[Tensor, Tensor]] = []
    for number, part in enumerate([raw, *halves]):
        enhanced = enhance(model, _labelled(part, image), all_iterations=True, block=block)
        values = np.asarray(enhanced.image, dtype=np.float32).reshape(-1, *part.shape)
        stacks.append((torch.from_numpy(part), torch.from_numpy(values)))
        tell(0.8 * (number + 1) / 3)
    choice = choose_dial(*stacks[0], description, widths_px=widths, noise=noise)
    automatic = round(choice.dial, 9)
    sweep = _dials(dials, step, iterations, automatic)

    scorer = _Scorer(
        raw=raw,
        halves=(halves[0], halves[1]),
        noise=noise,
        offset=offset,
        widths=widths,
        weights=weights,
        truth=truth,
        truth_offset=_truth_offset(truth, offset, reference_offset),
    )
    rows: list[DialScores] = []
    images: list[Float32] = []
    residual: Float64 | None = None
    for number, dial in enumerate(sweep):
        whole, one, two = (blend(part, stack, dial, step).numpy() for part, stack in stacks)
        row, z = scorer.score(dial, whole, one, two)
        rows.append(row)
        images.append(whole)
        if dial == automatic:
            residual = z
        tell(0.8 + 0.2 * (number + 1) / len(sweep))
    shown = images[sweep.index(automatic)]
    black, white = (float(v) for v in np.quantile(shown, (0.003, 0.998)))
    found = look_at(model, stacks[0][0], stacks[0][1])
    reliability = {name: scorer.reliability(band) for name, band in metrics.BANDS.items()}
    return Evaluation(
        version=__version__,
        image=name,
        model=model.name,
        weights_format=model.weights_format,
        step_optical_depth=step,
        iterations=iterations,
        plane=index,
        plane_reason=reason,
        window=window,
        pixel_size_um=pixel_size,
        offset=offset,
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
        previews=tuple(_preview(picture, black, white) for picture in images),
        reference_preview=None
        if truth is None
        else _preview(metrics.best_scale_and_offset(truth, shown), black, white),
        residual_preview=None if residual is None else _preview(residual, -6.0, 6.0),
    )


def _one_plane(image: xr.DataArray, plane: int | None) -> tuple[Float32, dict[str, int], str]:
    """Return the plane to evaluate, its index along the other axes, and why it."""
    if image.sizes.get("c", 1) > 1:
        raise InputError(
            f"an evaluation needs one channel, but the image has {image.sizes['c']}: "
            "choose one with --channel"
        )
    if min(image.sizes["y"], image.sizes["x"]) < SMALLEST_SIDE:
        raise InputError(
            f"an evaluation needs at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, but the image "
            f"has {image.sizes['y']} x {image.sizes['x']}: give a larger image"
        )
    others = [str(dim) for dim in image.dims if dim not in ("y", "x")]
    ordered = image.transpose(*others, "y", "x")
    lengths = [image.sizes[dim] for dim in others]
    count = math.prod(lengths)
    if plane is not None:
        if not 0 <= plane < count:
            raise InputError(
                f"the image has planes 0 to {count - 1}, not {plane}: choose one of them"
            )
        chosen, reason = plane, "chosen by the user"
    elif count == 1:
        chosen, reason = 0, "the only plane"
    else:
        content = [_content(_pixels(ordered, k, lengths)) for k in range(count)]
        chosen = int(np.argmax(content))
        reason = f"the plane with the most content of {count}"
    position = np.unravel_index(chosen, lengths) if lengths else ()
    index = {dim: int(i) for dim, i in zip(others, position, strict=True) if dim != "c"}
    return _pixels(ordered, chosen, lengths), index, reason


def _pixels(ordered: xr.DataArray, number: int, lengths: Sequence[int]) -> Float32:
    """Return plane `number` of an image whose last two axes are y and x."""
    position = tuple(int(i) for i in np.unravel_index(number, lengths)) if lengths else ()
    return as_float32(np.asarray(ordered[position]), str(ordered.name or "the image"))


def _content(plane: Float32) -> float:
    """Spread of what is left when single-pixel noise is smoothed away."""
    return float(ndimage.gaussian_filter(plane, 2.0).std())


def _window(plane: Float32) -> tuple[int, int, int, int]:
    rows, columns = content_window(torch.from_numpy(plane), LARGEST_SIDE)
    return rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start


def _labelled(plane: Float32, image: xr.DataArray) -> xr.DataArray:
    """Return a plane as an image of its own, with the pixel size of the one it is from."""
    return xr.DataArray(plane, dims=("y", "x"), attrs=dict(image.attrs), name=image.name)


def _cut(plane: Float32, window: tuple[int, int, int, int]) -> Float32:
    top, left, height, width = window
    return np.ascontiguousarray(plane[top : top + height, left : left + width])


def _reference_plane(
    reference: xr.DataArray, image: xr.DataArray, index: Mapping[str, int]
) -> Float32:
    """Return the plane of the reference that belongs to the evaluated one."""
    single = reference.squeeze([d for d in reference.dims if reference.sizes[d] == 1])
    if set(single.dims) != {"y", "x"}:
        single = reference.isel({d: i for d, i in index.items() if d in reference.dims})
        single = single.squeeze([d for d in single.dims if single.sizes[d] == 1])
    sizes = (image.sizes["y"], image.sizes["x"])
    matches = set(single.dims) == {"y", "x"} and (single.sizes["y"], single.sizes["x"]) == sizes
    planes_match = all(
        reference.sizes[d] in (1, image.sizes[d]) for d in index if d in reference.dims
    )
    if not matches or not planes_match:
        shape = " x ".join(f"{d} {n}" for d, n in reference.sizes.items())
        raise InputError(
            f"a reference is one plane of {sizes[0]} x {sizes[1]} pixels or as many planes as the "
            f"image, not {shape}: cut it to the image"
        )
    pixels = np.asarray(single.transpose("y", "x"))
    return as_float32(pixels, str(reference.name or "the reference"))


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


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _quotient(value: float, unit: float) -> float | None:
    return _finite(value / unit) if unit else None


class _Scorer:
    """Everything about the plane that does not depend on the dial."""

    def __init__(
        self,
        *,
        raw: Float32,
        halves: tuple[Float32, Float32],
        noise: NoiseModel,
        offset: float,
        widths: Sequence[float],
        weights: Sequence[float],
        truth: Float32 | None,
        truth_offset: float,
    ) -> None:
        self.raw, self.halves, self.noise, self.offset = raw, halves, noise, offset
        self.widths, self.weights = widths, weights
        self.truth, self.truth_offset = truth, truth_offset
        self.signal, self.background = metrics.michelson_masks(raw)
        self.raw_contrast = metrics.split_half_contrast(*halves, offset)
        self.raw_michelson = metrics.michelson_contrast(raw, self.signal, self.background, offset)
        self.noisy, black = measurable(torch.from_numpy(raw), noise)
        # Without noise, or with black cut off, the offset is a guess that nothing may rest on.
        self.cut_off = black > CUT_OFF or not self.noisy
        # Nearer to the border than the kernel is wide, unknown surroundings shine in.
        border = min(math.ceil(2 * max(widths)), min(raw.shape) // 4)
        self.inner = (slice(border, -border or None),) * 2
        self.foreground: NDArray[np.bool_] | None = None
        if truth is not None and float(np.ptp(truth)) > 0:
            self.foreground = truth > threshold_otsu(truth)

    def reliability(self, band: metrics.Band) -> float:
        return metrics.split_half_detail(self.raw, *self.halves, band).reliability

    def through_tissue(self, image: Float32, dial: float) -> Float32:
        seen = scatter(torch.from_numpy(image), dial, self.widths, self.weights)
        return seen.numpy()

    def score(
        self, dial: float, whole: Float32, one: Float32, two: Float32
    ) -> tuple[DialScores, Float64]:
        """Return the scores of one dial and the map of its residual."""
        contrast = metrics.split_half_contrast(one, two, self.offset)
        michelson = metrics.michelson_contrast(whole, self.signal, self.background, self.offset)
        fine, coarse = (
            metrics.split_half_detail(one, *self.halves, band) for band in metrics.BANDS.values()
        )
        predicted = self.through_tissue(whole, dial)
        variance = self.noise.variance(torch.from_numpy(predicted)).double().numpy()
        z = metrics.residual_z(self.raw, predicted, variance)
        consistency = misfit = flagged = None
        if self.noisy:
            seen = [self.through_tissue(half, dial) for half in (one, two)]
            first, second, seen_first, seen_second, spread = (
                part[self.inner] for part in (*self.halves, *seen, variance)
            )
            misfit = (
                metrics.split_half_consistency(
                    first, second, seen_first, seen_second, spread, OUTLIERS
                )
                - 1
            )
            consistency = forward_residual(
                torch.from_numpy(self.raw),
                torch.from_numpy(whole),
                dial,
                widths_px=self.widths,
                weights=self.weights,
                noise=self.noise,
            )
            flagged = metrics.flagged_share(z[self.inner])
        against = self._against_truth(whole, contrast)
        gain = _quotient(contrast, self.raw_contrast)
        noise_gain = self._noise_gain(one, two) if self.noisy else None
        below = None if self.cut_off else darkness(whole, self.offset, self.noise)
        finding = judge(
            against["contrast_recovery"],
            consistency,
            misfit=misfit,
            below_offset=below,
            noise_gain=noise_gain,
            contrast_gain=gain,
        )
        row = DialScores(
            dial=dial,
            contrast_gain=gain,
            contrast_gain_with_noise=_finite(metrics.contrast_gain(whole, self.raw, self.offset)),
            michelson_gain=_quotient(michelson, self.raw_michelson),
            detail_fine=fine.retention,
            detail_coarse=coarse.retention,
            transfer_fine=fine.transfer,
            transfer_coarse=coarse.transfer,
            forward_consistency=consistency,
            systematic_misfit=misfit,
            flagged_share=flagged,
            noise_gain=noise_gain,
            below_offset=None if below is None else below[1],
            verdict=finding.verdict,
            why=finding.why,
            **against,
        )
        return row, z

    def _noise_gain(self, one: Float32, two: Float32) -> float | None:
        """Return how much the noise grew: what the halves do not share, over the raw halves'."""
        before = float((self.halves[0] - self.halves[1]).std())
        return _quotient(float((one - two).std()), before)

    def _against_truth(self, whole: Float32, contrast: float) -> dict[str, float | None]:
        """Return all scores that need the reference, None without one."""
        names = [
            "contrast_recovery",
            "reference_fine",
            "reference_coarse",
            "reference_middle",
            "psnr",
            "psnr_after_fit",
            "ssim",
            "average_precision",
        ]
        truth = self.truth
        if truth is None or self.foreground is None:
            return dict.fromkeys(names)
        fitted = metrics.best_scale_and_offset(whole, truth)
        values = (
            contrast / metrics.rms_contrast(truth, self.truth_offset),
            metrics.band_correlation(whole, truth, metrics.BANDS["fine"]),
            metrics.band_correlation(whole, truth, metrics.BANDS["coarse"]),
            metrics.band_correlation(whole, truth, metrics.MIDDLE_BAND),
            metrics.psnr(whole, truth),
            metrics.psnr(fitted, truth),
            metrics.ssim(fitted, truth),
            metrics.average_precision(whole, self.foreground),
        )
        return {name: _finite(value) for name, value in zip(names, values, strict=True)}


def _preview(plane: metrics.Array, black: float, white: float) -> Preview:
    """Return the plane, averaged down to a small size, between two grey values."""
    shrink = math.ceil(max(plane.shape) / PREVIEW_SIDE)
    if shrink > 1:
        height, width = (side // shrink * shrink for side in plane.shape)
        small = plane[:height, :width].reshape(height // shrink, shrink, width // shrink, shrink)
        plane = small.mean(axis=(1, 3))
    scaled = (np.asarray(plane, dtype=np.float64) - black) / max(white - black, 1e-30)
    pixels = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return Preview(height=pixels.shape[0], width=pixels.shape[1], pixels=pixels.tobytes())
