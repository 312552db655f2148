"""The description of a state dict is not believed: file, arguments and tensors are compared."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from deepcontrast_bmz.check.check import check_package
from deepcontrast_bmz.export.architecture import list_architecture_kwargs, write_architecture
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.package.architecture import read_architecture, read_tensors
from deepcontrast_bmz.settings import NetworkSettings

from .spoilt_packages import Copy, errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TENSORS, ARGUMENTS = "core.architecture-tensors", "core.architecture-arguments"
CALLABLE, ITERATIONS = "core.architecture-callable", "core.architecture-iterations"


def state_dict(c: Copy) -> dict[str, Any]:
    return c.rdf["weights"]["pytorch_state_dict"]


def architecture(c: Copy) -> dict[str, Any]:
    return state_dict(c)["architecture"]


def write_source(c: Copy, source: str) -> None:
    (c.folder / architecture(c)["source"]).write_text(source)
    c.rehash(architecture(c))


def save_tensors(c: Copy, tensors: dict[str, torch.Tensor]) -> None:
    torch.save(tensors, c.weights("pytorch_state_dict"))
    c.rehash(state_dict(c))


def met(report: Any, rule: str) -> list[str]:
    return [f.met for f in report.row("core").findings if f.rule == rule]


KWARGS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "width": (TENSORS, lambda k: k.update(width=6), "kwargs.width 6, weights of 4"),
    "fewer layers": (
        TENSORS,
        lambda k: k["dilations"].pop(),
        "kwargs.dilations of 2 layers, weights of 3",
    ),
    "iterations": (
        ITERATIONS,
        lambda k: k.update(iterations=3),
        "kwargs.iterations 3 for 4 channels of the output",
    ),
    "strange": (
        ARGUMENTS,
        lambda k: k.update(depth=3),
        "kwargs.depth, which DeepContrastLoop does not take",
    ),
    "missing": (
        ARGUMENTS,
        lambda k: k.pop("iterations"),
        "no kwargs.iterations, which DeepContrastLoop needs",
    ),
}


@pytest.mark.parametrize("fault", KWARGS)
def test_kwargs_that_are_not_those_of_the_weights(spoilt: Copy, fault: str) -> None:
    rule, spoil, said = KWARGS[fault]
    spoil(architecture(spoilt)["kwargs"])
    report = spoilt.check()
    assert said in met(report, rule)
    assert rule in errors(report)["core"]
    assert report.row("core").runs.state == "failed"
    # The iterations are a matter of the declared output; all else keeps the weights from loading.
    assert ("bioengine" in errors(report)) is (rule != ITERATIONS)


def test_callable_that_is_not_in_the_file(spoilt: Copy) -> None:
    architecture(spoilt)["callable"] = "DeepContrastLop"
    report = spoilt.check()
    assert met(report, CALLABLE) == [
        f"DeepContrastLop, which {architecture(spoilt)['source']} does not define"
    ]
    write_source(spoilt, "class DeepContrastLoop(\n")
    assert "is not Python" in met(spoilt.check(), CALLABLE)[0]


def test_width_that_contradicts_the_weights_is_not_reported_as_run(spoilt_run: Copy) -> None:
    architecture(spoilt_run)["kwargs"]["width"] = 24
    report = spoilt_run.check("parity")
    core = report.row("core")
    assert not report.passed
    assert {TENSORS} <= errors(report)["core"]
    assert core.runs.state == "failed"
    assert any(r.startswith("pytorch_state_dict: ") for r in core.runs.reasons)
    for verdict in (core.right_values, core.any_size):
        assert verdict.state == "passed"
        assert not any("pytorch_state_dict" in reason for reason in verdict.reasons)


def test_dilations_that_contradict_what_is_said_of_the_loop(spoilt_run: Copy) -> None:
    architecture(spoilt_run)["kwargs"]["dilations"] = [1, 3, 1]
    (said,) = met(spoilt_run.check(), TENSORS)
    assert said == "kwargs.dilations [1, 3, 1], where config.dcbmz.network has [1, 2, 1]"


def test_dilations_that_no_file_contradicts_show_in_the_values(spoilt_run: Copy) -> None:
    for network in (
        architecture(spoilt_run)["kwargs"],
        spoilt_run.rdf["config"]["dcbmz"]["network"],
    ):
        network["dilations"] = [1, 3, 1]
    core = spoilt_run.check("parity").row("core")
    assert core.right_values.state == "failed"
    assert core.right_values.reasons[0].startswith("pytorch_state_dict (in this project's network")


FOREIGN = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)


class Net(Block):
    def __init__(self, width, *, depth=1, **{more}):
        super().__init__(width)
        {line}

    def forward(self, x):
        return self.last(self.conv(x))
"""


