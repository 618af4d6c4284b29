"""A report of an MLflow experiment says of its runs what their folders and files would have said."""

import json
from xml.etree import ElementTree

import mlflow
import numpy as np
import pytest

from dataprep.runtime.command_line import main
from evaluation.__main__ import COMMANDS
from evaluation.report.tracked import read_experiment
from evaluation.scores.intervals import Interval
from evaluation.scores.results import Score, TaskResult
from evaluation.tracking.data_sets import DataSet
from evaluation.tracking.mlflow_results import send_results, send_run
from pretrain.monitoring.mlflow_run import MlflowRun
from tests.made_reports import made_results

ROWS = [
    {"step": 1, "epoch": 0, "loss": 0.5, "lr": 0.001, "samples_per_second": 9.0, "time": 100.0},
    {"step": 2, "epoch": 0, "loss": 0.25, "lr": 0.001, "samples_per_second": 11.0, "time": 110.0},
    {"step": 2, "epoch": 0, "validation_loss": 0.375, "validation_pearson": 0.75, "time": 111.0},
]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> str:
    """With a pretraining run that was killed, an evaluation, and a run that failed."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        client = mlflow.MlflowClient()
        number = client.create_experiment("mine", artifact_location=f"file://{folder}/artifacts")
        run = MlflowRun("mine", "bulk", "s3://bucket/runs/bulk", {"seed": 3}, {"corpus": "ab" * 32}, False, "a1")
        assert run.send(ROWS) is None
        run.finish("KILLED", None)
        assert send_run("mine", "scored", {}, {}, {}, {"results.json": json.dumps(made_results())}) is not None
        lost = client.create_run(number, run_name="lost")
        client.set_terminated(lost.info.run_id, "FAILED")
        yield "mine"


def test_names_of_metrics_are_grouped_in_mlflow_and_come_back_as_in_the_folder(experiment):
    (run,) = read_experiment(experiment, newest=10).runs
    history = mlflow.MlflowClient().search_runs(
        [mlflow.MlflowClient().get_experiment_by_name(experiment).experiment_id], "attributes.run_name = 'bulk'"
    )[0].data.metrics  # fmt: skip
    assert {"train/loss", "train/lr", "validation/loss", "validation/pearson", "speed/samples_per_second"} <= set(
        history
    )
    expected = [{name: value for name, value in row.items() if name != "epoch"} for row in ROWS]
    assert list(run.rows) == expected
    assert run.settings["seed"] == "3"


def test_an_experiment_is_reported_with_what_was_killed_and_what_failed(experiment, tmp_path, capsys):
    output = tmp_path / "report.html"
    assert main("evaluation", "", COMMANDS, ["report", "--output", str(output), "--experiment", experiment]) == 0
    page = output.read_text()
    assert "MLflow has the run as killed" in page
    assert "run lost" in page
    assert "is failed and has no results" in page
    assert "gene mean (simple)" in page
    assert "is failed and has no results" in capsys.readouterr().err


def test_an_unknown_experiment_is_one_line(experiment, tmp_path, capsys):
    assert main("evaluation", "", COMMANDS, ["report", "--output", str(tmp_path / "x.html"), "--experiment", "no"]) == 2
    assert "MLflow has no experiment 'no'" in capsys.readouterr().err


def test_results_are_tables_and_pictures_with_the_data_sets_that_were_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("mine", artifact_location=f"file://{tmp_path}/artifacts")
    (tmp_path / "effect.csv").write_text("line,TP53\nA,0.1\n")
    corpus = DataSet("corpus", "s3://user:hunter2@bucket/corpus", "ab" * 32)
    data_sets = [corpus, DataSet.of_file("essentiality.table", str(tmp_path / "effect.csv"))]
    results = [
        TaskResult(
            one["task"],
            one["subject"],
            [Score(row["method"], row["metric"], Interval(row["value"] or np.nan)) for row in one["scores"]],
            one["facts"],
            by_study=one.get("by_study", ()),
            curves=one["curves"],
        )
        for one in made_results()["results"]
    ]
    run_id = send_results("mine", "scored", {}, {}, results, "{}", data_sets)
    # the same command repeated sends the same once more
    assert send_results("mine", "scored", {}, {}, results, "{}", data_sets, run_id) == run_id

    scores = client.load_table(experiment, "scores.json", [run_id])
    assert len(scores) == sum(len(result.scores) for result in results)
    assert set(client.load_table(experiment, "scores_by_study.json", [run_id])["study"]) >= {"GSE1"}
    inputs = {one.dataset.name: one.dataset for one in client.get_run(run_id).inputs.dataset_inputs}
    assert sorted(inputs) == ["corpus", "essentiality.table"]
    assert "hunter2" not in inputs["corpus"].source
    found = [path.relative_to(tmp_path / "artifacts" / run_id / "artifacts") for path in tmp_path.rglob("*.svg")]
    names = {path.name.partition("-")[0].removesuffix(".svg") for path in found}
    assert {"mask_rates", "expression_levels", "roc", "confusion", "calibration"} <= names
    assert {path.parts[:2] for path in found} >= {("figures", "imputation")}
    for path in tmp_path.rglob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.find("{http://www.w3.org/2000/svg}title").text
