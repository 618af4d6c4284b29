"""What a run leaves for people to see: ``metrics.jsonl`` in its folder, and one MLflow run.

Both are written by a thread: a store or a server that is slow or away never stops training. ``metrics.jsonl`` is the
truth; MLflow gets the rows after it, in order, each step once, also after an outage or a restart.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

METRICS_FILE = "metrics.jsonl"
SEND_EVERY_SECONDS = 2.0
# MLflow refuses more than 1,000 metrics in one request
ROWS_PER_REQUEST = 100
CLOSE_PATIENCE_SECONDS = 30.0
# One request must fail fast: patience is ours, in the thread, and MLflow's own would block its end for minutes.
MLFLOW_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}

# Of training rows and of validation rows, which have the same step as the training row before them.
PROGRESS_METRICS = ("last_step", "last_validation_step")

Row = dict[str, Any]


def read_rows(folder: Folder) -> list[Row]:
    """Rows of a run's ``metrics.jsonl``, oldest first; none where it does not exist."""
    try:
        text = folder.read_text(METRICS_FILE)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line]


class RunRecord:
    """Rows of metrics of one run, on their way to its folder and to MLflow. Used by rank 0 alone."""

    def __init__(
        self,
        folder: Folder,
        from_step: int,
        mlflow_run: MlflowRun | None,
        tell: Callable[[str], None],
    ) -> None:
        """``from_step``: optimizer steps done at the checkpoint that the run goes on from; later rows are redone."""
        self._folder = folder
        self._rows = [row for row in read_rows(folder) if row["step"] <= from_step]
        self._mlflow = mlflow_run
        self._tell = tell
        self._lock = threading.Lock()
        self._storing = threading.Lock()
        self._stored = 0
        self._complained: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="run-record", daemon=True)
        self._thread.start()

    def add(self, row: Row) -> None:
        """Take a row; it is stored and sent soon after."""
        with self._lock:
            self._rows.append(row)

    def store(self) -> None:
        """Write the rows taken so far to the folder, now. Raises UserError or OSError where that fails."""
        with self._storing:
            with self._lock:
                rows = list(self._rows)
            if len(rows) != self._stored:
                self._folder.write_text(METRICS_FILE, "".join(json.dumps(row) + "\n" for row in rows))
                self._stored = len(rows)

    def last(self, key: str) -> Any:
        """The newest value of a metric, None where there is none."""
        with self._lock:
            return next((row[key] for row in reversed(self._rows) if key in row), None)

    def close(self, export: Folder | None) -> None:
        """Store and send what is left, and the model export where the run has ended well.

        Raises UserError if the rows cannot be stored; MLflow may stay behind.
        """
        self._closing.set()
        self._thread.join()
        self.store()
        if self._mlflow is None:
            return
        if self._send(time.monotonic() + CLOSE_PATIENCE_SECONDS):
            problem = self._mlflow.finish("FINISHED" if export else "KILLED", export)
            self._tell(f"MLflow: {problem}" if problem else f"MLflow run: {self._mlflow.address()}")
        else:
            self._tell(
                "MLflow does not answer: what it lacks is in metrics.jsonl and is sent when the run is started again"
            )

    def _work(self) -> None:
        while not self._closing.wait(SEND_EVERY_SECONDS):
            try:
                self.store()
            except (UserError, OSError) as error:
                self._complain("metrics", f"metrics.jsonl not written yet: {error}")
            if self._mlflow is not None:
                self._send(time.monotonic())

    def _send(self, give_up_at: float) -> bool:
        """Send all rows that MLflow lacks; tries again until ``give_up_at``."""
        assert self._mlflow is not None
        while True:
            with self._lock:
                rows = list(self._rows)
            problem = self._mlflow.send(rows)
            if problem is None:
                return True
            self._complain("mlflow", f"MLflow does not answer ({problem}); training goes on, metrics are sent later")
            if time.monotonic() >= give_up_at:
                return False
            time.sleep(SEND_EVERY_SECONDS)

    def _complain(self, topic: str, message: str) -> None:
        """Say it once: an outage of an hour is one line, not a thousand."""
        if topic not in self._complained:
            self._complained.add(topic)
            self._tell(message)


