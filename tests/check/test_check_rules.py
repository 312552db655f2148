from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import nn

from deepcontrast_bmz.check.check import PROGRAMS, check_package
from deepcontrast_bmz.check.findings import Finding
from deepcontrast_bmz.check.rule import apply_rules, read_rules
from deepcontrast_bmz.export.fiji_order import hash_like_java, order_formats, shares_slot
from deepcontrast_bmz.package.description import ModelView
from deepcontrast_bmz.package.files import Package

from .spoilt_packages import (
    Copy,
    Upsampled,
    change_onnx,
    errors,
    found,
    no_id,
    only_state_dict,
    opset_18,
    save_descriptions,
    save_script,
    script,
    sha256,
    wrong_sha256,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_files_of_a_good_package_break_no_rule(good: Path) -> None:
    report = check_package(good, run=["none"])
    assert report.passed
    assert [f for row in report.rows for f in row.findings] == []
    assert all(row.opens.state == "passed" for row in report.rows)
    for row in report.rows:
        assert row.passed is None
        assert row.runs.state == row.right_values.state == "skipped"
        assert row.runs.reasons


def documentation_as_map(c: Copy) -> None:
    c.rdf["documentation"] = {"source": "README.md", "sha256": sha256(c.folder / "README.md")}


def cover_as_map(c: Copy) -> None:
    c.rdf["covers"] = [{"source": "cover.png", "sha256": sha256(c.folder / "cover.png")}]


def no_channel_names(c: Copy) -> None:
    del c.input["axes"][1]["channel_names"]


def no_axis_id(c: Copy) -> None:
    del c.input["axes"][0]["id"]


def opset_not_as_declared(c: Copy) -> None:
    c.rdf["weights"]["onnx"]["opset_version"] = 16


def ir_11(c: Copy) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.ir_version = 11

    change_onnx(c, change)


def external_data(c: Copy) -> None:
    path = c.weights("onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    c.rehash(c.rdf["weights"]["onnx"])


def onnx_of_noise(c: Copy) -> None:
    c.weights("onnx").write_bytes(b"not a graph at all")
    c.rehash(c.rdf["weights"]["onnx"])


def mean_std(c: Copy) -> None:
    step = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}
    c.input["preprocessing"] = [step]


def mean_std_without_kwargs(c: Copy) -> None:
    c.input["preprocessing"] = [{"id": "zero_mean_unit_variance"}]


def percentiles_by_default(c: Copy) -> None:
    c.input["preprocessing"] = [{"id": "scale_range", "kwargs": {"axes": ["y", "x"]}}]


def scalar_gain(c: Copy) -> None:
    c.input["preprocessing"] = [{"id": "scale_linear", "kwargs": {"gain": 2.0, "offset": 0.0}}]


def one_bound(c: Copy) -> None:
    c.input["preprocessing"] = [{"id": "clip", "kwargs": {"min": 0.0}}]


def softmax(c: Copy) -> None:
    c.output["postprocessing"] = [{"id": "softmax", "kwargs": {"axis": "channel"}}]


def statistics_afterwards(c: Copy) -> None:
    kwargs = {"axes": ["channel", "y", "x"], "min_percentile": 1.0, "max_percentile": 99.0}
    c.output["postprocessing"] = [{"id": "scale_range", "kwargs": kwargs}]


def axis_scale(c: Copy) -> None:
    c.space(c.input)[0].update(scale=0.5, unit="micrometer")


def no_halo(c: Copy) -> None:
    for axis in c.space(c.output):
        del axis["halo"]


def halo_of_a_tile(c: Copy) -> None:
    for axis in c.space(c.input):
        axis["size"]["min"] = 512
    for axis in c.space(c.output):
        axis["halo"] = 256


def min_below_two_halos(c: Copy) -> None:
    for axis in c.space(c.input):
        axis["size"]["min"] = 48


def step_16(c: Copy) -> None:
    for axis in c.space(c.input):
        axis["size"] = {"min": 64, "step": 16}


def min_off_step(c: Copy) -> None:
    for axis in c.space(c.input):
        axis["size"] = {"min": 72, "step": 16}


def only_onnx(c: Copy) -> None:
    for name in ("torchscript", "pytorch_state_dict"):
        del c.rdf["weights"][name]
    del c.rdf["weights"]["onnx"]["parent"]


def weights_in_subfolder(c: Copy) -> None:
    (c.folder / "weights").mkdir()
    path = c.weights("torchscript")
    path.rename(c.folder / "weights" / path.name)
    c.rdf["weights"]["torchscript"]["source"] = f"weights/{path.name}"


def a_null(c: Copy) -> None:
    c.rdf["timestamp"] = None


def a_null_in_an_operation(c: Copy) -> None:
    c.input["preprocessing"][0]["kwargs"]["axes"] = None


def unfrozen_interpolate(c: Copy) -> None:
    save_script(c, script(Upsampled()))


class Median(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - torch.quantile(x, 0.5)


def quantile(c: Copy) -> None:
    save_script(c, script(Median()))


def onnx_first(c: Copy) -> None:
    c.rdf["weights"]["torchscript"]["pytorch_version"] = "2.13.0"


def torch_3(c: Copy) -> None:
    c.rdf["weights"]["torchscript"]["pytorch_version"] = "3.0.0"


def missing_file(c: Copy) -> None:
    c.rdf["covers"] = ["cover_of_another.png"]


def file_outside(c: Copy) -> None:
    (c.folder.parent / "README.md").write_text("# Validation\n")
    c.rdf["documentation"] = "../README.md"


def absolute_file(c: Copy) -> None:
    c.rdf["documentation"] = str((c.folder / "README.md").resolve())


def batch_of_four(c: Copy) -> None:
    for side in (c.input, c.output):
        side["axes"][0]["size"] = 4


def one_size_of_onnx(c: Copy) -> None:
    def change(model: onnx.ModelProto) -> None:
        for dim in model.graph.input[0].type.tensor_type.shape.dim:
            dim.dim_value = 64

    change_onnx(c, change)


def time_axis(c: Copy) -> None:
    c.input["axes"][0] = {"type": "time", "id": "time", "size": 1}


def index_axis(c: Copy) -> None:
    c.input["axes"][0] = {"type": "index", "id": "index", "size": 1}


def version_050(c: Copy) -> None:
    c.rdf["format_version"] = "0.5.0"


def version_06(c: Copy) -> None:
    c.rdf["format_version"] = "0.6.0"


def deepimagej_config(c: Copy) -> None:
    c.rdf["config"]["deepimagej"] = {"prediction": {}}


def two_inputs(c: Copy) -> None:
    c.rdf["inputs"].append({**c.input, "id": "second"})


def no_license(c: Copy) -> None:
    del c.rdf["license"]


def padded_input(c: Copy) -> None:
    c.input["pad"] = {"mode": "symmetric"}


def unsigned_output(c: Copy) -> None:
    c.output["data"] = {"type": "uint16"}


def fewer_channels(c: Copy) -> None:
    del c.output["axes"][1]["channel_names"][-1]


def tensor_of_text(c: Copy) -> None:
    (c.folder / "test_input.npy").write_bytes(b"0 1 2 3")
    c.rehash(c.input["test_tensor"])


def pickled_tensor(c: Copy) -> None:
    np.save(c.folder / "test_input.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    c.rehash(c.input["test_tensor"])


SPOILT: list[tuple[Callable[[Copy], None], dict[str, str]]] = [
    (
        documentation_as_map,
        {p: f"{p}.plain-text" for p in ("fiji", "qupath", "ilastik", "bioengine")},
    ),
    (cover_as_map, {p: f"{p}.plain-text" for p in ("fiji", "qupath", "ilastik", "bioengine")}),
    (no_channel_names, {"fiji": "fiji.channel-names", "qupath": "qupath.channel-names"}),
    (no_axis_id, {"fiji": "fiji.axis-ids"}),
    (opset_18, {"fiji": "fiji.onnx-version"}),
    (opset_not_as_declared, {"fiji": "fiji.onnx-version", "bioengine": "bioengine.onnx-version"}),
    (ir_11, {"fiji": "fiji.onnx-version", "bioengine": "bioengine.onnx-version"}),
    (external_data, {"fiji": "fiji.onnx-one-file"}),
    (onnx_of_noise, {"fiji": "fiji.onnx-version", "bioengine": "bioengine.onnx-version"}),
    (mean_std, {p: f"{p}.mean-std" for p in ("fiji", "qupath", "ilastik")}),
    (
        mean_std_without_kwargs,
        {
            "qupath": "qupath.mean-std-kwargs",
            "fiji": "fiji.mean-std",
            "ilastik": "ilastik.mean-std",
        },
    ),
    (percentiles_by_default, {"qupath": "qupath.percentiles"}),
    (scalar_gain, {"qupath": "qupath.scale-linear"}),
    (one_bound, {"fiji": "fiji.clip-bounds"}),
    (softmax, {"fiji": "fiji.operations", "qupath": "qupath.operations"}),
    (statistics_afterwards, {"core": "core.post-statistics"}),
    (axis_scale, {"fiji": "fiji.axis-scale"}),
    (no_halo, {"qupath": "qupath.halo", "ilastik": "ilastik.halo"}),
    (halo_of_a_tile, {"ilastik": "ilastik.halo-fits", "core": "core.min-halo"}),
    (min_below_two_halos, {"core": "core.min-halo"}),
    (step_16, {"core": "core.any-size"}),
    (min_off_step, {"fiji": "fiji.min-step"}),
    (wrong_sha256, {"core": "core.sha256"}),
    (no_id, {"fiji": "fiji.id"}),
    (only_state_dict, {"fiji": "fiji.weights-format", "qupath": "qupath.weights-format"}),
    (only_onnx, {"qupath": "qupath.weights-format", "ilastik": "ilastik.weights-format"}),
    (weights_in_subfolder, {"fiji": "fiji.weights-subfolder"}),
    (a_null, {"fiji": "fiji.nulls"}),
    (a_null_in_an_operation, {"fiji": "fiji.nulls"}),
    (
        unfrozen_interpolate,
        {p: f"{p}.script-frozen" for p in ("fiji", "qupath", "ilastik", "bioengine")},
    ),
    (quantile, {"fiji": "fiji.quantile"}),
    (onnx_first, {"fiji": "fiji.loads-torchscript-first"}),
    (torch_3, {"fiji": "fiji.pytorch-major"}),
    (missing_file, {"core": "core.files"}),
    (file_outside, {"core": "core.files"}),
    (absolute_file, {"core": "core.files"}),
    (batch_of_four, {"fiji": "fiji.batch", "qupath": "qupath.batch"}),
    (one_size_of_onnx, {"core": "core.onnx-dynamic"}),
    (time_axis, {"fiji": "fiji.axis-types"}),
    (index_axis, {"fiji": "fiji.axis-types", "ilastik": "ilastik.axis-names"}),
    (version_050, {"qupath": "qupath.format-version"}),
    (version_06, {"fiji": "fiji.format-version", "core": "core.format-version"}),
    (deepimagej_config, {"fiji": "fiji.allow-tiling"}),
    (
        two_inputs,
        {
            "fiji": "fiji.one-input",
            "qupath": "qupath.one-tensor",
            "ilastik": "ilastik.one-tensor",
        },
    ),
    (no_license, {"qupath": "qupath.required-keys"}),
    (padded_input, {"bioengine": "bioengine.new-input-keys"}),
    (unsigned_output, {"fiji": "fiji.data-type"}),
    (fewer_channels, {"core": "core.channel-count"}),
    (tensor_of_text, {"core": "core.test-tensors"}),
    (pickled_tensor, {"core": "core.test-tensors"}),
]


@pytest.mark.parametrize(("spoil", "expected"), SPOILT, ids=[s.__name__ for s, _ in SPOILT])
def test_spoilt_package_is_refused_for_the_right_program_and_reason(
    spoilt: Copy, spoil: Callable[[Copy], None], expected: dict[str, str]
) -> None:
    spoil(spoilt)
    report = spoilt.check()
    assert not report.passed
    broken = errors(report)
    for program, rule in expected.items():
        assert rule in broken[program], (program, broken)
    # No other program is blamed, but the reference validator may object as well.
    assert set(broken) <= {*expected, "core"}, broken
    for program, rule in expected.items():
        row = report.row(program)
        finding = next(f for f in row.findings if f.rule == rule)
        verdict = row.verdict(finding.column)
        assert verdict.state == "failed"
        assert any(finding.met in reason and finding.mend in reason for reason in verdict.reasons)


def test_axis_halo_alone_is_nothing_to_qupath(spoilt: Copy) -> None:
    save_descriptions(spoilt.folder, spoilt.rdf)
    (spoilt.folder / "model.yaml").unlink()
    report = check_package(spoilt.folder, run=["none"])
    assert errors(report) == {"qupath": {"qupath.halo"}}
    assert "only axis halos of 24" in found(report, "qupath.halo").met


def test_second_description_that_says_something_else_is_remarked(spoilt: Copy) -> None:
    path = spoilt.folder / "model.yaml"
    other = yaml.safe_load(path.read_text())
    other["name"] = "another loop"
    path.write_text(yaml.safe_dump(other))
    report = check_package(spoilt.folder, run=["none"])
    assert report.passed
    assert found(report, "qupath.second-description").met.startswith("name '")


def test_paths_of_the_writing_machine_are_remarked(spoilt: Copy) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Upsampled().eval(), torch.zeros(1, 1, 64, 64))
    assert isinstance(traced, torch.jit.ScriptModule)
    save_script(spoilt, traced)
    report = spoilt.check()
    assert report.passed
    assert ".py in weights.torchscript.pt" in found(report, "core.local-paths").met


REMARKS: list[tuple[str, Callable[[Copy], object]]] = [
    ("core.cover", lambda c: c.rdf.pop("covers")),
    ("core.validation-heading", lambda c: (c.folder / "README.md").write_text("# Nothing\n")),
    ("core.sha256-given", lambda c: c.rdf["weights"]["onnx"].pop("sha256")),
    ("core.tolerance", lambda c: c.rdf["config"].pop("bioimageio")),
    ("core.validator-warning", lambda c: c.rdf.pop("cite")),
    ("ilastik.grid", lambda c: [axis.update(halo=25) for axis in c.space(c.output)]),
    ("fiji.sample", lambda c: c.input.pop("sample_tensor")),
    ("fiji.pytorch-version", lambda c: c.rdf["weights"]["torchscript"].pop("pytorch_version")),
    (
        "fiji.loads-first-tie",
        lambda c: c.rdf["weights"]["torchscript"].update(pytorch_version="2.9.0"),
    ),
    ("qupath.size-offset", lambda c: c.space(c.output)[0]["size"].pop("offset")),
    ("bioengine.format-version", lambda c: c.rdf.update(format_version="0.5.14")),
]


@pytest.mark.parametrize(("rule", "change"), REMARKS, ids=[rule for rule, _ in REMARKS])
def test_blemish_is_a_warning(spoilt: Copy, rule: str, change: Callable[[Copy], object]) -> None:
    change(spoilt)
    if rule == "core.tolerance":
        np.save(spoilt.folder / "test_output.npy", 1e5 * np.load(spoilt.folder / "test_output.npy"))
        spoilt.rehash(spoilt.output["test_tensor"])
    report = spoilt.check()
    assert found(report, rule).severity == "warning"


def test_rules_are_complete_and_named_after_their_program() -> None:
    names = [rule.name for program in PROGRAMS for rule in program.rules]
    assert len(names) == len(set(names))
    for program in PROGRAMS:
        for rule in program.rules:
            assert rule.name.startswith(f"{program.name}.")
            assert all(rule.words[key] for key in ("checks", "sees", "mend", "source"))
    with pytest.raises(ValueError, match=r"upload\.toml and its finders differ"):
        read_rules("upload", {})


def every_place(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a nested record."""
    places = [path] if path else []
    if isinstance(value, dict):
        for key, entry in value.items():
            places += every_place(entry, (*path, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            places += every_place(entry, (*path, index))
    return places


JUNK: tuple[Any, ...] = (None, [], {}, 7, -1.5, "words", [None], {"source": 3}, [[1]], True)


def test_no_description_makes_a_rule_crash(spoilt: Copy) -> None:
    original = json.dumps(spoilt.rdf)
    places = every_place(spoilt.rdf)
    assert len(places) > 100
    for index, place in enumerate(places):
        junk = JUNK[index % len(JUNK)]
        rdf = json.loads(original)
        inner = rdf
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = junk
        package = Package(spoilt.folder, spoilt.folder, "rdf.yaml", rdf, rdf)
        for program in PROGRAMS:
            for finding in apply_rules(program.rules, package, Finding):
                assert finding.met, (place, junk, finding.rule)


def test_rules_need_neither_torch_nor_long(good: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nstart = time.process_time()\n"
        "from deepcontrast_bmz.check.check import check_package\n"
        f"assert check_package(Path({str(good)!r}), run=['none']).passed\n"
        "assert 'torch' not in sys.modules and 'bioimageio.core' not in sys.modules\n"
        "assert time.process_time() - start < 5\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_old_description_is_read_in_the_same_words() -> None:
    rdf = {
        "format_version": "0.4.10",
        "inputs": [
            {
                "name": "raw",
                "axes": "bcyx",
                "shape": {"min": [1, 1, 64, 64], "step": [0, 0, 16, 16]},
                "data_type": "float32",
                "preprocessing": [
                    {"name": "zero_mean_unit_variance", "kwargs": {"mode": "fixed", "mean": [1.0]}}
                ],
            }
        ],
        "outputs": [
            {
                "name": "out",
                "axes": "bcyx",
                "shape": {
                    "reference_tensor": "raw",
                    "scale": [1, 0, 1, 1],
                    "offset": [0, 1.5, 0, 0],
                },
                "halo": [0, 0, 8, 8],
            }
        ],
        "test_inputs": ["in.npy"],
        "test_outputs": ["out.npy"],
    }
    view = ModelView.read(rdf)
    assert view.is_04
    assert [a.kind for a in view.inputs[0].axes] == ["batch", "channel", "space", "space"]
    y = view.inputs[0].axis("y")
    assert y is not None
    assert (y.minimum, y.step) == (64, 16)
    assert [y.legal(n) for n in (1, 64, 65, 80, 81)] == [64, 64, 80, 80, 96]
    assert view.outputs[0].channel is not None
    assert view.outputs[0].channel.size == 3
    assert view.halo == {"y": 8, "x": 8}
    assert view.outputs[0].tensor_halo == (0, 0, 8, 8)
    assert view.inputs[0].test_source == "in.npy"


# Versions of PyTorch with opset 17 that were tried in the program itself.
@pytest.mark.parametrize("version", ["2.0.0", "2.2.0", "2.4.0", "2.5.1", "2.15.0", "2.16.0"])
def test_java_comes_to_torchscript_first(version: str) -> None:
    weights = {"onnx": "17", "torchscript": version}
    assert order_formats(weights)[0] == "torchscript"
    assert not shares_slot(weights, "onnx", "torchscript")


@pytest.mark.parametrize("version", ["2.7.1", "2.8.0", "2.10.0", "2.12.0", "2.13.0", "2.14.0"])
def test_java_comes_to_onnx_first(version: str) -> None:
    assert order_formats({"torchscript": version, "onnx": "17"})[0] == "onnx"


def test_java_leaves_a_tie_to_the_file() -> None:
    for order in (("onnx", "torchscript"), ("torchscript", "onnx")):
        versions = {"onnx": "17", "torchscript": "2.9.0"}
        weights = {name: versions[name] for name in order}
        assert shares_slot(weights, "onnx", "torchscript")
        assert order_formats(weights) == list(order)


def test_java_hash_is_that_of_java() -> None:
    # Values of String.hashCode() from the Java language's documentation and common use.
    assert hash_like_java("") == 0
    assert hash_like_java("a") == 97
    assert hash_like_java("hello") == 99162322
    assert hash_like_java("polygenelubricants") == 2**31
