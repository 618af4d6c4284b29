"""How often the 95 % intervals of `evaluation run` hold the truth: 200 made data sets for each setting.

A mean, an accuracy, an AUROC, a Pearson correlation, and the difference of two accuracies, of 3 to 30 groups of 8 to
30 rows. Groups differ in what is scored, by a variance of 0, 1 or 4 times that within a group. The truth is the score
of 20,000 such groups. Bound: 90 to 98 %, give or take two standard errors of 200 data sets.
"""

import sys
from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from evaluation.scores.comparison import Metric, compare_methods
from evaluation.scores.intervals import CORRELATION, DIFFERENCE, SHARE

GROUPS, VARIANCES, DATA_SETS = (3, 5, 10, 30), (0.0, 1.0, 4.0), 200
LEAST, MOST = 0.90, 0.98

Statistic = Callable[[np.ndarray], float]
# (group of each row [N], effect of each row's group [N], generator) -> statistics by method
Made = Callable[[np.ndarray, np.ndarray, np.random.Generator], dict[str, Statistic]]


def mean(group: np.ndarray, effect: np.ndarray, generator: np.random.Generator) -> dict[str, Statistic]:
    values = effect + generator.normal(size=len(group))
    return {"ours": lambda rows: float(values[rows].mean())}


def accuracy(group: np.ndarray, effect: np.ndarray, generator: np.random.Generator) -> dict[str, Statistic]:
    right = 1 + effect + generator.normal(size=len(group)) > 0
    return {"ours": lambda rows: float(right[rows].mean())}


def auroc(group: np.ndarray, effect: np.ndarray, generator: np.random.Generator) -> dict[str, Statistic]:
    positive = generator.random(len(group)) < 0.4
    score = 1.2 * positive + effect + generator.normal(size=len(group))

    def of(rows: np.ndarray) -> float:
        positives, pairs = positive[rows].sum(), positive[rows].sum() * (~positive[rows]).sum()
        # Mann and Whitney's: scikit-learn's takes a hundred times as long for so few rows
        ranks = rankdata(score[rows])[positive[rows]].sum()
        return float((ranks - positives * (positives + 1) / 2) / pairs) if pairs else float("nan")

    return {"ours": of}


def pearson(group: np.ndarray, effect: np.ndarray, generator: np.random.Generator) -> dict[str, Statistic]:
    truth = generator.normal(size=len(group))
    predicted = truth * (1 + 0.5 * effect) + generator.normal(size=len(group))
    return {"ours": lambda rows: float(np.corrcoef(truth[rows], predicted[rows])[0, 1])}


def difference(group: np.ndarray, effect: np.ndarray, generator: np.random.Generator) -> dict[str, Statistic]:
    """Both methods find the same groups hard, and each has some of its own."""
    common = generator.normal(size=group.max() + 1)[group]
    first = 1 + common + effect + generator.normal(size=len(group)) > 0
    second = 0.7 + common + generator.normal(size=len(group)) > 0
    return {"ours": lambda rows: float(first[rows].mean()), "other": lambda rows: float(second[rows].mean())}


SCORES = {
    "mean": (mean, Metric("score", DIFFERENCE)),
    "accuracy": (accuracy, Metric("score", SHARE)),
    "auroc": (auroc, Metric("score", SHARE)),
    "pearson": (pearson, Metric("score", CORRELATION)),
    "difference": (difference, Metric("score", SHARE)),
}


def statistics(make: Made, groups: int, variance: float, seed: int) -> tuple[np.ndarray, dict[str, Statistic]]:
    """The group of each row and the statistics of one made data set."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), generator.integers(8, 31, groups))
    return group, make(group, generator.normal(0, np.sqrt(variance), groups)[group], generator)


def share_held(name: str, groups: int, variance: float, data_sets: int = DATA_SETS) -> float:
    """Of the intervals of so many data sets, those that hold the truth."""
    make, metric = SCORES[name]
    group, of = statistics(make, 20_000, variance, seed=0)
    everything = np.arange(len(group))
    truth = of["ours"](everything) - (of["other"](everything) if "other" in of else 0)
    held = 0
    for seed in range(1, data_sets + 1):
        group, of = statistics(make, groups, variance, seed)
        methods = {method: {metric.name: statistic} for method, statistic in of.items()}
        baselines = [method for method in methods if method == "other"]
        outcome = compare_methods(methods, [metric], group.astype(str), baselines, 1000, seed)
        interval = outcome.scores[-1].interval
        held += interval.low <= truth <= interval.high
    return held / data_sets


def main() -> int:
    slack = 2 * np.sqrt(LEAST * (1 - LEAST) / DATA_SETS)
    print("intervals that hold the truth, %, by groups and their variance")
    print("groups", "variance", *SCORES, sep="\t")
    outside = 0
    for groups in GROUPS:
        for variance in VARIANCES:
            shares = [share_held(name, groups, variance) for name in SCORES]
            outside += sum(not LEAST - slack <= share <= min(MOST + slack, 1) for share in shares)
            print(groups, variance, *(f"{100 * share:.1f}" for share in shares), sep="\t", flush=True)
    return int(outside > 0)


if __name__ == "__main__":
    sys.exit(main())
