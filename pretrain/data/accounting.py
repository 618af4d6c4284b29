"""Which profiles of the running epoch have been trained on: the proof that each is used exactly once.

N profiles of the train split, numbered from the split's first row id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.data.plan import SplitLayout, StepShare, worker_windows
from pretrain.data.stream import EpochPart, StepBatch

SumOverWorkers = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PlanKey:
    """What the order inside an epoch depends on, beside seed and epoch: equal keys walk the same plan."""

    workers: int
    global_profiles: int
    window_profiles: int


@dataclass(frozen=True)
class Position:
    """Where a run stands, between two optimizer steps.

    ``consumed`` boolean N: profiles of ``epoch`` used so far. ``plan_base`` boolean N: those used when the plan being
    walked was made (none, but after a resize); ``plan_steps``: steps taken under that plan.
    """

    step: int
    epoch: int
    step_in_epoch: int
    consumed: np.ndarray
    plan_base: np.ndarray
    plan_steps: int
    plan_key: PlanKey

    @classmethod
    def start(cls, profiles: int, key: PlanKey) -> Position:
        """Before the first step of a run over ``profiles`` = N."""
        nothing = np.zeros(profiles, bool)
        return cls(0, 0, 0, nothing, nothing, 0, key)

    def under(self, key: PlanKey) -> Position:
        """The same position for a run that resumes under ``key``: another plan covers just what is left."""
        if key == self.plan_key:
            return self
        return replace(self, plan_base=self.consumed, plan_steps=0, plan_key=key)

    def after_step(self) -> Position:
        """One optimizer step further inside the epoch; ``consumed`` is brought up to date by :meth:`with_consumed`."""
        return replace(self, step=self.step + 1, step_in_epoch=self.step_in_epoch + 1, plan_steps=self.plan_steps + 1)

    def with_consumed(self, consumed: np.ndarray) -> Position:
        """With what the workers really used, inside an epoch. Raises RuntimeError if it is not what was planned."""
        position = replace(self, consumed=consumed)
        position._check()
        return position

    def next_epoch(self, consumed: np.ndarray) -> Position:
        """At the start of the next epoch. Raises RuntimeError unless every profile was used."""
        if not consumed.all():
            raise RuntimeError(f"epoch {self.epoch} ended with {int((~consumed).sum())} profiles unused")
        nothing = np.zeros_like(consumed)
        return replace(self, epoch=self.epoch + 1, step_in_epoch=0, consumed=nothing, plan_base=nothing, plan_steps=0)

    def _check(self) -> None:
        used = int(self.consumed.sum()) - int(self.plan_base.sum())
        planned = self.plan_steps * self.plan_key.global_profiles
        if used != planned:
            raise RuntimeError(f"{used} profiles were used in {self.plan_steps} steps that planned for {planned}")

    def parts(self, layout: SplitLayout, seed: int, worker: int, epochs: int) -> Iterator[EpochPart]:
        """What ``worker`` has left to do: the rest of the running epoch, then whole epochs up to ``epochs``."""
        key = self.plan_key
        share = StepShare(key.global_profiles, key.workers)
        skip = self.plan_steps * share.of(worker)
        left = len(self.consumed) - int(self.consumed.sum())
        windows = worker_windows(
            layout, self.epoch, seed, worker, share, key.window_profiles, consumed=self.plan_base, skip=skip
        )
        yield EpochPart(self.epoch, self.step_in_epoch, left, tuple(windows))
        for epoch in range(self.epoch + 1, epochs):
            windows = worker_windows(layout, epoch, seed, worker, share, key.window_profiles)
            yield EpochPart(epoch, 0, len(self.consumed), tuple(windows))

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain data and tensors (one bit per profile) for a checkpoint."""
        state = {
            "step": self.step,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "plan_steps": self.plan_steps,
            "plan_key": vars(self.plan_key),
            "profiles": len(self.consumed),
        }
        bits = {"consumed": self.consumed, "plan_base": self.plan_base}
        return state, {name: torch.from_numpy(np.packbits(flags)) for name, flags in bits.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], bits: Mapping[str, Tensor]) -> Position:
        """The inverse of :meth:`to_state`. Raises RuntimeError where the parts contradict each other."""
        profiles = int(state["profiles"])

        def flags(name: str) -> np.ndarray:
            return np.unpackbits(bits[name].numpy(), count=profiles).astype(bool)

        position = cls(
            step=int(state["step"]),
            epoch=int(state["epoch"]),
            step_in_epoch=int(state["step_in_epoch"]),
            consumed=flags("consumed"),
            plan_base=flags("plan_base"),
            plan_steps=int(state["plan_steps"]),
            plan_key=PlanKey(**state["plan_key"]),
        )
        position._check()
        return position


class Ledger:
    """One worker's record of the profiles it has used in the running epoch, and the union over all workers."""

    def __init__(self, position: Position, layout: SplitLayout) -> None:
        self._before = position.consumed
        self._layout = layout
        self._mine = np.zeros(len(position.consumed), np.uint8)

    def record(self, row_ids: np.ndarray) -> None:
        """Profiles of one step; a profile recorded twice counts twice."""
        np.add.at(self._mine, self._layout.positions_of(row_ids), 1)

    def union(self, sum_over_workers: SumOverWorkers) -> np.ndarray:
        """Boolean N: used in this epoch by any worker. ``sum_over_workers`` maps a uint8 tensor to its sum.

        Raises RuntimeError if any profile was used more than once: that must never be, so the run ends.
        """
        total = sum_over_workers(torch.from_numpy(self._mine.copy())).numpy() + self._before
        repeated = np.flatnonzero(total > 1)
        if len(repeated):
            examples = ", ".join(map(str, self._layout.row_ids_at(repeated[:5])))
            raise RuntimeError(f"{len(repeated)} profiles were used more than once in an epoch, e.g. row_id {examples}")
        return total.astype(bool)


class Progress:
    """Where a run stands while it is under way: its position, and one worker's ledger of the running epoch."""

    def __init__(self, position: Position, layout: SplitLayout, sum_over_workers: SumOverWorkers) -> None:
        self._position = position
        self._layout = layout
        self._sum = sum_over_workers
        self._ledger = Ledger(position, layout)

    @property
    def position(self) -> Position:
        """The position after the last step; its ``consumed`` is what :meth:`confirmed` found last."""
        return self._position

    def advance(self, batch: StepBatch) -> None:
        """Account for a step. Sums over workers at an epoch's end, so all of them call it.

        Raises RuntimeError where an epoch ends and not every profile was used exactly once.
        """
        self._ledger.record(np.concatenate([batch.row_ids, batch.skipped]))
        self._position = self._position.after_step()
        if batch.last_of_epoch:
            self._position = self._position.next_epoch(self._ledger.union(self._sum))
            self._ledger = Ledger(self._position, self._layout)

    def confirmed(self) -> Position:
        """The position with what the workers really used. Sums over workers, so all of them call it.

        Raises RuntimeError where that is not what was planned.
        """
        self._position = self._position.with_consumed(self._ledger.union(self._sum))
        return self._position
