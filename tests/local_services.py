"""The processes of embedded services, as a test sees them that does not trust the code under test."""

import os
from pathlib import Path

import psutil

from cluster.local.processes import MARK
from cluster.local.state import StateFolder


def started_processes(state: Path) -> list[psutil.Process]:
    """All processes of the services, found without the code under test: by mark, descent or command line."""
    pids = {process.pid for process in StateFolder.at(state).read().processes.values()}
    found = []
    for process in psutil.process_iter():
        try:
            parents = {parent.pid for parent in process.parents()}
            marked = process.environ().get(MARK, "").startswith(str(state))
            named = any(str(state) in argument for argument in process.cmdline()) and process.pid != os.getpid()
            ours = marked or named or pids & (parents | {process.pid})
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
