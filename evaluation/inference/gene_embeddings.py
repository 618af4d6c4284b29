"""Contextual embeddings of single genes, held on disk: N profiles, G genes, D numbers in the embedding of a gene.

A thousand profiles of a whole vocabulary would be tens of gigabytes, so they lie in a file without a name, which goes
with the process. What memory they take while they are read is the operating system's cache, which it can take back.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from dataprep.runtime.command_line import UserError

# Of the disk that temporary files go to: what others have to find there when all embeddings are written.
_SPARE_BYTES = 1024**3


@dataclass(frozen=True)
class GenesOfProfiles:
    """Genes of profiles whose embeddings a task needs.

    ``row_ids``: int64, ascending; ``columns``: of the corpus's vocabulary, int64.
    """

    row_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    columns: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def same_as(self, other: GenesOfProfiles) -> bool:
        return np.array_equal(self.row_ids, other.row_ids) and np.array_equal(self.columns, other.columns)


def stored_gene_embeddings(
    genes: GenesOfProfiles,
    width: int,
    batches: Iterable[np.ndarray],
    embed: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """float16 [G, N, D] on disk, gene by gene, since heads are fitted gene by gene.

    ``batches``: row ids in the order of ``genes``; ``embed`` returns float32 [n, G, D] of a batch. Raises UserError
    where the disk of temporary files has no room for them.
    """
    shape = (len(genes.columns), len(genes.row_ids), width)
    _require_room(shape)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the array that is mapped to it
    values = np.memmap(file, np.float16, "w+", shape=shape)
    start = 0
    for batch in batches:
        values[:, start : start + len(batch)] = np.moveaxis(embed(batch), 1, 0)
        start += len(batch)
    return values


def _require_room(shape: tuple[int, int, int]) -> None:
    needed, free = 2 * int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(tempfile.gettempdir()).free
    if needed > free - _SPARE_BYTES:
        raise UserError(
            f"embeddings of {shape[0]:,} genes in {shape[1]:,} profiles take {needed / 1e9:.1f} GB, and "
            f"{tempfile.gettempdir()} has {free / 1e9:.1f} GB: use fewer genes, or set TMPDIR to a larger disk"
        )
