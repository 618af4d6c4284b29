"""Embeddings on their way to a file: written as they come, under a temporary name until whole.

Parquet: ``sample_id`` and a fixed-size list of float32 named after the content (``embedding`` or ``expression``), for
genes also ``ensembl_id``; the schema's metadata says what it is. AnnData: one row per sample, values in X.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from anndata import AnnData

from dataprep.runtime.command_line import UserError
from dataprep.runtime.local_files import one_line_for_a_full_disk, path_beside
from dataprep.runtime.storage import Folder, split_file_address

# Rows are gathered to row groups of about this size: one per batch would make files slow to read.
_ROW_GROUP_BYTES = 32 * 1024**2


class Writer(Protocol):
    """Takes the values of the next profiles, float32 [n, ...]."""

    def write(self, sample_ids: Sequence[str], values: np.ndarray) -> None: ...


def require_replaceable(address: str) -> None:
    """Raise UserError where no file can be written, or where there is one that is not of embeddings.

    One of embeddings is replaced.
    """
    folder_address, name = split_file_address(address)
    folder = Folder(folder_address)
    folder.require_writable(name)
    if not folder.exists(name):
        return
    try:
        with folder.open(name) as stream:
            ours = _is_embeddings(name, stream)
    except (pa.ArrowInvalid, OSError):
        ours = False
    if not ours:
        raise UserError(f"{address} exists and holds no embeddings: remove it, or give another --output", exit_code=2)


def _is_embeddings(name: str, stream: IO[bytes]) -> bool:
    """Whether the file has the mark that the writers below put into it."""
    if name.endswith(".h5ad"):
        with h5py.File(stream, "r") as file:
            return "bulkformer" in file.get("uns", {})
    return {b"level", b"vocabulary_sha256"} <= (pq.read_schema(stream).metadata or {}).keys()


@contextmanager
def whole_file(address: str) -> Iterator[Path]:
    """A local path to write to, which becomes the file at ``address`` (also ``s3://``) when the block ends well."""
    folder_address, name = split_file_address(address)
    folder = Folder(folder_address)
    if not folder.is_local:
        with tempfile.TemporaryDirectory(prefix="embedding-") as scratch:
            with one_line_for_a_full_disk(f"{scratch}, where {name} is prepared,"):
                yield Path(scratch) / name
            folder.upload(Path(scratch) / name, name)
        return
    target = Path(folder.path) / name
    folder.require_writable(name)
    temporary = path_beside(target)
    try:
        with one_line_for_a_full_disk(address):
            yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


class ParquetWriter:
    """Profiles as Parquet rows; with ``gene_ids`` one row per profile and gene, values [n, G', width]."""

    def __init__(
        self, path: Path, column: str, width: int, metadata: Mapping[str, str], gene_ids: Sequence[str] | None = None
    ) -> None:
        self._column = column
        self._gene_ids = pa.array(gene_ids, pa.string()) if gene_ids is not None else None
        fields = [pa.field("sample_id", pa.string())]
        if gene_ids is not None:
            fields.append(pa.field("ensembl_id", pa.string()))
        fields.append(pa.field(column, pa.list_(pa.float32(), width)))
        self._schema = pa.schema(fields, metadata=dict(metadata))
        names = [field.name for field in fields[:-1]]
        self._writer = pq.ParquetWriter(path, self._schema, use_dictionary=names, compression="snappy")
        self._sample_ids: list[str] = []
        self._values: np.ndarray | None = None

    def write(self, sample_ids: Sequence[str], values: np.ndarray) -> None:
        """Add the next profiles, to the file or to what waits until a row group is full."""
        # one buffer, not a list of small arrays: long-lived allocations between the model's large tensors would
        # fragment the memory that these are to reuse
        if self._values is None:
            profiles = max(1, _ROW_GROUP_BYTES // values[:1].nbytes)
            self._values = np.empty((profiles, *values.shape[1:]), np.float32)
        start = 0
        while start < len(values):
            filled = len(self._sample_ids)
            taken = min(len(values) - start, len(self._values) - filled)
            self._values[filled : filled + taken] = values[start : start + taken]
            self._sample_ids += sample_ids[start : start + taken]
            start += taken
            if len(self._sample_ids) == len(self._values):
                self._flush()

    def _flush(self) -> None:
        if not self._sample_ids:
            return
        assert self._values is not None
        values = self._values[: len(self._sample_ids)]
        flat = pa.array(values.reshape(-1))
        columns = {self._column: pa.FixedSizeListArray.from_arrays(flat, values.shape[-1])}
        if self._gene_ids is None:
            columns["sample_id"] = pa.array(self._sample_ids, pa.string())
        else:
            names = np.asarray(self._sample_ids, dtype=object)
            columns["sample_id"] = pa.array(np.repeat(names, len(self._gene_ids)), pa.string())
            columns["ensembl_id"] = pa.chunked_array([self._gene_ids] * len(names)).combine_chunks()
        self._writer.write_table(pa.table([columns[name] for name in self._schema.names], schema=self._schema))
        self._sample_ids = []

    def __enter__(self) -> ParquetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self._flush()
        self._writer.close()


class AnnDataWriter:
    """Profiles as rows of X of an ``.h5ad``; ``names`` are those of its columns."""

    def __init__(
        self, path: Path, sample_ids: Sequence[str], names: Sequence[str], metadata: Mapping[str, str]
    ) -> None:
        described = AnnData(obs=pd.DataFrame(index=list(sample_ids)), var=pd.DataFrame(index=list(names)))
        described.uns = {"bulkformer": dict(metadata)}
        described.write_h5ad(path)
        self._file = h5py.File(path, "r+")
        if "X" in self._file:
            del self._file["X"]
        self._values = self._file.create_dataset("X", shape=(len(sample_ids), len(names)), dtype=np.float32)
        # what AnnData's on-disk format asks of a dense array
        self._values.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self._next = 0

    def write(self, sample_ids: Sequence[str], values: np.ndarray) -> None:
        self._values[self._next : self._next + len(sample_ids)] = values
        self._next += len(sample_ids)

    def __enter__(self) -> AnnDataWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def genes_metadata(gene_ids: Sequence[str]) -> str:
    """Gene ids for a schema's metadata."""
    return json.dumps(list(gene_ids))
