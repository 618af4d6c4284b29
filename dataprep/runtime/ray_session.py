"""A connection to Ray: to the cluster one was submitted to, or to one inside this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayTaskError

from dataprep.runtime.command_line import UserError

# For glibc in processes that are yet to start: one arena for all threads. Only that arena can keep freed memory for the
# next allocation (pretrain.kernels.device.retain_freed_memory), and setting this inside a process comes too late for
# threads that have arenas of their own by then, as those in which Ray trains.
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}


def one_arena_where_lacking() -> dict[str, str]:
    """What a worker's environment lacks of it: nothing on clusters that were started with it, whose processes serve

    as they are, where another environment would want processes of its own.
    """
    return {} if ONE_ARENA.items() <= os.environ.items() else dict(ONE_ARENA)


@contextmanager
def connected(min_cpus: int = 1) -> Iterator[None]:
    """Use the Ray that is connected, else the cluster of ``RAY_ADDRESS``, else start one here for the time being.

    ``min_cpus`` is the number of CPU slots a local one has at the least, whatever the machine has. Raises
    :class:`UserError` where the cluster does not answer.
    """
    started = not ray.is_initialized()
    if started:
        _start(min_cpus)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def user_error_in(error: BaseException) -> UserError | None:
    """The :class:`UserError` that a task raised, out of the wrappings Ray puts around it."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        candidate = waiting.pop()
        if candidate is None or id(candidate) in seen:
            continue
        seen.add(id(candidate))
        if isinstance(candidate, UserError) and not isinstance(candidate, RayTaskError):
            return candidate
        waiting += [candidate.__cause__, candidate.__context__]
        if isinstance(candidate, RayTaskError):
            waiting.append(candidate.cause)
    return None


def _start(min_cpus: int) -> None:
    if os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise UserError(f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: {' '.join(str(error).split())}") from None
    else:
        os.environ.update(ONE_ARENA)
        cpus = max(min_cpus, os.cpu_count() or 1)
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
