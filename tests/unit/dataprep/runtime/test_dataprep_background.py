"""The death of a background thread reaches its owner."""

import threading

import pytest

from dataprep.runtime.background import BackgroundThread
from dataprep.runtime.command_line import UserError


def test_an_unexpected_error_is_raised_in_the_owner_as_one_line():
    def work() -> None:
        raise MemoryError("last\ncheckpoint")

    thread = BackgroundThread(work, "checkpoint-writer")
    for ask in (thread.join, thread.check):
        with pytest.raises(
            UserError, match=r"^thread checkpoint-writer failed: MemoryError: last checkpoint$"
        ) as raised:
            ask()
    assert isinstance(raised.value.__cause__, MemoryError)
    assert raised.value is thread.failure


def test_a_mistake_of_the_user_keeps_its_message_and_exit_code():
    def work() -> None:
        raise UserError("the bucket does not exist", exit_code=2)

    thread = BackgroundThread(work, "checkpoint-writer")
    with pytest.raises(UserError, match=r"^the bucket does not exist$") as raised:
        thread.join()
    assert raised.value.exit_code == 2


def test_a_thread_that_works_or_has_ended_well_raises_nothing():
    may_end = threading.Event()

    def work() -> None:
        assert may_end.wait(10)

    thread = BackgroundThread(work, "notices")
    thread.check()
    may_end.set()
    thread.join()
    assert thread.failure is None
