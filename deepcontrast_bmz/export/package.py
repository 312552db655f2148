"""From a run folder to one file that Fiji, QuPath, ilastik and `bioimageio` open.

A package is a flat zip: the description, three weights formats, test and sample tensors, a cover,
the documentation. The same run gives the same bytes: entries have a fixed order, date and rights,
and no file knows a folder or a user. The model at the top of a repository is the same package
with its files in ``weights`` and ``model_cards``.
"""

from __future__ import annotations

__all__ = [
    "HALO_TOLERANCE",
    "cover_png",
    "export_run",
    "imagej_tiff",
    "package_from_rdf",
    "stored_zip",
    "write_repository_model",
]

import hashlib
import io
import logging
import operator
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tifffile
import torch
import yaml
from matplotlib.image import imsave

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.halo import measure_halos
from deepcontrast_bmz.export.parity import PARITY_LIMIT
from deepcontrast_bmz.export.rdf import (
    ATTACHED,
    DEFAULT_NAME,
    FileEntry,
    Role,
    build_rdf,
    for_qupath,
    model_id,
    parse_maintainer,
    photons_text,
    shortest_side,
    smallest_block,
    title,
    to_yaml,
)
from deepcontrast_bmz.export.weights import export_weights
from deepcontrast_bmz.image import check_pixels, read_image, replace_whole, select_channel
from deepcontrast_bmz.model.loop import dial_position
from deepcontrast_bmz.model.open import describe_run, read_run
from deepcontrast_bmz.physics.camera import Camera
from deepcontrast_bmz.physics.degrade import Degradation, degrade
from deepcontrast_bmz.physics.phantoms import phantom, phantom_stack
from deepcontrast_bmz.physics.scatter import widths_in_pixels
from deepcontrast_bmz.settings import Scatter, recipe_to_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from deepcontrast_bmz.export.records import ExportRecord
    from deepcontrast_bmz.model.loop import Loop
    from deepcontrast_bmz.records import LoopDescription, RunRecord
    from deepcontrast_bmz.settings import Recipe

logger = logging.getLogger(__name__)

HALO_TOLERANCE = 1e-4
"""Largest change of an output pixel, over the output's range, that a halo may leave."""

_TEST_SHAPE = (264, 296)
"""Height and width of the test tensors, where the smallest block allows it; not square, so that
exchanged axes are noticed."""

_TEST_SPARE = (2, 0, 16)
"""The same of a stack: planes, rows and columns beyond the smallest block."""

_SAMPLE_SIDE = 416
"""Side of the image on which the halo is measured: up to 200 pixels."""

_STACK_SIDE = 176
"""Lateral side of a stack on which the halo is measured: up to 80 pixels."""

_LARGEST_SAMPLE = (64, _STACK_SIDE + 128, _STACK_SIDE + 128)
"""Planes, rows and columns of a stack that are read for the test tensors."""

_SAMPLE_OPTICAL_DEPTH = 2.0
"""Optical depth at which the phantom of the test tensors is recorded."""

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

_SCRIPTS = Path(__file__).parent / "scripts"
"""For Fiji and QuPath; the same in every package, which tells them its step and iterations."""


def _repository_path(role: Role, stem: str) -> str:
    if role == "documentation":
        return f"model_cards/{stem}.md"
    name = _FLAT[role]
    if role == "architecture":
        return f"weights/{stem}.py"
    if role in ("fiji_script", "qupath_script"):
        # The same for every model, and called the same in every page and package.
        return f"weights/{name}"
    return (
        f"weights/{stem}{name.removeprefix('weights')}"
        if name.startswith("weights")
        else (f"weights/{stem}.{name}")
    )


# ------------------------------------------------------------------------ images and tensors


