"""Networks for stacks: their laws, and the way from raw stacks to a package."""

from __future__ import annotations

import contextlib
import gc
import io
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
import xarray as xr
import yaml
from pydantic import ValidationError

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.architecture import list_architecture_kwargs, write_architecture
from deepcontrast_bmz.export.facts import compute_smallest_block
from deepcontrast_bmz.export.halo import measure_halo
from deepcontrast_bmz.export.onnx import serialize_onnx
from deepcontrast_bmz.export.package import export_run, pack_described, write_repository_model
from deepcontrast_bmz.export.parity import PARITY_LIMIT, PARITY_SHAPES
from deepcontrast_bmz.export.torchscript import serialize_torchscript
from deepcontrast_bmz.export.weights import export_weights
from deepcontrast_bmz.image import write_image
from deepcontrast_bmz.model.loop import Loop, blend, crop, extend
from deepcontrast_bmz.model.model import WEIGHTS_FORMATS
from deepcontrast_bmz.model.network import DilatedVolumeNetwork, build_network
from deepcontrast_bmz.model.network.volumes import mixing_positions
from deepcontrast_bmz.model.open import open_model
from deepcontrast_bmz.model.run_folder import read_run
from deepcontrast_bmz.physics.camera import Camera, expose
from deepcontrast_bmz.physics.phantoms import phantom_stack
from deepcontrast_bmz.physics.scatter import scatter
from deepcontrast_bmz.settings import NetworkSettings, Recipe, read_recipe
from deepcontrast_bmz.train import calibrate
from deepcontrast_bmz.train.pairs import PairDataset
from deepcontrast_bmz.train.phantoms import phantom_planes
from deepcontrast_bmz.train.raw_planes import RawPlane, split_planes, stacks_of
from deepcontrast_bmz.train.run import TrainingProgress, train_run

if TYPE_CHECKING:
    from collections.abc import Generator

SETTINGS = NetworkSettings(kind="dilated_3d", width=4, dilations=(1, 2, 1), mixing_layers=2)


def network() -> DilatedVolumeNetwork:
    torch.manual_seed(1)
    return DilatedVolumeNetwork(6, (1, 2, 1), 2).double().eval()


def loop(iterations: int = 2) -> Loop:
    torch.manual_seed(1)
    return Loop(build_network(SETTINGS), iterations).eval()


def stack(*shape: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand((batch, 1, *shape), generator=generator, dtype=torch.float64)


# ---- the network


@pytest.mark.parametrize(
    ("layers", "mixing", "expected"),
    [(9, 2, [2, 6]), (9, 1, [4]), (3, 3, [0, 1, 2]), (7, 2, [1, 5])],
)
def test_mixing_layers_are_spread_evenly(layers: int, mixing: int, expected: list[int]) -> None:
    assert mixing_positions(layers, mixing) == expected


def test_more_mixing_layers_than_layers_are_refused() -> None:
    with pytest.raises(ValidationError, match="there are 2, not 3"):
        NetworkSettings(kind="dilated_3d", dilations=(1, 2), mixing_layers=3)


@torch.no_grad()
def test_shape_shrinks_by_the_radii() -> None:
    net = network()
    assert net.radii == (2, 5, 5)
    assert net(stack(9, 23, 17, batch=2)).shape == (2, 1, 5, 13, 7)


@torch.no_grad()
def test_it_is_a_sum_of_volume_convolutions() -> None:
    """Against the definition: kernels of 3 x 3 x 3 and 1 x 3 x 3, by torch's own conv3d."""
    net, x = network(), stack(8, 20, 21, batch=2)

    def convolved(g: torch.Tensor, layer: Any, mixes: bool) -> torch.Tensor:
        kernel = layer.kernel()
        outputs, inputs = kernel.shape[:2]
        planes = 3 if mixes else 1
        volume = kernel.reshape(outputs, planes, inputs // planes, *kernel.shape[2:])
        return F.conv3d(g, volume.transpose(1, 2), dilation=(1, layer.dilation, layer.dilation))

    g = convolved(x, net.first, mixes=False)
    for layer, mixes in zip(net.hidden, net.mixes, strict=True):
        h = convolved(g, layer, mixes)
        first, second = h.chunk(2, dim=1)
        ordered = torch.cat((torch.maximum(first, second), torch.minimum(first, second)), dim=1)
        g = ordered + crop(g, (int(mixes), *(2 * (layer.dilation,))))  # pyright: ignore[reportArgumentType]
    expected = crop(x, net.radii) + net.scale * convolved(g, net.last, mixes=False)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 3, 5)])
