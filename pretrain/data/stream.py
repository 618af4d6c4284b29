"""Profiles from a corpus to a worker's micro-batches, through a Ray Data pipeline of the worker's own.

Ray Data's splitting over workers can drop rows (equal=True) or give all to one worker (equal=False), and it cannot
resume inside an epoch; so each worker builds a pipeline over the windows that `pretrain.data.plan` assigns to it.
B profiles of a micro-batch, G genes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from torch import Tensor

from dataprep.corpus import Corpus, decode_expression
from dataprep.runtime.ray_internals import pause_scheduling_loop
from pretrain.data.plan import StepShare, Window
from pretrain.data.window_reader import READ_TASK_CPUS, read_numbered

# Pipelines take seconds to start, so short epochs share one: it covers as many epochs as make this many profiles.
PROFILES_PER_PIPELINE = 100_000


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one worker.

    ``row_ids`` int64 B and ``expression`` float32 B x G (NaN where not measured) hold ``real`` profiles first, then
    rows of weight zero: filling keeps shapes the same, and keeps every rank in step with the others. ``skipped``:
    row ids of profiles that are skipped because their shard is damaged.
    """

    row_ids: Tensor
    expression: Tensor
    real: int
    skipped: np.ndarray


@dataclass(frozen=True)
class EpochPart:
    """What one worker has to do of one epoch: its windows and the steps they make.

    ``profiles`` is how many the epoch has left over all workers at ``first_step``, the first of these steps, counted
    within the epoch.
    """

    epoch: int
    first_step: int
    profiles: int
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class StepBatch:
    """A worker's part of one optimizer step; ``global_profiles`` is the step's size over all workers."""

    epoch: int
    step_in_epoch: int
    global_profiles: int
    micro_batches: tuple[MicroBatch, ...]
    last_of_epoch: bool

    @property
    def row_ids(self) -> np.ndarray:
        """Row ids of the worker's real profiles in this step."""
        return np.concatenate([batch.row_ids[: batch.real].numpy() for batch in self.micro_batches])

    @property
    def skipped(self) -> np.ndarray:
        """Row ids of the profiles that this step skips because they cannot be read."""
        return np.concatenate([batch.skipped for batch in self.micro_batches])


class ProfileStream:
    """Iterates over a worker's optimizer steps."""

    def __init__(
        self,
        corpus: Corpus,
        worker: int,
        share: StepShare,
        micro_profiles: int,
        prefetch_windows: int,
        patience_seconds: float,
        skip_damaged: bool = False,
        pin_memory: bool = False,
    ) -> None:
        """Prepare to read.

        ``skip_damaged``: train without the profiles of damaged row groups instead of raising UserError;
        ``pin_memory``: make batches in memory from which a GPU copies by itself, for :func:`to_device`.
        """
        self._pin_memory = pin_memory
        self._folder = corpus.folder.patient(patience_seconds)
        self._leave_out_damaged = skip_damaged
        self._genes = corpus.genes
        self._worker = worker
        self._share = share
        self._micro_profiles = micro_profiles
        self._prefetch_windows = prefetch_windows

    def steps(self, parts: Iterator[EpochPart]) -> Iterator[StepBatch]:
        """Steps of all epochs in turn; an epoch's last step takes what remains of it."""
        for batch_of_parts in _in_pipelines(parts):
            windows = [window for part in batch_of_parts for window in part.windows]
            rows = _Rows(windows, self._read(windows), self._genes)
            for part in batch_of_parts:
                yield from self._steps_of(part, rows)

    def _steps_of(self, part: EpochPart, rows: _Rows) -> Iterator[StepBatch]:
        remaining = part.profiles
        step = part.first_step
        while remaining > 0:
            profiles = min(remaining, self._share.global_profiles)
            batches = self._micro_batches(rows, part.epoch, self._share.of(self._worker, profiles))
            remaining -= profiles
            yield StepBatch(part.epoch, step, profiles, batches, remaining == 0)
            step += 1

    def _micro_batches(self, rows: _Rows, epoch: int, wanted: int) -> tuple[MicroBatch, ...]:
        # as many passes as the worker with the largest share of a whole step: collectives need all ranks each time
        passes = -(-self._share.of(0) // self._micro_profiles)
        batches = []
        for _ in range(passes):
            real = min(wanted, self._micro_profiles)
            batches.append(self._filled(*rows.take(real, epoch)))
            wanted -= real
        return tuple(batches)

    def _filled(self, row_ids: np.ndarray, readable: np.ndarray, profiles: Sequence[np.ndarray]) -> MicroBatch:
        real = int(readable.sum())
        ids_B = torch.full((self._micro_profiles,), -1, dtype=torch.int64, pin_memory=self._pin_memory)
        ids_B[:real] = torch.from_numpy(row_ids[readable])
        values_BG = torch.empty(self._micro_profiles, self._genes, pin_memory=self._pin_memory)
        float16_G = torch.empty(self._genes, dtype=torch.float16)
        # one by one: of more numbers at a time torch makes work for threads, which compete with those that train
        for place, profile in enumerate(compress(profiles, readable)):
            float16_G.numpy()[:] = profile
            values_BG[place] = float16_G
        values_BG[real:] = 0
        return MicroBatch(ids_B, values_BG, real, row_ids[~readable])

    def _read(self, windows: Sequence[Window]) -> Iterator[pa.Table]:
        """Blocks of (row_id, readable, expression), window after window, read ahead by Ray tasks."""
        if not windows:
            return iter(())
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # without it, blocks arrive in the order in which tasks end
        context.execution_options.preserve_order = True
        pause_scheduling_loop(context)
        numbers = [{"id": number} for number in range(len(windows))]
        # from_items puts its blocks into the object store itself; range() would start a task, and a process, for each
        dataset = ray.data.from_items(numbers, override_num_blocks=len(windows)).map_batches(
            read_numbered,  # type: ignore[arg-type]  # Ray's type names no Arrow table
            fn_kwargs={
                "folder": self._folder,
                "windows": list(windows),
                "genes": self._genes,
                "skip_damaged": self._leave_out_damaged,
            },
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=READ_TASK_CPUS,
            compute=ray.data.TaskPoolStrategy(size=self._prefetch_windows),
        )
        return iter(
            dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=self._prefetch_windows)
        )


