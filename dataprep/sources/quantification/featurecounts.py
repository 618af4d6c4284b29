"""What featureCounts writes: a comment, six columns on the genes, further attributes, and a column per alignment."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from dataprep.runtime.command_line import UserError
from dataprep.sources.registry import register_source
from dataprep.sources.source import RawProfiles, SampleList, Source, Units
from dataprep.sources.table_layout import TableLayout, holds_numbers
from dataprep.sources.text_columns import TextForm, first_lines, numbers, read_columns, stripped

_ABOUT_GENES = ("Geneid", "Chr", "Start", "End", "Strand", "Length")
_ALIGNMENTS = (".bam", ".sam", ".cram")


@register_source
class FeatureCountsSource(Source):
    """Reads per gene, of one alignment or several; a sample is called as its alignment's file, without folder and
    suffix."""

    format: Literal["featurecounts"] = "featurecounts"
    units: Units = Field(
        default="counts", description="counts, or estimated_counts where reads were shared (--fraction)"
    )

    @model_validator(mode="after")
    def _holds_counts(self) -> FeatureCountsSource:
        if self.units not in ("counts", "estimated_counts"):
            raise ValueError(f"units: featureCounts writes counts, not {self.units}")
        return self

    def list_samples(self, address: str) -> SampleList:
        """Raises :class:`UserError` for a file that featureCounts did not write."""
        return SampleList(_samples(self._layout(address)))

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Raises :class:`UserError` for text among the counts, a file that is cut off, or one without rows."""
        layout = self._layout(address)
        table = read_columns(address, layout, layout.kept[start:stop], TextForm(self.encoding), ends=True)
        if not table.num_rows:
            raise UserError(f"{address} has no rows")
        values = np.stack([numbers(column) for column in table.columns[1:]])
        yield RawProfiles(start, _samples(layout)[start:stop], stripped(table.column(0)), values)

    def _layout(self, address: str) -> TableLayout:
        lines = first_lines(address, TextForm(self.encoding))
        comments = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
        header, *rows = list(csv.reader(lines[comments : comments + 200], delimiter="\t")) or [[]]
        if tuple(header[: len(_ABOUT_GENES)]) != _ABOUT_GENES:
            begins = ", ".join(name[:40] for name in header[:6])
            raise UserError(
                f"{address} is no file of featureCounts: its columns are {begins}, not {', '.join(_ABOUT_GENES)} and "
                f"one for each alignment"
            )
        kept = [number for number in range(len(_ABOUT_GENES), len(header)) if holds_numbers(rows, number)]
        if not kept:
            raise UserError(f"{address}: no column after {_ABOUT_GENES[-1]} holds counts")
        attributes = tuple(header[number] for number in range(len(_ABOUT_GENES), len(header)) if number not in kept)
        return TableLayout("\t", tuple(header), tuple(kept), attributes, comments + 1)


def _samples(layout: TableLayout) -> tuple[str, ...]:
    paths = [PurePosixPath(name) for name in layout.kept_names]
    return tuple(path.stem if path.suffix.lower() in _ALIGNMENTS else path.name for path in paths)
