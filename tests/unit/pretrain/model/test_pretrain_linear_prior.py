"""The linear prior is what it claims: exact Gaussian conditioning, and the moments of a Gaussian cut at zero."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from pretrain.model.linear_prior import LinearPrior, mean_below_zero, rectified_mean, symmetric_product
from pretrain.shape import prior_coordinates


def made_prior(genes=25, rank=4, seed=0, spread=False):
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    noise_sd = drawn(genes).abs() + 0.1
    spread_G = drawn(genes).abs() + 0.1 if spread else None
    return LinearPrior.of(2 + drawn(genes), drawn(genes, rank) / noise_sd[:, None], noise_sd, spread_G)


def drawn_profiles(number, genes, hidden_share, seed=5):
    generator = np.random.default_rng(seed)
    values = generator.normal(2, 2, (number, genes))
    values[generator.random(values.shape) < hidden_share] = np.nan
    return torch.from_numpy(values)


def gaussian_conditional(prior, profile):
    """mu + W E[z | y_O] by the closed formula with the full covariance of what is observed."""
    mean, noise_sd = prior.mean.numpy(), prior.noise_sd.numpy()
    loading = prior.loadings.numpy() * noise_sd[:, None]
    seen = np.isfinite(profile)
    covariance = loading[seen] @ loading[seen].T + np.diag(noise_sd[seen] ** 2)
    return mean + loading @ loading[seen].T @ np.linalg.solve(covariance, profile[seen] - mean[seen])


@pytest.mark.parametrize("hidden_share", [0.0, 0.1, 0.5, 0.9])
def test_conditioning_equals_the_closed_gaussian_formula(hidden_share):
    prior, profiles = made_prior(), drawn_profiles(6, 25, hidden_share)
    predicted = prior(profiles)
    for row, profile in enumerate(profiles.numpy()):
        np.testing.assert_allclose(predicted[row], gaussian_conditional(prior, profile), rtol=0, atol=1e-6)


def test_profiles_of_one_pattern_share_one_system():
    prior, profiles = made_prior(), drawn_profiles(5, 25, 0.0)
    profiles[:, :9] = torch.nan
    shared = prior.condition(profiles, prior.observed_gram(~profiles[:1].isnan()))
    torch.testing.assert_close(shared, prior(profiles))


def test_a_profile_without_any_observed_gene_gets_the_means_and_one_with_few_gets_numbers():
    prior = made_prior()
    profiles = torch.full((2, 25), torch.nan, dtype=torch.float64)
    profiles[1, 3] = 5.0
    predicted = prior(profiles)
    torch.testing.assert_close(predicted[0], prior.mean)
    np.testing.assert_allclose(predicted[1], gaussian_conditional(prior, profiles[1].numpy()), atol=1e-6)


def test_narrowed_is_the_prior_of_fewer_components_and_other_noise():
    prior, profiles = made_prior(), drawn_profiles(3, 25, 0.3)
    narrow = prior.narrowed(2, 4.0)
    expected = LinearPrior.of(prior.mean, prior.loadings[:, :2] / 2, prior.noise_sd * 2)
    torch.testing.assert_close(narrow(profiles), expected(profiles))
    # from the inner products of the whole, as they are when many are tried
    gram = prior.observed_gram(~profiles.isnan())
    torch.testing.assert_close(prior.narrowed(2, 1.0).condition(profiles, gram[:, :2, :2], 4.0), expected(profiles))


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (2.0, 0.5), (-1.5, 0.7), (0.3, 2.0)])
def test_moments_of_a_gaussian_cut_at_zero(mean, sd):
    density = stats.norm(mean, sd).pdf
    below, _ = integrate.quad(lambda y: y * density(y), mean - 12 * sd, 0)
    above, _ = integrate.quad(lambda y: y * density(y), 0, max(0, mean) + 12 * sd)
    m, s = torch.tensor(mean, dtype=torch.float64), torch.tensor(sd, dtype=torch.float64)
    assert float(mean_below_zero(m, s)) == pytest.approx(below / stats.norm.cdf(0, mean, sd), rel=1e-4)
    assert float(rectified_mean(m, s)) == pytest.approx(above, rel=1e-6)


def test_a_zero_far_from_what_was_expected_gives_numbers_in_single_precision():
    m, s = torch.tensor([30.0, -30.0, 0.0]), torch.full((3,), 0.2)
    assert torch.isfinite(mean_below_zero(m, s)).all()
    assert (mean_below_zero(m, s) <= 0).all()
    torch.testing.assert_close(rectified_mean(m, s)[:2], torch.tensor([30.0, 0.0]))


def test_the_rectified_prior_takes_zeros_as_censored():
    """Two genes that are one quantity: a zero says it is below zero, how far nobody knows, and so for the other."""
    loading, noise = torch.tensor([[2.0], [2.0], [2.0]]).double(), 0.3
    numbers = (torch.ones(3).double(), loading / noise, torch.full((3,), noise).double())
    rectified = LinearPrior.of(*numbers, torch.full((3,), noise).double())
    plain = LinearPrior.of(*numbers)
    profile = torch.tensor([[0.0, 0.0, torch.nan]]).double()
    assert float(plain(profile)[0, 2]) == pytest.approx(0.0, abs=0.05)
    assert 0 < float(rectified(profile)[0, 2]) < 0.12
    # away from zero they are the same
    profile = torch.tensor([[4.0, 4.2, torch.nan]]).double()
    torch.testing.assert_close(rectified(profile), plain(profile))


def test_large_inner_products_do_not_break_the_solution_in_single_precision():
    genes, rank = 3000, 5
    loading = torch.randn(genes, rank, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e3, 1, 1, 1, 1e-3])
    prior = LinearPrior.of(torch.zeros(genes), loading / 1e-3, torch.full((genes,), 1e-3))
    profiles = loading[:, 0].repeat(2, 1)
    profiles[:, ::7] = torch.nan
    torch.testing.assert_close(prior(profiles), loading[:, 0].repeat(2, 1), rtol=1e-2, atol=1.0)


def test_the_state_dict_is_the_whole_prior():
    prior, profiles = made_prior(spread=True), drawn_profiles(3, 25, 0.3)
    again = LinearPrior(25, 4, rectified=True).double()
    again.load_state_dict(prior.state_dict())
    torch.testing.assert_close(again(profiles), prior(profiles))


def orthogonal_prior(genes=40, rank=8):
    """As fits make them: loadings orthogonal, the first the longest."""
    generator = np.random.default_rng(3)
    directions = np.linalg.qr(generator.normal(size=(genes, rank)))[0]
    loadings = torch.from_numpy(directions * np.linspace(30, 1, rank))
    return LinearPrior.of(torch.full((genes,), 2.0).double(), loadings, torch.full((genes,), 0.5).double())


def test_distances_of_coordinates_are_those_of_expected_profiles_in_units_of_noise():
    prior, profiles = orthogonal_prior(), drawn_profiles(6, 40, 0.2)
    latent = prior.latent(profiles, prior.observed_gram(~profiles.isnan()))
    coordinates = prior.coordinates(latent)
    assert coordinates.shape == (6, 8)
    torch.testing.assert_close(
        torch.cdist(coordinates, coordinates), torch.cdist(prior(profiles), prior(profiles)) / 0.5
    )


def test_coordinates_of_independent_directions_have_one_variance():
    """So that a method that scales each feature to unit variance changes no distance."""
    prior = orthogonal_prior()
    coordinates = prior.coordinates(torch.from_numpy(np.random.default_rng(0).normal(size=(20_000, 8))))
    variances = coordinates.var(dim=0)
    assert float(variances.max() / variances.min()) < 1.1
    along = prior.gram.diagonal()
    assert float(along.max() / along.min()) > 100


def test_coordinates_are_of_the_leading_directions_and_a_power_of_two():
    assert [prior_coordinates(rank) for rank in (0, 1, 2, 3, 200, 841, 1024)] == [0, 0, 2, 2, 128, 512, 1024]
    prior = orthogonal_prior(rank=7)
    latent = torch.ones(1, 7, dtype=torch.float64)
    moved = latent + torch.tensor([0.0] * 4 + [1.0] * 3)
    assert prior.coordinates(latent).shape == (1, 4)
    assert torch.equal(prior.coordinates(latent), prior.coordinates(moved))


def symmetric(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix, and what :func:`symmetric_product` makes of it."""
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    product = torch.full((columns, columns), torch.nan, dtype=torch.float64)
    symmetric_product(matrix, product)
    return matrix, product


@pytest.mark.parametrize(("rows", "columns"), [(7, 3), (90, 256), (300, 301), (20, 513)])
def test_a_symmetric_product_is_the_product(rows, columns):
    matrix, product = symmetric(rows, columns)
    torch.testing.assert_close(product, matrix.T @ matrix)


def test_below_the_diagonal_a_symmetric_product_is_a_copy():
    _, product = symmetric(20, 513)
    # in a block on the diagonal, libraries round both halves as they like
    assert torch.equal(product[-1, :86], product[:86, -1])
