"""Start processes that outlive us, recognise them later, and end exactly those.

A process is known by its pid together with when it was started, so that another one that got a recycled pid is never
taken for it, and by a mark in its environment. What it starts in turn (Ray's raylet, workers and jobs; MLflow's server
workers) is known by being its descendant or, where the parent is gone, by the mark, which it inherits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from dataprep.runtime.command_line import UserError

MARK = "BULKFORMER_EMBEDDED_SERVICE"
_SAME_START_SECONDS = 2.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_POLL_SECONDS = 0.1
_KILL_SECONDS = 30.0
_ENVIRONMENT_SECONDS = 5.0
_ENVIRONMENT_POLL_SECONDS = 0.002


@dataclass(frozen=True)
class ProcessId:
    """A process that was started once, and no other one with the same pid.

    Linux tells when a process was started in clock ticks since boot. Those stay as they are when the clock is set,
    whereas ``started_at``, in seconds since 1970, is derived from the clock and moves with it. It decides only where
    there are no ticks: on other systems, which keep the time of the start itself, and in older state files.
    """

    pid: int
    started_at: float
    boot_id: str | None = None
    start_ticks: int | None = None

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The process that has this pid now. Raises psutil.NoSuchProcess if there is none."""
        return cls(pid, psutil.Process(pid).create_time(), *_boot_and_ticks(pid))

    @property
    def is_of_earlier_version(self) -> bool:
        """Whether the process, which runs, was recorded by a version that did not keep the ticks that there are."""
        return self.start_ticks is None and _boot_and_ticks(self.pid)[1] is not None

    def find(self) -> psutil.Process | None:
        """The process if it still runs."""
        try:
            process = psutil.Process(self.pid)
            if self.start_ticks is not None:
                same = _boot_and_ticks(self.pid) == (self.boot_id, self.start_ticks)
            else:
                same = abs(process.create_time() - self.started_at) < _SAME_START_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def _boot_and_ticks(pid: int) -> tuple[str, int] | tuple[None, None]:
    """The boot of the machine, and when the process was started in clock ticks since then; None where unknown."""
    try:
        # the second field, the program's name in parentheses, may itself hold spaces and parentheses
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return _BOOT_ID.read_text().strip(), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None, None


def start(argv: Sequence[str], mark: str, environment: Mapping[str, str], folder: Path, log: Path) -> ProcessId:
    """Start a process in a session of its own, so that a terminal's ctrl-C or closing does not reach it.

    Files that it makes are readable by their owner only.
    """
    marked = {
        **environment,
        MARK: mark,
        # Ray's processes set their titles; without this the title overwrites the environment that others see
        "SPT_NOENV": "1",
    }
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as stream:
        process = subprocess.Popen(
            argv,
            env=marked,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    started = ProcessId.of(process.pid)
    _wait_for_environment(psutil.Process(process.pid))
    # it is meant to outlive us: without a return code the Popen object would warn that nobody waits for it
    process.returncode = 0
    return started


def _wait_for_environment(process: psutil.Process) -> None:
    """Return when the mark can be seen: Linux shows an empty environment for an instant after a program's start."""
    give_up_at = time.monotonic() + _ENVIRONMENT_SECONDS
    while _runs(process) and _mark_of(process) is None and time.monotonic() < give_up_at:
        time.sleep(_ENVIRONMENT_POLL_SECONDS)


def find(root: ProcessId | None, mark: str) -> psutil.Process | None:
    """The process that was started with this mark, if it still runs. In a copy of a state folder, none of those."""
    process = root.find() if root is not None else None
    return process if process is not None and not _has_another_mark(process, mark) else None


def belonging_to(mark: str, root: ProcessId | None) -> list[psutil.Process]:
    """All running processes of a service: the one started, its descendants, and what carries its mark."""
    found: dict[int, psutil.Process] = {}
    if (process := find(root, mark)) is not None:
        for member in (process, *_descendants(process)):
            found[member.pid] = member
    for member in psutil.process_iter():
        if member.pid not in found and _mark_of(member) == mark:
            found[member.pid] = member
    found.pop(os.getpid(), None)
    return [member for member in found.values() if _runs(member)]


def marks() -> set[str]:
    """The marks of all running processes."""
    return {mark for process in psutil.process_iter() if (mark := _mark_of(process)) is not None}


def end(members: Callable[[], list[psutil.Process]], grace_seconds: float) -> int:
    """Ask the processes that ``members`` finds to end, end those that have not after a while, until none is left.

    The topmost are asked, since each knows best how to end what it has started (Ray's head, asked together with its
    children, waits for them in vain). Returns the number of processes that were there. Raises :class:`UserError` if
    one cannot be ended.
    """
    waiting = members()
    known = {member.pid for member in waiting}
    _signal([member for member in waiting if _parent_pid(member) not in known], signal.SIGTERM)
    give_up_at = time.monotonic() + grace_seconds
    while waiting and time.monotonic() < give_up_at:
        time.sleep(_POLL_SECONDS)
        waiting = [member for member in waiting if _runs(member)]
    give_up_at = time.monotonic() + _KILL_SECONDS
    while waiting := members():
        if time.monotonic() > give_up_at:
            raise UserError(f"processes do not end: {', '.join(str(member.pid) for member in waiting)}")
        known |= {member.pid for member in waiting}
        _signal(waiting, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    return len(known)


def multiprocessing_folders(members: Sequence[psutil.Process]) -> set[Path]:
    """The folders of temporary files in which these processes listen by Python's multiprocessing.

    A process that is killed leaves its own behind, as processes of Ray's dashboard do.
    """
    found = set()
    for member in members:
        with suppress(psutil.Error, OSError):
            sockets = (Path(str(connection.laddr)) for connection in member.net_connections("unix") if connection.laddr)
            found |= {path.parent for path in sockets if path.parent.name.startswith("pymp-")}
    return found


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _parent_pid(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):
        # not ours to look at, or gone meanwhile
        return None


def _has_another_mark(process: psutil.Process, mark: str) -> bool:
    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return False
    # empty where the program has overwritten it with its title
    return bool(environment) and environment.get(MARK) != mark


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
