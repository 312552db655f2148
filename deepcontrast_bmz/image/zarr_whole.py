"""Refuses chunks of a Zarr array that were cut short."""

from __future__ import annotations

__all__ = ["check_chunks"]

from typing import TYPE_CHECKING, Any

import zarr
from zarr.abc.store import Store
from zarr.storage import WrapperStore

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

_HEADER = 16
"""Bytes of Blosc's header; the last four say how long the packed chunk is."""


def check_chunks(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return an array whose chunks are read only if they are whole.

    Blosc, as numcodecs 0.16 calls it, reads on beyond the end of a chunk that was cut short: an
    error if there is something else in memory, and else whatever stood there.

    Parameters
    ----------
    array : zarr.Array
        Of shards, and of other packers than Blosc, it is returned as it is.
    """
    packed = any("Blosc" in type(packer).__name__ for packer in array.compressors)
    if not packed or array.shards is not None:
        return array
    return zarr.open_array(store=_WholeChunks(array.store), path=array.path, mode="r")


class _WholeChunks(WrapperStore[Store]):
    """A store of chunks packed by Blosc, and of descriptions."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read what lies under a key."""
        found = await super().get(key, prototype, byte_range)
        described = key.rsplit("/", 1)[-1] in ("zarr.json", ".zarray", ".zattrs", ".zgroup")
        if found is None or byte_range is not None or described:
            return found
        header = bytes(found.as_numpy_array()[:_HEADER])
        stated = int.from_bytes(header[12:], "little")
        if len(header) < _HEADER or stated > len(found):
            raise OSError(f"the chunk {key} is cut short")
        return found
