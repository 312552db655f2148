"""The scripts for Fiji and QuPath, run by ImageJ's macro interpreter and by Groovy.

deepImageJ and QuPath themselves cannot be installed from public Maven repositories: stand-ins with
their keys and signatures take their place (`tests/java/src/DeepImageJStandIn.java`), so that what
is proven is the scripts' own work. No job needs a screen.
"""

from __future__ import annotations

import hashlib
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
from deepcontrast_bmz.export.rdf import to_yaml
from deepcontrast_bmz.image import write_image
from deepcontrast_bmz.model.loop import blend
from deepcontrast_bmz.records import BALANCED_CHANNEL, LocalDial, LoopDescription

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCRIPTS = Path(__file__).parents[2] / "deepcontrast_bmz" / "export" / "scripts"
FIJI = SCRIPTS / "deepcontrast_fiji.ijm"
QUPATH = SCRIPTS / "deepcontrast_qupath.groovy"
STEP = 0.5
STARTS = ("many", "volume", "ready", "current", "balanced")
"""Jobs whose results are opened again."""
BALANCED_DIALS = ("0.7", "1.499", "1.5", "local")
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


def balanced(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """The balanced image of the stand-ins, which lies between no two iterations."""
    return np.float32(1000) - raw


def all_channels(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Iterations 1 to 3 of the stand-ins and the balanced image, at axis -3."""
    return np.concatenate([iterated(raw), balanced(raw)[..., None, :, :]], axis=-3)


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


def with_balanced(package: Path) -> str:
    """The description of a package that has a local dial, of 3 iterations of 0.5."""
    with zipfile.ZipFile(package) as archive:
        rdf = yaml.safe_load(archive.read("rdf.yaml"))
    own = rdf["config"]["dcbmz"]
    dial = LocalDial(hidden=8, recordings=1, error=0, gain_even_db=0, gain_uneven_db=0)
    changed = {
        "step_optical_depth": STEP,
        "channels": (*own["channels"], BALANCED_CHANNEL),
        "local_dial": dial,
    }
    description = LoopDescription.model_validate(own | changed)
    rdf["config"]["dcbmz"] = description.model_dump(mode="json", exclude_none=True)
    return to_yaml(rdf)


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
    every = all_channels(made["movie"].astype(np.float32))
    for count in (3, 4):
        planes = np.ascontiguousarray(every[:, :count])
        unnamed = folder / f"unnamed {count}.tif"
        tifffile.imwrite(unnamed, planes, imagej=True, metadata={"axes": "TCYX"})
    # As `dcbmz predict` saves them, the name of the image's own channel before that of the model's.
    named = xr.DataArray(
        all_channels(made["plane"].astype(np.float32)),
        dims=("c", "y", "x"),
        coords={"c": ["GFP iteration_1", "GFP iteration_2", "GFP iteration_3", "GFP balanced"]},
    )
    write_image(named, folder / "named.tif")
    # Above 50 megapixels only together with a border of 72 pixels.
    tifffile.imwrite(folder / "large.tif", np.zeros((6990, 7000), np.uint8), compression="zlib")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Bench:
    folder = tmp_path_factory.mktemp("with spaces")
    write_images(folder)
    for name, dims in (("model_3", 2), ("volume_3", 3), ("broken_3", 2)):
        (folder / name).mkdir()
        (folder / name / "rdf.yaml").write_text(RDF.format(dims=dims), encoding="utf-8")
    (folder / "balanced_3").mkdir()
    (folder / "balanced_3" / "rdf.yaml").write_text(with_balanced(package), encoding="utf-8")
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
    for dial in BALANCED_DIALS:
        fiji(f"balanced many {dial}", f"model={{balanced_3}} input={{many.tif}} dial={dial}")
    fiji("balanced all", "model={balanced_3} input={movie.tif} dial=all")
    fiji(
        "balanced ready 1.499", "enhanced={balanced all.tif} input={movie.tif} step=0.5 dial=1.499"
    )
    fiji("balanced ready local", "enhanced={balanced all.tif} input={movie.tif} dial=local")
    fiji(
        "balanced unnamed", "model={balanced_3} enhanced={unnamed 4.tif} input={movie.tif} dial=1.5"
    )
    fiji("balanced fewer", "model={balanced_3} enhanced={unnamed 3.tif} input={movie.tif} dial=1.5")
    fiji("balanced named", "enhanced={named.tif} input={plane.tif} dial=local")
    fiji("volume", "model={volume_3} input={many.tif} dial=0.7")
    fiji("ready", "enhanced={movie all.tif} input={movie.tif} step=0.5 dial=0.7")
    fiji("series", "model={model_3} input={series} output={results} dial=1")
    jobs["current"] = (
        *("current", folder / "plane.tif", FIJI),
        f"model=[{folder}/model_3] output=[{folder}/current.tif] dial=0.7",
    )
    fiji("too far", "model={model_3} input={plane.tif} dial=1.6")
    fiji("too far balanced", "model={balanced_3} input={plane.tif} dial=1.6")
    fiji("too far ready", "enhanced={balanced all.tif} input={movie.tif} step=0.5 dial=1.6")
    fiji("local refused", "model={model_3} input={plane.tif} dial=local")
    fiji("local ready", "enhanced={movie all.tif} input={movie.tif} dial=local")
    fiji("no names", "enhanced={unnamed 4.tif} input={movie.tif} step=0.5 dial=0.7")
    fiji("local fewer", "model={balanced_3} enhanced={unnamed 3.tif} input={movie.tif} dial=local")
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
    fiji("broken", "model={broken_3} input={plane.tif}")
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
    every = jobs | opening
    told = dict(zip(every, run_jobs(list(every.values())), strict=True))
    for name in opening:
        assert told[name].ended, f"{name}: {told[name].text}; {told[name[5:]].text}"
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
@pytest.mark.parametrize("dial", BALANCED_DIALS)
def test_macro_leaves_the_balanced_channel_out_of_the_dial(bench: Bench, dial: str) -> None:
    raw = images()["many"].astype(np.float32)
    wanted = balanced(raw) if dial == "local" else at_dial(raw, dial)
    opened = bench.opened(f"balanced many {dial}")
    assert_near(opened.pixels, wanted)
    assert opened.labels[0] == f"t0 z0 c0, dial_{dial}"


@pytest.mark.engines
def test_macro_gives_all_channels_with_their_names(bench: Bench) -> None:
    opened = bench.opened("balanced all")
    raw = images()["movie"].astype(np.float32)
    assert_near(opened.pixels[:, 0], all_channels(raw))
    assert opened.labels == ("iteration_1", "iteration_2", "iteration_3", "balanced") * 3


@pytest.mark.engines
@pytest.mark.parametrize(
    ("name", "image", "dial"),
    [
        ("ready 1.499", "movie", "1.499"),
        ("ready local", "movie", "local"),
        ("unnamed", "movie", "1.5"),
        ("fewer", "movie", "1.5"),
        ("named", "plane", "local"),
    ],
)
def test_macro_knows_the_balanced_channel_of_ready_results(
    bench: Bench, name: str, image: str, dial: str
) -> None:
    """By the labels of the channels, or by the model's description where they are lost."""
    raw = images()[image].astype(np.float32).reshape(-1, *images()[image].shape[-2:])
    wanted = balanced(raw) if dial == "local" else at_dial(raw, dial)
    assert_near(bench.opened(f"balanced {name}").pixels[:, 0, 0], wanted)


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
    "too far": "The dial lies between 0 and 1.5 (3 iterations of 0.5), or is all, not 1.6",
    "too far balanced": "0 and 1.5 (3 iterations of 0.5), or is all or local, not 1.6",
    "too far ready": "0 and 1.5 (3 iterations of 0.5), or is all or local, not 1.6",
    "local refused": "model_3 has none: give a number or all as dial=",
    "local ready": "movie all.tif has none: give a number or all as dial=",
    "local fewer": "unnamed 3.tif has none: give a number or all as dial=",
    "no names": "unnamed 4.tif have no names, so that the last may be the balanced image",
    "negative": "not -0.1",
    "no number": "not much",
    "rgb refused": "RGB",
    "large refused": "above 50 megapixels, and large.tif is 7000 x 6990: cut it",
    "all of two": "2 channels",
    "no model": "A model is needed",
    "wrong model": "series is none",
    "foreign model": "A package of dcbmz export is needed",
    "no step": "give step=",
    "wrong iterations": "3 planes each, but are 7 x 8 pixels in 12 planes",
    "missing": "absent.tif does not exist",
    "broken": "deepImageJ gave no result",
    "same folder": "another folder as output=",
    "open bracket": "not closed after dial=",
    "nothing open": "There is no image",
    "no output": "give output=",
    "no arguments": "arguments are needed",
}


@pytest.mark.engines
@pytest.mark.parametrize("name", REFUSALS)
def test_macro_refuses_in_one_sentence(bench: Bench, name: str) -> None:
    assert REFUSALS[name] in bench.refusal(name)


# -------------------------------------------------------------------------------- QuPath


def slide(z: int, t: int) -> NDArray[np.float32]:
    """The image of the stand-in of QuPath: (c, y, x)."""
    c, y, x = np.meshgrid(np.arange(2), np.arange(30), np.arange(40), indexing="ij")
    return (x + 100 * y + 5000 * c + 10 * z + t).astype(np.float32)


@pytest.fixture(scope="module", params=GROOVY)
def groovy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Arithmetic and script, with the Groovy of each QuPath."""
    folder = tmp_path_factory.mktemp("qupath scripts")
    for name in ("model_3", "balanced_3", "foreign"):
        (folder / name).mkdir()
    raw = images()["stack"]
    iterated(raw[0].astype(np.float32)).tofile(folder / "iterations.raw")
    raw[0].tofile(folder / "raw.raw")
    jobs: dict[str, tuple[object, ...]] = {}
    for dial in (*DIALS, "1.6", "-0.1", "NaN"):
        files = (folder / "raw.raw", folder / "iterations.raw")
        jobs[f"blend {dial}"] = ("blend", QUPATH, *files, 3, dial, STEP, folder / f"{dial}.raw")

    def script(name: str, image: str, region: str, model: str, *more: str) -> None:
        result = folder / f"{name}.tif"
        jobs[name] = ("qupath", QUPATH, image, region, folder / model, result, *more)

    script("region", "grey", "3.5 4 10 8", "model_3", "0.7", "2")
    script("everything", "grey", "", "model_3", "all")
    script("balanced 1.499", "grey", "", "balanced_3", "1.499")
    script("balanced local", "grey", "", "balanced_3", "local")
    script("balanced all", "grey", "", "balanced_3", "all")
    script("over the edge", "grey", "-5 20 50 50", "model_3", "0")
    script("outside", "grey", "50 4 10 8", "model_3")
    script("rgb", "rgb", "", "model_3")
    script("no image", "none", "", "model_3")
    script("no model", "grey", "", "absent")
    script("foreign model", "grey", "", "foreign")
    script("channel", "grey", "", "model_3", "1", "3")
    script("dial", "grey", "", "model_3", "much")
    script("too far", "grey", "", "model_3", "1.6")
    script("too far balanced", "grey", "", "balanced_3", "1.6")
    script("local", "grey", "", "model_3", "local")
    opened = ["region", "everything", "over the edge"]
    opened += [name for name in jobs if name.startswith("balanced")]
    every = jobs | {
        f"open {name}": ("open", folder / f"{name}.tif", folder / f"{name}.opened")
        for name in opened
    }
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
    assert f"The dial lies between 0 and 1.5 (3 iterations of 0.5), not at {dial}" in told.text


@pytest.mark.engines
def test_qupath_script_takes_the_selected_region(groovy: Bench) -> None:
    assert groovy.told["region"].ended, groovy.told["region"].text
    opened = groovy.opened("region")
    wanted = at_dial(np.ascontiguousarray(slide(2, 1)[1, 4:12, 3:14]), "0.7")
    assert_near(opened.pixels[0, 0, 0], wanted)
    assert opened.facts["pixel"].startswith("0.4 0.4")
    assert opened.facts["unit"] in ("um", "µm")
    assert opened.facts["origin"] == "-3.0 -4.0"
    assert opened.labels == ("dial_0.7",)
    assert "channel 2" in opened.facts["info"]


@pytest.mark.engines
def test_qupath_script_takes_the_whole_image_with_all_iterations(groovy: Bench) -> None:
    assert groovy.told["everything"].ended, groovy.told["everything"].text
    opened = groovy.opened("everything")
    assert_near(opened.pixels[0, 0], iterated(slide(0, 0)[0]))
    assert opened.labels == ("iteration_1", "iteration_2", "iteration_3")


@pytest.mark.engines
def test_qupath_script_leaves_the_balanced_channel_out_of_the_dial(groovy: Bench) -> None:
    raw = slide(0, 0)[0]
    names = ("iteration_1", "iteration_2", "iteration_3", "balanced")
    for dial, labels, wanted in (
        ("1.499", ("dial_1.499",), at_dial(raw, "1.499")[None]),
        ("local", ("dial_local",), balanced(raw)[None]),
        ("all", names, all_channels(raw)),
    ):
        told = groovy.told[f"balanced {dial}"]
        assert told.ended, told.text
        opened = groovy.opened(f"balanced {dial}")
        assert_near(opened.pixels[0, 0], wanted)
        assert opened.labels == labels


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
        ("rgb", "RGB"),
        ("no image", "There is no image"),
        ("no model", "absent' is none"),
        ("foreign model", "A package of dcbmz export is needed"),
        ("channel", "channels 1 to 2, not 3"),
        ("dial", "'much'"),
        ("too far", "not at 1.6"),
        ("too far balanced", "between 0 and 1.5 (3 iterations of 0.5), not at 1.6"),
        ("local", "model_3 has none: give a number or 'all' as DIAL"),
    ],
)
def test_qupath_script_refuses_in_one_sentence(groovy: Bench, name: str, words: str) -> None:
    told = groovy.told[name]
    assert not told.ended
    assert "IllegalArgumentException: " in told.text
    assert words in told.text.split("\n")[0]
    assert not (groovy.folder / f"{name}.tif").exists()
