"""What is foretold of whole packages: each rule with a package that breaks it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from deepcontrast_bmz.check.check import check_package
from deepcontrast_bmz.check.engines.quiet import quiet
from deepcontrast_bmz.check.session import Session
from deepcontrast_bmz.check.zoo.case import give_id
from deepcontrast_bmz.check.zoo.completeness import measure_completeness
from deepcontrast_bmz.check.zoo.foretell import foretell
from deepcontrast_bmz.check.zoo.upload import list_upload
from deepcontrast_bmz.cli import main
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.package.files import open_package

from .spoilt_packages import Copy, save_descriptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deepcontrast_bmz.check.zoo.records import ZooRow, ZooVerdict

    Require = Callable[[str | None], None]


def rescale(c: Copy, factor: float) -> None:
    """Save the test tensors in another unit of grey values: the network commutes with it."""
    for side in (c.input, c.output):
        path = c.folder / side["test_tensor"]["source"]
        np.save(path, (factor * np.load(path)).astype(np.float32))
        c.rehash(side["test_tensor"])


UNIT = 1e-4
"""Of grey value: the output of the tiny, untrained network spans some 38,000."""


@pytest.fixture
def ready(spoilt: Copy) -> Copy:
    """A package made for the zoo: values of order 1, a workflow tag, a cover, no id."""
    rescale(spoilt, UNIT)
    del spoilt.rdf["id"]
    spoilt.rdf["tags"].append("image-restoration")
    spoilt.rdf["config"] = {"bioimageio": {"training": {"training_epochs": 3.0}}}
    Image.new("L", (40, 20), 99).save(spoilt.folder / "cover.png")
    for side in (spoilt.input, spoilt.output):
        (spoilt.folder / side.pop("sample_tensor")["source"]).unlink()
    return spoilt


def told(c: Copy, *engines: str, by_spec: bool = False, run_code: bool = False) -> ZooVerdict:
    """The zoo's verdict alone."""
    (c.folder / "rdf.yaml").write_text(yaml.safe_dump(c.rdf, sort_keys=False))
    (c.folder / "model.yaml").unlink(missing_ok=True)
    with open_package(c.folder) as package, Session(give_id(package), run_code) as session:
        return foretell(package, session, (), engines, by_spec=by_spec)


# ---- the verdict as a whole


def test_package_made_for_the_zoo_passes(ready: Copy) -> None:
    del ready.rdf["weights"]["onnx"]  # one format is enough, and half the time
    verdict = told(ready, "core", "fiji")
    states = {row.name: row.word for row in verdict.rows}
    assert states == {
        "format": "passed",
        "completeness": "measured",
        "core": "passed",
        "ilastik": "partly",
        "deepimagej": "partly",
        "biapy": "passed",
        "careamics": "not applicable",
        "icy": "not applicable",
        "bioengine": "skipped",
        "upload": "passed",
        "review": "passed",
    }
    assert verdict.passed
    completeness = verdict.row("completeness").low
    assert verdict.lowest == verdict.highest == pytest.approx(0.75 + completeness / 4)
    assert not [r for r in verdict.row("upload").remarks if r.rule == "upload.id"]
    assert "row biapy" not in verdict.to_text()


def test_nothing_that_was_not_run_passed(ready: Copy) -> None:
    verdict = told(ready)
    for name in ("core", "ilastik", "deepimagej", "bioengine"):
        assert verdict.row(name).state == "skipped", name
        assert verdict.row(name).reasons
    completeness = verdict.row("completeness").low
    # By hand: format 1, core .5 to 1, tools 1/3 (BiaPy) to 1.
    assert verdict.lowest == pytest.approx((1 + completeness + 0.5 + 1 / 3) / 4)
    assert verdict.highest == pytest.approx((1 + completeness + 1 + 1) / 4)
    assert verdict.passed
    assert "parts were not run" in verdict.to_text()


def test_lost_points_add_up_to_what_is_missing(ready: Copy) -> None:
    for tags in (ready.rdf["tags"], ["2d"]):
        ready.rdf["tags"] = tags
        verdict = told(ready)
        certain = sum(point.points for point in verdict.lost if point.certain)
        unknown = sum(point.points for point in verdict.lost if not point.certain)
        assert certain == pytest.approx(1 - verdict.highest)
        assert unknown == pytest.approx(verdict.highest - verdict.lowest)
        text = verdict.to_text()
        assert all(f"{point.judge}: {point.what}" in text for point in verdict.lost)


