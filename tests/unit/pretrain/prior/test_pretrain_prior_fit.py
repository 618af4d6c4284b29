"""Fits of the linear prior: what was planted is found, and nothing is chosen on what was fitted."""

import numpy as np
import pytest
import torch

from pretrain.prior.choice import HeldOut, choose
from pretrain.prior.fit import LinearFits, Trial, complete_profiles, predict_profiles
from pretrain.prior.folds import study_folds
from pretrain.prior.principal import by_gene, fill_missing, principal_directions


def low_rank_profiles(profiles, genes, rank, noise, seed):
    generator = np.random.default_rng(seed)
    loading = np.random.default_rng(1000).normal(0, 1, (rank, genes))
    latent = generator.normal(0, 1, (profiles, rank))
    return (3 + latent @ loading + generator.normal(0, noise, (profiles, genes))).astype(np.float32)


def hidden(truth, rate=0.15, seed=2):
    visible = np.where(np.random.default_rng(seed).random(truth.shape) < rate, np.float32(np.nan), truth)
    return HeldOut(visible, truth)


def error(prior, held_out):
    counted = np.isnan(held_out.visible) & ~np.isnan(held_out.truth)
    return float(((predict_profiles(prior, held_out.visible) - held_out.truth)[counted] ** 2).mean())


def test_directions_are_those_of_the_covariance():
    profiles = low_rank_profiles(500, 12, 3, 0.3, seed=0)
    found = principal_directions(profiles, rank=5)
    eigenvalues = np.linalg.eigvalsh(np.cov(profiles.T, bias=True))[::-1]
    np.testing.assert_allclose(found.variances, eigenvalues[:5], rtol=1e-3)
    assert found.total_variance == pytest.approx(eigenvalues.sum(), rel=1e-4)
    np.testing.assert_allclose(found.directions.T @ found.directions, np.eye(5), atol=1e-4)


def test_the_prior_of_a_fit_has_the_covariance_it_says():
    found = principal_directions(low_rank_profiles(60, 8, 2, 0.5, seed=0), 3, np.linspace(0.5, 2, 8))
    prior = found.prior(noise=0.7)
    loading = (prior.loadings * prior.noise_sd[:, None]).double().numpy()
    scaled = (loading @ loading.T + np.diag(prior.noise_sd.double().numpy() ** 2)) * np.outer(found.scale, found.scale)
    expected = found.directions * found.variances @ found.directions.T + 0.7 * found.total_variance / 8 * np.eye(8)
    np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-5)


def one_study(profiles):
    return np.array(["study"] * len(profiles))


def test_a_fit_is_made_once_for_all_that_choose_among_its_components(monkeypatch):
    made = []

    def counted(*given):
        made.append(given[0].shape)
        return principal_directions(*given)

    monkeypatch.setattr("pretrain.prior.fit.principal_directions", counted)
    train, studies = low_rank_profiles(60, 80, 4, 0.4, seed=0), np.array([f"study {n % 6}" for n in range(60)])
    fits, few = LinearFits(train, studies, [4]), np.arange(20, 60)

    def chosen(fits, seed):
        way = hidden(low_rank_profiles(16, 80, 4, 0.4, seed=3), seed)
        trials = [Trial(None, way), Trial(few, way)]
        plain = fits.ppca(trials)
        return plain.choice, fits.rectified(trials, plain.choice).choice

    first = chosen(fits, seed=5)
    made.clear()
    assert chosen(fits, seed=5) == first
    assert made == []
    # other hidden genes may choose another noise for what completes profiles, which fits anew
    assert chosen(fits, seed=6) == chosen(LinearFits(train, studies, [4]), seed=6)


