"""Every name of Ray that is not part of its documented interface, and why it is used.

Ray is pinned to one version in pyproject.toml. ``tests/integration/pretrain/test_ray_internals.py`` fails when a name
has gone, and when Ray no longer does what made it necessary.
"""

from __future__ import annotations

import time
from typing import Any

# At the end of each round of Ray Data's scheduling loop.
PAUSE_SECONDS = 0.02


def pause_scheduling_loop(context: Any) -> None:
    """Have Ray Data's scheduling loop pause in each round (``ExecutionCallback``).

    The loop runs in a thread of the process that trains. While its output waits to be used, which is nearly always
    where training is slower than reading, it goes round without a pause and competes for Python's lock with the thread
    that launches the model's operators, on a machine of any size.
    """
    context.custom_execution_callback_classes = [_pausing_callback()]


def without_placement_group_cleaner(trainer: type[Any]) -> type[Any]:
    """Return a trainer class that does without Ray Train's detached ``PlacementGroupCleaner``.

    The actor removes the placement group of a controller that died (``_create_default_callbacks``,
    ``PlacementGroupCleanerCallback``). It can stay for ever where the driver is killed before the actor has heard what
    to watch, or without Ray's dashboard; it can miss the newest group (ray-project/ray#62753); and each takes a process
    of the head's memory (ray-project/ray#65443). Ray itself removes that group as soon as the driver is gone, which
    here follows its controller.
    """
    # takes seconds, and only the driver of a training needs it
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class WithoutCleaner(trainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

    return WithoutCleaner


def _pausing_callback() -> type[Any]:
    # takes seconds, and only processes that read through Ray Data need it
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Pause(ExecutionCallback):
        def on_execution_step(self, executor: object) -> None:
            time.sleep(PAUSE_SECONDS)

    return Pause
