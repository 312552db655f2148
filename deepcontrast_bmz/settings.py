"""Everything that can be chosen, as frozen records that refuse unknown keys.

A recipe (TOML) is a `Recipe`; what an exported package says of its loop, under
``config.dcbmz`` of the RDF, is a `LoopDescription`. Both are validated when read back.
"""

from __future__ import annotations

__all__ = [
    "DataSettings",
    "LoopSettings",
    "Maintainer",
    "NetworkSettings",
    "Person",
    "PhysicsSettings",
    "PublicationSettings",
    "Recipe",
    "Record",
    "Scatter",
    "TrainingSettings",
    "describe_invalid",
    "read_recipe",
    "recipe_to_toml",
]

import codecs
import re
import tomllib
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


_OLD_VERSION = "use version 0.1 of deepcontrast_bmz, or train again"


class Record(BaseModel):
    """Frozen settings without unknown keys; docstrings of fields are the schema's words.

    What older versions wrote must stay readable: keys that are gone are named in `removed`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    removed: ClassVar[Mapping[str, str | None]] = MappingProxyType({})
    """Keys of older versions. With the name of what they turned on, they are dropped where it was
    off (0, false or null) and refused where it was on; with None, dropped whatever they say."""

    @model_validator(mode="before")
    @classmethod
    def _drop_removed(cls, value: object) -> object:
        if not isinstance(value, dict) or not (cls.removed.keys() & value.keys()):
            return value
        kept = cast("dict[str, object]", value).copy()
        for key, what in cls.removed.items():
            met = kept.pop(key, None)
            if what is not None and met:
                raise ValueError(
                    f"{key} turns on {what}, which was removed in version 0.2: {_OLD_VERSION}"
                )
        return kept


def _ascending(name: str, pair: tuple[float, float]) -> None:
    if pair[0] > pair[1]:
        raise ValueError(f"{name} is a range (low, high), but {pair[0]:g} > {pair[1]:g}")


class Scatter(Record):
    """Where a scattered photon lands: a mixture of isotropic Gaussians, s(0) = 1."""

    widths: tuple[Positive, ...] = (5.5, 24.0)
    """Standard deviation of each Gaussian, in `unit`."""
    weights: tuple[Positive, ...] = (0.7, 0.3)
    """Share of the scattered light in each Gaussian; the shares sum to one."""
    unit: Literal["px", "um"] = "px"
    """Unit of the widths; micrometres need an image with a pixel size."""

    @model_validator(mode="after")
    def _check(self) -> Scatter:
        if not self.widths or len(self.widths) != len(self.weights):
            raise ValueError(
                f"widths and weights go in pairs, but there are {len(self.widths)} widths "
                f"and {len(self.weights)} weights"
            )
        if abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(f"weights sum to one, not to {sum(self.weights):g}")
        return self


class PhysicsSettings(Record):
    """What one training step degrades, and the ranges its draws come from."""

    step_optical_depth: Positive = 1.0
    """Optical depth that one application of the network removes."""
    scatter: Scatter = Scatter()
    """The scattering kernel in the middle of the drawn kernels."""
    width_factor: tuple[Positive, Positive] = (0.6, 1.7)
    """Every width is multiplied by a factor drawn log-uniformly from here."""
    weight_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Every weight is multiplied by 1 + u, u drawn from -jitter..jitter, then renormalised."""
    absorption: tuple[NonNegative, NonNegative] = (0.0, 0.3)
    """Optical depth of absorption per unit optical depth of scattering."""
    veil: tuple[NonNegative, NonNegative] = (0.0, 0.3)
    """Even background added by tissue, as a share of the mean signal."""
    photons: tuple[Positive, Positive] | None = None
    """Mean photons per pixel that reach the detector, drawn log-uniformly; None: from 3 to
    30 times of what the noise of each image itself shows."""
    read_noise_electrons: tuple[NonNegative, NonNegative] = (0.0, 3.0)
    """Standard deviation of the detector's read noise, in electrons."""

    @model_validator(mode="after")
    def _check(self) -> PhysicsSettings:
        for name in ("width_factor", "absorption", "veil", "photons", "read_noise_electrons"):
            if getattr(self, name) is not None:
                _ascending(name, getattr(self, name))
        return self


