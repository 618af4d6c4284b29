"""One MLflow run per evaluation, from its beginning on, with a nested run for each trial of its searches.

All is sent by a thread of its own: a server that is slow or away delays nothing and ends nothing. What it has not
taken is sent at the end, or when the same command is repeated; the run of an evaluation is found again by its uid, and
that of a trial by its key, so that none is there twice.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from evaluation.search.nested import Choice
from evaluation.tracking.mlflow_results import begun_run, metrics_of, parameters_of
from pretrain.monitoring.mlflow_run import PARENT_TAG

TRIAL_TAG, SUBJECT_TAG, CHOSEN_TAG = "bulkformer.trial", "bulkformer.subject", "bulkformer.chosen_by_folds"
# How long the end of an evaluation waits for what MLflow has not taken yet.
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class FinishedTrial:
    """``key``: unlike that of any other trial of the evaluation; ``chosen_by``: numbers of outer folds."""

    key: str
    name: str
    subject: str
    choice: Choice
    score: float
    inner_fits: int
    seconds: float
    chosen_by: Sequence[int]


class EvaluationRun:
    """The MLflow run of an evaluation; nothing at all happens where ``MLFLOW_TRACKING_URI`` names no server."""

    def __init__(
        self, experiment: str, name: str, settings: Mapping[str, Any], tags: Mapping[str, str], uid: str
    ) -> None:
        self._about = (experiment, name, settings, tags, uid)
        self._trials: queue.Queue[Sequence[FinishedTrial] | None] = queue.Queue()
        self._unsent: list[FinishedTrial] = []
        self._client: Any = None
        self._experiment_id = self._run_id = ""
        self._known: set[str] = set()
        self._unfinished: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin the run, or take it up again where it is known."""
        if os.environ.get("MLFLOW_TRACKING_URI"):
            self._thread = threading.Thread(target=self._keep_sending, name="mlflow-trials", daemon=True)
            self._thread.start()

    def add(self, trials: Sequence[FinishedTrial]) -> None:
        """Take trials of a search that has ended; they are sent soon after."""
        self._trials.put(trials)

    def close(self) -> str | None:
        """Send what is left; returns the id of the run, None where there is none or the server is away."""
        if self._thread is not None:
            self._trials.put(None)
            self._thread.join(_PATIENCE_SECONDS)
            self._thread = None
        return self._run_id or None

    def fail(self, status: str) -> None:
        """End the run as FAILED or KILLED. The same command takes it up again, if it has a search to go on with."""
        if run_id := self.close():
            # the evaluation has failed for another reason, which is shown
            with suppress(Exception):
                self._client.set_terminated(run_id, status)

    def _keep_sending(self) -> None:
        self._send()
        while (trials := self._trials.get()) is not None:
            self._unsent += trials
            self._send()
        if self._unsent or not self._run_id:
            self._send()

    def _send(self) -> None:
        # tracking stops no search, whatever happens; of a server that stays away one is told at the end
        with suppress(Exception):
            if not self._run_id:
                self._begin()
            while self._unsent:
                self._send_trial(self._unsent[0])
                del self._unsent[0]

    def _begin(self) -> None:
        self._client, self._experiment_id, run_id = begun_run(*self._about)
        of_this, token = f"tags.`{PARENT_TAG}` = '{run_id}'", None
        while True:
            page = self._client.search_runs([self._experiment_id], of_this, page_token=token)
            for run in page:
                key = run.data.tags.get(TRIAL_TAG, "")
                if run.info.status == "FINISHED":
                    self._known.add(key)
                else:
                    self._unfinished[key] = run.info.run_id
            token = page.token
            if not token:
                break
        self._run_id = run_id

    def _send_trial(self, trial: FinishedTrial) -> None:
        if trial.key in self._known:
            return
        run_id = self._unfinished.get(trial.key)
        if run_id is None:
            tags = {PARENT_TAG: self._run_id, TRIAL_TAG: trial.key, SUBJECT_TAG: trial.subject}
            tags |= {CHOSEN_TAG: ",".join(map(str, trial.chosen_by))} if trial.chosen_by else {}
            run_id = self._client.create_run(self._experiment_id, tags=tags, run_name=trial.name).info.run_id
            self._unfinished[trial.key] = run_id
        values = {"inner_score": trial.score, "inner_fits": float(trial.inner_fits), "seconds": trial.seconds}
        defined = {name: value for name, value in values.items() if math.isfinite(value)}
        self._client.log_batch(run_id, metrics=metrics_of(defined), params=parameters_of(trial.choice))
        self._client.set_terminated(run_id)
        self._known.add(trial.key)
