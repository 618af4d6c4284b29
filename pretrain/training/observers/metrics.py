"""Metrics of each step, on their way to metrics.jsonl, MLflow and the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dataprep.runtime.storage import Folder
from pretrain.data.plan import SplitLayout
from pretrain.monitoring.throughput import SlowWorkerWatch, StepClock
from pretrain.monitoring.tracking import RunRecord
from pretrain.training.observers.observer import DoneStep, Observer
from pretrain.training.ranks import Ranks


class RowIds(Observer):
    """Adds the row ids that all ranks used to the row: an audit of small runs."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def after_step(self, done: DoneStep) -> None:
        of_ranks = self._ranks.gather(done.batch.row_ids.tolist())
        done.row["row_ids"] = sorted(row_id for row_ids in of_ranks for row_id in row_ids)


class Rates(Observer):
    """Adds what the clock says about the step to the row."""

    def __init__(self, clock: StepClock, total_steps: int) -> None:
        self._clock = clock
        self._total_steps = total_steps

    def after_step(self, done: DoneStep) -> None:
        done.row.update(self._clock.rates(done.batch.global_profiles, self._total_steps - done.step))


class SlowWorkers(Observer):
    """Adds the slowest rank to the row, and names one that stays slow."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._watch = SlowWorkerWatch(log)

    def after_step(self, done: DoneStep) -> None:
        done.row.update(self._watch.look(done.agreed.own_seconds))


class SkippedProfiles(Observer):
    """Says which profiles a step was trained without, because their shard is damaged."""

    def __init__(self, layout: SplitLayout, say: Callable[[str], None]) -> None:
        """``say`` speaks for any rank: each reads shards of its own."""
        self._layout = layout
        self._say = say

    def after_step(self, done: DoneStep) -> None:
        skipped = done.batch.skipped
        if len(skipped):
            examples = ", ".join(map(str, skipped[:5]))
            self._say(
                f"DAMAGED SHARD: step {done.step} skips {len(skipped)} profiles of {self._shards_of(skipped)} "
                f"(row_id {examples})"
            )

    def _shards_of(self, row_ids: np.ndarray) -> str:
        layout = self._layout
        groups = np.searchsorted(layout.first_row_id, row_ids, side="right") - 1
        return ", ".join(sorted({layout.shards[shard].path for shard in layout.shard[groups]}))


class Metrics(Observer):
    """Writes the rows that are due; ``record`` is rank 0's, None on the others."""

    def __init__(self, record: RunRecord | None, coordinator: Any, every_steps: int) -> None:
        self._record = record
        self._coordinator = coordinator
        self._every_steps = every_steps

    def check(self) -> None:
        if self._record is not None:
            self._record.check()

    def after_step(self, done: DoneStep) -> None:
        if done.is_due(self._every_steps):
            self.write(done.row)

    def write(self, row: dict[str, Any]) -> None:
        """Write a row, of a step or of a validation."""
        if self._record is not None:
            self._record.add(row | {"time": time.time()})
            self._coordinator.post.remote("row", row)

    def last(self, key: str) -> Any:
        """The newest value of a metric; None where there is none, and on other ranks than 0."""
        return self._record.last(key) if self._record is not None else None

    def finish(self, export: Folder | None) -> None:
        """Store and send what is left, with the model export of a run that has ended well."""
        if self._record is not None:
            self._record.close(export)
