"""The scripts for Fiji and QuPath, run by ImageJ's macro interpreter and by Groovy.

deepImageJ and QuPath themselves cannot be installed from public Maven repositories: stand-ins take
their place, so that what is proven is the scripts' own work. They offer only what was read off the
programs: `tests/api` lists it with file and version, and tests here compare. No job needs a screen.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
import yaml
from imagej import GROOVY, Opened, Told, read_opened, run_jobs

from deepcontrast_bmz.export.package import export_run
from deepcontrast_bmz.image import read_image, write_image
from deepcontrast_bmz.model.loop import blend

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCRIPTS = Path(__file__).parents[2] / "deepcontrast_bmz" / "export" / "scripts"
FIJI = SCRIPTS / "deepcontrast_fiji.ijm"
QUPATH = SCRIPTS / "deepcontrast_qupath.groovy"
JAVA = Path(__file__).parents[1] / "java"
API = Path(__file__).parents[1] / "api"
STEP = 0.5
STARTS = ("many", "volume", "ready", "unnamed", "named", "current")
"""Jobs whose results are opened again."""
UNITS = {"um": "um", "micro": "\\u00B5m", "nm": "nm", "mm": "mm"}
"""As ImageJ's headers spell them."""
PARTS = ("1", "2", "7", "16", "29", "39", "40")
"""Sizes of the parts that QuPath is given; the image is 40 x 30, the halo 3."""
DIALS = ("0", "0.2", "0.5", "0.7", "1.0", "1.499", "1.5")
RDF = """format_version: 0.5.4
config:
  bioimageio:
    step_optical_depth: 7.0
    channels:
      - other
  dcbmz:
    schema_version: 1
    step_optical_depth: 0.5
    iterations: 3
    channels:
      - iteration_1
      - iteration_2
      - iteration_3
    dims: {dims}
    halo_px: 72
    training_ranges:
      step_optical_depth: 9.0
    torch_version: 2.5.1
"""


