"""From a run folder to one file that Fiji, QuPath, ilastik and `bioimageio` open.

A package is a flat zip: the description, three weights formats, test and sample tensors, a cover,
the documentation. The same run gives the same bytes: entries have a fixed order, date and rights,
and no file knows a folder or a user. The model at the top of a repository is the same package
with its files in ``weights`` and ``model_cards``.
"""

from __future__ import annotations

__all__ = [
    "HALO_TOLERANCE",
    "ExportOptions",
    "export_named",
    "export_run",
    "export_shipped",
    "pack_described",
    "write_repository_model",
]

import hashlib
import logging
import operator
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, cast, get_args

import torch
import yaml

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export import samples
from deepcontrast_bmz.export.card import read_card, write_card
from deepcontrast_bmz.export.facts import (
    DEFAULT_NAME,
    ModelFacts,
    compute_smallest_block,
    make_model_id,
)
from deepcontrast_bmz.export.halo import measure_halo
from deepcontrast_bmz.export.publication import merge_publication
from deepcontrast_bmz.export.rdf import (
    ATTACHED,
    FileEntry,
    Purpose,
    Role,
    adapt_for_qupath,
    adapt_for_zoo,
    build_rdf,
    publish,
    to_yaml,
)
from deepcontrast_bmz.export.weights import export_weights
from deepcontrast_bmz.image import replace_whole
from deepcontrast_bmz.model.loop import dial_position
from deepcontrast_bmz.model.open import SHIPPED, find_shipped_folder
from deepcontrast_bmz.model.run_folder import describe_run, read_run
from deepcontrast_bmz.package.files import pack_stored
from deepcontrast_bmz.settings import recipe_to_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Unpack

    import numpy as np
    from numpy.typing import NDArray

    from deepcontrast_bmz.model.loop import Loop
    from deepcontrast_bmz.records import LoopDescription, RunRecord
    from deepcontrast_bmz.settings import PublicationSettings, Recipe

logger = logging.getLogger(__name__)

HALO_TOLERANCE = 1e-4
"""Largest change of an output pixel, over the output's range, that a halo may leave."""

_MOST_ITERATIONS = 16

_SPARE = {2: (32, 32), 3: (2, 0, 16)}
"""Pixels along (z,) y, x that the test tensors are larger than the smallest block."""

_FLAT: dict[Role, str] = {
    "documentation": "README.md",
    "cover": "cover.png",
    "pytorch_state_dict": "weights.pt",
    "architecture": "architecture.py",
    "torchscript": "weights.torchscript.pt",
    "onnx": "weights.onnx",
    "test_input": "test_input.npy",
    "test_output": "test_output.npy",
    "sample_input": "sample_input.tif",
    "sample_output": "sample_output.tif",
    "recipe": "recipe.toml",
    "run": "run.json",
    "fiji_script": "deepcontrast_fiji.ijm",
    "qupath_script": "deepcontrast_qupath.groovy",
}
"""File names in a package, in the order in which they are written."""

_SCRIPT_FOLDER = Path(__file__).parent / "scripts"
"""For Fiji and QuPath; the same in every package, which tells them its step and iterations."""


class ExportOptions(TypedDict, total=False):
    """What may be chosen of an exported model."""

    iterations: int | None
    """Output channels; the recipe's number if left out."""
    card: Path | None
    """Model card in Markdown, for example the documentation written before. Scores and instructions
    are added where it has no section with the heading *Validation* or *How to use it*. Left out, a
    whole card is written."""
    sample: Path | None
    """A raw image for the test tensors and the cover; a simulated recording if left out."""
    name: str
    """Name of the model."""
    publication: PublicationSettings | None
    """Authors and the like; takes precedence over those of the recipe."""


class _Trained(NamedTuple):
    """A run, read for export."""

    recipe: Recipe
    """As it was trained."""
    run: RunRecord
    loop: Loop
    description: LoopDescription


class _Contents(NamedTuple):
    """A package in memory: the description and all other files."""

    rdf: dict[str, Any]
    files: dict[Role, bytes]


def _repository_path(role: Role, stem: str) -> str:
    """Return where a file lies in a repository; scripts have the same name everywhere."""
    if role == "documentation":
        return f"model_cards/{stem}.md"
    if role == "architecture":
        return f"weights/{stem}.py"
    if role in ("fiji_script", "qupath_script"):
        return f"weights/{_FLAT[role]}"
    name = _FLAT[role]
    suffix = name.removeprefix("weights") if name.startswith("weights") else f".{name}"
    return f"weights/{stem}{suffix}"


# ------------------------------------------------------------------------------- from a run


