"""Notices from outside: a request to stop, and nodes that are about to be drained."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import ray.train

from dataprep.runtime.background import BackgroundThread
from pretrain.training.agreement import Requests
from pretrain.training.observers.observer import DoneStep, Observer

POLL_SECONDS = 1.0


class StopRequests(Observer):
    """Learns from the coordinator, in a thread of rank 0, that the run was asked to stop."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self._stop = False
        self._closing = threading.Event()
        self._thread = BackgroundThread(self._listen, "stop-requests")

    def requests(self) -> Requests:
        return Requests(stop=self._stop)

    def check(self) -> None:
        self._thread.check()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._stop and not self._closing.wait(POLL_SECONDS):
            try:
                self._stop = ray.get(self._coordinator.stop_requested.remote(), timeout=10)
            except ray.exceptions.RayError:
                continue  # driver and coordinator are dead, or busy: Ray itself ends this worker in time


class NodeNotices(Observer):
    """Asks Ray now and then whether nodes of this run are draining, as spot machines do before they are taken away."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._asked_at = time.monotonic()
        self._announced: list[str] = []

    def node_is_draining(self) -> bool:
        """Whether a node of this run was announced to go."""
        return bool(self._announced)

    def requests(self) -> Requests:
        now = time.monotonic()
        due = now - self._asked_at >= POLL_SECONDS
        if due:
            self._asked_at = now
        return Requests(ask_ray=due)

    def after_step(self, done: DoneStep) -> None:
        """Ask, if it was agreed: the question is a collective of Ray Train."""
        if not done.agreed.requests.ask_ray:
            return
        notice = ray.train.get_preemption_info()
        if notice is None or notice.preempted_node_ids == self._announced:
            return
        self._announced = notice.preempted_node_ids
        deadline = time.localtime(notice.deadline_ms / 1000)
        when = time.strftime("at %H:%M:%S", deadline) if notice.deadline_ms else "soon"
        ranks = ", ".join(map(str, notice.preempted_ranks))
        self._log(f"NODE DRAINING: rank {ranks} is lost {when}; until then, one checkpoint follows another")
