"""Classification under the real search: settings are chosen for each fold, and the same command chooses the same."""

import json

import numpy as np
from made_corpora import make_corpus
from made_exports import write_model

from dataprep.runtime.command_line import main
from evaluation.__main__ import COMMANDS


def test_classifiers_are_searched_with_pooling_and_twice_alike(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")
    labels = {"study_id": [f"study{row % 7}" for row in range(56)], "tissue": ["liver", "lung"] * 28}
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 48, "test": 8}, labels=labels)
    write_model(tmp_path / "model", corpus.vocabulary)
    found = []
    for name in ("first", "again"):
        line = ["run", "--model", tmp_path / "model", "--corpus", tmp_path / "corpus", "--tasks", "classification"]
        line += ["--output", tmp_path / f"{name}.json", "--search.trials", "3", "--search.inner-folds", "2"]
        line += ["--classification.folds", "2", "--classification.trees", "5", "--classification.max-labels", "1"]
        assert main("evaluation", "", COMMANDS, [str(word) for word in line]) == 0
        found.append(json.loads((tmp_path / f"{name}.json").read_text())["results"])
        assert len(list((tmp_path / f"{name}.search").rglob("trial-*.json"))) == 2 * 3
    assert found[0] == found[1]
    (result,) = found[0]
    chosen = result["facts"]["chosen"]
    assert set(chosen) == {"BulkFormer embedding", "raw expression"}
    assert " components of m" in chosen["BulkFormer embedding"]
    assert " of m" not in chosen["raw expression"]
    assert all(np.isfinite(score["value"]) for score in result["scores"] if score["metric"] == "weighted_f1")
