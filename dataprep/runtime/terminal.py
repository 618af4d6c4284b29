"""What a command tells the person who started it.

The contract of every command: results go to standard output (:func:`write_result`), everything else to standard error
(:func:`log`, :func:`tracked`). So ``python -m PACKAGE COMMAND > FILE`` keeps the results and shows the rest, and
``--json`` can be piped.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def log(message: str) -> None:
    """Write one line about what is happening to standard error."""
    print(message, file=sys.stderr, flush=True)


def write_result(text: str) -> None:
    """Write a result, one line or several, to standard output."""
    print(text, flush=True)


def tracked(parts: Iterable[tuple[int, T]], total: int, doing: str) -> Iterator[T]:
    """Yield parts that come with their size and show how much of ``total`` is done: a bar on a terminal, else lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from _announced(parts, total, doing)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(doing, total=total)
        for size, part in parts:
            yield part
            progress.advance(task, size)


def quiet_libraries() -> None:
    """Silence library messages that a user can neither use nor act on. Called once, by the command line."""
    # single-class folds and constant genes are handled by our own code, as undefined scores and dropped features
    warnings.filterwarnings("ignore", module=r"sklearn\..*")
    # performer-pytorch and torch warn of their own deprecated calls
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(performer_pytorch|torch)\..*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(performer_pytorch|torch_geometric|torch)\..*")
    # mlflow's client logs advice and urllib3 every retry; an unavailable server gets one line of ours
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "urllib3", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _announced(parts: Iterable[tuple[int, T]], total: int, doing: str) -> Iterator[T]:
    """A line at the start and at each further tenth."""
    log(f"{doing}: 0 of {total:,}")
    done, next_line = 0, total / 10
    for size, part in parts:
        yield part
        done += size
        if done >= next_line:
            log(f"{doing}: {done:,} of {total:,}")
            next_line = done + total / 10
