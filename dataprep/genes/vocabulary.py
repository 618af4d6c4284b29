"""The genes of a corpus, in column order, and what is known of every human gene.

The packaged table holds all genes of GENCODE v44 (made by ``python -m dataprep.genes.make_vocabulary``); the default
vocabulary is the part of it flagged ``in_vocabulary``. Whoever has another list passes it as a file.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder, split_file_address

# A gene whose length nobody states counts as 1,000 bp, as in the published corpus.
UNKNOWN_LENGTH_BP = 1000.0
PACKAGED_TABLE = "gene_vocabulary.csv.gz"

_ID_COLUMNS = ("ensembl_id", "ensg_id", "canonical_ensg")
_SYMBOL_COLUMNS = ("symbol", "gene_symbol")
_LENGTH_COLUMNS = ("length_bp", "gene_length", "gene_length_bp", "length")


@dataclass(frozen=True, eq=False)
class GeneVocabulary:
    """G genes in column order.

    ``ensembl_ids`` are without version and unique; ``symbols`` may be empty strings; ``lengths_bp`` is float64 [G].
    """

    ensembl_ids: tuple[str, ...]
    symbols: tuple[str, ...]
    lengths_bp: np.ndarray

    def __post_init__(self) -> None:
        assert len(self.ensembl_ids) == len(self.symbols) == len(self.lengths_bp)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GeneVocabulary):
            return NotImplemented
        return (self.ensembl_ids, self.symbols) == (other.ensembl_ids, other.symbols) and np.array_equal(
            self.lengths_bp, other.lengths_bp
        )

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def size(self) -> int:
        """G."""
        return len(self.ensembl_ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the Ensembl ids in order, joined by newlines: what models and corpora compare."""
        return hashlib.sha256("\n".join(self.ensembl_ids).encode()).hexdigest()

    @cached_property
    def column_of(self) -> Mapping[str, int]:
        """Column number by Ensembl id."""
        return {gene: column for column, gene in enumerate(self.ensembl_ids)}

    @cached_property
    def shared_symbols(self) -> frozenset[str]:
        """Symbols that several genes have: they identify none."""
        times = Counter(self.symbols)
        return frozenset(symbol for symbol, count in times.items() if symbol and count > 1)

    @cached_property
    def gene_of_symbol(self) -> Mapping[str, str]:
        """Ensembl id by symbol, without empty and shared symbols."""
        pairs = zip(self.symbols, self.ensembl_ids, strict=True)
        return {symbol: gene for symbol, gene in pairs if symbol and symbol not in self.shared_symbols}

    @cached_property
    def column_of_symbol(self) -> Mapping[str, int]:
        """Column number by symbol, without empty and shared symbols."""
        return {symbol: self.column_of[gene] for symbol, gene in self.gene_of_symbol.items()}

    def to_arrow(self) -> pa.Table:
        """Columns ensembl_id, symbol, length_bp; one row per gene."""
        return pa.table(
            {
                "ensembl_id": pa.array(self.ensembl_ids, pa.string()),
                "symbol": pa.array(self.symbols, pa.string()),
                "length_bp": pa.array(self.lengths_bp, pa.float64()),
            }
        )

    @classmethod
    def from_arrow(cls, table: pa.Table) -> GeneVocabulary:
        """The inverse of :meth:`to_arrow`. Raises KeyError or pa.ArrowException for other tables."""
        ids, symbols, lengths = (
            _filled(table, name, kind)
            for name, kind in (("ensembl_id", pa.string()), ("symbol", pa.string()), ("length_bp", pa.float64()))
        )
        made = cls(tuple(ids.to_pylist()), tuple(symbols.to_pylist()), lengths.to_numpy())
        wrong = made.lengths_bp[~_are_lengths(made.lengths_bp)]
        if len(wrong):
            raise pa.ArrowInvalid(f"column length_bp has {len(wrong):,} that are no lengths, e.g. {wrong[0]:g}")
        if len(made.column_of) < made.size:
            raise pa.ArrowInvalid(f"column ensembl_id names {made.size - len(made.column_of):,} genes twice")
        return made


@dataclass(frozen=True)
class GeneReference:
    """Every gene of GENCODE, protein-coding or not: lengths for the TPM denominator, and ids of symbols."""

    length_bp_of: Mapping[str, float]
    symbol_of: Mapping[str, str]
    ensembl_id_of: Mapping[str, str]


@cache
def default_vocabulary() -> GeneVocabulary:
    """The 20,024 protein-coding genes of GENCODE v44 up to ENSG00000290149, in ascending order."""
    chosen = [row for row in _packaged_rows() if row["in_vocabulary"] == "1"]
    return GeneVocabulary(
        ensembl_ids=tuple(row["ensembl_id"] for row in chosen),
        symbols=tuple(row["symbol"] for row in chosen),
        lengths_bp=np.array([float(row["length_bp"]) for row in chosen]),
    )