def test_invalid_description_counts_nothing(ready: Copy) -> None:
    ready.rdf["license"] = "no such licence"
    verdict = told(ready, "core")
    for name in ("format", "completeness", "core", "ilastik", "bioengine", "upload"):
        assert verdict.row(name).state == "failed", name
    assert "license" in verdict.row("format").reasons[0]
    assert verdict.row("completeness").high == verdict.row("core").high == 0
    assert verdict.rank == (0, 0)
    certain = sum(point.points for point in verdict.lost if point.certain)
    assert certain == pytest.approx(1 - verdict.highest)


# ---- completeness


def test_completeness_is_that_of_the_spec(ready: Copy) -> None:
    from bioimageio.spec import ValidationContext, build_description

    for person in (*ready.rdf["authors"], *ready.rdf["maintainers"]):
        person["github_user"] = "githubuser2"  # on the spec's list, so nothing is looked up
    save_descriptions(ready.folder, ready.rdf)
    with open_package(ready.folder) as package:
        found = measure_completeness(package)
    context = ValidationContext(root=ready.folder, file_name="rdf.yaml", perform_io_checks=True)
    with quiet():  # the spec leaves files open
        described = build_description(ready.rdf, context=context)
    assert found.value == described.validation_summary.metadata_completeness
    assert 0.3 < found.value < 0.9
    assert sum(m.count for m in found.missing) == found.total - found.given


@pytest.mark.parametrize(
    ("key", "value"),
    [("git_repo", "https://example.org/repository"), ("version", "1.0"), ("links", ["ilastik/x"])],
)
def test_one_key_more_is_one_key_given(ready: Copy, key: str, value: Any) -> None:
    def measure() -> Any:
        save_descriptions(ready.folder, ready.rdf)
        with open_package(ready.folder) as package:
            return measure_completeness(package)

    before = measure()
    assert key in {m.key for m in before.missing}
    ready.rdf[key] = value
    after = measure()
    assert (after.given, after.total) == (before.given + 1, before.total)
    assert key not in {m.key for m in after.missing}


def test_website_drops_what_it_drops(ready: Copy) -> None:
    row = told(ready).row("completeness")
    # training with its one key, below bioimageio, below config.
    given, total = (int(word) for word in row.reasons[0].split(" keys")[0].split(" of "))
    assert f"{given - 4} of {total}" in row.reasons[1]
    del ready.rdf["config"]
    assert len(told(ready).row("completeness").reasons) == 1


# ---- core and ilastik


def spoil_output(c: Copy, amount: float) -> None:
    path = c.folder / c.output["test_tensor"]["source"]
    array = np.load(path)
    array[0, 0, 30, 30] += amount
    np.save(path, array)
    c.rehash(c.output["test_tensor"])


def test_one_format_that_reproduces_is_enough(ready: Copy) -> None:
    ready.weights("torchscript").write_bytes(b"no network")
    ready.rehash(ready.rdf["weights"]["torchscript"])
    row = told(ready, "core").row("core")
    assert row.state == "passed"
    assert row.low == 1
    assert row.reasons[0].startswith("onnx: ")
    assert row.notes[0].startswith("torchscript: ")
    assert row.notes[1].startswith("pytorch_state_dict was not run")
    assert row.word == "passed"


def test_output_that_nobody_reproduces_fails_core_and_ilastik(ready: Copy) -> None:
    path = ready.folder / ready.output["test_tensor"]["source"]
    np.save(path, 1.05 * np.load(path))
    ready.rehash(ready.output["test_tensor"])
    del ready.rdf["weights"]["torchscript"]
    # While the state dict may not run, it might be the one that reproduces.
    assert told(ready, "core").row("core").state == "skipped"
    del ready.rdf["weights"]["pytorch_state_dict"]
    del ready.rdf["weights"]["onnx"]["parent"]
    verdict = told(ready, "core")
    assert verdict.row("core").state == verdict.row("ilastik").state == "failed"
    assert verdict.row("core").low == verdict.row("core").high == 0.5


