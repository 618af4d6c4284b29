"""Matrix Market: the values that are not zero as lines of row, column and value, with the names in two other files.

Every pass reads the text anew and keeps the samples asked for, so memory does not grow with their number.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
from pydantic import Field

from dataprep.runtime.command_line import UserError
from dataprep.sources.registry import register_source
from dataprep.sources.source import RawProfiles, SampleList, Source
from dataprep.sources.text_columns import TextForm, text_errors
from dataprep.sources.text_files import decompressed, first_text, read_decompressed

_HEADER_BYTES = 64 * 1024
_BLOCK_BYTES = 16 * 1024 * 1024
_PART_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class _Size:
    rows: int
    columns: int
    values: int
    header_lines: int


@register_source
class MatrixMarketSource(Source):
    """A sparse matrix, as ``writeMM`` of R and ``mmwrite`` of SciPy write it."""

    format: Literal["matrix_market"] = "matrix_market"
    orientation: Literal["genes_x_samples", "samples_x_genes"] = Field(
        default="genes_x_samples", description="what the rows of the matrix are"
    )
    gene_names: str = Field(description="file with a line per gene, in the folder of the matrix")
    sample_names: str = Field(description="file with a line per sample, in the folder of the matrix")
    gene_column: int = Field(default=1, ge=1, description="the column of gene_names with the ids, counted from 1")

    def files_of(self, address: str) -> tuple[str, ...]:
        """The matrix and its names."""
        folder = address.rpartition("/")[0]
        return (address, f"{folder}/{self.sample_names}", f"{folder}/{self.gene_names}")

    def list_samples(self, address: str) -> SampleList:
        """The lines of ``sample_names``. Raises :class:`UserError` where there are not as many as in the matrix."""
        samples, genes = self._names(address)
        self._require_names(address, _size(address), samples, genes)
        return SampleList(samples)

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """In parts of some megabytes, each with a pass over the text. Raises :class:`UserError` for a matrix that is
        cut off, has values outside of its size, or is not of numbers."""
        samples, genes = self._names(address)
        size = _size(address)
        self._require_names(address, size, samples, genes)
        width = max(1, _PART_BYTES // (4 * len(genes)))
        for first in range(start, min(stop, len(samples)), width):
            last = min(first + width, stop, len(samples))
            yield RawProfiles(first, samples[first:last], genes, self._values(address, size, first, last))

    def _values(self, address: str, size: _Size, start: int, stop: int) -> np.ndarray:
        genes_first = self.orientation == "genes_x_samples"
        values = np.zeros((stop - start, size.rows if genes_first else size.columns), np.float32)
        found = 0
        for rows, columns, entries in _entries(address, size):
            outside = (rows < 0) | (rows >= size.rows) | (columns < 0) | (columns >= size.columns)
            if outside.any():
                raise UserError(f"{address}: {int(outside.sum()):,} values are outside of {size.rows} x {size.columns}")
            genes, samples = (rows, columns) if genes_first else (columns, rows)
            chosen = (samples >= start) & (samples < stop)
            np.add.at(values, (samples[chosen] - start, genes[chosen]), entries[chosen])
            found += len(rows)
        if found != size.values:
            raise UserError(f"{address} is cut off or damaged: {found:,} of {size.values:,} values are there")
        return values

    def _names(self, address: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        _, samples, genes = self.files_of(address)
        return _column(samples, 1, self.encoding), _column(genes, self.gene_column, self.encoding)

    def _require_names(self, address: str, size: _Size, samples: tuple[str, ...], genes: tuple[str, ...]) -> None:
        named = (len(genes), len(samples)) if self.orientation == "genes_x_samples" else (len(samples), len(genes))
        if named != (size.rows, size.columns):
            turned = " (setting orientation)" if named == (size.columns, size.rows) else ""
            raise UserError(
                f"{address} is {size.rows:,} x {size.columns:,}, with {len(genes):,} names in {self.gene_names} and "
                f"{len(samples):,} in {self.sample_names}{turned}"
            )


def _column(address: str, number: int, encoding: str) -> tuple[str, ...]:
    text = first_text(address, read_decompressed(address), encoding)
    lines = text.splitlines()
    rows = list(csv.reader(lines, delimiter="," if lines and "\t" not in lines[0] and "," in lines[0] else "\t"))
    short = [line for line, row in enumerate(rows, 1) if len(row) < number]
    if short:
        raise UserError(f"{address}: line {short[0]:,} has no column {number}")
    return tuple(row[number - 1].strip() for row in rows)


def _size(address: str) -> _Size:
    with decompressed(address) as stream, text_errors(address, TextForm()):
        lines = bytes(stream.read(_HEADER_BYTES)).decode("utf-8", errors="replace").splitlines()
    kind = lines[0].lower().split()
    if kind[:2] != ["%%matrixmarket", "matrix"]:
        raise UserError(f"{address} is no Matrix Market file: it begins with {lines[0][:40]!r}")
    if (
        len(kind) != 5
        or kind[2] != "coordinate"
        or kind[3] not in ("integer", "real", "double")
        or kind[4] != "general"
    ):
        raise UserError(f"{address}: a matrix that is {' '.join(kind[2:]) or 'nothing'}, not coordinate real general")
    number = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith("%")), None)
    sizes = lines[number].split() if number is not None else []
    if number is None or len(sizes) != 3 or not all(size.isascii() and size.isdigit() for size in sizes):
        raise UserError(f"{address}: no line says how many rows, columns and values it has")
    rows, columns, values = map(int, sizes)
    return _Size(rows, columns, values, number + 1)


def _entries(address: str, size: _Size) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows and columns, counted from 0, and values, block by block."""
    names = ["row", "column", "value"]
    types = {"row": pa.int64(), "column": pa.int64(), "value": pa.float64()}
    if not size.values:
        return
    with decompressed(address) as stream, text_errors(address, TextForm()):
        for batch in pa.csv.open_csv(
            stream,
            pa.csv.ReadOptions(
                use_threads=False, block_size=_BLOCK_BYTES, column_names=names, skip_rows=size.header_lines
            ),
            pa.csv.ParseOptions(delimiter=" "),
            pa.csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False),
        ):
            rows, columns, values = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
            yield rows - 1, columns - 1, values
