"""Points of a scaling law from MLflow: the finished pretraining runs of an experiment, or of one sweep.

MLflow's client takes a second to import, so this module is imported where runs are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log
from evaluation.scaling.points import Points
from pretrain.monitoring.mlflow_run import (
    FOLDER_TAG,
    PARAMETERS_TAG,
    PARENT_TAG,
    PROFILES_TAG,
    chart_name,
    mlflow_client,
    reason_of,
)

_VALIDATION_LOSS = chart_name("validation_loss")


def points_of_runs(name: str) -> Points:
    """The points of the finished runs of an experiment of this name, or under the run of this id.

    The loss of a run is the least of its validation losses. Runs that are not finished, have no validation or were
    begun by a version that sent no sizes are left out and counted. Raises UserError where too few are left.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError("runs are read from MLflow: set MLFLOW_TRACKING_URI", exit_code=2)
    client = mlflow_client()
    try:
        found = [run for run in _runs(client, name) if FOLDER_TAG in run.data.tags]
        rows = [row for run in found if (row := _row(client, run)) is not None]
    except (MlflowException, OSError) as error:
        raise UserError(f"MLflow: {reason_of(error)}") from None
    log(f"{name}: {len(rows)} of {len(found)} pretraining runs are finished and have sizes and validation losses")
    if len(rows) < 2:
        raise UserError(f"{name} has {len(rows)} such runs; a line takes two at least", exit_code=2)
    parameters, profiles, loss = np.array(rows).T
    return Points(parameters, loss, profiles)


def _runs(client: Any, name: str) -> Iterator[Run]:
    experiment = client.get_experiment_by_name(name)
    only = ""
    if experiment is None:
        try:
            experiment_id = client.get_run(name).info.experiment_id
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise UserError(f"MLflow has no experiment and no run {name!r}", exit_code=2) from None
        only = f"tags.`{PARENT_TAG}` = '{name}'"
    else:
        experiment_id = experiment.experiment_id
    token = None
    while True:
        page = client.search_runs([experiment_id], only, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _row(client: Any, run: Run) -> tuple[float, float, float] | None:
    tags = run.data.tags
    if run.info.status != "FINISHED" or not {PARAMETERS_TAG, PROFILES_TAG} <= tags.keys():
        return None
    losses = [entry.value for entry in client.get_metric_history(run.info.run_id, _VALIDATION_LOSS)]
    return (float(tags[PARAMETERS_TAG]), float(tags[PROFILES_TAG]), min(losses)) if losses else None
