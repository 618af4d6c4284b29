"""One MLflow run per pretraining run. Whatever MLflow does, it never raises an error here: training continues.

MLflow is imported inside functions: it takes a second, and only rank 0 needs it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataprep.runtime.addresses import without_credentials
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder
from pretrain.monitoring.metrics_file import Row
from pretrain.monitoring.mlflow_internals import SystemMetrics

# MLflow refuses more than 1,000 metrics in one request
ROWS_PER_REQUEST = 100
# One request must fail fast: patience is ours, in a thread, and MLflow's own would block its end for minutes. Standard
# output is for results, and MLflow would print the run's address there when the run ends.
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

# Of training rows and of validation rows, which have the same step as the training row before them.
PROGRESS_METRICS = ("progress/last_step", "progress/last_validation_step")
# MLflow's charts stand in groups by what is before the slash. metrics.jsonl has the names alone.
_GROUPS = {
    "train": ("loss", "lr", "grad_norm"),
    "validation": ("validation_loss", "validation_pearson", "in_distribution_loss", "in_distribution_pearson"),
    "speed": (
        "samples_per_second", "data_wait_fraction", "seconds_left", "gflops", "gemm_peak_share", "pause_seconds",
        "slowest_rank", "slowest_ratio",
    ),
    "system": ("peak_memory_bytes",),
}  # fmt: skip
_OTHER_GROUP = "progress"
# The run is found again by its uid. Runs of the first version have the address of their folder alone.
UID_TAG = "bulkformer.uid"
FOLDER_TAG = "bulkformer.run"
# What scaling laws are fitted over: trained parameters, and profiles of the train split.
PARAMETERS_TAG, PROFILES_TAG = "bulkformer.parameters", "bulkformer.train_profiles"
# MLflow's own: its pages show a run under the one that this names.
PARENT_TAG = "mlflow.parentRunId"


class MlflowRun:
    """The MLflow run of a run folder, found again after a restart by the uid in the folder's settings.

    Nothing is sent before the first :meth:`send`, so that a server that is unavailable delays nobody.
    """

    def __init__(
        self,
        experiment: str,
        name: str,
        folder_uri: str,
        parameters: Mapping[str, Any],
        tags: Mapping[str, str],
        system_metrics: bool,
        run_uid: str,
        begun_without_uid: bool = False,
        parent_run: str | None = None,
    ) -> None:
        """``begun_without_uid``: the run was begun by the first version, whose MLflow runs have no uid.

        ``parent_run``: id of the MLflow run that this one is part of.
        """
        self._client = mlflow_client()
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._experiment = experiment
        self._name = name
        self._folder_uri = folder_uri
        self._parameters = flattened(parameters)
        # a run that is found again gets these anew: it may have been begun without
        self._own_tags = {UID_TAG: run_uid, **({PARENT_TAG: parent_run} if parent_run else {})}
        self._tags = {**self._own_tags, FOLDER_TAG: folder_uri, **tags}
        self._run_uid = run_uid
        self._begun_without_uid = begun_without_uid
        self._wants_system_metrics = system_metrics
        self._system_metrics: SystemMetrics | None = None
        self._done = dict.fromkeys(PROGRESS_METRICS, -1)
        self._experiment_id = ""
        self.run_id: str | None = None

    def send(self, rows: Sequence[Row]) -> str | None:
        """Send rows, but for those that MLflow has already. Returns None, or one line that says why it did not work.

        After a failure the same rows can be given again.
        """
        try:
            if self.run_id is None:
                self.run_id = self._begin()
            for start in range(0, len(rows), ROWS_PER_REQUEST):
                batch = rows[start : start + ROWS_PER_REQUEST]
                new = [row for row in batch if row["step"] > self._done[_progress_metric(row)]]
                if new:
                    self._client.log_batch(self.run_id, metrics=_metrics(new))
                self._done |= {_progress_metric(row): row["step"] for row in new}
        except Exception as error:  # noqa: BLE001 - tracking never stops training
            return reason_of(error)
        return None

    def watch_system(self) -> str | None:
        """Keep the machine's metrics coming, where they are wanted. Returns None or what there is to say about it."""
        if not self._wants_system_metrics or self.run_id is None:
            return None
        try:
            if self._system_metrics is None:
                self._system_metrics = SystemMetrics(self.run_id)
            return "had ended and was started again" if self._system_metrics.keep_running() else None
        except Exception as error:  # noqa: BLE001 - tracking never stops training
            self._wants_system_metrics = False
            return f"is off: {reason_of(error)}"

    def finish(self, status: str, export: Folder | None) -> str | None:
        """End the run as FINISHED or KILLED, with the model export. Returns None or why it did not work."""
        if self.run_id is None:
            return "the run was never begun"
        try:
            if self._system_metrics is not None:
                self._system_metrics.finish()
            if export is not None:
                with tempfile.TemporaryDirectory() as local:
                    for name in export.files():
                        export.download(name, Path(local) / name)
                    self._client.log_artifacts(self.run_id, local, artifact_path="export")
            self._client.set_terminated(self.run_id, status)
        except Exception as error:  # noqa: BLE001 - the run has ended, and its metrics are in its folder
            return reason_of(error)
        return None

    def address(self) -> str | None:
        """Where a browser shows the run's curves, once it has begun."""
        if self.run_id is None:
            return None
        server = without_credentials(os.environ["MLFLOW_TRACKING_URI"]).rstrip("/")
        return f"{server}/#/experiments/{self._experiment_id}/runs/{self.run_id}/model-metrics"

    def _begin(self) -> str:
        self._experiment_id = find_or_create_experiment(self._client, self._experiment)
        found = self._find()
        if found is None:
            run_id = str(self._client.create_run(self._experiment_id, tags=self._tags, run_name=self._name).info.run_id)
            self._log_parameters(run_id)
            return run_id
        run_id = str(found.info.run_id)
        for tag, value in self._own_tags.items():
            self._client.set_tag(run_id, tag, value)
        self._client.set_terminated(run_id, "RUNNING")
        # what is there already, also of steps that are done again after a kill, is not sent again
        self._done = {name: int(found.data.metrics.get(name, -1)) for name in PROGRESS_METRICS}
        return run_id

    def _find(self) -> Any | None:
        """This run, if an earlier process began it. A name or an address may have been used before: they do not do."""
        of_uid = f"tags.`{UID_TAG}` = '{self._run_uid}'"
        if found := self._client.search_runs([self._experiment_id], of_uid, max_results=1):
            return found[0]
        if not self._begun_without_uid:
            return None
        # compared here and not by the server, whose filters cannot hold every address
        earlier = (run for run in self._runs() if run.data.tags.get(FOLDER_TAG) == self._folder_uri)
        return next((run for run in earlier if UID_TAG not in run.data.tags), None)

    def _runs(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _log_parameters(self, run_id: str) -> None:
        from mlflow.entities import Param

        parameters = [Param(key, str(value)[:6000]) for key, value in self._parameters.items()]
        for start in range(0, len(parameters), ROWS_PER_REQUEST):
            self._client.log_batch(run_id, params=parameters[start : start + ROWS_PER_REQUEST])


def mlflow_client() -> Any:
    """MLflow's client for the server at ``MLFLOW_TRACKING_URI``, with :data:`MLFLOW_DEFAULTS`."""
    for variable, value in MLFLOW_DEFAULTS.items():
        os.environ.setdefault(variable, value)
    import mlflow  # takes a second, and only who has a server needs it

    return mlflow.MlflowClient()


def chart_name(name: str) -> str:
    """The name in MLflow of a metric of ``metrics.jsonl``: ``train/loss`` for ``loss``."""
    group = next((group for group, names in _GROUPS.items() if name in names), _OTHER_GROUP)
    return f"{group}/{name.removeprefix(f'{group}_')}"


def row_name(chart: str) -> str | None:
    """The name in ``metrics.jsonl`` of a metric in MLflow, also of one without a group, as earlier versions sent them.

    None for what is not in ``metrics.jsonl``.
    """
    known = [name for names in _GROUPS.values() for name in names]
    return next((name for name in known if chart in (name, chart_name(name))), None)


def find_or_create_experiment(client: Any, name: str) -> str:
    """The id of an experiment. Raises UserError for one that was deleted, whose name MLflow keeps taken."""
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise UserError(f"the MLflow experiment {name!r} is deleted: restore it, or name another one")
    return str(found.experiment_id if found else client.create_experiment(name))


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _progress_metric(row: Row) -> str:
    """The metric that says how far MLflow has got with rows of this kind, for a restart."""
    return PROGRESS_METRICS["validation_loss" in row]


def _metrics(rows: Sequence[Row]) -> list[Any]:
    from mlflow.entities import Metric

    metrics = []
    for row in rows:
        moment = int(row.get("time", time.time()) * 1000)
        values = {key: value for key, value in row.items() if key not in ("step", "time", "row_ids")}
        values[_progress_metric(row)] = row["step"]
        charted = {key if key in PROGRESS_METRICS else chart_name(key): value for key, value in values.items()}
        metrics += [Metric(key, float(value), moment, row["step"]) for key, value in charted.items()]
    return metrics


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line without user names and passwords, for people."""
    return without_credentials(one_line(error))[:160]