def test_rank_and_noise_are_chosen_on_the_held_out_profiles():
    train, test = low_rank_profiles(100, 200, 5, 0.4, seed=0), low_rank_profiles(50, 200, 5, 0.4, seed=1)
    fitted = LinearFits(train, one_study(train), [1, 5, 20, 500]).ppca(
        [Trial(None, hidden(low_rank_profiles(16, 200, 5, 0.4, seed=3)))]
    )
    assert fitted.choice.rank == 5
    assert fitted.prior.rank == 5
    assert fitted.choice.mse == pytest.approx(0.4**2, rel=0.2)
    assert error(fitted.prior, hidden(test)) == pytest.approx(0.4**2, rel=0.15)
    assert error(fitted.prior, hidden(test)) < 0.1 * error(fitted.prior.narrowed(1, 1000.0), hidden(test))


def test_errors_of_trials_add_up_and_a_rank_above_the_smallest_fit_is_cut():
    parts = [low_rank_profiles(n, 60, 4, 0.4, seed=n) for n in (30, 90)]
    trials = [
        (principal_directions(part, 50).prior(1.0), hidden(low_rank_profiles(n, 60, 4, 0.4, seed=9)))
        for part, n in zip(parts, (5, 20), strict=True)
    ]
    both, alone = choose(trials, [4, 40]), [choose([trial], [4, 40]) for trial in trials]
    assert {both.rank, *(choice.rank for choice in alone)} <= {4, 29, 40}
    fits = [fit.narrowed(both.rank, both.noise) for fit, _ in trials]
    squared = sum(error(fit, out) * np.isnan(out.visible).sum() for fit, (_, out) in zip(fits, trials, strict=True))
    assert both.mse == pytest.approx(squared / sum(np.isnan(out.visible).sum() for _, out in trials), rel=1e-4)


def test_a_trial_of_left_out_profiles_is_predicted_by_a_fit_without_them():
    """Pure noise: what has seen a profile seems to predict it, and only little noise would seem right."""
    generator = np.random.default_rng(0)
    train = generator.normal(5, 1, (40, 300)).astype(np.float32)
    seen = LinearFits(train, one_study(train), [30]).ppca([Trial(None, hidden(train[:10]))])
    unseen = LinearFits(train, one_study(train), [30]).ppca([Trial(np.arange(10, 40), hidden(train[:10]))])
    assert seen.choice.mse < 0.7 < 0.95 < unseen.choice.mse
    assert unseen.choice.noise > seen.choice.noise


def test_profiles_that_lack_genes_still_help_to_fit_the_others():
    train, test = low_rank_profiles(200, 100, 4, 0.3, seed=0), low_rank_profiles(50, 100, 4, 0.3, seed=1)
    train[:60, :40] = np.nan  # some profiles come from sources without these genes
    fitted = LinearFits(train, one_study(train), [4]).ppca([Trial(None, hidden(test, seed=4))])
    assert error(fitted.prior, hidden(test)) < 0.1 * test.var()


def test_genes_and_profiles_without_any_measurement_give_numbers():
    train = low_rank_profiles(30, 20, 3, 0.3, seed=0)
    train[:, 7] = np.nan
    test = low_rank_profiles(2, 20, 3, 0.3, seed=1)
    test[1] = np.nan
    studies = np.array([f"study {n % 5}" for n in range(30)])
    trials = [Trial(None, hidden(low_rank_profiles(5, 20, 3, 0.3, seed=2)))]
    plain = LinearFits(train, one_study(train), [3]).ppca(trials)
    rectified = LinearFits(train, studies, [3]).rectified(trials, plain.choice)
    means = by_gene(np.nanmean, train)
    for fitted in (plain, rectified):
        predicted = predict_profiles(fitted.prior, test)
        assert np.isfinite(predicted).all()
        np.testing.assert_allclose(predicted[1], means, atol=0.05)
    assert means[7] == pytest.approx(np.delete(means, 7).mean(), rel=1e-5)


