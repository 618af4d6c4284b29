"""Models that are scored side by side, each given the profiles of one corpus over its own genes. B profiles, G genes.

A model may have another vocabulary than the corpus: genes are matched by Ensembl id, those that the corpus has not are
missing in what the model sees, those that the model has not are NaN in what it predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from dataprep.corpus import Corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log
from evaluation.config import MODEL, UNTRAINED, RunSettings, named
from evaluation.inference.embedder import Embedder, say_other_tpm
from pretrain.config import Pooling

# A model that knows fewer of the corpus's genes, or finds fewer of its own there, is about something else.
_LEAST_SHARE_OF_GENES = 0.5


@dataclass(frozen=True)
class ScoredModel:
    """A model by the name that results give it.

    ``columns``: int64, for each of the model's genes the column of the corpus, -1 where the corpus has not got it.
    ``genes``: G of the corpus.
    """

    name: str
    embedder: Embedder
    columns: np.ndarray
    genes: int

    @cached_property
    def knows(self) -> np.ndarray:
        """Boolean [G]: which genes of the corpus the model has."""
        return np.isin(np.arange(self.genes), self.columns)

    @property
    def same_genes(self) -> bool:
        return np.array_equal(self.columns, np.arange(self.genes))

    def reconstruct(self, expression_BG: np.ndarray) -> np.ndarray:
        """Expression, float32 B x G, from log1p(TPM) with NaN where hidden; NaN for genes that the model has not."""
        predicted = self.embedder.reconstruct(self._aligned(expression_BG))
        if self.same_genes:
            return predicted
        found = np.full(expression_BG.shape, np.nan, np.float32)
        found[:, self.columns[self._present]] = predicted[:, self._present]
        return found

    def embed_samples(self, expression_BG: np.ndarray, poolings: Sequence[Pooling]) -> dict[Pooling, np.ndarray]:
        """float32 B x width for each of the poolings over all genes of the model."""
        return self.embedder.embed_poolings(self._aligned(expression_BG), poolings)

    def embed_genes(self, expression_BG: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """float32 B x G' x width of genes by their ``columns`` in the corpus, all of which the model knows."""
        own = np.full(self.genes, -1)
        own[self.columns[self._present]] = np.flatnonzero(self._present)
        return self.embedder.embed_genes(self._aligned(expression_BG), torch.from_numpy(own[columns]))

    @cached_property
    def _present(self) -> np.ndarray:
        return self.columns >= 0

    def _aligned(self, expression_BG: np.ndarray) -> np.ndarray:
        if self.same_genes:
            return expression_BG
        aligned = np.full((len(expression_BG), len(self.columns)), np.nan, np.float32)
        aligned[:, self._present] = expression_BG[:, self.columns[self._present]]
        return aligned


def open_models(settings: RunSettings, corpus: Corpus) -> list[ScoredModel]:
    """The model, further ones, and the first one untrained where that is asked for, loaded.

    Raises UserError where one is no export, or shares too few genes with the corpus.
    """
    addresses = {MODEL: settings.model, **named(settings.models)}
    models = [_opened(name, address, settings, corpus) for name, address in addresses.items()]
    if settings.untrained:
        first = models[0]
        models.append(
            ScoredModel(UNTRAINED, first.embedder.untrained(settings.seed).load(), first.columns, corpus.genes)
        )
    return models


def _opened(name: str, address: str, settings: RunSettings, corpus: Corpus) -> ScoredModel:
    embedder = Embedder.open(address, settings.kernel, settings.precision, settings.batch_size).load()
    say_other_tpm(embedder.export, corpus, name)
    found = corpus.vocabulary.column_of
    columns = np.array([found.get(gene, -1) for gene in embedder.vocabulary.ensembl_ids], np.int64)
    shared, own = int((columns >= 0).sum()), embedder.vocabulary.size
    if shared < _LEAST_SHARE_OF_GENES * max(own, corpus.genes):
        raise UserError(
            f"{corpus.address} is over another vocabulary than the model {address}: they share {shared:,} genes, of "
            f"{corpus.genes:,} and {own:,}; half are needed"
        )
    if shared < own or shared < corpus.genes:
        log(
            f"{name} ({address}) has {shared:,} of the corpus's {corpus.genes:,} genes; {own - shared:,} of its own "
            f"{own:,} are missing in the corpus"
        )
    return ScoredModel(name, embedder, columns, corpus.genes)
