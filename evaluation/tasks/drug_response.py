"""Drug response: ln IC50 of cell lines from their pooled embeddings and a vector of the drug, and from raw expression.

All features go through the same steps: principal components of the training lines, then a ridge regression or a
network. L cell lines, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from dataprep.runtime.command_line import UserError, refuse_without_effect
from dataprep.runtime.terminal import log
from dataprep.sources.sample_metadata import read_metadata
from evaluation.inference.cell_line_tables import (
    CellLineTable,
    ProfilesOfLines,
    features_for,
    profiles_of_lines,
    read_drug_response,
)
from evaluation.methods.pair_predictions import PairSettings, out_of_fold
from evaluation.scores.comparison import Comparison
from evaluation.scores.folds import Folds, fold_numbers, pair_folds
from evaluation.scores.pair_comparison import compare_on_pairs, result_on_pairs
from evaluation.scores.pair_scores import PairScores
from evaluation.scores.results import TaskResult
from evaluation.tasks.registry import register_task
from evaluation.tasks.task import Needs, NotApplicableError, Task
from pretrain.config import Pooling

if TYPE_CHECKING:
    from evaluation.methods.drug_vectors import DrugVectors

_RAW = "raw expression"
_TABLE = "table features"
_NAME = "drug_response"


class DrugResponseSettings(PairSettings):
    """Response of cell lines to drugs, predicted from embeddings of the lines and vectors of the drugs."""

    table: str | None = Field(
        None, description="file of ln IC50: drugs x cell lines, or columns cell_line, drug, value; needed"
    )
    smiles: str | None = Field(None, description="file of structures: drug, smiles; default: a code of each drug")
    split: Literal["cell_line", "drug", "both", "pair"] = Field("cell_line", description="what is new in a test fold")
    folds: int = Field(5, ge=2, description="folds, of cell lines and of drugs alike")
    min_lines: int = Field(10, ge=5, description="drugs measured on fewer cell lines are left out")
    pooling: Pooling = Field("mean", description="of gene embeddings; all = max + mean + median")
    resamples: int = Field(
        1000, ge=100, description="cell lines (or drugs) left out in turn for the intervals, at most"
    )

    @model_validator(mode="after")
    def _check(self) -> DrugResponseSettings:
        if self.features is not None:
            refuse_without_effect(self, ("cell_line_column", "pooling"), "with features of a table")
        if self.split in ("drug", "both") and self.smiles is None and self.table is not None:
            raise ValueError(f"split {self.split} predicts drugs that no fold has seen, which takes their smiles")
        return self


@register_task
class DrugResponse(Task[DrugResponseSettings]):
    """Embeddings of cell lines (or a table's features) joined with vectors of drugs."""

    name = _NAME
    settings_type = DrugResponseSettings
    uses = ()
    files = ("table", "smiles", "features")

    def prepare(self) -> Needs:
        settings = self.settings
        if settings.table is None:
            raise NotApplicableError(f"no --{_NAME}.table of measured responses")
        table = read_drug_response(settings.table)
        self._facts: dict[str, object] = {}
        self._profiles: ProfilesOfLines | None = None
        if settings.features is not None:
            self._features = features_for(table, settings.table, settings.features)
            lines = self._features.lines
        else:
            self._profiles = self._with_profiles(table)
            lines = self._profiles.lines
        self._table, self._drugs = self._usable(table.part(lines, np.full(len(table.targets), True)))
        self._folds = self._split()
        if self._profiles is None:
            return Needs()
        return Needs(expression=self._profiles.row_ids, embeddings={settings.pooling: self._profiles.row_ids})

    def score(self) -> Sequence[TaskResult]:
        # scikit-learn takes a second to import, and --help does without it
        from evaluation.methods.drug_response import ResponseHeads, simple_methods

        settings, table, seed = self.settings, self._table, self.context.settings.seed
        log(f"predicting {len(table.pairs):,} responses: {len(table.lines):,} cell lines, {len(table.targets):,} drugs")
        simple = simple_methods(table.pairs, settings.split)
        heads = {
            f"{source} -> {name}": head
            for source, features in self._sources().items()
            for name, head in ResponseHeads(table.pairs, features, self._drugs, self._unseen_drugs, seed)
            .by_name()
            .items()
        }
        predicted = out_of_fold(
            self.context.search, _NAME, heads | dict(simple), self._folds, table.pairs.value, settings
        )
        baselines = [*simple, *(name for name in heads if name.startswith(f"{_RAW} -> "))]
        comparison = self._compared(predicted, baselines)
        profiles = None if self._profiles is None else self._profiles.of(table.lines)
        by_line = settings.split != "drug"
        return [result_on_pairs(_NAME, comparison, self._facts, baselines, profiles, by_line)]

    def _compared(self, predicted: Mapping[str, np.ndarray], baselines: Sequence[str]) -> Comparison:
        """With intervals over cell lines, or over drugs where those are what is new."""
        table, by_drug = self._table, self.settings.split == "drug"
        pairs = table.pairs
        unit = pairs.target if by_drug else pairs.line
        return compare_on_pairs(
            PairScores(unit, pairs.target, fold_numbers(self._folds), pairs.value, "drug"),
            predicted,
            self._folds,
            table.targets if by_drug else table.lines,
            "drugs" if by_drug else "cell lines",
            baselines,
            self.settings.resamples,
            self.context.settings.seed,
        )

    @property
    def _unseen_drugs(self) -> bool:
        return self.settings.split in ("drug", "both")

    def _with_profiles(self, table: CellLineTable) -> ProfilesOfLines:
        context = self.context
        return profiles_of_lines(
            context.samples,
            context.corpus.address,
            self.settings.cell_line_column,
            table.lines,
            f"--{_NAME}.cell_line_column",
        )

    def _usable(self, table: CellLineTable) -> tuple[CellLineTable, DrugVectors]:
        """The drugs measured on enough lines that have a vector, and these; others are counted."""
        # RDKit takes a second to import, and --help does without it
        from evaluation.methods.drug_vectors import fingerprints, one_hot

        settings = self.settings
        measured = np.isfinite(table.values).sum(axis=0) >= settings.min_lines
        if not measured.any():
            raise UserError(
                f"{settings.table}: none of {len(table.targets):,} drugs was measured on {settings.min_lines} of the "
                f"{len(table.lines):,} cell lines with features (--{_NAME}.min_lines)"
            )
        facts = self._facts
        facts |= {"drugs_of_too_few_lines": int((~measured).sum())}
        if settings.smiles is None:
            table = table.part(table.lines, measured).measured()
            return table, one_hot(table.targets)
        smiles = _smiles(settings.smiles)
        vectors = fingerprints({drug: smiles[drug] for drug in table.targets if drug in smiles})
        absent = [drug for drug in table.targets if drug not in smiles]
        for problem, drugs in (("no structure", absent), ("a structure that RDKit cannot read", vectors.unparsable)):
            if drugs:
                log(f"{settings.smiles}: {len(drugs):,} drugs have {problem} and are left out, e.g. {drugs[0]}")
        facts |= {"drugs_without_structure": len(absent), "unreadable_structures": len(vectors.unparsable)}
        chosen = measured & np.isin(np.array(table.targets, object), vectors.drugs)
        if not chosen.any():
            raise UserError(
                f"{settings.smiles}: none of {int(measured.sum()):,} drugs has a structure that can be read"
            )
        table = table.part(table.lines, chosen).measured()
        return table, vectors.of(table.targets)

    def _split(self) -> Folds:
        pairs, split = self._table.pairs, self.settings.split
        lines = np.array(self._table.lines)[pairs.line]
        drugs = np.array(self._table.targets)[pairs.target]
        folds = pair_folds(
            lines, drugs, "target" if split == "drug" else split, self.settings.folds, self.context.settings.seed
        )
        self._facts |= {
            "cell_lines": len(np.unique(lines)),
            "drugs": len(np.unique(drugs)),
            "pairs": len(pairs),
            "split": split,
            "folds": folds.described,
        }
        return folds

    def _sources(self) -> Mapping[str, np.ndarray]:
        """Features of the lines, each [L, F], by the name that results give them."""
        if self._profiles is None:
            return {_TABLE: self._features.part(self._table.lines, np.full(len(self._features.targets), True)).values}
        profiles, context = self._profiles.of(self._table.lines), self.context
        embedded = context.embeddings(profiles.row_ids, self.settings.pooling)
        features = {**embedded, _RAW: context.expression(profiles.row_ids)}
        return {name: profiles.mean(values.astype(np.float32)) for name, values in features.items()}


def _smiles(address: str) -> Mapping[str, str]:
    table = read_metadata(address)
    if "smiles" not in table.columns:
        raise UserError(f"{address} has no column smiles; it has {', '.join(map(str, table.columns)) or 'one column'}")
    return {str(drug): smiles or "" for drug, smiles in table["smiles"].items()}
