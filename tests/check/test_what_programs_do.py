"""Faults that the programs meet and a description hides: stale copies, halos, borders, scripts."""

from __future__ import annotations

import gc
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from bioimageio.spec import save_bioimageio_package

from deepcontrast_bmz.check.check import check_package
from deepcontrast_bmz.check.programs.qupath import tile_size

from .spoilt_packages import Copy, errors, found, save_descriptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepcontrast_bmz.check.findings import Report

ROOT = Path(__file__).parents[2]
STALE = "qupath.stale-description"


def space(tensor: dict[str, Any]) -> list[dict[str, Any]]:
    return [axis for axis in tensor["axes"] if axis["type"] == "space"]


STALE_COPIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "sizes": (lambda r: space(r["inputs"][0])[0].update(size={"min": 64, "step": 8}), "size.min"),
    "halo of an axis": (lambda r: space(r["outputs"][0])[1].update(halo=16), "halo"),
    "file": (
        lambda r: r["weights"]["torchscript"].update(source="old.pt"),
        "weights.torchscript.source",
    ),
    "sha256": (
        lambda r: r["weights"]["torchscript"].update(sha256="0" * 64),
        "weights.torchscript.sha256",
    ),
    "weights": (lambda r: r["weights"].pop("onnx"), "weights.onnx"),
    "steps": (lambda r: r["inputs"][0].pop("preprocessing"), "preprocessing"),
    "kwargs": (
        lambda r: r["weights"]["pytorch_state_dict"]["architecture"]["kwargs"].update(width=8),
        "kwargs.width",
    ),
    "channels": (
        lambda r: r["outputs"][0]["axes"][1]["channel_names"].pop(),
        "channel_names",
    ),
    "version": (lambda r: r.update(format_version="0.5.3"), "format_version"),
}


@pytest.mark.parametrize("part", STALE_COPIES)
def test_model_yaml_of_another_model_fails_qupath(spoilt: Copy, part: str) -> None:
    spoil, said = STALE_COPIES[part]
    save_descriptions(spoilt.folder, spoilt.rdf)
    path = spoilt.folder / "model.yaml"
    rdf = yaml.safe_load(path.read_text())
    spoil(rdf)
    path.write_text(yaml.safe_dump(rdf))
    report = check_package(spoilt.folder, run=["none"])
    assert STALE in errors(report)["qupath"]
    assert said in found(report, STALE).met
    assert report.row("qupath").right_values.state == "failed"


def test_larger_halo_in_model_yaml_is_remarked(spoilt: Copy) -> None:
    save_descriptions(spoilt.folder, spoilt.rdf)
    path = spoilt.folder / "model.yaml"
    rdf = yaml.safe_load(path.read_text())
    rdf["outputs"][0]["halo"] = [0, 0, 32, 32]
    path.write_text(yaml.safe_dump(rdf))
    report = check_package(spoilt.folder, run=["none"])
    assert report.passed
    assert found(report, "qupath.larger-halo").met == "halo 32 for QuPath and 24 in rdf.yaml"


@pytest.mark.parametrize("name", ["y", "x"])
def test_halo_smaller_than_what_the_network_sees(spoilt: Copy, name: str) -> None:
    """It sees 1 + 1 + 2 + 1 pixels an iteration, of which there are four."""
    del spoilt.rdf["weights"]["torchscript"]
    for axis in spoilt.space(spoilt.output):
        if axis["id"] == name:
            axis["halo"] = 8
    seams = spoilt.check("blockwise").row("core").seams
    assert seams.state == "failed"
    (said,) = [r for r in seams.reasons if r.startswith("halo ")]
    assert said.startswith(f"halo 8 on axis {name}, but values change by more than 0.001")
    assert 8 < int(said.rsplit(" ", 1)[1]) <= 20


def test_qupath_repeats_the_edge_and_the_report_says_what_that_costs(spoilt: Copy) -> None:
    report = spoilt.check("qupath", "fiji")
    row = report.row("qupath")
    assert row.right_values.state == row.seams.state == "passed"
    (said,) = row.right_values.reasons
    assert "the edge pixel repeated beyond the border" in said
    at_border = float(said.split(" inside, ")[1].split()[0])
    # The network mirrors: what stands beyond the border is another image.
    assert at_border > 0.01
    (fiji,) = report.row("fiji").right_values.reasons
    assert float(fiji.split(" inside, ")[1].split()[0]) < 1e-5
    # No package can change it.
    assert [f.rule for f in row.findings] == []


