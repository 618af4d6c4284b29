"""What the workers tell one another once per optimizer step, in one small sum. W workers.

A worker must not act on something that the others do not know: they would wait for it in the next collective for ever.
So whatever comes from outside (a signal, a node that will be taken away) is heard by rank 0 and passed on here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Wishes:
    """What rank 0 wants all to do at the end of this step: stop for good, checkpoint, ask Ray about lost nodes."""

    stop: bool = False
    checkpoint: bool = False
    ask_ray: bool = False


@dataclass(frozen=True)
class Agreed:
    """The same on all ranks. ``own_seconds`` W: what each took by itself, without waiting for others."""

    loss_sum: float
    profiles: int
    finite: bool
    wishes: Wishes
    own_seconds: np.ndarray


def agree(
    losses: Tensor,
    finite: bool,
    wishes: Wishes,
    own_seconds: float,
    rank: int,
    workers: int,
    sum_over_workers: Callable[[Tensor], Tensor],
) -> Agreed:
    """Sum over workers of each rank's part. ``losses``: of the rank's profiles; ``wishes`` count on rank 0 alone."""
    flags = (wishes.stop, wishes.checkpoint, wishes.ask_ray) if rank == 0 else (False, False, False)
    finite = finite and bool(torch.isfinite(losses).all())
    values = torch.zeros(6 + workers, dtype=torch.float64)
    values[0] = torch.nan_to_num(losses).double().sum()
    values[1:6] = torch.tensor([len(losses), not finite, *flags], dtype=torch.float64)
    values[6 + rank] = own_seconds
    loss_sum, profiles, bad, *rest = sum_over_workers(values).tolist()
    return Agreed(loss_sum, int(profiles), bad == 0, Wishes(*map(bool, rest[:3])), np.array(rest[3:]))


class Notices:
    """Rank 0's ear: learns from the board, in a thread of its own, that the run was asked to stop."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._stop = threading.Event()
        self._asked_at = time.monotonic()
        threading.Thread(target=self._listen, name="notices", daemon=True).start()

    @property
    def stop(self) -> bool:
        return self._stop.is_set()

    def ask_due(self) -> bool:
        """Whether it is time to ask Ray about nodes again; True once in :data:`POLL_SECONDS`."""
        now = time.monotonic()
        due = now - self._asked_at >= POLL_SECONDS
        if due:
            self._asked_at = now
        return due

    def _listen(self) -> None:
        while True:
            time.sleep(POLL_SECONDS)
            try:
                if ray.get(self._board.stop_requested.remote(), timeout=10):
                    self._stop.set()
                    return
            except ray.exceptions.RayError:
                continue  # the driver and its board are gone, or busy: Ray itself ends this worker in time
