"""Threads that work in the background and cannot die unheard."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dataprep.runtime.command_line import UserError, one_line

# before the names of the threads: what a profiler or a debugger lists says whose they are
THREAD_PREFIX = "bulkformer-"


class BackgroundThread:
    """A daemon thread that keeps the exception it died of for its owner.

    An owner that depends on the thread calls :meth:`check` now and then, and :meth:`join` at the end.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._name = name
        self._failure: UserError | None = None
        self._thread = threading.Thread(target=self._run, name=THREAD_PREFIX + name, daemon=True)
        self._thread.start()

    @property
    def failure(self) -> UserError | None:
        """What the thread died of, in one line; None while it lives and if it ended well."""
        return self._failure

    def check(self) -> None:
        """Raise UserError if the thread has died."""
        if self._failure is not None:
            raise self._failure

    def join(self) -> None:
        """Wait until the thread has ended. Raises UserError if it died."""
        self._thread.join()
        self.check()

    def _run(self) -> None:
        try:
            self._work()
        except UserError as error:
            self._failure = error
        except BaseException as error:  # noqa: BLE001 - kept for the owner
            self._failure = UserError(f"thread {self._name} failed: {type(error).__name__}: {one_line(error)}")
            self._failure.__cause__ = error