class NetworkSettings(Record):
    """Which network, and how large."""

    kind: Literal["dilated", "dilated_3d", "invertible"] = "dilated"
    """`dilated`: equivariant to shift and normalisation; `dilated_3d`: the same for z-stacks;
    `invertible`: a bijection, equivariant to normalisation."""
    width: Annotated[int, Field(ge=2, le=1024, multiple_of=2)] = 16
    """Channels of the first layer; even, since channels are sorted in pairs."""
    dilations: tuple[Annotated[int, Field(ge=1, le=256)], ...] = (1, 2, 4, 8, 16, 8, 4, 2, 1)
    """Dilation of each 3 x 3 convolution of the `dilated` network, and the lateral one of
    `dilated_3d`."""
    mixing_layers: Annotated[int, Field(ge=1, le=64)] = 2
    """In how many layers of `dilated_3d` the planes mix: 3 x 3 x 3 kernels, spread evenly among
    the others, which are 1 x 3 x 3. So many planes up and down does one iteration see."""
    levels: Annotated[int, Field(ge=1, le=5)] = 3
    """Resolutions of `invertible`, the first included; at least 2."""

    @property
    def dims(self) -> Literal[2, 3]:
        """Spatial axes that the network takes: 3 for stacks, else 2."""
        return 3 if self.kind == "dilated_3d" else 2

    @field_validator("kind", mode="before")
    @classmethod
    def _refuse_removed(cls, kind: object) -> object:
        if kind in ("blurpool_unet", "plain_unet"):
            raise ValueError(f"this network was removed in version 0.2: {_OLD_VERSION}")
        return kind

    @model_validator(mode="after")
    def _check(self) -> NetworkSettings:
        if self.dims == 3 and self.mixing_layers > len(self.dilations):
            raise ValueError(
                f"mixing_layers counts layers with a dilation, of which there are "
                f"{len(self.dilations)}, not {self.mixing_layers}"
            )
        if self.kind == "invertible" and self.levels < 2:
            raise ValueError(
                f"an invertible network needs at least 2 levels to couple, not {self.levels}"
            )
        return self


class LoopSettings(Record):
    """How the network is iterated."""

    removed = MappingProxyType({"reinjection": "re-injection", "local_dial": "the local dial"})

    iterations: Annotated[int, Field(ge=1, le=16)] = 4
    """Iterations that are exported as channels."""


class DataSettings(Record):
    """How raw images become training patches."""

    channel: str | int | None = None
    """Name or index (from 0) of the channel to train on; None: the only one, or all of them."""
    axes: str | None = None
    """Letters of the axes of the images, such as TYX, where their files do not say them."""
    scene: str | int | None = None
    """Name or number (from 0) of the image, where a file or folder holds several."""
    patch: Annotated[int, Field(ge=16, le=1024)] = 96
    """Side of the square on which the loss is computed, in pixels."""
    patch_planes: Annotated[int, Field(ge=1, le=256)] = 6
    """Planes of the patch, for networks that take stacks."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the images (or of the planes, when there is one image) held out."""
    phantoms: Annotated[int, Field(ge=0)] = 0
    """Procedural specimens recorded at depth and used as further raw images."""
    phantom_optical_depth: tuple[NonNegative, NonNegative] = (0.0, 2.0)
    """Optical depths at which the phantoms are recorded."""
    input_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the recorded light that the input is made of; the target is the rest, so that their
    noise is independent. None: both are made of all the light, and share its noise."""
    zoom: tuple[Positive, Positive] = (1.0, 1.0)
    """Raw patches are resampled by a factor drawn log-uniformly from here (above 1 enlarges)."""

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        _ascending("phantom_optical_depth", self.phantom_optical_depth)
        _ascending("zoom", self.zoom)
        return self


class TrainingSettings(Record):
    """The optimisation."""

    steps: Annotated[int, Field(ge=1)] = 1500
    """Optimiser steps in all."""
    steps_per_epoch: Annotated[int, Field(ge=1)] = 150
    """Steps between validations, previews and checkpoints."""
    batch: Annotated[int, Field(ge=1)] = 4
    """Patches per step."""
    learning_rate: Positive = 3e-3
    """Largest learning rate of the one-cycle schedule."""
    gradient_clip: Positive = 1.0
    """Gradients are scaled down to this norm."""
    unroll: Annotated[int, Field(ge=1, le=4)] = 1
    """Largest number of steps degraded, and undone by iterating, in one training example."""
    validation_patches: Annotated[int, Field(ge=1)] = 32
    """Fixed held-out patches the validation loss is computed on."""


def _check_name(text: str) -> str:
    if not text.strip() or re.search(r"[/\\\x00-\x1f]", text):
        raise ValueError("a name has at least one letter, and no slash or control character")
    return text.strip()


def _check_github_user(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){0,38}", text):
        raise ValueError("a GitHub user has 1 to 39 letters, digits and single hyphens between")
    return text


def _check_orcid(text: str) -> str:
    """Refuse what is no ORCID iD; the last digit checks the others (ISO 7064, MOD 11-2)."""
    if not re.fullmatch(r"\d{4}-\d{4}-\d{4}-\d{3}[\dX]", text):
        raise ValueError("an ORCID iD has four groups of four digits, such as 0000-0002-1825-0097")
    total = 0
    for digit in text[:-1].replace("-", ""):
        total = 2 * (total + int(digit))
    if text[-1] != "0123456789X"[(12 - total % 11) % 11]:
        raise ValueError("the last digit of an ORCID iD checks the others, and does not fit here")
    return text


def _check_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+\.[^\s/]+(/\S*)?", text):
        raise ValueError("an address begins with https:// and has no spaces")
    return text


def _check_version(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.-]+)?", text):
        raise ValueError("a version is three numbers, such as 1.0.0")
    return text


_Name = Annotated[str, AfterValidator(_check_name)]
_GithubUser = Annotated[str, AfterValidator(_check_github_user)]


class Person(Record):
    """An author of a model."""

    name: _Name
    github_user: _GithubUser | None = None
    orcid: Annotated[str, AfterValidator(_check_orcid)] | None = None
    affiliation: Annotated[str, Field(min_length=1)] | None = None


class Maintainer(Record):
    """Who answers questions about a model."""

    name: _Name
    github_user: _GithubUser


class PublicationSettings(Record):
    """What a description says beside the model itself; none of it changes the training."""

    authors: tuple[Person, ...] = ()
    """Each with name and, where known, github_user, orcid and affiliation; else the maintainers."""
    maintainers: tuple[Maintainer, ...] = ()
    """Who answers questions, each with name and github_user."""
    git_repo: Annotated[str, AfterValidator(_check_url)] | None = None
    """Address of the repository in which the model is developed."""
    version: Annotated[str, AfterValidator(_check_version)] | None = None
    """Version of the model, three numbers."""
    training_data: Annotated[str, Field(min_length=1, pattern=r"^\S+$")] | None = None
    """Id of a dataset in the BioImage Model Zoo."""


class Recipe(Record):
    """All that decides a training run, beside the images."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The one seed of everything random."""
    physics: PhysicsSettings = PhysicsSettings()
    network: NetworkSettings = NetworkSettings()
    loop: LoopSettings = LoopSettings()
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()
    publication: PublicationSettings = PublicationSettings()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        # Phantoms have no pixel size.
        if self.physics.scatter.unit == "um" and self.data.phantoms:
            raise ValueError("data.phantoms above 0 needs physics.scatter.unit = 'px', not 'um'")
        return self

    def with_changes(
        self,
        *,
        channel: str | int | None = None,
        axes: str | None = None,
        scene: str | int | None = None,
        steps: int | None = None,
        seed: int | None = None,
    ) -> Recipe:
        """Return a copy with what the command line may change; None leaves a value as it is.

        Raises
        ------
        InputError
            If a value is out of its range.
        """
        values = self.model_dump()
        for section, key, value in (
            (values["data"], "channel", channel),
            (values["data"], "axes", axes),
            (values["data"], "scene", scene),
            (values["training"], "steps", steps),
            (values, "seed", seed),
        ):
            if value is not None:
                section[key] = value
        try:
            return Recipe.model_validate(values)
        except ValidationError as error:
            raise InputError(describe_invalid(error, "the recipe")) from error


