"""Out-of-fold predictions, folds of whole groups, and methods compared on the same resamples."""

from dataclasses import replace

import numpy as np
import pytest

from dataprep.runtime.command_line import UserError
from evaluation.scores.comparison import Metric, compare_methods
from evaluation.scores.folds import group_folds, joined_groups
from evaluation.scores.intervals import SHARE, Interval
from evaluation.scores.results import Score, TaskResult, difference_table, score_rows
from evaluation.scores.verdicts import judged
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
    by_name = {(score.method, score.metric): score for score in outcome.scores}
    ours, difference = by_name["ours", "bias"].interval, by_name["ours", "bias_minus_mean"]
    assert ours.high - ours.low > 2
    assert difference.interval.low < -1 < difference.interval.high
    assert difference.interval.high - difference.interval.low < 0.3
    assert (difference.baseline, difference.compared) == ("mean", "bias")
    assert difference.p < 0.001
    assert np.isnan(by_name["ours", "bias"].p)


def test_a_score_that_one_group_decides_has_no_interval_and_the_facts_say_so() -> None:
    def of_last_group(rows: np.ndarray) -> float:
        return 0.5 if 59 in rows else float("nan")

    outcome = compare_methods({"ours": {"auroc": of_last_group}}, [Metric("auroc", SHARE)], GROUPS, [], 300, seed=0)
    assert np.isnan(outcome.scores[0].interval.low)
    assert str(outcome.facts["no_interval"]).startswith("auroc (")


def made_result(task: str, p_values: dict[str, float], value: float) -> TaskResult:
    # another metric says what it likes: it does not decide
    scores = [Score("ours", "mse", Interval(1.0)), Score("ours", "r_minus_mean", Interval(1.0), "mean", "r", 0.02)] + [
        Score("ours", f"mse_minus_{name}", Interval(value, value - 0.1, value + 0.1), name, "mse", p)
        for name, p in p_values.items()
    ]
    return TaskResult(task, "", scores, {}, baselines=list(p_values), judged_by="mse", higher_is_better=False)


def test_p_values_are_corrected_over_all_tasks_and_the_verdict_follows_them() -> None:
    first, second = judged(
        [made_result("a", {"mean": 0.001, "median": 0.03}, -0.5), made_result("b", {"best": 0.0001}, 0.5)]
    )
    assert [score.p_corrected for score in first.scores[2:]] == pytest.approx([0.002, 0.03])
    assert [score.p_corrected for score in second.scores[2:]] == pytest.approx([0.0003])
    assert first.verdict.startswith("by mse, ours is better than mean and median (")
    assert second.verdict.startswith("by mse, ours is worse than best (")
    assert np.isnan(first.scores[1].p_corrected)
    (alone,) = judged([made_result("a", {"mean": 0.03, "median": 0.03, "best": float("nan")}, -0.5)])
    assert alone.verdict.startswith("by mse, ours is not to be told from mean, median and best (")


def test_a_verdict_names_what_is_alike_once() -> None:
    result = made_result("a", dict.fromkeys("pqrst", 0.5), -0.5)
    others = [replace(score, method="second") for score in result.scores if score.baseline and score.compared == "mse"]
    third = [replace(score, method="third", p=1e-9) for score in others]
    (judged_result,) = judged([replace(result, scores=[*result.scores, *others, *third])])
    assert judged_result.verdict.startswith(
        "by mse, ours and second are not to be told from any of the 5 baselines; "
        "third is better than all of the 5 baselines ("
    )


def test_differences_have_a_table_of_their_own_and_columns_in_the_file() -> None:
    results = judged([made_result("a", {"mean": 0.0001, "median": 0.6}, -0.5)])
    table = difference_table(results[0])
    assert [next(iter(column.cells)) for column in table.columns] == [
        "ours", "mean", "mse", "-0.500 [-0.600, -0.400]", "< 0.001", "< 0.001",
    ]  # fmt: skip
    rows = score_rows(results).to_pylist()
    assert (rows[0]["baseline"], rows[0]["p"]) == (None, None)
    assert (rows[3]["baseline"], rows[3]["p_corrected"]) == ("median", 0.6)


def test_groups_of_several_columns_are_what_hangs_together() -> None:
    patient = np.array(["p1", "p1", "p2", "p3", "", ""])
    study = np.array(["s1", "s2", "s2", "s3", "s4", "s3"])
    joined = joined_groups({"patient": patient, "study_id": study})
    assert len(set(joined[:3])) == 1
    assert joined[3] == joined[5]
    assert len({joined[0], joined[3], joined[4]}) == 3
    alone = joined_groups({"patient": patient})
    assert alone[:4].tolist() == ["p1", "p1", "p2", "p3"]
    assert alone[4] != alone[5]
