"""What the driver passes to the workers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataprep.runtime.lease import LeaseKey
from dataprep.runtime.storage import Folder
from pretrain.artifacts.run_settings import RunIdentity
from pretrain.config import RunSettings
from pretrain.data.plan import steps_in

# Ray Train's own: a GPU that compiles or a slow disk takes minutes.
SHORTEST_COLLECTIVE_TIMEOUT_SECONDS = 1800


@dataclass(frozen=True)
class TrainingJob:
    """What the driver passes to every worker.

    ``coordinator`` is the actor that carries messages between them; by ``lease`` a worker knows whether its driver is
    the run's still.
    """

    settings: RunSettings
    code_fingerprint: str
    coordinator: Any
    identity: RunIdentity
    lease: LeaseKey

    @property
    def folder(self) -> Folder:
        """The run's folder, for a worker: it waits for a store that is unavailable."""
        settings = self.settings
        return Folder(settings.storage, settings.data.outage_patience_seconds) / settings.name

    def log(self, message: str) -> None:
        """Log a line to the terminal of whoever started the run, from any rank."""
        self.coordinator.post.remote("line", message)

    def log_from(self, rank: int, message: str) -> None:
        """Log a line that every rank has, once."""
        if rank == 0:
            self.log(message)


def collective_timeout_seconds(settings: RunSettings) -> int:
    """How long a rank waits for the others in a collective before it gives up: longer than any of them may wait itself.

    A rank that reads from a store which is unavailable is patient for ``data.outage_patience_seconds``; while rank 0
    chooses a checkpoint, it may read several.
    """
    return max(SHORTEST_COLLECTIVE_TIMEOUT_SECONDS, math.ceil(3 * settings.data.outage_patience_seconds))


def total_steps(settings: RunSettings, profiles: int) -> int:
    """Optimizer steps of a whole run over ``profiles`` of the train split."""
    return _total_steps(settings.epochs, settings.max_steps, profiles, settings.batch.global_profiles)


def schedule_steps_of(state: Mapping[str, Any], profiles: int) -> int:
    """Return the length of the schedule that a checkpoint was trained with.

    The first version recorded none, and took the steps of the settings that wrote the checkpoint.
    """
    if "schedule_steps" in state:
        return int(state["schedule_steps"])
    settings = state["settings"]
    return _total_steps(settings["epochs"], settings["max_steps"], profiles, settings["batch"]["global_profiles"])


def _total_steps(epochs: int, max_steps: int | None, profiles: int, global_profiles: int) -> int:
    steps = epochs * steps_in(profiles, global_profiles)
    return steps if max_steps is None else min(steps, max_steps)
