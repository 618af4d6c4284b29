"""Points of a scaling law from MLflow: which runs count, and with which loss."""

import mlflow
import pytest

from dataprep.runtime.command_line import UserError, main
from evaluation.__main__ import COMMANDS
from evaluation.report.tracked import read_experiment
from evaluation.scaling.sweep_run import SweepRun
from evaluation.scaling.tracked_points import points_of_runs
from evaluation.tracking.mlflow_results import SWEEP_TAG
from pretrain.monitoring.mlflow_run import PARAMETERS_TAG, PROFILES_TAG, MlflowRun


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> str:
    """The id of the run of a sweep of three points, in an experiment with an older run, a killed one and another's."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        # where files of runs go without a server
        patch.chdir(folder)
        sweep = SweepRun()
        sweep.begin("mine", "sweep", {}, {SWEEP_TAG: "/data/sweep"}, "a1")

        def trained(name: str, tags: dict[str, str], losses: list[float], parent: str | None, status="FINISHED"):
            run = MlflowRun("mine", name, f"/runs/{name}", {}, tags, False, name, parent_run=parent)
            assert run.send([{"step": step, "validation_loss": loss} for step, loss in enumerate(losses)]) is None
            run.finish(status, None)

        for size, loss in ((1e6, 0.5), (2e6, 0.4), (4e6, 0.35)):
            sizes = {PARAMETERS_TAG: str(int(size)), PROFILES_TAG: "100"}
            trained(f"n{size:g}", sizes, [loss + 0.1, loss, loss + 0.2], sweep.run_id)
        trained("killed", {PARAMETERS_TAG: "9000000", PROFILES_TAG: "100"}, [0.1], sweep.run_id, "KILLED")
        trained("older", {}, [0.1], None)
        trained("unvalidated", {PARAMETERS_TAG: "9000000", PROFILES_TAG: "100"}, [], None)
        trained("another", {PARAMETERS_TAG: "8000000", PROFILES_TAG: "50"}, [0.3], None)
        assert sweep.run_id is not None
        yield sweep.run_id


def test_the_points_of_a_sweep_are_its_finished_runs_with_their_least_loss(sweep, capsys):
    points = points_of_runs(sweep)
    found = sorted(zip(points.parameters, points.profiles, points.loss, strict=True))
    assert found == [(1e6, 100, 0.5), (2e6, 100, 0.4), (4e6, 100, 0.35)]
    assert "3 of 4 pretraining runs" in capsys.readouterr().err


def test_an_experiment_gives_all_its_runs_that_say_their_sizes(sweep):
    assert len(points_of_runs("mine")) == 4


def test_a_law_is_fitted_to_them(sweep, tmp_path, capsys):
    arguments = ["scaling", "fit", "--runs", sweep, "--resamples", "0", "--experiment", "fits", "--json"]
    assert main("evaluation", "", COMMANDS, arguments) == 0
    assert '"points": 3' in capsys.readouterr().out


def test_neither_experiment_nor_run_is_one_line(sweep):
    with pytest.raises(UserError, match="MLflow has no experiment and no run 'nothing'"):
        points_of_runs("nothing")


def test_runs_without_points_are_refused(sweep):
    mlflow.MlflowClient().create_experiment("empty")
    with pytest.raises(UserError, match="empty has 0 such runs"):
        points_of_runs("empty")


def test_a_report_of_the_experiment_takes_the_run_of_the_sweep_for_no_failure(sweep):
    material = read_experiment("mine", newest=100)
    assert material.failures == []
    assert len(material.runs) == 7