# ---- deepImageJ


def dij(c: Copy) -> ZooRow:
    return told(c, "fiji").row("deepimagej")


def test_deepimagej_fails_at_a_single_pixel(ready: Copy) -> None:
    assert dij(ready).state == "passed"
    spoil_output(ready, 1e-4)
    assert dij(ready).state == "passed"
    spoil_output(ready, 1e-3)
    row = dij(ready)
    assert row.state == "failed"
    assert "1 of " in row.reasons[0]
    assert "(0, 0, 30, 30)" in row.reasons[0]
    assert (row.low, row.high) == (0, 0)


def test_larger_values_are_not_decided_by_the_engine_that_made_them(ready: Copy) -> None:
    # Over a range of 38, rounding is far below what is allowed, and 2e-5 of it is above.
    rescale(ready, 10)
    row = dij(ready)
    assert row.state == "skipped"
    assert (row.low, row.high) == (0, 1)
    assert "of the range would fail" in row.reasons[1]


def test_sample_must_be_the_test_input(ready: Copy) -> None:
    raw = np.load(ready.folder / ready.input["test_tensor"]["source"])
    path = ready.folder / "other.tif"
    ready.input["sample_tensor"] = {"source": "other.tif"}
    tifffile.imwrite(path, raw[0, 0], photometric="minisblack")
    assert dij(ready).state == "passed"
    tifffile.imwrite(path, raw[0, 0, ::-1], photometric="minisblack")
    assert "pixels differ by more" in dij(ready).reasons[0]
    tifffile.imwrite(path, raw[0, 0, :-1], photometric="minisblack")
    row = dij(ready)
    assert row.state == "failed"
    assert "same image" in row.reasons[0]


def test_what_fiji_cannot_open_fails_deepimagej(ready: Copy) -> None:
    ready.rdf["documentation"] = {"source": "README.md"}
    save_descriptions(ready.folder, ready.rdf)
    report = check_package(ready.folder, run=["none"], zoo=True)
    assert report.zoo is not None
    row = report.zoo.row("deepimagej")
    assert row.state == "failed"
    assert row.reasons[0].startswith("fiji.plain-text")


def test_no_id_is_no_fault_before_the_zoo(ready: Copy) -> None:
    save_descriptions(ready.folder, ready.rdf)
    assert check_package(ready.folder, run=["none"]).row("fiji").failed
    report = check_package(ready.folder, run=["none"], zoo=True)
    assert not report.row("fiji").failed
    assert report.passed


# ---- BioEngine and CAREamics


def test_architecture_with_a_library_of_its_own_needs_another_format(ready: Copy) -> None:
    architecture = ready.rdf["weights"]["pytorch_state_dict"]["architecture"]
    path = ready.folder / architecture["source"]
    path.write_text("import monai.networks\nimport json\nfrom timm import models\n")
    ready.rehash(architecture)
    assert told(ready).row("bioengine").state == "skipped"
    for name in ("torchscript", "onnx"):
        del ready.rdf["weights"][name]
    row = told(ready).row("bioengine")
    assert row.state == "failed"
    assert "monai" in row.reasons[0]
    assert "timm" not in row.reasons[0]
    assert "json" not in row.reasons[0]


def test_careamics_looks_at_its_own_models(ready: Copy) -> None:
    ready.rdf["tags"].append("CAREamics")
    assert told(ready).row("careamics").state == "failed"
    (ready.folder / "careamics.yaml").write_text("a: 1\n")
    ready.rdf["attachments"] = [{"source": "careamics.yaml"}]
    assert told(ready).row("careamics").state == "skipped"


# ---- upload and review


def other_folder(c: Copy) -> None:
    (c.folder / "more").mkdir()
    (c.folder / "more" / "README.md").write_text("# More\n\nSomething.\n")


def same_name(c: Copy) -> None:
    other_folder(c)
    c.rdf["attachments"] = [{"source": "more/README.md"}]


def large_cover(c: Copy) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 1200), np.uint8)
    Image.fromarray(noise).save(c.folder / "cover.png")


def wide_cover(c: Copy) -> None:
    Image.new("L", (90, 20)).save(c.folder / "cover.png")


