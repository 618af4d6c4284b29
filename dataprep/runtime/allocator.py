"""How processes that train or embed on CPUs have glibc keep freed memory for the next allocation.

Each step frees and asks for the same large tensors. By default glibc maps and unmaps every one of them, and the kernel
clears it page by page, which can cost more than the arithmetic (docs/performance.md). Two things are needed: in the
process, :func:`keep_freed_memory`; and in its environment from the start, :data:`ONE_ARENA`, since only the main arena
can keep memory, and threads that have arenas of their own by then (as those in which Ray trains) would stay with them.

On a GPU tensors are not glibc's, and neither is needed.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

# One arena for all threads of a process that is yet to start.
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_LARGEST = 2**31 - 1


def missing_arena_settings() -> dict[str, str]:
    """Variables to add to a worker's environment; empty if the cluster has them already.

    Ray starts a worker with other variables as a process of its own, where one without could be used again.
    """
    return {} if ONE_ARENA.items() <= os.environ.items() else dict(ONE_ARENA)


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep freed memory instead of giving it back to the system; True where that took effect.

    Concerns the whole process and lasts until its end; idle memory becomes the peak.

    Call it when the first step is done (without training, when the model is loaded): weights, optimizer states and what
    compilation left lie outside then, so that long-lived allocations do not fragment the memory that is used again.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    wanted = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _LARGEST}
    return all(libc.mallopt(parameter, value) for parameter, value in wanted.items())
