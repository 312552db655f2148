"""A run becomes a package: same bytes each time, nothing of the machine, opened by the judge."""

from __future__ import annotations

import contextlib
import gc
import io
import re
import shutil
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
import yaml
from matplotlib.image import imread

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.package import (
    export_named,
    export_run,
    export_shipped,
    pack_described,
    write_repository_model,
)
from deepcontrast_bmz.export.publication import make_publication
from deepcontrast_bmz.image import write_image
from deepcontrast_bmz.model.model import WEIGHTS_FORMATS
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.model.run_folder import read_run
from deepcontrast_bmz.settings import recipe_to_toml

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

MEMBERS = [
    "rdf.yaml",
    "model.yaml",
    "README.md",
    "cover.png",
    "weights.pt",
    "architecture.py",
    "weights.torchscript.pt",
    "weights.onnx",
    "test_input.npy",
    "test_output.npy",
    "sample_input.tif",
    "sample_output.tif",
    "recipe.toml",
    "run.json",
    "deepcontrast_fiji.ijm",
    "deepcontrast_qupath.groovy",
]


@pytest.fixture(scope="module")
def package(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(tiny_run, tmp_path_factory.mktemp("package") / "tiny.zip")


@pytest.fixture(scope="module")
def repository(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    write_repository_model(tiny_run, root)
    return root


def read(package: Path, name: str) -> bytes:
    with zipfile.ZipFile(package) as archive:
        return archive.read(name)


def load_rdf(package: Path, name: str = "rdf.yaml") -> dict[str, Any]:
    return yaml.safe_load(read(package, name))


def load_npy(package: Path, name: str) -> np.ndarray:
    return np.load(io.BytesIO(read(package, name)), allow_pickle=False)


def every_content(data: bytes) -> Iterator[bytes]:
    """Yield a file, and all files inside it where it is an archive."""
    yield data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from every_content(archive.read(name))


# ---- bytes


def test_the_same_run_gives_the_same_bytes(package: Path, tiny_run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_run, tmp_path / "elsewhere")
    again = export_run(moved, tmp_path / "again.zip")
    assert again.read_bytes() == package.read_bytes()


def test_the_repository_model_flattens_to_the_same_bytes(
    package: Path, repository: Path, tmp_path: Path
) -> None:
    out = pack_described(repository / "rdf.yaml", tmp_path / "flat.zip")
    assert out.read_bytes() == package.read_bytes()


def test_a_shipped_model_is_exported_like_the_run_it_came_from(
    package: Path,
    tiny_run: Path,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For files and for the zoo, with people who answer for it, from anywhere."""
    monkeypatch.setattr("deepcontrast_bmz.export.package.find_shipped_folder", lambda: repository)
    monkeypatch.chdir(tmp_path)
    assert export_shipped("deepcontrast", Path("a.zip")).read_bytes() == package.read_bytes()
    publication = make_publication(maintainers=["Ada:ada-l"], version="1.0.0")
    one = export_run(tiny_run, Path("b.zip"), publication=publication, purpose="zoo")
    two = export_shipped("deepcontrast", Path("c.zip"), publication=publication, purpose="zoo")
    assert one.read_bytes() == two.read_bytes()


def test_a_package_for_the_zoo_has_no_id_and_only_what_it_names(
    package: Path, repository: Path, tmp_path: Path
) -> None:
    zoo = pack_described(repository / "rdf.yaml", tmp_path / "zoo.zip", purpose="zoo")
    left_out = {"model.yaml", "recipe.toml", "run.json", *MEMBERS[-2:]}
    with zipfile.ZipFile(zoo) as archive:
        assert archive.namelist() == [name for name in MEMBERS if name not in left_out]
    rdf, other = load_rdf(package), load_rdf(zoo)
    del rdf["id"], rdf["attachments"]
    assert other == rdf
    assert open_model(zoo, device="cpu").description.iterations == 3


def test_a_package_is_flat_with_fixed_dates_and_rights(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        assert archive.namelist() == MEMBERS
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.external_attr >> 16 == 0o100644
            assert entry.compress_type == zipfile.ZIP_STORED


def test_no_file_knows_the_machine(package: Path, tiny_run: Path) -> None:
    places = {
        str(place)
        for place in (
            Path.cwd(),
            Path.home(),
            tiny_run,
            tiny_run.parent,
            package.parent,
            Path(tempfile.gettempdir()),
            Path(sys.prefix),
            Path(torch.__file__).parent,
            Path(__file__).parents[2],
        )
    }
    for content in every_content(package.read_bytes()):
        for place in places:
            assert place.encode() not in content
        assert b"site-packages" not in content


# ---- tensors and pictures


def test_the_test_output_is_the_loop_of_the_raw_test_input(package: Path, tiny_run: Path) -> None:
    raw, enhanced = load_npy(package, "test_input.npy"), load_npy(package, "test_output.npy")
    assert raw.dtype == enhanced.dtype == np.float32
    assert raw.shape == (1, 1, 264, 296)
    assert enhanced.shape == (1, 3, 264, 296)
    # Counts as a 16-bit camera writes them, divided by a power of two.
    np.testing.assert_array_equal(raw * 2**16, (raw * 2**16).round())
    _, _, loop = read_run(tiny_run)
    with torch.no_grad():
        np.testing.assert_array_equal(loop.eval()(torch.from_numpy(raw)).numpy(), enhanced)


def test_the_test_tensors_pass_the_zoos_fixed_tolerance(package: Path) -> None:
    """An error of 2e-5 of the range between engines passes at every pixel, and the defaults."""
    raw, enhanced = load_npy(package, "test_input.npy"), load_npy(package, "test_output.npy")
    assert 0.5 <= max(np.abs(raw).max(), np.abs(enhanced).max()) < 1
    assert 2e-5 * np.ptp(enhanced) <= 1.5e-4
    assert "reproducibility_tolerance" not in load_rdf(package)["config"]["bioimageio"]


def test_no_channel_of_the_sample_is_mostly_negative(package: Path) -> None:
    enhanced = load_npy(package, "test_output.npy")[0]
    assert all((channel < 0).mean() < 0.05 for channel in enhanced)
    assert "synthetic" in read(package, "README.md").decode()


def test_imagej_sees_iterations_as_channels(package: Path) -> None:
    for name, axes, labels in (
        ("input", "YX", "raw"),
        ("output", "CYX", ["iteration_1", "iteration_2", "iteration_3"]),
    ):
        with tifffile.TiffFile(io.BytesIO(read(package, f"sample_{name}.tif"))) as file:
            assert file.is_imagej
            assert file.series[0].axes == axes
            metadata = cast("dict[str, Any]", file.imagej_metadata)
            assert metadata["Labels"] == labels
            limits = metadata.get("Ranges", (metadata.get("min"), metadata.get("max")))
            assert all(low < high for low, high in zip(limits[::2], limits[1::2], strict=True))
            expected = load_npy(package, f"test_{name}.npy")[0]
            np.testing.assert_array_equal(
                np.atleast_3d(file.asarray()).squeeze(), expected.squeeze()
            )


def test_the_cover_is_twice_as_wide_as_high_and_small(package: Path) -> None:
    data = read(package, "cover.png")
    height, width = imread(io.BytesIO(data)).shape[:2]
    assert width == 2 * height
    assert len(data) < 500_000
    assert b"Software" not in data


def test_a_sample_image_is_used(tiny_run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).poisson(300, (3, 90, 70)).astype(np.uint16)
    write_image(xr.DataArray(pixels, dims=("z", "y", "x")), tmp_path / "raw.tif")
    out = export_run(tiny_run, tmp_path / "out.zip", sample=tmp_path / "raw.tif")
    raw, enhanced = load_npy(out, "test_input.npy"), load_npy(out, "test_output.npy")
    factor = pixels[1].max() / raw.max()
    assert np.log2(factor) == np.round(np.log2(factor))
    np.testing.assert_array_equal(raw[0, 0] * factor, pixels[1].astype(np.float32))
    _, _, loop = read_run(tiny_run)
    with torch.no_grad():
        of_counts = loop.eval()(torch.from_numpy(raw * factor)).numpy()
    np.testing.assert_array_equal(enhanced * factor, of_counts)
    assert "The sample image is `raw.tif`" in read(out, "README.md").decode()


def test_a_sample_image_must_hold_one_block(tiny_run: Path, tmp_path: Path) -> None:
    write_image(xr.DataArray(np.ones((20, 60), np.uint16), dims=("y", "x")), tmp_path / "raw.tif")
    with pytest.raises(
        InputError, match=r"raw.tif is 20 x 60 pixels, too small.*at least \d+ x \d+"
    ):
        export_run(tiny_run, tmp_path / "out.zip", sample=tmp_path / "raw.tif")


# ---- the judges


@contextlib.contextmanager
def reference_runner() -> Generator[Any]:
    """Yield bioimageio.core, which leaves files open and loads TorchScript as it was meant to."""
    import bioimageio.core

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", FutureWarning)
        yield bioimageio.core
        gc.collect()


@pytest.mark.parametrize(
    ("source", "weights_format"),
    [*(("package", name) for name in WEIGHTS_FORMATS), ("repository", "torchscript")],
)
def test_the_reference_runner_passes_it(
    source: str, weights_format: str, package: Path, repository: Path
) -> None:
    """No warning but that nobody to ask is named."""
    path = package if source == "package" else repository / "rdf.yaml"
    with reference_runner() as core:
        summary = core.test_model(path, weight_format=weights_format)
        assert summary.status == "passed", summary.format()
        notes = [note for detail in summary.details for note in detail.warnings]
        (warning,) = [note.msg for note in notes if note.severity > 20]
        assert "Missing `maintainers`" in warning


def test_the_reference_runner_gives_the_values_of_the_loop(package: Path, tiny_run: Path) -> None:
    """On an image of odd size, as `bioimageio predict` takes it, whole and in blocks."""
    raw = np.random.default_rng(1).poisson(200, (1, 1, 117, 91)).astype(np.uint16)
    _, _, loop = read_run(tiny_run)
    with torch.no_grad():
        expected = loop.eval()(torch.from_numpy(raw.astype(np.float32))).numpy()
    with reference_runner() as core:
        for got in predicted(core, package, raw):
            assert np.abs(got - expected).max() <= 1e-4 * np.ptp(expected)


def predicted(core: Any, package: Path, raw: np.ndarray) -> list[np.ndarray]:
    """Run a package on a whole image and in blocks of 60 pixels."""
    model = core.load_model_description(package)
    pipeline = core.create_prediction_pipeline(model, weight_format="torchscript")
    results = [
        core.predict(model=pipeline, inputs={"raw": raw}, blocksize_parameter=blocks)
        for blocks in (None, 20)
    ]
    return [np.asarray(result.as_arrays()["enhanced"]) for result in results]


def test_it_opens_as_a_model_in_every_format(package: Path, repository: Path) -> None:
    for path in (package, repository):
        for weights in WEIGHTS_FORMATS:
            model = open_model(path, weights=weights, device="cpu")
            assert model.weights_format == weights
            assert model.description.iterations == 3
            assert model.description.halo_px % 8 == 0
            assert model.description.torch_version == torch.__version__.partition("+")[0]


def test_qupath_has_its_own_description(package: Path) -> None:
    rdf, other = load_rdf(package), load_rdf(package, "model.yaml")
    halo = rdf["outputs"][0]["axes"][2]["halo"]
    assert other["outputs"][0].pop("halo") == [0, 0, halo, halo]
    assert other == rdf


def test_the_time_is_that_of_the_run(package: Path, tiny_run: Path) -> None:
    _, run, _ = read_run(tiny_run)
    assert load_rdf(package)["timestamp"] == run.finished_utc


# ---- the card


def test_the_card_has_real_scores_and_says_how_to_use_it(package: Path, tiny_run: Path) -> None:
    text = read(package, "README.md").decode()
    _, run, _ = read_run(tiny_run)
    assert re.search(r"^## Validation$", text, re.MULTILINE)
    for value in run.validation.values():
        assert f"| {value:.4g} |" in text
    least = load_rdf(package)["inputs"][0]["axes"][2]["size"]["min"]
    for words in (
        "*Reset*",
        "50 megapixels",
        f"`--blockwise={512 - least}`",
        "never `--blockwise=True`",
        "QuPath",
        "ilastik",
        "alpha = (exp(b) - 1)",
        "stack.tif",
        "not the paper's",
    ):
        assert words in text


def test_a_given_card_gets_what_it_lacks(tiny_run: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Ours\n\n## How to use it\n\nWith care.\n", encoding="utf-8")
    out = export_run(tiny_run, tmp_path / "out.zip", card=card)
    text = read(out, "README.md").decode()
    assert text.startswith("# Ours\n\n## How to use it\n\nWith care.\n")
    assert text.count("How to use it") == 1
    assert text.count("## Validation") == 1
    card.write_text(text, encoding="utf-8")
    again = export_run(tiny_run, tmp_path / "again.zip", card=card)
    assert again.read_bytes() == out.read_bytes()


def test_the_repository_card_can_be_its_own_source(tiny_run: Path, tmp_path: Path) -> None:
    write_repository_model(tiny_run, tmp_path)
    card = tmp_path / "model_cards" / "deepcontrast.md"
    before = card.read_bytes()
    write_repository_model(tiny_run, tmp_path, card=card)
    assert card.read_bytes() == before


# ---- options


def test_another_number_of_iterations(tiny_run: Path, tmp_path: Path) -> None:
    out = export_run(
        tiny_run,
        tmp_path / "two.zip",
        iterations=2,
        publication=make_publication(maintainers=["Ada Lovelace:ada-l"]),
        name="Embryo model",
    )
    rdf = load_rdf(out)
    assert rdf["outputs"][0]["axes"][1]["channel_names"] == ["iteration_1", "iteration_2"]
    assert load_npy(out, "test_output.npy").shape[1] == 2
    assert rdf["config"]["dcbmz"]["iterations"] == 2
    assert rdf["maintainers"] == [{"name": "Ada Lovelace", "github_user": "ada-l"}]
    assert (rdf["id"], rdf["name"]) == ("embryo-model", "Embryo model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "0 iterations.*between 1 and 16"),
        ({"iterations": 17}, "17 iterations.*between 1 and 16"),
        ({"name": "a/b/c/d"}, "cannot be called"),
        ({"card": Path("no_such_card.md")}, "model card.*no_such_card.md"),
        ({"sample": Path("no_such_image.tif")}, "no_such_image.tif"),
    ],
)
def test_a_wrong_option_leaves_the_old_package_and_nothing_else(
    tiny_run: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out.zip"
    out.write_bytes(b"old")
    with pytest.raises(InputError, match=message):
        export_run(tiny_run, out, **options)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("name", "purpose", "options", "message"),
    [
        ("nosuch", "files", {}, "'nosuch' is not there"),
        ("deepcontrast", "elsewhere", {}, "'elsewhere'.*--for files or --for zoo"),
        ("deepcontrast", "files", {"iterations": 2}, "--iterations cannot be used"),
        ("deepcontrast", "files", {"card": Path("x.md"), "repository": True}, "--card, --repo"),
        ("run", "zoo", {"repository": True}, "--repository writes no package for the zoo"),
    ],
)
def test_a_wrong_command_is_one_sentence(
    tmp_path: Path, name: str, purpose: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        export_named(name, tmp_path / "out.zip", purpose, make_publication(), options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_recipe_can_say_who_made_it(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    text = (run / "recipe.toml").read_text(encoding="utf-8")
    kept, _, _ = text.partition("[publication]")
    told = """[publication]
authors = [{ name = "Ada Lovelace", orcid = "0000-0002-1825-0097" }]
maintainers = [{ name = "Ada Lovelace", github_user = "ada-l" }]
version = "0.3.0"
"""
    (run / "recipe.toml").write_text(kept + told, encoding="utf-8")
    rdf = load_rdf(export_run(run, tmp_path / "a.zip"))
    assert rdf["authors"] == [{"name": "Ada Lovelace", "orcid": "0000-0002-1825-0097"}]
    assert rdf["maintainers"] == [{"name": "Ada Lovelace", "github_user": "ada-l"}]
    assert rdf["version"] == "0.3.0"
    recipe, _, _ = read_run(run)
    (run / "recipe.toml").write_text(recipe_to_toml(recipe), encoding="utf-8")
    assert read_run(run)[0] == recipe
    given = make_publication(version="1.0.0")
    rdf = load_rdf(export_run(run, tmp_path / "b.zip", publication=given))
    assert (rdf["version"], rdf["maintainers"][0]["name"]) == ("1.0.0", "Ada Lovelace")


def test_an_existing_package_is_replaced(package: Path, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    out.write_bytes(b"old")
    export_run(tiny_run, out)
    assert out.read_bytes() == package.read_bytes()


def test_a_place_that_cannot_be_written_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder that exists"):
        export_run(tiny_run, tmp_path / "missing" / "out.zip")
    with pytest.raises(InputError, match=r"does not end in \.zip"):
        export_run(tiny_run, tmp_path / "out.tar")
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(InputError, match="is a folder, but"):
        export_run(tiny_run, tmp_path / "folder.zip")
    with pytest.raises(InputError, match="is no folder"):
        write_repository_model(tiny_run, tmp_path / "missing")


def test_what_is_no_finished_run_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    with pytest.raises(InputError, match=r"missing' is not there: .*\(deepcontrast\)"):
        export_run(tmp_path / "missing", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty' has no recipe\.toml"):
        export_run(tmp_path / "empty", out)
    unfinished = shutil.copytree(tiny_run, tmp_path / "unfinished")
    (unfinished / "run.json").unlink()
    with pytest.raises(InputError, match="has not finished"):
        export_run(unfinished, out)
    assert not out.exists()


def test_a_description_without_its_files_is_refused(repository: Path, tmp_path: Path) -> None:
    root = shutil.copytree(repository, tmp_path / "copy")
    weights = root / "weights" / "deepcontrast.onnx"
    weights.write_bytes(b"changed")
    with pytest.raises(InputError, match=r"deepcontrast\.onnx is not the file .* was changed"):
        pack_described(root / "rdf.yaml", tmp_path / "out.zip")
    weights.unlink()
    with pytest.raises(InputError, match=r"deepcontrast\.onnx, .* cannot be read"):
        pack_described(root / "rdf.yaml", tmp_path / "out.zip")
    for text in ("- a list", "name: other", "{", ""):
        (root / "rdf.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="no description that dcbmz export wrote"):
            pack_described(root / "rdf.yaml", tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
