"""Text files as people send them: compressed or not, whatever their names; files that are not text are named as such.

The first bytes decide, not the suffix: a file called .gz may be plain, and one called .txt an Excel workbook.
"""

from __future__ import annotations

import codecs
import csv
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import pyarrow as pa

from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder, split_file_address

_ARROW_CODECS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_XZ = b"\xfd7zXZ\x00"
_COMPRESSED_SUFFIXES = (".gz", ".bgz", ".bz2", ".xz", ".zst", ".lz4")
_KINDS = {
    b"PAR1": "a Parquet file (format: parquet)",
    b"\x89HDF": "an HDF5 file (format: h5ad, if it is AnnData, or archs4)",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (xls); save it as text",
    b"ARROW1": "a Feather or Arrow file (format: feather)",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF document",
    b"%%MatrixMarket": "a Matrix Market file, which has its names in two others (format: matrix_market)",
    b"RDX": "an R data file; write its table as text",
    b"X\n\x00\x00": "an R data file (RDS); write its table as text",
    b"{": "JSON",
    b"[{": "JSON",
    b"<": "a web page or XML, perhaps an error page in place of the file",
    b"version https://git-lfs": "a Git LFS pointer; the file itself was not downloaded",
    b"!Series_": "a GEO series matrix",
    b"^DATABASE": "a GEO SOFT file",
    b"^SERIES": "a GEO SOFT file",
}
# A line is one field where it is divided by another character than the one looked for, and lines of many samples are
# longer than the 128 KiB that Python allows a field.
csv.field_size_limit(2**31 - 1)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def decompressed(address: str) -> Iterator[pa.NativeFile]:
    """The decompressed bytes of a file. Raises :class:`UserError` where there is none, or it is empty."""
    folder, name = split_file_address(address)
    try:
        with Folder(folder).open(name) as stream:
            first = stream.read(8)
            if not first:
                raise UserError(f"{address} is empty")
            stream.seek(0)
            codec = next((codec for magic, codec in _ARROW_CODECS.items() if first.startswith(magic)), None)
            if first.startswith(_XZ):
                with lzma.LZMAFile(stream) as unpacked:
                    yield pa.PythonFile(unpacked, "r")
            elif codec is not None:
                yield pa.CompressedInputStream(pa.PythonFile(stream, "r"), codec)
            else:
                yield pa.PythonFile(stream, "r")
    except FileNotFoundError:
        raise UserError(f"no such file: {address}") from None
    except IsADirectoryError:
        raise UserError(f"{address} is a folder, not a file") from None


def read_decompressed(address: str) -> bytes:
    """The whole content of a file. Raises :class:`UserError` where there is none, or it is empty or damaged."""
    with decompressed(address) as stream:
        try:
            content: bytes = stream.read()
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise UserError(f"{address} is cut off or damaged: {one_line(error)}") from None
    return content


def first_text(address: str, content: bytes, encoding: str) -> str:
    """The decoded beginning of a file, without a byte order mark; a character that is cut at its end is left out.

    Raises :class:`UserError` for what is not text, or text in another encoding.
    """
    kind = _kind(address, content, encoding)
    if kind is not None:
        raise UserError(f"{address} is {kind}, and not a table in {encoding}")
    try:
        text: str = codecs.getincrementaldecoder(encoding)().decode(content, final=False)
    except UnicodeDecodeError as error:
        where = content[max(0, error.start - 20) : error.start].decode(errors="replace").split("\n")[-1]
        raise UserError(
            f"{address} is not {encoding}: byte 0x{content[error.start]:02x} after {where!r} (setting encoding, "
            f"e.g. latin-1)"
        ) from None
    return text.removeprefix("\ufeff")


def delimiter_of(address: str) -> str:
    """A comma for .csv, in any case and compressed or not, else a tab."""
    return "," if _uncompressed(address).suffix.lower() == ".csv" else "\t"


def name_without_suffix(name: str) -> str:
    """S1 from S1.tsv.gz."""
    return _uncompressed(name).stem


def _uncompressed(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED_SUFFIXES else path


def _kind(address: str, content: bytes, encoding: str) -> str | None:
    """What a file is that is not text in the encoding, from its beginning."""
    if content.startswith(b"PK\x03\x04"):
        workbook = b"xl/" in content or address.lower().endswith(".xlsx")
        return "an Excel workbook (xlsx); save it as text" if workbook else "a zip archive; unpack it first"
    # the mark of UTF-32 begins with that of UTF-16
    if content.startswith(_UTF_16) and not encoding.lower().replace("_", "").replace("-", "").startswith(
        ("utf16", "utf32")
    ):
        return "text in UTF-16 (encoding: utf-16)"
    if content[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    known = next((kind for magic, kind in _KINDS.items() if content.lstrip(b"\xef\xbb\xbf").startswith(magic)), None)
    if known is None and b"\x00" in content[:4096] and "16" not in encoding and "32" not in encoding:
        return "a binary file"
    return known
