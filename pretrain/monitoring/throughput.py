"""How fast training is, what that is of the device's peak, how much memory it takes, and which worker holds it up."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from pretrain.data.stream import StepBatch

# A worker that takes half as long again as the median, for so many steps in a row, is worth a line.
SLOW_RATIO = 1.5
SLOW_STEPS = 20


def gemm_peak(dtype: torch.dtype, device: torch.device, sides: tuple[int, ...], longest_seconds: float) -> float:
    """FLOP/s of the best square product of ``sides``, of three tries each.

    A product that would take over ``longest_seconds`` is left out.
    """
    _product_rate(256, dtype, device)  # the first one also starts threads
    best, rate = 0.0, max(_product_rate(256, dtype, device) for _ in range(3))
    for side in sides:
        if 2 * side**3 / rate < longest_seconds:
            rate = max(_product_rate(side, dtype, device) for _ in range(3))
            best = max(best, rate)
    return best or rate


def _product_rate(side: int, dtype: torch.dtype, device: torch.device) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    wait_for(device)
    started = time.perf_counter()
    torch.mm(left, right)
    wait_for(device)
    return 2 * side**3 / (time.perf_counter() - started)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given; a CPU works at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: by torch on a GPU, by the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class StepClock:
    """Where the time of a step goes."""

    def __init__(self, flops_per_profile: float, workers: int, peak_flops: float, device: torch.device) -> None:
        """``peak_flops`` of one worker's device; ``flops_per_profile`` of training."""
        self._flops_per_profile = flops_per_profile
        self._peak_flops = workers * peak_flops
        self._device = device
        self._waited = self._own = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._started = time.perf_counter()
        self._ended = self._started
        self._pause = 0.0
        self._recent: list[float] = []

    def waiting(self, batches: Iterator[StepBatch]) -> Iterator[StepBatch]:
        """The same batches; time spent waiting for the next is counted."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self._waited = self._own = time.perf_counter() - before
            if batch is None:
                return
            yield batch

    @contextmanager
    def working(self) -> Iterator[None]:
        """Time of this worker's own, in which it waits for no other (but for parameters, under ZeRO stage 3)."""
        if self._device.type == "cuda":
            # events, because waiting for the GPU here would leave it idle between passes
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            yield
            events[1].record()
            self._events.append(events)
        else:
            before = time.perf_counter()
            yield
            self._own += time.perf_counter() - before

    def own_seconds(self) -> float:
        """Seconds of this step that the worker waited for data or worked by itself. Waits for a GPU to get there."""
        for began, ended in self._events:
            ended.synchronize()
            self._own += began.elapsed_time(ended) / 1000
        self._events.clear()
        return self._own

    def rates(self, profiles: int, steps_left: int) -> dict[str, float]:
        """Rates of the step that has just ended; its start is the end of the one before.

        ``pause_seconds`` is what validation and checkpoint took between the two, and in no other figure.
        """
        self._ended = time.perf_counter()
        seconds = self._ended - self._started
        self._recent = [*self._recent[-19:], seconds]
        flops = profiles * self._flops_per_profile / seconds
        return {
            "samples_per_second": profiles / seconds,
            "data_wait_fraction": min(1.0, self._waited / seconds),
            "seconds_left": steps_left * float(np.median(self._recent)),
            "gflops": flops / 1e9,
            "gemm_peak_share": flops / self._peak_flops,
            "peak_memory_bytes": peak_memory_bytes(self._device),
            "pause_seconds": self._pause,
        }

    def step_done(self) -> None:
        """Validation and checkpoints are over: the next step's time begins."""
        self._started = time.perf_counter()
        self._pause = self._started - self._ended


class SlowWorkerWatch:
    """Notices a worker that all others wait for."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._suspect = -1
        self._steps = 0

    def look(self, own_seconds: np.ndarray) -> dict[str, float]:
        """Metrics of a step: the slowest rank and how many times the median rank's seconds it took.

        ``own_seconds`` W, as in :class:`pretrain.training.agreement.Agreed`. Says when a rank is slow for long.
        """
        if len(own_seconds) == 1:
            return {}
        slowest = int(own_seconds.argmax())
        ratio = float(own_seconds[slowest] / max(1e-9, float(np.median(np.delete(own_seconds, slowest)))))
        same = slowest == self._suspect and ratio > SLOW_RATIO
        self._steps = self._steps + 1 if same else int(ratio > SLOW_RATIO)
        self._suspect = slowest
        if self._steps == SLOW_STEPS:
            self._log(
                f"SLOW WORKER: rank {slowest} has taken {ratio:.1f} times as long as the others for {SLOW_STEPS} steps"
            )
        return {"slowest_rank": slowest, "slowest_ratio": ratio}
