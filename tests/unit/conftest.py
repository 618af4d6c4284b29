"""No test leaves a thread of ours behind: it would go on in the tests after it, which may count what they see."""

import threading
import time
from collections.abc import Iterator

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