@torch.no_grad()
def test_it_commutes_with_every_shift(shift: tuple[int, int, int]) -> None:
    net, x = network(), stack(10, 24, 22)
    z, y, x0 = shift
    moved = net(x[:, :, z:, y:, x0:])
    torch.testing.assert_close(moved, net(x)[:, :, z:, y:, x0:], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("gain", "offset"), [(3.0, 0.0), (1.0, 1000.0), (0.01, -5.0)])
@torch.no_grad()
def test_it_commutes_with_grey_values(gain: float, offset: float) -> None:
    net, x = network(), stack(7, 20, 18)
    difference = net(gain * x + offset) - (gain * net(x) + offset)
    assert float(difference.abs().max()) < 1e-9 * (gain + abs(offset))


@torch.no_grad()
def test_it_sees_just_as_far_as_its_radii() -> None:
    net = network()
    sides = [4 * r + 1 for r in net.radii]
    x = stack(*sides)
    changed = x.clone()
    changed[(0, 0, *(2 * r for r in net.radii))] += 10
    seen = (net(changed) - net(x)).abs()[0, 0] > 1e-12
    reach = seen.nonzero().amax(0) - seen.nonzero().amin(0)
    assert reach.tolist() == [2 * r for r in net.radii]


def test_gradients_reach_every_weight() -> None:
    net = network()
    net(stack(6, 14, 15)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


# ---- the loop


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 7), (2, 3, 40), (6, 4, 5)])
@pytest.mark.parametrize(("planes", "margin"), [(0, 0), (0, 3), (3, 0), (7, 23)])
def test_extension_is_symmetric_at_any_size(
    shape: tuple[int, int, int], planes: int, margin: int
) -> None:
    x = stack(*shape, batch=2)
    width = [(0, 0), (0, 0), (planes,) * 2, (margin,) * 2, (margin,) * 2]
    expected = np.pad(x.numpy(), width, mode="symmetric")
    np.testing.assert_array_equal(extend(x, [planes, margin, margin]).numpy(), expected)


@torch.no_grad()
def test_iterating_is_applying_again() -> None:
    run = loop().double()
    x = extend(stack(3, 8, 7), run.margins(2))
    one = run.iterate(x, 1)
    together = run.iterate(x, 2)
    torch.testing.assert_close(together[:, 1:], run.iterate(one, 1))
    torch.testing.assert_close(together[:, :1], crop(one, run.radii))


@pytest.mark.parametrize("shape", [(1, 12, 9), (2, 40, 33), (9, 3, 1)])
@torch.no_grad()
def test_any_size_keeps_its_size(shape: tuple[int, int, int]) -> None:
    """Also one plane, and fewer planes than the loop sees."""
    y = loop()(stack(*shape, batch=2).float())
    assert y.shape == (2, 2, *shape)
    assert bool(torch.isfinite(y).all())


@torch.no_grad()
def test_blocks_with_real_neighbours_are_the_whole() -> None:
    run = loop()
    x = stack(9, 31, 26).float()
    whole = run(x)
    extended = extend(x, run.margins(2))
    for z0, z1 in ((0, 4), (4, 9)):
        for y0, y1 in ((0, 17), (17, 31)):
            for x0, x1 in ((0, 5), (5, 26)):
                ends = [2 * m + end for m, end in zip(run.margins(2), (z1, y1, x1), strict=True)]
                block = extended[:, :, z0 : ends[0], y0 : ends[1], x0 : ends[2]]
                # The last bits depend on how an engine cuts the sum of a convolution.
                torch.testing.assert_close(
                    run.iterate(block, 2), whole[:, :, z0:z1, y0:y1, x0:x1], rtol=0, atol=2e-6
                )


@torch.no_grad()
def test_a_stack_of_one_kind_of_plane_stays_one() -> None:
    """Planes that do not differ cannot tell the network anything: the result is that of each."""
    x = stack(1, 14, 13).float().expand(1, 1, 5, 14, 13)
    y = loop()(x)
    torch.testing.assert_close(y, y[:, :, :1].expand_as(y))


