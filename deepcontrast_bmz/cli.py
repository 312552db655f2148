"""The command line ``dcbmz``: parses options, calls one function per command, prints the result.

Nothing heavy is imported here, so that ``dcbmz --help`` is instant; every command imports the
modules it needs. Exit codes: 0 done, 1 a check or verdict failed, 2 wrong usage or bad input.
"""

from __future__ import annotations

__all__ = ["app", "main"]

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepcontrast_bmz.errors import InputError, Unfinished, finite, name_file
from deepcontrast_bmz.progress import show_share, show_training, warn_once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepcontrast_bmz.evaluate.records import Evaluation
    from deepcontrast_bmz.predict.enhance import Enhanced

app = typer.Typer(
    name="dcbmz",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Contrast for deep-tissue microscopy without ground truth.",
    epilog="MODEL is a run folder, a package (folder, zip or rdf.yaml), or 'deepcontrast'. "
    "IMAGE is TIFF, OME-TIFF or OME-Zarr. Add --debug to any command for a traceback.",
)

Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE...", help="Raw images: TIFF, OME-TIFF or OME-Zarr.", show_default=False
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Run folder, package, or 'deepcontrast' for the shipped model."
    ),
]
Device = Annotated[str, typer.Option(help="Device to compute on: auto, cpu, cuda or mps.")]
Channel = Annotated[str | None, typer.Option(help="Channel to use: its name, or its index from 0.")]

Axes = Annotated[
    str | None,
    typer.Option(help="Letters of the axes, as TYX, in place of what the image says."),
]
Scene = Annotated[
    str | None, typer.Option(help="Which of several images to read: its name, or number from 0.")
]

MaskFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Image with zeros where IMAGE is no part of the picture; y, x (and z)."
    ),
]

MeanPhotons = Annotated[
    float | None,
    typer.Option(help="Mean photons per pixel before the tissue. Default: the values are photons."),
]
SavedDraw = Annotated[Path | None, typer.Option(help="JSON file to write the degradation to.")]
ReplayedDraw = Annotated[
    Path | None,
    typer.Option(help="JSON file with the degradation to apply, in place of one from options."),
]
ResultPath = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Output image, or folder for several. Default: NAME_enhanced.ome.tif beside each.",
        show_default=False,
    ),
]
EveryIteration = Annotated[
    bool, typer.Option("--all-iterations", help="Write every iteration, as channels.")
]


def _channel(text: str | None) -> str | int | None:
    """Take a whole number for an index, anything else for a name."""
    return int(text) if text is not None and text.isdecimal() else text


