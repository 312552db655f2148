"""What comes out of training and export, as frozen records: a run, and a loop's description."""

from __future__ import annotations

__all__ = [
    "CHANNEL_PREFIX",
    "BeginRecord",
    "DepthEstimator",
    "ImageRecord",
    "LoopDescription",
    "OodStatistics",
    "RunRecord",
]

from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepcontrast_bmz.settings import (
    Fraction,
    NetworkSettings,
    NonNegative,
    PhysicsSettings,
    Positive,
    Record,
    Scatter,
)

CHANNEL_PREFIX = "iteration_"
"""Output channel k (from 1) of an exported model is called ``iteration_k``."""

_REMOVED = MappingProxyType(
    {"reinjection": "re-injection", "local_dial": "the local dial", "stop_rule": None}
)
"""Keys that version 0.1 wrote into descriptions and runs."""


class DepthEstimator(Record):
    """Optical depth read off the features of an image: a quadratic form fitted on specimens."""

    schema_version: Literal[1] = 1
    """Version of this record, and of the features that it takes."""
    iterations: Annotated[int, Field(ge=1)]
    """Iterations that the features are taken from."""
    deepest: Positive
    """Largest optical depth that is read; the automatic dial goes no further."""
    recordings: Annotated[int, Field(ge=1)]
    """Recordings in the fit: specimens, and patches of raw images degraded by known amounts."""
    within: Fraction
    """Share of the specimens no deeper than that whose depth was met within 0.25 of a step by a fit
    without them, where their noise could be measured."""
    within_without_noise: Fraction
    """The same where it could not: resampled, denoised, or black cut off."""
    half_width: NonNegative | None = None
    """How far from the reading the depth of four in five lies, specimens and degraded real images
    left out of the fit, the worse of the two, in optical depth; None: told by `within`."""
    half_width_without_noise: NonNegative | None = None
    """The same where noise could not be measured."""
    numbers: str
    """The fit: base64 of half-precision numbers, see `depth`."""


class OodStatistics(Record):
    """How the images that a model was trained for are spread, for an out-of-distribution score."""

    schema_version: Literal[1] = 1
    """Version of this record, and of the features that it takes."""
    iterations: Annotated[int, Field(ge=1)]
    """Iterations that the features are taken from."""
    samples: Annotated[int, Field(ge=1)]
    """Training patches and specimens within the trained range that the statistics come from."""
    beyond: Annotated[int, Field(ge=1)]
    """Specimens beyond the trained range that it learned to tell from them."""
    limits: tuple[Positive, float, Positive]
    """Distance that three in a hundred of the former exceed; the form's usual value for them, and
    how far beyond it three in a hundred lie."""
    warn_above: Positive = 1.55
    """Score beyond which there is a warning: what one in twenty parts of real images exceeds whose
    image was left out of the fit. Models that do not say it have what was measured on planes of ten
    public stacks that the first one was trained on."""
    numbers: str
    """Means, scales and directions: base64 of half-precision numbers, see `ood`."""
    form: str
    """The quadratic form, likewise."""


