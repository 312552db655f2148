"""A package that follows every rule, made in a second, and ways to spoil it."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import tifffile
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from deepcontrast_bmz.check.check import check_package
from deepcontrast_bmz.export.weights import export_weights
from deepcontrast_bmz.model.loop import Loop
from deepcontrast_bmz.model.network import build_network
from deepcontrast_bmz.settings import NetworkSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deepcontrast_bmz.check.findings import Finding, Report

HALO = 24
CHANNELS = 4


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def describe(folder: Path, names: dict[str, str], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The description of a package that follows every rule."""

    def entry(name: str) -> dict[str, Any]:
        return {"source": name, "sha256": sha256(folder / name)}

    def axes(channels: list[str], size: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {"type": "batch", "id": "batch"},
            {"type": "channel", "id": "channel", "channel_names": channels},
            {"type": "space", "id": "y", **size("y")},
            {"type": "space", "id": "x", **size("x")},
        ]

    reference = {"tensor_id": "raw", "offset": 0}
    return {
        "format_version": "0.5.4",
        "type": "model",
        "id": "tiny-loop",
        "name": "tiny loop",
        "description": "A network of a few weights, iterated four times.",
        "covers": ["cover.png"],
        "documentation": "README.md",
        "authors": [{"name": "Somebody", "github_user": "no-such-user-on-any-list"}],
        "maintainers": [{"name": "Somebody", "github_user": "no-such-user-on-any-list"}],
        "cite": [{"text": "Nobody", "doi": "10.48550/arXiv.2308.08365"}],
        "license": "MIT",
        "tags": ["2d", "restoration"],
        "timestamp": "2024-01-01T00:00:00Z",
        "inputs": [
            {
                "id": "raw",
                "description": "image",
                "axes": axes(["intensity"], lambda _: {"size": {"min": 56, "step": 1}}),
                "data": {"type": "float32"},
                "preprocessing": [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}],
                "test_tensor": entry("test_input.npy"),
                "sample_tensor": entry("sample_input.tif"),
            }
        ],
        "outputs": [
            {
                "id": "enhanced",
                "description": "iterations",
                "axes": axes(
                    [f"iteration_{k + 1}" for k in range(CHANNELS)],
                    lambda axis: {"size": {**reference, "axis_id": axis}, "halo": HALO},
                ),
                "data": {"type": "float32"},
                "test_tensor": entry("test_output.npy"),
                "sample_tensor": entry("sample_output.tif"),
            }
        ],
        "weights": {
            "pytorch_state_dict": {
                **entry(names["pytorch_state_dict"]),
                "architecture": {
                    **entry(names["architecture"]),
                    "callable": "DeepContrastLoop",
                    "kwargs": kwargs,
                },
                "pytorch_version": "2.5.1",
            },
            "torchscript": {
                **entry(names["torchscript"]),
                "parent": "pytorch_state_dict",
                "pytorch_version": "2.5.1",
            },
            "onnx": {
                **entry(names["onnx"]),
                "parent": "pytorch_state_dict",
                "opset_version": 17,
            },
        },
        "config": {
            "bioimageio": {
                "reproducibility_tolerance": [
                    {"relative_tolerance": 1e-3, "absolute_tolerance": 0.1}
                ]
            }
        },
    }


def save_descriptions(folder: Path, rdf: dict[str, Any]) -> None:
    """Write rdf.yaml, and model.yaml with the halo where QuPath looks for it."""
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf, sort_keys=False))
    outputs: list[dict[str, Any]] = []
    for output in rdf["outputs"]:
        halo = [axis.get("halo", 0) for axis in output["axes"]]
        outputs.append({**output, "halo": halo} if any(halo) else output)
    text = yaml.safe_dump({**rdf, "outputs": outputs}, sort_keys=False)
    (folder / "model.yaml").write_text(text)


SETTINGS = NetworkSettings(width=4, dilations=(1, 2, 1))


