"""Pre- and postprocessing said so that every program understands the same, equal in value."""

from __future__ import annotations

__all__ = ["mend_processing"]

from typing import TYPE_CHECKING, Any, cast

from deepcontrast_bmz.package.description import as_list, as_map, text

if TYPE_CHECKING:
    from deepcontrast_bmz.port.draft import Draft

LARGEST = 3.4028234663852886e38
"""The largest number of float32: a bound that bounds nothing."""

EPS = 1e-6


def _numbers(value: Any) -> list[float] | None:
    """Return a number or a list of numbers as a list, None for anything else."""
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not values or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        return None
    return [float(v) for v in values]


class _Steps:
    """The steps of one tensor."""

    def __init__(self, draft: Draft, tensor: dict[str, Any], channels: int | None) -> None:
        self.draft = draft
        self.name = text(tensor.get("id"))
        self.axes = [text(as_map(a).get("id")) for a in as_list(tensor.get("axes"))]
        self.channels = channels

    def say(self, sentence: str) -> None:
        self.draft.change(f"{sentence} ({self.name}).")

    def own_axes(self, kwargs: dict[str, Any], operation: str) -> None:
        """Write down over which axes statistics run: those of one image."""
        named = [a for a in as_list(kwargs.get("axes")) if a != "batch"]
        wanted = named or [axis for axis in self.axes if axis != "batch"]
        if kwargs.get("axes") != wanted:
            kwargs["axes"] = wanted
            self.say(f"{operation} takes its statistics from one image, axes {', '.join(wanted)}")

    def defaults(self, kwargs: dict[str, Any], operation: str, **values: Any) -> None:
        for key, value in values.items():
            if key not in kwargs:
                kwargs[key] = value
                self.say(f"{operation} says its {key}, {value:g}")

    def scale_range(self, kwargs: dict[str, Any]) -> None:
        self.defaults(kwargs, "scale_range", min_percentile=0.0, max_percentile=100.0, eps=EPS)
        if kwargs.get("reference_tensor") == self.name:
            kwargs.pop("reference_tensor")
            self.say("scale_range does not name its own tensor as reference")
        self.own_axes(kwargs, "scale_range")

    def zero_mean_unit_variance(self, kwargs: dict[str, Any]) -> None:
        self.defaults(kwargs, "zero_mean_unit_variance", eps=EPS)
        self.own_axes(kwargs, "zero_mean_unit_variance")

    def clip(self, kwargs: dict[str, Any]) -> None:
        if "min_percentile" in kwargs or "max_percentile" in kwargs:
            return
        self.defaults(kwargs, "clip", min=-LARGEST, max=LARGEST)

    def linear(self, gain: list[float], offset: list[float]) -> dict[str, Any] | None:
        """Return a scale_linear with lists, None if they do not fit the channels."""
        count = self.channels
        if count is None or "channel" not in self.axes:
            return None
        if any(len(values) not in (1, count) for values in (gain, offset)):
            return None
        gain, offset = (v * count if len(v) == 1 else v for v in (gain, offset))
        kwargs = {"axis": "channel", "gain": gain, "offset": offset}
        return {"id": "scale_linear", "kwargs": kwargs}

    def scale_linear(self, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        gain, offset = _numbers(kwargs.get("gain", 1.0)), _numbers(kwargs.get("offset", 0.0))
        if gain is None or offset is None or kwargs.get("axis", "channel") != "channel":
            return None
        made = self.linear(gain, offset)
        if made is not None and made["kwargs"] != kwargs:
            self.say("scale_linear lists gain and offset for every channel")
        return made

    def fixed(self, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Return fixed normalisation as the scale_linear that it is, where all read that."""
        mean, std = _numbers(kwargs.get("mean")), _numbers(kwargs.get("std"))
        if mean is None or std is None or kwargs.get("axis", "channel") != "channel":
            return None
        # With unlike factors for unlike channels Fiji reads scale_linear wrong, and this right.
        if len(set(mean)) > 1 or len(set(std)) > 1 or 0.0 in std:
            return None
        made = self.linear([1 / std[0]], [-mean[0] / std[0]])
        if made is not None:
            self.say("fixed_zero_mean_unit_variance is written as scale_linear")
        return made

    def mended(self, step: dict[str, Any]) -> dict[str, Any]:
        operation = text(step.get("id")) or text(step.get("name"))
        kwargs = dict(as_map(step.get("kwargs")))
        made: dict[str, Any] | None = None
        if operation == "scale_range":
            self.scale_range(kwargs)
        elif operation == "zero_mean_unit_variance":
            self.zero_mean_unit_variance(kwargs)
        elif operation == "clip":
            self.clip(kwargs)
        elif operation == "scale_linear":
            made = self.scale_linear(kwargs)
        elif operation == "fixed_zero_mean_unit_variance":
            made = self.fixed(kwargs)
        if made is not None:
            return made
        rest = {k: v for k, v in step.items() if k not in ("id", "name", "kwargs")}
        return {"id": operation, **rest, **({"kwargs": kwargs} if kwargs else {})}


def mend_processing(draft: Draft, tensor: dict[str, Any], key: str, channels: int | None) -> None:
    """Rewrite the steps of a tensor so that programs agree on them; values stay the same.

    Defaults are written out, a fixed normalisation becomes `scale_linear` with lists, which
    QuPath knows too, a missing bound of `clip` becomes the largest number there is. `key` is
    ``preprocessing`` or ``postprocessing``.
    """
    given = [cast("dict[str, Any]", s) for s in as_list(tensor.get(key)) if isinstance(s, dict)]
    steps = _Steps(draft, tensor, channels)
    mended = [steps.mended(step) for step in given]
    if key == "preprocessing":
        kind = text(as_map(tensor.get("data")).get("type")) or "float32"
        last = mended[-1] if mended else {}
        if not kind.startswith("float") and last.get("id") != "ensure_dtype":
            mended.append({"id": "ensure_dtype", "kwargs": {"dtype": "float32"}})
            steps.say("preprocessing of an integer input ends in ensure_dtype float32")
    if mended:
        tensor[key] = mended
    else:
        tensor.pop(key, None)
