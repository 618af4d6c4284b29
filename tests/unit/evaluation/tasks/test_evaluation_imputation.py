"""Imputation: every method sees the same masked profiles, and the summary is of what was masked and measured."""

import numpy as np
import pytest
from scipy import stats

from dataprep.runtime.command_line import UserError
from evaluation.config import MODEL
from evaluation.methods.baselines import Linear, gene_means
from evaluation.methods.hidden_genes import RandomGenes
from evaluation.scores.imputation_scores import summarise
from evaluation.tasks.imputation import (
    PCA,
    RECTIFIED,
    ImputationSettings,
    Profiles,
    fit_baselines,
    score_methods,
)
from pretrain.prior.fit import LinearFits
from pretrain.prior.principal import principal_directions


def profiles(number, seed, genes=150, rank=6):
    generator = np.random.default_rng(seed)
    loading = np.random.default_rng(99).normal(0, 1, (rank, genes))
    values = 4 + generator.normal(0, 1, (number, rank)) @ loading + generator.normal(0, 0.5, (number, genes))
    return values.astype(np.float16)


def pca_of(train, rank):
    return Linear(principal_directions(train.astype(np.float32), rank).prior(0.05))


def batches(row_ids, expression, size):
    for start in range(0, len(row_ids), size):
        yield row_ids[start : start + size], expression[start : start + size].astype(np.float32)


def metric(summary, method, name):
    return next(score.interval for score in summary.scores if (score.method, score.metric) == (method, name))


def test_masked_genes_are_hidden_from_every_method_and_nothing_else_is():
    truth, row_ids = profiles(6, 0), np.arange(100, 106)
    truth[2, :30] = np.nan
    seen = []

    def spy(visible):
        seen.append(visible.copy())
        return np.zeros_like(visible)

    score_methods({"a": spy, "b": spy}, batches(row_ids, truth, 6), 6, RandomGenes(0.15, 1))
    mask = RandomGenes(0.15, 1).mask(row_ids, truth.shape[1])
    assert 0.1 < mask.mean() < 0.2
    for visible in seen:
        np.testing.assert_array_equal(np.isnan(visible), mask | np.isnan(truth))
        np.testing.assert_array_equal(visible[~mask], truth.astype(np.float32)[~mask])


def test_scores_are_of_masked_measured_entries_and_do_not_depend_on_the_batch_size():
    train, truth, row_ids = profiles(120, 1), profiles(20, 2), np.arange(20)
    truth[:, :10] = np.nan
    pca = pca_of(train, 6)
    methods = {MODEL: pca.predict, PCA: pca.predict}
    found = []
    for size in (3, 20):
        sums = score_methods(methods, batches(row_ids, truth, size), 20, RandomGenes(0.15, 0))
        found.append(summarise(sums, ["s"] * 20, 100, seed=0))
    mask = RandomGenes(0.15, 0).mask(row_ids, truth.shape[1]) & np.isfinite(truth)
    predicted = pca.predict(
        np.where(RandomGenes(0.15, 0).mask(row_ids, truth.shape[1]), np.nan, truth.astype(np.float32))
    )
    expected = stats.pearsonr(truth[mask].astype(float), predicted[mask]).statistic
    for summary in found:
        assert metric(summary, PCA, "pearson").value == pytest.approx(expected)
        assert summary.facts["masked_entries"] == mask.sum()
        assert summary.facts["genes_scored"] == mask.any(axis=0).sum()
        # the same predictions: no advantage, on every resample
        advantage = metric(summary, MODEL, "pearson_minus_probabilistic PCA")
        assert (advantage.value, advantage.low, advantage.high) == (0, 0, 0)


def test_the_better_method_is_better_beyond_its_interval_and_the_mean_has_no_correlation_within_genes():
    train, truth = profiles(200, 1), profiles(60, 2)
    pca, mean = pca_of(train, 6), gene_means(train)
    methods = {MODEL: pca.predict, "gene mean": mean.predict}
    sums = score_methods(methods, batches(np.arange(60), truth, 16), 60, RandomGenes(0.15, 0))
    summary = summarise(sums, [f"study {n % 6}" for n in range(60)], 300, seed=0)
    assert "over 6 studies" in str(summary.facts["intervals"])
    assert metric(summary, MODEL, "pearson_minus_gene mean").low > 0.1
    difference = metric(summary, MODEL, "mse_minus_gene mean")
    assert difference.value == metric(summary, MODEL, "mse").value - metric(summary, "gene mean", "mse").value
    assert difference.high < 0
    assert metric(summary, MODEL, "pearson_per_gene_median").value > 0.8
    assert np.isnan(metric(summary, "gene mean", "pearson_per_gene_median").value)
    assert len(summary.by_study) == 6 * 2


@pytest.mark.parametrize("validated", [True, False])
def test_the_rank_of_the_truth_is_chosen_and_the_facts_say_on_what(validated):
    def some(number, seed):
        return Profiles(np.arange(number), np.array([f"study {n % 4}" for n in range(number)]), profiles(number, seed))

    settings = ImputationSettings(ranks=[1, 6, 500], tuning_profiles=16)
    train = some(40, 1)
    fits = LinearFits(train.expression, train.studies, settings.ranks)
    hidden = RandomGenes(0.15, 0)
    baselines, facts = fit_baselines(train, some(16, 2) if validated else None, settings, hidden, fits)
    assert facts["pca_rank"] == facts["rectified_rank"] == 6
    assert facts["pca_rank_chosen_on"] == ("validation" if validated else "left-out studies of train")
    assert list(baselines) == [
        RECTIFIED,
        PCA,
        "ridge regression",
        "nearest profiles",
        "gene median",
        "gene mean",
    ]


def test_a_method_that_predicts_nan_is_refused_not_skipped():
    with pytest.raises(UserError, match="model predicts values that are not finite for rows 0 to 3"):
        score_methods({"model": lambda v: v}, batches(np.arange(4), profiles(4, 0), 4), 4, RandomGenes(0.15, 0))