def negative(c: Copy) -> None:
    path = c.folder / c.output["test_tensor"]["source"]
    np.save(path, -np.abs(np.load(path)))
    c.rehash(c.output["test_tensor"])


def nameless(c: Copy) -> None:
    c.rdf["authors"] = [{"name": "The maintainers"}]


def no_users(c: Copy) -> None:
    del c.rdf["maintainers"]


def ten_files(c: Copy) -> None:
    (c.folder / "macro.ijm").write_text("// nothing\n")
    c.rdf["attachments"] = [{"source": "macro.ijm"}]


BROKEN: dict[str, tuple[str, str, Callable[[Copy], Any]]] = {
    "upload.id": ("upload", "warning", lambda c: c.rdf.update(id="mine")),
    "upload.files": ("upload", "error", lambda c: c.rdf.update(covers=["gone.png"])),
    "upload.same-names": ("upload", "error", same_name),
    "upload.folders": ("upload", "warning", same_name),
    "upload.website-config": ("upload", "warning", lambda _: None),
    "review.description": ("review", "error", lambda c: c.rdf.update(description="")),
    "review.authors": ("review", "error", lambda c: c.rdf.update(authors=[])),
    "review.license": ("review", "error", lambda c: c.rdf.pop("license")),
    "review.tags": ("review", "error", lambda c: c.rdf.update(tags=[])),
    "review.cite": ("review", "error", lambda c: c.rdf.update(cite=[{"text": "no address"}])),
    "review.documentation": ("review", "error", lambda c: c.rdf.pop("documentation")),
    "review.cover": ("review", "error", lambda c: c.rdf.pop("covers")),
    "review.cover-size": ("review", "warning", large_cover),
    "review.cover-ratio": ("review", "warning", wide_cover),
    "review.real-authors": ("review", "warning", nameless),
    "review.maintainers": ("review", "warning", no_users),
    "review.samples": ("review", "warning", lambda _: None),
    "review.negative-output": ("review", "warning", negative),
    "review.training-data": ("review", "warning", lambda c: c.rdf.pop("config")),
    "review.file-count": ("review", "warning", ten_files),
    "review.unreferenced": ("review", "warning", other_folder),
}
ALWAYS = {"upload.website-config", "review.samples", "review.negative-output"}
"""What the tiny package breaks anyway: it has a config, no samples, and an untrained network."""


@pytest.mark.parametrize("rule", BROKEN)
def test_rule_is_broken(ready: Copy, rule: str) -> None:
    name, severity, spoil = BROKEN[rule]
    before = {r.rule for row in told(ready).rows for r in row.remarks}
    assert (rule in before) == (rule in ALWAYS)
    spoil(ready)
    row = told(ready).row(name)
    found = [remark for remark in row.remarks if remark.rule == rule]
    assert found
    assert found[0].severity == severity
    assert found[0].mend
    assert found[0].source
    # Some breaches make the description invalid, which no upload accepts either.
    assert row.failed or not any(remark.severity == "error" for remark in row.remarks)
    if severity == "warning":
        assert not row.failed or any(remark.severity == "error" for remark in row.remarks)


def test_description_of_another_name_is_no_upload(ready: Copy) -> None:
    save_descriptions(ready.folder, ready.rdf)
    (ready.folder / "rdf.yaml").rename(ready.folder / "mine.rdf.yaml")
    (ready.folder / "model.yaml").unlink()
    with open_package(ready.folder) as package, Session(package, run_code=False) as session:
        row = foretell(package, session, (), ()).row("upload")
    assert {r.rule for r in row.remarks if r.severity == "error"} == {"upload.description-name"}


def test_list_is_what_the_spec_sends(ready: Copy) -> None:
    from bioimageio.spec import ValidationContext, build_description, get_package_content

    same_name(ready)
    (ready.folder / "more" / "README.md").rename(ready.folder / "more" / "MORE.md")
    ready.rdf["attachments"] = [{"source": "more/MORE.md"}]
    save_descriptions(ready.folder, ready.rdf)
    with open_package(ready.folder) as package:
        sent = list_upload(package)
    context = ValidationContext(root=ready.folder, file_name="rdf.yaml", perform_io_checks=False)
    described = build_description(ready.rdf, context=context)
    with context:
        content = get_package_content(described)  # pyright: ignore[reportArgumentType]
    assert {file.name for file in sent} == set(content)
    assert all(file.size for file in sent)


