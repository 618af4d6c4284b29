"""Out-of-fold predictions, folds of whole groups, and methods compared on the same resamples."""

import numpy as np
import pytest

from dataprep.runtime.command_line import UserError
from evaluation.scores.comparison import Metric, compare_methods
from evaluation.scores.folds import group_folds
from evaluation.search.nested import nested_predictions

GROUPS = np.repeat([f"study_{number}" for number in range(6)], 10)


@pytest.mark.parametrize("wanted", [3, None])
def test_every_row_is_tested_once_and_its_group_is_not_fitted_on(wanted: int | None) -> None:
    folds = group_folds(GROUPS, wanted, seed=0)
    assert len(folds.parts) == (wanted or 6)
    assert np.array_equal(np.sort(np.concatenate([test for _, test in folds.parts])), np.arange(60))
    for train, test in folds.parts:
        assert not set(GROUPS[train]) & set(GROUPS[test])


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(UserError, match="two groups"):
        group_folds(np.full(5, "only"), 3, seed=0)


def test_predictions_come_from_models_that_have_not_seen_the_row() -> None:
    values = np.arange(60.0)

    def largest_seen(choice: object, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        assert choice == {"depth": 3}
        return np.where(np.isin(test, train), np.inf, values[train].mean())

    outcome = nested_predictions(group_folds(GROUPS, 3, seed=0), {"depth": [3, 5]}, largest_seen)
    assert np.isfinite(outcome.predictions).all()


def test_a_difference_is_paired() -> None:
    """Two methods with a large error in common: each is uncertain, their difference is not."""
    rng = np.random.default_rng(0)
    of_group = np.repeat(rng.normal(0, 5, 6), 10)
    first, second = of_group + rng.normal(0, 0.1, 60), of_group + 1 + rng.normal(0, 0.1, 60)
    outcome = compare_methods(
        {"ours": {"bias": lambda rows: first[rows].mean()}, "mean": {"bias": lambda rows: second[rows].mean()}},
        [Metric("bias", higher_is_better=False)],
        GROUPS,
        ["mean"],
        resamples=300,
        seed=0,
    )
    by_name = {(score.method, score.metric): score.interval for score in outcome.scores}
    assert by_name["ours", "bias"].high - by_name["ours", "bias"].low > 2
    difference = by_name["ours", "bias_minus_mean"]
    assert difference.low < -1 < difference.high
    assert difference.high - difference.low < 0.3
