"""Values of HDF5 come out as HDF5 itself reads them, however they are stored, and opening a file reads none of them."""

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dataprep.sources.hdf5 import chunks as hdf5_chunks
from dataprep.sources.hdf5.chunks import read_into
from dataprep.sources.hdf5.files import opened_hdf5

VALUES = np.random.default_rng(0).integers(0, 50_000, (23, 17))
SELECTIONS = [np.s_[0:23, 0:17], np.s_[3:11, 5:6], np.s_[8:16, 4:12], np.s_[22:23, 16:17]]
STORED: dict[str, dict[str, Any]] = {
    "gzip": {"chunks": (8, 4), "compression": "gzip"},
    "gzip, one chunk": {"chunks": (23, 17), "compression": "gzip", "compression_opts": 9},
    "gzip, big-endian": {"chunks": (5, 5), "compression": "gzip", "dtype": ">i4"},
    "gzip, shuffled": {"chunks": (8, 4), "compression": "gzip", "shuffle": True},
    "gzip, checksums": {"chunks": (8, 4), "compression": "gzip", "fletcher32": True},
    "lzf": {"chunks": (8, 4), "compression": "lzf"},
    "chunks alone": {"chunks": (8, 4)},
    "no chunks": {},
}


def is_read_as_hdf5_reads_it(stored: h5py.Dataset) -> None:
    for selection in SELECTIONS:
        expected = stored[selection].astype(np.float32)
        rows = np.full(expected.shape, np.nan, np.float32)
        read_into(rows, stored, selection)
        np.testing.assert_array_equal(rows, expected)
        turned = np.full(expected.shape[::-1], np.nan, np.float32)
        read_into(turned.T, stored, selection)
        np.testing.assert_array_equal(turned.T, expected)


@pytest.mark.parametrize("form", STORED)
def test_any_part_of_any_form_of_storage_as_it_lies_and_turned(tmp_path: Path, monkeypatch, form: str) -> None:
    monkeypatch.setattr(hdf5_chunks, "_ROWS_AT_ONCE", 7)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        is_read_as_hdf5_reads_it(file.create_dataset("x", data=VALUES, **STORED[form]))


def test_gzip_is_unpacked_without_hdf5(tmp_path: Path, monkeypatch) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=VALUES, chunks=(8, 4), compression="gzip")
        held = np.empty((23, 17))
        monkeypatch.setattr(h5py.Dataset, "__getitem__", None)
        read_into(held, stored, np.s_[0:23, 0:17])
    np.testing.assert_array_equal(held, VALUES)


def test_chunks_that_were_never_written_or_are_stored_as_they_are(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", (23, 17), "i4", chunks=(8, 4), compression="gzip", fillvalue=7)
        stored[8:16, 4:8] = VALUES[8:16, 4:8]
        stored.id.write_direct_chunk((0, 0), np.arange(32, dtype="i4").tobytes(), filter_mask=1)
    with h5py.File(tmp_path / "x.h5") as file:
        stored = file["x"]
        is_read_as_hdf5_reads_it(stored)
        assert stored[8, 4] == VALUES[8, 4]
        assert stored[0:1, 0:4].tolist() == [[0, 1, 2, 3]]
        assert stored[22, 16] == 7


@pytest.mark.parametrize(
    "content",
    [b"no gzip", zlib.compress(bytes(128))[:-2], zlib.compress(bytes(128))[:-1] + b"x"],
    ids=["no gzip", "cut", "wrong checksum"],
)
def test_a_damaged_chunk_is_hdf5s_error(tmp_path: Path, content: bytes) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=VALUES.astype("i4"), chunks=(8, 4), compression="gzip")
        stored.id.write_direct_chunk((8, 4), content)
        held = np.empty((8, 4))
        read_into(held, stored, np.s_[0:8, 0:4])
        with pytest.raises(OSError, match="Can't"):
            read_into(held, stored, np.s_[8:16, 4:8])


def test_a_chunk_that_holds_more_than_its_values_is_unpacked_no_further(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=VALUES.astype("i4"), chunks=(8, 4), compression="gzip")
        stored.id.write_direct_chunk((8, 4), zlib.compress(bytes(10**8)))
        piece = hdf5_chunks._unpacked(stored, np.s_[8:16, 4:8])
        assert piece is None


def test_a_file_is_opened_without_reading_the_index_of_its_chunks(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.ones((4000, 10), "i1"), chunks=(1, 1), compression="gzip")
    size, read = path.stat().st_size, [0]

    class Counted:
        def __init__(self) -> None:
            self._file = path.open("rb", buffering=0)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def readinto(self, buffer: Any) -> int:
            read[0] += len(buffer)
            return self._file.readinto(buffer)

    monkeypatch.setattr("dataprep.sources.hdf5.files._readable", lambda *_: Counted())
    with opened_hdf5(str(path), "a file", ()) as file:
        assert read[0] < size / 50
        assert file["x"][7, 3] == 1