def _numbers(text: str, name: str) -> tuple[float, ...]:
    """Parse ``5.5,24``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"{name} is {text!r}, which is no list of numbers: write them with commas, as in 5.5,24"
        ) from error


def _print_version(asked: bool) -> None:
    if asked:
        from deepcontrast_bmz import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Handle what all commands share."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path(
        "dcbmz_demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """Train, enhance, score and export on a built-in image, in about five minutes."""
    from deepcontrast_bmz.demo import run_demo

    table = run_demo(out, seed=seed, say=print, report=show_training("training", _write_aside))
    print()
    for row in table:
        print(row)


@app.command()
def degrade(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image to degrade.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output image.", show_default=False)],
    optical_depth: Annotated[float, typer.Option(help="Optical depth of the tissue.")] = 1.0,
    widths: Annotated[
        str,
        typer.Option(help="Widths of the Gaussians of the scattering kernel, with commas between."),
    ] = "5.5,24",
    weights: Annotated[
        str, typer.Option(help="Share of each width, with commas between; they add up to 1.")
    ] = "0.7,0.3",
    unit: Annotated[str, typer.Option(help="Unit of the widths: px or um.")] = "px",
    absorption: Annotated[float, typer.Option(help="Optical depth of absorption.")] = 0.0,
    veil: Annotated[float, typer.Option(help="Even background, photons per pixel.")] = 0.0,
    photons: MeanPhotons = None,
    gain: Annotated[float, typer.Option(help="Electrons per count.")] = 1.0,
    offset: Annotated[float, typer.Option(help="Camera offset in counts.")] = 0.0,
    read_noise: Annotated[float, typer.Option(help="Read noise in electrons.")] = 0.0,
    bit_depth: Annotated[
        int | None, typer.Option(help="Bits of the camera. Default: counts are not rounded.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    channel: Channel = None,
    axes: Axes = None,
    scene: Scene = None,
    mask: MaskFile = None,
    save_draw: SavedDraw = None,
    replay: ReplayedDraw = None,
) -> None:
    """Apply the forward model to an image: scatter, absorb, veil, record."""
    from deepcontrast_bmz.dial.usable import find_holes
    from deepcontrast_bmz.image import check_pixels, read_image, read_mask, select_channel
    from deepcontrast_bmz.physics import simulate

    simulate.refuse_overwriting(
        [path for path in (image, replay, mask) if path is not None],
        [path for path in (out, save_draw) if path is not None],
    )
    picture = select_channel(read_image(image, axes=axes, scene=scene), _channel(channel))
    check_pixels(picture, image.name, holes=True)
    field = None if mask is None else read_mask(mask)
    holes = find_holes(picture, field, image.name)
    if replay is not None:
        degradation = simulate.read_degradation(replay)
    else:
        options = simulate.DegradationOptions(
            optical_depth=optical_depth,
            widths=_numbers(widths, "--widths"),
            weights=_numbers(weights, "--weights"),
            unit=unit,
            absorption=absorption,
            veil=veil,
            gain=gain,
            offset=offset,
            read_noise=read_noise,
            bit_depth=bit_depth,
            seed=seed,
        )
        degradation = simulate.make_degradation(picture, options)
    if photons is not None:
        finite(photons, "--photons", minimum=1e-6, hint="give a larger one")
    with name_file(image):
        recorded = simulate.simulate(picture, degradation, photons, holes=holes)
    simulate.write_simulated(recorded, out, degradation, save_draw)
    print(f"{out}: {image.name} through optical depth {degradation.optical_depth:g}")


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.", show_default=False)],
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="Raw images.", show_default=False),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Settings to use, such as the recipe.toml of another run.")
    ] = None,
    channel: Channel = None,
    axes: Axes = None,
    scene: Scene = None,
    mask: MaskFile = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training steps; with --resume on a finished run, so many more. "
            "Default: the recipe's.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of everything random. Default: the recipe's.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the run in --out; with --steps, train a finished one longer."
        ),
    ] = False,
    begin_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Model whose weights to begin from; without --recipe its network and physics too.",
        ),
    ] = None,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(help="Devices per node; on a CPU, processes.")] = 1,
    nodes: Annotated[int, typer.Option(help="Nodes. Start the same command on each.")] = 1,
    accumulate: Annotated[
        int, typer.Option(help="Parts to compute each batch in, to save memory.")
    ] = 1,
    precision: Annotated[
        str, typer.Option(help="Precision of training: auto, 32 or bf16.")
    ] = "auto",
) -> None:
    """Train on raw images alone and write a run folder."""
    from deepcontrast_bmz.image import parse_axes
    from deepcontrast_bmz.settings import Recipe, read_recipe
    from deepcontrast_bmz.train.begin import settings_of
    from deepcontrast_bmz.train.distributed import Spread
    from deepcontrast_bmz.train.raw_images import MaskedPath
    from deepcontrast_bmz.train.run import train_longer, train_run

    spread = Spread(devices, nodes, accumulate, precision)
    told = show_training("training", _write_aside)
    settings = read_recipe(recipe) if recipe is not None else None
    if resume and any(given is not None for given in (channel, axes, scene, seed)):
        raise InputError(
            "--resume continues a run with its own settings: leave out --channel, --axes, "
            "--scene and --seed"
        )
    if axes is not None:
        parse_axes(axes)
    if mask is not None and not images:
        raise InputError(f"{mask} is the mask of images, but none was given: name them, too")
    masked = [MaskedPath(image, mask) for image in images or []]
    if resume and steps is not None:
        if settings is not None or begin_from is not None:
            raise InputError(
                "--resume --steps trains a finished run longer: leave out --recipe and --from"
            )
        record = train_longer(out, steps, masked, device=device, spread=spread, report=told)
    else:
        if settings is None and not resume:
            settings = settings_of(begin_from) if begin_from is not None else Recipe()
        if settings is not None:
            settings = settings.with_changes(
                channel=_channel(channel), axes=axes, scene=scene, steps=steps, seed=seed
            )
        record = train_run(
            masked,
            out,
            settings,
            device=device,
            spread=spread,
            resume=resume,
            begin_from=begin_from,
            report=told,
        )
    scores = record.validation
    print(
        f"{out}: {record.steps} steps in {record.training_seconds:.0f} s on {record.device}; "
        f"held-out patches from {scores['psnr_degraded']:.2f} to {scores['psnr_restored']:.2f} dB"
    )


@app.command()
def predict(
    model: ModelName,
    images: Images,
    out: ResultPath = None,
    dial: Annotated[
        str | None,
        typer.Option(
            help="Optical depth to remove: a number, one per channel as c0=1.75,c1=1.2, or 'auto'. "
            "Default: the model's advice."
        ),
    ] = None,
    each: Annotated[
        bool,
        typer.Option("--each", help="Choose the automatic dial of every image on its own."),
    ] = False,
    iterations: Annotated[
        int | None, typer.Option(help="Whole iterations to run, instead of --dial.")
    ] = None,
    all_iterations: EveryIteration = False,
    reliability: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write, for every pixel from 0 to 1, how far both halves of the light agree "
            "on what was added; a folder for several images.",
        ),
    ] = None,
    channel: Channel = None,
    axes: Axes = None,
    scene: Scene = None,
    mask: MaskFile = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights to run: pytorch_state_dict, torchscript or onnx.")
    ] = None,
    device: Device = "auto",
    block: Annotated[
        str,
        typer.Option(help="Side of a block in pixels, or auto, from the model and free memory."),
    ] = "auto",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted run at the block where it stopped."),
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask.distributed scheduler to run blocks on.")
    ] = None,
    sharded: Annotated[
        bool,
        typer.Option("--sharded", help="Write many chunks per file in a .zarr (OME-Zarr 0.5)."),
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out images whose output is there.")
    ] = False,
    dtype: Annotated[
        str, typer.Option(help="Write pixels as float32, uint16, or the same as the image.")
    ] = "float32",
    compression: Annotated[
        str | None,
        typer.Option(
            help="Pack pixels without loss: none, zlib or zstd. Default: none in TIFF, which "
            "ImageJ reads, and lz4 in .zarr."
        ),
    ] = None,
) -> None:
    """Enhance images of any size; axes, pixel size and channel names are kept.

    Of several images, one that cannot be enhanced does not stop the others; those are listed at
    the end, with exit code 1.
    """
    from deepcontrast_bmz.model.open import open_model
    from deepcontrast_bmz.predict.files import predict_files

    side = _side(block)
    opened = open_model(model, weights=weights, device=device)
    failures: list[tuple[Path, str]] = []
    predict_files(
        opened,
        images,
        out,
        dial=dial,
        each=each,
        iterations=iterations,
        all_iterations=all_iterations,
        channel=_channel(channel),
        axes=axes,
        scene=scene,
        mask=mask,
        reliability=reliability,
        block=side,
        resume=resume,
        scheduler=scheduler,
        sharded=sharded,
        skip_existing=skip_existing,
        dtype=dtype,
        compression=compression,
        progress=show_share("enhancing", _write_aside),
        finished=_say_enhanced,
        failed=lambda path, reason: failures.append((path, reason)),
    )
    for path, reason in failures:
        print(f"failed: {path}: {reason}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def _say_enhanced(path: Path, result: Enhanced) -> None:
    """Print where the result is, its dial, and why that one."""
    print(f"{path}: {result.reason}")
    if result.change:
        _write_aside(f"{path}: {result.change}")


def _side(text: str) -> int | None:
    """Take the side of a block; None for auto."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"--block is {text!r}: write a whole number of pixels, or auto") from error


