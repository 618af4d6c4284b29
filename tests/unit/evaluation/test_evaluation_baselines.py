"""The baselines are what they claim: exact conditional expectations, fitted on what was measured."""

import numpy as np
import pytest

from evaluation.methods.baselines import ProbabilisticPCA, fit_probabilistic_pca, gene_means, gene_medians
from evaluation.scores.metrics import ErrorSums


def low_rank_profiles(profiles, genes, rank, noise, seed):
    generator = np.random.default_rng(seed)
    loading = np.random.default_rng(1000).normal(0, 1, (rank, genes))
    latent = generator.normal(0, 1, (profiles, rank))
    return (3 + latent @ loading + generator.normal(0, noise, (profiles, genes))).astype(np.float32)


def gaussian_conditional(model: ProbabilisticPCA, profile):
    """E[y | y_O] by the closed formula with the full covariance."""
    genes = len(model.mean)
    covariance = model.loadings @ model.loadings.T + model.noise_variance * np.eye(genes)
    seen = np.isfinite(profile)
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    smooth = model.mean + gain @ (profile[seen] - model.mean[seen])
    # at observed genes the formula returns the observation; W z + mu is the part without noise
    return smooth, ~seen


@pytest.mark.parametrize("hidden_share", [0.1, 0.8])
def test_conditioning_equals_the_closed_gaussian_formula(hidden_share):
    model = fit_probabilistic_pca(low_rank_profiles(60, 25, 4, 0.5, seed=0), rank=4)
    profiles = low_rank_profiles(5, 25, 4, 0.5, seed=1).astype(np.float64)
    profiles[np.random.default_rng(2).random(profiles.shape) < hidden_share] = np.nan
    predicted = model.predict(profiles)
    for row, profile in enumerate(profiles):
        expected, hidden = gaussian_conditional(model, profile)
        np.testing.assert_allclose(predicted[row, hidden], expected[hidden], rtol=1e-5, atol=1e-5)


def test_the_fit_is_the_maximum_likelihood_solution():
    profiles = low_rank_profiles(500, 12, 3, 0.3, seed=0)
    model = fit_probabilistic_pca(profiles, rank=3)
    eigenvalues = np.linalg.eigvalsh(np.cov(profiles.T, bias=True))[::-1]
    np.testing.assert_allclose(model.variances, eigenvalues[:3], rtol=1e-4)
    assert model.noise_variance == pytest.approx(eigenvalues[3:].mean(), rel=1e-3)
    np.testing.assert_allclose(model.directions.T @ model.directions, np.eye(3), atol=1e-8)


def test_a_smaller_rank_is_the_leading_part_of_a_larger_one():
    profiles = low_rank_profiles(80, 40, 5, 0.5, seed=0)
    small, cut = fit_probabilistic_pca(profiles, 2), fit_probabilistic_pca(profiles, 5).with_rank(2)
    masked = np.where(np.random.default_rng(1).random(profiles.shape) < 0.2, np.nan, profiles)
    np.testing.assert_allclose(small.predict(masked), cut.predict(masked), atol=1e-5)


def test_it_beats_the_mean_on_low_rank_profiles_and_reaches_the_noise_floor():
    train, test = low_rank_profiles(300, 200, 5, 0.4, seed=0), low_rank_profiles(50, 200, 5, 0.4, seed=1)
    mask = np.random.default_rng(2).random(test.shape) < 0.15
    visible = np.where(mask, np.nan, test)

    def error(predicted):
        return float(ErrorSums.over(test, predicted, mask, axis=1).total().mean_squared_error())

    pca = error(fit_probabilistic_pca(train, 5).predict(visible))
    assert pca < 0.1 * error(gene_means(train).predict(visible))
    assert pca == pytest.approx(0.4**2, rel=0.15)


def test_profiles_that_lack_genes_still_help_to_fit_the_others():
    train, test = low_rank_profiles(200, 100, 4, 0.3, seed=0), low_rank_profiles(50, 100, 4, 0.3, seed=1)
    train[:60, :40] = np.nan  # some profiles come from sources without these genes
    mask = np.random.default_rng(2).random(test.shape) < 0.15
    predicted = fit_probabilistic_pca(train, 4).predict(np.where(mask, np.nan, test))
    pearson = float(ErrorSums.over(test, predicted, mask, axis=1).total().pearson())
    assert pearson > 0.95


def test_constants_are_over_measured_values_only():
    profiles = np.array([[1.0, np.nan, 0.0], [2.0, np.nan, np.nan], [6.0, np.nan, 4.0]], np.float32)
    np.testing.assert_allclose(gene_means(profiles).values, [3, 2.5, 2])
    np.testing.assert_allclose(gene_medians(profiles).values, [2, 2, 2])


def test_genes_and_profiles_without_any_measurement_give_numbers():
    train = low_rank_profiles(30, 20, 3, 0.3, seed=0)
    train[:, 7] = np.nan
    test = low_rank_profiles(2, 20, 3, 0.3, seed=1)
    test[1] = np.nan
    predicted = fit_probabilistic_pca(train, 3).predict(test)
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(predicted[1], gene_means(train).values, rtol=1e-5)


def test_constant_profiles_do_not_break_the_fit():
    predicted = fit_probabilistic_pca(np.full((5, 4), 2.0, np.float32), 3).predict(np.full((1, 4), np.nan))
    np.testing.assert_allclose(predicted, 2.0)
