"""Methods scored on the same out-of-fold predictions, with intervals over groups and paired differences. N rows.

Rows come in groups (studies, patients, cell lines). Whole groups are resampled, the same for every method, so that
differences between methods are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluation.scores.intervals import DIFFERENCE, Resamples, Scale
from evaluation.scores.results import Score

# Positions of rows, with repeats, to a score; NaN where it is not defined for them.
Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Metric:
    """How a score behaves: on which scale its interval is made, and which way is better."""

    name: str
    scale: Scale = DIFFERENCE
    higher_is_better: bool = True


@dataclass(frozen=True)
class Comparison:
    """Scores of every method, then differences named ``METRIC_minus_BASELINE``; ``facts`` say how."""

    scores: Sequence[Score]
    facts: Mapping[str, object] = field(default_factory=dict)


def compare_methods(
    statistics: Mapping[str, Mapping[str, Statistic]],
    metrics: Sequence[Metric],
    groups: np.ndarray,
    baselines: Sequence[str],
    resamples: int,
    seed: int,
) -> Comparison:
    """Score every method on every metric, with 95 % intervals over ``groups`` (str [N]).

    ``statistics``: by method, by metric's name. Every method that is no baseline is compared with every baseline.
    """
    drawn = Resamples.draw(groups.tolist(), resamples, seed)
    members = [np.flatnonzero(drawn.unit_of == unit) for unit in range(drawn.units)]
    everything = np.arange(len(groups))
    draws = [_rows(members, weights) for weights in drawn.weights]
    values = {
        (method, metric.name): (of[metric.name](everything), np.array([of[metric.name](rows) for rows in draws]))
        for method, of in statistics.items()
        for metric in metrics
    }
    scores = [
        Score(method, metric.name, drawn.interval(*values[method, metric.name], metric.scale))
        for method in statistics
        for metric in metrics
    ]
    for method in statistics:
        for baseline in baselines if method not in baselines else []:
            for metric in metrics:
                (ours, our_draws), (theirs, their_draws) = values[method, metric.name], values[baseline, metric.name]
                difference = drawn.interval(ours - theirs, our_draws - their_draws, DIFFERENCE)
                scores.append(Score(method, f"{metric.name}_minus_{baseline}", difference))
    return Comparison(scores, {"intervals": drawn.described})


def _rows(members: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    return np.concatenate([np.tile(rows, int(times)) for rows, times in zip(members, weights, strict=True) if times])
