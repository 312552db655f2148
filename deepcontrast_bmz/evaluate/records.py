"""What a sweep over the dial found: plain records, which become JSON."""

from __future__ import annotations

__all__ = ["PRICES", "DialScores", "Evaluation", "PlanePictures", "Preview", "Price"]

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from deepcontrast_bmz.dial.verdict import Verdict  # noqa: TC001 - pydantic reads it
from deepcontrast_bmz.physics.noise import NoiseModel  # noqa: TC001 - pydantic reads it
from deepcontrast_bmz.settings import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

Price = Literal["reference_middle", "detail_fine", "detail_coarse", "forward_consistency"]

PRICES: Mapping[Price, str] = {
    "reference_middle": "detail retention (correlation with the reference, 1-4 px)",
    "detail_fine": "detail retention (split halves, 0.7-1.6 px)",
    "detail_coarse": "detail retention (split halves, 1.6-5 px)",
    "forward_consistency": "forward consistency (1 is perfect)",
}
"""What a contrast gain can be weighed against, in plain words."""


class Preview(Record):
    """A small picture of a plane, 8 bits a pixel."""

    height: int
    width: int
    pixels: bytes
    """Row by row, `height` * `width` bytes, 0 is black."""


class PlanePictures(Record):
    """Pictures of a further plane of a stack."""

    number: int
    """Index of the plane along the axis of the stack."""
    pictures: tuple[Preview, ...]
    """The raw plane and every iteration, all between one black and white."""


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
    itself; None without measurable noise, or if all pixels lie beside masks."""
    systematic_misfit: float | None
    """What is neither noise nor finer than 1.5 px, from split halves, in noise variances: 0 for the
    truth and for the raw image."""
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
    kernel_factor: float | None = None
    """Width of the kernel that forward consistency, misfit and flagged share are for, over that of
    the model: the nearest one of the trained range that explains the recording, else the best."""
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
    plane_shape: tuple[int, int] | None = None
    """Rows and columns of the whole plane, in pixels."""
    pixel_size_um: float | None
    """Pixel size along x, where known."""
    misfit_limit: float | None = None
    """Systematic misfit from which the recording contradicts: 0.2, and what the tissue model may be
    off by; None where it cannot be measured."""
    offset: float
    """Counts in the dark that contrasts are taken above."""
    offset_estimated: bool = True
    """Whether that was read off the plane, and not given."""
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
    agreement: tuple[Preview, ...] = Field(default=(), exclude=True, repr=False)
    """How far both halves of the light agree on what each dial added, 0 (black, chance) to 1 (the
    same detail in both), see `map_reliability`; not part of the JSON."""
    stack_axis: str | None = Field(default=None, exclude=True, repr=False)
    """Along which axis the further planes lie."""
    stack: tuple[PlanePictures, ...] = Field(default=(), exclude=True, repr=False)
    """Further planes, rising, without the judged one; not part of the JSON."""
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
