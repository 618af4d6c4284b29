"""Processes, known so that no other one with the same number is taken for one of them."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path

_MARK = re.compile(r"([0-9a-f]{12})-(\d+)-(\d+)")


@dataclass(frozen=True)
class Process:
    """A process of some machine. What the system does not tell is None."""

    host: str
    pid: int
    started_ticks: int | None = None
    boot: str | None = None
    # process numbers of one container mean nothing in another
    pid_namespace: str | None = None

    @classmethod
    def this(cls) -> Process:
        pid = os.getpid()
        stat, boot = _read("/proc/self/stat"), _read("/proc/sys/kernel/random/boot_id")
        return cls(socket.gethostname(), pid, _started_ticks(stat) if stat is not None else None, boot, _namespace())

    @property
    def is_here(self) -> bool:
        """Whether this system can tell if the process exists."""
        this = Process.this()
        place = (self.boot, self.pid_namespace)
        return None not in (*place, self.started_ticks) and place == (this.boot, this.pid_namespace)

    @property
    def exists(self) -> bool:
        """Whether it exists still; only where it :attr:`is_here`."""
        stat = _read(f"/proc/{self.pid}/stat")
        # the system may hide the processes of other users
        return _started_ticks(stat) == self.started_ticks if stat is not None else _answers_signals(self.pid)

    @property
    def mark(self) -> str:
        """For names of files that only this process writes: see :func:`is_gone`."""
        return f"{self._place}-{self.pid}-{self.started_ticks or 0}"

    @property
    def _place(self) -> str:
        return hashlib.sha256(f"{self.boot} {self.pid_namespace}".encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def is_gone(mark: str) -> bool:
    """Whether a process with this :attr:`Process.mark` was one of this system and has ended. False where the system
    does not tell, and for what is no mark."""
    this, fields = Process.this(), _MARK.fullmatch(mark)
    if fields is None or not this.is_here or fields[1] != this._place:
        return False
    return not replace(this, pid=int(fields[2]), started_ticks=int(fields[3])).exists


def _answers_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started_ticks(stat: str) -> int | None:
    """When a process started, in ticks since the machine did, by its ``/proc/PID/stat``; None for a zombie."""
    # the second field, a name in parentheses, may hold anything
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
