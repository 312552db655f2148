"""What is promised to be the same on every machine; `.ci/run` runs it under several processors.

The hashes are those of 16-bit counts: of whole numbers, in which no rounding shows.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import xarray as xr

from deepcontrast_bmz.demo import demo_recipe
from deepcontrast_bmz.export.package import export_shipped
from deepcontrast_bmz.export.samples import crop_middle, record_specimen
from deepcontrast_bmz.image import read_image, write_image
from deepcontrast_bmz.model.open import describe_run, read_run
from deepcontrast_bmz.physics.camera import Camera, expose, expose_by_pixel
from deepcontrast_bmz.physics.degrade import Degradation, degrade
from deepcontrast_bmz.physics.phantoms import exact_membranes
from deepcontrast_bmz.physics.poisson import poisson_quantile, uniform_numbers
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.physics.section import CAMERA, OPTICAL_DEPTH, PHOTONS, specimen
from deepcontrast_bmz.physics.simulate import simulate

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.reproducible

ROOT = Path(__file__).parent.parent
COUNTS = Camera(gain=0.5, offset=100, read_noise_electrons=2, bit_depth=16)


def digest(array: NDArray[Any]) -> str:
    """Of values, whatever their byte order."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()[:16]


def test_the_numbers_of_pixels() -> None:
    assert digest(uniform_numbers((40, 50), 3, 0)) == "bae2fe5299486b5a"


def test_the_specimen_of_packages() -> None:
    assert digest(exact_membranes((60, 80), seed=20)) == "9023eb81f0026a18"
    assert digest(exact_membranes((4, 60, 80), seed=20)) == "af812147952238bc"


def test_counts_behind_a_transform() -> None:
    degradation = Degradation(
        optical_depth=1.5, widths_px=(5.5, 24.0), weights=(0.7, 0.3), camera=COUNTS, seed=4
    )
    photons = torch.from_numpy(exact_membranes((200, 240), seed=5)) * 300
    counts = degrade(photons, degradation, by_pixel=True)
    assert digest(counts.numpy().astype(np.uint16)) == "815c798f74d44d24"


def test_a_degraded_file(tmp_path: Path) -> None:
    """`dcbmz degrade --seed`, through a file and back."""
    light = xr.DataArray(exact_membranes((3, 90, 70), seed=6), dims=("z", "y", "x"))
    light.attrs["pixel_size_um"] = {}
    tissue = Degradation(
        optical_depth=1.0, widths_px=(3.0, 9.0), weights=(0.7, 0.3), camera=COUNTS, seed=8
    )
    write_image(simulate(light, tissue, 200.0), tmp_path / "counts.tif")
    assert digest(read_image(tmp_path / "counts.tif").to_numpy()) == "2c00aebe0f76ad20"


def test_the_recording_of_the_demo() -> None:
    kernel = demo_recipe(0).physics.scatter
    tissue = Degradation(
        optical_depth=OPTICAL_DEPTH,
        widths_px=kernel.widths,
        weights=kernel.weights,
        camera=CAMERA,
        seed=0,
    )
    assert digest(simulate(specimen(), tissue, PHOTONS).to_numpy()) == "d0a22ccfa62c603c"


def test_the_shipped_test_input_is_drawn_again(tmp_path: Path) -> None:
    for part, name in (("pt", "weights.pt"), ("recipe.toml",) * 2, ("run.json",) * 2):
        (tmp_path / name).write_bytes((ROOT / f"weights/deepcontrast.{part}").read_bytes())
    recipe, run, loop = read_run(tmp_path)
    shipped = np.load(ROOT / "weights/deepcontrast.test_input.npy")[0, 0]
    drawn = record_specimen(recipe, describe_run(recipe, run, loop), (392, 392))
    part = crop_middle(drawn, shipped.shape)
    np.testing.assert_array_equal(shipped * (part.max() / shipped.max()), part)


def test_the_shipped_package_is_made_of_the_shipped_files(tmp_path: Path) -> None:
    package = export_shipped("deepcontrast", tmp_path / "a.zip")
    there = {
        path.read_bytes()
        for folder in ("weights", "model_cards")
        for path in (ROOT / folder).iterdir()
    }
    with zipfile.ZipFile(package) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    described = {name for name in content if name.endswith(".yaml")}
    assert described == {"rdf.yaml", "model.yaml"}
    assert all(content[name] in there for name in content.keys() - described)
    again = export_shipped("deepcontrast", tmp_path / "b.zip")
    assert again.read_bytes() == package.read_bytes()


def test_another_processors_rounding_does_not_reach_the_counts() -> None:
    """The transform of another processor, played by a change in the last bits.

    With the generator that training uses, the same change alters many pixels by a lot.
    """
    light = torch.from_numpy(exact_membranes((264, 296), seed=1)) * 400
    expected = scatter(light, 1.0, (5.5, 24.0), (0.7, 0.3))
    for relative, most in ((2.0**-50, 0), (2.0**-24, 3)):
        signs = torch.from_numpy(np.sign(uniform_numbers(tuple(expected.shape), 9, 0) - 0.5))
        other = expected * (1 + relative * signs)
        one, two = (expose_by_pixel(photons, COUNTS, seed=2) for photons in (expected, other))
        assert int((one != two).sum()) <= most
        # One electron is two counts.
        assert float((one - two).abs().max()) <= 2
    one, two = (
        expose(photons.float(), COUNTS, torch.Generator().manual_seed(2))
        for photons in (expected, other)
    )
    assert int((one != two).sum()) > 100


@pytest.mark.parametrize("mean", [0.2, 3.0, 40.0, 2000.0, 1e7])
def test_quantiles_are_those_of_the_distribution(mean: float) -> None:
    numbers = uniform_numbers((100_000,), 1, 0)
    counts = poisson_quantile(numbers, np.full(numbers.shape, mean))
    np.testing.assert_array_equal(counts, counts.round())
    spread = 5 * (mean / numbers.size) ** 0.5
    assert abs(counts.mean() - mean) < spread
    assert abs(counts.var() / mean - 1) < 5 * ((2 + 1 / mean) / numbers.size) ** 0.5
    assert np.all(np.diff(counts[np.argsort(numbers)]) >= 0)


def test_quantiles_at_the_ends() -> None:
    numbers = np.array([2.0**-53, 0.5, 1 - 2.0**-53, 0.3])
    counts = poisson_quantile(numbers, np.array([5.0, 0.0, 5.0, -1.0]))
    assert list(counts[[0, 1, 3]]) == [0, 0, 0]
    assert 25 < counts[2] < 60
