"""Every name of Ray that is not part of its documented interface, and why it is used.

Ray is pinned to one version in pyproject.toml. ``tests/integration/pretrain/test_ray_internals.py`` fails when a name
has gone, and when Ray no longer does what made it necessary.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

# At the end of each round of Ray Data's scheduling loop.
PAUSE_SECONDS = 0.02


def session_folder() -> Path:
    """The folder of Ray's session on this node (``_global_node``), where objects are spilled and jobs unpacked.

    Ray tells it to nobody else, and it need not be that of the head.
    """
    # takes a second, and only a process that is connected to Ray has one
    from ray._private import worker

    node: Any = worker._global_node
    return Path(node.get_session_dir_path())


def run_node(head: str, name: str, cpus: int, object_store_bytes: int, agent_port: int) -> None:
    """Be a node beside the head at ``head`` (host:port) on 127.0.0.1 until its processes end (``Node``, ``RayParams``).

    ``ray start`` refuses to start such a node where RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is 0, and without that listens on
    every interface.
    """
    # takes seconds, and only this process is a node
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    options: dict[str, Any] = {
        "gcs_address": head,
        "node_ip_address": "127.0.0.1",
        "node_name": name,
        "num_cpus": cpus,
        "object_store_memory": object_store_bytes,
        "dashboard_agent_listen_port": agent_port,
        # any free ports
        "node_manager_port": 0,
        "min_worker_port": 0,
        "max_worker_port": 0,
        # the head's reads the logs of all, which are in one folder
        "include_log_monitor": False,
    }
    parameters = RayParams(**options)
    node = Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=True, connect_only=False)
    while not node.dead_processes():
        time.sleep(1.0)
    node.kill_all_processes(check_alive=False, allow_graceful=False)


def pause_scheduling_loop(context: Any) -> None:
    """Have Ray Data's scheduling loop pause in each round (``ExecutionCallback``).

    The loop runs in a thread of the process that trains. While its output waits to be used, which is nearly always
    where training is slower than reading, it goes round without a pause and competes for Python's lock with the thread
    that launches the model's operators, on a machine of any size.
    """
    context.custom_execution_callback_classes = [_pausing_callback()]


def with_needed_callbacks(trainer: type[Any]) -> type[Any]:
    """Return a trainer class that does without two actors of Ray Train (``_create_default_callbacks``).

    The detached ``PlacementGroupCleaner`` removes the placement group of a controller that died
    (``PlacementGroupCleanerCallback``). It can stay for ever where the driver is killed before the actor has heard what
    to watch, or without Ray's dashboard; it can miss the newest group (ray-project/ray#62753); and each takes a process
    of the head's memory (ray-project/ray#65443). Ray itself removes that group as soon as the driver is gone, which
    here follows its controller.

    The ``DatasetManager`` hands out shards of the datasets that a trainer was given, and is a process also where it was
    given none (``DatasetsCallback``): here, workers read by themselves.
    """
    # takes seconds, and only the driver of a training needs it
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class WithNeededCallbacks(trainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            assert not self.datasets
            needless = (PlacementGroupCleanerCallback, DatasetsCallback)
            return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, needless)]

    return WithNeededCallbacks


def _pausing_callback() -> type[Any]:
    # takes seconds, and only processes that read through Ray Data need it
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Pause(ExecutionCallback):
        def on_execution_step(self, executor: object) -> None:
            time.sleep(PAUSE_SECONDS)

    return Pause


def object_store_bytes() -> tuple[int, int]:
    """How many bytes were put into the object stores of all nodes so far, and how many of them were spilled to disk
    (``get_memory_info_reply``, ``global_state``).

    Ray tells what is in them now and what was spilled, in a text for the eye; not what has passed through.
    """
    # takes seconds, and only measurements need it
    from ray._private.internal_api import get_memory_info_reply
    from ray._private.state import state

    stats = get_memory_info_reply(state).store_stats
    return int(stats.cumulative_created_bytes), int(stats.spilled_bytes_total)
