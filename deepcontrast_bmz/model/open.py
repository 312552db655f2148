"""What a MODEL is: a loop built from settings, opened from a run, a package or by name.

A package is read as data. Its weights are checked against their sha256 and the state dict is
loaded into the network that ``config.dcbmz`` describes; the Python file that packages carry for
other programs is never run.
"""

from __future__ import annotations

__all__ = [
    "SHIPPED",
    "WEIGHTS_FORMATS",
    "Model",
    "Origin",
    "WeightsFormat",
    "choose_device",
    "describe_run",
    "open_model",
    "read_run",
    "shipped_folder",
]

import hashlib
import importlib.resources
import io
import logging
import re
import warnings
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.model.devices import choose_device, fast_loop, onnx_session
from deepcontrast_bmz.model.loop import Loop, crop
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.model.network.strips import InStrips
from deepcontrast_bmz.records import CHANNEL_PREFIX, LoopDescription, RunRecord
from deepcontrast_bmz.settings import Recipe, describe_invalid, read_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

WeightsFormat = Literal["pytorch_state_dict", "torchscript", "onnx"]
WEIGHTS_FORMATS: tuple[WeightsFormat, ...] = get_args(WeightsFormat)
"""The first that a package has is taken, unless another is asked for."""

SHIPPED = ("deepcontrast",)
"""Names of the models that come with this project."""

LARGE_BLOCK = 2048
"""Side of a block, in pixels, where hidden channels take no memory to speak of, or there is plenty:
the larger a block, the smaller the share of surroundings."""

SMALL_BLOCK = 768
"""Side of a block, in pixels, where all hidden channels are held: about half a gigabyte."""

VOLUME_BLOCK = (16, 128, 128)
"""Sides of a block of a stack, where all hidden channels are held: about a gigabyte."""

LARGE_VOLUME_BLOCK = 512
"""Lateral side of a block of a stack, where they are not."""

_LARGEST_ZIP = 4 * 2**30
"""Bytes that a package may unpack to."""

_EXACT_TOLERANCE = 1e-6
"""Rounding, over the output's range: what is left beyond the exact radius of a loop."""


@dataclass(frozen=True)
class _Target:
    """Where a model is to run."""

    device: str
    insisted: bool
    """The user named the device; another one must not be taken."""


class _Runner(Protocol):
    """Something that takes a block with its surroundings to its iterations."""

    device: str
    block: int

    def __call__(self, extended: Tensor, iterations: int) -> Tensor: ...


@dataclass(frozen=True)
class Origin:
    """How to open a model again, in another process or on another machine."""

    name: str
    """Absolute path, or the name of a shipped model."""
    options: tuple[tuple[str, str | None], ...]
    """Further arguments of `open_model`."""


@dataclass(frozen=True)
class Model:
    """A trained loop, ready to run; opened once, it serves any number of images."""

    name: str
    """What to call it."""
    description: LoopDescription
    """What is known of the loop."""
    weights_format: WeightsFormat
    """Which of its weights run."""
    device: str
    """``cpu``, ``cuda`` or ``mps``."""
    max_iterations: int | None
    """Iterations it can do; None where there is no limit."""
    radius: int
    """Pixels around an output pixel that one iteration can see within the plane."""
    multiple: int
    """Pooling grid, in pixels, on which blocks have to begin."""
    runner: _Runner = field(repr=False)
    """Runs the weights."""
    planes: int = VOLUME_BLOCK[0]
    """Planes of the blocks of a stack that it runs well on."""
    origin: Origin | None = None
    """Where it was opened; None if it was made in memory."""
    sha256: str = ""
    """Of what it was opened from: the weights of a run, the description or zip of a package."""

    @property
    def dims(self) -> int:
        """Spatial axes that it takes: 2 for planes, 3 for stacks."""
        return self.description.dims

    @property
    def radii(self) -> tuple[int, ...]:
        """Pixels around an output pixel that one iteration can see, along (z,) y, x."""
        planes = (self.description.radius_planes or 0,) * (self.dims - 2)
        return (*planes, self.radius, self.radius)

    @property
    def block(self) -> int:
        """Side in pixels of the blocks that it runs well on; of a stack, the lateral one."""
        return self.runner.block

    @property
    def blocks(self) -> tuple[int, ...]:
        """Sides of the blocks that it runs well on, along (z,) y, x."""
        return (*((self.planes,) * (self.dims - 2)), self.block, self.block)

    def iterate(self, extended: Tensor, iterations: int) -> Tensor:
        """Run the loop on an image that comes with its surroundings.

        Parameters
        ----------
        extended : Tensor, (B, 1, Y + 2 m, X + 2 m)
            Grey values in any unit, float32; m = iterations * radius. For stacks
            (B, 1, Z, Y, X), each axis longer by twice iterations * radii.
        iterations : int
            Number of iterations, at least 1.

        Returns
        -------
        Tensor, (B, iterations, (Z,) Y, X)
            In the input's unit, on the input's device; channel k after k + 1 iterations.

        Raises
        ------
        InputError
            If the weights hold a graph with fewer iterations, or make no finite values.
        """
        self.check_iterations(iterations)
        with torch.inference_mode():
            result = self.runner(extended.to(self.device), iterations).to(extended.device)
        self._check_finite(result)
        return result

    def _check_finite(self, result: Tensor) -> None:
        if not bool(torch.isfinite(result).all()):
            raise InputError(
                f"a model makes finite pixels of finite ones, but the {self.weights_format} "
                f"weights of {self.name} do not: use fewer iterations or another model"
            )

    def check_iterations(self, iterations: int) -> None:
        """Raise `InputError` if these weights cannot do so many iterations, or there are none."""
        if iterations < 1:
            raise InputError(
                f"iterations are counted from 1, not {iterations}: use --dial 0 for the raw image"
            )
        if self.max_iterations is not None and iterations > self.max_iterations:
            raise InputError(
                f"the {self.weights_format} weights of {self.name} hold {self.max_iterations} "
                f"iterations and {iterations} were asked for: ask for fewer, or open the model "
                "with --weights pytorch_state_dict, which can do any number"
            )


