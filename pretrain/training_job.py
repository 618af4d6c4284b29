"""What the driver hands to the workers, and where they begin.

Imports none of the model: the driver and Ray Train's controller load this module too, and torch's compiler, PyG and
DeepSpeed would cost each of them five seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from dataprep.command_line import UserError
from dataprep.ray_session import user_error_in
from dataprep.storage import Folder
from pretrain.config import RunSettings
from pretrain.data_plan import steps_in


@dataclass(frozen=True)
class TrainingJob:
    """What the driver hands to every worker."""

    settings: RunSettings
    code_fingerprint: str
    board: Any

    @property
    def folder(self) -> Folder:
        """The run's folder, for a worker: patient with a store that is away."""
        settings = self.settings
        return Folder(settings.storage, settings.data.outage_patience_seconds) / settings.name


def total_steps(settings: RunSettings, profiles: int) -> int:
    """Optimizer steps of a whole run over ``profiles`` of the train split."""
    steps = settings.epochs * steps_in(profiles, settings.batch.global_profiles)
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def train_worker(config: dict[str, TrainingJob]) -> None:
    """Entry point of a Ray Train worker; ``config["job"]`` is what it has to do.

    A mistake of the user is put on the board before it is raised: Ray Train would restart the workers, and those
    must not try again what cannot work.
    """
    from pretrain.train_loop import Worker  # see the module's docstring

    job = config["job"]
    if ray.get(job.board.fatal.remote()) is not None:
        return
    try:
        Worker(job).train()
    except (UserError, ray.exceptions.RayError) as error:
        mistake = user_error_in(error)
        if mistake is None:
            raise
        ray.get(job.board.fail.remote(str(mistake), mistake.exit_code))
        raise
