"""Scores of reconstruction, from sums that add.

Correlations are kept as sums that add over profiles, so they stream over any number of profiles, and resampling
studies for the bootstrap is one small matrix product. N profiles, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# A variance below this share of the mean square is rounding: what is predicted is constant.
_CONSTANT_SHARE = 1e-10
# With fewer entries a correlation says nothing.
MINIMUM_ENTRIES = 5


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

    def pearson(self, minimum_entries: int = MINIMUM_ENTRIES) -> np.ndarray:
        """Pearson's r; NaN where truth or prediction is constant or fewer than ``minimum_entries`` were counted."""
        n, y, p, yy, pp, yp = np.moveaxis(self.values, -1, 0)
        variance_y, variance_p = yy - _divided(y * y, n), pp - _divided(p * p, n)
        defined = (n >= minimum_entries) & (variance_y > _CONSTANT_SHARE * yy) & (variance_p > _CONSTANT_SHARE * pp)
        scale = np.sqrt(np.where(defined, variance_y * variance_p, np.nan))
        return np.clip((yp - _divided(y * p, n)) / scale, -1.0, 1.0)


def _divided(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
