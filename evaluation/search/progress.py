"""Lines on how far the trials of a search are."""

from __future__ import annotations

import time

import numpy as np

from dataprep.runtime.terminal import log

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A line every ten seconds: trials done of all, the best so far, time left."""

    def __init__(self, doing: str, trials: int, missing: int) -> None:
        self._doing = doing
        self._trials = trials
        self._begun_with = self._done = trials - missing
        self._best = float("nan")
        self._started = self._said = time.monotonic()
        if self._begun_with and missing:
            log(f"{doing}: {self._begun_with} of {trials} were done before")

    def done(self, score: float) -> None:
        """One more, with its mean inner score."""
        self._done += 1
        self._best = float(np.fmax(self._best, score))
        now = time.monotonic()
        if self._done < self._trials and now - self._said < _SECONDS_BETWEEN_LINES:
            return
        self._said = now
        left = (now - self._started) / (self._done - self._begun_with) * (self._trials - self._done)
        log(f"{self._doing}: {self._done} of {self._trials}, best {self._best:.3f}, {left:.0f} s left")
