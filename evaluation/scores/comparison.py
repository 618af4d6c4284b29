"""Methods scored on the same out-of-fold predictions, with intervals over groups and paired differences. N rows.

Rows come in groups (studies, patients, cell lines). Whole groups are left out in turn, the same for every method, so
that differences between methods are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from evaluation.scores.intervals import DIFFERENCE, Interval, Resamples, Scale
from evaluation.scores.results import Score

# Positions of rows to a score; NaN where it is not defined for them.
Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Metric:
    """How a score behaves: on which scale its interval is made, and which way is better."""

    name: str
    scale: Scale = DIFFERENCE
    higher_is_better: bool = True


@dataclass(frozen=True)
class Scored:
    """The score of one method by one metric: of all rows, and [U] without each group."""

    value: float
    without: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Scores of every method, then differences named ``METRIC_minus_BASELINE``; ``facts`` say how.

    ``rescore``: scores of every method on the rows at some positions alone, without intervals.
    """

    scores: Sequence[Score]
    facts: Mapping[str, object] = field(default_factory=dict)
    rescore: Callable[[np.ndarray], Sequence[Score]] | None = None


def compare_methods(
    statistics: Mapping[str, Mapping[str, Statistic]],
    metrics: Sequence[Metric],
    groups: np.ndarray,
    baselines: Sequence[str],
    resamples: int,
    seed: int,
    unit: str = "groups",
) -> Comparison:
    """Score every method on every metric, with 95 % intervals over ``groups`` (str [N], named by ``unit``).

    ``statistics``: by method, by metric's name. Every method that is no baseline is compared with every baseline.
    ``resamples``: how many groups are left out in turn at the most; more are joined at random, by ``seed``.
    """
    drawn = Resamples.draw(groups.tolist(), resamples, seed, unit)
    everything, remaining = np.arange(len(groups)), drawn.rows()

    def scored(statistic: Statistic) -> Scored:
        return Scored(statistic(everything), np.array([statistic(rows) for rows in remaining]))

    values = {metric.name: {method: scored(of[metric.name]) for method, of in statistics.items()} for metric in metrics}
    scores = [
        Score(
            method,
            metric.name,
            drawn.interval(values[metric.name][method].value, values[metric.name][method].without, metric.scale),
        )
        for method in statistics
        for metric in metrics
    ]
    scores += [
        difference(drawn, metric, method, baseline, values[metric.name])
        for method in statistics
        for baseline in baselines
        for metric in metrics
        if method not in baselines
    ]

    facts = {"intervals": drawn.described, **_without_interval(scores)}
    return Comparison(scores, facts, partial(scores_on, statistics, metrics))


def scores_on(
    statistics: Mapping[str, Mapping[str, Statistic]], metrics: Sequence[Metric], rows: np.ndarray
) -> list[Score]:
    """Scores of every method on the rows at some positions alone, without intervals."""
    return [
        Score(method, metric.name, Interval(float(of[metric.name](rows))))
        for method, of in statistics.items()
        for metric in metrics
    ]


def difference(drawn: Resamples, metric: Metric, method: str, baseline: str, scored: Mapping[str, Scored]) -> Score:
    """What ``method`` scores more than ``baseline`` on the same rows, with its interval and its p-value."""
    ours, theirs = scored[method], scored[baseline]
    value, without = ours.value - theirs.value, ours.without - theirs.without
    interval = drawn.interval(value, without, metric.scale.of_differences())
    name = f"{metric.name}_minus_{baseline}"
    return Score(method, name, interval, baseline, metric.name, drawn.p_value(value, without))


def _without_interval(scores: Sequence[Score]) -> dict[str, object]:
    """Which scores have no interval, for people who read results."""
    lacking = [score for score in scores if np.isfinite(score.interval.value) and np.isnan(score.interval.low)]
    if not lacking:
        return {}
    named = ", ".join(dict.fromkeys(score.metric for score in lacking))
    why = "there is one group, a group holds what the score needs, or all groups show the same difference"
    return {"no_interval": f"{named} ({why})"}
