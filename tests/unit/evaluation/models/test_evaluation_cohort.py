"""Labelled profiles that are no corpus are scored and embedded as those of a corpus: an `.h5ad`, and tables."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from made_exports import write_model
from made_sources import counts, gene_ids, names, write_source

from dataprep.corpus import read_split
from dataprep.genes.vocabulary import GeneVocabulary, default_vocabulary
from dataprep.runtime.command_line import main
from evaluation.__main__ import COMMANDS
from evaluation.config import CohortSettings
from evaluation.inference.cohort import opened_profiles
from pretrain.model.export_file import open_export

GENES, SAMPLES = 40, 24
TISSUES = [("brain", "liver")[number % 2] for number in range(SAMPLES)]
STUDIES = [f"study{number % 4}" for number in range(SAMPLES)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model over 40 genes; its cohort lacks the first of them and has another, as a table and as an `.h5ad`."""
    place = tmp_path_factory.mktemp("cohort")
    whole = default_vocabulary()
    genes = GeneVocabulary(whole.ensembl_ids[:GENES], whole.symbols[:GENES], whole.lengths_bp[:GENES])
    write_model(place / "model", genes)
    values = counts(SAMPLES, GENES)
    values[1::2, :10] *= 5
    samples = names("c", SAMPLES)
    entry = write_source(place, "c", values, gene_ids(GENES + 1)[1:], samples)
    del entry["study"]
    entry |= {"samples": "samples.tsv", "study_column": "batch"}
    labels = pd.DataFrame({"batch": STUDIES, "tissue": TISSUES}, index=pd.Index(samples, name="sample"))
    labels.to_csv(place / "samples.tsv", sep="\t")
    (place / "cohort.yaml").write_text(yaml.safe_dump({"min_nonzero_genes": 10, "sources": [entry]}))
    order = np.random.default_rng(0).permutation(GENES)
    data = anndata.AnnData(values[:, order].astype(np.float32), obs=labels)
    data.var_names = np.array(gene_ids(GENES + 1)[1:])[order]
    data.write_h5ad(place / "cohort.h5ad")
    return place, values


OF_H5AD = ("--cohort.units", "counts", "--cohort.study-column", "batch", "--cohort.min-nonzero-genes", "10")


@pytest.fixture
def evaluation(monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments):
        code = main("evaluation", "", COMMANDS, [str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("cohort.yaml", CohortSettings()),
        ("cohort.h5ad", CohortSettings(units="counts", study_column="batch", min_nonzero_genes=10)),
    ],
)
def test_a_cohort_is_normalised_and_aligned_to_the_models_genes_and_keeps_its_labels(place, file, settings):
    place, values = place
    export = open_export(str(place / "model"))
    fingerprints = []
    for _ in range(2):
        with opened_profiles(str(place / file), settings, export) as corpus:
            _, found = read_split(corpus, "test")
            samples = corpus.samples().to_pydict()
            folder = corpus.folder.path
            fingerprints.append(corpus.fingerprint)
            assert corpus.address == str(place / file)
        assert not Path(folder).exists()
    # the sum of TPM is over all genes of the source, also the one that the model has not
    rates = values / default_vocabulary().lengths_bp[1 : GENES + 1]
    expected = np.log1p(1e6 * rates / rates.sum(axis=1, keepdims=True))[:, :-1]
    assert np.isnan(found[:, 0]).all()
    np.testing.assert_allclose(found[:, 1:].astype(float), expected, rtol=2e-3)
    assert samples["sample_id"] == names("c", SAMPLES)
    assert (samples["tissue"], samples["study_id"]) == (TISSUES, STUDIES)
    # a search goes on from what was tried on the same profiles
    assert len(set(fingerprints)) == 1


def test_tables_and_an_h5ad_of_the_same_profiles_get_the_same_scores_and_no_imputation(place, evaluation, tmp_path):
    place, _ = place
    scores = []
    for file, more in (("cohort.yaml", ()), ("cohort.h5ad", OF_H5AD)):
        output = tmp_path / f"{file}.json"
        given = ("run", "--model", place / "model", "--corpus", place / file, *more, "--output", output)
        code, err = evaluation(*given, "--label", "tissue", "--classification.trees", 60, "--classification.folds", 2)
        assert code == 0, err
        assert "the test split has" not in err
        assert f"{place / file}: 0 train profiles; the simple methods need 10: imputation is left out" in err
        written = json.loads(output.read_text())
        assert written["about"]["bulkformer.corpus"] == str(place / file)
        (result,) = written["results"]
        assert result["facts"]["samples"] == SAMPLES
        scores.append(result["scores"])
    assert scores[0] == scores[1]
    accuracy = {s["method"]: s["value"] for s in scores[0] if s["metric"] == "accuracy"}
    assert accuracy["raw expression"] > 0.7


def test_a_build_file_that_divides_its_studies_is_imputed_too(place, evaluation):
    place, _ = place
    content = yaml.safe_load((place / "cohort.yaml").read_text())
    (place / "divided.yaml").write_text(yaml.safe_dump({**content, "split": {"test": ["study3"]}}))
    given = ("run", "--model", place / "model", "--corpus", place / "divided.yaml", "--tasks", "imputation")
    code, err = evaluation(*given, "--imputation.resamples", 100, "--imputation.ranks", 2)
    assert code == 0, err


def test_tables_are_embedded_as_the_h5ad_of_the_same_profiles(place, evaluation, tmp_path):
    place, _ = place
    found = []
    for file, more in (("cohort.yaml", ()), ("cohort.h5ad", ("--units", "counts"))):
        output = tmp_path / f"{file}.parquet"
        code, err = evaluation("embed", "--model", place / "model", "--input", place / file, *more, "--output", output)
        assert code == 0, err
        found.append(pq.read_table(output).to_pydict())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "--corpus", "cohort.h5ad"), 2, "cohort.h5ad does not say what its values are: give units"),
        (("run", "--corpus", "cohort.yaml", "--cohort.units", "counts"), 2, "units would have no effect for"),
        (("run", "--corpus", "a-corpus", "--cohort.root", "x"), 2, "root would have no effect for a-corpus"),
        (("run", "--corpus", "cohort.h5ad", *OF_H5AD[:5], "40"), 1, "none of 24 samples can be kept"),
        (("run", "--corpus", "cohort.h5ad", *OF_H5AD[:2]), 2, "min_nonzero_genes 14,000 is more than the vocabulary's"),
        (("run", "--corpus", "cohort.h5ad", *OF_H5AD, "--cohort.study-column", "x"), 1, "no column 'x'"),
        (("run", "--corpus", "nothing.yaml"), 2, "no such file: --config nothing.yaml"),
        (("embed", "--input", "cohort.yaml", "--workers", "2", "--output", "x.parquet"), 2, "--workers would have no"),
    ],
)
def test_mistakes_get_one_line(place, evaluation, monkeypatch, arguments, code, message):
    monkeypatch.chdir(place[0])
    found, err = evaluation(arguments[0], "--model", "model", *arguments[1:])
    assert (found, message in err.splitlines()[-1]) == (code, True), err
