"""How processes that train or embed on CPUs have glibc keep freed memory for the next allocation.

Each step frees and asks for the same large tensors. By default glibc maps and unmaps every one of them, and the kernel
clears it page by page, which can cost more than the arithmetic (docs/performance.md). What is needed: in the process,
:func:`keep_freed_memory` after the first step and :func:`map_large_memory` before it, so that what lasts lies outside
the heap; and in its environment from the start, :func:`missing_malloc_settings`:

- One arena, since only the main arena can keep memory, and threads that have arenas of their own by then (as those in
  which Ray trains) would stay with them.
- No cache of small chunks for each thread. torch asks for aligned memory, for which glibc cuts a larger piece and frees
  what is left at both ends; before glibc 2.39 (its bug 30723) those ends go into that cache, where they count as used,
  so that the hole which a tensor leaves is too small for the next tensor of its size.

On a GPU tensors are not glibc's, and neither is needed.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from functools import cache

_TUNABLES = "GLIBC_TUNABLES"
_NO_THREAD_CACHE = "glibc.malloc.tcache_count=0"

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_LARGEST = 2**31 - 1
# glibc's own threshold in a new process.
_LARGE_BYTES = 128 * 1024


def malloc_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for a process that is yet to start; tunables of the user's own stay."""
    tunables = environment.get(_TUNABLES, "")
    if _NO_THREAD_CACHE.partition("=")[0] not in tunables:
        tunables = f"{tunables}:{_NO_THREAD_CACHE}".lstrip(":")
    return {"MALLOC_ARENA_MAX": "1", _TUNABLES: tunables}


def missing_malloc_settings() -> dict[str, str]:
    """Variables to add to a worker's environment; empty if the cluster has them already.

    Ray starts a worker with other variables as a process of its own, where one without could be used again.
    """
    wanted = malloc_settings(os.environ)
    return {} if wanted.items() <= os.environ.items() else wanted


def map_large_memory() -> bool:
    """Have glibc map each large piece of memory, until :func:`keep_freed_memory`; True where that took effect.

    By default it raises its threshold with each large piece that is freed, up to 32 MiB: what a first step leaves
    would lie in the heap, between tensors that come and go. Call it before the model is made; steps take longer until
    freed memory is kept.
    """
    return _set({_M_MMAP_THRESHOLD: _LARGE_BYTES})


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep freed memory instead of giving it back to the system; True where that took effect.

    Concerns the whole process and lasts until its end; idle memory becomes the peak.

    Call it when the first step is done (without training, when the model is loaded): weights, optimizer states and what
    compilation left lie outside then, so that long-lived allocations do not fragment the memory that is used again.
    """
    return _set({_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _LARGEST})


def _set(parameters: Mapping[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(parameter, value) for parameter, value in parameters.items())
