"""The corpus: normalised profiles in Parquet shards, in a folder or an object store.

    CORPUS/split=train/part-00000.parquet ...   split=validation/...   split=test/...
           samples.parquet  genes.parquet  rejected.parquet  manifest.json  [gene_graph.parquet]

A shard has two columns: ``row_id`` (int64) and ``expression`` (FixedSizeBinary: G little-endian float16, log1p of
TPM, NaN where the source does not measure the gene). Row ids are dense over the corpus and ascend without a gap inside
each shard and from shard to shard, so the row ids of any row group follow from the manifest alone. The expression
column is stored plain: bytes of a file are bytes of the matrix, and reading is a view (six times the rate of a list
column). The manifest is written last: a folder without one is no corpus.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from dataprep.command_line import Settings, UserError
from dataprep.gene_graph import GRAPH_FILE, GeneGraph
from dataprep.gene_vocabulary import GeneVocabulary
from dataprep.storage import Folder

FORMAT = "bulkformer-corpus"
FORMAT_VERSION = 1
UNIT = "log1p(TPM), natural logarithm"
SPLITS = ("train", "validation", "test")
Split = Literal["train", "validation", "test"]
MANIFEST_FILE = "manifest.json"
SAMPLES_FILE = "samples.parquet"
GENES_FILE = "genes.parquet"
REJECTED_FILE = "rejected.parquet"
BYTES_PER_VALUE = 2


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a corpus; ``path`` is relative to the corpus."""

    path: str
    split: str
    rows: int
    first_row_id: int
    bytes: int
    sha256: str
    row_group_rows: tuple[int, ...]

    def row_ids(self, row_group: int) -> range:
        """The row ids of a row group, without reading it."""
        first = self.first_row_id + sum(self.row_group_rows[:row_group])
        return range(first, first + self.row_group_rows[row_group])


class ShardEntry(Settings):
    """A shard as the manifest lists it."""

    path: str
    split: Split
    rows: int
    first_row_id: int
    bytes: int
    sha256: str

    def shard(self, rows_per_row_group: int) -> Shard:
        """With the row groups that the manifest's setting implies: all full but the last."""
        full, rest = divmod(self.rows, rows_per_row_group)
        groups = (rows_per_row_group,) * full + ((rest,) if rest else ())
        return Shard(**self.model_dump(), row_group_rows=groups)


class SampleCounts(Settings):
    """What became of the samples of all sources."""

    read: int
    kept: int
    rejected: dict[str, int]


class SourceSummary(Settings):
    """What was found in one source."""

    name: str
    samples: int
    kept: int
    genes: int
    unknown_genes: int
    merged_genes: int
    vocabulary_genes: int


class SplitSummary(Settings):
    """One split: its rows and the studies in it."""

    rows: int
    studies: list[str]


