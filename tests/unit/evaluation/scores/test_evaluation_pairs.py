"""Pairs of cell lines and targets: folds without leaks, ridge regressions with missing values, honest correlations."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from evaluation.methods.ridge import ridge_per_target, ridge_with_own_features
from evaluation.scores.folds import fold_numbers, group_folds, pair_folds
from evaluation.scores.pair_comparison import compare_on_pairs, widening
from evaluation.scores.pair_scores import PairScores

LINES, TARGETS = np.divmod(np.arange(24 * 10), 10)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("split", ["cell_line", "target", "both", "pair"])
def test_nothing_that_is_new_in_a_fold_was_fitted_on(split):
    folds = pair_folds(LINES.astype(str), TARGETS.astype(str), split, 3, 0)
    assert (np.bincount(np.concatenate([test for _, test in folds.parts])) == 1).all()
    for train, test in folds.parts:
        assert not set(train) & set(test)
        if split in ("cell_line", "both"):
            assert not set(LINES[train]) & set(LINES[test])
        if split in ("target", "both"):
            assert not set(TARGETS[train]) & set(TARGETS[test])
    assert len(set(fold_numbers(folds))) == (9 if split == "both" else 3)


def test_ridges_with_missing_values_are_those_of_each_target_alone_with_the_best_common_penalty():
    features, values = RNG.normal(size=(30, 6)), RNG.normal(size=(30, 5))
    values += features @ RNG.normal(size=(6, 5))
    values[RNG.random(values.shape) < 0.2] = np.nan
    values[:, 3] = values[:, 2] * 2  # two targets of the same profiles
    new = RNG.normal(size=(4, 6))
    penalties = (0.1, 3.0, 100.0)

    def fit(penalty, rows, target):
        return Ridge(penalty).fit(features[rows], values[rows, target])

    errors = []
    for penalty in penalties:
        left_out = []
        for target in range(5):
            rows = np.flatnonzero(np.isfinite(values[:, target]))
            for row in rows:
                predicted = fit(penalty, rows[rows != row], target).predict(features[[row]])[0]
                left_out.append((values[row, target] - predicted) ** 2)
        errors.append(sum(left_out))
    best = penalties[int(np.argmin(errors))]
    expected = [fit(best, np.isfinite(values[:, target]), target).predict(new) for target in range(5)]
    np.testing.assert_allclose(ridge_per_target(features, values, new, penalties), np.transpose(expected))


def test_targets_without_enough_values_get_means():
    values = np.array([[1.0, np.nan, 2], [3, np.nan, np.nan], [2, np.nan, np.nan], [4, np.nan, 8]])
    predicted = ridge_per_target(RNG.normal(size=(4, 2)), values, RNG.normal(size=(2, 2)))
    assert (predicted[:, 2] == 5).all()
    assert predicted[:, 1] == pytest.approx(20 / 6)


def test_each_target_can_have_features_of_its_own():
    own = RNG.normal(size=(8, 40, 3))
    values = own[:, :, 0].T * 2 + 0.1 * RNG.normal(size=(40, 8))
    hidden = np.where(np.arange(40)[:, None] < 30, values, np.nan)
    predicted = ridge_with_own_features(lambda target: own[target], hidden, choose_on=8)
    assert np.corrcoef(predicted[30:].ravel(), values[30:].ravel())[0, 1] > 0.95


def scores_of(fold):
    level = RNG.normal(size=10) * 3
    truth = level[TARGETS] + RNG.normal(size=len(LINES))
    return PairScores(LINES, TARGETS, fold, truth, "drug"), truth


def test_a_mean_of_each_target_has_no_correlation_per_target_whatever_the_folds():
    folds = group_folds(LINES.astype(str), None, 0)
    for fold in (fold_numbers(folds), LINES % 4):
        scores, truth = scores_of(fold)
        predicted = np.empty(len(truth))
        for number in np.unique(fold):
            for target in range(10):
                own = target == TARGETS
                predicted[own & (fold == number)] = truth[own & (fold != number)].mean()
        statistics = scores.statistics(predicted)
        assert np.isnan(statistics["mean_pearson_per_drug"](np.arange(24)))
        assert statistics["pearson"](np.arange(24)) > 0.8


def test_correlations_are_within_targets_and_folds_and_follow_resampled_lines():
    scores, truth = scores_of(np.zeros(len(LINES), int))
    predicted = truth + RNG.normal(size=len(truth))
    lines = RNG.integers(0, 24, 24)
    rows = np.concatenate([np.flatnonzero(line == LINES) for line in lines])
    by_target = [
        np.corrcoef(truth[rows][own], predicted[rows][own])[0, 1]
        for own in (TARGETS[rows] == target for target in range(10))
    ]
    statistics = scores.statistics(predicted)
    assert statistics["mean_pearson_per_drug"](lines) == pytest.approx(np.mean(by_target))
    assert statistics["pearson"](lines) == pytest.approx(np.corrcoef(truth[rows], predicted[rows])[0, 1])
    assert statistics["rmse"](lines) == pytest.approx(np.sqrt(np.mean((truth - predicted)[rows] ** 2)))


def test_intervals_allow_for_folds_that_share_lines_and_hold_chance_in_nearly_all_of_forty_tables():
    held, lines, targets = 0, *np.divmod(np.arange(30 * 6), 6)
    for seed in range(40):
        random = np.random.default_rng(seed)
        features, values = random.normal(size=(30, 4)) / 2, random.normal(size=(30, 6))
        folds = pair_folds(lines.astype(str), targets.astype(str), "cell_line", 5, seed)
        assert widening(lines, folds) == pytest.approx(1.5)
        predicted = np.empty(180)
        for train, test in folds.parts:
            fitted = np.unique(lines[train])
            predicted[test] = ridge_per_target(features[fitted], values[fitted], features, (1.0,))[
                lines[test], targets[test]
            ]
        scores = PairScores(lines, targets, fold_numbers(folds), values.ravel(), "drug")
        names = [f"{number:02d}" for number in range(30)]
        compared = compare_on_pairs(scores, {"ridge": predicted}, folds, names, "cell lines", [], 30, 0)
        interval = compared.scores[0].interval
        held += interval.low < 0 < interval.high
    assert held >= 36


def test_a_target_whose_prediction_does_not_vary_counts_as_no_correlation():
    scores, truth = scores_of(LINES % 2)
    half = np.where(TARGETS < 5, truth, 1.0)
    assert scores.statistics(half)["mean_pearson_per_drug"](np.arange(24)) == pytest.approx(0.5)