def _read_trained(folder: Path, iterations: int | None) -> _Trained:
    """Return a finished run, with another number of iterations if one is asked for."""
    if not (folder / "recipe.toml").is_file():
        met = "has no recipe.toml" if folder.is_dir() else "is not there"
        raise InputError(
            f"{str(folder)!r} {met}: give a run folder that dcbmz train wrote, or the name of a "
            f"shipped model ({', '.join(SHIPPED)})"
        )
    trained, run, loop = read_run(folder)
    recipe = trained
    if iterations is not None:
        if not 1 <= iterations <= _MOST_ITERATIONS:
            raise InputError(
                f"{iterations} iterations cannot be exported: choose between 1 and "
                f"{_MOST_ITERATIONS}"
            )
        loop.iterations = iterations
        settings = recipe.loop.model_copy(update={"iterations": iterations})
        recipe = recipe.model_copy(update={"loop": settings})
    loop = loop.cpu().eval()
    return _Trained(trained, run, loop, describe_run(recipe, run, loop))


def _measure(trained: _Trained, image: NDArray[np.float32]) -> LoopDescription:
    """Return the description with the halo that the loop needs on an image."""
    loop, description = trained.loop, trained.description
    typical = image
    if loop.dims == 3:
        wanted = samples.choose_sample_shape(description)
        typical = samples.crop_middle(image, tuple(map(min, image.shape, wanted)))
    logger.info("measuring the halo on %s pixels", " x ".join(map(str, typical.shape)))
    halo = measure_halo(
        loop, torch.from_numpy(typical)[None, None], description.iterations, HALO_TOLERANCE
    )
    return description.model_copy(
        update={
            "halo_px": halo[-1],
            "halo_planes": halo[0] if loop.dims == 3 else None,
            "halo_tolerance": HALO_TOLERANCE,
            # Without "+cpu" and the like: the same torch writes the same package everywhere.
            "torch_version": torch.__version__.partition("+")[0],
        }
    )


def _cut_test_image(
    trained: _Trained, image: NDArray[np.float32], halo: tuple[int, ...], sample: Path | None
) -> NDArray[np.float32]:
    """Return the part of an image, or of a larger one, on which the model is tested."""
    dims = trained.loop.dims
    least = compute_smallest_block(halo, trained.loop.multiple)
    roomy = tuple(map(operator.add, least, _SPARE[dims]))
    if any(n < m for n, m in zip(image.shape, least, strict=True)):
        if sample is not None:
            raise InputError(
                f"{sample.name} is {' x '.join(map(str, image.shape))} pixels, too small for a "
                f"sample: give an image of at least {' x '.join(map(str, least))}"
            )
        image = samples.record_specimen(trained.recipe, trained.description, roomy)
    wanted = roomy if dims == 3 else tuple(map(max, samples.TEST_SHAPE, least))
    return samples.crop_middle(image, tuple(map(min, image.shape, wanted)))


def _make_tensor_files(
    tensors: samples.Tensors, description: LoopDescription, *, simulated: bool
) -> dict[Role, bytes]:
    """Return test tensors, sample images and cover."""
    raw, enhanced = tensors
    # A simulated specimen is as deep as all iterations; of others nothing is known.
    depth = description.step_optical_depth * (description.iterations if simulated else 1)
    shown, _ = dial_position(depth, description.step_optical_depth, description.iterations)
    return {
        "test_input": samples.serialize_npy(raw[None, None]),
        "test_output": samples.serialize_npy(enhanced),
        "sample_input": samples.serialize_tiff(raw[None], ["raw"]),
        "sample_output": samples.serialize_tiff(enhanced[0], list(description.channels)),
        "cover": samples.cover_png(raw, enhanced[0, max(shown, 1) - 1]),
    }


def _collect_attached(trained: _Trained) -> dict[Role, bytes]:
    """Return what turns the package into a run again, and the scripts."""
    files: dict[Role, bytes] = {
        "recipe": recipe_to_toml(trained.recipe).encode(),
        "run": (trained.run.model_dump_json(indent=1) + "\n").encode(),
        "fiji_script": (_SCRIPT_FOLDER / _FLAT["fiji_script"]).read_bytes(),
    }
    if trained.loop.dims == 2:
        # QuPath takes planes only.
        files["qupath_script"] = (_SCRIPT_FOLDER / _FLAT["qupath_script"]).read_bytes()
    return files