@cache
def gene_reference() -> GeneReference:
    """All packaged genes. A symbol shared by several genes means the protein-coding one, else the first."""
    rows = _packaged_rows()
    ensembl_id_of: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row["in_vocabulary"] != "1"):
        if row["symbol"]:
            ensembl_id_of.setdefault(row["symbol"], row["ensembl_id"])
    return GeneReference(
        length_bp_of={row["ensembl_id"]: float(row["length_bp"]) for row in rows},
        symbol_of={row["ensembl_id"]: row["symbol"] for row in rows},
        ensembl_id_of=ensembl_id_of,
    )


def read_vocabulary(address: str) -> GeneVocabulary:
    """A vocabulary from a CSV (also gzip) or Parquet file, local or ``s3://``.

    The id column is ``ensembl_id`` or, as in the published lists, ``ensg_id`` or ``canonical_ensg``; symbols
    (``symbol``, ``gene_symbol``) and lengths (``length_bp``, ``gene_length``, ``gene_length_bp``) are taken from the
    file where it has them, else from GENCODE.
    Raises :class:`UserError` for a file without ids, with duplicate ids, or with lengths that are not positive.
    """
    table = _read_table(address)
    id_column = _first_of(table, _ID_COLUMNS)
    if id_column is None:
        raise UserError(f"{address}: no column {' or '.join(_ID_COLUMNS)}; it has {', '.join(table.column_names)}")
    given = table.column(id_column).cast(pa.string()).to_pylist()
    ids = tuple(str(gene).strip().partition(".")[0] for gene in given if gene)
    if len(ids) != len(given) or not ids:
        raise UserError(f"{address}: {len(given) - len(ids)} of {len(given)} rows have no gene id")
    _require_unique(address, ids)
    reference = gene_reference()
    symbol_column, length_column = _first_of(table, _SYMBOL_COLUMNS), _first_of(table, _LENGTH_COLUMNS)
    symbols = table.column(symbol_column).cast(pa.string()).to_pylist() if symbol_column else [None] * len(ids)
    lengths = _lengths(address, table, length_column) if length_column else [None] * len(ids)
    return GeneVocabulary(
        ensembl_ids=ids,
        symbols=tuple(s or reference.symbol_of.get(g, "") for s, g in zip(symbols, ids, strict=True)),
        lengths_bp=np.array(
            [b or reference.length_bp_of.get(g, UNKNOWN_LENGTH_BP) for b, g in zip(lengths, ids, strict=True)]
        ),
    )


def read_aliases(address: str) -> dict[str, str]:
    """Ensembl ids by name, from a CSV file (also gzip) with columns name and ensembl_id, as
    ``python -m dataprep.genes.make_aliases`` writes it. Raises :class:`UserError` where a column is missing."""
    table = _read_table(address)
    absent = [column for column in ("name", "ensembl_id") if column not in table.column_names]
    if absent:
        raise UserError(f"{address}: no column {' and '.join(absent)}; it has {', '.join(table.column_names)}")
    names, genes = (table.column(column).cast(pa.string()).to_pylist() for column in ("name", "ensembl_id"))
    return dict(zip(names, genes, strict=True))


def _packaged_rows() -> list[dict[str, str]]:
    packed = (resources.files("dataprep.genes") / PACKAGED_TABLE).read_bytes()
    return list(csv.DictReader(io.StringIO(gzip.decompress(packed).decode())))


def _read_table(address: str) -> pa.Table:
    folder_address, name = split_file_address(address)
    try:
        content = Folder(folder_address).read_bytes(name)
    except FileNotFoundError:
        raise UserError(f"no such gene list: {address}", exit_code=2) from None
    try:
        if content.startswith(b"PAR1"):
            return pq.read_table(pa.BufferReader(content))
        plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        table = pa.csv.read_csv(pa.BufferReader(plain))
        unread = [name for name in table.column_names if pa.types.is_binary(table.schema.field(name).type)]
    except (pa.ArrowInvalid, gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{address} cannot be read as a table: {one_line(error)}") from None
    if unread:
        raise UserError(f"{address} is not text in UTF-8: column {unread[0]}")
    return table


def _filled(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    column = table.column(name).cast(kind)
    if column.null_count:
        raise pa.ArrowInvalid(f"column {name} has {column.null_count:,} rows without a value")
    return column


def _first_of(table: pa.Table, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in table.column_names), None)


def _lengths(address: str, table: pa.Table, column: str) -> list[float | None]:
    try:
        lengths: list[float | None] = table.column(column).cast(pa.float64()).to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"{address}: column {column} is not numeric: {error}") from None
    wrong = [length for length in lengths if length is not None and not _are_lengths(np.float64(length))]
    if wrong:
        raise UserError(f"{address}: {len(wrong)} gene lengths are not positive, e.g. {wrong[0]}")
    return lengths


def _are_lengths(lengths_bp: np.ndarray | np.float64) -> np.ndarray:
    return np.isfinite(lengths_bp) & (lengths_bp > 0)


def _require_unique(address: str, ids: tuple[str, ...]) -> None:
    seen: set[str] = set()
    repeated = [gene for gene in ids if gene in seen or seen.add(gene)]  # type: ignore[func-returns-value]
    if repeated:
        raise UserError(f"{address}: {len(repeated)} duplicate gene ids, e.g. {', '.join(repeated[:3])}")
