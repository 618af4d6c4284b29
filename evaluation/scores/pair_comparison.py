"""Methods for pairs of a cell line and a target, with intervals that allow for folds that share what they fit on.

Left-out cell lines (or targets) say how much a score would vary with those tested, for the fits as they are. But the
fits vary, too, and together: a pair of lines that agree by chance counts twice, once with either of them tested. The
variance is therefore multiplied by 1 + units / units fitted on, which is the corrected resampled variance of Nadeau and
Bengio (Machine Learning 52, 2003) over the naive one. In simulations (42 and 120 lines, five folds, signal from none to
strong) intervals of correlations held the truth in 93 to 100 of 100 cases with it, in 78 to 95 without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from evaluation.inference.cell_line_tables import ProfilesOfLines
from evaluation.scores.comparison import Comparison, Metric, Statistic, compare_methods, scores_on
from evaluation.scores.folds import Folds
from evaluation.scores.pair_scores import PairScores, pair_metrics
from evaluation.scores.results import TaskResult


def compare_on_pairs(
    scores: PairScores,
    predicted: Mapping[str, np.ndarray],
    folds: Folds,
    units: Sequence[str],
    unit: str,
    baselines: Sequence[str],
    resamples: int,
    seed: int,
    more: Mapping[Metric, Mapping[str, Statistic]] | None = None,
) -> Comparison:
    """Compare predictions (float [N], by method) as :func:`compare_methods` does.

    ``units``: names of what is left out in turn, in the plural ``unit``; ``more``: statistics of further metrics, by
    method, for positions of units.
    """
    more = more or {}
    factor = widening(scores.unit, folds)
    statistics = {
        method: {**scores.statistics(values), **{metric.name: of[method] for metric, of in more.items()}}
        for method, values in predicted.items()
    }
    widened = {
        method: {name: _widened(statistic, len(units), factor) for name, statistic in of.items()}
        for method, of in statistics.items()
    }
    metrics = [*pair_metrics(scores.kind), *more]
    comparison = compare_methods(widened, metrics, np.array(units), baselines, resamples, seed, unit)
    made = f"{factor:.2f} times as wide, since folds share what they were fitted on (Nadeau and Bengio 2003)"
    # the scores themselves: what is widened has other values without some of the units
    rescore = partial(scores_on, statistics, metrics)
    return Comparison(comparison.scores, {**comparison.facts, "intervals_made": made}, rescore)


def result_on_pairs(
    task: str,
    comparison: Comparison,
    facts: Mapping[str, object],
    baselines: Sequence[str],
    profiles: ProfilesOfLines | None,
    of_lines: bool,
) -> TaskResult:
    """What a task returns: judged by RMSE, which means have, too. A leak audit leaves out lines with a shared profile.

    ``profiles``: none where features come from a table; ``of_lines``: whether cell lines are what was left out in turn.
    """
    rescore = comparison.rescore
    return TaskResult(
        task,
        "",
        comparison.scores,
        {**facts, **comparison.facts},
        baselines=baselines,
        judged_by="rmse",
        higher_is_better=False,
        row_ids=None if profiles is None else profiles.row_ids,
        rescore=(lambda rows: rescore(profiles.complete(rows))) if rescore and profiles and of_lines else None,
    )


def widening(unit: np.ndarray, folds: Folds) -> float:
    """By what intervals are multiplied; ``unit`` (int [N]): numbers of the units of rows."""
    fitted = np.mean([len(np.unique(unit[train])) for train, _ in folds.parts])
    return float(np.sqrt(1 + len(np.unique(unit)) / fitted))


def _widened(statistic: Statistic, units: int, factor: float) -> Statistic:
    """A statistic whose deviations from its value for all units are so many times as large."""
    whole = statistic(np.arange(units))
    return lambda rows: whole + factor * (statistic(rows) - whole)
