"""Scores of predicted survival under right censoring, within strata (studies), over rows drawn with repeats. N rows.

Studies differ in follow-up, treatment and disease, so that a pair of patients of two studies mostly tells the studies
apart. Pairs, weights and ranks are therefore of one study; a pooled concordance is scored beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from lifelines import KaplanMeierFitter
from statsmodels.duration.survfunc import survdiff

from evaluation.scores.comparison import Metric, Statistic
from evaluation.scores.intervals import ERROR, SHARE

# A censored patient is stood in for by those who are still followed: by ten of them at the most.
_LEAST_FOLLOWED = 0.1


METRICS = (
    Metric("c_index", SHARE),
    Metric("uno_c", SHARE),
    Metric("pooled_c_index", SHARE),
    Metric("integrated_brier", ERROR, higher_is_better=False),
)


@dataclass(frozen=True)
class Outcome:
    """What happened: ``time`` float64 [N], ``event`` bool [N] (False: censored), ``strata`` str [N]."""

    time: np.ndarray
    event: np.ndarray
    strata: np.ndarray

    def members(self) -> list[np.ndarray]:
        """Positions of the rows of each stratum."""
        return [np.flatnonzero(self.strata == name) for name in np.unique(self.strata)]

    def rows(self, chosen: np.ndarray) -> Outcome:
        """Of some rows."""
        return Outcome(self.time[chosen], self.event[chosen], self.strata[chosen])

    def pooled(self) -> Outcome:
        """The same as one stratum."""
        return Outcome(self.time, self.event, np.full(len(self.time), "all"))


@dataclass(frozen=True)
class Censoring:
    """Within each row's stratum: the share ``followed`` [N] that is still under observation just before its time, and
    the time ``until`` [N] up to which the stratum can be scored."""

    followed: np.ndarray
    until: np.ndarray
    share: Sequence[tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]]

    @classmethod
    def of(cls, outcome: Outcome, horizon: float) -> Censoring:
        """Kaplan-Meier curves of being censored, one for each stratum; nothing is scored after the ``horizon``."""
        followed, until = np.ones(len(outcome.time)), np.zeros(len(outcome.time))
        shares = []
        for rows in outcome.members():
            share = _followed_share(outcome.time[rows], outcome.event[rows])
            followed[rows] = share(outcome.time[rows])
            known = outcome.time[rows][followed[rows] >= _LEAST_FOLLOWED]
            until[rows] = min(horizon, known.max())
            shares.append((rows, share))
        return cls(followed, until, shares)


def _followed_share(time: np.ndarray, event: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    # of a death and a censoring at the same time the death comes first
    ends = np.where(event, time, np.nextafter(time, np.inf))
    curve = KaplanMeierFitter().fit(ends, ~event)
    return lambda times: curve.predict(np.maximum(np.nextafter(times, -np.inf), 0.0)).to_numpy()


class Concordance:
    """Share of comparable pairs of one stratum whose risks are in the right order, ties counting half.

    A pair is comparable where the shorter time ended in the event, or both are equal and only one did; it counts with
    the ``weights`` [N] of the row that had the event: 1 for Harrell's C, 1 / followed share^2 before ``until`` for
    Uno's (Uno et al. 2011, Statistics in Medicine 30:1105). Both are kept as matrices of one stratum's
    pairs, E rows with an event times n rows, so that a resample costs a product.
    """

    def __init__(self, outcome: Outcome, risk: np.ndarray, weights: np.ndarray) -> None:
        self._rows = len(risk)
        self._pairs = []
        for rows in outcome.members():
            first = rows[outcome.event[rows] & (weights[rows] > 0)]
            later = outcome.time[rows][None] - outcome.time[first][:, None]
            comparable = (later > 0) | ((later == 0) & ~outcome.event[rows][None])
            order = risk[first][:, None] - risk[rows][None]
            right = (order > 0) + 0.5 * (order == 0)
            weighted = (comparable * weights[first][:, None]).astype(np.float32)
            self._pairs.append((first, rows, weighted, weighted * right.astype(np.float32)))

    def __call__(self, rows: np.ndarray) -> float:
        """The score over ``rows``, with repeats; NaN where no pair is comparable."""
        times = np.bincount(rows, minlength=self._rows).astype(np.float32)
        all_pairs, right_pairs = 0.0, 0.0
        for first, members, comparable, right in self._pairs:
            all_pairs += float(times[first] @ (comparable @ times[members]))
            right_pairs += float(times[first] @ (right @ times[members]))
        return right_pairs / all_pairs if all_pairs > 0 else float("nan")


def harrell(outcome: Outcome, risk: np.ndarray) -> Concordance:
    """Harrell's C of ``risk`` [N], within strata."""
    return Concordance(outcome, risk, np.ones(len(risk)))


