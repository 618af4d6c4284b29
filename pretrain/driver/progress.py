"""What the workers report, on the terminal of whoever started the run."""

from __future__ import annotations

import threading
import time
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dataprep.runtime.terminal import log

POLL_SECONDS = 1.0


class ProgressDisplay:
    """Shows what the coordinator has until closed: a bar on a terminal, otherwise one line per logged step.

    Its thread also passes the wish to stop on, so no error ends it: what it cannot show costs one line.
    """

    def __init__(self, coordinator: Any, total_steps: int) -> None:
        self._coordinator = coordinator
        self._total_steps = total_steps
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._bar = self._make_bar() if self._console.is_terminal else None
        self._closing = threading.Event()
        # set by a signal handler, in which nothing of Ray may be called
        self._asked_to_stop = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._work, name="progress-display", daemon=True)

    def __enter__(self) -> ProgressDisplay:
        if self._bar is not None:
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        self._show_waiting()
        if self._bar is not None:
            self._bar.stop()

    @property
    def asked_to_stop(self) -> bool:
        return self._asked_to_stop.is_set()

    def ask_to_stop(self) -> None:
        """Tell the workers, soon, to checkpoint and leave. May be called from a signal handler."""
        self._asked_to_stop.set()

    def _make_bar(self) -> Progress:
        bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"),
            TimeRemainingColumn(), console=self._console,
        )  # fmt: skip
        bar.add_task("starting workers", total=self._total_steps)
        return bar

    def _work(self) -> None:
        passed_on = False
        while not self._closing.wait(POLL_SECONDS):
            try:
                if self.asked_to_stop and not passed_on:
                    ray.get(self._coordinator.request_stop.remote(), timeout=10)
                    passed_on = True
                    self._console.print("asked to stop: a checkpoint after this step, then the end")
            except RayError:
                continue  # tried again; without its coordinator, the training itself ends
            self._show_waiting()

    def _show_waiting(self) -> None:
        try:
            messages = ray.get(self._coordinator.take.remote(), timeout=10)
        except RayError:
            return  # the training itself reports what has happened to the cluster
        for kind, content in messages:
            try:
                self._show(kind, content)
            except Exception as error:  # noqa: BLE001 - see the class
                if not self._complained:
                    self._complained = True
                    log(f"progress is not shown in full ({type(error).__name__}: {error}); metrics.jsonl has all of it")

    def _show(self, kind: str, content: Any) -> None:
        if kind == "row":
            self._show_row(content)
        else:
            self._console.print(content)

    def _show_row(self, row: dict[str, Any]) -> None:
        line = describe_row(row, self._total_steps)
        if self._bar is None or "loss" not in row:
            self._console.print(f"{time.strftime('%H:%M:%S')} {line}")
        else:
            self._bar.update(self._bar.task_ids[0], completed=row["step"], description=line)


def describe_row(row: dict[str, Any], total_steps: int) -> str:
    """One line for a person: where the run is, how it does, how fast, how long still."""
    where = f"step {row['step']}/{total_steps} epoch {row['epoch']}"
    if "validation_loss" in row:
        return f"{where}  validation loss {row['validation_loss']:.4f}  Pearson {row['validation_pearson']:.4f}"
    parts = [
        where,
        f"loss {row['loss']:.4f}",
        f"lr {row['lr']:.2e}",
        f"grad norm {row['grad_norm']:.2f}",
        f"{row['samples_per_second']:.1f} profiles/s",
        f"data wait {100 * row['data_wait_fraction']:.0f} %",
    ]
    if "gemm_peak_share" in row:
        parts.append(f"{100 * row['gemm_peak_share']:.0f} % of peak")
        parts.append(f"{row['peak_memory_bytes'] / 1e9:.1f} GB")
    if "seconds_left" in row:
        parts.append(f"{duration(row['seconds_left'])} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """A length of time for a person: 45 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
