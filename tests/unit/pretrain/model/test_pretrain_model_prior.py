"""A model with a linear prior begins as the prior, corrects it, and carries it wherever its weights go."""

import numpy as np
import pytest
import torch
from made_corpora import make_corpus, make_vocabulary
from made_models import GENES, gradients_of, models_of_both_kernels, profiles, random_graph, small_shape

from dataprep.corpus import GeneGraph, read_split
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import Checkpoint
from pretrain.artifacts.released import export_released
from pretrain.config import PriorSettings, RunSettings
from pretrain.driver.run import run
from pretrain.families import FAMILIES
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import open_export, write_export
from pretrain.model.linear_prior import LinearPrior
from pretrain.model.pooling import pool_genes
from pretrain.prior.command import fit_prior
from pretrain.prior.prior_file import PRIOR_FILE, corpus_prior
from pretrain.training import setup

BOTH_FAMILIES = pytest.mark.parametrize("family", FAMILIES)


def made_prior(rank=3, rectified=True):
    generator = torch.Generator().manual_seed(3)
    spread = torch.rand(GENES, generator=generator) + 0.2 if rectified else None
    loading = torch.randn(GENES, rank, generator=generator)
    return LinearPrior.of(2 + torch.randn(GENES, generator=generator), loading, torch.full((GENES,), 0.5), spread)


def models_with(prior, family):
    shape = small_shape(family=family).with_prior(prior.rank, prior.rectified)
    models = models_of_both_kernels(shape)
    for model in models:
        model.prior.load_state_dict(prior.state_dict())
    return models


@pytest.mark.parametrize("rectified", [True, False])
@BOTH_FAMILIES
def test_a_new_model_predicts_what_its_prior_expects(family, rectified):
    prior = made_prior(rectified=rectified)
    expression, mask = profiles(3, "some")
    visible = expression.masked_fill(mask, torch.nan)
    for model in models_with(prior, family):
        assert torch.equal(model.eval()(visible).expression, prior(visible))


@BOTH_FAMILIES
def test_what_is_learned_corrects_it_in_both_directions_and_both_kernels_agree(family):
    reference, fused = models_with(made_prior(), family)
    expression, mask = profiles(3, "some")
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.endswith((".3.weight", ".3.bias", "filled_in")):
                parameter.normal_()
    fused.load_state_dict(reference.state_dict())
    results = [gradients_of(model.eval(), expression, mask) for model in (reference, fused)]
    (expected, expected_gradients), (output, gradients) = results
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)
    correction = expected - reference.prior(expression.masked_fill(mask, torch.nan))
    assert correction.min() < 0 < correction.max()
    assert gradients.keys() == expected_gradients.keys()
    assert gradients["filled_in"].norm() > 0
    for name, gradient in gradients.items():
        assert (gradient - expected_gradients[name]).norm() <= 1e-3 * expected_gradients[name].norm() + 1e-6, name


@BOTH_FAMILIES
def test_the_prior_itself_is_not_trained_and_without_one_no_tensor_is_new(family):
    model, _ = models_with(made_prior(), family)
    assert not [name for name, _ in model.named_parameters() if name.startswith("prior.")]
    plain, _ = models_of_both_kernels(small_shape(family=family))
    added = {"filled_in", *(f"prior.{name}" for name in model.prior.state_dict())}
    assert model.state_dict().keys() - plain.state_dict().keys() == added


def test_hidden_genes_are_filled_with_what_is_expected_of_them():
    prior = made_prior()
    model, _ = models_with(prior, "original")
    expression, mask = profiles(2, "some")
    visible = expression.masked_fill(mask, torch.nan)
    inputs = model._inputs(visible, None)
    torch.testing.assert_close(inputs.filled(-10.0), torch.where(mask, prior(visible), expression))
    assert not inputs.unknown.any()
    assert torch.equal(inputs.hidden, mask)


