"""A loop as a frozen TorchScript archive; the same loop gives the same bytes."""

from __future__ import annotations

__all__ = [
    "serialize_torchscript",
    "strip_archive",
]

import io
import re
import zipfile

import torch
from torch import Tensor, nn

from deepcontrast_bmz.export.fast_loop import LoopInStrips, is_plainly_dilated
from deepcontrast_bmz.export.fold import fold_kernels, make_example_image
from deepcontrast_bmz.model.loop import Loop, extend
from deepcontrast_bmz.model.weights import ignore_deprecations


class _Iterations(nn.Module):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, extended: Tensor) -> Tensor:
        return self.loop.iterate(extended, self.loop.iterations)


class _FlatLoop(nn.Module):
    """A folded loop whose tensors are buffers of one single module.

    One class in the archive has one name, whatever was traced before in the same process, and
    buffers that stay attributes follow the module to another device, as constants do not.
    """

    def __init__(self, folded: Loop) -> None:
        super().__init__()
        self.extend = torch.jit.script(extend)
        self.margins = folded.margins(folded.iterations)
        self.slots: list[tuple[nn.Module, str, str]] = []
        for path, tensor in folded.named_buffers():
            owner, _, name = path.rpartition(".")
            flat = path.replace(".", "_")
            self.register_buffer(flat, tensor.contiguous())
            self.slots.append((folded.get_submodule(owner), name, flat))
        # In a list, so that the tracer does not find it as a submodule.
        self.hidden = [_Iterations(folded)]

    def forward(self, x: Tensor) -> Tensor:
        for owner, name, flat in self.slots:
            setattr(owner, name, getattr(self, flat))
        return self.hidden[0](self.extend(x, self.margins))


# The archive holds the name of the class: it stays the same when this file moves.
_FlatLoop.__module__ = "deepcontrast_bmz.export"


_MANGLED = re.compile(rb"\.___torch_mangle_\d+")


def strip_archive(archive: bytes, *, demangle: bool = True) -> bytes:
    """Return a TorchScript archive without debug files, counters, dates or compression.

    Where two classes differ by the counters in their names alone, these may not go: `demangle`.
    """
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as source,
        zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target,
    ):
        for name in source.namelist():
            # The serialization id is a hash over the debug files, too.
            if name.endswith((".debug_pkl", "/serialization_id")):
                continue
            content = source.read(name)
            if demangle and name.endswith((".py", "/data.pkl")):
                content = _MANGLED.sub(b"", content)
                name = re.sub(r"/___torch_mangle_\d+(?=\.py$)", "", name)
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            # torch maps tensors into memory where they begin at a multiple of 64 bytes.
            begin = out.tell() + 30 + len(entry.filename.encode()) + 4
            pad = -begin % 64
            entry.extra = b"FB" + pad.to_bytes(2, "little") + b"Z" * pad
            target.writestr(entry, content)
    return out.getvalue()


def serialize_torchscript(loop: Loop) -> bytes:
    """Return the loop as a frozen TorchScript archive that torch 2.0 and later load.

    Dilated networks are scripted, in strips of rows. Of others the mirroring is scripted, since a
    trace would write down the device of its indices, and all the rest is traced. Sizes are free;
    tensors follow ``to(device)`` and ``map_location``.
    """
    # Without optimisation, freezing would leave calls of methods in the graph.
    optimised = torch.jit.optimized_execution(True)  # pyright: ignore[reportPrivateImportUsage]
    with ignore_deprecations(), torch.no_grad(), optimised:
        if is_plainly_dilated(loop.network):
            module = LoopInStrips(loop, loop.network).eval()
            graph = torch.jit.script(module)
            # As constants they would let freezing unroll loops: sometimes, with other bytes then.
            kept = ["dilations", "mixes", "iterations"]
        else:
            module = _FlatLoop(fold_kernels(loop)).eval()
            graph = torch.jit.trace(module, make_example_image(loop), check_trace=False)
            kept = []
        kept += [name for name, _ in module.named_buffers()]
        frozen = torch.jit.freeze(graph, preserved_attrs=kept)
        file = io.BytesIO()
        torch.jit.save(frozen, file)
    return strip_archive(file.getvalue())