class LoopDescription(Record):
    """The loop of an exported model: ``config.dcbmz`` of its RDF."""

    removed = _REMOVED

    schema_version: Literal[1] = 1
    """Version of this record."""
    step_optical_depth: Positive
    """Optical depth removed by one iteration."""
    iterations: Annotated[int, Field(ge=1)]
    """How many iterations are output channels."""
    channels: tuple[str, ...]
    """Names of the output channels, in order of the iterations."""
    channel_meaning: str = (
        "Channel k is the input after k iterations, with k * step_optical_depth removed."
    )
    dial_formula: str = (
        "For a dial D between channels k and k + 1 (channel 0 is the input): "
        "b = D - k * step; alpha = (exp(b) - 1) / (exp(step) - 1); "
        "x_D = x_k + alpha * (x_(k+1) - x_k)."
    )
    dims: Literal[2, 3] = 2
    """Spatial axes of input and output: 2 for planes (y, x), 3 for stacks (z, y, x)."""
    network: NetworkSettings
    """The network that is iterated."""
    radius_px: Annotated[int, Field(ge=0)]
    """Pixels around an output pixel that one iteration can see, within the plane."""
    radius_planes: Annotated[int, Field(ge=0)] | None = None
    """Planes above and below an output pixel that one iteration can see; only for stacks."""
    halo_px: Annotated[int, Field(ge=0)]
    """Measured radius beyond which all iterations together change by less than
    `halo_tolerance`; the halo declared in the RDF."""
    halo_planes: Annotated[int, Field(ge=0)] | None = None
    """The same along z, in planes; only for stacks."""
    halo_tolerance: Positive
    """Largest change of an output pixel, over the output's range, when it is seen with only
    `halo_px` pixels around it."""
    scatter: Scatter
    """The scattering kernel that one step undoes, in the middle of the trained range."""
    recommended_dial: NonNegative | None = None
    """Dial to begin with; None where only the image can say (`auto`)."""
    recommended_dial_reason: str = ""
    """How the recommended dial was found."""
    depth: DepthEstimator | None = None
    """Reads the optical depth off an image; None: nothing does, and one iteration is taken."""
    ood: OodStatistics | None = None
    """What the images trained for look like; None: nothing warns of others."""
    training_ranges: PhysicsSettings
    """Ranges of the degradations seen in training."""
    training_pixel_size_um: Positive | None = None
    """Pixel size of the training images, where they agree."""
    seed: int
    """Seed of the training run."""
    torch_version: str
    """The torch that wrote the weights."""

    @model_validator(mode="after")
    def _check(self) -> LoopDescription:
        if len(self.channels) != self.iterations:
            raise ValueError(
                f"there are {len(self.channels)} channels for {self.iterations} iterations"
            )
        return self

    @property
    def halo(self) -> tuple[int, ...]:
        """Halo to declare, along (z,) y, x."""
        return (*((self.halo_planes or 0,) * (self.dims - 2)), self.halo_px, self.halo_px)


class ImageRecord(Record):
    """One image a model was trained on; the file's name only, never its folder."""

    name: str
    sha256: str
    dims: str
    shape: tuple[int, ...]
    pixel_size_um: Positive | None = None
    used_for: Literal["training", "validation", "both"] = "training"


class BeginRecord(Record):
    """The model that training began from."""

    name: str
    """Its name; of a run folder or a package the file's name only."""
    sha256: str
    """Of its weights file."""


class RunRecord(Record):
    """What a finished training run says of itself: ``run.json`` in the run folder."""

    removed = _REMOVED

    schema_version: Literal[1] = 1
    version: str
    """Version of this project."""
    torch_version: str
    """The torch that trained."""
    finished_utc: str
    """When training ended, ISO 8601 in UTC, whole seconds."""
    device: str
    """``cpu`` or ``cuda``."""
    training_seconds: NonNegative
    """Wall time of the training, in seconds, over all resumes."""
    steps: Annotated[int, Field(ge=0)]
    """Optimiser steps done."""
    begun_from: BeginRecord | None = None
    """The model whose weights training began from; None: they were drawn."""
    restarts: tuple[int, ...] = ()
    """After how many steps the finished run was trained longer, its learning rate anew."""
    parameters: Annotated[int, Field(ge=1)]
    """Trained numbers in the network."""
    images: tuple[ImageRecord, ...]
    """The raw images."""
    phantoms: Annotated[int, Field(ge=0)] = 0
    """Procedural specimens trained on beside them."""
    validation: dict[str, float]
    """Scores on held-out patches: ``loss``, and in dB ``psnr_degraded`` and ``psnr_restored``."""
    depth: DepthEstimator | None = None
    """Reads the optical depth off an image; fitted on specimens of known depth."""
    ood: OodStatistics | None = None
    """What the images trained for look like."""
