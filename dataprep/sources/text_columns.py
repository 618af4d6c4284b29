"""Columns of delimited text, read by Arrow, with its errors in the words of the file's header."""

from __future__ import annotations

import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv

from dataprep.runtime.command_line import UserError, one_line
from dataprep.sources.table_layout import MISSING, TableLayout, decimal_hint
from dataprep.sources.text_files import decompressed, first_text

_BLOCK_BYTES = 16 * 1024 * 1024
# What is looked at to find the columns; two lines at the least.
_FIRST_BYTES = 1024 * 1024
_MOST_FIRST_BYTES = 128 * 1024 * 1024
# Arrow's and zlib's words for compressed data that end early or do not unpack
_DAMAGED = re.compile("truncated|zlib|bz2|zstd|lz4", re.IGNORECASE)


@dataclass(frozen=True)
class TextForm:
    """How a text file is written."""

    encoding: str = "utf-8"
    decimal: str = "."


def first_lines(address: str, form: TextForm) -> list[str]:
    """The first lines of a file, the last of them whole, at least two where the file has them.

    Raises :class:`UserError` for a file that is empty, damaged, or no text.
    """
    content, text, ended = b"", "", False
    with decompressed(address) as stream, text_errors(address, form):
        while text.count("\n") < 3 and not ended:
            if len(content) > _MOST_FIRST_BYTES:
                raise UserError(f"{address} is no table: its first lines have more than {_MOST_FIRST_BYTES:,} bytes")
            # twice as much each time, since the text is then looked at anew
            piece: bytes = stream.read(max(_FIRST_BYTES, len(content)))
            content, ended = content + piece, not piece
            text = first_text(address, content, form.encoding)
    if not text.strip():
        raise UserError(f"{address} is empty")
    # where Arrow divides lines; splitlines also does at characters that may be in a name
    lines = re.split("\r\n|\r|\n", text)
    return lines if ended and lines[-1] else lines[:-1]


def read_columns(
    address: str, layout: TableLayout, columns: Sequence[int], form: TextForm, names: int = 0, ends: bool = False
) -> pa.Table:
    """Column ``names``, the row names, and some columns of numbers, in float32.

    ``ends`` asks for the end of the last line, which programs write and cut files lack. Raises :class:`UserError`
    naming the column for text that is not a number, for a file that is cut off or not rectangular.
    """
    with decompressed(address) as stream, text_errors(address, form, layout):
        if not ends:
            return pa.csv.read_csv(stream, *_options(layout, columns, form, names))
        content = stream.read()
        if not content.endswith(b"\n"):
            raise UserError(f"{address} is cut off: its last line has no end")
        return pa.csv.read_csv(pa.BufferReader(content), *_options(layout, columns, form, names))


def stream_columns(
    address: str, layout: TableLayout, columns: Sequence[int], form: TextForm
) -> Iterator[pa.RecordBatch]:
    """The same in batches of rows."""
    with decompressed(address) as stream, text_errors(address, form, layout):
        yield from pa.csv.open_csv(stream, *_options(layout, columns, form))


def numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of numbers as float32, NaN where it has none."""
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()


def stripped(column: pa.Array | pa.ChunkedArray) -> tuple[str, ...]:
    """A column of names."""
    return tuple(name.strip() for name in column.to_pylist())


def _options(
    layout: TableLayout, columns: Sequence[int], form: TextForm, names: int = 0
) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions, pa.csv.ConvertOptions]:
    """Columns go by number: names may be empty or missing in the header."""
    numbered = [str(column) for column in range(len(layout.columns))]
    chosen = [str(names), *map(str, columns)]
    return (
        pa.csv.ReadOptions(
            use_threads=False,
            block_size=_BLOCK_BYTES,
            column_names=numbered,
            skip_rows=layout.header_lines,
            encoding=form.encoding,
        ),
        pa.csv.ParseOptions(delimiter=layout.delimiter),
        pa.csv.ConvertOptions(
            include_columns=chosen,
            column_types={name: pa.string() if name == str(names) else pa.float32() for name in chosen},
            null_values=MISSING,
            strings_can_be_null=False,
            decimal_point=form.decimal,
        ),
    )


@contextmanager
def text_errors(address: str, form: TextForm, layout: TableLayout | None = None) -> Iterator[None]:
    """Arrow's errors, and those of what unpacks, as :class:`UserError` in the words of the file's header."""
    try:
        yield
    except (pa.ArrowInvalid, OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError) as error:
        message = one_line(error)
        if isinstance(error, (EOFError, lzma.LZMAError)) or _DAMAGED.search(message):
            raise UserError(f"{address} is cut off or damaged: {message}") from None
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in message:
            raise UserError(f"{address} is not {form.encoding}: {message} (setting encoding, e.g. latin-1)") from None
        column = re.match(r"In CSV column #(\d+): .*invalid value '(.*)'", message)
        if column and layout:
            name, text = layout.columns[int(column[1])], column[2]
            hint = decimal_hint(text, form.decimal)
            raise UserError(f"{address}: column {name!r} holds text, not numbers, e.g. {text!r}{hint}") from None
        raise UserError(f"{address} is not a rectangular table: {message}") from None