@BOTH_FAMILIES
@pytest.mark.parametrize("pooling", ["mean", "all"])
def test_a_sample_embedding_has_the_coordinates_of_what_the_prior_expects_beside_the_pooled_genes(family, pooling):
    model, _ = models_with(made_prior(), family)
    expression, mask = profiles(3, "some")
    visible = expression.masked_fill(mask, torch.nan)
    with torch.no_grad():
        genes = model.eval()(visible).gene_embedding
        pooled = model.pooled_embedding(visible, None, pooling)
        of_five = model.pooled_embedding(visible, None, pooling, torch.arange(5))
    latent = model.prior.latent(visible, model.prior.observed_gram(~mask))
    assert pooled.shape == (3, model.shape.sample_width) == (3, model.shape.embedding_width + 2)
    observed = ~mask if model.shape.traits.pools_observed else None
    torch.testing.assert_close(pooled[:, :-2], pool_genes(genes, pooling, observed), atol=1e-5, rtol=1e-5)
    for embedding in (pooled, of_five):
        torch.testing.assert_close(embedding[:, -2:], model.prior.coordinates(latent))


@BOTH_FAMILIES
def test_an_export_carries_the_prior_and_released_files_have_no_place_for_it(family, tmp_path):
    model, _ = models_with(made_prior(), family)
    vocabulary, graph = make_vocabulary(GENES), random_graph()
    graph = GeneGraph(graph.source, graph.target, graph.weight, vocabulary.fingerprint)
    write_export(Folder(str(tmp_path / "export")), model.shape, model.state_dict(), vocabulary, graph, {})
    opened = open_export(str(tmp_path / "export"))
    assert (opened.shape.prior_rank, opened.shape.prior_rectified) == (3, True)
    assert "| linear prior | 3 components, rectified at zero |" in (tmp_path / "export" / "README.md").read_text()
    expression, mask = profiles(2, "some")
    visible = expression.masked_fill(mask, torch.nan)
    torch.testing.assert_close(BulkFormer.from_export(opened)(visible).expression, model.eval()(visible).expression)
    with pytest.raises(UserError, match="has a linear prior, for which released files have no place"):
        export_released(opened, tmp_path / "released")
    assert not (tmp_path / "released").exists()


def settings_of(corpus, tmp_path):
    return RunSettings(
        corpus=corpus.folder.uri, storage=str(tmp_path / "runs"), name="first", model={"size": "tiny", "prior": "ppca"}
    )


def test_a_run_begins_with_the_corpus_prior_and_resumes_with_its_own(tmp_path):
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 30, "validation": 8}, genes=40)
    settings = settings_of(corpus, tmp_path)
    with pytest.raises(UserError, match=r"has no linear prior: run python -m pretrain prior"):
        run(settings)
    assert not (tmp_path / "runs").exists()
    fit_prior(PriorSettings(corpus=corpus.folder.uri, ranks=[3], tuning_profiles=8))
    shape, prior = setup._shape_and_prior(settings, corpus, None)
    assert shape.prior_rank == prior.rank == 3
    assert shape.prior_rectified
    model = setup._model(settings, shape, corpus, corpus.graph(), None, prior)
    assert torch.equal(model.prior.loadings, corpus_prior(corpus).loadings)
    # afterwards the corpus's may be another, or gone
    (tmp_path / "corpus" / PRIOR_FILE).unlink()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpoint = Checkpoint(weights, {}, {}, {"step": 7, "model": shape.model_dump(mode="json")})
    shape, nothing = setup._shape_and_prior(settings, corpus, checkpoint)
    assert nothing is None
    again = setup._model(settings, shape, corpus, corpus.graph(), checkpoint)
    visible = torch.from_numpy(np.where(np.arange(40) % 5 == 0, np.nan, np.ones((2, 40))).astype(np.float32))
    assert torch.equal(again.eval()(visible).expression, model.eval()(visible).expression)


@BOTH_FAMILIES
def test_a_run_without_a_fitted_prior_can_begin_at_the_gene_means(family, tmp_path):
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 30, "validation": 8}, genes=40)
    settings = RunSettings(
        corpus=corpus.folder.uri,
        storage=str(tmp_path / "runs"),
        name="first",
        model={"size": "tiny", "family": family, "prior": "means"},
    )
    shape, prior = setup._shape_and_prior(settings, corpus, None)
    model = setup._model(settings, shape, corpus, corpus.graph(), None, prior).eval()
    _, train = read_split(corpus, "train")
    means = torch.from_numpy(np.nanmean(train.astype(np.float64), axis=0).astype(np.float32))
    _, profiles_of_others = read_split(corpus, "validation")
    visible = torch.from_numpy(profiles_of_others.astype(np.float32))
    visible[:, ::5] = torch.nan
    predicted = model(visible).expression
    torch.testing.assert_close(predicted, means.expand_as(predicted), atol=1e-5, rtol=0)
