"""Shards: profiles in Parquet, written once and read by row group."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.corpus.manifest import FORMAT, FORMAT_VERSION, MANIFEST_FILE, UNIT, Shard, ShardEntry, parsed_manifest
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder

BYTES_PER_VALUE = 2
# A shard has about so many, unless a build says otherwise.
SHARD_BYTES = 128_000_000


class DamagedShardError(UserError):
    """A shard that is missing, or whose content is not what was written."""


class ReplacedShardError(UserError):
    """A sound shard that is not the one that the opened manifest names: the corpus was rebuilt."""


def shard_schema(vocabulary: GeneVocabulary, content_sha256: str | None) -> pa.Schema:
    """The schema of a shard; its metadata makes the file explain itself."""
    content = {} if content_sha256 is None else {"content_sha256": content_sha256}
    return pa.schema(
        [pa.field("row_id", pa.int64()), pa.field("expression", pa.binary(BYTES_PER_VALUE * vocabulary.size))],
        metadata={
            "format": FORMAT,
            "format_version": str(FORMAT_VERSION),
            "expression_dtype": "<f2",
            "expression_shape": json.dumps([vocabulary.size]),
            "expression_unit": UNIT,
            "expression_missing": "NaN",
            "vocabulary_sha256": vocabulary.fingerprint,
            **content,
        },
    )


def encode_expression(expression: np.ndarray) -> pa.FixedSizeBinaryArray:
    """float16 [rows, G] as a column, without copying when it is contiguous."""
    rows, genes = expression.shape
    values = np.ascontiguousarray(expression, dtype="<f2")
    column_type = pa.binary(BYTES_PER_VALUE * genes)
    return pa.FixedSizeBinaryArray.from_buffers(column_type, rows, [None, pa.py_buffer(values)])


def decode_expression(column: pa.ChunkedArray | pa.FixedSizeBinaryArray, genes: int) -> np.ndarray:
    """A column as float16 [rows, G]: a read-only view of its memory (a copy only where it has several chunks)."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_view(chunk, genes) for chunk in chunks if len(chunk)]
    if not parts:
        return np.empty((0, genes), np.float16)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def rows_per_shard(shard_bytes: int, genes: int, rows_per_row_group: int) -> int:
    """Profiles in a shard of about so many bytes: whole row groups, at least one."""
    row_groups = shard_bytes // ((BYTES_PER_VALUE * genes + 8) * rows_per_row_group)
    return max(1, row_groups) * rows_per_row_group


def write_shard(
    folder: Folder,
    path: str,
    split: str,
    first_row_id: int,
    expression: np.ndarray,
    vocabulary: GeneVocabulary,
    rows_per_row_group: int,
) -> ShardEntry:
    """Write profiles, float16 [rows, G] in order of their row ids, and return the manifest's entry."""
    rows = len(expression)
    column = encode_expression(expression)
    content_sha256 = hashlib.sha256(column.buffers()[1]).hexdigest()
    table = pa.table(
        [pa.array(np.arange(first_row_id, first_row_id + rows)), column],
        schema=shard_schema(vocabulary, content_sha256),
    )
    written = _Written()

    def fill(stream: IO[bytes]) -> None:
        written.begin(stream)
        with pa.PythonFile(written, mode="w") as sink:
            pq.write_table(
                table,
                sink,
                row_group_size=rows_per_row_group,
                compression="none",
                use_dictionary=False,
                write_statistics=["row_id"],
                write_page_checksum=True,
                # one page per row group: a page boundary inside a group would force a copy on reading
                data_page_size=rows_per_row_group * (BYTES_PER_VALUE * vocabulary.size + 8) + 1024,
            )

    folder.write_stream(path, fill)
    return ShardEntry(
        path=path,
        split=split,  # type: ignore[arg-type]
        rows=rows,
        first_row_id=first_row_id,
        bytes=written.bytes,
        sha256=written.sha256,
        content_sha256=content_sha256,
    )


class _Written(io.RawIOBase):
    """Hands on what is written, and has its size and checksum."""

    def begin(self, target: IO[bytes]) -> None:
        self._target, self._digest, self.bytes = target, hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._digest.update(content)
        self.bytes += len(content)
        return self._target.write(content)

    def close(self) -> None:
        """Nothing: the target is closed by who opened it, and may be written once more."""


