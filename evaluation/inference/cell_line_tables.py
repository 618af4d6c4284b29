"""Tables of what was measured on cell lines (drugs, genes), and which profiles are those of the lines.

L cell lines, T targets (drugs or genes), R profiles; several profiles of one line are averaged.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.terminal import log
from dataprep.sources.text_files import decompressed, delimiter_of, first_text

_LONG_COLUMNS = ("cell_line", "drug", "value")


@dataclass(frozen=True)
class CellLineTable:
    """``values``: float64 [L, T], NaN where not measured."""

    lines: tuple[str, ...]
    targets: tuple[str, ...]
    values: np.ndarray

    def part(self, lines: Sequence[str], targets: np.ndarray) -> CellLineTable:
        """Some lines, in their order, and the targets that ``targets`` (bool [T], or int) says."""
        number = {line: position for position, line in enumerate(self.lines)}
        chosen = self.values[[number[line] for line in lines]][:, targets]
        return CellLineTable(tuple(lines), tuple(np.array(self.targets, object)[targets]), chosen)

    def measured(self) -> CellLineTable:
        """Without lines that have no value."""
        kept = np.isfinite(self.values).any(axis=1)
        return self.part(
            [line for line, has in zip(self.lines, kept, strict=True) if has], np.arange(len(self.targets))
        )

    @cached_property
    def pairs(self) -> Pairs:
        """What was measured."""
        line, target = np.nonzero(np.isfinite(self.values))
        return Pairs(line, target, self.values[line, target])


@dataclass(frozen=True)
class Pairs:
    """N measured pairs: numbers of their lines and targets, int [N], and ``value``, float64 [N]."""

    line: np.ndarray
    target: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.value)

    def matrix(self, rows: np.ndarray, lines: int, targets: int) -> np.ndarray:
        """The values of some pairs as float64 [L, T], NaN elsewhere."""
        values = np.full((lines, targets), np.nan)
        values[self.line[rows], self.target[rows]] = self.value[rows]
        return values


def read_drug_response(address: str) -> CellLineTable:
    """Drugs in rows and cell lines in columns, or one row per pair with columns cell_line, drug, value.

    Pairs with several values are averaged. Raises UserError for what is neither.
    """
    if set(_LONG_COLUMNS) <= set(_header(address)):
        long = _read(address, dict.fromkeys(("cell_line", "drug"), str))
        values = _as_numbers(address, long[["value"]])["value"]
        means = values.groupby([long["cell_line"], long["drug"]]).mean()
        if len(means) < len(long):
            log(f"{address}: {len(long) - len(means):,} values are of pairs with another one; pairs are averaged")
        table = means.unstack("drug")
    else:
        table = read_numbers(address).T
    return _table(table)


def read_lines_by_targets(address: str) -> CellLineTable:
    """Cell lines in rows, genes or features in columns. Raises UserError for what is no table of numbers."""
    return _table(read_numbers(address))


def features_for(table: CellLineTable, where: str, address: str) -> CellLineTable:
    """Features of those lines of the table ``where`` that the file ``address`` (cell lines x features) has.

    Raises UserError where it has none of them.
    """
    features = read_lines_by_targets(address)
    lines = sorted(set(table.lines) & set(features.lines))
    if not lines:
        raise UserError(
            f"{address} has none of the {len(table.lines):,} cell lines of {where} ({_some(table.lines)}): its first "
            f"column has {_some(features.lines)}"
        )
    log(f"{len(lines):,} of {len(table.lines):,} cell lines of the table have features in {address}")
    return features.part(lines, np.arange(len(features.targets)))


def read_numbers(address: str) -> pd.DataFrame:
    """A delimited table of numbers with names in its first column; empty cells and NA are NaN.

    Raises UserError for text among the numbers, and for names that occur twice.
    """
    header = _header(address)[1:]
    table = _read(address, {0: str}).pipe(lambda read: read.set_index(read.columns[0]))
    if len(header) != table.shape[1]:
        raise UserError(f"{address} is not a rectangular table: {len(header):,} names of {table.shape[1]:,} columns")
    table.columns = pd.Index(header)
    for kind, names in (("rows", table.index), ("columns", table.columns)):
        repeated = names[names.duplicated()].unique()
        if len(repeated):
            raise UserError(f"{address}: {len(repeated):,} names of {kind} occur twice, e.g. {_some(repeated)}")
    return _as_numbers(address, table)


def first_fields(address: str) -> list[str]:
    """The first field of every line of a text file, such as a list of genes with or without a header."""
    with decompressed(address) as stream:
        text = first_text(address, stream.read(), "utf-8")
    fields = [line.replace("\t", ",").partition(",")[0].strip().strip('"') for line in text.splitlines()]
    return [field for field in fields if field]


@dataclass(frozen=True)
class ProfilesOfLines:
    """The profiles of L cell lines. ``row_ids``: int64 [R], ascending; ``line_of``: number of the line of each, [R]."""

    lines: tuple[str, ...]
    row_ids: np.ndarray
    line_of: np.ndarray

    def of(self, lines: Sequence[str]) -> ProfilesOfLines:
        """The profiles of some of the lines, which are in the same order."""
        kept = np.isin(np.array(self.lines)[self.line_of], lines)
        number = {line: position for position, line in enumerate(lines)}
        names = np.array(self.lines)[self.line_of[kept]]
        return ProfilesOfLines(tuple(lines), self.row_ids[kept], np.array([number[name] for name in names]))

    def complete(self, kept: np.ndarray) -> np.ndarray:
        """Numbers of the lines all of whose profiles are at the positions ``kept`` (int) of ``row_ids``."""
        left = np.bincount(self.line_of[kept], minlength=len(self.lines))
        return np.flatnonzero(left == np.bincount(self.line_of, minlength=len(self.lines)))

    def mean(self, values_RF: np.ndarray) -> np.ndarray:
        """float32 [L, F]: values of profiles averaged over those of a line; a missing value leaves its profile out."""
        known = np.isfinite(values_RF)
        sums, counts = self._sums(np.where(known, values_RF, 0)), self._sums(known)
        return np.divide(sums, counts, out=np.full(sums.shape, np.nan, np.float32), where=counts > 0)

    def _sums(self, values_RF: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(self.lines), *values_RF.shape[1:]), np.float32)
        np.add.at(sums, self.line_of, values_RF.astype(np.float32))
        return sums


def profiles_of_lines(
    samples: pa.Table, where: str, column: str, lines: Sequence[str], setting: str
) -> ProfilesOfLines:
    """The profiles whose ``column`` names a line of the table. Raises UserError where there is none.

    ``where``: the corpus; ``setting``: what chooses the column. Lines without a profile are counted.
    """
    if column not in samples.column_names:
        raise UserError(f"{where} has no column {column!r} ({setting}); it has {', '.join(samples.column_names)}")
    named = np.array([str(value or "") for value in samples.column(column).to_pylist()], dtype=object)
    kept = np.isin(named, list(lines))
    absent = sorted(set(lines) - set(named))
    if not kept.any():
        raise UserError(
            f"none of the table's {len(lines):,} cell lines ({_some(absent)}) is in column {column!r} of {where} "
            f"({_some(sorted(set(named) - {''}))}): {setting} names the column that has them"
        )
    if absent:
        log(f"{len(absent):,} of {len(lines):,} cell lines of the table have no profile, e.g. {_some(absent)}")
    found, line_of = np.unique(named[kept].astype(str), return_inverse=True)
    log(f"{int(kept.sum()):,} profiles of {len(found):,} cell lines; {int((~kept).sum()):,} other profiles")
    return ProfilesOfLines(tuple(found.tolist()), samples.column("row_id").to_numpy()[kept], line_of)


def _table(frame: pd.DataFrame) -> CellLineTable:
    return CellLineTable(
        tuple(map(str, frame.index)), tuple(map(str, frame.columns)), frame.to_numpy(np.float64, na_value=np.nan)
    )


def _header(address: str) -> list[str]:
    with decompressed(address) as stream:
        first = pd.read_csv(stream, sep=delimiter_of(address), header=None, nrows=1, dtype=str, keep_default_na=False)
    return [str(name).strip() for name in first.iloc[0]]


def _read(address: str, types: Any) -> pd.DataFrame:
    try:
        with decompressed(address) as stream:
            return pd.read_csv(stream, sep=delimiter_of(address), dtype=types, low_memory=False)
    except (pd.errors.ParserError, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{address} cannot be read as a table: {one_line(error)}") from None


def _as_numbers(address: str, table: pd.DataFrame) -> pd.DataFrame:
    text = table.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]]
    if not len(text):
        return table
    numbers = table[text].apply(pd.to_numeric, errors="coerce")
    wrong = numbers.isna() & table[text].notna()
    if wrong.to_numpy().any():
        row, column = np.argwhere(wrong.to_numpy())[0]
        raise UserError(
            f"{address}: {int(wrong.to_numpy().sum()):,} values are no numbers, e.g. {table[text].iloc[row, column]!r} "
            f"in column {text[column]!r}"
        )
    return table.assign(**{name: numbers[name] for name in text})


def _some(names: Sequence[str] | pd.Index) -> str:
    return ", ".join(map(str, list(names)[:3]))