@pytest.mark.parametrize(
    ("line", "more", "name", "seen"),
    [
        ("self.last = nn.Identity()", "_", "conv.weight", False),
        ("self.last = nn.Identity()", "_", "body.0.weight", True),
        ("self.add_module('last', nn.Identity())", "_", "body.0.weight", True),
        # What the source does not tell is not guessed.
        ("self.add_module(f'b{depth}', nn.Identity())", "_", "body.0.weight", False),
        ("setattr(self, 'body', nn.Identity())", "_", "body.0.weight", False),
        ("exec('self.body = 1')", "_", "body.0.weight", False),
    ],
)
def test_tensors_that_no_attribute_of_a_foreign_class_holds(
    spoilt: Copy, line: str, more: str, name: str, seen: bool
) -> None:
    write_source(spoilt, FOREIGN.format(line=line, more=more))
    architecture(spoilt).update(callable="Net", kwargs={"width": 2})
    save_tensors(spoilt, {name: torch.zeros(2, 1, 3, 3)})
    said = met(spoilt.check(), TENSORS)
    assert said == (["tensors of body, which Net does not have"] if seen else [])


@pytest.mark.parametrize(
    ("source", "kwargs", "said"),
    [
        ("def Net(width, depth=2): ...", {"width": 2}, []),
        ("def Net(width, depth=2): ...", {}, ["no kwargs.width, which Net needs"]),
        ("def Net(*, width): ...", {"w": 2, "width": 1}, ["kwargs.w, which Net does not take"]),
        ("def Net(**kwargs): ...", {"w": 2}, []),
        ("from elsewhere import Net", {"w": 2}, []),
        ("from elsewhere import *", {"w": 2}, []),
        ("from elsewhere import Base\nclass Net(Base): ...", {"w": 2}, []),
        ("@wrap\nclass Net: ...", {"w": 2}, []),
        ("Net = make()", {"w": 2}, []),
    ],
)
def test_arguments_of_foreign_callables(
    spoilt: Copy, source: str, kwargs: dict[str, Any], said: list[str]
) -> None:
    write_source(spoilt, source + "\n")
    architecture(spoilt).update(callable="Net", kwargs=kwargs)
    report = spoilt.check()
    assert met(report, ARGUMENTS) == said
    assert met(report, CALLABLE) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "dilated", "width": 6, "dilations": (1, 2)},
        {"kind": "dilated_3d", "width": 4, "dilations": (1, 2, 2, 1), "mixing_layers": 3},
        {"kind": "invertible", "width": 4, "levels": 3},
    ],
)
def test_arguments_of_every_network_are_read_off_its_tensors(
    spoilt: Copy, settings: dict[str, Any]
) -> None:
    network = NetworkSettings.model_validate(settings)
    loop = Loop(build_network(network), 4)
    write_source(spoilt, write_architecture(network))
    save_tensors(spoilt, loop.state_dict())
    kwargs = list_architecture_kwargs(loop, network)
    architecture(spoilt)["kwargs"] = kwargs
    assert met(spoilt.check(), TENSORS) == []
    for name in kwargs.keys() - {"iterations"}:
        value = kwargs[name]
        wrong = [*value, 1] if isinstance(value, list) else value + 2
        architecture(spoilt)["kwargs"] = {**kwargs, name: wrong}
        said = met(spoilt.check(), TENSORS)
        assert len(said) == 1, name
        assert said[0].startswith(f"kwargs.{name}")


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_state_dict_that_holds_code_is_not_run(tmp_path: Path, spoilt: Copy) -> None:
    path = spoilt.weights("pytorch_state_dict")
    torch.save({"network.first.weight": _Trap(tmp_path / "ran")}, path)
    spoilt.rehash(state_dict(spoilt))
    assert "which is no tensor" in read_tensors(path).problem
    assert spoilt.check().row("core").runs.state == "skipped"
    assert not (tmp_path / "ran").exists()


def test_only_the_text_of_an_architecture_is_read(spoilt: Copy) -> None:
    source = (spoilt.folder / architecture(spoilt)["source"]).read_text()
    write_source(spoilt, f"{source}\nraise SystemExit('I was run')\n")
    assert check_package(spoilt.folder, run=["none"]).passed is False
    report = spoilt.check()
    assert report.passed
    read = read_architecture(spoilt.folder / architecture(spoilt)["source"])
    assert "DeepContrastLoop" in read.names