@torch.no_grad()
def test_blend_of_stacks_is_that_of_their_planes() -> None:
    raw, kept = stack(4, 6, 5)[0, 0], torch.rand(3, 4, 6, 5, dtype=torch.float64)
    for dial in (0.0, 0.4, 1.0, 2.7, 3.0):
        together = blend(raw, kept, dial, 1.0, dims=3)
        for z in range(4):
            torch.testing.assert_close(together[z], blend(raw[z], kept[:, z], dial, 1.0))


# ---- the halo


@torch.no_grad()
def test_halos_are_those_within_which_tiles_agree() -> None:
    run = loop()
    x = stack(18, 56, 60).float()
    tolerance = 1e-3
    halo = measure_halo(run, x, 2, tolerance)
    exact = run.margins(2)
    assert 1 <= halo[0] <= exact[0]
    assert halo[1] == halo[2] == 8
    whole = run(x)
    spread = (whole.amax((2, 3, 4)) - whole.amin((2, 3, 4))).min()
    alone = run(x[:, :, :9, :28, :30])
    kept = [slice(None, n - h) for n, h in zip((9, 28, 30), halo, strict=True)]
    window = (slice(None), slice(None), *kept)
    assert float((alone[window] - whole[window]).abs().max() / spread) <= 2 * tolerance


@torch.no_grad()
def test_a_strict_tolerance_asks_for_all_that_is_seen() -> None:
    run = loop()
    assert measure_halo(run, stack(18, 60, 60).float(), 2, 0.0) == (run.margins(2)[0], 16, 16)
    assert measure_halo(run, stack(1, 60, 60).float(), 2, 1e-3) == (run.margins(2)[0], 16, 16)


def test_the_smallest_block_leaves_something_of_every_tile() -> None:
    for planes, lateral in ((1, 8), (4, 32), (6, 48), (12, 96)):
        block = compute_smallest_block((planes, lateral, lateral), 1)
        assert block[0] >= 2 * planes + 8
        assert block[1] == block[2] >= max(128, 3 * lateral)
        assert (block[1] - 2 * lateral) % 16 == 0
    assert compute_smallest_block((64, 64), 4) == (136, 136)


# ---- specimens and training data


def test_planes_of_a_procedural_stack_go_on_into_each_other() -> None:
    made = phantom_stack("membranes", (7, 48, 40), np.random.default_rng(5))
    assert made.shape == (7, 48, 40)
    near = np.corrcoef(made[3].ravel(), made[4].ravel())[0, 1]
    far = np.corrcoef(made[0].ravel(), made[6].ravel())[0, 1]
    assert near > 0.6
    assert far < near - 0.2
    again = phantom_stack("membranes", (7, 48, 40), np.random.default_rng(5))
    np.testing.assert_array_equal(made, again)


def recipe(**data: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "seed": 7,
            "physics": {"scatter": {"widths": [2.0, 6.0], "weights": [0.7, 0.3]}},
            "network": {"kind": "dilated_3d", "width": 4, "dilations": [1, 2], "mixing_layers": 1},
            "loop": {"iterations": 2},
            "data": {"patch": 16, "patch_planes": 3, **data},
            "training": {"steps": 5, "steps_per_epoch": 2, "batch": 2, "validation_patches": 2},
        }
    )


def raw_stack(planes: int = 6, size: int = 64) -> xr.DataArray:
    """Membranes under tissue as a 16-bit camera records them: (z, y, x)."""
    truth = phantom_stack("membranes", (planes, size, size), np.random.default_rng(3))
    photons = scatter(torch.from_numpy(truth) * 400, 1.0, (2.0, 6.0), (0.7, 0.3))
    camera = Camera(gain=0.5, offset=100, read_noise_electrons=2, bit_depth=16)
    counts = expose(photons, camera, torch.Generator().manual_seed(1))
    return xr.DataArray(counts.numpy().astype(np.uint16), dims=("z", "y", "x"))


