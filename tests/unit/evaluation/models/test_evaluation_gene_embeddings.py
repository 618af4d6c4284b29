"""A task gets the embeddings of the genes and profiles that it named, and they do not fill the memory."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_corpora import make_corpus
from made_exports import write_model

from dataprep.runtime.command_line import UserError
from evaluation.config import RunSettings
from evaluation.inference.embedder import Embedder
from evaluation.inference.gene_embeddings import GenesOfProfiles
from evaluation.inference.scored_models import open_models
from evaluation.tasks.context import TaskContext
from evaluation.tasks.task import Needs

WANTED = GenesOfProfiles(np.array([3, 4, 9, 15, 16]), np.array([7, 2, 30]))


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    place = tmp_path_factory.mktemp("genes")
    corpus = make_corpus(str(place / "corpus"))
    write_model(place / "model", corpus.vocabulary)
    settings = RunSettings(model=str(place / "model"), corpus=str(place / "corpus"), batch_size=2)
    return TaskContext(corpus, open_models(settings, corpus), settings)


def test_embeddings_of_genes_are_those_of_the_model_gene_by_gene(context):
    context.obtain([Needs(gene_embeddings=WANTED)])
    (held,) = context.gene_embeddings(WANTED.row_ids, WANTED.columns).values()
    expression = context.expression(WANTED.row_ids).astype(np.float32)
    whole = context._models[0].embedder.embed_genes(expression, torch.from_numpy(WANTED.columns))
    assert held.shape == (3, 5, context._models[0].embedder.gene_width)
    np.testing.assert_allclose(held, whole.transpose(1, 0, 2), atol=2e-3, rtol=2e-3)
    assert isinstance(held, np.memmap)


def test_embeddings_that_the_disk_has_no_room_for_are_refused_before_any_is_made(context, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    monkeypatch.setattr(Embedder, "embed_genes", lambda *_: pytest.fail("embedded"))
    with pytest.raises(UserError, match=r"embeddings of 3 genes in 5 profiles take .* has 1.0 GB: use fewer genes"):
        context.obtain([Needs(gene_embeddings=WANTED)])
