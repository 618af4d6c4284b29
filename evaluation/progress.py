"""What a person at the terminal sees while a command works: a bar there, a line per event anywhere else.

All of it goes to standard error, so that standard output holds results alone.
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


def event(message: str) -> None:
    """One line about what happens."""
    print(message, file=sys.stderr, flush=True)


def tracked(parts: Iterable[tuple[int, T]], total: int, doing: str) -> Iterator[T]:
    """Hand on parts that come with their size, showing how much of ``total`` is done."""
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
    """Silence what the libraries say that a user can neither use nor mend. Called once, by the command line."""
    # single-class folds and constant genes are ours to handle, and are: as undefined scores and dropped features
    warnings.filterwarnings("ignore", module=r"sklearn\..*")
    # performer-pytorch and torch warn of their own deprecated calls
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(performer_pytorch|torch)\..*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(performer_pytorch|torch_geometric|torch)\..*")
    # mlflow's client logs advice, and urllib3 every retry; a server that is away gets one line of ours
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "urllib3", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _announced(parts: Iterable[tuple[int, T]], total: int, doing: str) -> Iterator[T]:
    """A line at the start and at each further tenth."""
    event(f"{doing}: 0 of {total:,}")
    done, next_line = 0, total / 10
    for size, part in parts:
        yield part
        done += size
        if done >= next_line:
            event(f"{doing}: {done:,} of {total:,}")
            next_line = done + total / 10
