"""BiaPy's rule for models of the zoo, which reads the description alone.

Read in BiaPy 3.7.1, biapy/models/__init__.py, check_bmz_model_compatibility without a workflow.
"""

from __future__ import annotations

__all__ = ["WORKFLOW_TAGS", "find_obstacle"]

from typing import TYPE_CHECKING, Any

from deepcontrast_bmz.package.description import as_list, as_map, text

if TYPE_CHECKING:
    from collections.abc import Mapping

WORKFLOW_TAGS: Mapping[str, tuple[str, ...]] = {
    "semantic segmentation": ("semantic-segmentation", "segmentation"),
    "instance segmentation": ("instance-segmentation",),
    "detection": ("detection",),
    "denoising": ("denoising",),
    "super-resolution": ("super-resolution", "superresolution"),
    "self-supervision": ("self-supervision",),
    "classification": ("classification",),
    "image to image": ("pix2pix", "image-reconstruction", "image-to-image", "image-restoration"),
}
"""Tags by which BiaPy knows what a model is for; one must be there."""
CLASS_KEYS = ("n_classes", "out_channels", "output_channels", "classes")
ONE_CLASS = (
    "attention_unet",
    "hrnet",
    "multiresunet",
    "resunet",
    "resunet++",
    "resunet_se",
    "seunet",
    "unet",
    "unetr",
    "unext_v1",
    "unext_v2",
)
"""Architectures of BiaPy's own, which give one class where nothing else is said."""
STEPS = (
    "clip",
    "fixed_zero_mean_unit_variance",
    "scale_linear",
    "scale_range",
    "zero_mean_unit_variance",
)
AXES = ("bcyx", "bczyx")


def _classes_obstacle(entry: Mapping[str, Any], kwargs: Mapping[str, Any]) -> str:
    """Say why the number of classes of a semantic segmentation is unknown."""
    classes: Any = next((kwargs[key] for key in CLASS_KEYS if key in kwargs), -1)
    classes = as_list(classes)[-1] if as_list(classes) else classes
    architecture = as_map(entry.get("architecture"))
    named = [text(architecture.get(key)).lower() for key in ("callable", "source")]
    if classes == -1 and any(name.replace(".py", "") in ONE_CLASS for name in named):
        classes = 1
    if isinstance(classes, int) and classes != -1:
        return ""
    return f"a segmentation says its classes in kwargs ({', '.join(CLASS_KEYS)}), this one does not"


def _tags_obstacle(tags: list[str], entry: Mapping[str, Any], kwargs: Mapping[str, Any]) -> str:
    instances = "instance-segmentation" in tags
    if "semantic-segmentation" in tags or ("segmentation" in tags and not instances):
        return _classes_obstacle(entry, kwargs)
    if instances:
        channels: Any = kwargs.get("out_channels", kwargs.get("output_channels", 2))
        if "biapy" in tags and not isinstance(channels, list):
            return "with the tags instance-segmentation and biapy, out_channels is a list"
        return ""
    known = [tag for names in WORKFLOW_TAGS.values() for tag in names]
    if any(tag in tags for tag in known):
        return ""
    return f"none of its workflow tags is there ({', '.join(sorted(known))})"


def _axes(tensor: Mapping[str, Any]) -> str:
    axes = tensor.get("axes")
    if isinstance(axes, str):
        return axes
    letters = {"batch": "b", "channel": "c"}
    found = ""
    for axis in map(as_map, as_list(axes)):
        named = text(axis.get("id"))
        kind = text(axis.get("type")) if "type" in axis else named
        if "type" not in axis:
            found += "c" if named == "channel" else named
        else:
            found += letters.get(kind, named)
    return found


def _sizes_obstacle(tensor: Mapping[str, Any]) -> str:
    """Say why no size of a patch can be read: one number for each axis, in 0.4 under shape.min."""
    axes = tensor.get("axes")
    sizes: list[Any] = []
    if isinstance(axes, str):
        sizes = as_list(as_map(tensor.get("shape")).get("min"))
    for axis in map(as_map, as_list(axes)):
        named = text(axis.get("id"))
        single = ("batch", "channel") if "type" in axis else ("channel",)
        if text(axis.get("type", named)) in single:
            sizes.append(1)
        elif isinstance(axis.get("size"), int):
            sizes.append(axis["size"])
        elif "min" in as_map(axis.get("size")):
            sizes.append(as_map(axis["size"])["min"])
    if len(sizes) < 2 or not all(isinstance(size, int) for size in sizes):
        return "the size of a patch cannot be read from the axes (0.4: from shape.min)"
    return ""


def _steps_obstacle(tensor: Mapping[str, Any], key: str) -> str:
    for step in map(as_map, as_list(tensor.get("preprocessing"))):
        if key not in step:
            continue
        name, kwargs = text(step[key]), as_map(step.get("kwargs"))
        if name == "ensure_dtype" and "float" in str(kwargs.get("dtype", "")):
            continue
        if name not in STEPS:
            return f"the preprocessing {name} is not among {', '.join(STEPS)}"
        if name in ("scale_range", "clip") and "kwargs" not in step:
            return f"the preprocessing {name} has no kwargs"
    return ""


def _version(rdf: Mapping[str, Any]) -> tuple[int, ...]:
    parts = text(rdf.get("format_version", "0.5")).split(".")
    return tuple(int(p) for p in parts if p.isdigit())


def find_obstacle(rdf: Mapping[str, Any]) -> tuple[str, str]:
    """Say why BiaPy refuses a model, and what it looks up on the internet; empty if nothing."""
    entry = as_map(as_map(rdf.get("weights")).get("pytorch_state_dict"))
    inputs = as_list(rdf.get("inputs"))
    if not entry:
        return "there are no pytorch_state_dict weights, the only ones it takes", ""
    if len(inputs) != 1:
        return f"it takes one input, not {len(inputs)}", ""
    architecture = entry.get("architecture")
    within = as_map(architecture).get("kwargs") if isinstance(architecture, dict) else None
    kwargs = entry.get("kwargs", within)
    if not isinstance(kwargs, dict):
        return "the architecture has no kwargs (an empty map will do)", ""
    tags = [text(tag) for tag in as_list(rdf.get("tags"))]
    axes = _axes(as_map(inputs[0]))
    named = as_map(kwargs).get("postprocessing")
    key = "id" if _version(rdf) > (0, 5, 0) else "name"
    found = (
        _tags_obstacle(tags, entry, as_map(kwargs))
        or _sizes_obstacle(as_map(inputs[0]))
        or ("" if axes in AXES else f"axes are {' or '.join(AXES)}, not {axes}")
        or _steps_obstacle(as_map(inputs[0]), key)
        or ("" if named is None else "kwargs name a postprocessing, which it does not do")
    )
    looked_up = "" if entry.get("dependencies") is None else "the dependencies of the state dict"
    return found, looked_up
