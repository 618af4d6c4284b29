"""The MLflow run of a sweep, under which those of its points are shown. Whatever MLflow does, the sweep goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log
from evaluation.tracking.mlflow_results import begun_run
from pretrain.monitoring.mlflow_run import reason_of

TRAINED_METRIC = "runs/trained"


class SweepRun:
    """``run_id`` is None where there is no server, or it did not answer."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self._client: Any = None

    def begin(self, experiment: str, name: str, settings: Mapping[str, Any], tags: Mapping[str, str], uid: str) -> None:
        """Begin the run, or take up the one that an earlier start of the sweep ``uid`` has begun."""

        def begin() -> None:
            self._client, _, self.run_id = begun_run(experiment, name, settings, tags, uid)

        if os.environ.get("MLFLOW_TRACKING_URI"):
            _try("shows the points of the sweep one by one", begin)

    def count(self, trained: int) -> None:
        """Say how many runs are trained by now."""
        self._send(lambda: self._client.log_metric(self.run_id, TRAINED_METRIC, trained, step=trained))

    def finish(self, file: str, table: str) -> None:
        """End the run with the table of points."""

        def finish() -> None:
            self._client.log_text(self.run_id, table, file)
            self._client.set_terminated(self.run_id)

        self._send(finish)

    def fail(self, status: str) -> None:
        """End the run as FAILED or KILLED; the same command takes it up again."""
        self._send(lambda: self._client.set_terminated(self.run_id, status))

    def _send(self, request: Callable[[], None]) -> None:
        if self.run_id is not None:
            _try("did not take the state of the sweep", request)


def _try(what: str, request: Callable[[], None]) -> None:
    from mlflow.exceptions import MlflowException  # takes a second, and only a sweep with a server needs it

    try:
        request()
    except (MlflowException, UserError, OSError) as error:
        log(f"MLflow {what} ({reason_of(error)})")