@app.command()
def evaluate(
    model: ModelName,
    images: Images,
    out: Annotated[Path, typer.Option("--out", "-o", help="Results folder.", show_default=False)],
    reference: Annotated[
        Path | None, typer.Option(help="Sharp image of the same field; for one IMAGE only.")
    ] = None,
    channel: Channel = None,
    axes: Axes = None,
    scene: Scene = None,
    mask: MaskFile = None,
    device: Device = "auto",
) -> None:
    """Sweep the dial: contrast gain beside its price, as a table, a plot and report.html.

    Exit code 1 if the verdict refuses an image at the automatic dial.
    """
    from deepcontrast_bmz.evaluate.report import REFUSED, evaluate_files
    from deepcontrast_bmz.image import Reading
    from deepcontrast_bmz.model.open import open_model

    opened = open_model(model, device=device)
    done: list[Evaluation] = []
    for line in evaluate_files(
        opened,
        images,
        out,
        reference=reference,
        channel=_channel(channel),
        how=Reading(axes, scene, mask),
        progress=show_share("evaluating", _write_aside),
        finished=done.append,
    ):
        print(line)
    if any(evaluation.chosen.verdict in REFUSED for evaluation in done):
        raise typer.Exit(1)


@app.command()
def view(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Raw image to look at.")],
    model: Annotated[
        str, typer.Option(help="Run folder, package, or 'deepcontrast' for the shipped model.")
    ] = "deepcontrast",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the report. Default: a temporary one."),
    ] = None,
    channel: Channel = None,
    device: Device = "auto",
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Write the report and open no browser.")
    ] = False,
) -> None:
    """Enhance an image at every dial and open the report in the browser."""
    import secrets
    import tempfile
    import webbrowser

    from deepcontrast_bmz.evaluate.report import view_file
    from deepcontrast_bmz.model.open import open_model

    opened = open_model(model, device=device)
    # Made by the writer, so that a refused image leaves no empty folder behind.
    folder = out or Path(tempfile.gettempdir(), f"dcbmz_view_{secrets.token_hex(4)}")
    told = show_share("evaluating", _write_aside)
    for line in view_file(opened, image, folder, channel=_channel(channel), progress=told):
        print(line)
    if not no_open and not webbrowser.open((folder / "report.html").resolve().as_uri()):
        print("no browser could be started: open that file in one")


