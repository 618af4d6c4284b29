"""Parquet and Feather (Arrow) files that hold a matrix: genes x samples, or samples x genes.

Of genes x samples only the columns asked for are read; samples x genes is read some rows at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from dataprep.runtime.command_line import UserError, one_line, refuse_without_effect
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.sources.registry import register_source
from dataprep.sources.source import RawProfiles, SampleList, Source
from dataprep.sources.table_layout import is_annotation_name

_ROWS_AT_ONCE = 256


class ColumnarSource(Source):
    """A matrix in columns that have types."""

    orientation: Literal["genes_x_samples", "samples_x_genes"] = Field(
        default="genes_x_samples", description="what the rows are"
    )
    names_column: str | None = Field(
        default=None,
        description="the column with the names of the rows; default: the index that pandas kept, or the first of text",
    )
    drop_columns: list[str] = Field(default_factory=list, description="columns that are not samples, or not genes")

    @model_validator(mode="after")
    def _read_as_text_by_nobody(self) -> ColumnarSource:
        if self.samples is None:
            refuse_without_effect(self, ("encoding",), "without a samples table: the file itself has none")
        return self

    def list_samples(self, address: str) -> SampleList:
        """Names of columns, or the column of names. Raises :class:`UserError` where there are none."""
        with self._opened(address) as file:
            names, values, ignored = self._columns(address, file)
            if self.orientation == "genes_x_samples":
                return SampleList(tuple(values), tuple(ignored))
            table = pa.Table.from_batches(list(file.batches([names])), pa.schema([file.schema.field(names)]))
            return SampleList(_as_names(table.column(0)))

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Raises :class:`UserError` for a file that is damaged, or values that are no numbers."""
        with self._opened(address) as file:
            names, columns, _ = self._columns(address, file)
            if self.orientation == "genes_x_samples":
                chosen = columns[start:stop]
                parts = list(file.batches([names, *chosen]))
                if not parts:
                    raise UserError(f"{address} has no rows")
                values = np.concatenate([_values(part, chosen) for part in parts])
                genes = tuple(name for part in parts for name in _as_names(part.column(names)))
                yield RawProfiles(start, tuple(chosen), genes, np.ascontiguousarray(values.T))
                return
            first = 0
            for part in file.batches([names, *columns]):
                rows = part.slice(max(0, start - first), max(0, min(stop, first + len(part)) - max(start, first)))
                if len(rows):
                    samples = _as_names(rows.column(names))
                    yield RawProfiles(max(start, first), samples, tuple(columns), _values(rows, columns))
                first += len(part)

    def _columns(self, address: str, file: _ColumnFile) -> tuple[str, list[str], list[str]]:
        """The column of names, those of values, and those taken for annotation."""
        everything = file.schema.names
        repeated = (
            sorted({name for name in everything if everything.count(name) > 1})
            if len(set(everything)) < len(everything)
            else []
        )
        if repeated:
            raise UserError(f"{address}: {len(repeated):,} columns have one name, e.g. {repeated[0]!r}")
        names = self._names_column(address, file.schema)
        absent = sorted(set(self.drop_columns) - set(everything))
        if absent:
            raise UserError(f"{address} has no column {', '.join(map(repr, absent))} to drop")
        candidates = [name for name in everything if name not in (names, *self.drop_columns)]
        values = [name for name in candidates if _is_number(file.schema.field(name).type)]
        if self.orientation == "genes_x_samples":
            values = [name for name in values if not is_annotation_name(name)]
        if not values:
            raise UserError(f"{address}: no column holds numbers; it has {', '.join(map(repr, everything[:5]))}")
        kept = set(values)
        return names, values, [name for name in candidates if name not in kept]

    def _names_column(self, address: str, schema: pa.Schema) -> str:
        if self.names_column is not None:
            if self.names_column not in schema.names:
                raise UserError(f"{address} has no column {self.names_column!r}; it has {', '.join(schema.names[:5])}")
            return self.names_column
        index = [name for name in _pandas_index(schema) if name in schema.names]
        text = [field.name for field in schema if _is_text(field.type)]
        if not index and not text:
            raise UserError(f"{address}: no column of text names the rows (setting names_column)")
        return [*index, *text][0]

    @contextmanager
    def _opened(self, address: str) -> Iterator[_ColumnFile]:
        folder, name = split_file_address(address)
        try:
            with Folder(folder).open(name, in_blocks=True) as stream:
                yield self._file(stream)
        except FileNotFoundError:
            raise UserError(f"no such file: {address}") from None
        except IsADirectoryError:
            raise UserError(f"{address} is a folder, not a file") from None
        except UserError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
            message = one_line(error)[:300]
            raise UserError(f"{address} is not a readable {self.format.capitalize()} file: {message}") from None

    def _file(self, stream: IO[bytes]) -> _ColumnFile:
        raise NotImplementedError


class _ColumnFile:
    """What both forms can do: say their columns, and read some of them in batches of rows."""

    schema: pa.Schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError


class _ParquetFile(_ColumnFile):
    def __init__(self, stream: IO[bytes]) -> None:
        self._file = pq.ParquetFile(stream, page_checksum_verification=True)
        self.schema = self._file.schema_arrow

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rows = _ROWS_AT_ONCE if len(columns) > _ROWS_AT_ONCE else 2**16
        return self._file.iter_batches(rows, columns=list(columns), use_threads=False)


class _FeatherFile(_ColumnFile):
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.schema = pa.ipc.open_file(stream).schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        fields = [self.schema.get_field_index(name) for name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        file = pa.ipc.open_file(self._stream, options=options)
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            batch.validate(full=True)
            yield batch


@register_source
class ParquetSource(ColumnarSource):
    """Parquet."""

    format: Literal["parquet"] = "parquet"

    def _file(self, stream: IO[bytes]) -> _ColumnFile:
        return _ParquetFile(stream)


@register_source
class FeatherSource(ColumnarSource):
    """Feather, version 2: an Arrow IPC file."""

    format: Literal["feather"] = "feather"

    def _file(self, stream: IO[bytes]) -> _ColumnFile:
        return _FeatherFile(stream)


def _values(batch: pa.RecordBatch, columns: Sequence[str]) -> np.ndarray:
    """Columns as float32 [rows, columns], NaN where there is no value."""
    values = np.empty((len(batch), len(columns)), np.float32)
    for number, name in enumerate(columns):
        values[:, number] = batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _as_names(column: pa.Array | pa.ChunkedArray) -> tuple[str, ...]:
    """Names as text, empty where there is none."""
    return tuple("" if name is None else name.strip() for name in column.cast(pa.string()).to_pylist())


def _pandas_index(schema: pa.Schema) -> list[str]:
    """The columns that were the index of a data frame."""
    kept = (schema.metadata or {}).get(b"pandas")
    described = json.loads(kept).get("index_columns", []) if kept else []
    return [name for name in described if isinstance(name, str)]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