def _assemble(folder: Path, place: Callable[[Role, str], str], options: ExportOptions) -> _Contents:
    """Return the description of a run's package and the content of all other files."""
    name, sample = options.get("name", DEFAULT_NAME), options.get("sample")
    stem, written = make_model_id(name), read_card(options.get("card"))
    trained = _read_trained(folder, options.get("iterations"))
    if sample is None:
        wanted = samples.choose_sample_shape(trained.description)
        image = samples.record_specimen(trained.recipe, trained.description, wanted)
    else:
        image = samples.read_sample(sample, trained.recipe)
    description = _measure(trained, image)
    logger.info("running the loop on the test image")
    raw = _cut_test_image(trained, image, description.halo, sample)
    files = _make_tensor_files(
        samples.scale_to_one(raw, trained.loop), description, simulated=sample is None
    )
    logger.info("writing and comparing the weights")
    with tempfile.TemporaryDirectory() as scratch:
        exported = export_weights(trained.loop, Path(scratch), trained.recipe.network)
        for weights_format, file in exported.weights.items():
            files[weights_format] = (Path(scratch) / file).read_bytes()
        files["architecture"] = (Path(scratch) / exported.architecture).read_bytes()
    files |= _collect_attached(trained)
    facts = ModelFacts(
        name=name,
        recipe=trained.recipe,
        run=trained.run,
        loop=description,
        exported=exported,
        multiple=trained.loop.multiple,
        sample=None if sample is None else sample.name,
    )
    files["documentation"] = write_card(written, facts).encode()
    entries: dict[Role, FileEntry] = {
        role: FileEntry(path=place(role, stem), sha256=hashlib.sha256(data).hexdigest())
        for role, data in files.items()
    }
    told = merge_publication(trained.recipe.publication, options.get("publication"))
    return _Contents(build_rdf(facts, entries, told), files)


# ------------------------------------------------------------------------------- to files


def _make_zip(contents: _Contents, purpose: Purpose) -> bytes:
    """Return the flat package; stored, since compression differs between machines."""
    rdf, files = contents
    if purpose == "zoo":
        rdf = adapt_for_zoo(rdf)
    members: dict[str, bytes] = {"rdf.yaml": to_yaml(rdf).encode()}
    # QuPath, for which the second description is, takes planes only.
    if purpose == "files" and rdf["config"]["dcbmz"].get("dims", 2) == 2:
        members["model.yaml"] = to_yaml(adapt_for_qupath(rdf)).encode()
    named = {role for role, *_ in _list_places(rdf)}
    members |= {name: files[role] for role, name in _FLAT.items() if role in named}
    return pack_stored(members)


def _check_out(out: Path) -> None:
    """Refuse what is no name for a package."""
    if out.suffix.lower() != ".zip":
        raise InputError(f"{out} does not end in .zip, as a package does: give another name")
    if out.is_dir():
        raise InputError(f"{out} is a folder, but a package is a file: give another name")


def export_run(
    run: Path, out: Path, *, purpose: Purpose = "files", **options: Unpack[ExportOptions]
) -> Path:
    """Export a finished run as a BioImage Model Zoo package.

    Parameters
    ----------
    run : Path
        Run folder.
    out : Path
        The zip file; one that exists is replaced if all goes well.
    purpose : {'files', 'zoo'}
        `files`: all that users of Fiji and QuPath need. `zoo`: without id, and only the files
        that the description names, as an upload asks for.
    **options
        As in `ExportOptions`: iterations, card, sample, name, publication.

    Returns
    -------
    Path
        The package, `out`.

    Raises
    ------
    InputError
        If the run is none or has not finished, an option cannot be used, or `out` cannot be
        written.
    """
    _check_out(out)
    # Around all of the work: what cannot be written in the end is refused before it.
    with replace_whole(out) as temporary:
        contents = _assemble(run, lambda role, _: _FLAT[role], options)
        temporary.write_bytes(_make_zip(contents, purpose))
    return out


def _write(path: Path, data: bytes) -> None:
    with replace_whole(path) as temporary:
        temporary.write_bytes(data)


