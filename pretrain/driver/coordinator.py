"""The actor between the driver and the workers of a run: messages one way, the wish to stop the other way."""

from __future__ import annotations

import uuid
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# Of the names of all coordinators, by which the jobs of this project are known (see pretrain.driver.leftovers).
NAME_PREFIX = "bulkformer-pretrain-"


@ray.remote(num_cpus=0, max_restarts=0)
class RunCoordinator:
    """Messages of a running training: rows of metrics, lines of text, a fatal mistake of the user, and how it ended."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, Any]] = []
        self._fatal: tuple[str, int] | None = None
        self._stop_requested = False
        self._stopped_after: int | None = None

    def post(self, kind: str, content: Any) -> None:
        self._waiting.append((kind, content))

    def take(self) -> list[tuple[str, Any]]:
        taken, self._waiting = self._waiting, []
        return taken

    def fail(self, message: str, exit_code: int) -> None:
        """Remember the first mistake that no restart can mend."""
        self._fatal = self._fatal or (message, exit_code)

    def fatal(self) -> tuple[str, int] | None:
        return self._fatal

    def request_stop(self) -> None:
        """Ask the workers to checkpoint and leave after the step they are in."""
        self._stop_requested = True

    def stop_requested(self) -> bool:
        return self._stop_requested

    def stop_after(self, step: int) -> None:
        """Remember that the workers have left before the run's end, as they were asked to."""
        self._stopped_after = step

    def stopped_after(self) -> int | None:
        """The step that the workers left after; None where they trained to the end."""
        return self._stopped_after


def start_coordinator() -> Any:
    """Start the actor on this very machine, since those of the workers may go away."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    name = f"{NAME_PREFIX}{uuid.uuid4().hex}"
    return RunCoordinator.options(name=name, scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # Ray's