class _LoopRunner:
    """Runs a loop of ours."""

    def __init__(self, loop: Loop, device: str) -> None:
        self.device = device
        self.loop = fast_loop(loop, device)
        in_strips = isinstance(self.loop.network, InStrips)
        self.block = LARGE_BLOCK if in_strips or device != "cpu" else SMALL_BLOCK
        if loop.dims == 3:
            self.block = LARGE_VOLUME_BLOCK if in_strips else VOLUME_BLOCK[1]

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        return self.loop.iterate(extended, iterations)


class _GraphRunner:
    """Runs an exported graph, which mirrors at the border by itself and has all iterations."""

    def __init__(
        self, graph: Callable[[Tensor], Tensor], description: LoopDescription, device: str
    ) -> None:
        self.device = device
        self.block = SMALL_BLOCK
        self.graph = graph
        self.channels = len(description.channels)
        self.radii = (description.radius_planes or 0, description.radius_px, description.radius_px)
        if description.dims == 3:
            self.block = VOLUME_BLOCK[1]

    def __call__(self, extended: Tensor, iterations: int) -> Tensor:
        out = self.graph(extended)
        expected = (extended.shape[0], self.channels, *extended.shape[2:])
        if tuple(out.shape) != expected:
            raise InputError(
                f"the graph should return {expected} by its config.dcbmz, but returned "
                f"{tuple(out.shape)}: the package is inconsistent, export it again"
            )
        return crop(out[:, :iterations], tuple(iterations * r for r in self.radii[2 - out.dim() :]))