@app.command()
def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run folder, or 'deepcontrast' as it is shipped.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Package.zip.", show_default=False)],
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1, max=16, help="Iterations, one output channel each. Default: the recipe's."
        ),
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Markdown file with the model card.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    sample: Annotated[
        Path | None,
        typer.Option(help="Raw image for the test tensors. Default: a simulated one."),
    ] = None,
    purpose: Annotated[
        str,
        typer.Option(
            "--for",
            help="files: with all that Fiji and QuPath users need; zoo: without id, and only what "
            "rdf.yaml names.",
        ),
    ] = "files",
    author: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:GITHUB_USER:ORCID:AFFILIATION", help="May be repeated."),
    ] = None,
    maintainer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:GITHUB_USER", help="Who answers questions; may be repeated."),
    ] = None,
    git_repo: Annotated[str | None, typer.Option(help="Address of the repository.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of the model, as 1.0.0.")] = None,
    training_data: Annotated[str | None, typer.Option(help="Id of a dataset in the zoo.")] = None,
    repository: Annotated[
        bool,
        typer.Option(
            "--repository", help="Write rdf.yaml, weights/ and model_cards/ into the folder OUT."
        ),
    ] = False,
) -> None:
    """Export a run, or the shipped model, as a BioImage Model Zoo package."""
    from deepcontrast_bmz.export.package import export_named
    from deepcontrast_bmz.export.publication import make_publication

    publication = make_publication(
        authors=author or [],
        maintainers=maintainer or [],
        git_repo=git_repo,
        version=version,
        training_data=training_data,
    )
    options = {"iterations": iterations, "card": card, "name": name, "sample": sample}
    given = {key: value for key, value in options.items() if value is not None}
    if repository:
        given["repository"] = True
    print(export_named(run, out, purpose, publication, given))