class MlflowRun:
    """One MLflow run per run folder, found again by a tag after a restart.

    Nothing is sent before the first :meth:`send`, so that a server that is away delays nobody.
    """

    def __init__(
        self,
        experiment: str,
        name: str,
        folder_uri: str,
        parameters: Mapping[str, Any],
        tags: Mapping[str, str],
        system_metrics: bool,
    ) -> None:
        for variable, value in MLFLOW_LIMITS.items():
            os.environ.setdefault(variable, value)
        import mlflow  # takes a second, and only rank 0 needs it
        from mlflow.exceptions import MlflowException

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._errors = (MlflowException, OSError)
        self._client = mlflow.MlflowClient()
        self._experiment = experiment
        self._name = name
        self._folder_uri = folder_uri
        self._parameters = flattened(parameters)
        self._tags = dict(tags)
        self._system_metrics = system_metrics
        self._monitor: Any = None
        self._sent = 0
        self._done = dict.fromkeys(PROGRESS_METRICS, -1)
        self.run_id: str | None = None

    def send(self, rows: Sequence[Row]) -> str | None:
        """Send the rows that were not sent yet. Returns None, or one line that says why it did not work."""
        try:
            if self.run_id is None:
                self._begin()
            assert self.run_id is not None
            while self._sent < len(rows):
                batch = rows[self._sent : self._sent + ROWS_PER_REQUEST]
                new = [row for row in batch if row["step"] > self._done[_progress_metric(row)]]
                if new:
                    self._client.log_batch(self.run_id, metrics=_metrics(new))
                self._sent += len(batch)
        except self._errors as error:
            return " ".join(str(error).split())[:160]
        return None

    def finish(self, status: str, export: Folder | None) -> str | None:
        """End the run as FINISHED or KILLED, with the model export. Returns None or why it did not work."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        if self.run_id is None:
            return "the run was never begun"
        try:
            if export is not None:
                with tempfile.TemporaryDirectory() as local:
                    for name in export.files():
                        export.download(name, Path(local) / name)
                    self._client.log_artifacts(self.run_id, local, artifact_path="export")
            self._client.set_terminated(self.run_id, status)
        except self._errors as error:
            return " ".join(str(error).split())[:160]
        return None

    def address(self) -> str | None:
        """Where a browser shows the run, once it has begun."""
        if self.run_id is None:
            return None
        experiment = self._client.get_run(self.run_id).info.experiment_id
        server = os.environ["MLFLOW_TRACKING_URI"].rstrip("/")
        return f"{server}/#/experiments/{experiment}/runs/{self.run_id}"

    def _begin(self) -> None:
        experiment = self._experiment_id()
        found = self._client.search_runs([experiment], f"tags.`bulkformer.run` = '{self._folder_uri}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
            self._client.set_terminated(run_id, "RUNNING")
            # what is there already, also of steps that are done again after a kill, is not sent again
            self._done = {name: int(found[0].data.metrics.get(name, -1)) for name in PROGRESS_METRICS}
        else:
            tags = {"bulkformer.run": self._folder_uri, **self._tags}
            run_id = self._client.create_run(experiment, tags=tags, run_name=self._name).info.run_id
            self._log_parameters(run_id)
        if self._system_metrics:
            self._watch_system(run_id)
        self.run_id = run_id

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        return found.experiment_id if found else self._client.create_experiment(self._experiment)

    def _log_parameters(self, run_id: str) -> None:
        from mlflow.entities import Param

        parameters = [Param(key, str(value)[:6000]) for key, value in self._parameters.items()]
        for start in range(0, len(parameters), ROWS_PER_REQUEST):
            self._client.log_batch(run_id, params=parameters[start : start + ROWS_PER_REQUEST])

    def _watch_system(self, run_id: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(run_id, resume_logging=True)
        self._monitor.start()


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
        metrics += [Metric(key, float(value), moment, row["step"]) for key, value in values.items()]
    return metrics
