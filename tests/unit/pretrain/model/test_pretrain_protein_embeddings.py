"""An ``esm2`` model begins with the protein embeddings of its corpus, and not without them."""

import pytest
import torch
from made_corpora import make_corpus
from safetensors.torch import save_file
from torch import Tensor

from dataprep.corpus import Corpus
from dataprep.runtime.command_line import UserError
from pretrain.config import ModelSettings, RunSettings
from pretrain.driver.run import run
from pretrain.model.protein_embeddings import PROTEIN_FILE, corpus_protein_embeddings
from pretrain.training import setup

GENES = 20


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return make_corpus(str(tmp_path / "corpus"), {"train": 8, "validation": 4, "test": 4}, genes=GENES)


def settings_of(corpus: Corpus, tmp_path) -> RunSettings:
    model = ModelSettings(size="tiny", dim=16, heads=2, gene_identity="esm2")
    return RunSettings(corpus=corpus.folder.uri, storage=str(tmp_path / "runs"), name="esm2", model=model)


def write(corpus: Corpus, table: Tensor, fingerprint: str | None = None) -> None:
    metadata = {"vocabulary_sha256": fingerprint or corpus.vocabulary.fingerprint}
    save_file({"gene_embedding": table}, f"{corpus.folder.path}/{PROTEIN_FILE}", metadata)


def test_a_run_without_protein_embeddings_is_refused_before_anything_is_written(corpus, tmp_path):
    message = f"has no {PROTEIN_FILE}, with which --model.gene-identity esm2 begins: add .*, or train with .* learned$"
    with pytest.raises(UserError, match=message):
        run(settings_of(corpus, tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_new_run_begins_with_the_protein_embeddings(corpus, tmp_path):
    table = torch.randn(GENES, 1280, dtype=torch.float16)
    write(corpus, table)
    settings = settings_of(corpus, tmp_path)
    model = setup._model(settings, settings.model.shape(GENES), corpus, corpus.graph(), None)
    assert torch.equal(model.gene_emb.weight, table.float())
    assert model.gene_emb.weight.requires_grad


@pytest.mark.parametrize(
    ("table", "fingerprint", "message"),
    [
        (torch.zeros(GENES, 1280), "f" * 64, "is over vocabulary ffffffffffff, the corpus over"),
        (torch.zeros(GENES, 640), None, r"has shape \(20, 640\), not \(20, 1280\)"),
        (torch.zeros(GENES - 1, 1280), None, r"has shape \(19, 1280\), not"),
        (torch.full((GENES, 1280), torch.nan), None, "20 of 20 genes have values that are not finite"),
    ],
)
def test_embeddings_that_do_not_fit_the_corpus_are_refused(corpus, table, fingerprint, message):
    write(corpus, table, fingerprint)
    with pytest.raises(UserError, match=message):
        corpus_protein_embeddings(corpus)
