"""Which weights Fiji and Icy load first: the order of a Java HashMap.

JDLL keeps the weights of a model in a ``java.util.HashMap`` under the names
``<format>_v<version>`` and takes the first whose file and engine exist. The order is that of the
hash table's slots, so it changes with the digits of the declared version. It matters because its
ONNX binding can take the whole program down, and its PyTorch one does not.
"""

from __future__ import annotations

__all__ = ["VERSION_KEYS", "hash_like_java", "order_formats", "shares_slot"]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION_KEYS = {
    "torchscript": "pytorch_version",
    "pytorch_state_dict": "pytorch_version",
    "onnx": "opset_version",
    "tensorflow_saved_model_bundle": "tensorflow_version",
    "tensorflow_js": "tensorflow_version",
    "keras_hdf5": "tensorflow_version",
}
"""The key of a weights entry that holds the version JDLL puts into the name."""


def hash_like_java(text: str) -> int:
    """Return ``String.hashCode()`` of Java, as an unsigned 32-bit number."""
    value = 0
    units = text.encode("utf-16-be")
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    return value


def _slot(name: str, slots: int) -> int:
    value = hash_like_java(name)
    return (value ^ (value >> 16)) & (slots - 1)


def _slots(entries: int) -> int:
    slots = 16
    # A Java HashMap doubles when it is filled beyond three quarters.
    while entries > 0.75 * slots:
        slots *= 2
    return slots


def order_formats(weights: Mapping[str, str]) -> list[str]:
    """Return the formats in the order in which JDLL tries them, from the version of each.

    Formats that share a slot keep the order of the description.

    Examples
    --------
    >>> order_formats({"onnx": "17", "torchscript": "2.0.0"})
    ['torchscript', 'onnx']
    >>> order_formats({"torchscript": "2.13.0", "onnx": "17"})
    ['onnx', 'torchscript']
    """
    slots = _slots(len(weights))
    return sorted(weights, key=lambda fmt: _slot(f"{fmt}_v{weights[fmt]}", slots))


def shares_slot(weights: Mapping[str, str], first: str, second: str) -> bool:
    """Return whether two formats fall into one slot, so that only the file's order decides."""
    slots = _slots(len(weights))
    names = [f"{fmt}_v{weights[fmt]}" for fmt in (first, second)]
    return _slot(names[0], slots) == _slot(names[1], slots)
