"""One view of a model description, whether RDF 0.4 or 0.5 wrote it, and however badly.

Reading never fails: what is missing or of the wrong kind is left out, and the rules say so.
"""

from __future__ import annotations

__all__ = [
    "Axis",
    "ModelView",
    "Operation",
    "TensorView",
    "as_list",
    "as_map",
    "integer",
    "number",
    "text",
]

from dataclasses import dataclass
from typing import Any, cast

DEFAULT_IDS = {"batch": "batch", "channel": "channel", "index": "index", "time": "time"}
LETTERS = {
    "b": ("batch", "batch"),
    "i": ("index", "index"),
    "t": ("time", "time"),
    "c": ("channel", "channel"),
    "z": ("space", "z"),
    "y": ("space", "y"),
    "x": ("space", "x"),
}


def as_map(value: Any) -> dict[str, Any]:
    """Return the value if it is a map, keys as text, else an empty one."""
    if not isinstance(value, dict):
        return {}
    return {str(key): entry for key, entry in cast("dict[Any, Any]", value).items()}


def as_list(value: Any) -> list[Any]:
    """Return the value if it is a list, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def text(value: Any) -> str:
    """Return the value if it is text or a number, as text, else an empty text."""
    return str(value) if isinstance(value, str | int | float) else ""


def integer(value: Any) -> int | None:
    """Return the value if it is a whole number, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: Any) -> float | None:
    """Return the value if it is a number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor."""

    kind: str
    """``batch``, ``channel``, ``space``, ``time``, ``index``, or whatever the file says."""
    name: str
    """Its id, or what stands for it when none is given."""
    explicit_id: bool
    """Whether the file gives the id."""
    size: int | None = None
    """Fixed size; for a channel axis the number of channels."""
    minimum: int | None = None
    """Smallest size, of an axis of variable size."""
    step: int | None = None
    """Sizes are minimum + n * step."""
    refers: bool = False
    """Whether the size is that of another axis."""
    offset: float | None = None
    """Pixels added to the other axis' size; None when not given."""
    data_dependent: bool = False
    """Whether only a run tells the size."""
    halo: int = 0
    """Pixels to crop from both ends."""
    scale: float = 1.0
    """Pixel size (0.5) or ratio of sizes."""
    channel_names: tuple[str, ...] | None = None
    """Names of the channels, when given."""

    @property
    def smallest(self) -> int | None:
        """The smallest legal size, or the only one."""
        return self.size if self.size is not None else self.minimum

    def legal(self, at_least: int) -> int:
        """Return the smallest legal size not below `at_least`; a fixed size is the only one."""
        if self.size is not None:
            return self.size
        minimum = self.minimum or 1
        step = max(self.step or 1, 1)
        return minimum + max(0, -(-(at_least - minimum) // step)) * step


@dataclass(frozen=True)
class Operation:
    """One step of pre- or postprocessing."""

    name: str
    kwargs: dict[str, Any]
    has_kwargs: bool


@dataclass(frozen=True)
class TensorView:
    """One input or output."""

    name: str
    axes: tuple[Axis, ...]
    operations: tuple[Operation, ...]
    data_type: str
    test_source: str
    sample_source: str
    tensor_halo: tuple[int, ...] | None
    """Halo of the tensor as a whole, one number per axis: 0.4, or an addition to 0.5."""

    def axis(self, name: str) -> Axis | None:
        """Return the axis with this id, or None."""
        return next((axis for axis in self.axes if axis.name == name), None)

    @property
    def channel(self) -> Axis | None:
        """The channel axis, or None."""
        return next((axis for axis in self.axes if axis.kind == "channel"), None)

    @property
    def spatial(self) -> tuple[Axis, ...]:
        """The axes of space, in order."""
        return tuple(axis for axis in self.axes if axis.kind == "space")


def _axis_05(raw: Any) -> Axis:
    entry = as_map(raw)
    kind = text(entry.get("type"))
    explicit = isinstance(entry.get("id"), str)
    name = text(entry.get("id")) if explicit else DEFAULT_IDS.get(kind, "")
    size = entry.get("size")
    names = entry.get("channel_names")
    listed = isinstance(names, list)
    channel_names = tuple(text(n) for n in as_list(names)) if listed else None
    fields = as_map(size)
    fixed = integer(size)
    if kind == "channel" and fixed is None and channel_names:
        fixed = len(channel_names)
    refers = "tensor_id" in fields or "axis_id" in fields
    return Axis(
        kind=kind,
        name=name,
        explicit_id=explicit,
        size=fixed,
        minimum=None if refers else integer(fields.get("min")),
        step=None if refers else integer(fields.get("step")),
        refers=refers,
        offset=number(fields.get("offset")) if refers else None,
        data_dependent=bool(fields) and not refers and "step" not in fields,
        halo=integer(entry.get("halo")) or 0,
        scale=number(entry.get("scale")) or 1.0,
        channel_names=channel_names,
    )


def _axes_04(raw: dict[str, Any]) -> tuple[Axis, ...]:
    letters = text(raw.get("axes"))
    shape = raw.get("shape")
    fields = as_map(shape)
    refers = "reference_tensor" in fields
    halo = as_list(raw.get("halo"))

    def at(values: Any, index: int) -> Any:
        listed = as_list(values)
        return listed[index] if index < len(listed) else None

    axes: list[Axis] = []
    for index, letter in enumerate(letters):
        kind, name = LETTERS.get(letter, (letter, letter))
        step = integer(at(fields.get("step"), index))
        minimum = integer(at(fields.get("min"), index))
        fixed = integer(at(shape, index))
        if not refers and step == 0:
            # A minimum without step is the only size.
            fixed, minimum, step = minimum, None, None
        offset = number(at(fields.get("offset"), index))
        scale = number(at(fields.get("scale"), index))
        if refers and kind == "channel" and scale == 0 and offset is not None:
            # Implicit shapes count the channels as twice the offset.
            fixed = round(2 * offset)
        axes.append(
            Axis(
                kind=kind,
                name=name,
                explicit_id=True,
                size=fixed,
                minimum=None if refers else minimum,
                step=None if refers else step,
                refers=refers,
                offset=offset,
                halo=integer(at(halo, index)) or 0,
                scale=scale if refers and scale is not None else 1.0,
            )
        )
    return tuple(axes)


def _operations(raw: Any) -> tuple[Operation, ...]:
    steps: list[Operation] = []
    for value in as_list(raw):
        entry = as_map(value)
        name = text(entry.get("id")) or text(entry.get("name"))
        steps.append(Operation(name, as_map(entry.get("kwargs")), "kwargs" in entry))
    return tuple(steps)


def _source(value: Any) -> str:
    return text(as_map(value).get("source")) if isinstance(value, dict) else text(value)


def _tensor(raw: Any, index: int, rdf: dict[str, Any], side: str) -> TensorView:
    entry = as_map(raw)
    old = isinstance(entry.get("axes"), str)
    axes = _axes_04(entry) if old else tuple(_axis_05(a) for a in as_list(entry.get("axes")))
    steps = entry.get("preprocessing" if side == "input" else "postprocessing")
    halo = entry.get("halo")
    data = entry.get("data")
    if isinstance(data, list):
        data = as_list(data)[0] if data else None
    data_type = text(entry.get("data_type")) or text(as_map(data).get("type")) or "float32"

    def listed(key: str) -> str:
        values = as_list(rdf.get(key))
        return _source(values[index]) if index < len(values) else ""

    return TensorView(
        name=text(entry.get("id")) or text(entry.get("name")) or f"{side}{index}",
        axes=axes,
        operations=_operations(steps),
        data_type=data_type,
        test_source=_source(entry.get("test_tensor")) or listed(f"test_{side}s"),
        sample_source=_source(entry.get("sample_tensor")) or listed(f"sample_{side}s"),
        tensor_halo=tuple(integer(h) or 0 for h in as_list(halo)) if halo is not None else None,
    )


@dataclass(frozen=True)
class ModelView:
    """What the rules need of a description."""

    version: str
    inputs: tuple[TensorView, ...]
    outputs: tuple[TensorView, ...]
    weights: dict[str, dict[str, Any]]

    @staticmethod
    def read(rdf: dict[str, Any]) -> ModelView:
        """Read a parsed description."""
        inputs = [_tensor(t, i, rdf, "input") for i, t in enumerate(as_list(rdf.get("inputs")))]
        outputs = [_tensor(t, i, rdf, "output") for i, t in enumerate(as_list(rdf.get("outputs")))]
        entries = as_map(rdf.get("weights"))
        weights = {name: as_map(w) for name, w in entries.items() if isinstance(w, dict)}
        return ModelView(text(rdf.get("format_version")), tuple(inputs), tuple(outputs), weights)

    @property
    def is_04(self) -> bool:
        """Whether the description is of format 0.4."""
        return self.version.startswith("0.4")

    @property
    def tensors(self) -> tuple[TensorView, ...]:
        """Inputs, then outputs."""
        return self.inputs + self.outputs

    @property
    def halo(self) -> dict[str, int]:
        """Largest declared halo by axis id, over the outputs."""
        found: dict[str, int] = {}
        for output in self.outputs:
            for axis in output.spatial:
                found[axis.name] = max(found.get(axis.name, 0), axis.halo)
        return found