def one_stack(shape: tuple[int, int, int] = (6, 50, 44)) -> RawPlane:
    pixels = np.random.default_rng(0).gamma(2.0, 50.0, shape).astype(np.float32)
    return RawPlane(pixels, 0, "stack", (2.0, 6.0))


def pairs(found: list[RawPlane], settings: Recipe) -> PairDataset:
    return PairDataset(found, settings, radius=4, planes=1, length=20, stream=0)


@pytest.mark.parametrize(
    ("dims", "count"), [("zyx", 1), ("tzyx", 2), ("czyx", 2), ("tczyx", 4), ("zyxt", 2)]
)
def test_every_time_and_channel_is_a_stack(dims: str, count: int) -> None:
    sizes = {"t": 2, "c": 2, "z": 4, "y": 9, "x": 8}
    values = np.random.default_rng(0).integers(0, 99, [sizes[d] for d in dims])
    found = stacks_of(xr.DataArray(values, dims=tuple(dims)), 3, "a.tif", (2.0,), fewest=4)
    assert [stack.pixels.shape for stack in found] == [(4, 9, 8)] * count
    assert {stack.image for stack in found} == {3}


def test_what_is_no_stack_is_refused() -> None:
    plane = xr.DataArray(np.arange(64.0).reshape(8, 8), dims=("y", "x"))
    with pytest.raises(InputError, match=r"flat\.tif has axes y, x: give a stack.*'dilated'"):
        stacks_of(plane, 0, "flat.tif", (2.0,), fewest=2)
    thin = plane.expand_dims(z=3)
    with pytest.raises(InputError, match=r"patch_planes = 4 planes, but thin\.tif has 3: give a"):
        stacks_of(thin, 0, "thin.tif", (2.0,), fewest=4)
    with pytest.raises(InputError, match=r"every plane of dark\.tif is constant"):
        stacks_of(xr.zeros_like(thin), 0, "dark.tif", (2.0,), fewest=2)


def test_shapes_and_seeds_of_pairs() -> None:
    one, two = pairs([one_stack()], recipe()), pairs([one_stack()], recipe())
    first = one[3]
    assert first["degraded"].shape == (1, 3 + 2, 16 + 8, 16 + 8)
    assert first["raw"].shape == (1, 3, 16, 16)
    assert first["scale"].shape == (1, 1, 1, 1)
    for key in ("degraded", "raw", "steps", "scale"):
        assert torch.equal(first[key], two[3][key])
    assert not torch.equal(first["degraded"], one[4]["degraded"])


def test_target_planes_are_real_and_in_order() -> None:
    """Each plane holds its own number: a patch counts up or down by one."""
    values = np.broadcast_to(np.arange(5.0)[:, None, None] + 1, (5, 40, 40)).copy()
    values[:, ::2] *= 1 + 1e-6
    found = RawPlane(values.astype(np.float32), 0, "stairs", (2.0, 6.0))
    seen: set[tuple[int, ...]] = set()
    data = pairs([found], recipe())
    for i in range(20):
        seen.add(tuple(data[i]["raw"].mean(dim=(0, 2, 3)).round().int().tolist()))
    ups = {(1, 2, 3), (2, 3, 4), (3, 4, 5)}
    assert seen <= ups | {tuple(reversed(up)) for up in ups}
    assert len(seen) > 2


def test_all_planes_of_a_patch_meet_one_tissue_and_their_own_noise() -> None:
    """Planes of equal content come out equal but for noise."""
    plane = np.random.default_rng(0).gamma(2.0, 50.0, (50, 44)).astype(np.float32)
    found = RawPlane(np.stack([plane] * 4), 0, "same", (2.0, 6.0))
    settings = recipe()
    for photons, largest in ((1e8, 0.01), (100.0, 1.0)):
        bright = {"photons": (photons, photons), "read_noise_electrons": (0.0, 0.0)}
        light = settings.physics.model_copy(update=bright)
        pair = pairs([found], settings.model_copy(update={"physics": light}))[0]
        planes = pair["degraded"][0] / pair["degraded"].std()
        # The planes in the middle: the outer ones are mirror images at the end of the stack.
        difference = float((planes[1] - planes[2]).abs().mean())
        assert 0 < difference < largest
        assert (difference > 0.05) == (photons == 100.0)