def draw_loop(generator: torch.Generator) -> Loop:
    """Return the loop of the good package."""
    torch.manual_seed(0)
    loop = Loop(build_network(SETTINGS), CHANNELS).eval()
    with torch.no_grad():
        for parameter in loop.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return loop


def make_good(folder: Path) -> None:
    """Write a package that no program objects to."""
    generator = torch.Generator().manual_seed(1)
    loop = draw_loop(generator)
    exported = export_weights(loop, folder, SETTINGS)
    raw = 100 + 900 * torch.rand((1, 1, 72, 65), generator=generator)
    with torch.no_grad():
        enhanced = loop(raw)
    np.save(folder / "test_input.npy", raw.numpy())
    np.save(folder / "test_output.npy", enhanced.numpy())
    tifffile.imwrite(folder / "sample_input.tif", raw.numpy()[0, 0], photometric="minisblack")
    tifffile.imwrite(folder / "sample_output.tif", enhanced.numpy()[0], photometric="minisblack")
    # A grey 4 x 2 PNG.
    (folder / "cover.png").write_bytes(
        bytes.fromhex(
            "89504e470d0a1a0a0000000d494844520000000400000002080000000009c5caff"
            "0000000d49444154789c6368606860000003040101ecca4a4f0000000049454e44ae426082"
        )
    )
    (folder / "README.md").write_text("# Tiny loop\n\nNothing.\n\n# Validation\n\nNone.\n")
    names: dict[str, str] = {**exported.weights, "architecture": exported.architecture}
    save_descriptions(folder, describe(folder, names, dict(exported.architecture_kwargs)))


class Copy:
    """A copy of the good package to be spoilt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rdf: dict[str, Any] = yaml.safe_load((folder / "rdf.yaml").read_text())

    @property
    def input(self) -> dict[str, Any]:
        return self.rdf["inputs"][0]

    @property
    def output(self) -> dict[str, Any]:
        return self.rdf["outputs"][0]

    def space(self, side: dict[str, Any]) -> list[dict[str, Any]]:
        return [axis for axis in side["axes"] if axis["type"] == "space"]

    def weights(self, name: str) -> Path:
        return self.folder / self.rdf["weights"][name]["source"]

    def rehash(self, entry: dict[str, Any]) -> None:
        entry["sha256"] = sha256(self.folder / entry["source"])

    def check(self, *run: str) -> Report:
        save_descriptions(self.folder, self.rdf)
        return check_package(self.folder, run=run or ("none",))


def errors(report: Report) -> dict[str, set[str]]:
    """Names of the broken rules, by program."""
    return {
        row.program: {f.rule for f in row.findings if f.severity == "error"}
        for row in report.rows
        if row.failed
    }


def found(report: Report, rule: str) -> Finding:
    return next(f for row in report.rows for f in row.findings if f.rule == rule)


def change_onnx(c: Copy, change: Callable[[onnx.ModelProto], None]) -> None:
    path = c.weights("onnx")
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    c.rehash(c.rdf["weights"]["onnx"])


def opset_18(c: Copy) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 18

    change_onnx(c, change)
    c.rdf["weights"]["onnx"]["opset_version"] = 18


def wrong_sha256(c: Copy) -> None:
    c.rdf["weights"]["torchscript"]["sha256"] = "0" * 64


def no_id(c: Copy) -> None:
    del c.rdf["id"]


def only_state_dict(c: Copy) -> None:
    for name in ("torchscript", "onnx"):
        del c.rdf["weights"][name]


class Upsampled(nn.Module):
    """Scripting it without freezing carries all of torch.nn.functional.interpolate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, CHANNELS, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.conv(x), scale_factor=1.0, mode="nearest")


def save_script(c: Copy, module: torch.jit.ScriptModule) -> None:
    module.save(str(c.weights("torchscript")))
    c.rehash(c.rdf["weights"]["torchscript"])


def script(module: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(module.eval())
    assert isinstance(scripted, torch.jit.ScriptModule)
    return scripted


class Brighter(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.05 * self.inner(x)
