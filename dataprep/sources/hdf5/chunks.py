"""Values of large HDF5 data sets, chunk by chunk.

HDF5 unpacks gzip with zlib and spreads each chunk over the rows that were asked for; both together take four times as
long as ISA-L's gzip and NumPy's copy of a whole chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import h5py
import numpy as np
from isal import igzip_lib, isal_zlib

Selection = tuple[slice, slice]

# Rows that are read together where the file has no chunks.
_ROWS_AT_ONCE = 512


def read_into(held: np.ndarray, stored: h5py.Dataset, selection: Selection) -> None:
    """Read the selected values of a matrix into ``held``, of their shape and any type, also where it is turned.

    A piece at a time, so that the processor's cache holds what is turned. Where a chunk is damaged, HDF5's error is
    raised.
    """
    gzip_alone = _is_gzip_alone(stored)
    for piece in _pieces(stored, selection):
        chunk = _unpacked(stored, piece) if gzip_alone else None
        held[_within(piece, [whole.start for whole in selection])] = stored[piece] if chunk is None else chunk


def _is_gzip_alone(stored: h5py.Dataset) -> bool:
    return stored.compression == "gzip" and stored.id.get_create_plist().get_nfilters() == 1


def _pieces(stored: h5py.Dataset, selection: Selection) -> Iterator[Selection]:
    if stored.chunks is not None:
        yield from stored.iter_chunks(selection)
        return
    rows, columns = selection
    for start in range(rows.start, rows.stop, _ROWS_AT_ONCE):
        yield slice(start, min(start + _ROWS_AT_ONCE, rows.stop)), columns


def _unpacked(stored: h5py.Dataset, piece: Selection) -> np.ndarray | None:
    """Values of a piece of one chunk, or None where HDF5 has to read: never written, stored as it is, or damaged."""
    origin = tuple(own.start - own.start % size for own, size in zip(piece, stored.chunks, strict=True))
    wanted_bytes = stored.dtype.itemsize * int(np.prod(stored.chunks))
    unpacking = isal_zlib.decompressobj()
    try:
        left_out_filters, packed = stored.id.read_direct_chunk(origin)
        # one byte more, so that what is too long is seen, and no more of it
        values = unpacking.decompress(packed, wanted_bytes + 1)
    except (OSError, RuntimeError, ValueError, igzip_lib.IsalError):  # type: ignore[misc]  # a class, not as its stub says
        return None
    if left_out_filters or len(values) != wanted_bytes or not unpacking.eof:
        return None
    return np.frombuffer(values, stored.dtype).reshape(stored.chunks)[_within(piece, origin)]


def _within(piece: Selection, first: Iterable[int]) -> tuple[slice, ...]:
    """The piece as it is counted from ``first``."""
    return tuple(slice(own.start - start, own.stop - start) for own, start in zip(piece, first, strict=True))
