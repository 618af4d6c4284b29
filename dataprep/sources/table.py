"""Delimited tables, plain or compressed: genes x samples or samples x genes.

A table of genes x samples is read some sample columns at a time: every pass reads the text anew and keeps only its
columns, so memory does not grow with the number of samples. A table of samples x genes is streamed in one pass.
"""

from __future__ import annotations

import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
from pydantic import Field, model_validator

from dataprep.runtime.command_line import UserError, refuse_without_effect
from dataprep.sources.registry import register_source
from dataprep.sources.source import RawProfiles, SampleList, Source
from dataprep.sources.table_layout import MISSING, TableLayout, decimal_hint, find_layout
from dataprep.sources.text_files import decompressed, delimiter_of, first_text

_BLOCK_BYTES = 16 * 1024 * 1024
# What is looked at to find the columns; two lines at the least.
_FIRST_BYTES = 1024 * 1024
_MOST_FIRST_BYTES = 128 * 1024 * 1024
# Arrow's and zlib's words for compressed data that end early or do not unpack
_DAMAGED = re.compile("truncated|zlib|bz2|zstd|lz4", re.IGNORECASE)


@register_source
class TableSource(Source):
    """Delimited text, one row per gene or one row per sample."""

    format: Literal["table"] = "table"
    orientation: Literal["genes_x_samples", "samples_x_genes"] = Field(
        default="genes_x_samples", description="what the rows of a table are"
    )
    drop_columns: list[str] = Field(default_factory=list, description="columns that are not samples")
    drop_annotation: bool = Field(
        default=True,
        description="leave out columns of text and those known as annotation (Length, Chr, ...)",
    )
    value_column: str | None = Field(
        default=None, description="the column with the values, where each file is one sample (see sample_from)"
    )
    decimal: Literal[".", ","] = Field(default=".", description="decimal mark")
    delimiter: str | None = Field(default=None, min_length=1, max_length=1, description="default: by file suffix")

    @model_validator(mode="after")
    def _study_column_is_somewhere(self) -> TableSource:
        if self.study_column is not None and self.samples is None:
            raise ValueError("study_column is a column of the samples table, which is not given")
        if self.value_column is not None and self.orientation == "samples_x_genes":
            raise ValueError("value_column is for genes_x_samples")
        if self.delimiter is not None and not self.delimiter.isascii():
            raise ValueError(f"delimiter: {self.delimiter!r} is not an ASCII character")
        if self.samples is None:
            refuse_without_effect(self, ("missing_labels",), "without a samples table")
        if self.orientation == "samples_x_genes":
            refuse_without_effect(self, ("drop_annotation",), "with samples_x_genes, of which all columns are genes")
        if self.value_column is not None:
            refuse_without_effect(self, ("drop_columns", "drop_annotation"), "with value_column, the only one read")
        return self

    def list_samples(self, address: str) -> SampleList:
        """Read the header, or the first column of samples x genes."""
        layout = _layout(address, self)
        if self.orientation == "genes_x_samples":
            return SampleList(layout.kept_names, layout.ignored)
        return SampleList(_stripped(_read(address, self, layout, ()).column(0)))

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Raises :class:`UserError` naming the column for text that is not a number, for a file that is cut off or not
        rectangular."""
        layout = _layout(address, self)
        if self.orientation == "genes_x_samples":
            yield _read_columns(address, self, layout, start, stop)
        else:
            yield from _read_rows(address, self, layout, start, stop)


def _read_columns(address: str, source: TableSource, layout: TableLayout, start: int, stop: int) -> RawProfiles:
    chosen = layout.kept[start:stop]
    table = _read(address, source, layout, chosen)
    if not table.num_rows:
        raise UserError(f"{address} has a header but no genes")
    values = np.empty((len(chosen), table.num_rows), np.float32)
    for row, column in enumerate(table.columns[1:]):
        values[row] = _numbers(column)
    names = tuple(layout.columns[column] for column in chosen)
    return RawProfiles(start, names, _stripped(table.column(0)), values)


def _read_rows(address: str, source: TableSource, layout: TableLayout, start: int, stop: int) -> Iterator[RawProfiles]:
    first = 0
    with decompressed(address) as stream, _arrow_errors(address, source, layout):
        for batch in pa.csv.open_csv(stream, *_options(source, layout, layout.kept)):
            rows = batch.slice(max(0, start - first), max(0, min(stop, first + len(batch)) - max(start, first)))
            if len(rows):
                values = np.stack([_numbers(column) for column in rows.columns[1:]], axis=1)
                yield RawProfiles(max(start, first), _stripped(rows.column(0)), layout.kept_names, values)
            first += len(batch)


def _numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()


def _stripped(column: pa.Array | pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(name.strip() for name in column.to_pylist())


def _read(address: str, source: TableSource, layout: TableLayout, columns: tuple[int, ...]) -> pa.Table:
    with decompressed(address) as stream, _arrow_errors(address, source, layout):
        return pa.csv.read_csv(stream, *_options(source, layout, columns))


def _options(
    source: TableSource, layout: TableLayout, columns: tuple[int, ...]
) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions, pa.csv.ConvertOptions]:
    """Row names and some columns. Columns go by number: names may be empty or missing in the header."""
    numbered = [str(column) for column in range(len(layout.columns))]
    chosen = ["0", *map(str, columns)]
    return (
        pa.csv.ReadOptions(
            use_threads=False,
            block_size=_BLOCK_BYTES,
            column_names=numbered,
            skip_rows=layout.header_lines,
            encoding=source.encoding,
        ),
        pa.csv.ParseOptions(delimiter=layout.delimiter),
        pa.csv.ConvertOptions(
            include_columns=chosen,
            column_types={name: pa.string() if name == "0" else pa.float32() for name in chosen},
            null_values=MISSING,
            strings_can_be_null=False,
            decimal_point=source.decimal,
        ),
    )


def _layout(address: str, source: TableSource) -> TableLayout:
    return find_layout(
        address,
        _first_lines(address, source),
        source.delimiter or delimiter_of(address),
        source.drop_columns,
        source.value_column,
        source.drop_annotation and source.orientation == "genes_x_samples",
        source.decimal,
    )


def _first_lines(address: str, source: TableSource) -> list[str]:
    """The first lines of a file, the last of them whole, at least two where the file has them."""
    content, text, ended = b"", "", False
    with decompressed(address) as stream, _arrow_errors(address, source, None):
        while text.count("\n") < 3 and not ended:
            if len(content) > _MOST_FIRST_BYTES:
                raise UserError(f"{address} is no table: its first lines have more than {_MOST_FIRST_BYTES:,} bytes")
            # twice as much each time, since the text is then looked at anew
            piece: bytes = stream.read(max(_FIRST_BYTES, len(content)))
            content, ended = content + piece, not piece
            text = first_text(address, content, source.encoding)
    if not text.strip():
        raise UserError(f"{address} is empty")
    # where Arrow divides lines; splitlines also does at characters that may be in a name
    lines = re.split("\r\n|\r|\n", text)
    return lines if ended and lines[-1] else lines[:-1]


@contextmanager
def _arrow_errors(address: str, source: TableSource, layout: TableLayout | None) -> Iterator[None]:
    """Arrow's messages in the words of the file's header."""
    try:
        yield
    except (pa.ArrowInvalid, OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError) as error:
        message = " ".join(str(error).split())
        if isinstance(error, (EOFError, lzma.LZMAError)) or re.search(
            "Truncated|truncated|zlib|bz2|zstd|ZSTD|lz4|LZ4", message
        ):
            raise UserError(f"{address} is cut off or damaged: {message}") from None
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in message:
            raise UserError(f"{address} is not {source.encoding}: {message} (setting encoding, e.g. latin-1)") from None
        column = re.match(r"In CSV column #(\d+): .*invalid value '(.*)'", message)
        if column and layout:
            name, text = layout.columns[int(column[1])], column[2]
            hint = decimal_hint(text, source.decimal)
            raise UserError(f"{address}: column {name!r} holds text, not numbers, e.g. {text!r}{hint}") from None
        raise UserError(f"{address} is not a rectangular table: {message}") from None
