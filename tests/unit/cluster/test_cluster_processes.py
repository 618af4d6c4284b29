"""Processes are recognised for certain, and exactly those that were started are ended."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cluster.local import processes
from cluster.local.processes import ProcessId

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
)
# starts a child in a session of its own, as Ray does with jobs, and ends itself: nobody is the child's parent
ORPHANING = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True)"


@pytest.fixture
def start(tmp_path: Path):
    marks = set()

    def _start(code: str, mark: str) -> ProcessId:
        marks.add(mark)
        return processes.start([sys.executable, "-c", code], mark, os.environ, tmp_path, tmp_path / "log")

    yield _start
    for mark in marks:
        processes.end(lambda mark=mark: processes.belonging_to(mark, None), 0)


def test_a_recycled_pid_is_not_taken_for_the_process(start):
    started = start("import time; time.sleep(600)", "one")

    assert started.find() is not None
    assert replace(started, start_ticks=started.start_ticks - 1).find() is None
    assert replace(started, boot_id="another boot").find() is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the time of the start itself")
def test_a_clock_that_is_set_does_not_make_another_process_of_it(start, monkeypatch: pytest.MonkeyPatch):
    started = start("import time; time.sleep(600)", "one")
    # Linux derives the time at which a process was started from the clock
    as_shown_now = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: as_shown_now(process) - 3)

    assert started.find() is not None


def test_a_record_of_an_earlier_version_is_recognised_by_the_time_of_the_start(start):
    started = start("import time; time.sleep(600)", "one")

    assert ProcessId(started.pid, started.started_at).find() is not None
    assert ProcessId(started.pid, started.started_at - 60).find() is None


def test_a_process_with_another_mark_is_not_ours_though_it_is_on_record(start):
    started = start("import time; time.sleep(600)", "one")

    assert processes.find(started, "one") is not None
    assert processes.find(started, "copy of one") is None
    assert not processes.belonging_to("copy of one", started)


def test_a_start_is_over_when_the_mark_can_be_seen(start, monkeypatch: pytest.MonkeyPatch):
    """Linux shows an empty environment at first; `down` of a copied state would take the process for the copy's."""
    shown, asked = psutil.Process.environ, []

    def shown_later(process: psutil.Process) -> dict[str, str]:
        asked.append(process.pid)
        return {} if len(asked) < 4 else shown(process)

    monkeypatch.setattr(psutil.Process, "environ", shown_later)
    started = start("import time; time.sleep(600)", "one")
    assert len(asked) == 4

    assert processes.find(started, "copy of one") is None


def test_what_ignores_the_request_to_end_is_ended(start, tmp_path: Path):
    started = start(STUBBORN, "one")
    wait_for_log(tmp_path / "log")

    assert processes.end(lambda: processes.belonging_to("one", started), 0.3) == 1

    assert started.find() is None


def test_an_orphan_is_found_by_its_mark_after_its_parent_has_gone(start, tmp_path: Path):
    started = start(ORPHANING, "one")
    wait_for_log(tmp_path / "log")

    members = processes.belonging_to("one", started)
    assert started.pid not in [member.pid for member in members]
    assert len(members) == 1

    processes.end(lambda: processes.belonging_to("one", started), 0.3)
    assert not processes.belonging_to("one", started)


def test_processes_of_another_owner_are_left_alone(start):
    mine, other = start("import time; time.sleep(600)", "one"), start("import time; time.sleep(600)", "another")

    processes.end(lambda: processes.belonging_to("one", mine), 5)

    assert mine.find() is None
    assert other.find() is not None


def test_it_outlives_the_session_that_started_it_and_its_files_are_private(start, tmp_path: Path):
    started = start("open('made', 'w').close(); import time; print('on', flush=True); time.sleep(600)", "one")
    wait_for_log(tmp_path / "log")

    assert os.getsid(started.pid) == started.pid
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600


def wait_for_log(log: Path) -> None:
    give_up_at = time.monotonic() + 20
    while not log.exists() or not log.read_text():
        assert time.monotonic() < give_up_at, "the process wrote nothing"
        time.sleep(0.05)
