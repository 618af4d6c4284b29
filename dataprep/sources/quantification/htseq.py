"""What ``htseq-count`` writes for one alignment: no header, the count last, five rows ``__...`` after the genes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from dataprep.runtime.command_line import UserError
from dataprep.sources.quantification.program_file import ProgramFile
from dataprep.sources.registry import register_source
from dataprep.sources.source import Units
from dataprep.sources.table_layout import TableLayout, holds_numbers
from dataprep.sources.text_columns import TextForm, first_lines


@register_source
class HtseqSource(ProgramFile):
    """Reads per gene. Columns between id and count (``--additional-attr``) are not read."""

    PROGRAM = "HTSeq"
    COLUMNS = ("gene", "count")
    NAMES = "gene"
    UNITS: ClassVar[Mapping[str, Units]] = {"count": "counts"}
    HAS_HEADER = False

    format: Literal["htseq"] = "htseq"
    value_column: Literal["count"] = Field(default="count", description="the last column, the only one to read")
    sample_from: str = Field(default="file", description="what names a sample; default: the file without its suffix")

    def layout(self, address: str) -> TableLayout:
        """The first column and the last one. Raises :class:`UserError` where those between hold counts, too."""
        lines = first_lines(address, TextForm(self.encoding))
        rows = list(csv.reader(lines[:200], delimiter="\t"))
        between = range(1, len(rows[0]) - 1)
        if len(rows[0]) < 2:
            raise UserError(f"{address} is no file of {self.PROGRAM}: its first line is not divided by tabs")
        if counted := [number for number in between if holds_numbers(rows, number)]:
            raise UserError(
                f"{address} has {len(counted) + 1:,} columns of counts, of several samples that HTSeq does not name: "
                f"put a header above (format: table)"
            )
        columns = ("gene", *(f"attribute {number}" for number in between), "count")
        return TableLayout("\t", columns, (len(columns) - 1,), (), 0)
