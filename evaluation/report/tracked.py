"""What a report is made of, read from MLflow: the newest runs of an experiment, whatever they are.

MLflow's client takes a second to import, so this module is imported where an experiment is asked for.
"""

from __future__ import annotations

import os
from collections import defaultdict

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from dataprep.runtime.command_line import UserError
from evaluation.report.material import Evaluation, Material, ScalingFit, TrainingRun, parsed
from evaluation.tracking.mlflow_results import RESULTS_FILE, SCALING_FILE, SWEEP_TAG
from pretrain.monitoring.metrics_file import Row
from pretrain.monitoring.mlflow_run import FOLDER_TAG, mlflow_client, reason_of, row_name

_CARD = "export/README.md"


def read_experiment(name: str, newest: int) -> Material:
    """The newest runs of an experiment. Raises UserError where the server or the experiment cannot be had."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError("an experiment is read from MLflow: set MLFLOW_TRACKING_URI", exit_code=2)
    client = mlflow_client()
    try:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise UserError(f"MLflow has no experiment {name!r}", exit_code=2)
        found = client.search_runs([experiment.experiment_id], max_results=newest)
        return _sorted(client, list(found), name)
    except (MlflowException, OSError) as error:
        raise UserError(f"MLflow: {reason_of(error)}") from None


def _sorted(client: mlflow.MlflowClient, found: list[Run], experiment: str) -> Material:
    runs: list[TrainingRun] = []
    evaluations: list[Evaluation] = []
    scaling: list[ScalingFit] = []
    failures: list[str] = []
    for run in found:
        origin = f"MLflow experiment {experiment}, run {run.info.run_name} ({run.info.run_id})"
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        if FOLDER_TAG in run.data.tags:
            runs.append(_training_run(client, run, origin))
        elif RESULTS_FILE in files:
            evaluations.append(parsed(Evaluation, _text(run, RESULTS_FILE), origin, "results of evaluation run"))
        elif SCALING_FILE in files:
            scaling.append(parsed(ScalingFit, _text(run, SCALING_FILE), origin, "results of evaluation scaling fit"))
        elif SWEEP_TAG not in run.data.tags:
            failures.append(f"{origin} is {run.info.status.lower()} and has no results")
    return Material(runs, evaluations, scaling, failures)


def _text(run: Run, file: str) -> bytes:
    return str(mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/{file}")).encode()


def _training_run(client: mlflow.MlflowClient, run: Run, origin: str) -> TrainingRun:
    finished = run.info.status == "FINISHED"
    exported = {file.path for file in client.list_artifacts(run.info.run_id, "export")} if finished else set()
    tags = run.data.tags
    return TrainingRun(
        name=str(run.info.run_name),
        origin=f"{origin}, folder {tags[FOLDER_TAG]}",
        status=run.info.status.lower(),
        problem="" if finished else f"MLflow has the run as {run.info.status.lower()}: it has no model",
        settings=dict(run.data.params),
        rows=_rows(client, run),
        export={"training": {"corpus": tags["corpus"]}} if "corpus" in tags else {},
        card=_text(run, _CARD).decode(errors="replace") if _CARD in exported else "",
    )


def _rows(client: mlflow.MlflowClient, run: Run) -> list[Row]:
    """Rows as in ``metrics.jsonl``: those of training and those of validation apart, which can have the same step."""
    rows: dict[tuple[int, bool], Row] = defaultdict(dict)
    for metric in run.data.metrics:
        name = row_name(metric)
        if name is None:
            continue
        for entry in client.get_metric_history(run.info.run_id, metric):
            row = rows[entry.step, name.startswith("validation_")]
            row |= {"step": entry.step, "time": entry.timestamp / 1000, name: entry.value}
    return [rows[key] for key in sorted(rows)]