def uno(outcome: Outcome, risk: np.ndarray, censoring: Censoring) -> Concordance:
    """Uno's C of ``risk`` [N], within strata: what Harrell's would be without censoring, up to the time ``until``."""
    counted = outcome.time < censoring.until
    return Concordance(outcome, risk, np.where(counted, 1.0 / np.maximum(censoring.followed, _LEAST_FOLLOWED) ** 2, 0))


def integrated_brier(outcome: Outcome, survival_NT: np.ndarray, times: np.ndarray, censoring: Censoring) -> np.ndarray:
    """Each row's part [N] of the integrated Brier score, of which the score is the mean; NaN where nothing counts.

    ``survival_NT``: predicted survival at the ascending ``times`` [T]. Graf et al. 1999, Statistics in Medicine
    18:2529: at time t a row with an event by t counts S(t)^2 / G(its time), one under observation (1 - S(t))^2 / G(t),
    and one censored before t nothing; G is the followed share. The mean over t up to its stratum's ``until``.
    """
    parts = np.full(len(outcome.time), np.nan)
    for rows, share in censoring.share:
        counted = times <= censoring.until[rows][0]
        if counted.sum() < 2:
            continue
        grid, predicted = times[counted], survival_NT[rows][:, counted]
        gone = outcome.time[rows][:, None] <= grid[None]
        died = gone & outcome.event[rows][:, None]
        before = predicted**2 / np.maximum(censoring.followed[rows], _LEAST_FOLLOWED)[:, None]
        after = (1 - predicted) ** 2 / np.maximum(share(grid), _LEAST_FOLLOWED)[None]
        at_time = np.where(died, before, np.where(gone, 0.0, after))
        parts[rows] = np.trapezoid(at_time, grid, axis=1) / (grid[-1] - grid[0])
    return parts


def survival_statistics(
    outcome: Outcome, risk: np.ndarray, survival_NT: np.ndarray, times: np.ndarray, censoring: Censoring
) -> dict[str, Statistic]:
    """What :data:`METRICS` names, of one method's predictions."""
    parts = integrated_brier(outcome, survival_NT, times, censoring)
    return {
        "c_index": harrell(outcome, risk),
        "uno_c": uno(outcome, risk, censoring),
        "pooled_c_index": harrell(outcome.pooled(), risk),
        "integrated_brier": lambda rows: _finite_mean(parts[rows]),
    }


def log_rank_p(outcome: Outcome, high: np.ndarray) -> float:
    """p-value of the log-rank test between rows of ``high`` (bool [N]) and the others, stratified; NaN without either.

    Rows of a stratum that are all of one group say nothing.
    """
    telling = np.zeros(len(high), dtype=bool)
    for rows in outcome.members():
        telling[rows] = 0 < high[rows].sum() < len(rows) and outcome.event[rows].any()
    if not telling.any():
        return float("nan")
    _, strata = np.unique(outcome.strata[telling], return_inverse=True)
    status = outcome.event[telling].astype(int)
    return float(survdiff(outcome.time[telling], status, high[telling].astype(int), strata=strata)[1])


def kaplan_meier_rows(outcome: Outcome, **named: str) -> list[dict[str, object]]:
    """A Kaplan-Meier curve as rows of a table: time, survival with its 95 % interval, at risk; ``named`` in each."""
    curve = KaplanMeierFitter().fit(outcome.time, outcome.event)
    bounds = curve.confidence_interval_survival_function_.to_numpy()
    at_risk = curve.event_table["at_risk"].to_numpy()
    survival = curve.survival_function_.to_numpy()[:, 0]
    return [
        {**named, "time": float(time), "survival": float(s), "low": float(low), "high": float(high), "at_risk": int(n)}
        for time, s, (low, high), n in zip(curve.timeline, survival, bounds, at_risk, strict=True)
    ]


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
