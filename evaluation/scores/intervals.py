"""95 % confidence intervals of scores, over groups that were seen, for groups that were not. U units, N rows.

What is scored comes in groups (profiles of a study, of a patient), and there are few of them. Percentiles of a plain
bootstrap are then far too narrow: over two to five studies they hold the truth in 30 to 80 % of cases instead of 95.
Here each group is left out in turn (the cluster jackknife, CV3 of Cameron, Gelbach and Miller 2008), and the interval
is Student's t with as many degrees of freedom as the groups' sizes allow. ``benchmarks/interval_coverage.py`` shows how
often it holds the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit

Number = TypeVar("Number", float, np.ndarray)

CONFIDENCE = 0.95
# Of scores that are equal but for rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % confidence interval; ``low`` and ``high`` are NaN where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Scale:
    """Where a score is closer to normal: the interval is made after ``forward`` and brought back by ``backward``.

    ``slope``: derivative of ``forward``; ``low`` and ``high``: what the score cannot go beyond.
    """

    forward: Callable[[float], float]
    backward: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[float], float]
    low: float = -np.inf
    high: float = np.inf

    def of_differences(self) -> Scale:
        """That of the difference of two such scores."""
        widest = self.high - self.low
        return Scale(_same, _same, _one, -widest, widest)


def _same(value: Number) -> Number:
    return value


def _one(_: float) -> float:
    return 1.0


# Between 0 and 1: accuracy, F1, AUROC, concordance.
SHARE = Scale(logit, expit, lambda share: 1 / (share * (1 - share)), 0.0, 1.0)
# Fisher's z, whose values stay within -1 and 1 on the way back.
CORRELATION = Scale(np.arctanh, np.tanh, lambda r: 1 / (1 - r * r), -1.0, 1.0)
# Above 0.
ERROR = Scale(np.log, np.exp, lambda error: 1 / error, 0.0)
DIFFERENCE = Scale(_same, _same, _one)


@dataclass(frozen=True)
class Resamples:
    """All but one of U groups, for each of them. The same serve every method, so differences are paired.

    ``unit_of``: int [N]; ``described``: what intervals are over, for people who read the results.
    """

    unit_of: np.ndarray
    described: str

    @classmethod
    def draw(cls, groups: Sequence[str], resamples: int, seed: int, unit: str = "studies") -> Resamples:
        """Of groups, named in the plural by ``unit``; of single rows where there is one, which tells of no other.

        More than ``resamples`` groups are joined at random into so many, which says the same in less time.
        """
        names, group_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        over = f"{len(names):,} {unit}"
        if len(names) < 2:
            group_of = np.arange(len(groups))
            over = f"{len(groups):,} profiles of one group, so not about other {unit}"
        count = int(group_of.max(initial=-1)) + 1
        if count > resamples:
            group_of = (np.random.default_rng(seed).permutation(count) % resamples)[group_of]
            over += f", joined at random into {resamples:,}"
        drawn = cls(group_of, "")
        freedom = f"Student's t with {drawn.freedom:.3g} degrees of freedom" if drawn.units > 1 else "none"
        return cls(group_of, f"95 % over {over}: each left out in turn (jackknife), {freedom}")

    @property
    def units(self) -> int:
        """U."""
        return int(self.unit_of.max(initial=-1)) + 1

    @property
    def freedom(self) -> float:
        """Degrees of freedom: one less than the number of groups of like size that would say as much, at least 1.

        (sum n)^2 / sum n^2 of group sizes n (Kish): U for equal ones, fewer where some groups hold most rows.
        """
        sizes = np.bincount(self.unit_of).astype(np.float64)
        return max(1.0, float(sizes.sum() ** 2 / (sizes**2).sum()) - 1)

    def rows(self) -> list[np.ndarray]:
        """Positions of the rows that stay, for each group left out."""
        return [np.flatnonzero(self.unit_of != unit) for unit in range(self.units)]

    def sums(self, sums_N6: np.ndarray) -> np.ndarray:
        """Sums over the rows that stay (U x ...) from sums per row (N x ...)."""
        per_unit = np.zeros((self.units, *sums_N6.shape[1:]))
        np.add.at(per_unit, self.unit_of, sums_N6)
        return per_unit.sum(axis=0) - per_unit

    def interval(self, value: float, without_U: np.ndarray, scale: Scale) -> Interval:
        """The value, give or take t times its standard error, on the scale; ``without_U``: it without each group.

        No interval where the score is not defined without one of the groups: then it rests on that group alone. Where
        no group changes a score that is the best or the worst there is, the other end is where so many groups would
        all be perfect in 2.5 % of cases (Clopper and Pearson), or there is none on a scale that is open.
        """
        error = self._error(value, without_U)
        if not np.isfinite(error):
            return Interval(value)
        if error == 0:
            return self._without_spread(value, scale)
        if value in (scale.low, scale.high):
            # where the scale has no end, but leaving a group out changes the score, as it can a calibration error of 0
            scale = Scale(_same, _same, _one, scale.low, scale.high)
        half = float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2)) * error * scale.slope(value)
        ends = scale.backward(scale.forward(value) + np.array([-half, half]))
        return Interval(value, max(float(ends[0]), scale.low), min(float(ends[1]), scale.high))

    def p_value(self, difference: float, without_U: np.ndarray) -> float:
        """Two-sided, that a difference is 0; NaN where there is no interval.

        Where every group shows the same difference there is no standard error, and it is that of the sign test.
        """
        error = self._error(difference, without_U)
        if not np.isfinite(error):
            return float("nan")
        if error == 0:
            return 1.0 if abs(difference) < _ROUNDING else float(2.0 ** (1 - self.units))
        return float(2 * stdtr(self.freedom, -abs(difference) / error))

    def _error(self, value: float, without_U: np.ndarray) -> float:
        """Standard error; 0 where it is rounding, NaN where there is none."""
        if self.units < 2 or not np.isfinite(value) or not np.isfinite(without_U).all():
            return float("nan")
        error = float(np.sqrt((self.units - 1) / self.units * ((without_U - value) ** 2).sum()))
        return 0.0 if error < _ROUNDING * max(1.0, abs(value)) else error

    def _without_spread(self, value: float, scale: Scale) -> Interval:
        """Of a score that leaving out any group does not change."""
        if scale is SHARE and value in (scale.low, scale.high):
            share = float(((1 - CONFIDENCE) / 2) ** (1 / (self.freedom + 1)))
            return Interval(value, share, 1.0) if value == scale.high else Interval(value, 0.0, 1 - share)
        # such as the AUROC of a constant; a difference that is the same in every group is no certain one
        constant = scale is SHARE or value == 0
        return Interval(value, value, value) if constant else Interval(value)
