"""The zoo's arithmetic and rules on numbers and plain descriptions."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deepcontrast_bmz.check.zoo.biapy import WORKFLOW_TAGS, find_obstacle
from deepcontrast_bmz.check.zoo.deepimagej import (
    breaks_criterion,
    compute_allowed_difference,
    measure_share_at_risk,
)
from deepcontrast_bmz.check.zoo.score import (
    add_up,
    choose_partners,
    compute_rank,
    count_core_points,
    count_partner_points,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# ---- the score


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({}, 0.0),
        ({"ilastik": 1.0}, 1 / 3),
        ({"ilastik": 1.0, "deepimagej": 0.0, "biapy": 1.0}, 2 / 3),
        ({"ilastik": 1.0, "deepimagej": 1.0, "biapy": 1.0, "icy": 0.0}, 1.0),
        ({"ilastik": 0.8, "deepimagej": 0.5, "biapy": 1.0, "careamics": 0.9}, 0.9),
        ({"ilastik": 1.0, "somebody": 1.0}, 1 / 3),
    ],
)
def test_best_three_partners_count(scores: dict[str, float], expected: float) -> None:
    assert count_partner_points(scores) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("partners", "expected"),
    # By hand: (1 + .765 + 1 + 2/3) / 4 and (1 + .765 + 1 + 1) / 4.
    [(2 / 3, 0.8579167), (1.0, 0.94125)],
)
def test_score_of_the_four_parts(partners: float, expected: float) -> None:
    found = add_up(valid=True, completeness=0.765, core=1.0, partners=partners)
    assert found == pytest.approx(expected, abs=1e-6)


def test_score_has_its_ends() -> None:
    assert add_up(valid=True, completeness=1, core=1, partners=1) == 1
    assert add_up(valid=False, completeness=0, core=0, partners=0) == 0


def test_one_format_that_reproduces_is_enough_for_core() -> None:
    assert count_core_points(valid=True, reproduced=True) == 1.0
    assert count_core_points(valid=True, reproduced=False) == 0.5
    assert count_core_points(valid=False, reproduced=False) == 0.0


def test_tools_nearest_to_the_score_come_first() -> None:
    tools = {
        "icy": (0.0, 0.0),
        "careamics": (0.0, 0.0),
        "biapy": (0.0, 0.0),
        "ilastik": (0.0, 1.0),
        "deepimagej": (1.0, 1.0),
    }
    order = ("ilastik", "deepimagej", "biapy", "careamics", "icy")
    assert choose_partners(tools, order) == ["deepimagej", "ilastik", "biapy"]


@pytest.mark.parametrize(
    ("valid", "served", "passed", "expected"),
    [(False, False, False, 0), (True, False, False, 1.5), (True, True, False, 3.5)],
)
def test_rank_in_the_list(valid: bool, served: bool, passed: bool, expected: float) -> None:
    found = compute_rank(valid=valid, served=served, passed=passed, completeness=0.5)
    assert found == expected
    assert compute_rank(valid=True, served=True, passed=True, completeness=1.0) == 8


# ---- deepImageJ's comparison


@pytest.mark.parametrize("test", [0.0, 1.0, -1.0, 100.0, -2329.0, 7712.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_criterion_has_its_edge_where_the_zoo_has_it(test: float, sign: int) -> None:
    allowed = 1.5e-4 + 1e-4 * abs(test)
    expected = np.array([test, test])
    # Float32 resolves 2e-4 of a value near 7712, where 0.77 is allowed.
    actual = np.array([test + sign * 0.999 * allowed, test + sign * 1.001 * allowed])
    assert compute_allowed_difference(expected) == pytest.approx([allowed, allowed], rel=1e-6)
    assert breaks_criterion(actual, expected).tolist() == [False, True]


def test_one_pixel_breaks_it() -> None:
    expected = np.ones((1, 4, 20, 20), np.float32)
    actual = expected.copy()
    actual[0, 2, 3, 4] += 3e-4
    assert np.argwhere(breaks_criterion(actual, expected)).tolist() == [[0, 2, 3, 4]]


def test_what_is_no_number_breaks_it() -> None:
    assert breaks_criterion(np.array([np.nan, np.inf]), np.zeros(2)).all()


def test_counts_are_at_risk_and_values_of_order_one_are_not() -> None:
    # 2e-5 of 1000 is .02: more than 1.5e-4 at 0, less than .1 at 1000.
    assert measure_share_at_risk(np.array([0.0, 1000.0])) == 0.5
    assert measure_share_at_risk(np.linspace(-1, 1, 100)) == 0
    # At 0 the range may be 1.5e-4 / 2e-5 = 7.5.
    assert measure_share_at_risk(np.array([0.0, 7.4])) == 0
    assert measure_share_at_risk(np.array([0.0, 7.6])) == 0.5


# ---- BiaPy

AXES = [
    {"type": "batch"},
    {"type": "channel", "id": "channel"},
    {"type": "space", "id": "y", "size": {"min": 8, "step": 1}},
    {"type": "space", "id": "x", "size": {"min": 8, "step": 1}},
]
RDF: dict[str, Any] = {
    "format_version": "0.5.4",
    "tags": ["image-restoration"],
    "inputs": [
        {
            "axes": AXES,
            "preprocessing": [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}],
        }
    ],
    "weights": {"pytorch_state_dict": {"architecture": {"callable": "Net", "kwargs": {}}}},
}


def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    rdf = copy.deepcopy(RDF)
    change(rdf)
    return rdf


def entry(rdf: dict[str, Any]) -> dict[str, Any]:
    return rdf["weights"]["pytorch_state_dict"]


def kwargs(rdf: dict[str, Any]) -> dict[str, Any]:
    return entry(rdf)["architecture"]["kwargs"]


def step(rdf: dict[str, Any], **operation: Any) -> None:
    rdf["inputs"][0]["preprocessing"].append(operation)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "only TorchScript": (lambda r: r.update(weights={"torchscript": {}}), "state_dict"),
    "two inputs": (lambda r: r.update(inputs=r["inputs"] * 2), "one input, not 2"),
    "no kwargs": (lambda r: entry(r)["architecture"].pop("kwargs"), "no kwargs"),
    "no tag": (lambda r: r.update(tags=["restoration"]), "workflow tags"),
    "classes unknown": (lambda r: r.update(tags=["segmentation"]), "classes in kwargs"),
    "its own instances": (
        lambda r: r.update(tags=["instance-segmentation", "biapy"]),
        "out_channels is a list",
    ),
    "axes": (lambda r: r["inputs"][0].update(axes=[*AXES[:1], *AXES[2:]]), "not byx"),
    "0.4 of one size": (
        lambda r: r["inputs"][0].update(axes="bcyx", shape=[1, 1, 8, 8]),
        "size of a patch",
    ),
    "sigmoid": (lambda r: step(r, id="sigmoid"), "preprocessing sigmoid"),
    "integers": (
        lambda r: step(r, id="ensure_dtype", kwargs={"dtype": "uint8"}),
        "preprocessing ensure_dtype",
    ),
    "bare scale_range": (lambda r: step(r, id="scale_range"), "no kwargs"),
    "postprocessing": (lambda r: kwargs(r).update(postprocessing="softmax"), "postprocessing"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_biapy_refuses(kind: str) -> None:
    change, words = REFUSED[kind]
    reason, _ = find_obstacle(changed(change))
    assert words in reason


TAKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "restoration": lambda _: None,
    "fixed numbers": lambda r: step(
        r, id="fixed_zero_mean_unit_variance", kwargs={"mean": 1, "std": 2}
    ),
    "several steps": lambda r: (
        step(r, id="clip", kwargs={"min": 0, "max": 1}),
        step(r, id="scale_linear"),
    ),
    "classes": lambda r: (r.update(tags=["segmentation"]), kwargs(r).update(n_classes=3)),
    "its own network": lambda r: (
        r.update(tags=["semantic-segmentation"]),
        entry(r)["architecture"].update(callable="UNETR"),
    ),
    "instances": lambda r: r.update(tags=["instance-segmentation", "segmentation"]),
    "volumes": lambda r: r["inputs"][0].update(
        axes=[*AXES[:2], {"type": "space", "id": "z", "size": 8}, *AXES[2:]]
    ),
    "format 0.4": lambda r: (
        r.update(format_version="0.4.10"),
        r["inputs"][0].update(
            axes="bcyx",
            shape={"min": [1, 1, 8, 8], "step": [0, 0, 1, 1]},
            preprocessing=[{"name": "scale_range", "kwargs": {}}],
        ),
        entry(r).update(kwargs={}, architecture="net.py:Net"),
    ),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_biapy_takes(kind: str) -> None:
    assert find_obstacle(changed(TAKEN[kind])) == ("", "")


@pytest.mark.parametrize(
    "tag", [t for names in WORKFLOW_TAGS.values() for t in names if "segmentation" not in t]
)
def test_each_workflow_tag_is_enough(tag: str) -> None:
    assert find_obstacle(changed(lambda r: r.update(tags=["2d", tag])))[0] == ""


def test_dependencies_are_only_known_to_the_zoo() -> None:
    reason, looked_up = find_obstacle(
        changed(lambda r: entry(r).update(dependencies={"source": "environment.yaml"}))
    )
    assert not reason
    assert "dependencies" in looked_up
