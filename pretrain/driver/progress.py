"""From rank 0 to the terminal of whoever started the run: an actor that holds messages, a thread that shows them."""

from __future__ import annotations

import threading
import time
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

POLL_SECONDS = 1.0


@ray.remote(num_cpus=0, max_restarts=0)
class ProgressBoard:
    """Messages of a running training: rows of metrics, lines of text, and a fatal mistake of the user."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, Any]] = []
        self._fatal: tuple[str, int] | None = None
        self._stop_requested = False

    def post(self, kind: str, content: Any) -> None:
        self._waiting.append((kind, content))

    def take(self) -> list[tuple[str, Any]]:
        taken, self._waiting = self._waiting, []
        return taken

    def fail(self, message: str, exit_code: int) -> None:
        """Remember the first mistake that no restart can mend."""
        self._fatal = self._fatal or (message, exit_code)

    def fatal(self) -> tuple[str, int] | None:
        return self._fatal

    def request_stop(self) -> None:
        """Ask the workers to checkpoint and leave after the step they are in."""
        self._stop_requested = True

    def stop_requested(self) -> bool:
        return self._stop_requested


class ProgressDisplay:
    """Shows what is on the board until closed: a bar on a terminal, otherwise one line per logged step."""

    def __init__(self, board: Any, total_steps: int) -> None:
        self._board = board
        self._total_steps = total_steps
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = self._make_bar() if self._console.is_terminal else None
        self._closing = threading.Event()
        # set by a signal handler, in which nothing of Ray may be called
        self._asked_to_stop = threading.Event()
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
        """Pass on to the workers, soon, that they shall checkpoint and leave. May be called from a signal handler."""
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
            if self.asked_to_stop and not passed_on:
                passed_on = True
                self._board.request_stop.remote()
                self._console.print("asked to stop: a checkpoint after this step, then the end")
            self._show_waiting()

    def _show_waiting(self) -> None:
        try:
            messages = ray.get(self._board.take.remote(), timeout=10)
        except ray.exceptions.RayError:
            return  # the training itself reports what has happened to the cluster
        for kind, content in messages:
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
