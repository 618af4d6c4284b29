"""Labels and metadata of samples, kept as given: strings, null where a source says nothing."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence

import pandas as pd

from dataprep.runtime.command_line import UserError
from dataprep.sources.source import Source
from dataprep.sources.table_layout import column_names
from dataprep.sources.text_files import delimiter_of, first_text, read_decompressed

# Columns that samples.parquet has of its own; a given column of that name is kept as NAME_given.
RESERVED = ("sample_id", "study_id", "split", "row_id", "source")


def read_metadata(address: str, encoding: str = "utf-8") -> pd.DataFrame:
    """A delimited table (tab, or comma for .csv) as strings, indexed by its first column; empty cells are None.

    Raises :class:`UserError` where it is missing, empty, not rectangular or names a sample twice.
    """
    text = first_text(address, read_decompressed(address), encoding)
    lines = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(address)) if any(row)]
    if not lines:
        raise UserError(f"{address} is empty")
    header, *rows = lines
    columns = column_names(header, rows)
    long = [row for row in rows if len(row) > len(columns)]
    if long:
        raise UserError(
            f"{address} is not a rectangular table: {len(long):,} of {len(rows):,} rows have more "
            f"than its {len(columns)} columns, e.g. that of {long[0][0]!r}"
        )
    filled = [[cell.strip() or None for cell in row] + [None] * (len(columns) - len(row)) for row in rows]
    table = pd.DataFrame(filled, columns=_distinct([name.strip() for name in columns]), dtype=object)
    table = table.set_index(table.columns[0])
    table.index = table.index.fillna("")
    repeated = table.index[table.index.duplicated()].unique()
    if len(repeated):
        raise UserError(f"{address}: {len(repeated)} samples have several rows, e.g. {', '.join(repeated[:3])}")
    # a delimiter at the end of lines makes a column without name and values
    return table.loc[:, [bool(name) or table[name].notna().any() for name in table.columns]]


def _distinct(columns: Sequence[str]) -> list[str]:
    """Names of columns, repeated ones with a number, as pandas does it."""
    names: list[str] = []
    for name in columns:
        numbered = (f"{name}.{number}" for number in itertools.count(1))
        names.append(next(free for free in itertools.chain([name], numbered) if free not in names))
    return names


def metadata_of(
    source: Source, samples_address: str | None, files: Sequence[tuple[str, Sequence[str]]]
) -> pd.DataFrame | None:
    """All that a source says about its samples, by name; None where it has nothing.

    ``files`` are addresses with the names of their samples, in the order of the files.
    """
    if samples_address is not None:
        table = read_metadata(samples_address, source.encoding)
    else:
        own = [
            found.set_axis(list(names), axis="index")
            for address, names in files
            if (found := source.read_metadata(address)) is not None
        ]
        if not own:
            return None
        table = pd.concat(own)
    missing = {word.strip().lower() for word in source.missing_labels}
    return table.apply(lambda column: _labels(column, missing))


def _labels(column: pd.Series, missing: set[str]) -> pd.Series:
    """As strings, None where there is no value or a word that stands for none."""
    text = column.astype("string").astype(object).where(column.notna(), None)
    return text.map(lambda value: None if value is None or value.strip().lower() in missing else value)


def labels_for(source: Source, sample_ids: Sequence[str], metadata: pd.DataFrame | None) -> pd.DataFrame:
    """One row per sample in the order given: the metadata, and ``study_id``.

    Raises :class:`UserError` where samples have no row, or no study.
    """
    where = f"source {source.name}"
    table = pd.DataFrame(index=pd.Index(sample_ids)) if metadata is None else metadata
    absent = [sample for sample in sample_ids if sample not in table.index]
    if absent:
        raise UserError(
            f"{where}: {len(absent):,} of {len(sample_ids):,} samples have no row in the sample metadata, "
            f"e.g. {', '.join(map(repr, absent[:3]))}"
        )
    table = table.loc[list(sample_ids)]
    study = _study(where, source, table)
    # a table may have both source and source_given
    names = [f"{name}_given" if name in RESERVED else name for name in table.columns]
    table = table.set_axis(_distinct(names), axis="columns")
    return table.assign(study_id=study)


def _study(where: str, source: Source, table: pd.DataFrame) -> pd.Series | str:
    if source.study is not None:
        return source.study
    if source.study_column not in table.columns:
        raise UserError(f"{where}: no column {source.study_column!r}; there are {', '.join(map(str, table.columns))}")
    study = table[source.study_column]
    if study.isna().any():
        raise UserError(f"{where}: {int(study.isna().sum()):,} of {len(study):,} samples have no study")
    return study