def write_repository_model(run: Path, root: Path, **options: Unpack[ExportOptions]) -> Path:
    """Write the same model unpacked: ``rdf.yaml``, ``weights/NAME.*``, ``model_cards/NAME.md``.

    The description, which is returned, is written last, so that it never names a file that is not
    there. Options and errors are those of `export_run`; `root` is an existing folder.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no folder: create it before a repository is written into it")
    rdf, files = _assemble(run, _repository_path, options)
    stem = make_model_id(options.get("name", DEFAULT_NAME))
    for role, data in files.items():
        path = root / _repository_path(role, stem)
        path.parent.mkdir(exist_ok=True)
        _write(path, data)
    _write(root / "rdf.yaml", to_yaml(rdf).encode())
    return root / "rdf.yaml"


# ------------------------------------------------------------------------------- from files


def _list_places(rdf: Mapping[str, Any]) -> Iterator[tuple[Role, Any, str | int]]:
    """Yield role, holder and key of every path in a description that `build_rdf` made."""
    yield "documentation", rdf, "documentation"
    yield "cover", rdf["covers"], 0
    # Fewer where there are fewer: a script is not for every program.
    for role, entry in zip(ATTACHED, rdf.get("attachments", ()), strict=False):
        yield role, entry, "source"
    for kind, tensors in (("input", rdf["inputs"]), ("output", rdf["outputs"])):
        for use in ("test", "sample"):
            role: Any = f"{use}_{kind}"
            yield role, tensors[0][f"{use}_tensor"], "source"
    weights = rdf["weights"]
    formats: tuple[Literal["pytorch_state_dict", "torchscript", "onnx"], ...] = (
        "pytorch_state_dict",
        "torchscript",
        "onnx",
    )
    for weights_format in formats:
        yield weights_format, weights[weights_format], "source"
    yield "architecture", weights["pytorch_state_dict"]["architecture"], "source"


def _read_described(rdf_path: Path) -> _Contents:
    """Return a model written by `write_repository_model`, its paths made flat."""
    files: dict[Role, bytes] = {}
    try:
        rdf: dict[str, Any] = yaml.safe_load(rdf_path.read_text(encoding="utf-8"))
        for role, holder, key in list(_list_places(rdf)):
            files[role] = (rdf_path.parent / holder[key]).read_bytes()
            said = holder.get("sha256") if key == "source" else None
            if said not in (None, hashlib.sha256(files[role]).hexdigest()):
                raise InputError(
                    f"{holder[key]} is not the file that {rdf_path} describes, it was changed: "
                    "write the model again"
                )
            holder[key] = _FLAT[role]
    except OSError as error:
        raise InputError(
            f"{error.filename}, which belongs to {rdf_path}, cannot be read ({error.strerror}): "
            "write the model again"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{rdf_path} is no description that dcbmz export wrote "
            f"({type(error).__name__}: {error}): give the rdf.yaml of an exported model"
        ) from error
    return _Contents(rdf, files)


def pack_described(
    rdf_path: Path,
    out: Path,
    *,
    publication: PublicationSettings | None = None,
    purpose: Purpose = "files",
) -> Path:
    """Flatten a model written by `write_repository_model` into the zip of `export_run`, `out`.

    Raises
    ------
    InputError
        If the description is not of this project, a file is missing or was changed, or `out`
        cannot be written.
    """
    _check_out(out)
    rdf, files = _read_described(rdf_path)
    if publication is not None:
        rdf = publish(rdf, publication)
    _write(out, _make_zip(_Contents(rdf, files), purpose))
    return out


def export_shipped(
    name: str,
    out: Path,
    *,
    publication: PublicationSettings | None = None,
    purpose: Purpose = "files",
) -> Path:
    """Write a shipped model as a package, `out`: the same bytes as its release.

    Raises
    ------
    InputError
        If there is no shipped model of that name, or `out` cannot be written.
    """
    if name not in SHIPPED:
        raise InputError(f"no shipped model is called {name!r}: give {' or '.join(SHIPPED)}")
    rdf_path = find_shipped_folder() / "rdf.yaml"
    return pack_described(rdf_path, out, publication=publication, purpose=purpose)


def export_named(
    name: str,
    out: Path,
    purpose: str,
    publication: PublicationSettings,
    options: Mapping[str, Any],
) -> Path:
    """Export a run folder, or a shipped model by its name, and return what was written.

    `options` are what else was asked for: iterations, card, name, sample, repository.

    Raises
    ------
    InputError
        If there is no such run or model, or an option cannot be used.
    """
    if purpose not in get_args(Purpose):
        raise InputError(f"a package is not written for {purpose!r}: give --for files or --for zoo")
    chosen = cast("Purpose", purpose)
    if name in SHIPPED:
        if options:
            asked = ", ".join(f"--{option}" for option in options)
            raise InputError(
                f"{asked} cannot be used for {name!r}, which is written as it was released: leave "
                "it out, or give a run folder"
            )
        return export_shipped(name, out, publication=publication, purpose=chosen)
    kept = {option: value for option, value in options.items() if option != "repository"}
    if "repository" not in options:
        return export_run(Path(name), out, publication=publication, purpose=chosen, **kept)
    if chosen != "files":
        raise InputError("--repository writes no package for the zoo: leave out --for zoo")
    return write_repository_model(Path(name), out, publication=publication, **kept)