def _recorded_phantom(
    recipe: Recipe, pixel_size_um: float | None, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return membranes recorded through tissue with a 16-bit camera: counts, ((Z,) Y, X)."""
    kernel = recipe.physics.scatter
    if kernel.unit == "um" and pixel_size_um is None:
        kernel = Scatter()
    rng = np.random.default_rng(20)
    if len(shape) == 3:
        photons = torch.from_numpy(phantom_stack("membranes", (shape[0], *shape[-2:]), rng))
    else:
        photons = torch.from_numpy(phantom("membranes", shape, rng))
    photons = photons * (150 / float(photons.mean()))
    recording = Degradation(
        optical_depth=_SAMPLE_OPTICAL_DEPTH,
        widths_px=widths_in_pixels(kernel, pixel_size_um),
        weights=kernel.weights,
        veil_photons=15.0,
        camera=Camera(gain=0.5, offset=100.0, read_noise_electrons=1.5, bit_depth=16),
        seed=21,
    )
    return degrade(photons, recording).numpy().astype(np.float32)


def _sample_shape(description: LoopDescription) -> tuple[int, ...]:
    """Return the size of an image on which the halo of the loop can be measured."""
    if description.dims == 2:
        return (max(min(2 * description.halo_px + 16, _SAMPLE_SIDE), *_TEST_SHAPE),) * 2
    side = min(2 * description.halo_px + 16, _STACK_SIDE)
    return (2 * (description.halo_planes or 0) + 2, side, side)


def _sample_image(path: Path, recipe: Recipe, most: tuple[int, ...]) -> NDArray[Any]:
    """Return the middle of an image, ((Z,) Y, X), for planes of its middle plane."""
    image = select_channel(read_image(path), recipe.data.channel)
    dims = ("z", "y", "x")[-len(most) :]
    if len(most) == 3 and "z" not in image.dims:
        raise InputError(
            f"the sample of a model for stacks is a z-stack, but {path.name} has axes "
            f"{', '.join(str(dim) for dim in image.dims)}: give an image with a z axis"
        )
    for dim in ("t", "c", "z"):
        if dim in image.dims and dim not in dims:
            image = image.isel({dim: image.sizes["z"] // 2 if dim == "z" else 0})
    cut = {
        dim: slice((n - min(n, least)) // 2, (n + min(n, least)) // 2)
        for dim, least in zip(dims, most, strict=True)
        for n in (image.sizes[dim],)
    }
    image = image.isel(cut)
    check_pixels(image, path.name)
    return np.ascontiguousarray(image.transpose(*dims).to_numpy(), dtype=np.float32)


def _middle(image: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    starts = ((n - m) // 2 for n, m in zip(image.shape, shape, strict=True))
    window = tuple(slice(start, start + m) for start, m in zip(starts, shape, strict=True))
    return np.ascontiguousarray(image[window])


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _display_range(plane: NDArray[Any]) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(plane, (0.3, 99.8)))
    return (low, high) if high > low else (low, low + 1)


def imagej_tiff(image: NDArray[Any], labels: list[str]) -> bytes:
    """Return an ImageJ TIFF with a display range that shows something, of one or more channels.

    Parameters
    ----------
    image : ndarray, (C, (Z,) Y, X)
    labels : list of str
        One for each channel.
    """
    ranges = [_display_range(channel) for channel in image]
    # ImageJ has channels behind planes.
    ordered = image if image.ndim == 3 else image.swapaxes(0, 1)
    axes = "CYX" if image.ndim == 3 else "ZCYX"
    planes = 1 if image.ndim == 3 else image.shape[1]
    if len(image) == 1:
        ordered, axes = ordered.squeeze(axes.index("C")), axes.replace("C", "")
    metadata: dict[str, Any] = {"axes": axes, "Labels": labels * planes}
    if len(image) == 1:
        metadata |= {"min": ranges[0][0], "max": ranges[0][1]}
    else:
        metadata |= {"mode": "grayscale", "Ranges": tuple(v for pair in ranges for v in pair)}
    file = io.BytesIO()
    ordered = np.ascontiguousarray(ordered)
    tifffile.imwrite(file, ordered, imagej=True, metadata=metadata, software=False)
    return file.getvalue()


def cover_png(raw: NDArray[Any], enhanced: NDArray[Any]) -> bytes:
    """Return a PNG twice as wide as high: before on the left, after on the right.

    Of stacks, (Z, Y, X), the plane in the middle.
    """
    if raw.ndim == 3:
        raw, enhanced = raw[len(raw) // 2], enhanced[len(enhanced) // 2]
    side = min(256, *raw.shape)
    panels: list[NDArray[Any]] = []
    for plane in (raw, enhanced):
        part = _middle(plane, (side, side))
        low, high = _display_range(part)
        grey = np.clip((part - low) / (high - low), 0, 1)
        panels.append(np.kron((255 * grey).round().astype(np.uint8), np.ones((2, 2), np.uint8)))
    picture = np.concatenate(panels, axis=1)
    picture[:, 2 * side - 2 : 2 * side + 2] = 255
    file = io.BytesIO()
    rgb = np.repeat(picture[:, :, None], 3, axis=2)
    unsigned: Any = {"Software": None}
    imsave(file, rgb, format="png", metadata=unsigned)
    return file.getvalue()


# ------------------------------------------------------------------------------ model card


def _card_intro(name: str, recipe: Recipe, run: RunRecord) -> str:
    physics = recipe.physics
    step = physics.step_optical_depth
    widths = ", ".join(f"{w:g}" for w in physics.scatter.widths)
    shares = ", ".join(f"{w:g}" for w in physics.scatter.weights)
    images = "".join(
        f"- `{image.name}`, {image.dims} {' x '.join(str(n) for n in image.shape)}"
        f"{'' if image.pixel_size_um is None else f', {image.pixel_size_um:g} um per pixel'}"
        f", for {'training and validation' if image.used_for == 'both' else image.used_for}, "
        f"SHA-256 {image.sha256[:12]}...\n"
        for image in run.images
    )
    if run.phantoms:
        images += f"- {run.phantoms} procedural specimens, recorded at optical depth "
        images += f"{recipe.data.phantom_optical_depth[0]:g} to "
        images += f"{recipe.data.phantom_optical_depth[1]:g}\n"
    factors = "{:g} to {:g}".format(*physics.width_factor)
    recorded = "recorded in one plane or plane by plane,\nwith noise as a camera or detector "
    recorded += "leaves it. Any image size, any unit of grey value, any offset."
    patches = f"{recipe.data.patch} x {recipe.data.patch}"
    if recipe.network.dims == 3:
        recorded = "recorded as z-stacks,\nwith noise as a camera or detector leaves it. "
        recorded += "Neighbouring planes are seen together; the scattering\nthat is undone acts "
        recorded += "within the plane. Any unit of grey value, any offset."
        patches = f"{recipe.data.patch_planes} x {patches}"
    minutes = run.training_seconds / 60
    return f"""# {title(name)}

Deep in tissue, light scatters and contrast fades. This model gives contrast back, one step at a
time: each iteration undoes the scattering of optical depth {step:g} (one optical depth is the path
after which 37 % of the light has not been scattered). Channel `iteration_k` of the output is the
image after k iterations, so that you choose the balance between contrast and detail.

## What it is for

Fluorescence images of specimens in scattering tissue, {recorded}

## What it is not for

- Measuring intensities: contrast is restored by inference, not recorded. Compare with the raw
  image before you count or measure anything.
- Blur that is not scattering: defocus, motion, spherical aberration.
- Images that were denoised, deconvolved, rescaled or saved with losses before.
- More iterations than the specimen's optical depth: each one too many invents contrast and
  removes detail.

## How it was trained

Without any clean image, after the idea of DeepContrast (arXiv 2308.08365): raw images are degraded
further, the network learns the way back, and is then applied to the raw images themselves. The
forward model is this project's own, not the paper's: a photon is scattered a Poisson number of
times, each time by a mixture of Gaussians with widths {widths} {physics.scatter.unit} and shares
{shares} (widths varied by factors {factors}), followed by absorption, veil, shot noise of
{photons_text(physics)} and read noise.

{images}
Network: {recipe.network.kind}, width {recipe.network.width}, {run.parameters:,} parameters;
{run.steps:,} steps of {recipe.training.batch} patches of {patches}
pixels in {minutes:.3g} minutes on a {"GPU" if run.device == "cuda" else "CPU"}, seed {recipe.seed},
with deepcontrast_bmz {run.version} and torch {run.torch_version}. All settings are in
`recipe.toml`, which is attached.
"""


def _card_validation(
    recipe: Recipe, run: RunRecord, exported: ExportRecord, description: LoopDescription
) -> str:
    against = "the raw ones" if recipe.data.input_share is None else "the other light"
    names = {
        "loss": "mean absolute difference, in deviations of the target",
        "psnr_degraded": f"PSNR of the degraded patches against {against}, dB",
        "psnr_restored": f"PSNR of the restored patches against {against}, dB",
    }
    scores = "".join(
        f"| {names.get(key, key)} | {value:.4g} |\n" for key, value in run.validation.items()
    )
    parity = "".join(
        f"| {fmt} | {exported.largest_difference(fmt):.1e} |\n" for fmt in exported.weights
    )
    shapes = sorted({row.shape for row in exported.parity})
    sizes = ", ".join(" x ".join(map(str, (b, *sides))) for b, _, *sides in shapes)
    images, tile = "height x\nwidth", f"{description.halo_px} pixels around it"
    if description.dims == 3:
        images = "depth x\nheight x width"
        tile = f"{description.halo_px} pixels around it, and of\n{description.halo_planes} planes "
        tile += "above and below,"
    target = "The raw image is the\ntarget:"
    if recipe.data.input_share is not None:
        target = (
            f"Each patch is made\nof {recipe.data.input_share:.0%} of the light and compared with "
            "the rest of it, whose noise is in these\nfigures:"
        )
    return f"""## Validation

On held-out patches of the raw images, degraded by one step and restored. {target} these \
numbers tell how well a known
degradation is undone, not how close the result is to a specimen that nobody has seen.

| score | value |
|---|---|
{scores}
Every weights format was run against the network it was written from, on images of batch x \
{images} {sizes}; allowed is {PARITY_LIMIT:g} of the output's range.

| weights | largest difference |
|---|---|
{parity}
A tile that is seen with a halo of {tile} differs from the whole
image by at most {description.halo_tolerance:g} of the range (measured).
"""


def _card_use(description: LoopDescription, multiple: int) -> str:
    step, last = description.step_optical_depth, description.channels[description.iterations - 1]
    least = shortest_side(description.halo_px, multiple)
    blocks = max(512 - least, 0)
    qupath = """unpack the package and run the attached script `deepcontrast_qupath.groovy` on a
  region, or choose `model.yaml` (not `rdf.yaml`) with the Bioimage Model Zoo extension."""
    images = f"""for images larger than
  {least + blocks} pixels along both sides add `--blockwise={blocks}` (blocks of {least + blocks}
  pixels), never `--blockwise=True`, whose blocks are almost all halo."""
    if description.dims == 3:
        qupath = "not for this model: QuPath runs models for single planes only."
        planes, least, _ = smallest_block(description.halo, multiple)
        images = f"""it refuses stacks
  of fewer than {planes} planes or {least} x {least} pixels. For large stacks add `--blockwise=N`:
  blocks are larger than that by N along every axis, so N is at most the number of planes
  minus {planes}."""
    return f"""## How to use it

Begin with `iteration_1` and take the smallest iteration that serves your question, up to `{last}`.

- **Fiji (deepImageJ)**: install the package from file, then *Plugins > DeepImageJ > DeepImageJ
  Run*. The display range of a saved result is 0 to 1: press *Reset* in *Image > Adjust >
  Brightness/Contrast*, or run the macro line `resetMinAndMax();`. The iterations are channels.
  The attached macro `deepcontrast_fiji.ijm` does all this, turns the dial and keeps the pixel size.
  Cut images above 50 megapixels first: deepImageJ does not come back from them.
- **QuPath**: {qupath}
- **ilastik**: give the package to the neural network workflow and choose an output channel.
- **bioimageio**: `bioimageio predict` on the package; {images}
- **dcbmz**: `dcbmz predict PACKAGE IMAGE -o OUT --dial auto` keeps axes, pixel size and channel
  names, and takes any dial in between.

In between two iterations, for a dial D (optical depth to remove, one iteration is {step:g}): let
k be the whole number of steps in D and b = D - {step:g} k what remains; then
alpha = (exp(b) - 1) / (exp({step:g}) - 1) and the image is
iteration_k + alpha (iteration_(k+1) - iteration_k), where iteration_0 is the raw image.
"""


_GENERATED = re.compile(
    r"\n*<!-- written by dcbmz export -->\n.*?<!-- end of what dcbmz export wrote -->\n*", re.DOTALL
)


def _read_card(card: Path | None) -> str | None:
    """Return a written card, before any work is done for it."""
    if card is None:
        return None
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"a model card is a text file in Markdown, but {card} cannot be read "
            f"({error}): give another file, or leave --card away"
        ) from error


def _documentation(
    card: str | None,
    name: str,
    description: LoopDescription,
    recipe: Recipe,
    run: RunRecord,
    exported: ExportRecord,
    multiple: int,
) -> str:
    """Return the card, with scores and instructions where it does not have them itself.

    What was written by an earlier export stands between two comments and is replaced.
    """
    text = _card_intro(name, recipe, run) if card is None else _GENERATED.sub("\n", card)
    sections = [
        section
        for heading, section in (
            ("validation", _card_validation(recipe, run, exported, description)),
            ("how to use it", _card_use(description, multiple)),
        )
        if not re.search(rf"^#+ .*{heading}", text, re.MULTILINE | re.IGNORECASE)
    ]
    if not sections:
        return text
    return (
        text.rstrip("\n")
        + "\n\n<!-- written by dcbmz export -->\n"
        + "\n".join(sections)
        + "<!-- end of what dcbmz export wrote -->\n"
    )


# ------------------------------------------------------------------------------- the package


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _with_iterations(recipe: Recipe, loop: Loop, iterations: int | None) -> Recipe:
    if iterations is None:
        return recipe
    if not 1 <= iterations <= 16:
        raise InputError(f"iterations lie between 1 and 16, not {iterations}: choose one of these")
    loop.iterations = iterations
    settings = recipe.loop.model_copy(update={"iterations": iterations})
    return recipe.model_copy(update={"loop": settings})


def _assemble(
    run_folder: Path,
    place: Callable[[Role, str], str],
    *,
    iterations: int | None,
    card: Path | None,
    maintainer: str | None,
    sample: Path | None,
    name: str,
) -> tuple[dict[str, Any], dict[Role, bytes]]:
    """Return the description of a run's package and the content of all other files."""
    stem = model_id(name)
    contact = None if maintainer is None else parse_maintainer(maintainer)
    written = _read_card(card)
    if not run_folder.is_dir() or not (run_folder / "recipe.toml").is_file():
        raise InputError(
            f"a run is a folder that dcbmz train wrote, with recipe.toml in it, but {run_folder} "
            f"{'has none' if run_folder.is_dir() else 'is no folder'}: give a run folder"
        )
    trained, run, loop = read_run(run_folder)
    recipe = _with_iterations(trained, loop, iterations)
    loop = loop.cpu().eval()
    description = describe_run(recipe, run, loop)
    wanted = _sample_shape(description)
    if sample is None:
        image = _recorded_phantom(recipe, description.training_pixel_size_um, wanted)
    else:
        most = _LARGEST_SAMPLE if loop.dims == 3 else (_SAMPLE_SIDE,) * 2
        image = _sample_image(sample, recipe, most)
    typical = image
    if loop.dims == 3:
        typical = _middle(image, tuple(map(min, image.shape, wanted)))
    logger.info("measuring the halo on %s pixels", " x ".join(map(str, typical.shape)))
    halo = measure_halos(
        loop, torch.from_numpy(typical)[None, None], description.iterations, HALO_TOLERANCE
    )
    description = description.model_copy(
        update={
            "halo_px": halo[-1],
            "halo_planes": halo[0] if loop.dims == 3 else None,
            "halo_tolerance": HALO_TOLERANCE,
            # Without "+cpu" and the like: the same torch writes the same package everywhere.
            "torch_version": torch.__version__.partition("+")[0],
        }
    )
    least = smallest_block(halo, loop.multiple)
    spare = _TEST_SPARE if loop.dims == 3 else (32, 32)
    if any(n < m for n, m in zip(image.shape, least, strict=True)):
        if sample is not None:
            raise InputError(
                f"the sample image must be at least {' x '.join(map(str, least))} pixels, but "
                f"{sample.name} is {' x '.join(map(str, image.shape))}: give a larger one"
            )
        larger = tuple(map(operator.add, least, spare))
        image = _recorded_phantom(recipe, description.training_pixel_size_um, larger)
    shape = tuple(map(operator.add, least, spare)) if loop.dims == 3 else _TEST_SHAPE
    raw = _middle(image, tuple(map(min, image.shape, map(max, shape, least))))
    logger.info("running the loop on the test image")
    with torch.inference_mode():
        enhanced = loop(torch.from_numpy(raw)[None, None]).numpy()
    logger.info("writing and comparing the weights")
    with tempfile.TemporaryDirectory() as folder:
        exported = export_weights(loop, Path(folder), recipe.network)
        content: dict[Role, bytes] = {
            weights_format: (Path(folder) / file).read_bytes()
            for weights_format, file in exported.weights.items()
        }
        content["architecture"] = (Path(folder) / exported.architecture).read_bytes()
    content["test_input"] = _npy(raw[None, None])
    content["test_output"] = _npy(enhanced)
    content["sample_input"] = imagej_tiff(raw[None], ["raw"])
    content["sample_output"] = imagej_tiff(enhanced[0], list(description.channels))
    depth = _SAMPLE_OPTICAL_DEPTH if sample is None else description.step_optical_depth
    most = description.iterations * description.step_optical_depth
    shown, _ = dial_position(
        min(depth, most), description.step_optical_depth, description.iterations
    )
    content["cover"] = cover_png(raw, enhanced[0, max(shown, 1) - 1])
    content["recipe"] = recipe_to_toml(trained).encode()
    # With recipe and weights this is the run again: the package can be rebuilt from itself.
    content["run"] = (run.model_dump_json(indent=1) + "\n").encode()
    scripts: tuple[Role, ...] = ("fiji_script", "qupath_script")
    # QuPath takes planes only.
    for role in scripts if loop.dims == 2 else scripts[:1]:
        content[role] = (_SCRIPTS / _FLAT[role]).read_bytes()
    text = _documentation(written, name, description, recipe, run, exported, loop.multiple)
    content["documentation"] = text.encode()
    rdf = build_rdf(
        name,
        {
            role: FileEntry(path=place(role, stem), sha256=_sha256(data))
            for role, data in content.items()
        },
        description=description,
        recipe=recipe,
        run=run,
        exported=exported,
        multiple=loop.multiple,
        output_range=(float(enhanced.min()), float(enhanced.max())),
        maintainer=contact,
    )
    return rdf, content


def stored_zip(members: Mapping[str, bytes]) -> bytes:
    """Return a zip of files by name, in this order, the same bytes every time and everywhere."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return file.getvalue()


def _zip_bytes(rdf: Mapping[str, Any], content: Mapping[Role, bytes]) -> bytes:
    """Return the flat package; stored, since compression differs between machines."""
    members: dict[str, bytes] = {"rdf.yaml": to_yaml(rdf).encode()}
    # QuPath, for which the second description is, takes planes only.
    if rdf["config"]["dcbmz"].get("dims", 2) == 2:
        members["model.yaml"] = to_yaml(for_qupath(rdf)).encode()
    members |= {name: content[role] for role, name in _FLAT.items() if role in content}
    return stored_zip(members)


def _check_out(out: Path) -> None:
    """Refuse what is no name for a package."""
    if out.suffix.lower() != ".zip":
        raise InputError(f"a package is a zip file, but {out} does not end in .zip: rename it")
    if out.is_dir():
        raise InputError(f"a package is a file, but {out} is a folder: give another name")


def export_run(
    run: Path,
    out: Path,
    *,
    iterations: int | None = None,
    card: Path | None = None,
    maintainer: str | None = None,
    sample: Path | None = None,
    name: str | None = None,
) -> Path:
    """Export a finished run as a BioImage Model Zoo package.

    Parameters
    ----------
    run : Path
        Run folder.
    out : Path
        The zip file; one that exists is replaced if all goes well.
    iterations : int, optional
        Output channels; the recipe's number if left out.
    card : Path, optional
        Model card in Markdown. Scores and instructions are added where it has no section with
        the heading *Validation* or *How to use it*. Left out, a whole card is written.
    maintainer : str, optional
        ``NAME:GITHUB_USER``.
    sample : Path, optional
        A raw image for the test tensors and the cover; a recorded phantom if left out.
    name : str, optional
        Name of the model.

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
        rdf, content = _assemble(
            run,
            lambda role, _: _FLAT[role],
            iterations=iterations,
            card=card,
            maintainer=maintainer,
            sample=sample,
            name=DEFAULT_NAME if name is None else name,
        )
        temporary.write_bytes(_zip_bytes(rdf, content))
    return out


def _write(path: Path, data: bytes) -> None:
    with replace_whole(path) as temporary:
        temporary.write_bytes(data)


def write_repository_model(
    run: Path,
    root: Path,
    *,
    name: str = DEFAULT_NAME,
    card: Path | None = None,
    iterations: int | None = None,
    maintainer: str | None = None,
    sample: Path | None = None,
) -> Path:
    """Write the same model unpacked: ``rdf.yaml``, ``weights/NAME.*``, ``model_cards/NAME.md``.

    The description is written last, so that it never names a file that is not there.

    Parameters
    ----------
    run : Path
        Run folder.
    root : Path
        Top of the repository, an existing folder.
    name, card, iterations, maintainer, sample
        As in `export_run`; `card` may be the documentation written before.

    Returns
    -------
    Path
        The description, ``root/rdf.yaml``.

    Raises
    ------
    InputError
        As `export_run`.
    """
    if not root.is_dir():
        raise InputError(f"a repository is a folder, but {root} is none: create it first")
    rdf, content = _assemble(
        run,
        _repository_path,
        iterations=iterations,
        card=card,
        maintainer=maintainer,
        sample=sample,
        name=name,
    )
    stem = model_id(name)
    for role, data in content.items():
        path = root / _repository_path(role, stem)
        path.parent.mkdir(exist_ok=True)
        _write(path, data)
    _write(root / "rdf.yaml", to_yaml(rdf).encode())
    return root / "rdf.yaml"


def _places(rdf: dict[str, Any]) -> Iterator[tuple[Role, Any, str | int]]:
    """Yield role, holder and key of every path in a description that `build_rdf` made."""
    yield "documentation", rdf, "documentation"
    yield "cover", rdf["covers"], 0
    # Fewer where there are fewer: a script is not for every program.
    for role, entry in zip(ATTACHED, rdf["attachments"], strict=False):
        yield role, entry, "source"
    for kind, tensors in (("input", rdf["inputs"]), ("output", rdf["outputs"])):
        for purpose in ("test", "sample"):
            role: Any = f"{purpose}_{kind}"
            yield role, tensors[0][f"{purpose}_tensor"], "source"
    weights = rdf["weights"]
    formats: tuple[Literal["pytorch_state_dict", "torchscript", "onnx"], ...] = (
        "pytorch_state_dict",
        "torchscript",
        "onnx",
    )
    for weights_format in formats:
        yield weights_format, weights[weights_format], "source"
    yield "architecture", weights["pytorch_state_dict"]["architecture"], "source"


def package_from_rdf(rdf_path: Path, out: Path) -> Path:
    """Flatten a model written by `write_repository_model` into the zip of `export_run`.

    Parameters
    ----------
    rdf_path : Path
        Its ``rdf.yaml``.
    out : Path
        The zip file; one that exists is replaced if all goes well.

    Returns
    -------
    Path
        The package, `out`: the same bytes as exported directly.

    Raises
    ------
    InputError
        If the description is not of this project, a file is missing or was changed, or `out`
        cannot be written.
    """
    _check_out(out)
    content: dict[Role, bytes] = {}
    try:
        rdf: dict[str, Any] = yaml.safe_load(rdf_path.read_text(encoding="utf-8"))
        for role, holder, key in list(_places(rdf)):
            content[role] = (rdf_path.parent / holder[key]).read_bytes()
            said = holder.get("sha256") if key == "source" else None
            if said not in (None, _sha256(content[role])):
                raise InputError(
                    f"files must be those that {rdf_path} describes, but {holder[key]} was "
                    "changed: write the model again"
                )
            holder[key] = _FLAT[role]
    except OSError as error:
        raise InputError(
            f"a description comes with its files, but {error.filename} cannot be read "
            f"({error.strerror}): write the model again"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"a description to package is one that dcbmz export wrote, but {rdf_path} is not "
            f"({type(error).__name__}: {error}): give the rdf.yaml of an exported model"
        ) from error
    _write(out, _zip_bytes(rdf, content))
    return out