Engines = Annotated[
    str | None,
    typer.Option(
        metavar="ENGINES",
        help="Engines to run, with commas between: 'all' in this process (default), 'real' "
        "also those of other programs (downloaded once), 'none' to read files only.",
    ),
]
RunCode = Annotated[bool, typer.Option("--run-code", help="Allow code inside the package to run.")]


@app.command()
def check(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="Zip, folder or rdf.yaml.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    run: Engines = None,
    run_code: RunCode = False,
    zoo: Annotated[
        bool,
        typer.Option("--zoo", help="Foretell what the BioImage Model Zoo will say, and the score."),
    ] = False,
) -> None:
    """Check that a package opens and runs in every program; exit code 1 if a row fails."""
    from deepcontrast_bmz.check.check import check_package

    engines = None if run is None else [part for part in run.split(",") if part]
    result = check_package(package, run=engines, run_code=run_code, zoo=zoo)
    print(result.to_json() if as_json else result.to_text())
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def publish(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="Zip, folder or rdf.yaml.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list; nothing is sent.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    run: Engines = None,
    run_code: RunCode = False,
) -> None:
    """Check a package as 'check --zoo' does and list what an upload to the zoo would send."""
    if not dry_run:
        raise InputError(
            "no uploading is built in: add --dry-run to see what would be sent, then send it with "
            "the Upload page of bioimage.io, or with bioimageio.spec.upload and a token of yours"
        )
    from deepcontrast_bmz.check.check import check_package

    engines = None if run is None else [part for part in run.split(",") if part]
    result = check_package(package, run=engines, run_code=run_code, zoo=True, by_spec=True)
    print(result.to_json() if as_json else result.to_text())
    if result.zoo is not None and not as_json:
        print()
        print(result.zoo.upload_text())
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def port(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="Zip, folder or rdf.yaml.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Package.zip to write.", show_default=False)
    ],
    run_code: Annotated[
        bool,
        typer.Option("--run-code", help="Allow code inside the package to run, to add weights."),
    ] = False,
) -> None:
    """Rewrite another author's package so that it opens in every program."""
    from deepcontrast_bmz.port.port import port_package

    done = port_package(package, out, run_code=run_code)
    print(f"{out}: written")
    for heading, sentences in (
        ("changed:", done.changed),
        ("could not be mended:", done.left),
        ("not checked:", done.unchecked),
    ):
        for line in (heading, *(f"  - {sentence}" for sentence in sentences)) if sentences else ():
            print(line)


def _write_aside(line: str) -> None:
    """Print a line of progress where it does not mix with results."""
    print(line, file=sys.stderr)


# ---- entry


def _printed(rest: str = "") -> int:
    """Return 0 once all that was printed, and the rest, has arrived, 1 if it could not."""
    if sys.stdout is None:  # closed from the start, so nobody is waiting for it
        return 0
    try:
        sys.stdout.write(rest)
        sys.stdout.flush()
    except OSError as error:
        print(
            f"dcbmz: the results cannot be printed ({error.strerror}): free some space, or send "
            "them elsewhere",
            file=sys.stderr,
        )
        # Python would try once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``dcbmz`` and end the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        with warn_once():
            code = app(args=given, prog_name="dcbmz", standalone_mode=False)
        sys.exit(code if isinstance(code, int) and code else _printed())
    except InputError as error:
        if debug:
            raise
        print(f"dcbmz: {error}", file=sys.stderr)
        sys.exit(2)
    except Unfinished as error:
        if debug:
            raise
        print(f"dcbmz: {error}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        print("dcbmz: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:  # the last door: a sentence instead of a traceback
        if debug:
            raise
        if isinstance(error, OSError) and _printed("\n"):
            sys.exit(1)
        # What the parser of arguments refuses; its classes have no public name.
        said = getattr(error, "format_message", None)
        if said is not None:
            sentence = said().rstrip(".") or "a command is needed"
            print(f"dcbmz: {sentence}: see 'dcbmz --help'", file=sys.stderr)
            sys.exit(2)
        print(
            f"dcbmz: unexpected {type(error).__name__}: {error} "
            "(run again with --debug and report the traceback)",
            file=sys.stderr,
        )
        sys.exit(1)
