"""Scores of predictions for pairs of a cell line and a target (a drug, a gene). N pairs, U units, C cells.

The published score is Pearson's r over cell lines, target by target, and the mean of that. Out-of-fold predictions of
several folds cannot be pooled for it: each fold predicts around the mean of its own training lines, which is low where
the held-out values are high, so that a mean that knows nothing looks worse than chance (with one line left out, r is
-1), and so does what is fitted to noise. Within one test fold, chance is 0 whatever was fitted; r is therefore taken
fold by fold, and averaged over the folds of a target by their numbers of lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from evaluation.scores.comparison import Metric, Statistic
from evaluation.scores.intervals import CORRELATION, ERROR
from evaluation.scores.metrics import ErrorSums

# Of a target in a test fold; two always correlate.
_FEWEST_LINES = 3
# A sum of squares below this share of the whole is rounding.
_CONSTANT_SHARE = 1e-10


def pair_metrics(kind: Literal["drug", "gene"]) -> tuple[Metric, Metric, Metric]:
    """Mean Pearson over targets of a kind; Pearson over all pairs; root mean squared error."""
    return (
        Metric(f"mean_pearson_per_{kind}", CORRELATION),
        Metric("pearson", CORRELATION),
        Metric("rmse", ERROR, higher_is_better=False),
    )


@dataclass(frozen=True)
class PairScores:
    """How predictions for N pairs are scored on resamples of units (cell lines, or targets).

    ``unit``, ``target`` and ``fold`` are numbers, int [N]; ``truth``: float64 [N]; ``kind`` of the targets.
    """

    unit: np.ndarray
    target: np.ndarray
    fold: np.ndarray
    truth: np.ndarray
    kind: Literal["drug", "gene"]

    def statistics(self, predicted: np.ndarray) -> dict[str, Statistic]:
        """The scores named by :func:`pair_metrics` of predictions (float [N]), for positions of units."""
        assert np.isfinite(predicted).all(), "a pair without a prediction would vanish from the scores"
        sums = self._sums(predicted)
        mean_of_targets, pearson, rmse = (metric.name for metric in pair_metrics(self.kind))
        return {
            mean_of_targets: lambda units: sums.mean_pearson_per_target(units),
            pearson: lambda units: float(sums.total(units).pearson()),
            rmse: lambda units: float(np.sqrt(sums.total(units).mean_squared_error())),
        }

    def _sums(self, predicted: np.ndarray) -> _SumsByUnit:
        # around the mean, so that differences of large sums keep their digits; no score is changed by it
        shift = self.truth.mean()
        y, p = self.truth - shift, predicted.astype(np.float64) - shift
        cells, cell_of = np.unique(self.target * (self.fold.max() + 1) + self.fold, return_inverse=True)
        parts = np.stack([np.ones_like(y), y, p, y * y, p * p, y * p])
        rows = (cell_of[None, :] + len(cells) * np.arange(6)[:, None]).ravel()
        units = int(self.unit.max()) + 1
        matrix = csr_matrix((parts.ravel(), (rows, np.tile(self.unit, 6))), shape=(6 * len(cells), units))
        return _SumsByUnit(matrix, cells // (self.fold.max() + 1))


@dataclass(frozen=True)
class _SumsByUnit:
    """``matrix``: sparse [6 C, U], what each unit adds to the six sums of each cell (a target in a fold)."""

    matrix: csr_matrix
    target_of_cell: np.ndarray

    def total(self, units: np.ndarray) -> ErrorSums:
        return ErrorSums(self._of(units).sum(axis=1))

    def mean_pearson_per_target(self, units: np.ndarray) -> float:
        """Over the targets whose values vary; where a prediction does not vary, the correlation is 0.

        NaN where a method's prediction varies nowhere: its correlation is not defined.
        """
        cells = ErrorSums(self._of(units).T)
        n, y, _, yy, _, _ = np.moveaxis(cells.values, -1, 0)
        scored = (n >= _FEWEST_LINES) & (yy - y * y / np.maximum(n, 1) > _CONSTANT_SHARE * yy)
        correlation = cells.pearson(_FEWEST_LINES)
        if not np.isfinite(correlation[scored]).any():
            return float("nan")
        weights = np.bincount(self.target_of_cell, np.where(scored, n, 0.0))
        sums = np.bincount(self.target_of_cell, np.where(scored, n * np.nan_to_num(correlation), 0.0))
        return float((sums[weights > 0] / weights[weights > 0]).mean())

    def _of(self, units: np.ndarray) -> np.ndarray:
        weights = np.bincount(units, minlength=self.matrix.shape[1]).astype(np.float64)
        return (self.matrix @ weights).reshape(6, -1)
