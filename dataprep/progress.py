"""Progress of reading, counted by the tasks and shown by the driver: one line per source, and per while."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

_POLL_SECONDS = 0.5
_SECONDS_BETWEEN_TOTALS = 15.0


class _Board:
    """Samples read and refused so far, by source. Counts are for the eye: a task that is repeated counts twice."""

    def __init__(self, expected: Mapping[str, int]) -> None:
        self._expected = expected
        self._read: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def add(self, source: str, read: int, refused: int) -> None:
        """Count some samples of a source."""
        self._read[source] += read
        self._refused[source] += refused

    def state(self) -> dict[str, tuple[int, int, int]]:
        """(expected, read, refused) by source."""
        return {name: (count, self._read[name], self._refused[name]) for name, count in self._expected.items()}


def progress_board(expected: Mapping[str, int]) -> Any:
    """An actor that counts: ``board.add.remote(source, read, refused)``. ``expected`` samples by source."""
    return ray.remote(num_cpus=0)(_Board).remote(expected)


@contextmanager
def watched(board: Any) -> Iterator[None]:
    """Write a line to standard error when a source is read, and now and then the total, while the block runs."""
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(board, done), daemon=True)
    watcher.start()
    try:
        yield
        _flush(board)
    finally:
        done.set()
        watcher.join()


def _flush(board: Any) -> None:
    # actor calls of finished tasks may still be on their way
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        if all(read >= expected for expected, read, _ in ray.get(board.state.remote()).values()):
            return
        time.sleep(0.05)


def _watch(board: Any, done: threading.Event) -> None:
    shown: set[str] = set()
    started = last_total = time.monotonic()
    while True:
        ended = done.wait(_POLL_SECONDS)
        state = ray.get(board.state.remote())
        for name, (expected, read, refused) in state.items():
            if read >= expected and name not in shown:
                shown.add(name)
                _say(f"{name}: {read:,} samples read, {read - refused:,} pass, {refused:,} refused")
        if ended:
            return
        now = time.monotonic()
        if now - last_total >= _SECONDS_BETWEEN_TOTALS:
            last_total = now
            read = sum(count for _, count, _ in state.values())
            expected = sum(count for count, _, _ in state.values())
            _say(f"{read:,} of {expected:,} samples read, {read / (now - started):,.0f} per second")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