# ---- the command line


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_check_zoo_on_the_command_line(ready: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    save_descriptions(ready.folder, ready.rdf)
    arguments = ("check", str(ready.folder), "--run", "none")
    code, out, _ = run(capsys, *arguments, "--zoo")
    assert code == 0
    assert "zoo: no row failed" in out
    assert "only the zoo can add:" in out
    code, out, _ = run(capsys, *arguments, "--json", "--zoo")
    record = json.loads(out)
    assert record["zoo"]["passed"] is record["passed"] is True
    assert record["zoo"]["lowest"] < record["zoo"]["highest"] < 1
    ready.rdf["tags"].remove("image-restoration")
    save_descriptions(ready.folder, ready.rdf)
    code, out, _ = run(capsys, *arguments, "--zoo")
    assert code == 1
    assert "zoo: failed: biapy" in out
    code, out, _ = run(capsys, "check", str(ready.folder), "--run", "none", "--json")
    assert "zoo" not in json.loads(out)


def test_publish_lists_and_sends_nothing(ready: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    save_descriptions(ready.folder, ready.rdf)
    arguments = ("publish", str(ready.folder), "--dry-run", "--run", "none")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "would send 9 files" in out
    assert "would leave behind: model.yaml" in out
    ready.rdf["id"] = "mine"
    save_descriptions(ready.folder, ready.rdf)
    code, out, _ = run(capsys, *arguments)
    assert code == 1
    assert "would send nothing as long as the row upload fails" in out
    assert "zoo: failed: upload" in out


def test_publish_without_dry_run_is_one_sentence(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "publish", str(good))
    assert code == 2
    assert not out
    assert "no uploading is built in" in err
    assert "--dry-run" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", [("check", "--zoo"), ("publish", "--dry-run")])
def test_package_without_test_tensors_is_one_sentence(
    spoilt: Copy, command: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    del spoilt.output["test_tensor"]
    save_descriptions(spoilt.folder, spoilt.rdf)
    code, out, err = run(capsys, command[0], str(spoilt.folder), command[1], "--run", "none")
    assert code == 2
    assert not out
    assert "no test tensors (enhanced)" in err
    assert len(err.strip().splitlines()) == 1


def test_package_without_outputs_is_refused(spoilt: Copy) -> None:
    spoilt.rdf["outputs"] = []
    save_descriptions(spoilt.folder, spoilt.rdf)
    with pytest.raises(InputError, match="no test tensors"):
        check_package(spoilt.folder, run=["none"], zoo=True)


# ---- the real engines


@pytest.mark.slow
@pytest.mark.engines
def test_real_engines_pass_a_package_made_for_the_zoo(ready: Copy, require: Require) -> None:
    from deepcontrast_bmz.check.engines.environments import explain_missing_environment
    from deepcontrast_bmz.check.engines.java import explain_missing_java

    for name in ("core-0.10.2", "core-0.10.4"):
        require(explain_missing_environment(name))
    require(explain_missing_java())
    engines = ("core", "core-0.10.2", "core-0.10.4", "libtorch-2.0.0", "libtorch-2.5.1")
    verdict = told(ready, *engines)
    for name in ("core", "ilastik", "deepimagej", "biapy", "bioengine"):
        assert verdict.row(name).state == "passed", verdict.to_text()
    assert verdict.row("deepimagej").reasons[0].startswith("libtorch-2.0.0 (torchscript)")
    assert not verdict.row("ilastik").not_run
    assert verdict.lowest == verdict.highest
    assert verdict.rank is not None
    assert verdict.rank[0] > 3


@pytest.mark.engines
def test_bioengine_has_its_numpy(require: Require) -> None:
    import subprocess

    from deepcontrast_bmz.check.engines.environments import (
        explain_missing_environment,
        link_torch,
        prepare_environment,
    )

    require(explain_missing_environment("core-0.10.4"))
    python = prepare_environment("core-0.10.4")
    code = (
        f"import sys; sys.path.append({str(link_torch())!r}); import numpy, onnxruntime, torch;"
        "print(numpy.__version__, onnxruntime.__version__)"
    )
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.26.4", "1.20.1"]
