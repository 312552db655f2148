"""The loop as one Python file that needs torch alone, cut out of the sources of this package."""

from __future__ import annotations

__all__ = [
    "ARCHITECTURE_CLASS",
    "list_architecture_kwargs",
    "write_architecture",
]

import inspect
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from deepcontrast_bmz.model.loop import Loop, crop, extend
from deepcontrast_bmz.model.network import (
    DilatedNetwork,
    DilatedVolumeNetwork,
    InvertibleNetwork,
    layers,
)

if TYPE_CHECKING:
    from torch import nn

    from deepcontrast_bmz.settings import NetworkSettings

ARCHITECTURE_CLASS = "DeepContrastLoop"
_HEAD = '''"""The exported loop in one file: torch is all it needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn'''

_CLASS_TEMPLATE = '''

class {name}(Loop):
    """The exported loop, built from plain values: {shapes}.

    Parameters
    ----------
{texts}
    iterations : int
        Output channels: channel k is the image after k + 1 iterations.
    """

    def __init__(
        self,
{types}
        iterations: int,
    ) -> None:
        super().__init__({network}({values}), iterations)
'''


class _Argument(NamedTuple):
    """A setting of the network that becomes an argument of the exported architecture."""

    name: str
    type: str
    text: str
    value: str
    """What the network itself is given."""


_WIDTH = _Argument("width", "int", "Channels of the first layer.", "width")
_LEVELS = _Argument("levels", "int", "Resolutions.", "levels")
_DILATIONS = _Argument(
    "dilations", "list[int]", "Dilation of each 3 x 3 convolution.", "tuple(dilations)"
)
_MIXING = _Argument("mixing_layers", "int", "Layers that mix neighbouring planes.", "mixing_layers")


class _Network(NamedTuple):
    """What the file of one kind of network is put together from."""

    kind: type[nn.Module]
    arguments: tuple[_Argument, ...]
    layers: tuple[object, ...]
    """What the network's own module takes from `layers`, in the order in which it is written."""
    unused: frozenset[str]
    """Methods that nothing in the file calls."""


_UNUSED = frozenset({"inverse", "from_recipe"})
_DILATED = (layers.sort_pairs, layers.AffineConv)
_NETWORKS = {
    "dilated": _Network(DilatedNetwork, (_WIDTH, _DILATIONS), _DILATED, _UNUSED | {"same"}),
    "dilated_3d": _Network(
        DilatedVolumeNetwork, (_WIDTH, _DILATIONS, _MIXING), _DILATED, _UNUSED | {"same"}
    ),
    "invertible": _Network(
        InvertibleNetwork,
        (_WIDTH, _LEVELS),
        (
            layers.sort_pairs,
            layers.crop_margin,
            layers.to_grid,
            layers.grid_radius,
            layers.AffineConv,
        ),
        _UNUSED,
    ),
}


def list_architecture_kwargs(loop: Loop, network: NetworkSettings) -> dict[str, int | list[int]]:
    """Return the arguments with which the exported architecture rebuilds the loop."""
    kwargs: dict[str, int | list[int]] = {}
    for argument in _NETWORKS[network.kind].arguments:
        value: int | tuple[int, ...] = getattr(network, argument.name)
        kwargs[argument.name] = list(value) if isinstance(value, tuple) else value
    kwargs["iterations"] = loop.iterations
    return kwargs


def _copy_source(part: object, unused: frozenset[str]) -> str:
    """Return the source of a function or class, without some of its methods."""
    source = inspect.getsource(cast("Any", part)).strip()
    for name in unused & vars(part).keys():
        source = source.replace("\n\n" + inspect.getsource(getattr(part, name)).rstrip(), "")
    return source


def write_architecture(network: NetworkSettings) -> str:
    """Return one Python file with the loop and the network it iterates, which needs torch alone.

    It is put together from this package's own sources, as they stand.
    """
    kind, arguments, shared, unused = _NETWORKS[network.kind]
    module = kind.__module__
    own = [v for v in vars(sys.modules[module]).values() if getattr(v, "__module__", "") == module]
    parts = [_copy_source(part, unused) for part in (*shared, *own, extend, crop, Loop)]
    axes = "Z, Y, X" if network.dims == 3 else "Y, X"
    last = _CLASS_TEMPLATE.format(
        name=ARCHITECTURE_CLASS,
        network=kind.__name__,
        shapes=f"(B, 1, {axes}) to (B, iterations, {axes})",
        texts="\n".join(f"    {a.name} : {a.type}\n        {a.text}" for a in arguments),
        types="\n".join(f"        {a.name}: {a.type}," for a in arguments),
        values=", ".join(a.value for a in arguments),
    )
    return "\n\n\n".join([_HEAD, *parts]) + "\n" + last
