"""Which genes are hidden, and the two methods that look for them in other profiles."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataprep.genes.vocabulary import GeneVocabulary, default_vocabulary
from dataprep.runtime.command_line import UserError
from evaluation.methods.hidden_genes import AllButPanel, RandomGenes, WholeGeneSets, read_gene_sets
from evaluation.methods.nearest_profiles import MaskedRidge, NearestProfiles, fit_nearest, fit_ridge
from pretrain.prior.choice import HeldOut
from pretrain.prior.fit import Trial

GENES = 60
ROWS = np.arange(100, 112)


@pytest.fixture(scope="module")
def vocabulary() -> GeneVocabulary:
    return GeneVocabulary.from_arrow(default_vocabulary().to_arrow().slice(0, GENES))


def test_a_panel_is_all_that_is_visible() -> None:
    hidden = AllButPanel(np.array([3, 40]))
    assert hidden.subject == "from a panel of 2 genes"
    assert np.array_equal(np.flatnonzero(~hidden.mask(ROWS, GENES)[5]), [3, 40])


def test_gene_sets_are_hidden_whole_and_differ_between_profiles_not_between_repeats() -> None:
    sets = [np.arange(start, start + 6) for start in range(0, 60, 6)]
    mask = WholeGeneSets(sets, 0.15, seed=0).mask(ROWS, GENES)
    by_set = mask.reshape(len(ROWS), 10, 6)
    assert np.array_equal(by_set.any(axis=2), by_set.all(axis=2))
    # two sets of a tenth each are the first to reach 15 %
    assert (by_set.all(axis=2).sum(axis=1) == 2).all()
    assert len({row.tobytes() for row in mask}) > 5
    assert np.array_equal(mask[3:], WholeGeneSets(sets, 0.15, seed=0).mask(ROWS[3:], GENES))


def test_gene_sets_are_read_by_symbol_and_id(tmp_path: Path, vocabulary: GeneVocabulary) -> None:
    file = tmp_path / "sets.gmt"
    symbols = [symbol for symbol in vocabulary.symbols if symbol][:4]
    lines = [
        "\t".join(["FIRST", "from somewhere", *symbols, vocabulary.ensembl_ids[20], "NO_GENE"]),
        "\t".join(["SMALL", "", *symbols]),
    ]
    file.write_text("\n".join(lines) + "\n")
    (columns,) = read_gene_sets(str(file), vocabulary)
    assert set(columns) == {*(vocabulary.symbols.index(symbol) for symbol in symbols), 20}
    sharing = ("SHARED", "SHARED", *vocabulary.symbols[2:])
    file.write_text("\t".join(["FIRST", "", "SHARED", *vocabulary.ensembl_ids[10:15]]) + "\n")
    (columns,) = read_gene_sets(str(file), replace(vocabulary, symbols=sharing))
    assert columns.tolist() == [10, 11, 12, 13, 14]
    file.write_text("FIRST,not,tabs\n")
    with pytest.raises(UserError, match="none of its 1 lines is a gene set with 5 genes"):
        read_gene_sets(str(file), vocabulary)
    with pytest.raises(UserError, match="no such file of gene sets"):
        read_gene_sets(str(tmp_path / "none.gmt"), vocabulary)


def low_rank(number: int, seed: int) -> np.ndarray:
    loading = np.random.default_rng(7).normal(0, 1, (3, GENES))
    generator = np.random.default_rng(seed)
    return (5 + generator.normal(0, 1, (number, 3)) @ loading + generator.normal(0, 0.2, (number, GENES))).astype(
        np.float16
    )


def test_the_nearest_profile_is_found_by_what_both_measure() -> None:
    train = low_rank(50, 0)
    train[7, 10:30] = np.nan
    seen = np.full((1, GENES), np.nan, np.float32)
    seen[0, :40] = train[7, :40]
    (predicted,) = next(NearestProfiles.fit(train).predictions(seen, [1]))
    measured = np.isfinite(train[7])
    np.testing.assert_allclose(predicted[measured], train[7][measured].astype(np.float32), atol=1e-2)
    # what the nearest does not measure is at the gene's mean
    np.testing.assert_allclose(predicted[12], np.nanmean(train[:, 12].astype(float)), atol=1e-2)


def test_ridge_in_its_dual_form_is_ridge_regression() -> None:
    train, mask = low_rank(30, 0), RandomGenes(0.3, 0).mask(np.arange(30), GENES)
    ridge = MaskedRidge.fit(train, mask)
    values = train.astype(np.float64)
    means = values.mean(axis=0)
    x, y = np.where(mask, 0, values - means), values - means
    penalty = 0.5 * np.linalg.eigvalsh(x @ x.T).mean()
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(GENES), x.T @ y)
    test = low_rank(4, 1).astype(np.float32)
    np.testing.assert_allclose(next(ridge.predictions(test, [0.5])), means + (test - means) @ weights, atol=1e-3)


@pytest.mark.parametrize("fitted_on", [None, np.arange(60)])
def test_what_serves_best_on_the_trials_is_chosen_and_beats_the_mean(fitted_on: np.ndarray | None) -> None:
    train, truth = low_rank(80, 0), low_rank(20, 1)
    hide = RandomGenes(0.3, 0)
    trial = Trial(fitted_on, HeldOut.hiding(hide.mask(np.arange(20), GENES), truth))
    ridge, penalty = fit_ridge(train, [trial], lambda rows: hide.mask(rows, GENES))
    nearest, neighbours = fit_nearest(train, [trial])
    assert penalty < 10
    assert 1 <= neighbours < 50
    mask = hide.mask(np.arange(500, 520), GENES)
    values = low_rank(20, 2).astype(np.float32)
    of_mean = ((values - train.mean(axis=0))[mask] ** 2).mean()
    for predict in (ridge, nearest):
        assert ((predict(np.where(mask, np.float32(np.nan), values)) - values)[mask] ** 2).mean() < 0.5 * of_mean
