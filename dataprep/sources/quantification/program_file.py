"""What the files of all programs have in common: a row per gene or transcript, one sample, columns of known meaning."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from dataprep.runtime.command_line import UserError
from dataprep.sources.source import RawProfiles, SampleList, Source, Units
from dataprep.sources.table_layout import TableLayout
from dataprep.sources.text_columns import TextForm, first_lines, numbers, read_columns, stripped

# A program that is told to share reads between genes writes parts of counts where it otherwise writes counts.
_ALSO: Mapping[Units, Units] = {"counts": "estimated_counts"}


class ProgramFile(Source):
    """Text files of one program, each of one sample.

    A subclass names the ``PROGRAM``, the ``COLUMNS`` that its files have, of which ``NAMES`` holds the row names,
    whether they stand in a header, and the ``UNITS`` of those that can be read.
    """

    PROGRAM: ClassVar[str]
    COLUMNS: ClassVar[tuple[str, ...]]
    NAMES: ClassVar[str]
    UNITS: ClassVar[Mapping[str, Units]]
    HAS_HEADER: ClassVar[bool] = True

    value_column: str = Field(description="the column with the values; the units follow from it")

    @model_validator(mode="before")
    @classmethod
    def _units_of_column(cls, given: Any) -> Any:
        if isinstance(given, dict) and "units" not in given:
            column = given.get("value_column", cls.model_fields["value_column"].default)
            if isinstance(column, str) and column in cls.UNITS:
                return given | {"units": cls.UNITS[column]}
        return given

    @model_validator(mode="after")
    def _units_agree(self) -> ProgramFile:
        units = self.UNITS[self.value_column]
        if self.units not in (units, _ALSO.get(units)):
            raise ValueError(f"units: {self.value_column} of {self.PROGRAM} holds {units}, not {self.units}")
        if self.sample_from == "column":
            raise ValueError(f"sample_from: a file of {self.PROGRAM} does not name its sample")
        return self

    def list_samples(self, address: str) -> SampleList:
        """One, which the path names. Raises :class:`UserError` for a file that the program did not write."""
        self.layout(address)
        return SampleList((self.value_column,))

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Raises :class:`UserError` for text among the numbers, a file that is cut off, or one without rows."""
        layout = self.layout(address)
        value, names = layout.columns.index(self.value_column), layout.columns.index(self.NAMES)
        table = read_columns(address, layout, (value,), TextForm(self.encoding), names, ends=True)
        if not table.num_rows:
            raise UserError(f"{address} has no rows")
        values = numbers(table.column(1)).reshape(1, -1)
        yield RawProfiles(0, (self.value_column,), stripped(table.column(0)), values)

    def layout(self, address: str) -> TableLayout:
        """Where the columns are, from the first lines of a file."""
        lines = first_lines(address, TextForm(self.encoding))
        columns = self.columns_of(address, next(csv.reader(lines[:1], delimiter="\t"), []))
        return TableLayout("\t", columns, (columns.index(self.value_column),), (), int(self.HAS_HEADER))

    def columns_of(self, address: str, first: list[str]) -> tuple[str, ...]:
        """The names of the columns of a file with this first line."""
        if self.HAS_HEADER and tuple(first) != self.COLUMNS:
            raise UserError(
                f"{address} is no file of {self.PROGRAM}: its columns are {_named(first)}, not {_named(self.COLUMNS)}"
            )
        if len(first) != len(self.COLUMNS):
            raise UserError(
                f"{address} is no file of {self.PROGRAM}: its first line has {len(first)} columns, "
                f"not {len(self.COLUMNS)}"
            )
        return self.COLUMNS


def _named(columns: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(columns) - 8:,} more" if len(columns) > 8 else ""
    return ", ".join(name[:40] for name in columns[:8]) + more
