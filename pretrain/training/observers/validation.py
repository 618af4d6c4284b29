"""Validation between steps, and which step scored best."""

from __future__ import annotations

from typing import Any

from pretrain.training.observers.metrics import Metrics
from pretrain.training.observers.observer import DoneStep, Observer
from pretrain.training.ranks import Ranks
from pretrain.training.validation import Validation


class ValidationScores(Observer):
    """Scores the model on the validation split. Owns ``best``: the step with the lowest loss so far, and that loss.

    Of a corpus with a second split, in distribution, the loss is the mean of both, as published for the second family.
    """

    def __init__(
        self,
        validation: Validation | None,
        in_distribution: Validation | None,
        engine: Any,
        ranks: Ranks,
        every_steps: int,
        metrics: Metrics,
        best: tuple[int, float] | None,
    ) -> None:
        """``validation`` is None for a corpus without a validation split; ``best`` is what a checkpoint says."""
        self._validation = validation
        self._in_distribution = in_distribution
        self._engine = engine
        self._ranks = ranks
        self._every_steps = every_steps
        self._metrics = metrics
        self.best = best

    @property
    def best_step(self) -> int | None:
        return self.best[0] if self.best is not None else None

    def after_step(self, done: DoneStep) -> None:
        if self._validation is None or done.stops or not done.is_due(self._every_steps):
            return
        score = self._validation.score(self._engine, self._ranks.device, self._ranks.sum)
        row = {
            "step": done.step,
            "epoch": done.batch.epoch,
            "validation_loss": score.loss,
            "validation_pearson": score.pearson,
        }
        loss = score.loss
        if self._in_distribution is not None:
            inside = self._in_distribution.score(self._engine, self._ranks.device, self._ranks.sum)
            row |= {"in_distribution_loss": inside.loss, "in_distribution_pearson": inside.pearson}
            loss = (score.loss + inside.loss) / 2
        if self.best is None or loss < self.best[1]:
            self.best = (done.step, loss)
        self._metrics.write(row)