@pytest.mark.parametrize(("program", "side"), [("qupath", 504), ("ilastik", 512)])
def test_images_below_the_smallest_size_are_filled_up_to_a_tile(
    spoilt: Copy, program: str, side: int
) -> None:
    row = spoilt.check(program).row(program)
    assert row.any_size.state == "passed"
    assert any("37 x 37, below the smallest size, went through" in r for r in row.any_size.reasons)
    assert any(f"tiles of {side} x {side}" in r for r in row.right_values.reasons)


@pytest.mark.parametrize(
    ("minimum", "side"), [(1, 512), (56, 504), (152, 456), (256, 512), (300, 300), (600, 600)]
)
def test_tiles_of_qupath_are_multiples_of_the_minimum_up_to_512(minimum: int, side: int) -> None:
    assert tile_size(minimum) == side


@pytest.mark.parametrize(("size", "fails"), [(64, True), (256, True), (264, False), (512, False)])
def test_a_fixed_size_that_qupath_multiplies(spoilt: Copy, size: int, fails: bool) -> None:
    for axis in spoilt.space(spoilt.input):
        axis["size"] = size
    broken = errors(spoilt.check()).get("qupath", set())
    assert ("qupath.fixed-size" in broken) is fails


def test_what_scripts_are_attached_and_that_they_were_not_run(spoilt_run: Copy) -> None:
    report = spoilt_run.check()
    for program, name in (
        ("fiji", "deepcontrast_fiji.ijm"),
        ("qupath", "deepcontrast_qupath.groovy"),
    ):
        (said,) = report.row(program).scripts
        assert said.startswith(f"{name} was not run, since it needs ")
        assert "word for word the script of this version" in said
        assert f"script skipped: {name} was not run" in report.to_text()
        with (spoilt_run.folder / name).open("a") as stream:
            stream.write("// more\n")
    report = spoilt_run.check()
    for program in ("fiji", "qupath"):
        (said,) = report.row(program).scripts
        assert said.endswith("nothing is known of it")
    assert report.row("core").scripts == ()


def assert_way_out(report: Report, rules: dict[str, set[str]]) -> None:
    """Fiji and QuPath fail by these rules, and each says what writes a package for them."""
    failed = errors(report)
    for program, expected in rules.items():
        assert expected <= failed[program]
        for rule in expected:
            mend = found(report, rule).mend
            assert "`dcbmz export deepcontrast`" in mend
            assert "`dcbmz port PACKAGE`" in mend


def test_the_folder_of_this_repository_does_not_open_in_fiji_and_says_what_does() -> None:
    report = check_package(ROOT / "rdf.yaml", run=["none"])
    assert_way_out(report, {"fiji": {"fiji.weights-subfolder"}, "qupath": {"qupath.halo"}})
    assert errors(report).keys() == {"fiji", "qupath"}


def test_what_bioimageio_makes_of_a_package_does_not_open_in_fiji_and_qupath(
    spoilt: Copy, tmp_path: Path
) -> None:
    """It writes documentation and covers as maps, and leaves model.yaml out."""
    # People are looked up on the internet.
    for key in ("maintainers", "cite"):
        del spoilt.rdf[key]
    spoilt.rdf["authors"] = [{"name": "Somebody"}]
    save_descriptions(spoilt.folder, spoilt.rdf)
    packed = tmp_path / "packed.zip"
    with warnings.catch_warnings():
        # It leaves files open, which are closed here and not in the middle of what follows.
        warnings.simplefilter("ignore")
        save_bioimageio_package(spoilt.folder / "rdf.yaml", output_path=packed)
        gc.collect()
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
    assert "model.yaml" not in names
    report = check_package(packed, run=["none"])
    rules = {"fiji": {"fiji.plain-text"}, "qupath": {"qupath.plain-text", "qupath.halo"}}
    assert_way_out(report, rules)
