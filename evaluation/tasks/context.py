"""What the tasks of one evaluation share: the corpus, its samples, the model, and a cache of what they read and embed.

Each profile is read once and, for each pooling, embedded once, however many tasks and labels use it. What is read is
held in memory as float16: 40 kB a profile with the default vocabulary; embeddings of single genes lie on disk.
N profiles, G genes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dataprep.corpus import Corpus, iterate_rows
from dataprep.runtime.terminal import log, tracked
from evaluation.config import RunSettings
from evaluation.inference.gene_embeddings import GenesOfProfiles, stored_gene_embeddings
from evaluation.search.nested import FixedSettings, Search
from pretrain.config import Pooling

if TYPE_CHECKING:
    from evaluation.inference.embedder import Embedder
    from evaluation.tasks.task import Needs

# float32 B x G with NaN where hidden -> expression B x G
Predictor = Callable[[np.ndarray], np.ndarray]

# How tables of results name the model.
MODEL = "BulkFormer"


class TaskContext:
    """The corpus and the model of one evaluation, for its tasks.

    ``settings``: those of the command, such as ``split`` (held-out profiles), ``label`` and ``seed``. ``search``
    chooses the settings of methods inside training folds.
    """

    def __init__(self, corpus: Corpus, embedder: Embedder, settings: RunSettings, search: Search | None = None) -> None:
        self.search = search or FixedSettings()
        self.corpus = corpus
        self.settings = settings
        self._embedder = embedder
        self._read = np.empty(0, np.int64)
        self._expression = np.empty((0, corpus.genes), np.float16)
        self._embedded: dict[Pooling, np.ndarray] = {}
        self._embeddings: dict[Pooling, np.ndarray] = {}
        self._gene_embeddings: list[tuple[GenesOfProfiles, np.ndarray]] = []

    @cached_property
    def samples(self) -> pa.Table:
        """One row per profile in order of row_id: sample_id, study_id, split, row_id, source, and labels as given."""
        return self.corpus.samples().sort_by("row_id")

    @property
    def batch_size(self) -> int:
        """Profiles that the model takes at a time."""
        return self._embedder.batch_size

    def row_ids(self, split: str, at_most: int | None = None) -> np.ndarray:
        """Row ids of a split, int64, ascending. Profiles are shuffled: the first ``at_most`` are a random choice."""
        ranges = [np.arange(shard.first_row_id, shard.first_row_id + shard.rows) for shard in self.corpus.shards(split)]
        return np.concatenate([np.empty(0, np.int64), *ranges])[:at_most]

    def studies(self, row_ids: np.ndarray) -> list[str]:
        """The study of each profile."""
        positions = np.searchsorted(self.samples.column("row_id").to_numpy(), row_ids)
        return self.samples.column("study_id").take(pa.array(positions)).to_pylist()

    def obtain(self, needs: Iterable[Needs]) -> None:
        """Read and embed all that the tasks of this evaluation need."""
        needs = list(needs)
        embedded: dict[Pooling, np.ndarray] = {}
        for need in needs:
            for pooling, row_ids in need.embeddings.items():
                embedded[pooling] = np.union1d(embedded.get(pooling, np.empty(0, np.int64)), row_ids)
        genes = [need.gene_embeddings for need in needs if len(need.gene_embeddings.row_ids)]
        read = [*(need.expression for need in needs), *embedded.values(), *(wanted.row_ids for wanted in genes)]
        self._read = np.unique(np.concatenate([np.empty(0, np.int64), *read]))
        log(f"reading {len(self._read):,} profiles")
        self._expression = np.empty((len(self._read), self.corpus.genes), np.float16)
        filled = 0
        for row_ids, expression in iterate_rows(self.corpus, self._read):
            self._expression[filled : filled + len(row_ids)] = expression
            filled += len(row_ids)
        for pooling, row_ids in embedded.items():
            self._embeddings[pooling] = self._embed(row_ids, pooling)
        self._embedded = embedded
        self._gene_embeddings = [(wanted, self._embed_genes(wanted)) for wanted in genes]

    def expression(self, row_ids: np.ndarray) -> np.ndarray:
        """log1p(TPM), float16 N x G, NaN where not measured."""
        return self._expression[_positions(row_ids, self._read)]

    def embeddings(self, row_ids: np.ndarray, pooling: Pooling) -> dict[str, np.ndarray]:
        """Pooled embeddings by the name that results give them, each float32 N x width."""
        positions = _positions(row_ids, self._embedded.get(pooling, np.empty(0, np.int64)))
        return {f"{MODEL} {pooling} embedding": self._embeddings[pooling][positions]}

    def gene_embeddings(self, row_ids: np.ndarray, columns: np.ndarray) -> dict[str, np.ndarray]:
        """Embeddings of genes by the name that results give them, each float16 G' x N x width and on disk.

        ``row_ids`` and ``columns`` are those that the task named in its Needs.
        """
        wanted = GenesOfProfiles(row_ids, columns)
        held = next(values for genes, values in self._gene_embeddings if genes.same_as(wanted))
        return {f"{MODEL} gene embedding": held}

    def predictors(self) -> Mapping[str, Predictor]:
        """What predicts hidden expression, by the name that results give it."""
        return {MODEL: self._embedder.reconstruct}

    def _embed_genes(self, genes: GenesOfProfiles) -> np.ndarray:
        # torch takes seconds to import, and --help does without it
        import torch

        columns, rows = torch.from_numpy(genes.columns), genes.row_ids
        batches = (rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))
        return stored_gene_embeddings(
            genes,
            self._embedder.width,
            tracked(((len(batch), batch) for batch in batches), len(rows), f"embedding {len(columns):,} genes of each"),
            lambda batch: self._embedder.embed_genes(self.expression(batch).astype(np.float32), columns),
        )

    def _embed(self, row_ids: np.ndarray, pooling: Pooling) -> np.ndarray:
        batches = [row_ids[start : start + self.batch_size] for start in range(0, len(row_ids), self.batch_size)]
        doing = f"embedding, {pooling} of genes"
        parts = [
            self._embedder.embed_samples(self.expression(batch).astype(np.float32), pooling)
            for batch in tracked(((len(batch), batch) for batch in batches), len(row_ids), doing)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self._embedder.width), np.float32)


def _positions(row_ids: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Where row ids are in the ascending ones that are held."""
    assert np.isin(row_ids, held).all(), "a task asks for profiles that it did not name in its Needs"
    return np.searchsorted(held, row_ids)