def read_row_groups(corpus_folder: Folder, shard: Shard, row_groups: Sequence[int]) -> pa.Table:
    """Columns row_id and expression of some row groups of a shard, in the order given.

    Only the footer and these row groups are fetched. Raises as :func:`opened_shard`; every page has a checksum of its
    own.
    """
    with opened_shard(corpus_folder, shard) as file:
        return file.read_row_groups(list(row_groups), use_threads=False)


@contextmanager
def opened_shard(folder: Folder, shard: Shard) -> Iterator[pq.ParquetFile]:
    """A shard as a Parquet file, after comparing its footer with the manifest.

    Raises :class:`DamagedShardError` where it is missing or damaged, and :class:`ReplacedShardError` where it is
    another one: the corpus was rebuilt after its manifest was read.
    """
    try:
        with _shard_file(folder, shard) as (file, size):
            parquet = pq.ParquetFile(file, pre_buffer=not folder.is_local, page_checksum_verification=True)
            _require_listed(folder, shard, parquet, size)
            yield parquet
    except FileNotFoundError:
        raise _unreadable(folder, shard, "is missing") from None
    except (pa.ArrowInvalid, io.UnsupportedOperation) as error:
        raise _unreadable(folder, shard, f"is damaged: {one_line(error)}") from None
    except OSError as error:
        # Arrow's Thrift and page errors; those of a disk or a store have a number or another class
        if type(error) is not OSError or error.errno is not None or error.__cause__ is not None:
            raise
        raise _unreadable(folder, shard, f"is damaged: {one_line(error)}") from None


@contextmanager
def _shard_file(folder: Folder, shard: Shard) -> Iterator[tuple[IO[bytes] | pa.MemoryMappedFile, int]]:
    """A shard's file and its size in bytes."""
    if folder.is_local:
        # profiles become views of the page cache, at three times the rate of reading
        with pa.memory_map(f"{folder.path}/{shard.path}") as file:
            yield file, file.size()
    else:
        with folder.open(shard.path, read_ahead=False) as stream:
            yield stream, stream.seek(0, io.SEEK_END)


def _require_listed(folder: Folder, shard: Shard, file: pq.ParquetFile, size: int) -> None:
    """Compare what a footer says with the manifest. Row ids come from the manifest, so both have to be of one build."""
    layout, metadata = file.metadata, file.schema_arrow.metadata or {}
    groups = [layout.row_group(number) for number in range(layout.num_row_groups)]
    content = metadata.get(b"content_sha256")
    compared = {
        "vocabulary_sha256": (shard.vocabulary_sha256, metadata.get(b"vocabulary_sha256", b"").decode()),
        "rows of its row groups": (shard.row_group_rows, tuple(group.num_rows for group in groups)),
        "content_sha256": (shard.content_sha256, content if content is None else content.decode()),
        "bytes": (shard.bytes, size),
    }
    statistics = groups[0].column(0).statistics if groups else None
    if statistics is not None and statistics.has_min_max:
        compared["first row id"] = (shard.first_row_id, statistics.min)
    for what, (expected, found) in compared.items():
        if expected != found:
            raise ReplacedShardError(
                f"{folder.uri}/{shard.path} is not the shard that the manifest names ({what} should be {expected} and "
                f"is {found}): the corpus was rebuilt after it was opened"
            )


def _unreadable(folder: Folder, shard: Shard, what: str) -> UserError:
    """The error for a shard that cannot be read; a rebuild removes and replaces shards as well."""
    where = f"{folder.uri}/{shard.path}"
    try:
        listed = parsed_manifest(folder, folder.read_bytes(MANIFEST_FILE)).shards
    except (FileNotFoundError, NotADirectoryError):
        return ReplacedShardError(f"{where} {what}: the corpus was removed or is being rebuilt, it has no manifest")
    if not any((entry.path, entry.sha256) == (shard.path, shard.sha256) for entry in listed):
        return ReplacedShardError(f"{where} {what}: the corpus was rebuilt after it was opened")
    return DamagedShardError(f"{where} {what}")


def _view(chunk: pa.FixedSizeBinaryArray, genes: int) -> np.ndarray:
    width = BYTES_PER_VALUE * genes
    assert chunk.type == pa.binary(width), f"{chunk.type} is not {genes} float16 values"
    assert chunk.null_count == 0
    view = np.frombuffer(chunk.buffers()[1], "<f2", count=len(chunk) * genes, offset=chunk.offset * width)
    return view.reshape(len(chunk), genes)