class Manifest(Settings):
    """``manifest.json``: all that is needed to read a corpus without listing it, and how it was made."""

    format: Literal["bulkformer-corpus"] = "bulkformer-corpus"
    format_version: Literal[1] = 1
    genes: int
    vocabulary_sha256: str
    unit: str = UNIT
    rows_per_row_group: int
    splits: dict[str, SplitSummary]
    shards: list[ShardEntry]
    tables_sha256: dict[str, str]
    samples: SampleCounts
    sources: list[SourceSummary]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Corpus:
    """An opened corpus: small and picklable; reads nothing but what it is asked for."""

    folder: Folder
    manifest: Manifest
    vocabulary: GeneVocabulary

    @property
    def genes(self) -> int:
        """G, the number of genes of every profile."""
        return self.manifest.genes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, and so of every shard it lists."""
        return hashlib.sha256(manifest_text(self.manifest).encode()).hexdigest()

    def shards(self, split: str) -> list[Shard]:
        """The shards of a split in order of their row ids."""
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}; splits: {', '.join(SPLITS)}", exit_code=2)
        rows_per_row_group = self.manifest.rows_per_row_group
        return [entry.shard(rows_per_row_group) for entry in self.manifest.shards if entry.split == split]

    def rows(self, split: str) -> int:
        """Number of profiles of a split."""
        return sum(shard.rows for shard in self.shards(split))

    def samples(self) -> pa.Table:
        """One row per profile in order of row_id: sample_id, study_id, split, row_id, source, and labels as given."""
        return read_table(self.folder, SAMPLES_FILE)

    def read_rejected(self) -> pa.Table:
        """Every refused sample: sample_id, source, reason, value."""
        return read_table(self.folder, REJECTED_FILE)

    def graph(self) -> GeneGraph:
        """The gene graph. Raises :class:`UserError` where `dataprep graph` has not been run."""
        if not self.folder.exists(GRAPH_FILE):
            raise UserError(
                f"{self.folder.uri} has no gene graph: run python -m dataprep graph --corpus {self.folder.uri}"
            )
        graph = GeneGraph.read(self.folder)
        graph.require_vocabulary(self.vocabulary)
        return graph


def open_corpus(folder: Folder | str) -> Corpus:
    """Open the corpus at ``folder``. Raises :class:`UserError` where there is none, or one of another format."""
    folder = folder if isinstance(folder, Folder) else Folder(folder)
    folder.require_reachable()
    try:
        text = folder.read_text(MANIFEST_FILE)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder.uri} is no corpus: it has no {MANIFEST_FILE}") from None
    manifest = _parsed_manifest(folder, text)
    vocabulary = GeneVocabulary.from_arrow(read_table(folder, GENES_FILE))
    if vocabulary.fingerprint != manifest.vocabulary_sha256:
        raise UserError(
            f"{folder.uri}/{GENES_FILE}: vocabulary {vocabulary.fingerprint[:12]} is not the one the manifest names, "
            f"{manifest.vocabulary_sha256[:12]}"
        )
    return Corpus(folder, manifest, vocabulary)


def manifest_text(manifest: Manifest) -> str:
    """The manifest as it is written."""
    return manifest.model_dump_json(indent=1) + "\n"


def read_table(folder: Folder, name: str) -> pa.Table:
    """A whole Parquet file. Raises :class:`UserError` where it is missing or damaged."""
    try:
        return pq.read_table(pa.BufferReader(folder.read_bytes(name)))
    except FileNotFoundError:
        raise UserError(f"{folder.uri}/{name} is missing") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{folder.uri}/{name} is damaged: {' '.join(str(error).split())}") from None


def table_bytes(table: pa.Table) -> bytes:
    """A metadata table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


# ---- shards ----------------------------------------------------------------------------------------------------------


