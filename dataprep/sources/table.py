"""Delimited tables, plain or gzip: genes x samples or samples x genes.

A table of genes x samples is read some sample columns at a time: every pass reads the text anew and keeps only its
columns, so memory does not grow with the number of samples. A table of samples x genes is streamed in one pass.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
from pydantic import Field, model_validator

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.sources.registry import register_source
from dataprep.sources.source import RawProfiles, SampleList, Source

_BLOCK_BYTES = 16 * 1024 * 1024
_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"]


@register_source
class TableSource(Source):
    """Delimited text, one row per gene or one row per sample."""

    format: Literal["table"] = "table"
    orientation: Literal["genes_x_samples", "samples_x_genes"] = Field(
        default="genes_x_samples", description="what the rows of a table are"
    )
    drop_columns: list[str] = Field(default_factory=list, description="columns that are not samples")
    delimiter: str | None = Field(default=None, min_length=1, max_length=1, description="default: by file suffix")

    @model_validator(mode="after")
    def _study_column_is_somewhere(self) -> TableSource:
        if self.study_column is not None and self.samples is None:
            raise ValueError("study_column is a column of the samples table, which is not given")
        return self

    def list_samples(self, address: str) -> SampleList:
        """Read the header, or the first column of samples x genes."""
        layout = _layout(address, self)
        if self.orientation == "genes_x_samples":
            return SampleList(layout.kept_names)
        return SampleList(tuple(_read(address, layout, ()).column(0).to_pylist()))

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Raises :class:`UserError` naming the column for text that is no number, and for a file that is cut off or not
        rectangular."""
        layout = _layout(address, self)
        if self.orientation == "genes_x_samples":
            yield _read_columns(address, layout, start, stop)
        else:
            yield from _read_rows(address, layout, start, stop)


@dataclass(frozen=True)
class _Layout:
    """The header: names of all columns, the first being that of the row names, and which of them to read."""

    delimiter: str
    columns: tuple[str, ...]
    kept: tuple[int, ...]

    @property
    def kept_names(self) -> tuple[str, ...]:
        return tuple(self.columns[column] for column in self.kept)


def _read_columns(address: str, layout: _Layout, start: int, stop: int) -> RawProfiles:
    chosen = layout.kept[start:stop]
    table = _read(address, layout, chosen)
    if not table.num_rows:
        raise UserError(f"{address} has a header but no genes")
    values = np.empty((len(chosen), table.num_rows), np.float32)
    for row, column in enumerate(table.columns[1:]):
        values[row] = _numbers(column)
    names = tuple(layout.columns[column] for column in chosen)
    return RawProfiles(start, names, tuple(table.column(0).to_pylist()), values)


def _read_rows(address: str, layout: _Layout, start: int, stop: int) -> Iterator[RawProfiles]:
    first = 0
    with _text(address) as stream, _arrow_errors(address, layout):
        for batch in pa.csv.open_csv(stream, *_options(layout, layout.kept)):
            rows = batch.slice(max(0, start - first), max(0, min(stop, first + len(batch)) - max(start, first)))
            if len(rows):
                values = np.stack([_numbers(column) for column in rows.columns[1:]], axis=1)
                samples = tuple(rows.column(0).to_pylist())
                yield RawProfiles(max(start, first), samples, layout.kept_names, values)
            first += len(batch)


def _numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()


def _read(address: str, layout: _Layout, columns: tuple[int, ...]) -> pa.Table:
    with _text(address) as stream, _arrow_errors(address, layout):
        return pa.csv.read_csv(stream, *_options(layout, columns))


def _options(
    layout: _Layout, columns: tuple[int, ...]
) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions, pa.csv.ConvertOptions]:
    """Row names and some columns. Columns go by number: names may be empty or missing in the header."""
    numbered = [str(column) for column in range(len(layout.columns))]
    chosen = ["0", *map(str, columns)]
    return (
        pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES, column_names=numbered, skip_rows=1),
        pa.csv.ParseOptions(delimiter=layout.delimiter),
        pa.csv.ConvertOptions(
            include_columns=chosen,
            column_types={name: pa.string() if name == "0" else pa.float32() for name in chosen},
            null_values=_MISSING,
            strings_can_be_null=False,
        ),
    )


def _layout(address: str, source: TableSource) -> _Layout:
    delimiter = source.delimiter or _delimiter_of(address)
    header, first_row = _first_lines(address)
    columns = _fields(header, delimiter)
    if len(_fields(first_row, delimiter)) == len(columns) + 1:
        # R's write.table names the columns but not the row names
        columns = ("", *columns)
    if len(columns) < 2:
        raise UserError(f"{address}: no columns in its first line, if {delimiter!r} divides them (setting delimiter)")
    absent = sorted(set(source.drop_columns) - set(columns[1:]))
    if absent:
        raise UserError(f"{address} has no column {', '.join(map(repr, absent))} to drop")
    kept = (number for number, name in enumerate(columns) if number and name not in source.drop_columns)
    return _Layout(delimiter, columns, tuple(kept))


def _delimiter_of(address: str) -> str:
    return "," if address.removesuffix(".gz").endswith(".csv") else "\t"


def _fields(line: str, delimiter: str) -> tuple[str, ...]:
    return tuple(next(csv.reader([line], delimiter=delimiter), ()))


def _first_lines(address: str) -> tuple[str, str]:
    with _text(address) as stream:
        text = b""
        while text.count(b"\n") < 2 and (piece := _read_piece(address, stream)):
            text += piece
    if not text.strip():
        raise UserError(f"{address} is empty")
    try:
        lines = text.decode().splitlines()
    except UnicodeDecodeError:
        # a multi-byte character may be cut at the end of the piece; a binary file has them everywhere
        lines = text.decode(errors="replace").splitlines()
    return lines[0].removeprefix("\ufeff"), lines[1] if len(lines) > 1 else ""


def _read_piece(address: str, stream: pa.NativeFile | IO[bytes]) -> bytes:
    with _arrow_errors(address, None):
        piece: bytes = stream.read(1024 * 1024)
        return piece


@contextmanager
def _text(address: str) -> Iterator[pa.NativeFile]:
    """The decompressed bytes of a file."""
    folder, name = split_file_address(address)
    try:
        opened = Folder(folder).open(name)
        with opened as stream:
            file = pa.PythonFile(stream, "r")
            if not name.endswith(".gz"):
                yield file
            elif not stream.read(1):
                raise UserError(f"{address} is empty")
            else:
                stream.seek(0)
                yield pa.CompressedInputStream(file, "gzip")
    except FileNotFoundError:
        raise UserError(f"no such file: {address}") from None


@contextmanager
def _arrow_errors(address: str, layout: _Layout | None) -> Iterator[None]:
    """Arrow's messages in the words of the file's header."""
    try:
        yield
    except (pa.ArrowInvalid, OSError, zlib.error) as error:
        message = " ".join(str(error).split())
        if "Truncated" in message or "zlib" in message:
            raise UserError(f"{address} is cut off or damaged: {message}") from None
        column = re.match(r"In CSV column #(\d+): .*invalid value '(.*)'", message)
        if column and layout:
            name = layout.columns[int(column[1])]
            raise UserError(f"{address}: column {name!r} holds text, not numbers, e.g. {column[2]!r}") from None
        raise UserError(f"{address} is not a rectangular table: {message}") from None
