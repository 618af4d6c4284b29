"""Gene essentiality: what losing a gene does to a cell line, from the gene's contextual embedding in that line.

Beside it stand the pooled embedding of the line, raw expression through the same steps, the gene's own expression, and
the mean effect of the gene. L cell lines, G genes, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from dataprep.genes.identifiers import map_genes
from dataprep.runtime.command_line import UserError, refuse_without_effect
from dataprep.runtime.terminal import log
from evaluation.inference.cell_line_tables import (
    CellLineTable,
    features_for,
    first_fields,
    profiles_of_lines,
    read_lines_by_targets,
)
from evaluation.inference.gene_embeddings import GenesOfProfiles
from evaluation.methods.pair_predictions import Head, PairSettings, out_of_fold
from evaluation.methods.ridge import means_of_targets
from evaluation.scores.comparison import Comparison
from evaluation.scores.core_genes import AUROC, auroc_of_core_genes
from evaluation.scores.folds import Folds, fold_numbers, pair_folds
from evaluation.scores.pair_comparison import compare_on_pairs, result_on_pairs
from evaluation.scores.pair_scores import PairScores
from evaluation.scores.results import TaskResult
from evaluation.search.nested import Choice
from evaluation.tasks.registry import register_task
from evaluation.tasks.task import Needs, NotApplicableError, Task
from pretrain.config import Pooling

_RAW, _OWN, _TABLE = "raw expression", "own expression", "table features"
_GENE_MEAN, _LINE_MEAN = "gene mean", "cell-line mean"
_NAME = "essentiality"


class EssentialitySettings(PairSettings):
    """Effect of losing a gene on cell lines, predicted from the gene's contextual embedding."""

    table: str | None = Field(None, description="file of gene effects, cell lines x genes; needed")
    core: str | None = Field(None, description="file of genes known to be essential, one a line, for their AUROC")
    nonessential: str | None = Field(None, description="file of genes known not to be essential, one a line")
    split: Literal["cell_line", "gene"] = Field("cell_line", description="what is new in a test fold")
    folds: int = Field(5, ge=2, description="folds")
    max_genes: int = Field(1000, ge=1, description="genes to score, drawn at random, at the most")
    min_lines: int = Field(5, ge=5, description="genes with an effect in fewer cell lines are left out")
    pooling: Pooling = Field("mean", description="of gene embeddings into one of the line; all = max + mean + median")
    max_pairs: int = Field(
        100_000, ge=100, description="pairs of a gene and a line that a network is fitted on, at most"
    )
    resamples: int = Field(
        1000, ge=100, description="cell lines (or genes) left out in turn for the intervals, at most"
    )

    @model_validator(mode="after")
    def _check(self) -> EssentialitySettings:
        if (self.core is None) != (self.nonessential is None):
            raise ValueError("the AUROC of essential genes takes both core and nonessential")
        if self.features is not None:
            of_profiles = ("cell_line_column", "pooling", "hidden", "epochs", "decay", "max_pairs")
            refuse_without_effect(self, of_profiles, "with features of a table, which has none of single genes")
            if self.split == "gene":
                raise ValueError("split gene takes embeddings of genes, which features of cell lines are not")
        return self


