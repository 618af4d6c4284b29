"""Profiles on their way from the sources to the shards: files in the folder of the corpus, not in Ray's object store.

A reading task leaves a *part*, two files: the profiles that it did not refuse, one after the other (2 x G bytes each),
and then a table of what it found, so that a part with a table is whole. Whoever writes a shard fetches the profiles
that it wants by their places, and compares each with the digest that reading took. G genes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataprep.corpus import BYTES_PER_VALUE, table_bytes
from dataprep.corpus.tables import read_table
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

_DIGEST_BYTES = 16
# Profiles no further apart are fetched from a store in one piece; a disk reads what is wanted and no more.
_LARGEST_STEP = 8
_PIECES_AT_ONCE = 256
_READERS = 16


def profile_digest(profile: bytes) -> bytes:
    """By which a profile is known again: its values, of which equal ones are duplicates."""
    return blake2b(profile, digest_size=_DIGEST_BYTES).digest()


@dataclass(frozen=True)
class ProfileParts:
    """The parts of one build, by the number of the task that left them."""

    folder: Folder
    genes: int

    def present(self) -> set[int]:
        """The numbers of all parts that are whole."""
        return {int(name.removesuffix(".parquet")) for name in self.folder.files() if name.endswith(".parquet")}

    def write(self, number: int, found: pa.Table) -> None:
        """Write a part: a row per sample, of which the column ``expression`` has the profile, or null."""
        profiles = found.column("expression").drop_null().to_pylist()
        self.folder.write_bytes(_profiles_file(number), b"".join(profiles))
        self.folder.write_bytes(_table_file(number), table_bytes(found.drop_columns(["expression"])))

    def found(self, numbers: Sequence[int]) -> list[pa.Table]:
        """The tables of parts, with their number in ``part``, and in ``place`` that of the profile among those of the
        part, null where there is none."""
        with ThreadPoolExecutor(max_workers=_READERS) as pool:
            return list(pool.map(self._found, numbers))

    def _found(self, number: int) -> pa.Table:
        table = read_table(self.folder, _table_file(number))
        kept = pc.is_valid(table.column("profile"))
        place = pc.if_else(kept, pc.subtract(pc.cumulative_sum(pc.cast(kept, pa.int64())), 1), None)
        return table.append_column("part", pa.array([number] * len(table), pa.int64())).append_column("place", place)

    def profiles(self, parts: np.ndarray, places: np.ndarray, digests: Sequence[bytes]) -> np.ndarray:
        """Profiles float16 [n, G] from their parts and places, both int64 [n].

        Raises :class:`UserError` where one is not what was written; its part is then read from the sources again by
        the next start.
        """
        width = BYTES_PER_VALUE * self.genes
        values = np.empty((len(parts), self.genes), "<f2")
        order = np.lexsort((places, parts))
        largest_step = 1 if self.folder.is_local else _LARGEST_STEP
        pieces = [order[piece] for piece in _pieces(parts[order], places[order], largest_step)]
        for first in range(0, len(pieces), _PIECES_AT_ONCE):
            some = pieces[first : first + _PIECES_AT_ONCE]
            for rows, content in zip(some, self._contents([(parts[rows], places[rows]) for rows in some]), strict=True):
                for row, start in zip(rows, width * (places[rows] - places[rows[0]]), strict=True):
                    profile = content[start : start + width]
                    if profile_digest(profile) != digests[row]:
                        raise self._damaged(int(parts[row]))
                    values[row] = np.frombuffer(profile, "<f2")
        return values

    def _contents(self, pieces: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[bytes]:
        width = BYTES_PER_VALUE * self.genes
        names = [_profiles_file(int(parts[0])) for parts, _ in pieces]
        ranges = [(width * int(places[0]), width * (int(places[-1]) + 1)) for _, places in pieces]
        try:
            return self.folder.read_ranges([(name, *range_) for name, range_ in zip(names, ranges, strict=True)])
        except FileNotFoundError:
            absent = [parts[0] for (parts, _), name in zip(pieces, names, strict=True) if not self.folder.exists(name)]
            raise self._damaged(int(absent[0] if absent else pieces[0][0][0])) from None

    def _damaged(self, number: int) -> UserError:
        self.folder.remove(_table_file(number))
        return UserError(
            f"{self.folder.uri}/{_profiles_file(number)} is damaged or missing: "
            "the same command reads its sources again"
        )


def _pieces(parts: np.ndarray, places: np.ndarray, largest_step: int) -> Iterator[slice]:
    """Stretches of ascending places, each of one part and without larger steps."""
    ends = np.flatnonzero((np.diff(parts) != 0) | (np.diff(places) > largest_step)) + 1
    for start, stop in zip([0, *ends], [*ends, len(parts)], strict=True):
        if stop > start:
            yield slice(int(start), int(stop))


def _profiles_file(number: int) -> str:
    return f"{number:06d}.profiles"


def _table_file(number: int) -> str:
    return f"{number:06d}.parquet"