def test_zoom_keeps_the_planes() -> None:
    data = pairs([one_stack()], recipe(zoom=[0.5, 2.0]))
    assert all(data[i]["raw"].shape == (1, 3, 16, 16) for i in range(4))


def test_one_stack_is_cut_along_z() -> None:
    found = one_stack((4, 40, 100))
    (training,), (validation,) = split_planes([found], 0.2, seed=0)
    assert (training.pixels.shape, validation.pixels.shape) == ((4, 40, 80), (4, 40, 20))
    both = (training.pixels, validation.pixels)
    orders = [np.concatenate(order, axis=-1) for order in (both, both[::-1])]
    assert sum(np.array_equal(joined, found.pixels) for joined in orders) == 1


def test_the_end_of_a_stack_with_more_structure_is_held_out() -> None:
    for end in (slice(0, 30), slice(70, 100)):
        pixels = np.full((4, 40, 100), 5, np.float32)
        pixels[:, :, end] = np.random.default_rng(0).gamma(2.0, 50.0, (4, 40, 30))
        _, (validation,) = split_planes([RawPlane(pixels, 0, "s", (2.0,))], 0.2, seed=0)
        assert float(validation.pixels.std()) > 50


def test_procedural_stacks_are_recorded_too() -> None:
    found = phantom_planes(recipe(phantoms=2), first_index=4, size=32)
    assert [plane.pixels.shape for plane in found] == [(9, 32, 32)] * 2
    assert {plane.image for plane in found} == {4, 5}


# ---- from a run to a package


def test_the_example_recipe_is_one_for_stacks() -> None:
    settings = read_recipe(Path(__file__).parents[2] / "examples" / "volume.toml")
    assert settings.network.dims == 3
    assert settings.data.patch_planes > 1


@pytest.fixture(scope="module")
def stack_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "stack.tif"
    write_image(raw_stack(), path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, stack_path: Path) -> Generator[Path, None, None]:
    out = tmp_path_factory.mktemp("runs") / "volume"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "STACK_SIDE", 48)
        train_run([stack_path], out, recipe(), device="cpu")
        yield out


