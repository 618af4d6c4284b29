"""A small disk, and no thread of ours that a test leaves behind: it would go on in the tests after it, which may count
what they see."""

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataprep.runtime.background import THREAD_PREFIX

_PATIENCE_SECONDS = 5.0


def _background_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = _background_threads()
    yield
    end = time.monotonic() + _PATIENCE_SECONDS
    while (left := _background_threads() - before) and time.monotonic() < end:
        time.sleep(0.01)
    assert left == set()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)
