"""The streamed fit is the fit in memory, however the profiles are divided; a corpus's prior is of its profiles."""

import numpy as np
import pytest
from made_corpora import make_corpus

from dataprep.corpus import open_corpus, read_split
from dataprep.runtime.command_line import UserError
from pretrain.config import PriorSettings
from pretrain.prior import command
from pretrain.prior.fit import predict_profiles
from pretrain.prior.principal import by_gene, fill_missing, principal_directions
from pretrain.prior.prior_file import PRIOR_FILE, corpus_prior
from pretrain.prior.streamed import corpus_parts, streamed_directions


def in_turn(function, parts, *shared):
    return (function(part, *shared) for part in parts)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior") / "corpus"
    return make_corpus(str(folder), {"train": 150, "validation": 16, "test": 4}, genes=60, rows_per_shard=64)


def test_the_streamed_fit_equals_the_fit_in_memory(corpus):
    _, expression = read_split(corpus, "train")
    exact = principal_directions(fill_missing(expression, by_gene(np.nanmean, expression)), 8)
    found = streamed_directions(corpus_parts(corpus, "train"), corpus.genes, 8, in_turn)
    np.testing.assert_allclose(found.mean, exact.mean, atol=1e-5)
    np.testing.assert_allclose(found.variances, exact.variances, rtol=1e-3)
    assert found.total_variance == pytest.approx(exact.total_variance, rel=1e-4)
    profiles = read_split(corpus, "validation")[1].astype(np.float32)
    profiles[np.random.default_rng(0).random(profiles.shape) < 0.15] = np.nan
    np.testing.assert_allclose(
        predict_profiles(found.prior(0.1), profiles), predict_profiles(exact.prior(0.1), profiles), atol=2e-3
    )


def test_it_does_not_depend_on_how_profiles_are_divided_into_parts(corpus):
    whole = [(corpus, np.arange(150))]
    pieces = [(corpus, rows) for rows in np.array_split(np.arange(150), 7)][::-1]
    one, other = (streamed_directions(parts, corpus.genes, 5, in_turn) for parts in (whole, pieces))
    np.testing.assert_allclose(one.variances, other.variances, rtol=1e-5)
    np.testing.assert_allclose(one.prior(0.1).gram, other.prior(0.1).gram, rtol=1e-4, atol=1e-3)


def test_parts_are_every_train_profile_once(corpus):
    rows = np.concatenate([rows for _, rows in corpus_parts(corpus, "train")])
    np.testing.assert_array_equal(np.sort(rows), np.arange(150))


def test_the_command_writes_a_prior_of_this_corpus_streamed_or_not(corpus, monkeypatch, capsys):
    monkeypatch.setattr(command, "streamed_directions", lambda *given: streamed_directions(*given, in_turn))
    errors = {}
    for in_memory in (3000, 100):
        settings = PriorSettings(
            corpus=corpus.folder.uri, ranks=[2, 8], rectified=False, in_memory_profiles=in_memory, tuning_profiles=16
        )
        found = command.fit_prior(settings)
        assert found["chosen_on"] == "validation"
        errors[in_memory] = found["mse"]
        prior = corpus_prior(corpus)
        assert (prior.rank, prior.rectified) == (8, False)
        assert f"{PRIOR_FILE}: 8 components" in capsys.readouterr().out
    assert errors[100] == pytest.approx(errors[3000], rel=0.01)


def test_the_command_fits_a_rectified_prior_in_memory(corpus):
    found = command.fit_prior(PriorSettings(corpus=corpus.folder.uri, ranks=[8], tuning_profiles=16))
    assert found["rectified"]
    assert corpus_prior(corpus).rectified


def test_a_prior_that_is_missing_of_other_profiles_or_damaged_is_refused(tmp_path):
    folder = tmp_path / "corpus"
    corpus = make_corpus(str(folder), {"train": 30, "validation": 8}, genes=40)
    with pytest.raises(UserError, match=r"has no linear prior: run python -m pretrain prior"):
        corpus_prior(corpus)
    command.fit_prior(PriorSettings(corpus=str(folder), ranks=[3], rectified=False))
    written = (folder / PRIOR_FILE).read_bytes()
    (folder / PRIOR_FILE).write_bytes(written[:-9])
    with pytest.raises(UserError, match="is damaged"):
        corpus_prior(corpus)
    other = make_corpus(str(tmp_path / "other"), {"train": 30, "validation": 8}, genes=40, seed=7)
    (tmp_path / "other" / PRIOR_FILE).write_bytes(written)
    with pytest.raises(UserError, match=r"was fitted on other profiles .* again"):
        corpus_prior(other)
    few = make_corpus(str(tmp_path / "few"), {"train": 4, "validation": 8}, genes=40)
    with pytest.raises(UserError, match="4 train profiles are too few"):
        command.fit_prior(PriorSettings(corpus=few.folder.uri))
    assert open_corpus(few.folder).folder.exists(PRIOR_FILE) is False
