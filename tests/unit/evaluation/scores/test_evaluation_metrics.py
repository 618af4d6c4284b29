"""Scores equal numbers computed by hand or by scipy, add up over batches, and are undefined rather than wrong."""

import numpy as np
import pytest
from scipy import stats

from evaluation.scores.classification_scores import curves_of, metrics_of, reliability, statistics_of
from evaluation.scores.metrics import ErrorSums


@pytest.fixture
def entries():
    generator = np.random.default_rng(0)
    truth = generator.normal(3, 1, (40, 30))
    predicted = truth + generator.normal(0, 0.5, truth.shape)
    return truth, predicted, generator.random(truth.shape) < 0.5


def test_pearson_and_error_equal_scipy_per_gene_per_profile_and_over_all(entries):
    truth, predicted, counted = entries
    per_gene = ErrorSums.over(truth, predicted, counted, axis=0)
    per_profile = ErrorSums.over(truth, predicted, counted, axis=1)
    for gene in range(30):
        rows = counted[:, gene]
        expected = stats.pearsonr(truth[rows, gene], predicted[rows, gene]).statistic
        assert per_gene.pearson()[gene] == pytest.approx(expected, abs=1e-10)
    for profile in range(40):
        genes = counted[profile]
        error = np.mean((truth[profile, genes] - predicted[profile, genes]) ** 2)
        assert per_profile.mean_squared_error()[profile] == pytest.approx(error)
    overall = stats.pearsonr(truth[counted], predicted[counted]).statistic
    assert float(per_gene.total().pearson()) == pytest.approx(overall)
    assert float(per_profile.total().pearson()) == pytest.approx(overall)


def test_sums_of_batches_are_sums_of_everything(entries):
    truth, predicted, counted = entries
    parts = [ErrorSums.over(truth[rows], predicted[rows], counted[rows], axis=0) for rows in (slice(7), slice(7, 40))]
    whole = ErrorSums.over(truth, predicted, counted, axis=0)
    np.testing.assert_allclose((parts[0] + parts[1]).values, whole.values)


def test_what_is_not_counted_never_matters(entries):
    truth, predicted, counted = entries
    clean = ErrorSums.over(truth, predicted, counted, axis=1)
    dirty = ErrorSums.over(np.where(counted, truth, np.nan), np.where(counted, predicted, np.inf), counted, axis=1)
    np.testing.assert_array_equal(clean.values, dirty.values)


def test_correlation_of_a_constant_prediction_is_undefined(entries):
    truth, _, counted = entries
    # a value without an exact binary form: rounding must not pass for variance
    constant = np.full_like(truth, 0.1 + 1e3, dtype=np.float32)
    assert np.isnan(ErrorSums.over(truth, constant, counted, axis=0).pearson()).all()


def test_correlation_of_too_few_entries_is_undefined():
    truth = np.arange(4.0)[None]
    assert np.isnan(ErrorSums.over(truth, truth, np.ones((1, 4), bool), axis=1).pearson()).all()
    assert np.isnan(ErrorSums.over(truth, truth, np.zeros((1, 4), bool), axis=1).mean_squared_error()).all()


FIVE = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]])


def test_classification_scores_equal_hand_computed_ones():
    truth = np.array([0, 0, 0, 1, 1])
    scores = {name: score(np.arange(5)) for name, score in statistics_of(truth, [FIVE]).items()}
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores["weighted_f1"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5)
    # 5 of the 6 pairs of a positive and a negative are in order
    assert scores["auroc"] == pytest.approx(5 / 6)
    assert scores["auprc"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert scores["brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.7**2 + 0.2**2 + 0.6**2) / 5)
    assert scores["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.7 + 0.2 + 0.6) / 5)
    assert set(scores) == {metric.name for metric in metrics_of(2)}


def test_scores_of_several_classes_are_means_over_them_and_over_repeats():
    truth = np.array([0, 0, 1, 1, 2, 2])
    right = np.eye(3)[truth]
    wrong = np.roll(right, 1, axis=1)
    of = {name: score(np.arange(6)) for name, score in statistics_of(truth, [right, wrong]).items()}
    assert "auprc" not in of
    assert of["accuracy"] == of["brier"] == 0.5
    assert of["auroc"] == pytest.approx((1 + (0 + 0.25) / 2 * 2) / 2)
    assert reliability(truth, right) == [{"predicted": 1.0, "observed": 1.0, "samples": 6}]


def test_ranking_scores_of_one_class_only_are_undefined():
    scores = statistics_of(np.zeros(3, int), [np.full((3, 2), 0.5)])
    assert np.isnan([scores["auroc"](np.arange(3)), scores["auprc"](np.arange(3))]).all()


def test_tables_hold_every_sample_once_for_each_method():
    truth = np.array([0, 0, 0, 1, 1])
    curves = curves_of(["healthy", "ill"], truth, {"ours": FIVE, "chance": np.full((5, 2), 0.5)})
    assert {"method": "ours", "actual": "ill", "predicted": "healthy", "count": 1} in curves["confusion"]
    assert sum(row["count"] for row in curves["confusion"]) == 10
    assert sum(row["samples"] for row in curves["calibration"]) == 10
    ends = [row for row in curves["roc"] if row["method"] == "ours"]
    assert (ends[0]["false_positive_rate"], ends[-1]["true_positive_rate"]) == (0, 1)