def open_model(name: str | Path, *, weights: str | None = None, device: str = "auto") -> Model:
    """Open a model.

    Parameters
    ----------
    name : str or Path
        A finished run folder, a package (folder, zip or ``rdf.yaml``), or the name of a shipped
        model. A str that is the name of a shipped model is taken for that, a Path for a path.
    weights : {'pytorch_state_dict', 'torchscript', 'onnx'}, optional
        Which weights to run; the first of these that the model has, if left out.
    device : {'auto', 'cpu', 'cuda', 'mps'}
        Where to run.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        If there is no such model, it is broken, or the device is not there.
    """
    model = _open(name, weights, device)
    shipped = str(name) in SHIPPED and (isinstance(name, str) or not Path(name).exists())
    path = shipped_folder() if shipped else Path(name).absolute()
    for inside in ("weights.pt", "rdf.yaml"):
        if (path / inside).is_file():
            path = path / inside
            break
    return replace(
        model,
        origin=Origin(
            str(name) if shipped else str(Path(name).absolute()),
            (("weights", weights), ("device", device)),
        ),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _open(name: str | Path, weights: str | None, device: str) -> Model:
    if weights is not None and weights not in WEIGHTS_FORMATS:
        raise InputError(
            f"weights are one of {', '.join(WEIGHTS_FORMATS)}, not {weights!r}: choose one of them"
        )
    real = choose_device(device)
    path = Path(name)
    # Only where the user insists on a device is another one an error.
    target = _Target(real, insisted=device != "auto")
    try:
        if str(name) in SHIPPED and (isinstance(name, str) or not path.exists()):
            return _open_package(_Folder(shipped_folder()), "rdf.yaml", weights, target, str(name))
        if path.is_dir() and (path / "recipe.toml").is_file():
            return _open_run(path, weights, real)
        if path.is_dir() and (path / "rdf.yaml").is_file():
            return _open_package(_Folder(path), "rdf.yaml", weights, target)
        if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
            return _open_package(_Folder(path.parent), path.name, weights, target)
        if path.is_file() and path.suffix.lower() == ".zip":
            with _Zip(path) as source:
                return _open_package(source, "rdf.yaml", weights, target)
    except OSError as error:
        raise InputError(
            f"the model {name} cannot be read ({error.strerror or error}): "
            "check the file and its permissions"
        ) from error
    met = "holds neither recipe.toml nor rdf.yaml" if path.is_dir() else "is none of them"
    if not path.exists():
        met = "does not exist"
    raise InputError(
        f"a MODEL is a run folder, a package (folder, .zip or rdf.yaml) or the name of a shipped "
        f"model ({', '.join(SHIPPED)}), but {name} {met}: name one of these"
    )


def shipped_folder() -> Path:
    """Return the folder of the shipped model: in the installed package, or a checkout."""
    package = Path(str(importlib.resources.files("deepcontrast_bmz")))
    installed = package / "shipped"
    return installed if (installed / "rdf.yaml").is_file() else package.parent


# ---- runs


def describe_run(recipe: Recipe, record: RunRecord, loop: Loop) -> LoopDescription:
    """Describe the loop of a finished run; the halo is the exact one, not a measured one.

    Parameters
    ----------
    recipe : Recipe
        Settings of the run.
    record : RunRecord
        What the run says of itself.
    loop : Loop
        Its loop.
    """
    iterations = recipe.loop.iterations
    names = [f"{CHANNEL_PREFIX}{k}" for k in range(1, iterations + 1)]
    sizes = {image.pixel_size_um for image in record.images}
    return LoopDescription(
        step_optical_depth=recipe.physics.step_optical_depth,
        iterations=iterations,
        channels=tuple(names),
        network=recipe.network,
        dims=recipe.network.dims,
        radius_px=loop.radius,
        radius_planes=loop.radii[0] if loop.dims == 3 else None,
        halo_px=iterations * loop.radius,
        halo_planes=iterations * loop.radii[0] if loop.dims == 3 else None,
        halo_tolerance=_EXACT_TOLERANCE,
        scatter=recipe.physics.scatter,
        stop_rule=record.stop_rule,
        depth=record.depth,
        ood=record.ood,
        training_ranges=recipe.physics,
        training_pixel_size_um=sizes.pop() if len(sizes) == 1 else None,
        seed=recipe.seed,
        torch_version=record.torch_version,
    )


def read_run(folder: Path) -> tuple[Recipe, RunRecord, Loop]:
    """Return settings, record and trained loop of a finished run folder.

    Raises
    ------
    InputError
        If the run has not finished, or one of its files is broken.
    """
    record_path, weights_path = folder / "run.json", folder / "weights.pt"
    if not (record_path.is_file() and weights_path.is_file()):
        raise InputError(
            f"a run becomes a model when training ends, but {folder} has not finished: "
            "go on with dcbmz train --resume"
        )
    recipe = read_recipe(folder / "recipe.toml")
    try:
        record = RunRecord.model_validate_json(record_path.read_bytes())
    except ValidationError as error:
        raise InputError(describe_invalid(error, str(record_path))) from error
    loop = Loop.from_recipe(recipe)
    _load_state(loop, weights_path.read_bytes(), str(weights_path))
    return recipe, record, loop


def _open_run(folder: Path, weights: str | None, device: str) -> Model:
    if weights not in (None, "pytorch_state_dict"):
        raise InputError(
            f"a run folder holds pytorch_state_dict weights, not {weights}: "
            f"export {folder} with dcbmz export, then open the package"
        )
    recipe, record, loop = read_run(folder)
    return _model_of(loop, folder.resolve().name, describe_run(recipe, record, loop), device)


# ---- packages


class _Folder:
    """A package that lies unpacked in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)

    def read(self, name: str) -> bytes:
        """Return a file of the package; `name` is relative and leads nowhere else."""
        path = self.folder / _inside(name, self.name)
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(
                f"files of a package lie inside it, but {name} of {self.name} is a link that "
                "leads out of it: replace the link by the file"
            )
        if not path.is_file():
            raise InputError(f"{self.name} names a file {name} that it does not hold: export again")
        return path.read_bytes()


class _Zip:
    """A zipped package; members are read into memory, nothing is unpacked."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            self.archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise InputError(
                f"a package is a zip file, but {path} is none or is cut short: get it again"
            ) from error
        try:
            members = self.archive.infolist()
            for member in members:
                _inside(member.filename, self.name)
            total = sum(member.file_size for member in members)
            if total > _LARGEST_ZIP:
                raise InputError(
                    f"a package unpacks to at most {_LARGEST_ZIP / 2**30:g} GiB, but {path} to "
                    f"{total / 2**30:.1f} GiB: do not trust it"
                )
        except InputError:
            self.archive.close()
            raise

    def __enter__(self) -> _Zip:
        return self

    def __exit__(self, *_: object) -> None:
        self.archive.close()

    def read(self, name: str) -> bytes:
        """Return a member of the package; `name` is relative and leads nowhere else."""
        try:
            return self.archive.read(str(_inside(name, self.name)))
        except KeyError as error:
            raise InputError(
                f"{self.name} should hold {name} in its root, but does not: "
                "it is no package of this project, or export it again"
            ) from error
        except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
            raise InputError(
                f"{name} in {self.name} cannot be unpacked ({error}): get the package again"
            ) from error


