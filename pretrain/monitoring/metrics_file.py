"""``metrics.jsonl``: one row of metrics per line, oldest first, written during the run.

In a local folder, rows are appended. An object store cannot append: there, rows go to parts of bounded size,
``metrics/part-NNNNNNNNN.jsonl``, named by the number of rows before them, of which only the last is written again. When
the run ends or is stopped, the parts become ``metrics.jsonl``. So the cost of a row does not grow with the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

METRICS_FILE = "metrics.jsonl"
PARTS_FOLDER = "metrics"
PART_BYTES = 1024 * 1024

Row = dict[str, Any]


def read_rows(folder: Folder) -> list[Row]:
    """Rows of a run's metrics, oldest first, also during a run; none where there are none.

    Raises UserError for a line that is not a row. A last line that is not complete yet is left out.
    """
    return [row for _, row in _read(folder)]


class MetricsFile:
    """The metrics of one run, open for more rows. Used by one thread at a time."""

    def __init__(self, folder: Folder, rows_before: int, bytes_before: int) -> None:
        self._folder = folder
        self._bytes = bytes_before
        # the rows of the last part, and how many rows come before it
        self._part: list[str] = []
        self._before_part = rows_before

    @classmethod
    def resume(cls, folder: Folder, from_step: int) -> tuple[MetricsFile, list[Row]]:
        """Open the metrics of a run that resumes after ``from_step`` optimizer steps, and the rows up to there.

        Later rows are dropped, since their steps are done again.
        """
        found = list(_read(folder))
        kept = [(line, row) for line, row in found if row["step"] <= from_step]
        size = sum(len(line) + 1 for line, _ in kept)
        parts = _part_names(folder)
        if parts or size != (folder.size_bytes(METRICS_FILE) if folder.exists(METRICS_FILE) else 0):
            _write_whole(folder, [line for line, _ in kept], parts)
        return cls(folder, len(kept), size), [row for _, row in kept]

    def append(self, lines: Sequence[str]) -> None:
        """Add rows, each as a line of JSON without its end; all are stored when this returns.

        Raises UserError or OSError where that fails; the same rows can be given again then.
        """
        if self._folder.is_local:
            self._append_to_file("".join(f"{line}\n" for line in lines).encode())
        else:
            self._append_to_parts(lines)

    def close(self) -> None:
        """Make one file of the parts, if there are any."""
        if parts := _part_names(self._folder):
            _write_whole(self._folder, [line for line, _ in _read(self._folder)], parts)
            self._before_part += len(self._part)
            self._part = []

    def _append_to_file(self, content: bytes) -> None:
        path = Path(self._folder.path) / METRICS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
            # a full disk may have taken a part of the rows that are given again now
            stream.truncate(self._bytes)
            stream.seek(self._bytes)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        self._bytes += len(content)

    def _append_to_parts(self, lines: Sequence[str]) -> None:
        # on copies until they are stored: where the store fails, all of these rows are given again
        part, before = list(self._part), self._before_part
        size = sum(map(len, part))
        for line in lines:
            if size + len(line) > PART_BYTES and part:
                self._write_part(part, before)
                before, part, size = before + len(part), [], 0
            part.append(line)
            size += len(line)
        self._write_part(part, before)
        self._part, self._before_part = part, before

    def _write_part(self, lines: Sequence[str], before: int) -> None:
        self._folder.write_text(f"{PARTS_FOLDER}/part-{before:09d}.jsonl", "".join(f"{line}\n" for line in lines))


def _write_whole(folder: Folder, lines: Sequence[bytes], parts: Sequence[str]) -> None:
    """Write ``metrics.jsonl`` anew; then the parts, which it has taken up, are deleted."""
    folder.write_bytes(METRICS_FILE, b"".join(line + b"\n" for line in lines))
    for name in parts:
        folder.remove(f"{PARTS_FOLDER}/{name}")


def _read(folder: Folder) -> Iterator[tuple[bytes, Row]]:
    """Lines with the rows they hold; what a kill has left both in a part and in ``metrics.jsonl`` comes once."""
    seen = 0
    for line_and_row in _rows_in(folder, METRICS_FILE):
        seen += 1
        yield line_and_row
    for name in _part_names(folder):
        first = int(name.removeprefix("part-").removesuffix(".jsonl"))
        for number, line_and_row in enumerate(_rows_in(folder, f"{PARTS_FOLDER}/{name}"), start=first):
            if number >= seen:
                seen += 1
                yield line_and_row


def _rows_in(folder: Folder, name: str) -> Iterator[tuple[bytes, Row]]:
    try:
        lines = folder.read_bytes(name).split(b"\n")
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            int(row["step"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                return  # the last line is being written, or its writer was killed
            message = f"{folder.uri}/{name}: line {number} is not a row of metrics ({error}); remove it"
            raise UserError(message) from None
        yield line, row


def _part_names(folder: Folder) -> list[str]:
    names = (folder / PARTS_FOLDER).children()
    return [name for name in names if name.startswith("part-") and name.endswith(".jsonl")]
