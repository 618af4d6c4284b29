"""Scores of reconstruction and classification, and their confidence intervals.

Correlations are kept as sums that add over profiles, so they stream over any number of profiles, and resampling
studies for the bootstrap is one small matrix product. N profiles, G genes, R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

# A variance below this share of the mean square is rounding: what is predicted is constant.
_CONSTANT_SHARE = 1e-10
# With fewer entries a correlation says nothing.
MINIMUM_ENTRIES = 5
# From this many studies on, studies are resampled: profiles of one study are not independent of one another.
MINIMUM_STUDIES = 5
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ErrorSums:
    """Sums over entries of truth y and prediction p, float64 [..., 6]: n, y, p, yy, pp, yp.

    Sums of disjoint sets of entries add up; the scores below follow from them.
    """

    values: np.ndarray

    @classmethod
    def over(cls, truth: np.ndarray, predicted: np.ndarray, counted: np.ndarray, axis: int) -> ErrorSums:
        """Sums over ``axis`` of the entries where ``counted``; the others may be anything, NaN included."""
        y = np.where(counted, truth, 0.0).astype(np.float64)
        p = np.where(counted, predicted, 0.0).astype(np.float64)
        parts = [counted.astype(np.float64), y, p, y * y, p * p, y * p]
        return cls(np.stack([part.sum(axis=axis) for part in parts], axis=-1))

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(self.values + other.values)

    def total(self) -> ErrorSums:
        """One set of sums over all but the last axis."""
        return ErrorSums(self.values.reshape(-1, 6).sum(axis=0))

    @property
    def count(self) -> np.ndarray:
        return self.values[..., 0]

    def mean_squared_error(self) -> np.ndarray:
        """NaN where nothing was counted."""
        n, _, _, yy, pp, yp = np.moveaxis(self.values, -1, 0)
        return _divided(np.maximum(yy + pp - 2 * yp, 0.0), n)

    def pearson(self) -> np.ndarray:
        """Pearson's r; NaN where truth or prediction is constant or fewer than MINIMUM_ENTRIES were counted."""
        n, y, p, yy, pp, yp = np.moveaxis(self.values, -1, 0)
        variance_y, variance_p = yy - _divided(y * y, n), pp - _divided(p * p, n)
        defined = (n >= MINIMUM_ENTRIES) & (variance_y > _CONSTANT_SHARE * yy) & (variance_p > _CONSTANT_SHARE * pp)
        scale = np.sqrt(np.where(defined, variance_y * variance_p, np.nan))
        return np.clip((yp - _divided(y * p, n)) / scale, -1.0, 1.0)


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % confidence interval; ``low`` and ``high`` are NaN where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples of N profiles, drawn with replacement as whole units.

    ``weights``: float64 R x U, how often each unit was drawn; ``unit_of``: int [N]; ``unit``: "studies" or "profiles".
    The same resamples serve every method, so differences between methods are paired.
    """

    unit: str
    unit_of: np.ndarray
    weights: np.ndarray

    @classmethod
    def draw(cls, studies: Sequence[str], resamples: int, seed: int) -> Resamples:
        """Resample studies where there are at least MINIMUM_STUDIES of them, else profiles."""
        names, study_of = np.unique(np.asarray(studies, dtype=str), return_inverse=True)
        by_study = len(names) >= MINIMUM_STUDIES
        unit_of = study_of if by_study else np.arange(len(studies))
        units = len(names) if by_study else len(studies)
        generator = np.random.default_rng(seed)
        weights = generator.multinomial(units, np.full(units, 1 / units), size=resamples).astype(np.float64)
        return cls("studies" if by_study else "profiles", unit_of, weights)

    def sums(self, sums_N6: np.ndarray) -> np.ndarray:
        """Sums over the profiles of every resample (R x ...) from sums per profile (N x ...)."""
        per_unit = np.zeros((self.weights.shape[1], *sums_N6.shape[1:]))
        np.add.at(per_unit, self.unit_of, sums_N6)
        return np.tensordot(self.weights, per_unit, axes=1)


def percentile_interval(value: float, resampled: np.ndarray) -> Interval:
    """The value with the central 95 % of its resampled counterparts."""
    finite = resampled[np.isfinite(resampled)]
    if not len(finite):
        return Interval(value)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(finite, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def fold_interval(scores: Sequence[float]) -> Interval:
    """Mean over folds with Student's t interval; folds without a score (one class only) are left out.

    Folds share training samples, so the interval is somewhat too narrow (Bengio and Grandvalet 2004).
    """
    finite = np.array([score for score in scores if np.isfinite(score)])
    if len(finite) == 0:
        return Interval(float("nan"))
    mean = float(finite.mean())
    if len(finite) < 2:
        return Interval(mean)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(finite) - 1) * finite.std(ddof=1) / np.sqrt(len(finite)))
    return Interval(mean, mean - half, mean + half)


def classification_scores(truth: np.ndarray, predicted: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Scores of one fold.

    ``truth`` and ``predicted``: class numbers [N]; ``probability``: N x C. AUROC and AUPRC only for two classes, of
    which class 1 is the positive one; NaN where the fold holds one class only.
    """
    scores = {
        "weighted_f1": float(f1_score(truth, predicted, average="weighted", zero_division=0)),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        "accuracy": float(accuracy_score(truth, predicted)),
    }
    if probability.shape[1] == 2:
        both = len(np.unique(truth)) == 2
        scores["auroc"] = float(roc_auc_score(truth, probability[:, 1])) if both else float("nan")
        scores["auprc"] = float(average_precision_score(truth, probability[:, 1])) if both else float("nan")
    return scores


def _divided(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
