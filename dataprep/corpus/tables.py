"""The tables of a corpus beside its shards: samples, genes, refused samples."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder

SAMPLES_FILE = "samples.parquet"
GENES_FILE = "genes.parquet"
REJECTED_FILE = "rejected.parquet"
# What every row of samples.parquet has; the other columns are labels and metadata as given.
SAMPLE_COLUMNS = ("sample_id", "study_id", "split", "row_id", "source")


def read_table(folder: Folder, name: str) -> pa.Table:
    """A whole Parquet file. Raises :class:`UserError` where it is missing or damaged."""
    return parsed_table(folder, name, read_content(folder, name))


def read_content(folder: Folder, name: str) -> bytes:
    """The bytes of a file. Raises :class:`UserError` where it is missing."""
    try:
        return folder.read_bytes(name)
    except FileNotFoundError:
        raise UserError(f"{folder.uri}/{name} is missing") from None


def parsed_table(folder: Folder, name: str, content: bytes) -> pa.Table:
    """The table in the content of a Parquet file. Raises :class:`UserError` where it is damaged."""
    try:
        return pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{folder.uri}/{name} is damaged: {one_line(error)}") from None


def table_bytes(table: pa.Table) -> bytes:
    """A metadata table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