@register_task
class Essentiality(Task[EssentialitySettings]):
    """Embeddings of genes in cell lines, and of cell lines."""

    name = _NAME
    settings_type = EssentialitySettings
    uses = ()
    files = ("table", "core", "nonessential", "features")

    def prepare(self) -> Needs:
        settings, context = self.settings, self.context
        if settings.table is None:
            raise NotApplicableError(f"no --{_NAME}.table of measured gene effects")
        self._facts: dict[str, object] = {}
        table = read_lines_by_targets(settings.table)
        self._features: CellLineTable | None = None
        if settings.features is not None:
            self._features = features_for(table, settings.table, settings.features)
            self._choose(table, self._features.lines)
            return Needs()
        column, where = settings.cell_line_column, context.corpus.address
        profiles = profiles_of_lines(context.samples, where, column, table.lines, f"--{_NAME}.cell_line_column")
        self._choose(table, profiles.lines)
        self._profiles = profiles.of(self._table.lines)
        rows = self._profiles.row_ids
        return Needs(rows, {settings.pooling: rows}, GenesOfProfiles(rows, self._columns))

    def score(self) -> Sequence[TaskResult]:
        settings, table = self.settings, self._table
        log(f"predicting {len(table.pairs):,} effects: {len(table.targets):,} genes in {len(table.lines):,} cell lines")
        simple, heads = self._simple(), self._heads()
        predicted = out_of_fold(self.context.search, _NAME, heads | simple, self._folds, table.pairs.value, settings)
        baselines = [*simple, *(name for name in heads if name.startswith((_RAW, _OWN)))]
        comparison = self._compared(predicted, baselines)
        profiles = self._profiles if self._features is None else None
        by_line = settings.split == "cell_line"
        return [result_on_pairs(_NAME, comparison, self._facts, baselines, profiles, by_line)]

    def _choose(self, table: CellLineTable, lines: Sequence[str]) -> None:
        """What is scored, of lines that have features."""
        self._table, self._columns = self._usable(table.part(lines, np.arange(len(table.targets))))
        self._core = self._essential_or_not()
        self._folds = self._split()

    def _usable(self, table: CellLineTable) -> tuple[CellLineTable, np.ndarray]:
        """The genes to score that are in the vocabulary, and their columns of it; others are counted."""
        settings, vocabulary = self.settings, self.context.corpus.vocabulary
        assert settings.table is not None
        mapped = map_genes(settings.table, table.targets, "mixed", vocabulary, repeated_genes="first").columns
        first = np.isin(np.arange(len(mapped)), np.unique(mapped, return_index=True)[1])
        known = (mapped >= 0) & first
        measured = np.isfinite(table.values).sum(axis=0) >= settings.min_lines
        if not (known & measured).any():
            raise UserError(
                f"{settings.table}: no gene of {len(known):,} is in the vocabulary and has an effect in "
                f"{settings.min_lines} of the {len(table.lines):,} cell lines with profiles (--{_NAME}.min_lines)"
            )
        chosen = np.flatnonzero(known & measured)
        if len(chosen) > settings.max_genes:
            rng = np.random.default_rng(self.context.settings.seed)
            chosen = np.sort(rng.choice(chosen, settings.max_genes, replace=False))
        absent = [name for name, column in zip(table.targets, mapped, strict=True) if column < 0]
        if absent:
            log(f"{settings.table}: {len(absent):,} genes are not in the vocabulary, e.g. {', '.join(absent[:3])}")
        part = table.part(table.lines, chosen).measured()
        self._facts |= {
            "cell_lines": len(part.lines),
            "genes": len(chosen),
            "genes_not_in_vocabulary": len(absent),
            "genes_of_too_few_lines": int((known & ~measured).sum()),
            "genes_not_drawn": int((known & measured).sum()) - len(chosen),
            "pairs": len(part.pairs),
            "missing_effects": int(np.isnan(part.values).sum()),
        }
        return part, mapped[chosen]

    def _essential_or_not(self) -> np.ndarray | None:
        """1 for a core gene, 0 for one that is known not to be essential, -1 for others; int [G]."""
        settings = self.settings
        if settings.core is None or settings.nonessential is None:
            return None
        kind = np.full(len(self._columns), -1)
        for number, address in ((0, settings.nonessential), (1, settings.core)):
            columns = map_genes(
                address, first_fields(address), "mixed", self.context.corpus.vocabulary, repeated_genes="first"
            ).columns
            kind[np.isin(self._columns, columns[columns >= 0])] = number
        sizes = {"core_genes": int((kind == 1).sum()), "nonessential_genes": int((kind == 0).sum())}
        if not all(sizes.values()):
            raise UserError(
                f"{settings.table}: of the genes to score {sizes['core_genes']} are in {settings.core} and "
                f"{sizes['nonessential_genes']} in {settings.nonessential}: their AUROC takes both"
            )
        self._facts |= sizes
        return kind

    def _split(self) -> Folds:
        pairs, split = self._table.pairs, self.settings.split
        lines, genes = np.array(self._table.lines)[pairs.line], np.array(self._table.targets)[pairs.target]
        kind: Literal["cell_line", "target"] = "target" if split == "gene" else "cell_line"
        folds = pair_folds(lines, genes, kind, self.settings.folds, self.context.settings.seed)
        self._facts |= {"split": split, "folds": folds.described}
        return folds

    def _simple(self) -> dict[str, Head]:
        """The mean effect of a gene; of a gene that no fold has seen, that of the cell line."""
        pairs, shape = self._table.pairs, (len(self._table.lines), len(self._table.targets))

        def gene_mean(_: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
            return means_of_targets(pairs.matrix(train, *shape))[pairs.target[test]]

        def line_mean(_: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
            return means_of_targets(pairs.matrix(train, *shape).T)[pairs.line[test]]

        return {_LINE_MEAN: Head(line_mean)} if self.settings.split == "gene" else {_GENE_MEAN: Head(gene_mean)}

    def _heads(self) -> dict[str, Head]:
        if self._features is not None:
            features = self._features.part(self._table.lines, np.arange(len(self._features.targets)))
            return self._line_heads({_TABLE: features.values})
        profiles, expression = self._profiles, self.context.expression(self._profiles.row_ids)
        heads = self._gene_heads(expression)
        # features of lines alone say nothing about a gene that was never seen
        if self.settings.split == "cell_line":
            of_lines = self.context.embeddings(profiles.row_ids, self.settings.pooling) | {_RAW: expression}
            heads |= self._line_heads({source: profiles.mean(values) for source, values in of_lines.items()})
        return heads

    def _gene_heads(self, expression: np.ndarray) -> dict[str, Head]:
        """On features of each gene in each line: embeddings, and the gene's own expression."""
        # scikit-learn takes a second to import, and --help does without it
        from evaluation.methods.essentiality import GeneHeads, OfGenes

        context, profiles, settings, pairs = self.context, self._profiles, self.settings, self._table.pairs
        seed, unseen = context.settings.seed, settings.split == "gene"
        heads: dict[str, Head] = {}
        of_genes = {
            **context.gene_embeddings(profiles.row_ids, self._columns),
            _OWN: expression.T[self._columns, :, None],
        }
        for source, values in of_genes.items():
            of_source = GeneHeads(pairs, OfGenes(values, profiles), unseen, settings.max_pairs, seed)
            heads |= {f"{source} -> {name}": head for name, head in of_source.by_name().items()}
        return heads

    def _line_heads(self, sources: Mapping[str, np.ndarray]) -> dict[str, Head]:
        """On features of lines, each [L, F]."""
        # scikit-learn takes a second to import, and --help does without it
        from evaluation.methods.essentiality import LineHeads

        heads: dict[str, Head] = {}
        for source, values in sources.items():
            lines = LineHeads(self._table.pairs, values, len(self._columns), self.context.settings.seed)
            heads |= {f"{source} -> {name}": head for name, head in lines.by_name().items()}
        return heads

    def _compared(self, predicted: Mapping[str, np.ndarray], baselines: Sequence[str]) -> Comparison:
        """With intervals over cell lines, or over genes where those are what is new."""
        table, by_gene = self._table, self.settings.split == "gene"
        pairs = table.pairs
        number = pairs.target if by_gene else pairs.line
        auroc = {}
        if self._core is not None:
            auroc[AUROC] = {
                name: auroc_of_core_genes(pairs, values, self._core, by_gene) for name, values in predicted.items()
            }
        return compare_on_pairs(
            PairScores(number, pairs.target, fold_numbers(self._folds), pairs.value, "gene"),
            predicted,
            self._folds,
            table.targets if by_gene else table.lines,
            "genes" if by_gene else "cell lines",
            baselines,
            self.settings.resamples,
            self.context.settings.seed,
            auroc,
        )