class _Rows:
    """Takes rows from the blocks of windows, in their order of use, across the windows' boundaries."""

    def __init__(self, windows: Sequence[Window], blocks: Iterator[pa.Table], genes: int) -> None:
        self._windows = iter(windows)
        self._blocks = blocks
        self._genes = genes
        self._epoch = -1
        self._row_ids = np.empty(0, np.int64)
        self._readable = np.empty(0, bool)
        self._profiles: list[np.ndarray] = []
        self._used = 0

    def take(self, wanted: int, epoch: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """The next ``wanted`` rows, which are of ``epoch``: row ids, which could be read, and views of their profiles,
        float16 [G]."""
        ids, readable, profiles = [self._row_ids[:0]], [self._readable[:0]], []
        missing = wanted
        while missing > 0:
            if self._used == len(self._row_ids):
                self._next_window()
            assert self._epoch == epoch, "the plan and the stream disagree on the epoch"
            end = min(self._used + missing, len(self._row_ids))
            ids.append(self._row_ids[self._used : end])
            readable.append(self._readable[self._used : end])
            profiles += self._profiles[self._used : end]
            missing -= end - self._used
            self._used = end
        return np.concatenate(ids), np.concatenate(readable), profiles

    def _next_window(self) -> None:
        window = next(self._windows)
        blocks = [next(self._blocks)]
        # Ray Data cuts large blocks
        while sum(len(block) for block in blocks) < len(window.row_ids):
            blocks.append(next(self._blocks))
        table = pa.concat_tables(blocks)
        held = table.column("row_id").to_numpy()
        sorter = np.argsort(held)
        places = sorter[np.searchsorted(held, window.row_ids, sorter=sorter)]
        assert np.array_equal(held[places], window.row_ids), "the plan and the stream disagree on the window"
        profiles = [
            profile for chunk in table.column("expression").chunks for profile in decode_expression(chunk, self._genes)
        ]
        self._epoch, self._row_ids = window.epoch, window.row_ids
        self._readable = table.column("readable").to_numpy()[places]
        self._profiles = [profiles[place] for place in places]
        self._used = 0


def _in_pipelines(parts: Iterator[EpochPart]) -> Iterator[list[EpochPart]]:
    """Group epochs until they hold enough profiles to be worth a pipeline."""
    waiting: list[EpochPart] = []
    profiles = 0
    for part in parts:
        waiting.append(part)
        profiles += sum(len(window.row_ids) for window in part.windows)
        if profiles >= PROFILES_PER_PIPELINE:
            yield waiting
            waiting, profiles = [], 0
    if waiting:
        yield waiting


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on the device; a GPU copies from pinned memory while the caller launches what comes next.

    A stream of its own for the copies would gain nothing: a micro-batch is under a megabyte, and its forward and
    backward pass take thousands of times as long.
    """
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def prefetched(steps: Iterator[StepBatch], depth: int) -> Iterator[StepBatch]:
    """The same steps, made ready by a thread up to ``depth`` ahead, so that decoding overlaps with training."""
    ready: queue.Queue[StepBatch | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def fill() -> None:
        outcome: BaseException | None = None
        try:
            for step in steps:
                if not _put(ready, step, stopped):
                    return
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, which raises it
            outcome = error
        _put(ready, outcome, stopped)

    threading.Thread(target=fill, name="profile-prefetch", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def _put(ready: queue.Queue[Any], item: Any, stopped: threading.Event) -> bool:
    """Put an item, unless the consumer has stopped; return whether it was put."""
    while not stopped.is_set():
        try:
            ready.put(item, timeout=0.5)
        except queue.Full:
            continue
        return True
    return False