def describe_invalid(error: ValidationError, what: str) -> str:
    """Return one sentence for the first mistake in a record.

    Parameters
    ----------
    error : ValidationError
        What pydantic found.
    what : str
        What was being read, for example ``recipe my.toml``.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole record"
    if first["type"] == "extra_forbidden":
        return f"{what} has an unknown key {where!r}: remove it or correct its spelling"
    message = first["msg"].removeprefix("Value error, ")
    value: Any = first.get("input")
    met = f" (met: {value!r})" if isinstance(value, int | float | str | list | tuple) else ""
    return f"{what}: {where}: {message}{met}"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file in UTF-8, or in UTF-16 with its byte order mark.

    Raises
    ------
    InputError
        If the file is missing, is no TOML, has unknown keys or values out of range.
    """
    try:
        content = path.read_bytes()
        # Editors on Windows write either mark; TOML itself knows none.
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} cannot be read: {error}") from error
    try:
        return Recipe.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {path} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise InputError(describe_invalid(error, f"recipe {path}")) from error


def _toml_value(value: Any) -> str:
    if isinstance(value, Record):
        set_fields = {k: v for k, v in value if v is not None}
        return "{ " + ", ".join(f"{k} = {_toml_value(v)}" for k, v in set_fields.items()) + " }"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


def recipe_to_toml(recipe: Recipe) -> str:
    """Write a recipe as TOML, every key with its value, each with its explanation above it."""

    def section(record: Record, prefix: str) -> list[str]:
        lines: list[str] = []
        nested: list[str] = []
        for name, field in type(record).model_fields.items():
            value = getattr(record, name)
            if isinstance(value, Record):
                path = f"{prefix}.{name}" if prefix else name
                nested += ["", f"[{path}]", *section(value, path)]
                continue
            if field.description:
                lines += [f"# {line.strip()}" for line in field.description.splitlines()]
            # TOML has no null: a key that is not set stays out, as a comment.
            lines.append(f"# {name} =" if value is None else f"{name} = {_toml_value(value)}")
        return lines + nested

    return "\n".join(section(recipe, "")) + "\n"
