"""What a run leaves for people to see: ``metrics.jsonl`` in its folder, and one MLflow run.

Each is written by a thread of its own: a store or a server that is slow or unavailable never delays training.
``metrics.jsonl`` is the truth, and a run that cannot keep it ends; MLflow gets the same rows, in order, each step once,
also after an outage or a restart, and whatever happens there costs a line at most.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from dataprep.runtime.background import BackgroundThread
from dataprep.runtime.command_line import UserError
from dataprep.runtime.lease import LeaseLostError
from dataprep.runtime.storage import Folder
from pretrain.monitoring.metrics_file import MetricsFile, Row
from pretrain.monitoring.mlflow_run import ROWS_PER_REQUEST, MlflowRun

SEND_EVERY_SECONDS = 2.0
CLOSE_PATIENCE_SECONDS = 30.0


class RunRecord:
    """Rows of metrics of one run, on their way to its folder and to MLflow. Used by rank 0 alone."""

    def __init__(
        self,
        folder: Folder,
        from_step: int,
        mlflow_run: MlflowRun | None,
        log: Callable[[str], None],
        require_lease: Callable[[], None] = lambda: None,
    ) -> None:
        """``from_step``: optimizer steps done at the checkpoint that the run resumes from; later rows are redone.

        ``require_lease`` raises LeaseLostError where another process has the run: nothing is written then.
        """
        self._require_lease = require_lease
        require_lease()
        self._file, rows_before = MetricsFile.resume(folder, from_step)
        self._mlflow = mlflow_run
        self._log = log
        self._lock = threading.Lock()
        self._storing = threading.Lock()
        self._to_store: list[str] = []
        self._to_send = deque(rows_before if mlflow_run is not None else [])
        self._last: Row = {}
        for row in rows_before:
            self._last.update(row)
        self._complained: set[str] = set()
        self._announced = False
        self._closing = threading.Event()
        self._store_thread = BackgroundThread(self._keep_storing, "metrics-file")
        self._send_thread = BackgroundThread(self._keep_sending, "mlflow")

    def add(self, row: Row) -> None:
        """Take a row; it is stored and sent soon after."""
        line = json.dumps(row)
        with self._lock:
            self._to_store.append(line)
            self._last.update(row)
            if self._mlflow is not None:
                self._to_send.append(row)

    def store(self) -> None:
        """Write the rows taken so far to the folder, now. Raises UserError or OSError where that fails."""
        with self._storing:
            with self._lock:
                lines = list(self._to_store)
            if lines:
                self._require_lease()
                self._file.append(lines)
                with self._lock:
                    del self._to_store[: len(lines)]

    def last(self, key: str) -> Any:
        """The newest value of a metric, None where there is none."""
        with self._lock:
            return self._last.get(key)

    def check(self) -> None:
        """Raise UserError if rows are no longer stored because of an error that nobody expected."""
        self._store_thread.check()

    def close(self, export: Folder | None) -> None:
        """Store and send what is left, and the model export where the run has ended well.

        Raises UserError if the rows cannot be stored; MLflow may stay behind.
        """
        self._closing.set()
        self._store_thread.join()
        self.store()
        self._file.close()
        if self._mlflow is not None:
            self._close_mlflow(self._mlflow, export)

    def _close_mlflow(self, tracked: MlflowRun, export: Folder | None) -> None:
        try:
            self._send_thread.join()
        except UserError as error:
            self._log(f"MLflow: {error}")
        give_up_at = time.monotonic() + CLOSE_PATIENCE_SECONDS
        while not self._send_waiting(tracked):
            if time.monotonic() >= give_up_at:
                self._log("MLflow has not taken all metrics: the rest is in metrics.jsonl, sent at the next start")
                return
            time.sleep(SEND_EVERY_SECONDS)
        problem = tracked.finish("FINISHED" if export else "KILLED", export)
        self._log(f"MLflow: {problem}" if problem else f"MLflow run: {tracked.address()}")

    def _keep_storing(self) -> None:
        while not self._closing.wait(SEND_EVERY_SECONDS):
            try:
                self.store()
            except LeaseLostError:
                raise
            except (UserError, OSError) as error:
                self._complain("metrics", f"metrics.jsonl not written yet: {error}")

    def _keep_sending(self) -> None:
        while self._mlflow is not None and not self._closing.wait(SEND_EVERY_SECONDS):
            if not self._send_waiting(self._mlflow):
                continue
            if not self._announced:
                self._announced = True
                self._log(f"MLflow: {self._mlflow.address()}")
            if remark := self._mlflow.watch_system():
                self._complain("system metrics", f"MLflow's watch over the machine {remark}")

    def _send_waiting(self, tracked: MlflowRun) -> bool:
        """Send what MLflow lacks; False where it does not answer."""
        while True:
            with self._lock:
                rows = list(islice(self._to_send, ROWS_PER_REQUEST))
            problem = tracked.send(rows)
            if problem is not None:
                self._complain("mlflow", f"MLflow takes no metrics yet ({problem}); training continues, metrics follow")
                return False
            with self._lock:
                for _ in rows:
                    self._to_send.popleft()
                if not self._to_send:
                    return True

    def _complain(self, topic: str, message: str) -> None:
        """Say it once: an outage of an hour is one line, not a thousand."""
        if topic not in self._complained:
            self._complained.add(topic)
            self._log(message)
