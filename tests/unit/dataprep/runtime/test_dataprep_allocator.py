"""What glibc's heap becomes in processes that keep freed memory."""

import json
import os
import platform
import subprocess
import sys

import pytest

from dataprep.runtime.allocator import malloc_settings

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own settings")

COMMON = """
import ctypes, json
from dataprep.runtime import allocator

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
Info = type("Info", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})
libc.mallinfo2.restype = Info
MB = 2**20

def aligned(size):
    place = ctypes.c_void_p()
    libc.posix_memalign(ctypes.byref(place), 64, size)
    return place.value
"""
# Tensors come and go in layers, some stay for the way back; beside each is what describes it.
STEPS = """
allocator.keep_freed_memory()
before = libc.mallinfo2().arena
live = most = 0

def made(size):
    global live, most
    live += size
    most = max(most, live)
    return size, [libc.malloc(24 + 16 * (size // MB + number) % 192) for number in range(4)], aligned(size)

def gone(tensor):
    global live
    size, beside, place = tensor
    live -= size
    for each in (place, *beside):
        libc.free(each)

sizes = [mb * MB for mb in (8, 4, 2, 4, 16, 1, 8, 24)]
for step in range(30):
    kept = []
    for layer in range(12):
        tensors = [made(sizes[(layer + number) % 8]) for number in range(6)]
        kept += tensors[::3]
        for tensor in tensors[1::3] + tensors[2::3]:
            gone(tensor)
    while kept:
        tensor = kept.pop()
        work = made(tensor[0])
        gone(tensor)
        gone(work)
print(json.dumps((libc.mallinfo2().arena - before) / most))
"""
FIRST_STEP = """
allocator.map_large_memory()
libc.free(aligned(20 * MB))
lasting = aligned(10 * MB)
mapped = libc.mallinfo2().hblkhd
allocator.keep_freed_memory()
coming_and_going = aligned(10 * MB)
print(json.dumps([mapped, libc.mallinfo2().hblkhd - mapped]))
"""


def printed(code: str) -> object:
    environment = {**os.environ, **malloc_settings({})}
    done = subprocess.run([sys.executable, "-c", COMMON + code], env=environment, capture_output=True, check=True)
    return json.loads(done.stdout)


def test_holes_are_used_again_by_tensors_of_their_size():
    # 1.5 with glibc 2.36 as it comes
    assert printed(STEPS) < 1.3


def test_what_a_first_step_leaves_lies_outside_the_heap():
    mapped, more = printed(FIRST_STEP)
    assert mapped >= 10 * 2**20
    assert more == 0, "afterwards all is in the heap"
