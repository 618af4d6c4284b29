"""What a benchmark and all that it starts hold in memory."""

from __future__ import annotations

import contextlib
import threading

import psutil

_SECONDS_BETWEEN_LOOKS = 0.25


class PeakMemory(contextlib.AbstractContextManager["PeakMemory"]):
    """The largest sum of the proportional memory (PSS) of this process and all that it started, looked at four times a
    second: memory that processes share, such as Ray's object store, counts once."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def peak_gib(self) -> float:
        return self.peak_bytes / 2**30

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            held = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    held += process.memory_full_info().pss
            self.peak_bytes = max(self.peak_bytes, held)
