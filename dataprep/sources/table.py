"""Delimited tables, plain or compressed: genes x samples or samples x genes.

A table of genes x samples is read some sample columns at a time: every pass reads the text anew and keeps only its
columns, so memory does not grow with the number of samples. A table of samples x genes is streamed in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from dataprep.runtime.command_line import UserError, refuse_without_effect
from dataprep.sources.registry import register_source
from dataprep.sources.source import RawProfiles, SampleList, Source
from dataprep.sources.table_layout import TableLayout, find_layout
from dataprep.sources.text_columns import TextForm, first_lines, numbers, read_columns, stream_columns, stripped
from dataprep.sources.text_files import delimiter_of


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
    def _settings_agree(self) -> TableSource:
        if self.value_column is not None and self.orientation == "samples_x_genes":
            raise ValueError("value_column is for genes_x_samples")
        if self.delimiter is not None and not self.delimiter.isascii():
            raise ValueError(f"delimiter: {self.delimiter!r} is not an ASCII character")
        if self.orientation == "samples_x_genes":
            refuse_without_effect(self, ("drop_annotation",), "with samples_x_genes, of which all columns are genes")
        if self.value_column is not None:
            refuse_without_effect(self, ("drop_columns", "drop_annotation"), "with value_column, the only one read")
        return self

    def list_samples(self, address: str) -> SampleList:
        """Read the header, or the first column of samples x genes."""
        layout = self._layout(address)
        if self.orientation == "genes_x_samples":
            return SampleList(layout.kept_names, layout.ignored)
        return SampleList(stripped(read_columns(address, layout, (), self._form).column(0)))

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Raises :class:`UserError` naming the column for text that is not a number, for a file that is cut off or not
        rectangular."""
        layout = self._layout(address)
        if self.orientation == "genes_x_samples":
            yield _read_columns(address, layout, self._form, start, stop)
        else:
            yield from _read_rows(address, layout, self._form, start, stop)

    @property
    def _form(self) -> TextForm:
        return TextForm(self.encoding, self.decimal)

    def _layout(self, address: str) -> TableLayout:
        return find_layout(
            address,
            first_lines(address, self._form),
            self.delimiter or delimiter_of(address),
            self.drop_columns,
            self.value_column,
            self.drop_annotation and self.orientation == "genes_x_samples",
            self.decimal,
        )


def _read_columns(address: str, layout: TableLayout, form: TextForm, start: int, stop: int) -> RawProfiles:
    chosen = layout.kept[start:stop]
    table = read_columns(address, layout, chosen, form)
    if not table.num_rows:
        raise UserError(f"{address} has a header but no genes")
    if layout.rows is not None and table.num_rows != layout.rows:
        raise UserError(f"{address} is cut off or damaged: {table.num_rows:,} of its {layout.rows:,} rows are there")
    values = np.empty((len(chosen), table.num_rows), np.float32)
    for row, column in enumerate(table.columns[1:]):
        values[row] = numbers(column)
    names = tuple(layout.columns[column] for column in chosen)
    return RawProfiles(start, names, stripped(table.column(0)), values)


def _read_rows(address: str, layout: TableLayout, form: TextForm, start: int, stop: int) -> Iterator[RawProfiles]:
    first = 0
    for batch in stream_columns(address, layout, layout.kept, form):
        rows = batch.slice(max(0, start - first), max(0, min(stop, first + len(batch)) - max(start, first)))
        if len(rows):
            values = np.stack([numbers(column) for column in rows.columns[1:]], axis=1)
            yield RawProfiles(max(start, first), stripped(rows.column(0)), layout.kept_names, values)
        first += len(batch)
