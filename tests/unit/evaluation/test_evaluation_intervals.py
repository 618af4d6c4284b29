"""Intervals hold the truth about as often as they say, also for few studies or folds, and stay where scores can be."""

import numpy as np
import pytest

from evaluation.scores.intervals import CORRELATION, DIFFERENCE, ERROR, Resamples, fold_interval
from evaluation.scores.metrics import ErrorSums

DATA_SETS = 400
# For 400 data sets the share of intervals that hold the truth has a standard error of 1.1 %.
LEAST, MOST = 0.90, 0.985


def test_bootstrap_draws_whole_studies():
    studies = ["a"] * 3 + ["b"] * 2 + ["c"]
    resamples = Resamples.draw(studies, 50, seed=1)
    assert resamples.unit == "studies"
    counts = resamples.sums(np.eye(len(studies)))  # how often each profile was drawn: R x N
    assert (counts.T[0] == counts.T[1]).all()
    assert (counts.T[3] == counts.T[4]).all()
    assert "over 3 studies" in resamples.described


def test_profiles_are_drawn_where_all_are_of_one_study_and_the_result_says_so():
    resamples = Resamples.draw(["a"] * 10, 50, seed=1)
    assert resamples.unit == "profiles"
    assert "10 profiles of one study, so not about other studies" in resamples.described


@pytest.mark.parametrize("studies", [2, 4, 5, 8, 20])
@pytest.mark.parametrize("between", [0.0, 1.0, 4.0])
def test_intervals_over_studies_hold_the_truth(studies, between):
    generator = np.random.default_rng(0)
    held = 0
    for number in range(DATA_SETS):
        study = np.repeat(np.arange(studies), generator.integers(4, 20, studies))
        values = generator.normal(0, np.sqrt(between), studies)[study] + generator.normal(0, 1, len(study))
        resamples = Resamples.draw([str(name) for name in study], 100, seed=number)
        sums = resamples.sums(np.stack([values, np.ones(len(values))], axis=1))
        interval = resamples.interval(float(values.mean()), sums[:, 0] / sums[:, 1], DIFFERENCE)
        held += interval.low <= 0 <= interval.high
    assert LEAST <= held / DATA_SETS <= MOST


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
    errors = resamples.sums(np.array([[0.1], [4.0]]))[:, 0] / 2
    interval = resamples.interval(2.05, errors, ERROR)
    assert 0 < interval.low < 2.05 < interval.high
    assert np.isnan(Resamples.draw(["a"], 100, seed=0).interval(1.0, np.ones(100), ERROR).low)


def test_intervals_over_folds_hold_the_expected_score():
    """Two classes told apart by their means, learned from few profiles: the folds of one data set are alike."""
    generator = np.random.default_rng(2)
    truth, intervals = [], []
    for _ in range(DATA_SETS):
        classes = np.tile([0, 1], 20)
        values = generator.normal(0, 1, (40, 4)) + 0.6 * classes[:, None]
        scores = []
        for fold in range(5):
            test = np.arange(40) // 2 % 5 == fold
            means = [values[~test & (classes == number)].mean(axis=0) for number in (0, 1)]
            nearer = [((values[test] - mean) ** 2).sum(axis=1) for mean in means]
            scores.append(float(((nearer[1] < nearer[0]) == classes[test]).mean()))
        truth.append(np.mean(scores))
        intervals.append(fold_interval(scores, test_share=0.25))
    expected = np.mean(truth)
    held = np.mean([interval.low <= expected <= interval.high for interval in intervals])
    assert LEAST <= held <= MOST


def test_fold_intervals_are_the_corrected_ones_and_stay_between_0_and_1():
    interval = fold_interval([0.7, 0.8, 0.9, float("nan")], test_share=0.5)
    assert interval.value == pytest.approx(0.8)
    assert interval.value - interval.low == pytest.approx(4.302653 * 0.1 * np.sqrt(1 / 3 + 0.5), rel=1e-5)
    assert interval.high == 1.0
    assert fold_interval([0.05, 0.0, 0.3], test_share=0.5).low == 0.0


def test_folds_that_all_score_the_same_have_no_interval():
    interval = fold_interval([1.0, 1.0, 1.0], test_share=0.5)
    assert interval.value == 1.0
    assert np.isnan([interval.low, interval.high]).all()
    assert np.isnan(fold_interval([], test_share=0.5).value)
