"""What the tasks of one evaluation share: the corpus, its samples, the model, and a cache of what they read and embed.

Each profile is read once and embedded once by each model, however many tasks, labels and poolings use it. What is read
is held in memory as float16: 40 kB a profile with the default vocabulary; embeddings of single genes lie on disk.
N profiles, G genes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataprep.corpus import SAMPLE_COLUMNS, Corpus, iterate_rows
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log, tracked
from evaluation.config import RunSettings
from evaluation.inference.gene_embeddings import GenesOfProfiles, stored_gene_embeddings
from evaluation.search.nested import FixedSettings, Search
from pretrain.config import Pooling

if TYPE_CHECKING:
    from evaluation.inference.foreign_embeddings import ForeignEmbeddings
    from evaluation.inference.scored_models import ScoredModel
    from evaluation.tasks.task import Needs

# float32 B x G with NaN where hidden -> expression B x G
Predictor = Callable[[np.ndarray], np.ndarray]


class TaskContext:
    """The corpus and the models of one evaluation, for its tasks; ``foreign``: embeddings made elsewhere.

    ``settings``: those of the command, such as ``split`` (held-out profiles), ``label`` and ``seed``. ``search``
    chooses the settings of methods inside training folds.
    """

    def __init__(
        self,
        corpus: Corpus,
        models: Sequence[ScoredModel],
        settings: RunSettings,
        search: Search | None = None,
        foreign: Sequence[ForeignEmbeddings] = (),
    ) -> None:
        self.search = search or FixedSettings()
        self.corpus = corpus
        self.settings = settings
        self._models = models
        self._foreign = foreign
        self._read = np.empty(0, np.int64)
        self._expression = np.empty((0, corpus.genes), np.float16)
        self._embedded = np.empty(0, np.int64)
        self._embeddings: dict[str, dict[Pooling, np.ndarray]] = {}
        self._gene_embeddings: list[tuple[GenesOfProfiles, dict[str, np.ndarray]]] = []

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a method that is searched holds arrays, not the task or its context: take them out of it first"
        )

    @cached_property
    def samples(self) -> pa.Table:
        """One row per profile in order of row_id: sample_id, study_id, split, row_id, source, and labels as given.

        Profiles that embeddings from elsewhere lack have no labels: they are left out for all methods alike.
        """
        samples = self.corpus.samples().sort_by("row_id")
        lacking = np.logical_or.reduce([np.zeros(samples.num_rows, bool), *(one.missing for one in self._foreign)])
        for number, name in enumerate(samples.column_names if lacking.any() else []):
            if name not in SAMPLE_COLUMNS:
                values = samples.column(name)
                blanked = pc.if_else(pa.array(lacking), pa.scalar(None, values.type), values)
                samples = samples.set_column(number, name, blanked)
        return samples

    @cached_property
    def genes_scored(self) -> np.ndarray:
        """Boolean [G]: the genes that every model has, on which alone predictions are scored."""
        return np.logical_and.reduce([model.knows for model in self._models])

    @property
    def batch_size(self) -> int:
        """Profiles that the models take at a time."""
        return min(model.embedder.batch_size for model in self._models)

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
        self._embedded = np.unique(np.concatenate([np.empty(0, np.int64), *embedded.values()]))
        self._embeddings = {model.name: self._embed(model, list(embedded)) for model in self._models if embedded}
        self._gene_embeddings = [(wanted, self._embed_genes(wanted)) for wanted in genes]

    def expression(self, row_ids: np.ndarray) -> np.ndarray:
        """log1p(TPM), float16 N x G, NaN where not measured."""
        return self._expression[_positions(row_ids, self._read)]

    def embeddings(self, row_ids: np.ndarray, pooling: Pooling) -> dict[str, np.ndarray]:
        """Pooled embeddings by the name that results give them, each float32 N x width."""
        positions = _positions(row_ids, self._embedded)
        pooled = {f"{name} {pooling} embedding": of[pooling][positions] for name, of in self._embeddings.items()}
        return pooled | self._foreign_embeddings(row_ids)

    def embeddings_by_pooling(
        self, row_ids: np.ndarray, poolings: Sequence[Pooling]
    ) -> dict[str, dict[str, np.ndarray]]:
        """As :meth:`embeddings`, each of several poolings by its name; those made elsewhere have one without a name."""
        positions = _positions(row_ids, self._embedded)
        pooled = {
            f"{name} embedding": {str(pooling): of[pooling][positions] for pooling in poolings}
            for name, of in self._embeddings.items()
        }
        return pooled | {name: {"": values} for name, values in self._foreign_embeddings(row_ids).items()}

    def _foreign_embeddings(self, row_ids: np.ndarray) -> dict[str, np.ndarray]:
        found = {}
        for one in self._foreign:
            lacking = int(one.missing[row_ids].sum())
            if lacking:
                raise UserError(f"{lacking:,} of {len(row_ids):,} profiles have no embedding of {one.name}")
            found[f"{one.name} embedding"] = one.values[row_ids]
        return found

    def gene_embeddings(self, row_ids: np.ndarray, columns: np.ndarray) -> dict[str, np.ndarray]:
        """Embeddings of genes by the name that results give them, each float16 G' x N x width and on disk.

        ``row_ids`` and ``columns`` are those that the task named in its Needs.
        """
        wanted = GenesOfProfiles(row_ids, columns)
        held = next(values for genes, values in self._gene_embeddings if genes.same_as(wanted))
        return {f"{name} gene embedding": values for name, values in held.items()}

    def predictors(self) -> Mapping[str, Predictor]:
        """What predicts hidden expression, by the name that results give it; NaN for genes that a model has not."""
        return {model.name: model.reconstruct for model in self._models}

    def _embed_genes(self, genes: GenesOfProfiles) -> dict[str, np.ndarray]:
        """By model. One that lacks some of the genes is left out, with a line that says so."""
        found = {}
        for model in self._models:
            unknown = int((~model.knows[genes.columns]).sum())
            if unknown:
                log(f"{model.name} has not {unknown:,} of {len(genes.columns):,} genes: gene embeddings are left out")
            else:
                found[model.name] = self._genes_by(model, genes)
        return found

    def _genes_by(self, model: ScoredModel, genes: GenesOfProfiles) -> np.ndarray:
        columns, rows = genes.columns, genes.row_ids
        batches = (rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))
        return stored_gene_embeddings(
            genes,
            model.embedder.gene_width,
            tracked(((len(batch), batch) for batch in batches), len(rows), f"embedding {len(columns):,} genes of each"),
            lambda batch: model.embed_genes(self.expression(batch).astype(np.float32), columns),
        )

    def _embed(self, model: ScoredModel, poolings: Sequence[Pooling]) -> dict[Pooling, np.ndarray]:
        """All profiles that tasks want embedded, in each of the poolings that any of them wants, in one pass."""
        rows = self._embedded
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        doing = f"embedding, {', '.join(poolings)} of genes" + (f", {model.name}" if len(self._models) > 1 else "")
        parts = [
            model.embed_samples(self.expression(batch).astype(np.float32), poolings)
            for batch in tracked(((len(batch), batch) for batch in batches), len(rows), doing)
        ]
        nothing = np.empty((0, model.embedder.sample_width), np.float32)
        return {pooling: np.concatenate([nothing, *(part[pooling] for part in parts)]) for pooling in poolings}


def _positions(row_ids: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Where row ids are in the ascending ones that are held."""
    assert np.isin(row_ids, held).all(), "a task asks for profiles that it did not name in its Needs"
    return np.searchsorted(held, row_ids)
