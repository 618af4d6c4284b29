"""Where a Ray Train worker begins.

Imports none of the model: the driver and Ray Train's controller load this module too, and torch's compiler, PyG and
DeepSpeed would cost each of them five seconds.
"""

from __future__ import annotations

import ray

from dataprep.runtime.command_line import UserError
from dataprep.runtime.ray_session import user_error_in
from pretrain.training.job import TrainingJob


def train_worker(config: dict[str, TrainingJob]) -> None:
    """Entry point of a Ray Train worker; ``config["job"]`` is what it has to do.

    A mistake of the user is reported to the coordinator before it is raised: Ray Train would restart the workers, and
    those must not try again what cannot work.
    """
    from pretrain.training.worker import train  # see the module's docstring

    job = config["job"]
    if ray.get(job.coordinator.fatal.remote()) is not None:
        return
    try:
        train(job)
    except (UserError, ray.exceptions.RayError) as error:
        mistake = user_error_in(error)
        if mistake is None:
            raise
        ray.get(job.coordinator.fail.remote(str(mistake), mistake.exit_code))
        raise