def shard_schema(vocabulary: GeneVocabulary) -> pa.Schema:
    """The schema of a shard; its metadata makes the file explain itself."""
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
    table = pa.table(
        [pa.array(np.arange(first_row_id, first_row_id + rows)), encode_expression(expression)],
        schema=shard_schema(vocabulary),
    )
    sink = pa.BufferOutputStream()
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
    content = sink.getvalue().to_pybytes()
    folder.write_bytes(path, content)
    return ShardEntry(
        path=path,
        split=split,  # type: ignore[arg-type]
        rows=rows,
        first_row_id=first_row_id,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


class DamagedShardError(UserError):
    """A shard that is missing, or whose content is not what was written."""


def read_row_groups(corpus_folder: Folder, shard: Shard, row_groups: Sequence[int]) -> pa.Table:
    """Columns row_id and expression of some row groups of a shard, in the order given.

    Only the footer and these row groups are fetched. Raises :class:`DamagedShardError` naming the shard where it is
    missing or damaged; every page has a checksum of its own.
    """
    with _opened_shard(corpus_folder, shard) as file:
        return file.read_row_groups(list(row_groups), use_threads=False)


def read_split(corpus: Corpus, split: str, max_rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The first ``max_rows`` (default: all) profiles of a split as row ids int64 [N] and expression float16 [N, G].

    Everything is held in memory, 2 x G bytes per profile (40 kB with the default vocabulary): for evaluation and
    small corpora. Profiles were shuffled when the corpus was written, so the first rows are a random sample.
    """
    shards = corpus.shards(split)
    wanted = sum(shard.rows for shard in shards) if max_rows is None else max_rows
    rows = min(wanted, sum(shard.rows for shard in shards))
    row_ids, expression = np.empty(rows, np.int64), np.empty((rows, corpus.genes), np.float16)
    filled = 0
    for ids, values in iterate_row_groups(corpus, shards):
        take = min(len(ids), rows - filled)
        row_ids[filled : filled + take] = ids[:take]
        expression[filled : filled + take] = values[:take]
        filled += take
        if filled == rows:
            break
    return row_ids, expression


def iterate_row_groups(corpus: Corpus, shards: Sequence[Shard]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row ids int64 [n] and expression float16 [n, G] of one row group after the other."""
    for shard in shards:
        with _opened_shard(corpus.folder, shard) as file:
            for row_group in range(len(shard.row_group_rows)):
                table = file.read_row_group(row_group, use_threads=False)
                yield table.column("row_id").to_numpy(), decode_expression(table.column("expression"), corpus.genes)


# ---- verification ----------------------------------------------------------------------------------------------------


def verify(corpus: Corpus, shards: Sequence[Shard] | None = None) -> None:
    """Check shards (default: all) and tables against the manifest: checksum, rows, row ids, schema, vocabulary.

    Raises :class:`UserError` naming the file with what was expected and what was found. Reads every byte once.
    """
    verify_tables(corpus)
    if shards is None:
        shards = [shard for split in SPLITS for shard in corpus.shards(split)]
    for shard in shards:
        verify_shard(corpus, shard)


def verify_tables(corpus: Corpus) -> None:
    """Check the checksums of the metadata tables; see :func:`verify`."""
    for name, expected in corpus.manifest.tables_sha256.items():
        _require_equal(corpus, name, "checksum", expected, _sha256(corpus, name))


def verify_shard(corpus: Corpus, shard: Shard) -> None:
    """Check one shard; see :func:`verify`."""
    _require_equal(corpus, shard.path, "checksum", shard.sha256, _sha256(corpus, shard.path))
    with _opened_shard(corpus.folder, shard) as file:
        layout = file.metadata
        groups = tuple(layout.row_group(number).num_rows for number in range(layout.num_row_groups))
        row_ids = file.read(columns=["row_id"]).column("row_id").to_numpy()
        schema = file.schema_arrow
    expected = shard_schema(corpus.vocabulary)
    found: Mapping[bytes, bytes] = schema.metadata or {}
    _require_equal(corpus, shard.path, "rows", shard.rows, layout.num_rows)
    _require_equal(corpus, shard.path, "rows of its row groups", shard.row_group_rows, groups)
    for key, value in expected.metadata.items():
        _require_equal(corpus, shard.path, key.decode(), value.decode(), found.get(key, b"nothing").decode())
    _require_equal(corpus, shard.path, "columns", expected.remove_metadata(), schema.remove_metadata())
    if not np.array_equal(row_ids, np.arange(shard.first_row_id, shard.first_row_id + shard.rows)):
        raise UserError(f"{corpus.folder.uri}/{shard.path}: row ids are not consecutive from {shard.first_row_id}")


def _require_equal(corpus: Corpus, name: str, what: str, expected: object, found: object) -> None:
    if expected != found:
        raise UserError(f"{corpus.folder.uri}/{name}: {what} should be {expected} and is {found}")


def _sha256(corpus: Corpus, name: str) -> str:
    try:
        return corpus.folder.sha256(name)
    except FileNotFoundError:
        raise UserError(f"{corpus.folder.uri}/{name} is missing") from None


@contextmanager
def _opened_shard(folder: Folder, shard: Shard) -> Iterator[pq.ParquetFile]:
    try:
        with _shard_file(folder, shard) as file:
            yield pq.ParquetFile(file, pre_buffer=not folder.is_local, page_checksum_verification=True)
    except FileNotFoundError:
        raise DamagedShardError(f"{folder.uri}/{shard.path} is missing") from None
    except (pa.ArrowInvalid, io.UnsupportedOperation) as error:
        raise DamagedShardError(f"{folder.uri}/{shard.path} is damaged: {' '.join(str(error).split())}") from None
    except OSError as error:
        # Arrow's Thrift and page errors; those of a disk or a store have a number or another class
        if type(error) is not OSError or error.errno is not None or error.__cause__ is not None:
            raise
        raise DamagedShardError(f"{folder.uri}/{shard.path} is damaged: {' '.join(str(error).split())}") from None


@contextmanager
def _shard_file(folder: Folder, shard: Shard) -> Iterator[IO[bytes] | pa.MemoryMappedFile]:
    if folder.is_local:
        # profiles become views of the page cache, at three times the rate of reading
        with pa.memory_map(f"{folder.path}/{shard.path}") as file:
            yield file
    else:
        with folder.open(shard.path, read_ahead=False) as stream:
            yield stream


def _parsed_manifest(folder: Folder, text: str) -> Manifest:
    where = f"{folder.uri}/{MANIFEST_FILE}"
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{where} is not the manifest of a corpus")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{where}: format version {content.get('format_version')}; this is for {FORMAT_VERSION}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _view(chunk: pa.FixedSizeBinaryArray, genes: int) -> np.ndarray:
    width = BYTES_PER_VALUE * genes
    assert chunk.type == pa.binary(width), f"{chunk.type} is not {genes} float16 values"
    assert chunk.null_count == 0
    view = np.frombuffer(chunk.buffers()[1], "<f2", count=len(chunk) * genes, offset=chunk.offset * width)
    return view.reshape(len(chunk), genes)
