"""Several models, an untrained one and embeddings from elsewhere in the same table, on the same profiles and genes."""

import json

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from made_corpora import make_corpus, make_vocabulary
from made_exports import write_model

from dataprep.corpus import open_corpus, read_split
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError, main
from evaluation.__main__ import COMMANDS
from evaluation.config import RunSettings
from evaluation.inference.embedder import Embedder
from evaluation.inference.foreign_embeddings import read_foreign_embeddings
from evaluation.inference.scored_models import open_models
from evaluation.methods.baselines import gene_means
from pretrain.model.bulkformer import BulkFormer

GENES = 60
ROWS = {"train": 40, "validation": 8, "test": 24}
TOTAL = sum(ROWS.values())


def part_of(columns):
    whole = make_vocabulary(GENES)
    return GeneVocabulary(
        tuple(whole.ensembl_ids[column] for column in columns),
        tuple(whole.symbols[column] for column in columns),
        whole.lengths_bp[columns],
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus with a label, a model that fits it, and one over its genes backwards without the first ten."""
    place = tmp_path_factory.mktemp("models")
    labels = {"tissue": [("brain", "liver")[row % 2] for row in range(TOTAL)]}
    corpus = make_corpus(str(place / "corpus"), ROWS, genes=GENES, labels=labels)
    write_model(place / "model", corpus.vocabulary)
    write_model(place / "fewer", part_of(np.arange(GENES)[:9:-1]))
    return place


@pytest.fixture(scope="module")
def corpus(place):
    return open_corpus(str(place / "corpus"))


def settings(place, **more):
    return RunSettings(model=str(place / "model"), corpus=str(place / "corpus"), batch_size=8, **more)


def write_parquet(path, ids, values, lists=True):
    columns = {"embedding": pa.array(values.tolist())}
    if not lists:
        columns = {f"x{number}": values[:, number] for number in range(values.shape[1])}
    pq.write_table(pa.table({"sample_id": ids, **columns}), path)
    return path


@pytest.fixture
def score(place, monkeypatch, tmp_path, capsys):
    """Run `evaluation run`; returns (exit code, results, standard error)."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*more):
        output = tmp_path / "results.json"
        given = ["run", "--model", place / "model", "--corpus", place / "corpus", "--batch-size", 16, *more]
        given += ["--output", output]
        code = main("evaluation", "", COMMANDS, [str(argument) for argument in given])
        results = json.loads(output.read_text())["results"] if code == 0 else []
        return code, results, capsys.readouterr().err

    return call


def test_a_model_over_other_genes_sees_and_predicts_them_by_id(place, corpus):
    _, fewer = open_models(settings(place, models=[f"fewer={place / 'fewer'}"]), corpus)
    _, expression = read_split(corpus, "test", 5)
    expression = expression.astype(np.float32)
    order = np.arange(GENES)[:9:-1]
    with torch.inference_mode():
        expected = BulkFormer.from_pretrained(str(place / "fewer"))(torch.from_numpy(expression[:, order].copy()))
    predicted = fewer.reconstruct(expression)
    assert np.isnan(predicted[:, :10]).all()
    np.testing.assert_allclose(predicted[:, order], expected.expression.numpy(), atol=1e-4)
    genes = fewer.embed_genes(expression, np.array([12, 59]))
    np.testing.assert_allclose(genes[:, 1], expected.gene_embedding[:, 0].numpy(), atol=1e-4)
    assert (fewer.knows == (np.arange(GENES) >= 10)).all()


def test_all_models_are_scored_on_the_genes_that_all_of_them_have(place, score):
    fast = ("--tasks", "imputation", "--imputation.resamples", 100, "--imputation.ranks", 2)
    code, results, err = score(*fast, "--models", f"fewer={place / 'fewer'}", "--untrained", "true")
    assert code == 0, err
    (result,) = results
    methods = {entry["method"] for entry in result["scores"]}
    assert methods >= {"BulkFormer", "fewer", "untrained", "gene mean"}
    assert result["facts"]["genes_of_all_models"] == "50 of 60"
    assert result["facts"]["genes_scored"] <= 50
    assert "fewer (" in err


def test_each_model_whose_profiles_were_normalised_otherwise_is_named(place, corpus, tmp_path, capsys):
    write_model(tmp_path / "published", corpus.vocabulary, "latest", training={"imported_from": "release"})
    open_models(settings(place, models=[f"published={tmp_path / 'published'}"]), corpus)
    said = [line for line in capsys.readouterr().err.splitlines() if "TPM of" in line]
    assert len(said) == 1
    assert "every gene of the source, those that published knows of the genes of the vocabulary alone" in said[0]


def test_an_untrained_model_is_one_of_its_seed(place, corpus):
    _, expression = read_split(corpus, "test", 3)
    models = [open_models(settings(place, untrained=True, seed=seed), corpus) for seed in (0, 0, 1)]
    values = [found[1].embed_samples(expression.astype(np.float32), ["mean"])["mean"] for found in models]
    assert [found[1].name for found in models] == ["untrained"] * 3
    assert np.array_equal(values[0], values[1])
    assert not np.allclose(values[0], values[2])


def test_a_model_begins_with_its_prior_and_other_random_numbers(place):
    embedder = Embedder.open(str(place / "model"), "reference", "fp32", 4)
    state, trained = embedder.untrained(3).model.state_dict(), embedder.model.state_dict()
    assert state.keys() == trained.keys()
    assert any(not torch.equal(state[name], trained[name]) for name in state)


@pytest.mark.parametrize("lists", [True, False])
def test_embeddings_from_elsewhere_stand_in_the_same_table(score, tmp_path, lists):
    ids = [f"S{row}" for row in range(TOTAL)][::-1]
    tissue = np.arange(TOTAL)[::-1] % 2
    values = np.stack([tissue + 0.01 * np.arange(TOTAL) % 0.1, tissue * 2.0], axis=1)
    file = write_parquet(tmp_path / "theirs.parquet", ids[6:], values[6:], lists)
    fast = ("--tasks", "classification", "--classification.trees", 5, "--classification.folds", 2)
    code, results, err = score(*fast, "--embeddings", f"theirs={file}")
    assert code == 0, err
    assert results[0]["facts"]["samples"] == TOTAL - 6
    assert f"6 of {TOTAL} profiles have no embedding of theirs" in err
    theirs = [entry for entry in results[0]["scores"] if entry["method"].startswith("theirs embedding")]
    assert max(entry["value"] for entry in theirs if entry["metric"] == "accuracy") > 0.95


def test_embeddings_of_an_h5ad_are_those_of_the_named_key(corpus, tmp_path):
    ids = [f"S{row}" for row in range(TOTAL)]
    data = anndata.AnnData(np.zeros((TOTAL, 2), np.float32))
    data.obs_names = ids
    data.obsm["X_a"], data.obsm["X_b"] = np.ones((TOTAL, 3)), np.arange(2.0 * TOTAL).reshape(TOTAL, 2)
    data.write_h5ad(tmp_path / "e.h5ad")
    found = read_foreign_embeddings("e", f"{tmp_path / 'e.h5ad'}#X_b", corpus)
    assert (found.values == data.obsm["X_b"]).all()
    with pytest.raises(UserError, match=r"has 2 embeddings in obsm: name one, as in .*e\.h5ad#X_a"):
        read_foreign_embeddings("e", str(tmp_path / "e.h5ad"), corpus)


@pytest.mark.parametrize(
    ("ids", "values", "complaint"),
    [
        (["other1", "other2"], np.ones((2, 2)), f"has 0 of the {TOTAL} samples of"),
        (["S1", "S1"], np.ones((2, 2)), "has 1 samples twice, e.g. S1"),
        (["S1", "S2"], np.array([[1, np.nan], [1, 1]]), "1 samples have numbers that are not finite, e.g. S1"),
    ],
)
def test_a_file_of_embeddings_that_is_wrong_is_refused(corpus, tmp_path, ids, values, complaint):
    file = write_parquet(tmp_path / "e.parquet", ids, values)
    with pytest.raises(UserError, match=complaint):
        read_foreign_embeddings("e", str(file), corpus)


@pytest.mark.parametrize("given", [("--models", "x"), ("--models", "untrained=x"), ("--embeddings", "a=x,a=y")])
def test_names_are_given_and_differ(score, given):
    code, _, err = score(*given)
    assert code == 2
    assert "NAME=ADDRESS" in err or "is taken" in err


def means_of_train(corpus):
    _, train = read_split(corpus, "train")
    return gene_means(train.astype(np.float32)).values


@pytest.mark.parametrize("end", [".parquet", ".h5ad"])
def test_predictions_filled_in_elsewhere_are_scored_as_the_same_method_of_ours(place, corpus, score, tmp_path, end):
    fast = ("--tasks", "imputation", "--imputation.resamples", 100, "--imputation.ranks", 2)
    shares = ("--imputation.mask-rate", 0.2, "--imputation.other-mask-rates", 0.4)
    code, _, err = score(*fast, *shares, "--imputation.write-inputs", tmp_path / "inputs")
    assert code == 0, err
    (tmp_path / "filled").mkdir()
    means = means_of_train(corpus)
    for name, share in (("20-masked", 0.2), ("40-masked", 0.4)):
        frame = pd.read_parquet(tmp_path / "inputs" / f"{name}.parquet").set_index("sample_id")
        assert list(frame.columns) == list(corpus.vocabulary.ensembl_ids)
        assert abs(np.isnan(frame.to_numpy()).mean() - share) < 0.1
        # what was visible stays as it was; samples and genes in another order
        filled = frame.fillna(dict(zip(frame.columns, means, strict=True))).iloc[::-1, ::-1].astype(np.float32)
        if end == ".parquet":
            filled.reset_index().to_parquet(tmp_path / "filled" / f"{name}.parquet")
        else:
            anndata.AnnData(filled).write_h5ad(tmp_path / "filled" / f"{name}.h5ad")
    code, results, err = score(*fast, *shares, "--imputation.predictions", f"theirs={tmp_path / 'filled'}")
    assert code == 0, err
    for result in results:
        values = {(s["method"], s["metric"]): s["value"] for s in result["scores"]}
        for metric in ("pearson", "mse", "pearson_per_profile"):
            assert values["theirs", metric] == values["gene mean", metric]
        assert result["facts"]["without_prediction"] == {"theirs": 0}
    assert len(results) == 2


def test_entries_without_a_prediction_are_counted_and_scored_for_no_method(corpus, score, tmp_path):
    fast = ("--tasks", "imputation", "--imputation.resamples", 100, "--imputation.ranks", 2)
    samples = corpus.samples().filter(pc.field("split") == "test").column("sample_id").to_pylist()
    frame = pd.DataFrame(1.0, index=[*samples[2:], "unknown"], columns=corpus.vocabulary.ensembl_ids[5:])
    frame.rename_axis("sample_id").reset_index().to_parquet(tmp_path / "p.parquet")
    entries = []
    for more in ((), ("--imputation.predictions", f"theirs={tmp_path / 'p.parquet'}")):
        code, results, err = score(*fast, *more)
        assert code == 0, err
        entries.append(results[0]["facts"])
    lacking = entries[1]["without_prediction"]["theirs"]
    assert lacking > 0
    assert entries[0]["masked_entries"] - lacking == entries[1]["masked_entries"]


@pytest.mark.parametrize(
    ("given", "code", "complaint"),
    [
        ("x", 2, "'x' is not NAME=ADDRESS"),
        ("BulkFormer={file}", 2, "the name 'BulkFormer' is taken"),
        ("gene mean={file}", 2, "the name 'gene mean' is taken"),
        ("a={file}", 1, "predicts nothing"),
    ],
)
def test_predictions_of_nothing_are_refused(score, tmp_path, given, code, complaint):
    pd.DataFrame({"sample_id": ["other"], "ENSG1": [1.0]}).to_parquet(tmp_path / "p.parquet")
    found, _, err = score(
        "--tasks", "imputation", "--imputation.predictions", given.format(file=tmp_path / "p.parquet")
    )
    assert (found, complaint in err.splitlines()[-1]) == (code, True), err
