"""What tasks report to the driver while they run: their progress, and the first mistake of the user that one meets.

A mistake goes this way rather than as an exception: Ray Data would add its own words to the message, print every
traceback on the terminal and leave the other tasks running to their end.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log

_POLL_SECONDS = 0.5
_SECONDS_BETWEEN_TOTALS = 15.0


class _Coordinator:
    """Samples read and refused so far, by source. Counts are for the eye: a task that is repeated counts twice."""

    def __init__(self, expected: Mapping[str, int]) -> None:
        self._expected = expected
        self._read: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._mistake: UserError | None = None

    def add(self, source: str, read: int, refused: int) -> None:
        self._read[source] += read
        self._refused[source] += refused

    def fail(self, mistake: UserError) -> None:
        self._mistake = self._mistake or mistake

    def mistake(self) -> UserError | None:
        return self._mistake

    def state(self) -> dict[str, tuple[int, int, int]]:
        """(expected, read, refused) by source."""
        return {name: (count, self._read[name], self._refused[name]) for name, count in self._expected.items()}


def start_coordinator(expected: Mapping[str, int]) -> Any:
    """Start the actor and return its handle; ``expected`` is the number of samples by source."""
    return ray.remote(num_cpus=0)(_Coordinator).remote(expected)


@contextmanager
def reporting(coordinator: Any) -> Iterator[None]:
    """In a task: a :class:`UserError` ends the block and goes to the coordinator."""
    try:
        yield
    except UserError as mistake:
        ray.get(coordinator.fail.remote(mistake))


def has_failed(coordinator: Any) -> bool:
    """In a task: whether another one has failed already."""
    return ray.get(coordinator.mistake.remote()) is not None


def raise_mistake(coordinator: Any) -> None:
    """In the driver, after the tasks: raise what one of them reported."""
    mistake = ray.get(coordinator.mistake.remote())
    if mistake is not None:
        raise mistake


@contextmanager
def progress_shown(coordinator: Any) -> Iterator[None]:
    """Write a line to standard error when a source is read, and now and then the total, while the block runs."""
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(coordinator, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(coordinator: Any, done: threading.Event) -> None:
    shown: set[str] = set()
    started = last_total = time.monotonic()
    while True:
        ended = done.wait(_POLL_SECONDS)
        state = ray.get(coordinator.state.remote())
        for name, (expected, read, refused) in state.items():
            if read >= expected and name not in shown:
                shown.add(name)
                log(f"{name}: {read:,} samples read, {read - refused:,} pass, {refused:,} refused")
        if ended:
            return
        now = time.monotonic()
        if now - last_total >= _SECONDS_BETWEEN_TOTALS:
            last_total = now
            read = sum(count for _, count, _ in state.values())
            expected = sum(count for count, _, _ in state.values())
            log(f"{read:,} of {expected:,} samples read, {read / (now - started):,.0f} per second")
