"""The description: what every program needs is there, what breaks one of them is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml
from conftest import run_record
from descriptions import described
from hypothesis import given
from hypothesis import strategies as st

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.facts import ModelFacts, compute_shortest_side, make_model_id, title
from deepcontrast_bmz.export.fiji_order import order_formats
from deepcontrast_bmz.export.publication import make_publication, parse_author, parse_maintainer
from deepcontrast_bmz.export.rdf import (
    FileEntry,
    Role,
    absolute_tolerance,
    adapt_for_qupath,
    adapt_for_zoo,
    build_rdf,
    choose_torch_version,
    publish,
    to_yaml,
)
from deepcontrast_bmz.export.records import ExportRecord
from deepcontrast_bmz.records import ImageRecord, LoopDescription
from deepcontrast_bmz.settings import Maintainer, NetworkSettings, Person, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES: dict[Role, FileEntry] = {
    role: FileEntry(path=f"{role}.bin", sha256="0" * 64) for role in get_args(Role)
}
RECIPE = Recipe(network=NetworkSettings(width=4, dilations=(1, 2, 1)))
RUN = run_record(
    version="0.1.0",
    torch_version="2.15.0",
    finished_utc="2026-01-02T03:04:05Z",
    training_seconds=90.0,
    steps=300,
    parameters=472,
    images=(ImageRecord(name="fly.tif", sha256="1" * 64, dims="zyx", shape=(4, 64, 64)),),
    validation={"loss": 0.1},
)
EXPORTED = ExportRecord(
    weights={
        "pytorch_state_dict": "weights.pt",
        "torchscript": "weights.torchscript.pt",
        "onnx": "weights.onnx",
    },
    architecture="architecture.py",
    architecture_kwargs={"width": 4, "dilations": [1, 2, 1], "iterations": 3},
    parameters=472,
    parity=(),
)


def description(halo: int = 64) -> LoopDescription:
    return described(
        3,
        network=RECIPE.network,
        radius_px=5,
        halo_px=halo,
        halo_tolerance=1e-5,
        torch_version="2.15.0",
    )


def make_rdf(halo: int = 64, multiple: int = 1, **publication: Any) -> dict[str, Any]:
    facts = ModelFacts(
        name="deepcontrast",
        recipe=RECIPE,
        run=RUN,
        loop=description(halo),
        exported=EXPORTED,
        multiple=multiple,
        sample=None,
    )
    return build_rdf(facts, FILES, make_publication(**publication))


def walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for inner in value.values():  # pyright: ignore[reportUnknownVariableType]
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:  # pyright: ignore[reportUnknownVariableType]
            yield from walk(inner)


# ---- the dialect


def test_documentation_and_covers_are_plain_strings_and_there_is_an_id() -> None:
    rdf = make_rdf()
    assert rdf["format_version"] == "0.5.4"
    assert rdf["documentation"] == "documentation.bin"
    assert rdf["covers"] == ["cover.bin"]
    assert rdf["id"] == "deepcontrast"
    assert {"name", "description", "license", "authors", "cite", "tags", "timestamp"} <= rdf.keys()


def test_nothing_is_null_and_no_axis_has_a_pixel_size() -> None:
    rdf = make_rdf()
    assert None not in list(walk(rdf))
    for tensor in (*rdf["inputs"], *rdf["outputs"]):
        assert [axis["id"] for axis in tensor["axes"]] == ["batch", "channel", "y", "x"]
        assert tensor["axes"][1]["channel_names"]
        assert all("scale" not in axis for axis in tensor["axes"])
    assert "deepimagej" not in rdf["config"]
    assert "run_mode" not in rdf


def test_every_file_has_its_sha256_and_one_weights_entry_no_parent() -> None:
    rdf = make_rdf()
    sources = [part for part in walk(rdf) if isinstance(part, dict) and "source" in part]
    assert len(sources) == 12
    assert all(len(part["sha256"]) == 64 for part in sources)
    parents = [entry.get("parent") for entry in rdf["weights"].values()]
    assert parents == [None, "pytorch_state_dict", "pytorch_state_dict"]


def test_only_the_dtype_is_changed_before_and_nothing_after() -> None:
    rdf = make_rdf()
    (operation,) = rdf["inputs"][0]["preprocessing"]
    assert operation == {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    assert "postprocessing" not in rdf["outputs"][0]


@given(halo=st.integers(1, 30).map(lambda n: 8 * n), levels=st.integers(1, 5))
def test_sizes_suit_every_tiling(halo: int, levels: int) -> None:
    multiple = 2 ** (levels - 1)
    rdf = make_rdf(halo, multiple)
    size = rdf["inputs"][0]["axes"][2]["size"]
    axis = rdf["outputs"][0]["axes"][2]
    assert size["step"] == 1
    assert size["min"] > 2 * axis["halo"]
    assert size["min"] % multiple == 0
    assert (512 - 2 * axis["halo"]) % 16 == 0
    assert 2 * axis["halo"] < 512
    assert axis["size"] == {"tensor_id": "raw", "axis_id": "y", "offset": 0}
    assert size["min"] == compute_shortest_side(halo, multiple)


def test_a_halo_that_leaves_no_tile_is_refused() -> None:
    with pytest.raises(InputError, match=r"3 iterations.*need a halo of 248.*at most 240.*fewer"):
        make_rdf(248)


@pytest.mark.parametrize(
    "version",
    ["2.0.0", "2.5.1", "2.7.1", "2.9.0", "2.13.0", "2.14.0", "2.15.0", "2.15.0+cu132", "3.0.0"],
)
def test_fiji_loads_torchscript_first(version: str) -> None:
    declared = choose_torch_version(version)
    versions = {"pytorch_state_dict": declared, "torchscript": declared, "onnx": "17"}
    assert order_formats(versions)[0] == "torchscript"
    real = version.partition("+")[0]
    if order_formats(versions | {"pytorch_state_dict": real, "torchscript": real})[0] == (
        "torchscript"
    ):
        assert declared == real


def test_the_declared_version_is_in_both_torch_entries() -> None:
    weights = make_rdf()["weights"]
    assert weights["pytorch_state_dict"]["pytorch_version"] == "2.15.0"
    assert weights["torchscript"]["pytorch_version"] == "2.15.0"
    assert weights["onnx"]["opset_version"] == 17


def test_the_default_tolerance_holds() -> None:
    """Test tensors are of order one: no tolerance of several counts."""
    assert "reproducibility_tolerance" not in make_rdf()["config"]["bioimageio"]


@given(low=st.floats(-1e6, 1e6), spread=st.floats(1e-3, 1e6), positive=st.booleans())
def test_a_tolerance_of_somebody_elses_package_fits_the_scale_of_its_output(
    low: float, spread: float, positive: bool
) -> None:
    low = abs(low) if positive else low
    high = low + spread
    tolerance = absolute_tolerance(low, high)
    assert 0 < tolerance <= max(1e-3 * (high - low) * 1.001, 1e-3)
    if high > 0.1:
        assert tolerance <= 0.01 * high


# ---- people and names


def test_maintainers_are_there_when_given() -> None:
    assert "maintainers" not in make_rdf()
    assert all("github_user" not in author for author in make_rdf()["authors"])
    rdf = make_rdf(maintainers=["Ada:ada-l", "Charles:babbage"])
    assert rdf["maintainers"] == [
        {"name": "Ada", "github_user": "ada-l"},
        {"name": "Charles", "github_user": "babbage"},
    ]
    assert rdf["authors"] == rdf["maintainers"]


def test_what_is_known_of_the_publication_is_told() -> None:
    rdf = make_rdf(
        authors=["Ada Lovelace:ada-l:0000-0002-1825-0097:Analytical Society: London", "Charles"],
        maintainers=["Ada:ada-l"],
        git_repo="https://example.org/ada/engine",
        version="1.2.0",
        training_data="ilastik/covid_if_training_data",
    )
    assert rdf["authors"] == [
        {
            "name": "Ada Lovelace",
            "github_user": "ada-l",
            "orcid": "0000-0002-1825-0097",
            "affiliation": "Analytical Society: London",
        },
        {"name": "Charles"},
    ]
    assert rdf["maintainers"] == [{"name": "Ada", "github_user": "ada-l"}]
    assert rdf["git_repo"] == "https://example.org/ada/engine"
    assert rdf["version"] == "1.2.0"
    assert rdf["training_data"] == {"id": "ilastik/covid_if_training_data"}
    assert (
        publish(make_rdf(), make_publication(version="1.2.0"))["authors"] == make_rdf()["authors"]
    )


def test_a_maintainer_is_a_name_and_a_user() -> None:
    assert parse_maintainer(" Ada Lovelace : ada-l ") == Maintainer(
        name="Ada Lovelace", github_user="ada-l"
    )
    assert parse_maintainer("Team: imaging:tissue9").name == "Team: imaging"


@pytest.mark.parametrize(
    "text", ["", "Ada", ":ada", "Ada:", "Ada:-x", "Ada:a b", "Ada:x--y", "A/B:c"]
)
def test_a_wrong_maintainer_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="NAME:GITHUB_USER"):
        parse_maintainer(text)


def test_an_author_may_have_no_more_than_a_name() -> None:
    assert parse_author("Ada") == Person(name="Ada")
    assert parse_author("Ada::0000-0002-1694-233X") == Person(
        name="Ada", orcid="0000-0002-1694-233X"
    )


@pytest.mark.parametrize(
    "text", ["", ":ada-l", "Ada:a b", "Ada::0000-0002-1825-0098", "Ada::0000", "A/B"]
)
def test_a_wrong_author_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="NAME:GITHUB_USER:ORCID:AFFILIATION"):
        parse_author(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"git_repo": "example.org/x"}, "git_repo.*https://"),
        ({"git_repo": "https://exa mple.org"}, "git_repo.*no spaces"),
        ({"version": "one"}, r"version.*such as 1\.0\.0"),
        ({"training_data": "two words"}, "training_data"),
    ],
)
def test_wrong_publication_settings_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_publication(**given)  # pyright: ignore[reportArgumentType]


def test_the_zoo_gives_the_id_and_wants_no_attachments() -> None:
    rdf = make_rdf()
    left_out = {"id", "attachments"}
    assert adapt_for_zoo(rdf) == {key: value for key, value in rdf.items() if key not in left_out}
    assert left_out <= rdf.keys()


def test_the_id_follows_from_the_name() -> None:
    assert make_model_id("My embryo (deep) model") == "my-embryo-deep-model"
    assert title("My embryo model") == "My embryo model"
    assert title("deepcontrast") != "deepcontrast"


@pytest.mark.parametrize(
    "name", ["", "ab", "a/b/c/d", "naïve model", "../escape", "-----", "x" * 65]
)
def test_a_name_that_a_description_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be called"):
        make_model_id(name)


# ---- text


def test_yaml_gives_the_record_back_and_is_the_same_each_time() -> None:
    rdf = make_rdf()
    text = to_yaml(rdf)
    assert yaml.safe_load(text) == rdf
    assert to_yaml(make_rdf()) == text
    assert list(yaml.safe_load(text)) == list(rdf)
    assert yaml.safe_load(text)["timestamp"] == "2026-01-02T03:04:05Z"


def test_yaml_has_no_anchors() -> None:
    shared = {"min": 8}
    text = to_yaml({"first": shared, "second": shared})
    assert "&" not in text
    assert "*" not in text


def test_the_loop_is_described_for_machines() -> None:
    rdf = yaml.safe_load(to_yaml(make_rdf()))
    assert LoopDescription.model_validate(rdf["config"]["dcbmz"]) == description()


def test_qupath_reads_the_halo_from_the_tensor() -> None:
    rdf = make_rdf(64)
    other = adapt_for_qupath(rdf)
    assert other["outputs"][0]["halo"] == [0, 0, 64, 64]
    assert "halo" not in rdf["outputs"][0]
    del other["outputs"][0]["halo"]
    assert other == rdf


def test_the_paper_is_cited_and_not_made_responsible() -> None:
    texts = [entry["text"] for entry in make_rdf()["cite"]]
    assert all({"text", "doi"} == entry.keys() for entry in make_rdf()["cite"])
    assert "not of the paper" in texts[0]
