"""Checkpoints: gathered on all ranks, written by rank 0 while training continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from dataprep.runtime.command_line import UserError
from pretrain.artifacts.checkpoint import Checkpoint, CheckpointWriter
from pretrain.data.accounting import Progress
from pretrain.training.agreement import Requests
from pretrain.training.observers.observer import DoneStep, Observer
from pretrain.training.observers.validation import ValidationScores
from pretrain.training.zero import gather_moments, gather_weights


class Checkpoints(Observer):
    """Writes a checkpoint every N steps, of each new best, before the run stops, and over and over while a node drains.

    That the best step has a checkpoint is what makes ``best`` of use: validation and checkpoints have their own times.
    """

    def __init__(
        self,
        writer: CheckpointWriter | None,
        engine: Any,
        progress: Progress,
        scores: ValidationScores,
        every_steps: int,
        node_is_draining: Callable[[], bool],
        constant_state: Mapping[str, Any],
    ) -> None:
        """``writer`` is rank 0's, None on the others; ``constant_state`` is the same in every checkpoint of the run."""
        self._writer = writer
        self._engine = engine
        self._progress = progress
        self._scores = scores
        self._every_steps = every_steps
        self._node_is_draining = node_is_draining
        self._constant_state = dict(constant_state)

    def requests(self) -> Requests:
        """While a node drains, checkpoint whenever the writer is idle."""
        return Requests(checkpoint=self._writer is not None and self._node_is_draining() and self._writer.is_idle)

    def check(self) -> None:
        if self._writer is not None:
            self._writer.check()

    def after_step(self, done: DoneStep) -> None:
        is_best = self._scores.best_step == done.step
        if done.stops or done.agreed.requests.checkpoint or is_best or done.is_due(self._every_steps):
            self._write()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        confirmed = self._progress.confirmed()
        weights, moments = gather_weights(self._engine), gather_moments(self._engine)
        if self._writer is None:
            return
        position, accounting = confirmed.to_state()
        own_state = {"step": confirmed.step, "position": position, "best": self._scores.best}
        checkpoint = Checkpoint(weights, moments, accounting, own_state | self._constant_state)
        # a writer that has died is heard of on all ranks: by the next step, or when it is closed
        with suppress(UserError):
            self._writer.submit(checkpoint, self._scores.best_step)
