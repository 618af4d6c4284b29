"""The leak audit finds what was planted and nothing else, and scores are given again without it."""

import json
import shutil

import numpy as np
import pytest
from made_corpora import write_corpus
from made_exports import write_model

from dataprep.corpus import iterate_row_groups, open_corpus
from dataprep.corpus.fingerprints import Fingerprinter
from dataprep.corpus.train_profiles import TrainProfiles
from dataprep.runtime.command_line import main
from evaluation.__main__ import COMMANDS
from evaluation.leaks.audit import TrainedOn
from pretrain.model.export_file import open_export

GENES = 400
ROWS = {"train": 48, "validation": 8, "test": 32}


def profiles(seed=0):
    """float16 profiles of one tissue, as unlike each other as people are: r of any two is about 0.9."""
    random = np.random.default_rng(seed)
    mean = np.random.default_rng(7).gamma(2.0, 1.5, GENES)
    return np.maximum(mean + random.normal(0, 0.7, (sum(ROWS.values()), GENES)), 0).astype(np.float16)


def samples(names=None):
    splits = [split for split, rows in ROWS.items() for _ in range(rows)]
    return {
        "sample_id": names or [f"S{row}" for row in range(len(splits))],
        "study_id": [f"{split}-{row % 5}" for row, split in enumerate(splits)],
        "tissue": [("brain", "liver")[row % 2] for row in range(len(splits))],
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus without leaks, and a model that was trained on its train split."""
    place = tmp_path_factory.mktemp("leaks")
    corpus = write_corpus(str(place / "corpus"), ROWS, profiles(), samples())
    seen = TrainProfiles.of_corpus(corpus)
    write_model(place / "model", corpus.vocabulary, seen=seen, training={"settings": {"corpus": corpus.folder.uri}})
    write_model(place / "elsewhere", corpus.vocabulary, seen=seen)
    write_model(place / "without", corpus.vocabulary)
    return place


def planted(place, where):
    """Test profiles: 0 to 3 those of train, 4 to 7 sequenced again, 8 and 9 of a person of it, 10 under its name."""
    expression, table = profiles(), samples()
    first = ROWS["train"] + ROWS["validation"]
    random = np.random.default_rng(1)
    expression[first : first + 4] = expression[:4]
    again = expression[4:8].astype(np.float32)
    expression[first + 4 : first + 8] = np.maximum(again + random.normal(0, 0.02, again.shape), 0)
    table["sample_id"][first + 8], table["sample_id"][first + 9] = "TCGA-AA-0001-11A", "other.TCGA.AA.0001.02"
    table["sample_id"][first + 10], table["study_id"][first + 10] = "S9", "train-4"
    table["sample_id"][12] = "TCGA-AA-0001-01A"
    return write_corpus(str(where), ROWS, expression, table)


def trained_on_names(place, corpus):
    """The model's, with the name of the one person that the planted corpus is about."""
    seen = TrainedOn.of_export(open_export(str(place / "model")), corpus)
    seen.profiles.subjects[12] = "TCGA-AA-0001"
    return seen


def found(seen, corpus):
    table = corpus.samples().sort_by("row_id").slice(ROWS["train"] + ROWS["validation"])
    expression = np.concatenate([part for _, part in rows_of(corpus)])
    return seen.shared(table, corpus, expression)


def rows_of(corpus):
    return iterate_row_groups(corpus, corpus.shards("test"))


def test_a_clean_corpus_has_none(place):
    corpus = open_corpus(str(place / "corpus"))
    shared = found(TrainedOn.of_export(open_export(str(place / "model")), corpus), corpus)
    assert shared.confirmed
    assert not shared.any.any()


@pytest.mark.parametrize("at_hand", [True, False])
def test_every_planted_leak_is_found_and_told_apart(place, tmp_path, at_hand):
    corpus = planted(place, tmp_path / "planted")
    seen = trained_on_names(place, corpus)
    if not at_hand:
        seen = TrainedOn(seen.profiles, None)
    shared = found(seen, corpus)
    assert shared.confirmed == at_hand
    assert np.flatnonzero(shared.content).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(shared.near).tolist() == [4, 5, 6, 7]
    assert np.flatnonzero(shared.person).tolist() == [8, 9]
    assert np.flatnonzero(shared.name).tolist() == [10]
    assert shared.counts(np.arange(4, 12)) == {
        "profiles": 8,
        "by_name": 1,
        "by_person": 2,
        "by_content": 0,
        "by_near": 4,
        "shared": 7,
        "confirmed": at_hand,
    }


def test_a_profile_that_only_looks_alike_is_cleared_by_the_corpus(place):
    corpus = open_corpus(str(place / "corpus"))
    seen = TrainedOn.of_export(open_export(str(place / "model")), corpus)
    # as if the sketch of an unrelated train profile had been that of the first test profile
    seen.profiles.fingerprints.sketch.flags.writeable = True
    expression = np.concatenate([part for _, part in rows_of(corpus)])
    seen.profiles.fingerprints.sketch[0] = Fingerprinter(corpus.vocabulary).of(expression[:1]).sketch[0]
    assert not found(seen, corpus).any.any()
    assert np.flatnonzero(found(TrainedOn(seen.profiles, None), corpus).near).tolist() == [0]


@pytest.fixture
def imputed(monkeypatch, capsys, tmp_path):
    """Score imputation; returns its result as in JSON, and standard output."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(model, corpus):
        output = tmp_path / "out.json"
        given = ["run", "--model", model, "--corpus", corpus, "--tasks", "imputation", "--output", output]
        fast = ["--imputation.resamples", 100, "--imputation.ranks", 2, "--batch-size", 16]
        assert main("evaluation", "", COMMANDS, [str(argument) for argument in given + fast]) == 0
        return json.loads(output.read_text())["results"][0], capsys.readouterr().out

    return call


def test_scores_are_given_again_without_what_was_seen(place, tmp_path, imputed):
    planted(place, tmp_path / "planted")
    result, out = imputed(place / "model", tmp_path / "planted")
    said = "BulkFormer: 9 of 32 profiles were in pretraining: 1 by name, 4 by content, 4 nearly (r over 0.999, compared"
    assert result["facts"]["leak_audit"].startswith(said)
    assert "9 of 32 profiles were in pretraining" in " ".join(out.split())
    assert result["audit"][0]["shared"] == 9
    of_method = {score["method"] for score in result["scores"] if score["metric"] == "mse_without_shared"}
    assert of_method >= {"BulkFormer", "gene mean"}


def test_a_clean_evaluation_says_so_and_an_export_without_fingerprints_that_nothing_is_known(place, imputed):
    clean, _ = imputed(place / "model", place / "corpus")
    assert clean["facts"]["leak_audit"].startswith("BulkFormer: none of 32 profiles was in pretraining")
    assert not [score for score in clean["scores"] if score["metric"].endswith("_without_shared")]
    unknown, _ = imputed(place / "without", place / "corpus")
    assert unknown["facts"]["leak_audit"] == (
        "not made for BulkFormer, whose export carries no fingerprints of its train profiles"
    )


def test_without_the_train_corpus_fingerprints_have_to_say_it(place, tmp_path):
    corpus = planted(place, tmp_path / "planted")
    assert TrainedOn.of_export(open_export(str(place / "elsewhere")), corpus).corpus is None
    moved = tmp_path / "model"
    shutil.copytree(place / "model", moved)
    assert TrainedOn.of_export(open_export(str(moved)), corpus).corpus is not None
