"""Pooling is exact, gene lists and vocabularies are checked with counts and examples."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_corpora import make_corpus
from made_exports import write_model

from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from evaluation.inference.embedder import fitting_batch_size, require_same_vocabulary, say_other_tpm
from evaluation.inference.gene_choice import chosen_columns
from evaluation.scores.intervals import Interval
from evaluation.scores.results import Score, TaskResult, results_json, score_rows, score_table
from evaluation.tracking.mlflow_results import metric_values
from pretrain.config import ModelSettings
from pretrain.model.export_file import open_export
from pretrain.model.pooling import pool_genes


def vocabulary(numbers):
    ids = tuple(f"ENSG{number:011d}" for number in numbers)
    return GeneVocabulary(ids, tuple(f"SYM{number}" for number in numbers), np.full(len(ids), 1000.0))


@pytest.mark.parametrize("genes", [1, 2, 7, 10])
def test_pooling_equals_numpy_also_for_an_even_number_of_genes(genes):
    embedding = torch.randn(3, genes, 5, generator=torch.Generator().manual_seed(0))
    values = embedding.numpy()
    expected = {"mean": values.mean(1), "max": values.max(1), "median": np.median(values, axis=1)}
    expected["all"] = expected["mean"] + expected["max"] + expected["median"]
    for pooling, numbers in expected.items():
        np.testing.assert_allclose(pool_genes(embedding, pooling).numpy(), numbers, rtol=1e-6, atol=1e-6)


def test_median_is_exact_among_equal_values():
    embedding = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 0.0]).reshape(1, 6, 1)
    assert pool_genes(embedding, "median").item() == 0.0


def test_genes_are_found_by_id_with_or_without_version_and_by_symbol(tmp_path):
    known = vocabulary(range(5))
    assert chosen_columns("ENSG00000000003.7, SYM1,ENSG00000000000", known).tolist() == [3, 1, 0]
    listed = tmp_path / "genes.csv"
    listed.write_text("# chosen\nSYM4,oncogene\nENSG00000000002.1,\n")
    assert chosen_columns(str(listed), known).tolist() == [4, 2]


def test_unknown_and_repeated_genes_are_named():
    known = vocabulary(range(5))
    with pytest.raises(UserError, match=r"2 of 3 genes are not in the model's vocabulary, e\.g\. TP99, XX"):
        chosen_columns("TP99,SYM1,XX", known)
    with pytest.raises(UserError, match="1 of 2 genes are named more than once"):
        chosen_columns("SYM1,ENSG00000000001", known)
    shared = replace(known, symbols=("A", "B", "B", "C", ""))
    with pytest.raises(
        UserError, match=r"1 of 2 symbols are of several genes of the model's vocabulary, e\.g\. B; name"
    ):
        chosen_columns("A,B", shared)


def test_another_vocabulary_is_described_with_counts_and_examples():
    with pytest.raises(UserError) as caught:
        require_same_vocabulary(vocabulary(range(10)), vocabulary(range(4, 16)), "the corpus")
    message = str(caught.value)
    assert "4 of the model's 10 genes are not in it, e.g. ENSG00000000000" in message
    assert "6 of its 12 genes are not the model's, e.g. ENSG00000000010" in message
    assert "\n" not in message
    with pytest.raises(UserError, match="another order"):
        require_same_vocabulary(vocabulary([0, 1]), vocabulary([1, 0]), "the corpus")


@pytest.mark.parametrize(
    ("family", "training", "tpm_over"),
    [
        ("latest", {"imported_from": "release"}, "vocabulary"),
        ("original", {"imported_from": "release"}, "source"),
        ("latest", {}, "source"),
        ("original", {"tpm_over": "vocabulary"}, "vocabulary"),
    ],
)
def test_an_export_knows_what_tpm_of_its_profiles_are_shares_of(tmp_path, capsys, family, training, tpm_over):
    write_model(tmp_path / "model", vocabulary(range(30)), family, training=training)
    export = open_export(str(tmp_path / "model"))
    assert export.tpm_over == tpm_over
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 2, "validation": 2, "test": 2})
    say_other_tpm(export, corpus)
    said = "shares of every gene of the source, those that the model knows of the genes of the vocabulary alone"
    assert (said in capsys.readouterr().err) == (tpm_over == "vocabulary")


def test_the_batch_shrinks_with_the_model():
    cpu = torch.device("cpu")
    sizes = [fitting_batch_size(ModelSettings(size=name).shape(20_024), cpu) for name in ("tiny", "37M", "147M")]
    assert sizes[0] > sizes[1] > sizes[2] >= 1


def test_results_leave_as_plain_data_with_null_for_what_is_not_defined():
    scores = [
        Score("BulkFormer -> forest", "auroc", Interval(0.9, 0.8, 0.95)),
        Score("gene mean", "auroc", Interval(math.nan)),
    ]
    curves = {"roc": [{"threshold": math.inf, "sensitivity": 0.0}]}
    results = [TaskResult("classification", "tissue", scores, {"samples": 3}, curves=curves)]
    written = json.loads(results_json(results, {"model": "m"}))["results"][0]
    assert written["scores"][1]["value"] is None
    assert written["curves"] == {"roc": [{"threshold": None, "sensitivity": 0.0}]}
    assert score_rows(results).column("value").to_pylist() == [0.9, None]
    assert metric_values(results) == {
        "classification/tissue/BulkFormer_to_forest/auroc": 0.9,
        "classification/tissue/BulkFormer_to_forest/auroc_low": 0.8,
        "classification/tissue/BulkFormer_to_forest/auroc_high": 0.95,
    }
    assert score_table(results[0]).row_count == 2
