"""A scored model is registered, and what MLflow loads of it embeds and imputes a data frame."""

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from made_corpora import make_corpus, make_profiles, make_vocabulary
from made_exports import write_model

from dataprep.runtime.command_line import UserError, main
from dataprep.runtime.storage import Folder
from evaluation.__main__ import COMMANDS
from evaluation.scores.intervals import Interval
from evaluation.scores.results import Score, TaskResult
from evaluation.tracking.registration import register
from pretrain.model.bulkformer import BulkFormer

GENES = 40


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    mlflow.set_tracking_uri(address)
    mlflow.set_registry_uri(address)
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def scored(mse):
    scores = [Score("BulkFormer", "mse", Interval(mse)), Score("gene mean", "mse", Interval(1.0))]
    return [TaskResult("imputation", "", scores, {}, baselines=["gene mean"], judged_by="mse", higher_is_better=False)]


def test_the_best_version_embeds_and_imputes_a_data_frame(tracked, tmp_path):
    vocabulary = make_vocabulary(GENES)
    write_model(tmp_path / "export", vocabulary)
    experiment = tracked.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    tags = {"bulkformer.corpus_sha256": "c"}
    for mse in (0.5, 0.4, 0.6):
        run = tracked.create_run(experiment).info.run_id
        register("bulk", run, Folder(str(tmp_path / "export")), tags, scored(mse))
    best = tracked.get_model_version_by_alias("bulk", "best")
    assert (int(best.version), best.tags["main_score"]) == (2, "imputation/BulkFormer/mse")
    assert best.tags["score/imputation/BulkFormer/mse"] == "0.4"
    assert not [*(tmp_path / "artifacts").rglob("*.pkl")]

    model = mlflow.pyfunc.load_model("models:/bulk@best")
    expression = make_profiles(3, GENES).astype(np.float32)
    frame = pd.DataFrame(expression[:, ::-1], index=list("abc"), columns=[f"G{n}" for n in range(GENES)][::-1])
    frame["not_a_gene"] = 0.5
    with torch.inference_mode():
        trained = BulkFormer.from_pretrained(str(tmp_path / "export"))
        expected = trained(torch.from_numpy(expression))
    embedded = model.predict(frame)
    assert list(embedded.index) == list("abc")
    np.testing.assert_allclose(embedded.to_numpy(), expected.gene_embedding.mean(dim=1).numpy(), atol=1e-4)
    imputed = model.predict(frame, params={"output": "expression"})
    assert tuple(imputed.columns) == vocabulary.ensembl_ids
    np.testing.assert_allclose(imputed.to_numpy(), expected.expression.numpy(), atol=1e-4)
    with pytest.raises(UserError, match="half are needed"):
        model.predict(frame.iloc[:, :5])
    with pytest.raises(UserError, match=r"no log1p\(TPM\)"):
        model.predict(frame * 1000)


def test_the_command_registers_what_it_has_scored(tracked, tmp_path, capsys, monkeypatch):
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 24, "validation": 8, "test": 8}, genes=GENES)
    write_model(tmp_path / "export", corpus.vocabulary)
    tracked.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    given = ["run", "--model", str(tmp_path / "export"), "--corpus", corpus.folder.uri, "--tasks", "imputation"]
    given += ["--imputation.resamples", "100", "--imputation.ranks", "2", "--tracking.experiment", "e"]
    assert main("evaluation", "", COMMANDS, [*given, "--tracking.register-as", "bulk"]) == 0
    assert "bulk: version 1 is best, by imputation/BulkFormer/mse" in capsys.readouterr().err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main("evaluation", "", COMMANDS, [*given, "--tracking.register-as", "bulk"]) == 2
    assert "needs an MLflow server" in capsys.readouterr().err