@pytest.fixture(scope="module")
def package(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(run, tmp_path_factory.mktemp("package") / "v.zip", name="Volume model")


def read(package: Path, name: str) -> bytes:
    with zipfile.ZipFile(package) as archive:
        return archive.read(name)


def test_a_run_on_stacks_is_whole_and_calibrated(run: Path) -> None:
    settings, record, trained = read_run(run)
    assert settings.network.dims == trained.dims == 3
    assert record.images[0].dims == "zyx"
    assert len(list((run / "previews").glob("*.png"))) == 3
    assert record.depth is not None
    assert record.depth == calibrate.fit_statistics(trained.eval(), settings).depth
    assert record.ood is None


def test_an_interrupted_run_ends_with_the_same_weights(
    run: Path, stack_path: Path, tmp_path: Path
) -> None:
    class Stop(Exception):  # noqa: N818 - it is no error
        pass

    def stop(state: TrainingProgress) -> None:
        if state.step == 3:
            raise Stop

    out = tmp_path / "run"
    with pytest.raises(Stop):
        train_run([stack_path], out, recipe(), device="cpu", report=stop)
    train_run([], out, resume=True, device="cpu")
    one, two = (torch.load(folder / "weights.pt", weights_only=True) for folder in (run, out))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_image_without_z_leaves_no_run(tmp_path: Path) -> None:
    write_image(raw_stack(1)[0], tmp_path / "plane.tif")
    with pytest.raises(InputError, match=r"plane\.tif has axes y, x"):
        train_run([tmp_path / "plane.tif"], tmp_path / "run", recipe(), device="cpu")
    assert not (tmp_path / "run").exists()


def test_every_format_gives_the_values_of_the_loop(tmp_path: Path) -> None:
    made = loop()
    record = export_weights(made, tmp_path, SETTINGS)
    shapes = {(batch, 1, *sides) for batch, *sides in PARITY_SHAPES[3]}
    assert {row.shape for row in record.parity} == shapes
    for weights_format in WEIGHTS_FORMATS:
        assert record.largest_difference(weights_format) <= PARITY_LIMIT
    assert record.largest_difference("pytorch_state_dict") == 0
    assert record.architecture_kwargs == list_architecture_kwargs(made, SETTINGS)
    assert record.architecture_kwargs["mixing_layers"] == 2


def test_the_same_loop_gives_the_same_bytes() -> None:
    for write in (serialize_torchscript, serialize_onnx):
        assert write(loop()) == write(loop())


def test_torchscript_computes_with_no_size_as_a_tensor() -> None:
    """Old runtimes compile sums of such tensors, anew and for seconds, at every image size."""
    with zipfile.ZipFile(io.BytesIO(serialize_torchscript(loop()))) as archive:
        code = "".join(archive.read(n).decode() for n in archive.namelist() if n.endswith(".py"))
    assert "def forward" in code
    assert "NumToTensor" not in code


def test_the_architecture_is_clean_python_without_us(tmp_path: Path) -> None:
    path = tmp_path / "architecture.py"
    path.write_text(write_architecture(SETTINGS), encoding="utf-8")
    assert "deepcontrast_bmz" not in path.read_text(encoding="utf-8")
    rules = ["--isolated", "--line-length", "100", "--no-cache"]
    for command in (["check", "--select", "E,F,W,I,UP,B"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *rules, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_format_opens_with_the_same_values(package: Path, run: Path) -> None:
    x = torch.from_numpy(raw_stack(5, 30).to_numpy().astype(np.float32))[None, None]
    trained = open_model(run, device="cpu")
    assert (trained.dims, trained.radii, trained.multiple) == (3, (1, 4, 4), 1)
    assert trained.blocks[1:] == (trained.block, trained.block)
    for iterations in (1, 2):
        margins = [iterations * r for r in trained.radii]
        extended = extend(x, margins)
        expected = trained.iterate(extended, iterations)
        assert expected.shape == (1, iterations, *x.shape[2:])
        for weights in WEIGHTS_FORMATS:
            model = open_model(package, weights=weights, device="cpu")
            assert (model.dims, model.radii) == (trained.dims, trained.radii)
            got = model.iterate(extended, iterations)
            assert float((got - expected).abs().max()) <= 1e-5 * float(np.ptp(expected.numpy()))


def test_a_description_with_other_planes_is_refused(package: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.zip"
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "rdf.yaml":
                data = data.replace(b"radius_planes: 1", b"radius_planes: 2")
            target.writestr(name, data)
    with pytest.raises(InputError, match=r"3 and 1, not 3 and 2: export it again"):
        open_model(changed, device="cpu")


def test_axes_sizes_and_halos_are_declared(package: Path) -> None:
    rdf = yaml.safe_load(read(package, "rdf.yaml"))
    described = rdf["config"]["dcbmz"]
    inputs, outputs = rdf["inputs"][0]["axes"], rdf["outputs"][0]["axes"]
    assert [axis["id"] for axis in inputs] == ["batch", "channel", "z", "y", "x"]
    assert [axis["id"] for axis in outputs] == ["batch", "channel", "z", "y", "x"]
    halos = [axis["halo"] for axis in outputs[2:]]
    assert halos == [described["halo_planes"], described["halo_px"], described["halo_px"]]
    assert [axis["size"] for axis in inputs[2:]] == [
        {"min": least, "step": 1} for least in compute_smallest_block(halos, 1)
    ]
    assert "3d" in rdf["tags"]
    assert "qupath" not in rdf["tags"]
    assert (described["dims"], described["radius_planes"]) == (3, 1)


def test_qupath_is_not_offered_a_stack(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        assert "model.yaml" not in archive.namelist()
    card = read(package, "README.md").decode()
    assert "QuPath runs models for single planes only" in card
    assert "fewer than 12 planes or 128 x 128 pixels" in card


def test_imagej_sees_planes_and_channels(package: Path) -> None:
    for name, axes, channels in (("input", "ZYX", 1), ("output", "ZCYX", 2)):
        expected = np.load(io.BytesIO(read(package, f"test_{name}.npy")))[0]
        with tifffile.TiffFile(io.BytesIO(read(package, f"sample_{name}.tif"))) as file:
            assert file.is_imagej
            assert file.series[0].axes == axes
            metadata = cast("dict[str, Any]", file.imagej_metadata)
            assert metadata["slices"] == expected.shape[1]
            assert metadata.get("channels", 1) == channels
            assert len(metadata["Labels"]) == metadata["images"] == channels * expected.shape[1]
            np.testing.assert_array_equal(
                file.asarray().reshape(expected.shape[1], channels, *expected.shape[2:]),
                expected.swapaxes(0, 1),
            )


def test_a_sample_stack_is_used(run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).poisson(300, (12, 140, 150)).astype(np.uint16)
    write_image(xr.DataArray(pixels, dims=("z", "y", "x")), tmp_path / "raw.tif")
    out = export_run(run, tmp_path / "out.zip", sample=tmp_path / "raw.tif")
    raw = np.load(io.BytesIO(read(out, "test_input.npy")))[0, 0]
    factor = pixels[:, 6:134, 3:147].max() / raw.max()
    assert np.log2(factor) == np.round(np.log2(factor))
    np.testing.assert_array_equal(raw * factor, pixels[:, 6:134, 3:147])
    for pixels_, message in (
        (pixels[0], "raw.tif has axes y, x, but .* needs a sample with a z axis"),
        (pixels[:4], r"raw.tif is 4 x 140 x 150 pixels, too small .* at least 12 x 128 x 128"),
    ):
        dims = ("z", "y", "x")[-pixels_.ndim :]
        write_image(xr.DataArray(pixels_, dims=dims), tmp_path / "raw.tif")
        with pytest.raises(InputError, match=message):
            export_run(run, tmp_path / "other.zip", sample=tmp_path / "raw.tif")
    assert not (tmp_path / "other.zip").exists()


def test_the_repository_form_flattens_to_the_same_bytes(
    package: Path, run: Path, tmp_path: Path
) -> None:
    write_repository_model(run, tmp_path, name="Volume model")
    out = pack_described(tmp_path / "rdf.yaml", tmp_path / "flat.zip")
    assert out.read_bytes() == package.read_bytes()


@contextlib.contextmanager
def reference_runner() -> Generator[Any]:
    """Yield bioimageio.core, which leaves files open and loads TorchScript as it was meant to."""
    import bioimageio.core

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", FutureWarning)
        yield bioimageio.core
        gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("weights_format", WEIGHTS_FORMATS)
def test_the_reference_runner_passes_it(package: Path, weights_format: Any) -> None:
    with reference_runner() as core:
        summary = core.test_model(package, weight_format=weights_format)
        assert summary.status == "passed", summary.format()
        notes = [note for detail in summary.details for note in detail.warnings]
        assert all("Missing `maintainers`" in n.msg for n in notes if n.severity > 20)


@pytest.mark.slow
def test_the_reference_runner_gives_the_values_of_the_loop(package: Path, run: Path) -> None:
    """On a stack of odd sides, whole and in blocks."""
    raw = np.random.default_rng(1).poisson(200, (1, 1, 19, 141, 133)).astype(np.uint16)
    _, _, trained = read_run(run)
    with torch.no_grad():
        expected = trained.eval()(torch.from_numpy(raw.astype(np.float32))).numpy()
    with reference_runner() as core:
        for got in predicted(core, package, raw):
            assert np.abs(got - expected).max() <= 1e-4 * np.ptp(expected)


def predicted(core: Any, package: Path, raw: np.ndarray) -> list[np.ndarray]:
    """Run a package on a whole stack and in blocks, five pixels above the smallest."""
    model = core.load_model_description(package)
    pipeline = core.create_prediction_pipeline(model, weight_format="torchscript")
    results = [
        core.predict(model=pipeline, inputs={"raw": raw}, blocksize_parameter=blocks)
        for blocks in (None, 5)
    ]
    return [np.asarray(result.as_arrays()["enhanced"]) for result in results]


def test_files_break_no_rule_of_any_program(package: Path) -> None:
    from deepcontrast_bmz.check.check import check_package

    report = check_package(package, run=["none"])
    for row in report.rows:
        assert not [f for f in row.findings if f.severity == "error"], row.program


def test_planes_and_stacks_are_extended_alike() -> None:
    x = stack(3, 9, 7)
    for z in range(3):
        expected = extend(x[:, :, z], [12] * 2)
        torch.testing.assert_close(extend(x, [0, 12, 12])[:, :, z], expected, rtol=0, atol=0)
