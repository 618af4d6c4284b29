"""The baselines are fitted on what was measured, and say what chose their settings."""

import numpy as np
import pytest

from evaluation.methods.baselines import Linear, chosen_linear_baselines, gene_means, gene_medians
from pretrain.prior.choice import HeldOut
from pretrain.prior.fit import LinearFits, trials_of


def low_rank_profiles(profiles, genes, rank, noise, seed):
    generator = np.random.default_rng(seed)
    loading = np.random.default_rng(1000).normal(0, 1, (rank, genes))
    latent = generator.normal(0, 1, (profiles, rank))
    return (12 + latent @ loading + generator.normal(0, noise, (profiles, genes))).astype(np.float16)


def mask_of(rows):
    return np.random.default_rng(0).random((len(rows), 60)) < 0.15


def test_constants_are_over_measured_values_only():
    profiles = np.array([[1.0, np.nan, 0.0], [2.0, np.nan, np.nan], [6.0, np.nan, 4.0]], np.float32)
    np.testing.assert_allclose(gene_means(profiles).values, [3, 2.5, 2])
    np.testing.assert_allclose(gene_medians(profiles).values, [2, 2, 2])


@pytest.mark.parametrize(
    ("studies", "validated", "chosen_on"),
    [
        (6, True, "validation"),
        (6, False, "left-out studies of train"),
        (2, False, "left-out studies of train"),
        (1, False, "left-out profiles of train"),
    ],
)
def test_linear_baselines_find_the_rank_with_and_without_validation(studies, validated, chosen_on):
    train = low_rank_profiles(90, 60, 4, 0.4, seed=0)
    validation = None
    if validated:
        truth = low_rank_profiles(16, 60, 4, 0.4, seed=1).astype(np.float32)
        validation = HeldOut(np.where(mask_of(range(16)), np.float32(np.nan), truth), truth)
    names = np.array([f"study {n % studies}" for n in range(90)])
    trials, said = trials_of(train, names, validation, mask_of, 40)
    assert said == chosen_on
    fitted = chosen_linear_baselines(LinearFits(train, names, [1, 4, 500]), trials, said)
    assert {fitted.ppca.choice.rank, fitted.rectified.choice.rank} <= {4, 44, 71}
    if validated:
        assert fitted.ppca.choice.rank == fitted.rectified.choice.rank == 4
    test = low_rank_profiles(20, 60, 4, 0.4, seed=2).astype(np.float32)
    mask = mask_of(range(20))
    for linear in (fitted.ppca, fitted.rectified):
        predicted = Linear(linear.prior).predict(np.where(mask, np.float32(np.nan), test))
        assert predicted.dtype == np.float32
        assert float(((predicted - test)[mask] ** 2).mean()) < 0.1 * test.var()
