"""Folds inside the training part of every outer fold, the scores of a choice on them, and what is chosen by these.

K outer folds, I inner folds of each, T trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.scores.folds import Folds, group_folds
from evaluation.search.nested import Choice, FitPredict, RowScore

# Of the choices that an outer fold has seen on its first inner fold, the share that it sees on the others.
KEPT_SHARE = 1 / 3

Part = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Method:
    """What the trials of one search share: the functions with their arrays, and rows to fit and to score on.

    ``inner``: of each outer fold, its inner folds' rows; none where its training rows are of one group. Positions are
    those of all rows.
    """

    fit_predict: FitPredict
    score: RowScore
    outer: Sequence[Part]
    inner: Sequence[Sequence[Part]]

    @classmethod
    def of(cls, folds: Folds, fit_predict: FitPredict, score: RowScore, inner: int, seed: int) -> Method:
        return cls(
            fit_predict, score, folds.parts, [_inner_parts(folds, train, inner, seed) for train, _ in folds.parts]
        )

    def inner_score(self, choice: Choice, outer: int, inner: int) -> float:
        """The score of a choice fitted on all inner folds of an outer fold but one, on that one."""
        train, test = self.inner[outer][inner]
        return float(self.score(np.asarray(self.fit_predict(choice, train, test)), test))

    def predicted(self, choice: Choice, outer: int) -> np.ndarray:
        """Predictions of an outer fold's test rows by a choice fitted on its training rows."""
        train, test = self.outer[outer]
        return np.asarray(self.fit_predict(choice, train, test))

    @property
    def weights(self) -> np.ndarray:
        """Rows of every inner fold, float [K, I]; 0 for one that there is not."""
        most = max((len(parts) for parts in self.inner), default=0)
        weights = np.zeros((len(self.inner), most))
        for outer, parts in enumerate(self.inner):
            weights[outer, : len(parts)] = [len(test) for _, test in parts]
        return weights


def kept(first_scores_TK: np.ndarray) -> np.ndarray:
    """Which trials every outer fold sees on its other inner folds, by its first one alone: bool [T, K].

    The best third, and the fixed setting (the first trial). Of equal ones the earlier; one without a score is the last.
    """
    trials = len(first_scores_TK)
    ranks = np.argsort(np.argsort(-_comparable(first_scores_TK), axis=0, kind="stable"), axis=0)
    chosen = ranks < int(np.ceil(KEPT_SHARE * trials))
    chosen[0] = True
    return chosen


def best(scores_TKI: np.ndarray, weights_KI: np.ndarray, kept_TK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The trial that every outer fold takes, int [K], and the inner scores of all, float [T, K].

    A score is the mean over the inner folds, by their rows, on which it is defined: predictions of several models are
    never pooled. An outer fold with no score at all takes the fixed setting, the first trial.
    """
    mean_TK = mean_scores(scores_TKI, weights_KI)
    return _comparable(np.where(kept_TK, mean_TK, np.nan)).argmax(axis=0), mean_TK


def mean_scores(scores_TKI: np.ndarray, weights_KI: np.ndarray) -> np.ndarray:
    """Mean over inner folds by their rows, of those that are defined, float [T, K]; NaN without any."""
    weights = np.where(np.isfinite(scores_TKI), weights_KI, 0.0)
    total = weights.sum(axis=2)
    sums = (np.nan_to_num(scores_TKI, nan=0.0, posinf=0.0, neginf=0.0) * weights).sum(axis=2)
    return np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0)


def _comparable(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(scores), scores, -np.inf)


def _inner_parts(folds: Folds, train: np.ndarray, wanted: int, seed: int) -> list[Part]:
    """Whole groups of an outer fold's training rows in folds; none where they are one group."""
    groups = folds.groups[train]
    if len(np.unique(groups)) < 2:
        return []
    classes = None if folds.classes is None else folds.classes[train]
    return [(train[fit], train[test]) for fit, test in group_folds(groups, wanted, seed, classes).parts]
