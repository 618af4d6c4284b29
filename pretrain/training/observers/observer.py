"""The hooks of an observer, and what it is shown of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pretrain.data.stream import StepBatch
from pretrain.training.agreement import Agreed, Requests


@dataclass(frozen=True)
class DoneStep:
    """An optimizer step that has been taken.

    ``step``: optimizer steps done so far, this one included; ``row``: its metrics, to which observers may add for those
    after them; ``is_last``: of the whole run.
    """

    step: int
    batch: StepBatch
    row: dict[str, Any]
    agreed: Agreed
    is_last: bool

    @property
    def stops(self) -> bool:
        """Whether the run was asked to stop after this step."""
        return self.agreed.requests.stop

    def is_due(self, every_steps: int) -> bool:
        """Whether something is due that happens every N steps (0: at each epoch's end) and after the last step."""
        return self.is_last or (self.step % every_steps == 0 if every_steps else self.batch.last_of_epoch)


class Observer:
    """Does nothing; observers replace the hooks that they need. Hooks run on all ranks, in the order of the list."""

    def before_step(self) -> None:
        """Called before the work of a step begins."""

    def requests(self) -> Requests:
        """Return what all ranks shall do at the end of the coming step; only rank 0's count."""
        return Requests()

    def check(self) -> None:
        """Raise UserError if a background thread of this observer has died: it ends the run on all ranks."""

    def after_step(self, done: DoneStep) -> None:
        """Called when the step has been applied and accounted for."""

    def close(self) -> None:
        """Called once after the last step, also when the run was asked to stop."""