def test_constant_profiles_do_not_break_the_fit():
    constant = np.full((5, 4), 2.0, np.float32)
    trials = [Trial(None, HeldOut(np.full((1, 4), np.nan, np.float32), constant[:1]))]
    plain = LinearFits(constant, one_study(constant), [3]).ppca(trials)
    rectified = LinearFits(constant, np.array(list("aabbb")), [3]).rectified(trials, plain.choice)
    for fitted in (plain, rectified):
        np.testing.assert_allclose(predict_profiles(fitted.prior, np.full((1, 4), np.nan)), 2.0, atol=1e-4)


def test_prediction_by_pattern_is_prediction_one_by_one():
    prior = principal_directions(low_rank_profiles(40, 30, 3, 0.3, seed=0), 3).prior(0.5)
    profiles = low_rank_profiles(7, 30, 3, 0.3, seed=1)
    profiles[:3, :10] = np.nan
    profiles[5, 20:] = np.nan
    np.testing.assert_allclose(predict_profiles(prior, profiles), prior(torch.from_numpy(profiles)), atol=1e-5)


def test_zeros_are_completed_below_zero_and_missing_values_by_studies_that_were_left_out():
    truth = low_rank_profiles(120, 80, 3, 0.3, seed=0) - 3
    observed = np.maximum(truth, 0).astype(np.float32)
    observed[::7, ::5] = np.nan
    studies = np.array([f"study {n % 6}" for n in range(120)])
    first = LinearFits(observed, one_study(observed), [3]).ppca([Trial(None, hidden(observed))]).choice
    complete = complete_profiles(observed, studies, first)
    above = observed > 0
    np.testing.assert_array_equal(complete.values[above], observed[above])
    assert (complete.values[observed == 0] < 0).all()
    assert np.isfinite(complete.values).all()
    # what a study is completed with does not depend on its own values
    changed = observed.copy()
    own = study_folds(studies.tolist()) == 0
    changed[own] = np.where(observed[own] > 0, observed[own] * 1.5, observed[own])
    again = complete_profiles(changed, studies, first)
    others = np.isnan(observed) & ~own[:, None]
    assert not np.allclose(again.values[others], complete.values[others])


def test_the_rectified_prior_is_better_where_genes_are_cut_at_zero():
    def cut(number, seed):
        return np.maximum(low_rank_profiles(number, 150, 3, 0.3, seed) - 3, 0).astype(np.float32)

    train, studies = cut(100, 0), np.array([f"study {n % 10}" for n in range(100)])
    trials = [Trial(None, hidden(cut(16, 3)))]
    plain = LinearFits(train, one_study(train), [3, 10]).ppca(trials)
    rectified = LinearFits(train, studies, [3, 10]).rectified(trials, plain.choice)
    test = hidden(cut(60, 1))
    assert error(rectified.prior, test) < 0.95 * error(plain.prior, test)


def test_folds_hold_whole_studies_and_about_as_many_profiles():
    studies = [f"study {n}" for n, size in enumerate([40, 7, 9, 3, 20, 11, 30]) for _ in range(size)]
    folds = study_folds(studies, 3)
    assert all(len({fold for fold, own in zip(folds, studies, strict=True) if own == name}) == 1 for name in studies)
    assert np.ptp(np.bincount(folds)) <= 3
    # neither the order of profiles nor of studies matters
    order = np.random.default_rng(0).permutation(len(studies))
    np.testing.assert_array_equal(study_folds([studies[n] for n in order], 3), folds[order])
    assert sorted(np.unique(study_folds(["a", "b", "b"], 5))) == [0, 1]
    assert sorted(np.unique(study_folds(["a"] * 7, 5))) == [0, 1, 2, 3, 4]


def test_filling_and_statistics_are_over_measured_values_only():
    profiles = np.array([[1.0, np.nan, 0.0], [2.0, np.nan, np.nan], [6.0, np.nan, 4.0]], np.float32)
    np.testing.assert_allclose(by_gene(np.nanmean, profiles), [3, 2.5, 2])
    np.testing.assert_allclose(fill_missing(profiles, np.array([9.0, 8.0, 7.0]))[1], [2, 8, 7])
