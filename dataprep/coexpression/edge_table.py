"""Edges from a table of pairs of genes, such as protein interactions or shared annotations."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.coexpression.edges import Edges
from dataprep.genes.identifiers import map_genes
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.terminal import log
from dataprep.sources.text_files import decompressed, delimiter_of

_GENES = ("gene1", "gene2")
_WEIGHT = "weight"


def table_edges(address: str, vocabulary: GeneVocabulary) -> Edges:
    """Each pair of a table in both directions, once, with the largest of its weights.

    The table is text (tab, or comma for .csv; plain or compressed) or Parquet, with columns gene1 and gene2, symbols or
    Ensembl ids, and perhaps weight, a positive number; without it all weigh 1. Pairs with a gene outside the vocabulary
    and genes paired with themselves are left out. Raises :class:`UserError` for what is no such table.
    """
    table = _read(address)
    absent = [name for name in _GENES if name not in table]
    if absent:
        raise UserError(
            f"{address} has no column {' and '.join(absent)}, but {', '.join(map(str, table.columns[:5]))}; edges are "
            f"in columns gene1, gene2 and perhaps weight"
        )
    column_1, column_2 = _columns(address, table, vocabulary)
    weight = _weights(address, table)
    known = (column_1 >= 0) & (column_2 >= 0)
    kept = known & (column_1 != column_2)
    if not kept.any():
        raise UserError(f"{address}: none of its {len(table):,} pairs is of two different genes of the vocabulary")
    log(
        f"{address}: {int(kept.sum()):,} of {len(table):,} pairs; {int((~known).sum()):,} have a gene outside the "
        f"vocabulary, {int((known & ~kept).sum()):,} are of one gene"
    )
    return Edges.of(column_1[kept], column_2[kept], weight[kept]).both_ways()


def sha256_of(address: str) -> str:
    """Checksum of the decompressed table."""
    digest = hashlib.sha256()
    with decompressed(address) as stream:
        while piece := stream.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def _read(address: str) -> pd.DataFrame:
    try:
        with decompressed(address) as stream:
            if address.lower().endswith((".parquet", ".pq")):
                return pq.read_table(pa.BufferReader(stream.read())).to_pandas()
            types: Any = dict.fromkeys(_GENES, str)
            return pd.read_csv(stream, sep=delimiter_of(address), dtype=types, keep_default_na=False)
    except UserError:
        raise
    # pandas' errors and UnicodeDecodeError are ValueErrors
    except (ValueError, pa.ArrowException, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{address} cannot be read as a table: {one_line(error)}") from None


def _columns(address: str, table: pd.DataFrame, vocabulary: GeneVocabulary) -> tuple[np.ndarray, np.ndarray]:
    """The vocabulary's columns of both genes, -1 outside of it, int64 [E] each."""
    names = pd.concat([table[name].astype(str).str.strip() for name in _GENES], ignore_index=True)
    number, distinct = pd.factorize(names)
    found = map_genes(address, list(distinct), "mixed", vocabulary).columns[number]
    return found[: len(table)], found[len(table) :]


def _weights(address: str, table: pd.DataFrame) -> np.ndarray:
    if _WEIGHT not in table:
        return np.ones(len(table))
    weight = pd.to_numeric(table[_WEIGHT], errors="coerce").to_numpy(np.float64)
    wrong = ~(np.isfinite(weight) & (weight > 0))
    if wrong.any():
        example = table[_WEIGHT].iloc[int(np.flatnonzero(wrong)[0])]
        raise UserError(f"{address}: {int(wrong.sum()):,} weights are no positive numbers, e.g. {str(example)!r}")
    return weight
