"""A report of an MLflow experiment says of its runs what their folders and files would have said."""

import json

import mlflow
import pytest

from dataprep.runtime.command_line import main
from evaluation.__main__ import COMMANDS
from evaluation.report.tracked import read_experiment
from evaluation.scores.mlflow_results import send_run
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