def iterated(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Iterations 1 to 3 of the stand-ins, at axis -3 of (..., y, x)."""
    return np.stack([raw * np.float32(1 + k / 4) + k for k in (1, 2, 3)], axis=-3)


def at_dial(raw: NDArray[np.float32], dial: str) -> NDArray[np.float32]:
    """What Python makes of it."""
    iterations = torch.from_numpy(iterated(raw))
    return blend(torch.from_numpy(raw), iterations, float(dial), STEP).numpy()


def assert_near(result: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    """Equal to a few roundings of a float32."""
    assert result.shape == wanted.shape
    np.testing.assert_allclose(result, wanted, rtol=1e-6, atol=1e-6 * float(np.abs(wanted).max()))


# ------------------------------------------------------------------------------ the package


@pytest.fixture(scope="module")
def package(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(tiny_run, tmp_path_factory.mktemp("package") / "tiny.zip")


def test_package_has_both_scripts_beside_its_weights(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        for name in ("rdf.yaml", "model.yaml"):
            entries = yaml.safe_load(archive.read(name))["attachments"]
            hashes = {entry["source"]: entry["sha256"] for entry in entries}
            for script in (FIJI, QUPATH):
                assert archive.read(script.name) == script.read_bytes()
                assert hashes[script.name] == hashlib.sha256(script.read_bytes()).hexdigest()


def test_scripts_name_no_machine_and_are_plain_text() -> None:
    for script in (FIJI, QUPATH):
        text = script.read_bytes().decode("ascii")
        assert "\t" not in text
        assert "/home" not in text


# ---------------------------------------------------------------------- all jobs, one Java


@dataclass(frozen=True)
class Bench:
    """The results of all jobs by name."""

    folder: Path
    told: dict[str, Told]

    def opened(self, name: str) -> Opened:
        return read_opened(self.folder / f"{name}.opened")

    def refusal(self, name: str) -> str:
        told = self.told[name]
        assert not told.ended, told.text
        sentence = told.text.splitlines()[-1]
        assert sentence.endswith("."), told.text
        assert not (self.folder / f"{name}.tif").exists()
        return sentence


def images() -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(3)
    return {
        "many": rng.integers(0, 60000, (2, 3, 2, 10, 12)).astype(np.uint16),
        "plane": rng.integers(0, 255, (9, 14)).astype(np.uint8),
        "stack": rng.normal(100, 30, (4, 8, 7)).astype(np.float32),
        "movie": rng.integers(0, 4000, (3, 8, 7)).astype(np.uint16),
        "rgb": rng.integers(0, 255, (6, 7, 3)).astype(np.uint8),
    }


def write_images(folder: Path) -> None:
    made = images()
    labels = [f"t{t} z{z} c{c}" for t in range(2) for z in range(3) for c in range(2)]
    tifffile.imwrite(
        folder / "many.tif",
        made["many"],
        imagej=True,
        resolution=(4, 4),
        metadata={
            "axes": "TZCYX",
            "unit": "um",
            "spacing": 1.5,
            "finterval": 2.5,
            "mode": "composite",
            "Labels": labels,
        },
    )
    tifffile.imwrite(
        folder / "plane.tif", made["plane"], imagej=True, resolution=(2, 2), metadata={"unit": "mm"}
    )
    tifffile.imwrite(folder / "stack.tif", made["stack"], imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(
        folder / "movie.tif",
        made["movie"],
        imagej=True,
        resolution=(5, 5),
        metadata={"axes": "TYX", "unit": "um", "finterval": 0.25},
    )
    tifffile.imwrite(folder / "rgb.tif", made["rgb"], photometric="rgb")
    # As a program saves results that knows no names.
    every = iterated(made["movie"].astype(np.float32))
    tifffile.imwrite(folder / "no names.tif", every, imagej=True, metadata={"axes": "TCYX"})
    # As `dcbmz predict` saves them, the name of the image's own channel before that of the model's.
    named = xr.DataArray(
        iterated(made["plane"].astype(np.float32)),
        dims=("c", "y", "x"),
        coords={"c": ["GFP iteration_1", "GFP iteration_2", "GFP iteration_3"]},
    )
    write_image(named, folder / "predicted.tif")
    # As ImageJ writes them, and as `dcbmz predict` gives them back.
    for unit, told in UNITS.items():
        movie = folder / f"movie in {unit}.tif"
        metadata = {"axes": "TZYX", "unit": told, "spacing": 3.0, "finterval": 2.5}
        metadata |= {"tunit": "min"} if unit == "nm" else {}
        volumes = np.zeros((3, 2, 8, 7), np.uint16)
        tifffile.imwrite(movie, volumes, imagej=True, resolution=(4, 2), metadata=metadata)
        write_image(read_image(movie).astype(np.float32), folder / f"movie in {unit} again.tif")
    # Above 50 megapixels only together with a border of 72 pixels.
    tifffile.imwrite(folder / "large.tif", np.zeros((6990, 7000), np.uint8), compression="zlib")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Bench:
    folder = tmp_path_factory.mktemp("with spaces")
    write_images(folder)
    for name in ("model_3", "volume_3", "silent_3", "broken_3", "halfway_3"):
        dims = 3 if name == "volume_3" else 2
        (folder / name).mkdir()
        (folder / name / "rdf.yaml").write_text(RDF.format(dims=dims), encoding="utf-8")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "rdf.yaml").write_text("format_version: 0.5.4", encoding="utf-8")
    (folder / "series").mkdir()
    for name in ("movie.tif", "plane.tif"):
        (folder / "series" / name).write_bytes((folder / name).read_bytes())
    (folder / "series" / "notes.txt").write_text("no image", encoding="utf-8")
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder / "package")
    jobs: dict[str, tuple[object, ...]] = {}

    def fiji(name: str, arguments: str) -> None:
        arguments = arguments.replace("{", f"[{folder}/").replace("}", "]")
        if "output=" not in arguments:
            arguments += f" output=[{folder}/{name}.tif]"
        jobs[name] = ("macro", FIJI, arguments)

    for dial in DIALS:
        fiji(f"many {dial}", f"model={{model_3}} input={{many.tif}} dial={dial}")
    for name in ("plane", "stack", "movie"):
        fiji(f"{name} 0.7", f"model={{model_3}} input={{{name}.tif}} dial=0.7")
        fiji(f"{name} all", f"model={{model_3}} input={{{name}.tif}} dial=all")
    fiji("volume", "model={volume_3} input={many.tif} dial=0.7")
    fiji("ready", "enhanced={movie all.tif} input={movie.tif} step=0.5 dial=0.7")
    fiji("unnamed", "enhanced={no names.tif} input={movie.tif} step=0.5 dial=1.499")
    fiji("named", "enhanced={predicted.tif} input={plane.tif} step=0.5 dial=1.499")
    fiji("series", "model={model_3} input={series} output={results} dial=1")
    jobs["current"] = (
        *("current", folder / "plane.tif", FIJI),
        f"model=[{folder}/model_3] output=[{folder}/current.tif] dial=0.7",
    )
    fiji("too far", "model={model_3} input={plane.tif} dial=1.6")
    fiji("too far ready", "enhanced={movie all.tif} input={movie.tif} step=0.5 dial=1.6")
    fiji("negative", "model={model_3} input={plane.tif} dial=-0.1")
    fiji("no number", "model={model_3} input={plane.tif} dial=much")
    fiji("rgb refused", "model={model_3} input={rgb.tif}")
    fiji("large refused", "model={model_3} input={large.tif}")
    fiji("all of two", "model={model_3} input={many.tif} dial=all")
    fiji("no model", "input={plane.tif}")
    fiji("wrong model", "model={series} input={plane.tif}")
    fiji("foreign model", "model={foreign} input={plane.tif} step=1")
    fiji("no step", "enhanced={movie all.tif} input={movie.tif}")
    fiji("wrong iterations", "enhanced={stack all.tif} input={movie.tif} step=0.5")
    fiji("missing", "model={model_3} input={absent.tif}")
    fiji("bare", "model={model_3} input={plane.tif}")
    jobs["bare"] = ("bare", *jobs["bare"][1:])
    for name in ("silent", "broken", "halfway"):
        fiji(name, f"model={{{name}_3}} input={{plane.tif}}")
    (folder / "again.tif.txt").write_text("DCBMZ ERROR: of the last run\n", encoding="utf-8")
    fiji("again", "model={model_3} input={plane.tif} dial=0.7")
    (folder / "mine.tif.txt").write_text("my notes", encoding="utf-8")
    fiji("mine", "model={model_3} input={rgb.tif}")
    fiji("same folder", "model={model_3} input={series} output={series}")
    fiji("open bracket", "model={model_3} input={plane.tif} dial=[1")
    jobs["nothing open"] = ("macro", FIJI, f"model=[{folder}/model_3] output=[{folder}/a.tif]")
    jobs["no output"] = ("macro", FIJI, f"model=[{folder}/model_3] input=[{folder}/plane.tif]")
    jobs["no arguments"] = ("macro", FIJI, "")

    results = [name for name in jobs if jobs[name][0] in ("macro", "current")]
    kept = {name: folder / f"{name}.tif" for name in results}
    kept |= {name: folder / "results" / f"{name}_dial_1.tif" for name in ("movie", "plane")}
    for name in ("sample_input", "sample_output"):
        kept[name] = folder / "package" / f"{name}.tif"
    sure = [name for name in kept if name.split()[0] in STARTS]
    sure += [f"{name}{at}" for name in ("plane", "stack", "movie") for at in (" 0.7", " all")]
    sure += ["movie", "plane", "sample_input", "sample_output"]
    opening = {f"open {n}": ("open", kept[n], folder / f"{n}.opened") for n in sure}
    for unit in UNITS:
        for name in (f"movie in {unit}", f"movie in {unit} again"):
            opening[f"open {name}"] = ("open", folder / f"{name}.tif", folder / f"{name}.opened")
    every = jobs | opening
    told = dict(zip(every, run_jobs(list(every.values())), strict=True))
    for name in opening:
        assert told[name].ended, f"{name}: {told[name].text}; {told.get(name[5:])}"
    return Bench(folder, told)


# ---------------------------------------------------------------------- samples in ImageJ


@pytest.mark.engines
@pytest.mark.parametrize(
    ("kind", "labels"),
    [("input", ("raw",)), ("output", ("iteration_1", "iteration_2", "iteration_3"))],
)
def test_imagej_reads_the_samples_as_numpy_reads_the_tests(
    bench: Bench, kind: str, labels: tuple[str, ...]
) -> None:
    wanted = np.load(bench.folder / "package" / f"test_{kind}.npy")
    sample = bench.opened(f"sample_{kind}")
    assert sample.pixels.shape == (1, 1, *wanted.shape[1:])
    np.testing.assert_array_equal(sample.pixels[0, 0], wanted[0])
    assert sample.facts["bits"] == "32"
    assert sample.labels == labels
    # Not calibrated: the sample is a phantom in pixels, and ImageJ must not think otherwise.
    assert sample.facts["pixel"] == "1.0 1.0 1.0"
    assert sample.facts["unit"] == "pixel"
    for (low, high), plane in zip(sample.shown, wanted[0], strict=True):
        assert plane.min() <= low < high <= plane.max()


@pytest.mark.engines
@pytest.mark.parametrize("unit", ["um", "micro", "nm", "mm"])
def test_imagej_reads_the_calibration_that_the_input_had(bench: Bench, unit: str) -> None:
    before, after = bench.opened(f"movie in {unit}"), bench.opened(f"movie in {unit} again")
    for key in ("shape", "unit", "interval"):
        assert after.facts[key] == before.facts[key], key
    told = [[float(n) for n in opened.facts["pixel"].split()] for opened in (before, after)]
    # TIFF keeps a resolution as a fraction of whole numbers.
    assert told[1] == pytest.approx(told[0], rel=1e-6)
    assert before.facts["interval"].split() == ["2.5", "min" if unit == "nm" else "sec"]


# --------------------------------------------------------------------------------- Fiji


@pytest.mark.engines
@pytest.mark.parametrize("dial", DIALS)
def test_macro_turns_the_dial_as_python_does(bench: Bench, dial: str) -> None:
    opened = bench.opened(f"many {dial}")
    assert_near(opened.pixels, at_dial(images()["many"].astype(np.float32), dial))


@pytest.mark.engines
def test_macro_keeps_axes_calibration_and_names(bench: Bench) -> None:
    opened = bench.opened("many 0.7")
    assert opened.facts["shape"] == "2 3 2 10 12"
    assert opened.facts["bits"] == "32"
    assert opened.facts["pixel"] == "0.25 0.25 1.5"
    assert opened.facts["unit"] in ("um", "µm")
    assert opened.facts["interval"].split()[0] == "2.5"
    assert opened.labels[:3] == ("t0 z0 c0, dial_0.7", "t0 z0 c1, dial_0.7", "t0 z1 c0, dial_0.7")
    assert opened.facts["info"].startswith("DeepContrast, dial 0.7, step 0.5|")


@pytest.mark.engines
def test_macro_shows_the_range_of_each_channel(bench: Bench) -> None:
    opened = bench.opened("many 0.7")
    assert len(opened.shown) == 2
    for channel, shown in enumerate(opened.shown):
        plane = opened.pixels[0, 1, channel]
        assert shown == pytest.approx((float(plane.min()), float(plane.max())))


@pytest.mark.engines
@pytest.mark.parametrize("name", ["plane", "stack", "movie"])
def test_macro_takes_planes_stacks_and_movies_of_8_16_and_32_bits(bench: Bench, name: str) -> None:
    raw = images()[name].astype(np.float32)
    axes = {"plane": "tz", "stack": "t", "movie": "z"}[name]
    shape = {"tz": (1, 1, *raw.shape), "t": (1, *raw.shape), "z": (len(raw), 1, *raw.shape[1:])}
    raw = raw.reshape(shape[axes])
    turned = bench.opened(f"{name} 0.7")
    assert_near(turned.pixels[:, :, 0], at_dial(raw, "0.7"))
    everything = bench.opened(f"{name} all")
    assert_near(everything.pixels, iterated(raw))
    assert everything.labels[:4] == ("iteration_1", "iteration_2", "iteration_3") + (
        ("iteration_1",) if len(everything.labels) > 3 else ()
    )
    for key in ("pixel", "unit", "interval"):
        assert everything.facts[key] == turned.facts[key], key


@pytest.mark.engines
def test_macro_sends_planes_as_frames_and_volumes_as_they_are(bench: Bench) -> None:
    assert bench.told["many 0.7"].text.split("\n") == ["planes 1 6"] * 2
    assert bench.told["volume"].text.split("\n") == ["planes 3 2"] * 2
    np.testing.assert_array_equal(bench.opened("volume").pixels, bench.opened("many 0.7").pixels)


@pytest.mark.engines
def test_macro_turns_the_dial_of_ready_iterations(bench: Bench) -> None:
    ready, again = bench.opened("ready"), bench.opened("movie 0.7")
    np.testing.assert_array_equal(ready.pixels, again.pixels)
    assert ready.facts["interval"] == again.facts["interval"] == "0.25 sec"


@pytest.mark.engines
def test_macro_needs_no_names_in_ready_results(bench: Bench) -> None:
    for name, image in (("unnamed", "movie"), ("named", "plane")):
        raw = images()[image].astype(np.float32).reshape(-1, *images()[image].shape[-2:])
        assert_near(bench.opened(name).pixels[:, 0, 0], at_dial(raw, "1.499"))


@pytest.mark.engines
def test_macro_takes_a_folder(bench: Bench) -> None:
    assert bench.told["series"].text.endswith("2 images enhanced")
    names = {path.name for path in (bench.folder / "results").iterdir()}
    assert names == {"movie_dial_1.tif", "plane_dial_1.tif"}
    raw = images()["movie"].astype(np.float32)
    assert_near(bench.opened("movie").pixels[:, 0, 0], at_dial(raw, "1"))


@pytest.mark.engines
def test_macro_leaves_the_current_image_as_it_is(bench: Bench) -> None:
    """Title, bits, selection and pixel size; the selection does not cut the result."""
    told = bench.told["current"]
    assert told.ended, told.text
    assert told.text.splitlines()[-1] == "plane.tif 8 0 3 mm"
    opened = bench.opened("current")
    raw = images()["plane"].astype(np.float32)
    assert_near(opened.pixels[0, 0, 0], at_dial(raw, "0.7"))
    # TIFF keeps a resolution as a fraction of whole numbers.
    assert float(opened.facts["pixel"].split()[0]) == pytest.approx(3, rel=1e-5)


REFUSALS = {
    "too far": "The dial 1.6 is neither between 0 and 1.5 (3 iterations of 0.5) nor all",
    "too far ready": "The dial 1.6 is neither between 0 and 1.5 (3 iterations of 0.5) nor all",
    "negative": "The dial -0.1 is neither",
    "no number": "The dial much is neither",
    "rgb refused": "The image rgb.tif is RGB",
    "mine": "The image rgb.tif is RGB",
    "large refused": "The image large.tif is 7000 x 6990 pixels",
    "all of two": "The image many.tif has 2 channels",
    "no model": "No model is named",
    "wrong model": "series has no rdf.yaml",
    "foreign model": "foreign was not made by dcbmz export",
    "no step": "give step=",
    "wrong iterations": "The iterations are 7 x 8 pixels in 12 planes, but movie.tif is 7 x 8 in 3",
    "missing": "absent.tif does not exist",
    "bare": "deepImageJ is not installed",
    "silent": "deepImageJ gave no result",
    "broken": "deepImageJ gave no result",
    "halfway": "deepImageJ gave no result",
    "same folder": "the folder of the images itself",
    "open bracket": "not closed after dial=",
    "nothing open": "There is no image",
    "no output": "give output=",
    "no arguments": "There are no arguments",
}
UNSAVED = ("no output", "no arguments")
"""Refusals that name no result beside which a file could lie."""
FAILED = "DCBMZ ERROR: "


@pytest.mark.engines
@pytest.mark.parametrize("name", REFUSALS)
def test_macro_refuses_in_one_sentence(bench: Bench, name: str) -> None:
    sentence = bench.refusal(name)
    assert sentence.startswith(FAILED)
    assert REFUSALS[name] in sentence


@pytest.mark.engines
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_can_be_found_by_a_script(bench: Bench, name: str) -> None:
    """On standard error, and in a file beside the result; ImageJ itself ends with exit code 0."""
    sentence = bench.refusal(name)
    assert bench.told[name].errors.splitlines()[-1] == sentence
    beside = {"nothing open": "a.tif.txt", "same folder": "series.txt", "mine": None}
    where = beside.get(name, f"{name}.tif.txt")
    if name in UNSAVED or where is None:
        return
    assert (bench.folder / where).read_text(encoding="utf-8") == sentence + "\n"


@pytest.mark.engines
def test_the_file_of_a_refusal_is_replaced_and_foreign_files_are_not(bench: Bench) -> None:
    assert bench.told["again"].ended
    assert not (bench.folder / "again.tif.txt").exists()
    assert FAILED not in bench.told["again"].errors
    assert (bench.folder / "mine.tif.txt").read_text(encoding="utf-8") == "my notes"


@pytest.mark.engines
def test_macro_tidies_up_after_deepimagej_failed(bench: Bench) -> None:
    """`run_jobs` itself refuses temporary folders that are left; here the message is kept."""
    for name in ("broken", "halfway"):
        assert "LoadEngineException" in bench.told[name].text


# -------------------------------------------------------------------------------- QuPath


def slide(z: int, t: int) -> NDArray[np.float32]:
    """The image of the stand-in of QuPath: (c, y, x)."""
    c, y, x = np.meshgrid(np.arange(2), np.arange(30), np.arange(40), indexing="ij")
    return ((x * 37 + y * 101 + x * y * 13) % 997 + 5000 * c + 10 * z + t).astype(np.float32)


def seen(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Iterations 1 to 3 of the stand-in of QuPath for a whole plane: (3, y, x).

    Its network averages 7 x 7 pixels and mirrors the plane, edge pixel included.
    """
    padded = np.pad(plane.astype(np.float64), 3, mode="symmetric")
    mean = np.lib.stride_tricks.sliding_window_view(padded, (7, 7)).mean(axis=(-2, -1))
    return np.stack([mean * (1 + k / 4) + k for k in (1, 2, 3)]).astype(np.float32)


def seen_at(plane: NDArray[np.float32], dial: str) -> NDArray[np.float32]:
    """The plane at a dial, by Python."""
    stack = torch.from_numpy(seen(plane))
    return blend(torch.from_numpy(plane), stack, float(dial), STEP).numpy()


@pytest.fixture(scope="module", params=GROOVY)
def groovy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Arithmetic and script, with the Groovy of each QuPath."""
    folder = tmp_path_factory.mktemp("qupath scripts")
    for name in ("model_3", "engineless_3", "foreign"):
        (folder / name).mkdir()
    raw = images()["stack"]
    iterated(raw[0].astype(np.float32)).tofile(folder / "iterations.raw")
    raw[0].tofile(folder / "raw.raw")
    jobs: dict[str, tuple[object, ...]] = {}
    for dial in (*DIALS, "1.6", "-0.1", "NaN"):
        files = (folder / "raw.raw", folder / "iterations.raw")
        jobs[f"blend {dial}"] = ("blend", QUPATH, *files, 3, dial, STEP, folder / f"{dial}.raw")

    def script(
        name: str, region: str, *more: str, model: str = "model_3", image: str = "grey"
    ) -> None:
        extension = name.split()[0] if name.split()[0] in ("window", "none") else "loader"
        result = folder / f"{name}.tif"
        words = (extension, image, region, folder / model, result, *more)
        jobs[name] = ("qupath", QUPATH, *words)

    script("region", "3.5 4 10 8", "0.7", "2")
    script("everything", "", "all")
    for part in PARTS:
        script(f"parts {part}", "", "all", "1", part)
    script("parts of a region", "5 6 30 20", "0.7", "2", "8")
    script("window", "", "all")
    script("over the edge", "-5 20 50 50", "0")
    script("outside", "50 4 10 8")
    script("rgb", "", image="rgb")
    script("no image", "", image="none")
    script("no model", "", model="absent")
    script("foreign model", "", model="foreign")
    script("none of the extensions", "")
    script("no engine", "", model="engineless_3")
    script("channel", "", "1", "3")
    script("dial", "", "much")
    script("local", "", "local")
    script("too far", "", "1.6")
    opened = ["region", "everything", "over the edge", "window", "parts of a region"]
    opened += [f"parts {part}" for part in PARTS]
    every = jobs | {
        f"open {name}": ("open", folder / f"{name}.tif", folder / f"{name}.opened")
        for name in opened
    }
    every["signatures"] = ("signatures", folder / "signatures.txt", *stand_ins())
    told = run_jobs(list(every.values()), GROOVY[request.param])
    return Bench(folder, dict(zip(every, told, strict=True)))


@pytest.mark.engines
@pytest.mark.parametrize("dial", DIALS)
def test_groovy_turns_the_dial_as_python_does(groovy: Bench, dial: str) -> None:
    assert groovy.told[f"blend {dial}"].ended, groovy.told[f"blend {dial}"].text
    raw = images()["stack"][0].astype(np.float32)
    result = np.fromfile(groovy.folder / f"{dial}.raw", "<f4").reshape(raw.shape)
    assert_near(result, at_dial(raw, dial))


@pytest.mark.engines
@pytest.mark.parametrize("dial", ["1.6", "-0.1", "NaN"])
def test_groovy_refuses_a_dial_out_of_range(groovy: Bench, dial: str) -> None:
    told = groovy.told[f"blend {dial}"]
    assert not told.ended
    assert f"The dial {dial} is not between 0 and 1.5 (3 iterations of 0.5)" in told.text


@pytest.mark.engines
def test_qupath_script_takes_the_selected_region(groovy: Bench) -> None:
    assert groovy.told["region"].ended, groovy.told["region"].text
    opened = groovy.opened("region")
    # With real neighbours around the region.
    assert_near(opened.pixels[0, 0, 0], seen_at(slide(2, 1)[1], "0.7")[4:12, 3:14])
    assert opened.facts["pixel"] == "0.4 0.4 1.0"
    assert opened.facts["unit"] in ("um", "µm")
    assert opened.facts["origin"] == "-3.0 -4.0"
    assert opened.labels == ("dial_0.7",)
    assert "channel 2" in opened.facts["info"]


@pytest.mark.engines
@pytest.mark.parametrize("name", ["everything", "window"])
def test_qupath_script_takes_the_whole_image_with_all_iterations(groovy: Bench, name: str) -> None:
    """Up to the last pixel; with and without a window that has registered PyTorch."""
    assert groovy.told[name].ended, groovy.told[name].text
    opened = groovy.opened(name)
    assert_near(opened.pixels[0, 0], seen(slide(0, 0)[0]))
    assert opened.labels == ("iteration_1", "iteration_2", "iteration_3")


@pytest.mark.engines
@pytest.mark.parametrize("part", PARTS)
def test_qupath_script_has_no_seams_between_parts(groovy: Bench, part: str) -> None:
    """Parts smaller and larger than their halo, and as large as the image but for a pixel."""
    told = groovy.told[f"parts {part}"]
    assert told.ended, told.text
    count = -(-40 // int(part)) * -(-30 // int(part))
    assert told.text.count("part ") == (count if count > 1 else 0)
    assert_near(groovy.opened(f"parts {part}").pixels[0, 0], seen(slide(0, 0)[0]))


@pytest.mark.engines
def test_qupath_script_blends_parts_of_a_region(groovy: Bench) -> None:
    assert groovy.told["parts of a region"].ended, groovy.told["parts of a region"].text
    wanted = seen_at(slide(2, 1)[1], "0.7")[6:26, 5:35]
    assert_near(groovy.opened("parts of a region").pixels[0, 0, 0], wanted)


@pytest.mark.engines
def test_qupath_script_cuts_a_region_at_the_image(groovy: Bench) -> None:
    assert groovy.told["over the edge"].ended, groovy.told["over the edge"].text
    pixels = groovy.opened("over the edge").pixels[0, 0, 0]
    np.testing.assert_array_equal(pixels, slide(2, 1)[0, 20:])


@pytest.mark.engines
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("outside", "outside the image"),
        ("rgb", "The image is RGB"),
        ("no image", "There is no image"),
        ("no model", "absent', is not a folder"),
        ("foreign model", "foreign was not made by dcbmz export"),
        ("none of the extensions", "install the extension Deep Java Library"),
        ("no engine", "PyTorch could not open the weights in"),
        ("channel", "channels 1 to 2, not 3"),
        ("dial", "'much' is neither a number nor 'all'"),
        ("local", "'local' is neither a number nor 'all'"),
        ("too far", "The dial 1.6 is not between 0 and 1.5 (3 iterations of 0.5)"),
    ],
)
def test_qupath_script_refuses_in_one_sentence(groovy: Bench, name: str, words: str) -> None:
    told = groovy.told[name]
    assert not told.ended
    assert "IllegalArgumentException: " in told.text
    assert words in told.text.split("\n")[0]
    assert not (groovy.folder / f"{name}.tif").exists()


# ----------------------------------------------------------- stand-ins and their originals


def listed_members(text: str) -> dict[str, set[str]]:
    """What `tests/api/qupath.txt` lists by class, types erased as Java prints them."""
    members: dict[str, set[str]] = {}
    name = ""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            name = line.strip()
            members.setdefault(name, set())
        elif "only]" not in line:
            members[name].add(erased(line.strip()))
    return members


def erased(signature: str) -> str:
    """`static T f(Map<?, ?>, A$B...)` as `static Object f(Map, B[])`."""
    while "<" in signature:
        signature = re.sub(r"<[^<>]*>", "", signature)
    signature = signature.replace("...", "[]")
    signature = re.sub(r"\bT\b", "Object", signature)
    return re.sub(r"\w+\$(?=\w)", "", signature)


def stand_ins() -> list[str]:
    """The binary names of all classes that stand in for QuPath's, nested ones included."""
    root = JAVA / "src"
    names: list[str] = []
    for path in sorted((root / "qupath").rglob("*.java")):
        outer = ".".join(path.relative_to(root).with_suffix("").parts)
        nested = re.findall(
            r"^    public static class (\w+)", path.read_text("utf-8"), re.MULTILINE
        )
        names += [outer, *(f"{outer}${inner}" for inner in nested)]
    return names


@pytest.mark.engines
def test_stand_ins_offer_only_what_qupath_has(groovy: Bench) -> None:
    assert groovy.told["signatures"].ended, groovy.told["signatures"].text
    listed = listed_members((API / "qupath.txt").read_text("utf-8"))
    offered = (groovy.folder / "signatures.txt").read_text("utf-8").splitlines()
    assert len(offered) > 50
    assert set(stand_ins()) <= listed.keys()
    invented = []
    for line in offered:
        name, member = line.split("\t")
        if member not in listed[name]:
            invented.append(line)
    assert not invented


def test_a_list_of_signatures_is_read_as_java_erases_them() -> None:
    text = (
        "# words\na.B\n    static B f(Map<String, List<? extends C$D>>, E...)\n    T g()\n"
        "    int h()    [0.6.0 only]\na.B\n    new (F<T>)\n"
    )
    assert listed_members(text) == {"a.B": {"static B f(Map, E[])", "Object g()", "new (F)"}}


def test_the_script_imports_only_classes_that_qupath_has() -> None:
    listed = listed_members((API / "qupath.txt").read_text("utf-8"))
    imported = re.findall(r"^import (qupath\S+)$", QUPATH.read_text("utf-8"), re.MULTILINE)
    imported += re.findall(r"Class.forName\('(qupath[^']+)'", QUPATH.read_text("utf-8"))
    assert len(imported) > 10
    assert set(imported) <= listed.keys()


def test_deepimagej_is_called_by_the_keys_that_it_has() -> None:
    """The stand-in reads only keys of the real one; the macro gives those, new and old."""
    words = [line.split() for line in (API / "deepimagej.txt").read_text("utf-8").splitlines()]
    keys = {line[1] for line in words if line[:1] == ["key"]}
    old = {line[1] for line in words if line[:1] == ["old"]}
    stand_in = (JAVA / "src" / "DeepImageJStandIn.java").read_text("utf-8")
    asked = set(re.findall(r'Macro.getValue\(options, "(\w+)"', stand_in))
    assert asked == keys - {"display_output"}
    assert "_enhanced" in stand_in
    macro = FIJI.read_text("utf-8")
    given = set(re.findall(r"(\w+)=\[", macro[macro.index("files = ") : macro.index("written = ")]))
    assert given == asked | (old - {"displayOutput"})
