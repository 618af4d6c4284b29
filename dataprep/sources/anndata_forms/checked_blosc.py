"""Blosc, which believes what the first bytes of a chunk say of its length: a damaged one would end the process.

Importing this module has zarr use the checked codec, for arrays of format 2 and of format 3.
"""

from __future__ import annotations

import struct
from typing import Any

import numcodecs
import numcodecs.blosc
import zarr
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer

# Version, compression, flags and size of a value, a byte each; sizes of the values, of a block, of the whole chunk.
_HEADER = struct.Struct("<4B3I")


class CheckedBlosc(numcodecs.blosc.Blosc):
    """As format 2 has it."""

    codec_id = "blosc"

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Raises ValueError for a chunk that is not as long as it says."""
        _require_length(memoryview(buf).cast("B"))
        return super().decode(buf, out)


class CheckedBloscCodec(BloscCodec):
    """As format 3 has it."""

    def _decode_sync(self, chunk_bytes: Buffer, *more: Any) -> Buffer:
        _require_length(memoryview(chunk_bytes.to_bytes()))
        return super()._decode_sync(chunk_bytes, *more)


def _require_length(chunk: memoryview) -> None:
    if len(chunk) < _HEADER.size or _HEADER.unpack_from(chunk)[-1] != len(chunk):
        raise ValueError(f"a chunk of {len(chunk):,} bytes is damaged: it says that it has another length")


numcodecs.register_codec(CheckedBlosc)
zarr.registry.register_codec("blosc", CheckedBloscCodec)
zarr.config.set({"codecs.blosc": f"{CheckedBloscCodec.__module__}.{CheckedBloscCodec.__qualname__}"})
