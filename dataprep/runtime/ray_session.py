"""A connection to Ray: to the cluster one was submitted to, or to one inside this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import ray
from ray.exceptions import RayError, RayTaskError

from dataprep.runtime.allocator import malloc_settings
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.plugins import load_plugins

T = TypeVar("T")

# How long a cluster may take to accept a connection.
_ANSWER_SECONDS = 10.0
# A Unix socket's path may have 107 bytes on Linux and 103 on macOS, of which Ray's names take up to 68.
_LONGEST_TEMPORARY_FOLDER = 35


class LostTaskError(UserError):
    """A task has ended without a result, by no fault that it could name: its process died, or its node was lost."""


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


def require_plugins_on_workers(names: str) -> None:
    """Raise :class:`UserError` where Ray's workers cannot import the plugins in ``names``, separated by commas.

    Ray Data would try again without end what fails for want of a module.
    """
    if not names:
        return
    try:
        ray.get(_plugins_loaded.remote(names))
    except RayError as error:
        mistake = user_error_in(error)
        if mistake is None:
            raise
        raise UserError(f"{mistake} of Ray's workers, too: install it there, or start Ray where it is found") from None


@ray.remote(num_cpus=0)
def _plugins_loaded(names: str) -> str:
    return load_plugins(names)


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
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _require_answer(address)
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        # RayError: a token that is missing or another one
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise UserError(f"RAY_ADDRESS={address}: {one_line(error)}") from None
    else:
        os.environ.update(malloc_settings(os.environ))
        # Ray Data would start a process that gathers what it is used for
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        _require_short_temporary_folder()
        cpus = max(min_cpus, os.cpu_count() or 1)
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def _require_answer(address: str) -> None:
    """Raise :class:`UserError` unless something at ``address`` speaks gRPC, as Ray's head does.

    Ray itself would try for more than ten minutes, and would not even end on SIGTERM meanwhile. An address without a
    port ("auto", "local") is for Ray to look up, which it does at once.
    """
    target = address.removeprefix("ray://")
    if ":" not in target:
        return
    channel = grpc.insecure_channel(target)
    try:
        grpc.channel_ready_future(channel).result(timeout=_ANSWER_SECONDS)
    except grpc.FutureTimeoutError:
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS={address} within {_ANSWER_SECONDS:g} s: "
            "is it still running? Unset RAY_ADDRESS to use this machine alone"
        ) from None
    finally:
        channel.close()


def _require_short_temporary_folder() -> None:
    """Have Ray use /tmp where TMPDIR is too long for the Unix sockets that Ray makes in it, as batch systems have it.

    Ray makes a folder of its own there for every session, which only its owner can write to.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR", "")
    if len(os.fsencode(folder)) > _LONGEST_TEMPORARY_FOLDER:
        os.environ["RAY_TMPDIR"] = "/tmp"  # noqa: S108


def results_of(function: Callable[..., T], calls: Iterable[tuple[Any, ...]], of_what: str) -> Iterator[T]:
    """``function(*call)`` for each call, as tasks of one CPU each, in the order in which they end.

    What `ray.put` returned among the arguments reaches the function as the value itself. At most two results for a CPU
    wait. Raises the UserError of a task, and :class:`LostTaskError` where one dies ("a task of ``of_what`` died").
    """
    task: Any = ray.remote(num_cpus=1)(function)
    at_once = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: list[ray.ObjectRef] = []
    left, more = iter(calls), True
    try:
        while waiting or more:
            while more and len(waiting) < at_once:
                call = next(left, None)
                if call is None:
                    more = False
                else:
                    waiting.append(task.remote(*call))
            if waiting:
                done, waiting = ray.wait(waiting)
                yield ray.get(done[0])
    except ray.exceptions.RayError as error:
        last_line = str(error).strip().splitlines()[-1]
        raise user_error_in(error) or LostTaskError(f"a task of {of_what} died: {last_line}") from None
