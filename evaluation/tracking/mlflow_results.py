"""Results in MLflow: one run per evaluation, with settings, scores and the full results as a file.

MLflow is imported inside functions: it takes a second, and evaluations without a server do without it.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log
from evaluation.scores.results import TaskResult, score_rows
from evaluation.tracking.data_sets import DataSet, inputs_of
from pretrain.monitoring.mlflow_run import find_or_create_experiment, flattened, mlflow_client, reason_of

# Values by column.
Table = Mapping[str, Sequence[Any]]

# Files of runs, by which a report knows what they are.
RESULTS_FILE = "results.json"
SCALING_FILE = "scaling.json"
# Of the run of a sweep, whose points are runs of their own.
SWEEP_TAG = "bulkformer.sweep"
# By which the run of an evaluation or a sweep is found again.
UID_TAG = "bulkformer.evaluation"
_LONGEST_PARAMETER = 500


class Tracked(Protocol):
    """A run in MLflow that lasts as long as a command."""

    def fail(self, status: str) -> None:
        """End it as FAILED or KILLED."""


@contextmanager
def failing_with(tracked: Tracked) -> Iterator[None]:
    """End a run as the block ends where that is not well: FAILED after an error, KILLED after an interruption."""
    try:
        yield
    except Exception:
        tracked.fail("FAILED")
        raise
    except BaseException:
        tracked.fail("KILLED")
        raise


def send_results(
    experiment: str,
    name: str,
    settings: Mapping[str, Any],
    tags: Mapping[str, str],
    results: Sequence[TaskResult],
    results_text: str,
    data_sets: Sequence[DataSet] = (),
    run_id: str | None = None,
) -> str | None:
    """Send results of tasks as :func:`send_run` does, into the run that was begun with the evaluation if any.

    Scores are metrics and, with the scores of studies, tables; curves are pictures.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    texts = {RESULTS_FILE: results_text, **pictures_of(results)}
    metrics, tables = metric_values(results), tables_of(results)
    return send_run(experiment, name, settings, tags, metrics, texts, tables=tables, data_sets=data_sets, run_id=run_id)


def send_run(
    experiment: str,
    name: str,
    settings: Mapping[str, Any],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    texts: Mapping[str, str],
    figures: Mapping[str, Any] | None = None,
    tables: Mapping[str, Table] | None = None,
    data_sets: Sequence[DataSet] = (),
    run_id: str | None = None,
) -> str | None:
    """Send one run to the server at ``MLFLOW_TRACKING_URI`` and return its id.

    ``texts``, ``figures`` (of matplotlib) and ``tables`` (lists by column) become files of the run by these names.
    Without an address nothing happens. A server that is unavailable costs a line, not the results. ``run_id``: a run
    that has settings and tags.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    client = mlflow_client()
    from mlflow.exceptions import MlflowException  # takes a second, and only a run with a server needs it

    try:
        if run_id is None:
            experiment_id = find_or_create_experiment(client, experiment)
            run_id = str(client.create_run(experiment_id, tags=dict(tags), run_name=name).info.run_id)
            client.log_batch(run_id, params=parameters_of(settings))
        client.log_batch(run_id, metrics=metrics_of(metrics))
        if data_sets:
            client.log_inputs(run_id, inputs_of(data_sets))
        for file, text in texts.items():
            client.log_text(run_id, text, file)
        for file, figure in (figures or {}).items():
            client.log_figure(run_id, figure, file)
        # MLflow would append to one that a repeated command has sent before, which is the same
        sent = {file.path for file in client.list_artifacts(run_id)}
        for file, table in (tables or {}).items():
            if file not in sent:
                client.log_table(run_id, dict(table), file)
        client.set_terminated(run_id)
    except (MlflowException, UserError, OSError) as error:
        log(f"MLflow did not take the results ({reason_of(error)}); they are shown here all the same")
        return None
    return run_id


def tables_of(results: Sequence[TaskResult]) -> dict[str, Table]:
    """All scores, and those of studies where there are any, as tables by the name of their file."""
    by_study = [
        {"task": result.task, "subject": result.subject, **row} for result in results for row in result.by_study
    ]
    tables: dict[str, Table] = {"scores.json": score_rows(results).to_pydict()}
    if by_study:
        columns = list(dict.fromkeys(column for row in by_study for column in row))
        tables["scores_by_study.json"] = {column: [row.get(column) for row in by_study] for column in columns}
    return tables


def pictures_of(results: Sequence[TaskResult]) -> dict[str, str]:
    """SVG files of all curves that can be drawn, by their names: a folder for each task and subject."""
    # takes a second to import, and only a run with a server needs it
    from dataprep.inspection.pictures import svg_file
    from evaluation.scores.curve_pictures import curve_pictures

    files = {}
    for result in results:
        place = "/".join(["figures", _allowed(result.task), *([_allowed(result.subject)] if result.subject else [])])
        for name, rows in result.curves.items():
            for number, picture in enumerate(curve_pictures(result.title, name, rows)):
                files[f"{place}/{_allowed(name)}{f'-{number + 1}' if number else ''}.svg"] = svg_file(picture)
    return files


def begun_run(
    experiment: str, name: str, settings: Mapping[str, Any], tags: Mapping[str, str], uid: str
) -> tuple[Any, str, str]:
    """Begin a run, or take up the one of this uid: MLflow's client, the experiment's id and the run's.

    Raises what MLflow raises, and UserError for a deleted experiment.
    """
    client = mlflow_client()
    experiment_id = find_or_create_experiment(client, experiment)
    found = client.search_runs([experiment_id], f"tags.`{UID_TAG}` = '{uid}'", max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        client.set_terminated(run_id, "RUNNING")
        return client, experiment_id, run_id
    run = client.create_run(experiment_id, tags={**tags, UID_TAG: uid}, run_name=name)
    client.log_batch(run.info.run_id, params=parameters_of(settings))
    return client, experiment_id, str(run.info.run_id)


def metric_values(results: Sequence[TaskResult]) -> dict[str, float]:
    """Scores by ``task/subject/method/metric``, with ``_low`` and ``_high`` for the interval; defined numbers only."""
    values: dict[str, float] = {}
    for result in results:
        for score in result.scores:
            parts = (result.task, result.subject, score.method, score.metric)
            name = "/".join(_allowed(part) for part in parts if part)
            interval = score.interval
            values |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _allowed(text: str) -> str:
    """MLflow takes letters, digits, and a few signs in a name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text.replace(" -> ", "_to_"))


def metrics_of(values: Mapping[str, float]) -> list[Any]:
    """As MLflow takes them, now and at step 0."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, value, now, 0) for name, value in values.items()]


def parameters_of(settings: Mapping[str, Any]) -> list[Any]:
    """As MLflow takes them, groups by dotted names."""
    from mlflow.entities import Param

    return [Param(name, str(value)[:_LONGEST_PARAMETER]) for name, value in flattened(settings).items()]
