"""Of all who want a lease one has it, whatever clocks and stores do; who is gone does not keep it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dataprep.runtime.command_line import UserError
from dataprep.runtime.lease import Holder, Lease, LeaseLostError
from dataprep.runtime.process import Process
from dataprep.runtime.storage import Folder

ELSEWHERE = Process("elsewhere", 7)
BEAT_SECONDS = 0.05
SILENCE_SECONDS = 0.6


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "run"))


def lease(folder: Folder, process: Process | None = None, lost: list[Exception] | None = None) -> Lease:
    return Lease(
        folder, "lease.json", "run first", (lost if lost is not None else []).append, process,
        heartbeat_seconds=BEAT_SECONDS, silence_seconds=SILENCE_SECONDS,
    )  # fmt: skip


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_a_process_of_this_machine_that_lives_is_named_at_once(folder):
    with lease(folder):
        started = time.monotonic()
        with pytest.raises(UserError, match=rf"^run first is in the hands of process {os.getpid()} on .*: wait for"):
            lease(folder).acquire()
        assert time.monotonic() - started < SILENCE_SECONDS / 2
    with lease(folder):  # given back, it is free at once
        pass


def test_a_process_elsewhere_that_is_heard_of_keeps_it(folder, capsys):
    with lease(folder, ELSEWHERE), pytest.raises(UserError, match="is in the hands of process 7 on elsewhere"):
        lease(folder).acquire()
    assert "unless that one is heard of within" in capsys.readouterr().err


def test_a_process_elsewhere_that_is_silent_loses_it(folder, capsys):
    folder.write_bytes("lease.json", Holder("gone", ELSEWHERE, 5).to_bytes())
    started = time.monotonic()
    with lease(folder):
        assert time.monotonic() - started >= SILENCE_SECONDS
    assert "process 7 on elsewhere, which is gone: taking it over" in capsys.readouterr().err


def test_no_clock_is_asked(folder, monkeypatch):
    """Wherever the clock of either is set to, and however it jumps."""
    chance = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(time, "time", lambda: next(chance))
    with lease(folder, ELSEWHERE), pytest.raises(UserError, match="is in the hands of"):
        lease(folder).acquire()
    with lease(folder):
        pass


KILLED = """
import sys, time
from dataprep.runtime.lease import Lease
from dataprep.runtime.storage import Folder
Lease(Folder(sys.argv[1]), "lease.json", "run first").acquire()
print("has it", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells for certain who is gone")
@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_process_of_this_machine_loses_it_at_once(folder, reaped):
    other = subprocess.Popen([sys.executable, "-c", KILLED, folder.uri], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "has it\n"
        with pytest.raises(UserError, match=f"is in the hands of process {other.pid} on"):
            lease(folder).acquire()
        other.kill()
        if reaped:
            other.wait()
        else:
            wait_until(lambda: not Holder.from_bytes(folder.read_bytes("lease.json")).process.exists)
        started = time.monotonic()
        with lease(folder):
            assert time.monotonic() - started < SILENCE_SECONDS / 2
    finally:
        other.kill()
        other.wait()


def test_a_number_that_another_process_has_by_now_is_no_sign_of_life(folder):
    this = Process.this()
    earlier = Process(this.host, this.pid, this.started_ticks - 1, this.boot, this.pid_namespace)
    folder.write_bytes("lease.json", Holder("gone", earlier).to_bytes())
    with lease(folder):
        pass


@pytest.mark.parametrize("other", ["boot", "pid_namespace"])
def test_a_number_in_another_container_or_before_a_restart_says_nothing(folder, other):
    this = Process.this()
    parts = {"boot": this.boot, "pid_namespace": this.pid_namespace, other: "another"}
    holder = Process(this.host, 2**22 + 1, this.started_ticks, **parts)
    with lease(folder, holder), pytest.raises(UserError, match="is in the hands of"):
        lease(folder).acquire()


def test_who_was_taken_for_gone_hears_that_another_has_it(folder):
    lost: list[Exception] = []
    first = lease(folder, ELSEWHERE, lost)
    first.acquire()
    folder.write_bytes("lease.json", Holder("another", Process("new", 9)).to_bytes())
    wait_until(lambda: bool(lost))
    assert str(lost[0]) == "process 9 on new has taken over run first: this one stops"
    assert first.loss is lost[0]
    with pytest.raises(LeaseLostError):
        first.key.require()
    first.release()
    assert folder.exists("lease.json"), "it is not the one who lost it that gives it back"


def test_a_store_that_is_unavailable_costs_nobody_the_lease(folder, monkeypatch):
    lost: list[Exception] = []
    with lease(folder, ELSEWHERE, lost) as held:
        before = Holder.from_bytes(folder.read_bytes("lease.json")).count
        with monkeypatch.context() as patch:

            def unavailable(*_: object) -> None:
                raise UserError("the object store does not answer")

            patch.setattr(Folder, "read_version", unavailable)
            time.sleep(10 * BEAT_SECONDS)
        wait_until(lambda: Holder.from_bytes(folder.read_bytes("lease.json")).count > before)
        assert lost == []
        held.key.require()


def test_a_folder_that_was_deleted_gets_it_again_unless_another_was_faster(folder, tmp_path):
    lost: list[Exception] = []
    with lease(folder, ELSEWHERE, lost):
        folder.remove("lease.json")
        wait_until(lambda: folder.exists("lease.json"))
        assert lost == []


def test_of_many_at_once_one_has_it(folder):
    start, having, refused = threading.Barrier(8), [], []

    def want() -> None:
        wanted = lease(folder)
        start.wait()
        try:
            wanted.acquire()
            having.append(wanted)
        except UserError:
            refused.append(wanted)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(having), len(refused)) == (1, 7)
    having[0].release()


def test_of_many_that_take_over_at_once_one_has_it(folder):
    folder.write_bytes("lease.json", Holder("gone", ELSEWHERE).to_bytes())
    test_of_many_at_once_one_has_it(folder)


def test_what_is_no_lease_runs_out(folder):
    folder.write_text("lease.json", "nonsense")
    with lease(folder) as held:
        held.key.require()
