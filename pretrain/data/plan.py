"""Which worker reads which profiles, in which order: a pure function, computed before anything is read.

An epoch's row groups are shuffled by (seed, epoch). What is left of them, laid end to end, is cut into one slice per
worker, and each slice into windows inside which single profiles are shuffled. Every profile of the split stands in
exactly one slice, slices give every worker its share of each optimizer step, and the last step of an epoch takes what
remains. A restart at the same world size walks the same plan and skips what was consumed; at another world size it
plans again over the rest. R row groups, N profiles of the split, W workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataprep.corpus import Shard


@dataclass(frozen=True)
class SplitLayout:
    """Where each row group of a split is. Arrays have length R; ``first`` counts from the split's first profile, and
    ``first_row_id`` is over the corpus, where other splits may lie between: those of an earlier version of it."""

    shards: tuple[Shard, ...]
    shard: np.ndarray
    group: np.ndarray
    first: np.ndarray
    rows: np.ndarray
    first_row_id: np.ndarray

    @property
    def profiles(self) -> int:
        """N."""
        return int(self.rows.sum())

    def row_ids_at(self, positions: np.ndarray) -> np.ndarray:
        """Row ids of profiles by their positions in the split, from 0 to N."""
        group = np.searchsorted(self.first, positions, side="right") - 1
        return self.first_row_id[group] + positions - self.first[group]

    def positions_of(self, row_ids: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`row_ids_at`."""
        group = np.searchsorted(self.first_row_id, row_ids, side="right") - 1
        return self.first[group] + row_ids - self.first_row_id[group]


@dataclass(frozen=True)
class Window:
    """Profiles that one worker reads together: the row groups that hold them, and the order they are used in.

    ``row_ids`` is int64, in order of use; ``reads`` lists (shard, row groups in it).
    """

    epoch: int
    row_ids: np.ndarray
    reads: tuple[tuple[Shard, tuple[int, ...]], ...]


@dataclass(frozen=True)
class StepShare:
    """How many profiles each worker adds to one optimizer step."""

    global_profiles: int
    workers: int

    def of(self, worker: int, profiles: int | None = None) -> int:
        """Share of ``worker`` in a step of ``profiles`` (a whole global batch by default)."""
        total = self.global_profiles if profiles is None else profiles
        return total // self.workers + (worker < total % self.workers)

    def slice_rows(self, worker: int, remaining: int) -> int:
        """Profiles of ``worker`` in what remains of an epoch: its share of each whole step and of the last one."""
        steps, tail = divmod(remaining, self.global_profiles)
        return steps * self.of(worker) + self.of(worker, tail)


def layout_of(shards: Sequence[Shard]) -> SplitLayout:
    """Lay out the shards of one split (at least one), in manifest order."""
    rows = [np.asarray(shard.row_group_rows, dtype=np.int64) for shard in shards]
    flat = np.concatenate(rows)
    starts = [shard.first_row_id + np.cumsum(groups) - groups for shard, groups in zip(shards, rows, strict=True)]
    return SplitLayout(
        shards=tuple(shards),
        shard=np.repeat(np.arange(len(shards)), [len(groups) for groups in rows]),
        group=np.concatenate([np.arange(len(groups)) for groups in rows]),
        first=np.cumsum(flat) - flat,
        rows=flat,
        first_row_id=np.concatenate(starts),
    )


def worker_windows(
    layout: SplitLayout,
    epoch: int,
    seed: int,
    worker: int,
    share: StepShare,
    window_profiles: int,
    consumed: np.ndarray | None = None,
    skip: int = 0,
) -> list[Window]:
    """The windows that ``worker`` reads of ``epoch``.

    ``consumed``: boolean N, profiles that the plan leaves out; ``skip``: profiles at the start of the worker's slice
    that were used already under this same plan. Windows that are wholly skipped are not in the list, row groups none
    of whose profiles are wanted are in no window.
    """
    order = _epoch_order(layout, epoch, seed)
    if consumed is not None:
        order = order[~consumed[order]]
    sizes = [share.slice_rows(other, len(order)) for other in range(share.workers)]
    start = sum(sizes[:worker])
    mine = order[start : start + sizes[worker]]
    windows = []
    for number, begin in enumerate(range(0, len(mine), window_profiles)):
        rows = mine[begin : begin + window_profiles]
        shuffled = _generator(seed, epoch, worker + 1, number).permutation(rows)[max(0, skip - begin) :]
        if len(shuffled):
            windows.append(_window(layout, epoch, shuffled))
    return windows


def steps_in(remaining: int, global_profiles: int) -> int:
    """Optimizer steps that ``remaining`` profiles of an epoch make; the last may be smaller."""
    return -(-remaining // global_profiles)


def _epoch_order(layout: SplitLayout, epoch: int, seed: int) -> np.ndarray:
    """Positions of all N profiles in the split, row groups in the epoch's order."""
    groups = _generator(seed, epoch, 0, 0).permutation(len(layout.rows))
    rows = layout.rows[groups]
    starts = np.repeat(layout.first[groups], rows)
    within = np.arange(len(starts)) - np.repeat(np.cumsum(rows) - rows, rows)
    return starts + within


def _window(layout: SplitLayout, epoch: int, positions: np.ndarray) -> Window:
    groups = np.unique(np.searchsorted(layout.first, positions, side="right") - 1)
    reads = []
    for shard in np.unique(layout.shard[groups]):
        members = layout.group[groups[layout.shard[groups] == shard]]
        reads.append((layout.shards[shard], tuple(int(group) for group in members)))
    return Window(epoch, layout.row_ids_at(positions), tuple(reads))


def _generator(seed: int, epoch: int, worker: int, window: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, worker, window])