_Source = _Folder | _Zip


def _inside(name: str, package: str) -> PurePosixPath:
    """Return a relative path that stays inside its package, else raise `InputError`."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    remote = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", name)
    if not name or remote or posix.is_absolute() or windows.anchor or ".." in windows.parts:
        raise InputError(
            f"files of a package are named relative to it and lie inside it, but {package} names "
            f"{name!r}: do not trust it, or download the whole package"
        )
    return posix


def _mapping(value: object, what: str) -> dict[str, Any]:
    """Return a mapping read from YAML, else raise `InputError`."""
    if not isinstance(value, dict):
        raise InputError(f"{what} is a mapping of keys to values, not {value!r:.60}: export again")
    return cast("dict[str, Any]", value)


def _open_package(
    source: _Source, rdf_name: str, weights: str | None, target: _Target, name: str | None = None
) -> Model:
    what = f"{rdf_name} of {source.name}"
    try:
        parsed: object = yaml.safe_load(source.read(rdf_name).decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{what} is not valid YAML ({reason:.200}): export it again") from error
    rdf = _mapping(parsed, what)
    config = rdf.get("config")
    described = config.get("dcbmz") if isinstance(config, dict) else None
    if described is None:
        raise InputError(
            f"{what} has no config.dcbmz, so it is not a package of this project: "
            "run it with bioimageio predict"
        )
    try:
        description = LoopDescription.model_validate(described)
    except ValidationError as error:
        raise InputError(describe_invalid(error, f"config.dcbmz in {what}")) from error
    entries = _mapping(rdf.get("weights"), f"weights in {what}")
    chosen = _choose_weights(entries, weights, what)
    data = _verified(source, _mapping(entries[chosen], f"weights.{chosen} in {what}"), chosen, what)
    loop = _loop_of(description, what)
    title = name or str(rdf.get("name") or source.name)
    where = f"{chosen} weights of {source.name}"
    if chosen == "pytorch_state_dict":
        _load_state(loop, data, where)
        return _model_of(loop, title, description, target.device)
    device = target.device
    if chosen == "torchscript":
        graph = _torchscript(data, device, where)
    else:
        graph, device = _onnx(data, target, where)
    return Model(
        name=title,
        description=description,
        weights_format=chosen,
        device=device,
        max_iterations=description.iterations,
        radius=loop.radius,
        multiple=loop.multiple,
        runner=_GraphRunner(graph, description, device),
    )


def _choose_weights(entries: dict[str, Any], asked: str | None, what: str) -> WeightsFormat:
    there: list[WeightsFormat] = [name for name in WEIGHTS_FORMATS if name in entries]
    if not there or (asked is not None and asked not in there):
        raise InputError(
            f"{what} has weights {', '.join(map(str, entries)) or 'none'}, but "
            f"{asked or ' or '.join(WEIGHTS_FORMATS)} was asked for: choose what is there"
        )
    return next(name for name in there if asked in (None, name))


def _verified(source: _Source, entry: dict[str, Any], name: str, what: str) -> bytes:
    """Return the bytes of a weights file, if they are what the RDF says they are."""
    file, expected = entry.get("source"), entry.get("sha256")
    if not isinstance(file, str) or not isinstance(expected, str):
        raise InputError(
            f"weights.{name} in {what} needs a source and a sha256, both text: export it again"
        )
    data = source.read(file)
    found = hashlib.sha256(data).hexdigest()
    if found != expected.lower():
        raise InputError(
            f"the sha256 of {file} should be {expected:.16}... by {what}, but is {found:.16}...: "
            "the file is damaged or was exchanged, get the package again"
        )
    return data


def _loop_of(description: LoopDescription, what: str) -> Loop:
    loop = Loop(build_network(description.network), description.iterations)
    if loop.radius != description.radius_px:
        raise InputError(
            f"radius_px of the network that config.dcbmz in {what} describes is {loop.radius}, "
            f"not {description.radius_px}: export it again"
        )
    planes = loop.radii[0] if loop.dims == 3 else None
    if (loop.dims, planes) != (description.dims, description.radius_planes):
        raise InputError(
            f"dims and radius_planes of the network that config.dcbmz in {what} describes are "
            f"{loop.dims} and {planes}, not {description.dims} and {description.radius_planes}: "
            "export it again"
        )
    return loop


def _model_of(loop: Loop, name: str, description: LoopDescription, device: str) -> Model:
    return Model(
        name=name,
        description=description,
        weights_format="pytorch_state_dict",
        device=device,
        max_iterations=None,
        radius=loop.radius,
        multiple=loop.multiple,
        runner=_LoopRunner(loop, device),
    )


# ---- weights


def _load_state(loop: Loop, data: bytes, what: str) -> None:
    """Load a state dict without running any code it may hold."""
    try:
        with warnings.catch_warnings():
            # What torch has to say about a foreign pickle, the error below says, too.
            warnings.simplefilter("ignore", UserWarning)
            state: object = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common base class for what a file can hold
        raise InputError(
            f"{what} must be plain tensors saved by torch, but cannot be loaded as such "
            f"({type(error).__name__}): the file is damaged, or do not trust it"
        ) from error
    expected = loop.state_dict()
    if not isinstance(state, dict) or set(cast("dict[str, object]", state)) != set(expected):
        raise InputError(
            f"{what} do not hold the tensors of the network that is described: export again"
        )
    tensors = cast("dict[str, object]", state)
    for name, own in expected.items():
        tensor = tensors[name]
        if not isinstance(tensor, Tensor) or tensor.shape != own.shape:
            met = str(tuple(tensor.shape)) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputError(
                f"{name} in {what} should be a tensor of {tuple(own.shape)}, not {met}: "
                "export again"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} in {what} holds NaN or infinity: train again")
    loop.load_state_dict(cast("dict[str, Tensor]", tensors))


def _torchscript(data: bytes, device: str, what: str) -> Callable[[Tensor], Tensor]:
    try:
        with warnings.catch_warnings():
            # The format is deprecated in torch, but the one that all programs of the zoo read.
            for category in (FutureWarning, DeprecationWarning):
                warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", category)
            graph = torch.jit.load(io.BytesIO(data), map_location=device)
    except RuntimeError as error:
        raise InputError(
            f"{what} must be a TorchScript file, but cannot be loaded: get the package again"
        ) from error
    graph.eval()
    return cast("Callable[[Tensor], Tensor]", graph)


def _onnx(data: bytes, target: _Target, what: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return the graph and the device it really runs on: ONNX Runtime falls back silently."""
    try:
        session, real = onnx_session(data, target.device)
    except Exception as error:  # its exceptions share no public base class
        raise InputError(
            f"{what} must be an ONNX file, but cannot be loaded ({type(error).__name__}): "
            "get the package again"
        ) from error
    if real != target.device:
        if target.insisted:
            raise InputError(
                f"onnx weights run on the device {target.device} only with an onnxruntime that can "
                "use it (onnxruntime-gpu for cuda), and the installed one runs on the CPU: use "
                "--device cpu, or --weights pytorch_state_dict"
            )
        logger.warning("onnxruntime runs on the CPU: it cannot use the device %s", target.device)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{what} should have one input and one output, not {len(inputs)} and {len(outputs)}: "
            "export again"
        )
    given, returned = inputs[0].name, outputs[0].name

    def run(extended: Tensor) -> Tensor:
        result = session.run([returned], {given: extended.cpu().numpy()})[0]
        return torch.from_numpy(result)

    return run, real
