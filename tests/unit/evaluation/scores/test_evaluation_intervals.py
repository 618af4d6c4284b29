"""Intervals hold the truth about as often as they say, also for few groups, and stay where scores can be."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.interval_coverage import share_held
from evaluation.scores.intervals import CORRELATION, DIFFERENCE, ERROR, SHARE, Resamples
from evaluation.scores.metrics import ErrorSums

DATA_SETS = 400
# For 400 data sets the share of intervals that hold the truth has a standard error of 1.1 %.
LEAST, MOST = 0.90, 0.985


def test_whole_studies_are_left_out():
    studies = ["a"] * 3 + ["b"] * 2 + ["c"]
    resamples = Resamples.draw(studies, 50, seed=1)
    stays = resamples.sums(np.eye(len(studies)))  # whether each profile stays: U x N
    assert stays.tolist() == [[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 0]]
    assert [rows.tolist() for rows in resamples.rows()] == [[3, 4, 5], [0, 1, 2, 5], [0, 1, 2, 3, 4]]
    assert "over 3 studies" in resamples.described


def test_profiles_are_left_out_where_all_are_of_one_study_and_the_result_says_so():
    resamples = Resamples.draw(["a"] * 10, 50, seed=1)
    assert resamples.units == 10
    assert "10 profiles of one group, so not about other studies" in resamples.described


def test_more_groups_than_asked_for_are_joined_to_so_many():
    resamples = Resamples.draw([str(n // 2) for n in range(200)], 20, seed=1)
    assert resamples.units == 20
    assert all(len(rows) == 190 for rows in resamples.rows())
    assert (resamples.unit_of[::2] == resamples.unit_of[1::2]).all()


def test_groups_of_one_size_give_the_textbooks_interval_and_unequal_ones_fewer_degrees_of_freedom():
    values = np.array([1.0, 2.0, 4.0])
    resamples = Resamples.draw(["a", "b", "c"], 50, seed=1)
    assert resamples.freedom == 2
    interval = resamples.interval(values.mean(), resamples.sums(values) / 2, DIFFERENCE)
    expected = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert resamples.p_value(values.mean(), resamples.sums(values) / 2) == pytest.approx(
        stats.ttest_1samp(values, 0).pvalue
    )
    assert 1 < Resamples.draw(["a"] * 6 + ["b"] * 3 + ["c"] * 3, 50, seed=1).freedom < 2


# what of all settings is measured by the benchmark; for 200 data sets the share has a standard error of 1.5 %
@pytest.mark.parametrize(
    ("name", "groups", "variance"),
    [
        ("mean", 3, 4.0),
        ("accuracy", 5, 4.0),
        ("auroc", 5, 1.0),
        ("pearson", 3, 1.0),
        ("difference", 10, 4.0),
    ],
)
def test_intervals_over_groups_hold_the_truth(name, groups, variance):
    assert LEAST <= share_held(name, groups, variance) <= MOST


def test_a_perfect_score_over_few_groups_is_no_certain_one():
    def perfect(groups):
        resamples = Resamples.draw([str(n) for n in range(groups)], 50, seed=0)
        return resamples.interval(1.0, np.ones(groups), SHARE)

    assert (perfect(3).low, perfect(3).high) == (pytest.approx(0.025 ** (1 / 3)), 1.0)
    assert perfect(3).low < perfect(30).low < 1


def test_an_error_of_nought_that_leaving_a_group_out_changes_has_an_interval():
    interval = Resamples.draw(["a", "b", "c"], 50, seed=0).interval(0.0, np.array([0.0, 0.02, 0.01]), SHARE)
    assert interval.low == 0 < interval.high < 0.2


def test_a_score_that_rests_on_one_group_has_no_interval():
    resamples = Resamples.draw(["a", "b", "c"], 50, seed=0)
    assert np.isnan(resamples.interval(0.7, np.array([0.6, np.nan, 0.8]), SHARE).low)
    assert np.isnan(resamples.interval(float("nan"), np.full(3, np.nan), SHARE).value)
    assert np.isnan(resamples.p_value(0.7, np.array([0.6, np.nan, 0.8])))


def test_a_constant_has_its_value_for_an_interval_and_equal_differences_are_no_certain_ones():
    resamples = Resamples.draw(["a", "b", "c"], 50, seed=0)
    assert resamples.interval(0.5, np.full(3, 0.5), SHARE).high == 0.5
    assert np.isnan(resamples.interval(0.3, np.full(3, 0.3), SHARE.of_differences()).low)
    assert resamples.p_value(0.3, np.full(3, 0.3)) == 0.25
    assert resamples.p_value(0.0, np.zeros(3)) == 1.0


def test_intervals_stay_within_what_scores_can_be():
    resamples = Resamples.draw(["a", "b", "c"], 50, seed=0)
    without = np.array([0.98, 0.5, 0.99])
    for value, scale, low in ((0.9, SHARE, 0), (0.9, CORRELATION, -1), (0.9, SHARE.of_differences(), -1)):
        interval = resamples.interval(value, without, scale)
        assert low <= interval.low < 0.5 < 0.9 < interval.high <= 1


def test_intervals_of_a_correlation_over_few_studies_hold_the_truth_and_stay_within_one():
    """Each study has its own noise, so its own correlation; the truth is that over all studies there could be."""
    generator = np.random.default_rng(1)

    def study_sums(studies):
        noise = generator.uniform(0.2, 1.5, (studies, 1))
        truth = generator.normal(0, 1, (studies, 50))
        return ErrorSums.over(truth, truth + noise * generator.normal(0, 1, truth.shape), np.ones_like(truth, bool), 1)

    real = float(study_sums(20_000).total().pearson())
    held = 0
    for number in range(DATA_SETS):
        sums = study_sums(5)
        resamples = Resamples.draw([str(study) for study in range(5)], 100, seed=number)
        resampled = ErrorSums(resamples.sums(sums.values)).pearson()
        interval = resamples.interval(float(sums.total().pearson()), resampled, CORRELATION)
        assert -1 <= interval.low <= interval.value <= interval.high <= 1
        held += interval.low <= real <= interval.high
    assert LEAST <= held / DATA_SETS <= MOST


def test_an_error_is_never_negative_and_a_single_profile_has_no_interval():
    resamples = Resamples.draw(["a", "b"], 100, seed=0)
    errors = resamples.sums(np.array([0.1, 4.0]))
    interval = resamples.interval(2.05, errors, ERROR)
    assert 0 < interval.low < 2.05 < interval.high
    assert np.isnan(Resamples.draw(["a"], 100, seed=0).interval(1.0, np.ones(1), ERROR).low)
