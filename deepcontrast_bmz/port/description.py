"""The description in the dialect that every program reads: keys, tensors, axes."""

from __future__ import annotations

__all__ = ["mend_description"]

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.export.rdf import FORMAT_VERSION, KEYS
from deepcontrast_bmz.package.description import DEFAULT_IDS, as_list, as_map, integer, text
from deepcontrast_bmz.port.draft import CONFIG_KEY
from deepcontrast_bmz.port.processing import mend_processing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from deepcontrast_bmz.port.draft import Draft

_AXIS_KEYS = {
    "batch": ("description", "size"),
    "channel": ("description", "channel_names"),
    "space": ("description", "size", "halo"),
    "time": ("description", "size", "unit", "halo"),
    "index": ("description", "size"),
}
_TENSOR_KEYS = ("description", "optional", "output_of", "test_tensor", "sample_tensor")


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def _load_array(path: Path) -> NDArray[Any]:
    """Return a test tensor, or refuse what is no array."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(
            f"test tensors are .npy files, but {path.name} cannot be read ({words}): save it "
            "with numpy.save"
        ) from error
    if not isinstance(loaded, np.ndarray):
        raise InputError(f"test tensors are .npy files of one array, but {path.name} is not one")
    return loaded


# ------------------------------------------------------------------------------- tensors


def _names(count: int, given: list[Any]) -> list[str]:
    named = [text(name) for name in given]
    if len(named) == count and all(named):
        return named
    return ["channel"] if count == 1 else [f"channel{i}" for i in range(count)]


def _axis(
    draft: Draft, raw: Any, tensor_id: str, size: int | None, scales: dict[str, float]
) -> dict[str, Any]:
    """Return one axis; `size` is that of the test tensor."""
    given = as_map(raw)
    kind = text(given.get("type"))
    default = DEFAULT_IDS.get(kind, "")
    name = text(given.get("id")) or default
    if not given.get("id"):
        draft.change("Every axis has an id.")
    axis: dict[str, Any] = {"type": kind, "id": name}
    axis |= {
        k: given[k]
        for k in _AXIS_KEYS.get(kind, tuple(given))
        if given.get(k) not in ("",) and k in given
    }
    if kind == "channel":
        known = as_list(given.get("channel_names"))
        count = size if size is not None else integer(given.get("size")) or len(known)
        axis["channel_names"] = _names(count, known)
        if not known:
            draft.change(f"The channels of {tensor_id} have names.")
        elif len(known) != count:
            draft.change(f"{tensor_id} has {count} channels, as its test tensor has.")
    scale = given.get("scale")
    if kind in ("space", "time") and isinstance(scale, int | float) and scale != 1:
        scales[name] = float(scale)
    if kind in ("space", "time") and (given.get("unit") or name in scales):
        kept = draft.moved.setdefault("axes", {}).setdefault(tensor_id, {})
        kept[name] = {k: given[k] for k in ("unit", "scale") if k in given}
        axis.pop("unit", None)
    reference = as_map(axis.get("size"))
    if "tensor_id" in reference or "axis_id" in reference:
        axis["size"] = {**reference, "offset": reference.get("offset", 0)}
    if axis.get("halo") == 0:
        axis.pop("halo")
    return axis


def _data_type(draft: Draft, tensor: dict[str, Any], tensor_id: str) -> dict[str, Any]:
    data = tensor.get("data")
    first = as_map(as_list(data)[0]) if isinstance(data, list) and data else as_map(data)
    kept = {k: first[k] for k in ("type", "values") if first.get(k) not in (None, [], "")}
    more = {
        k: v
        for k, v in first.items()
        if k not in kept and v not in (None, 1.0, [], [None, None], "arbitrary unit", "")
    }
    if more:
        draft.moved.setdefault("data", {})[tensor_id] = more
    return {"type": "float32", **kept}


def _tensor(
    draft: Draft, raw: dict[str, Any], side: str, index: int, scales: dict[str, dict[str, float]]
) -> dict[str, Any]:
    given = text(raw.get("id"))
    # In 0.5 these are the defaults, and taken as file names by Java.
    tensor_id = given or ("input" if side == "inputs" else "output")
    if not given:
        draft.change(f"{side}[{index}] has an id, {tensor_id}.")
    test = text(as_map(raw.get("test_tensor")).get("source"))
    if not test:
        raise InputError(
            f"a package to port has a test tensor for every input and output, but {tensor_id} has "
            "none: add it"
        )
    array = _load_array(draft.folder / test)
    axes = as_list(raw.get("axes"))
    if array.ndim != len(axes):
        raise InputError(
            f"a test tensor has the axes of its tensor, but {test} has {array.ndim} and "
            f"{tensor_id} {len(axes)}: correct one of them"
        )
    tensor: dict[str, Any] = {"id": tensor_id}
    tensor |= {k: raw[k] for k in _TENSOR_KEYS if k in raw and raw[k] not in (False, "")}
    own: dict[str, float] = {}
    tensor["axes"] = [
        _axis(draft, axis, tensor_id, size, own)
        for axis, size in zip(axes, array.shape, strict=True)
    ]
    scales[tensor_id] = own
    if raw.get("pad"):
        draft.change(f"{side}[{index}].pad, which older programs refuse, is left out.")
    tensor["data"] = _data_type(draft, raw, tensor_id)
    key = "preprocessing" if side == "inputs" else "postprocessing"
    if raw.get(key):
        tensor[key] = raw[key]
    channels = next(
        (len(a["channel_names"]) for a in tensor["axes"] if a["type"] == "channel"), None
    )
    mend_processing(draft, tensor, key, channels)
    order = ("id", "description", "axes", "data", "optional", "output_of", key)
    return {
        **{k: tensor[k] for k in order if k in tensor},
        **{k: tensor[k] for k in ("test_tensor", "sample_tensor") if k in tensor},
    }


def _mend_scales(draft: Draft, scales: dict[str, dict[str, float]]) -> None:
    """Leave scales away, unless they say that output and input differ in size."""
    if not any(scales.values()):
        return
    for tensor in draft.tensors("outputs"):
        for axis in as_list(tensor["axes"]):
            reference = as_map(as_map(axis).get("size"))
            if "tensor_id" not in reference:
                continue
            name = text(axis.get("id"))
            own = scales.get(text(tensor["id"]), {}).get(name, 1.0)
            other = scales.get(text(reference["tensor_id"]), {}).get(
                text(reference.get("axis_id")), 1.0
            )
            if math.isclose(own, other, rel_tol=1e-9):
                continue
            # Without the scales the size would be another one.
            axis["scale"] = own / other
            draft.leave(
                f"The output is {other / own:g} times as large as the input along {name}: Fiji "
                "reads the scale of an axis the other way round."
            )
    draft.change(
        f"The scale of axes, which Fiji takes for a ratio of sizes, stands in config.{CONFIG_KEY}."
    )


# -------------------------------------------------------------------------- top-level keys


def _mend_config(draft: Draft) -> None:
    config = as_map(draft.rdf.get("config"))
    trap = as_map(config.get("deepimagej"))
    if "deepimagej" in config and trap.get("allow_tiling") is not True:
        config.pop("deepimagej")
        draft.change("config.deepimagej, with which every run in Fiji fails, is left out.")
    draft.rdf["config"] = config


def _mend_keys(draft: Draft) -> None:
    rdf = draft.rdf
    version = text(rdf.get("format_version"))
    if version != FORMAT_VERSION:
        draft.change(f"format_version is {FORMAT_VERSION}, not {version}.")
    rdf["format_version"] = FORMAT_VERSION
    rdf["type"] = "model"
    name = text(rdf.get("name"))
    if not name:
        raise InputError("a package to port has a name, but this description has none: add it")
    if not text(rdf.get("id")):
        zoo = as_map(as_map(rdf.get("config")).get("bioimageio"))
        rdf["id"] = text(zoo.get("nickname")) or _slug(name) or "model"
        draft.change(f"The model has an id, {rdf['id']}.")
    unknown = [key for key in rdf if key not in KEYS]
    for key in unknown:
        draft.moved[key] = rdf.pop(key)
    if unknown:
        draft.change(
            f"Keys that format {FORMAT_VERSION} does not have stand in config.{CONFIG_KEY}: "
            f"{', '.join(unknown)}."
        )
    for key in ("covers", "attachments", "links", "tags", "cite", "authors", "maintainers"):
        if key in rdf and not rdf[key]:
            rdf.pop(key)
    if not text(rdf.get("documentation")):
        words = text(rdf.get("description"))
        path = draft.folder / draft.free_name("README.md")
        path.write_text(f"# {name}\n\n{words}\n", encoding="utf-8", newline="\n")
        rdf["documentation"] = path.name
        draft.change("The documentation, which was missing, repeats the description.")


def mend_description(draft: Draft) -> None:
    """Rewrite the description of a draft in the dialect, weights aside.

    Raises
    ------
    InputError
        If it has no name, or test tensors that cannot be read.
    """
    _mend_config(draft)
    _mend_keys(draft)
    scales: dict[str, dict[str, float]] = {}
    for side in ("inputs", "outputs"):
        draft.rdf[side] = [
            _tensor(draft, raw, side, index, scales)
            for index, raw in enumerate(draft.tensors(side))
        ]
        if not draft.rdf[side]:
            raise InputError(f"a package to port describes its {side}, but this one has none")
    _mend_scales(draft, scales)
