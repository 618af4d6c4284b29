"""What `up`, `status` and `down` do with services, seen with one that only sleeps."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.__main__ import run
from cluster.config import DownSettings, UpSettings
from cluster.local import lifecycle
from cluster.local.lifecycle import down, up
from cluster.local.service import Place
from cluster.local.state import MARKER, StateFolder
from dataprep.runtime.command_line import UserError


class Sleeper:
    name = folder = "sleeper"
    ports: Mapping[str, int | None] = {"sleeper": None}

    def prepare(self, place: Place) -> list[str]:
        return ["/bin/sleep", "300"]

    def environment(self, place: Place) -> dict[str, str]:
        return dict(os.environ)

    def answers(self, place: Place) -> bool:
        return True

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        return


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[Sleeper]:
    sleeping = [Sleeper()]
    monkeypatch.setattr(lifecycle, "SERVICES", tuple(sleeping))
    monkeypatch.setattr(lifecycle, "job_environment", lambda place: {})
    return sleeping


@pytest.fixture(params=["state", "a b", "it's", "a#b?c%20", '"quoted"', "comma,colon:"])
def state(request: pytest.FixtureRequest, services, tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / request.param
    down(DownSettings(state=tmp_path / request.param, grace_seconds=1))


def pid(state: Path) -> int:
    return StateFolder.at(state).read().processes["sleeper"].pid


def test_up_prints_addresses_on_standard_output_and_everything_else_beside_it(state: Path, services, capsys):
    addresses = up(UpSettings(state=state), services)

    output = capsys.readouterr()
    assert output.out == f"sleeper {addresses['sleeper']}\n"
    assert "started in" in output.err


def test_a_second_up_leaves_what_runs_alone_also_after_the_clock_was_set(state: Path, services):
    up(UpSettings(state=state), services)
    before = pid(state)
    # as if the clock had been set forward since: the time of the start, derived from it, is 3 s later now
    content = json.loads((state / "state.json").read_text())
    content["processes"]["sleeper"]["started_at"] -= 3
    (state / "state.json").write_text(json.dumps(content))

    up(UpSettings(state=state), services)

    assert pid(state) == before


def test_a_copy_of_a_state_folder_does_not_hold_the_services_of_the_original(services, tmp_path: Path):
    up(UpSettings(state=tmp_path / "state"), services)
    before = pid(tmp_path / "state")
    shutil.copytree(tmp_path / "state", tmp_path / "copy")

    assert down(DownSettings(state=tmp_path / "copy", delete_data=True)) == {"ended": 0}
    assert run(["status", "--state", str(tmp_path / "state")]) == 0

    assert pid(tmp_path / "state") == before
    assert down(DownSettings(state=tmp_path / "state")) == {"ended": 1}


def test_services_that_an_earlier_version_started_go_on_are_named_each_time_and_end(services, tmp_path: Path, capsys):
    services[0].name = services[0].folder = "s3"
    folder = StateFolder.at(tmp_path / "state")
    up(UpSettings(state=folder.path), services)
    before = folder.read()
    leave_as_an_earlier_version(folder)
    capsys.readouterr()

    for _ in range(2):
        up(UpSettings(state=folder.path), services)
        assert "earlier version, and other users can reach it: `down`, then `up` again" in capsys.readouterr().err
        assert folder.read().processes["s3"].pid == before.processes["s3"].pid

    assert down(DownSettings(state=folder.path, grace_seconds=1)) == {"ended": 1}
    up(UpSettings(state=folder.path), services)
    assert "earlier version" not in capsys.readouterr().err
    down(DownSettings(state=folder.path, grace_seconds=1))


def test_status_leaves_the_state_of_an_earlier_version_for_down_to_know(services, tmp_path: Path):
    services[0].name = services[0].folder = "s3"
    folder = StateFolder.at(tmp_path / "state")
    up(UpSettings(state=folder.path), services)
    leave_as_an_earlier_version(folder)

    assert run(["status", "--state", str(folder.path)]) == 0
    assert folder.credentials().mlflow_password

    assert down(DownSettings(state=folder.path, delete_data=True, grace_seconds=1)) == {"ended": 1}
    assert not folder.exists


def leave_as_an_earlier_version(folder: StateFolder) -> None:
    """Take away what the versions before marks did not write."""
    for name in (MARKER, ".gitignore", ".rayignore"):
        (folder.path / name).unlink()
    for name, keys in (("credentials.json", ("mlflow_password",)), ("state.json", ("boot_id", "start_ticks"))):
        content = json.loads((folder.path / name).read_text())
        for entry in (content, content.get("processes", {}).get("s3", {})):
            for key in keys:
                entry.pop(key, None)
        (folder.path / name).write_text(json.dumps(content))


def test_a_second_command_while_one_is_at_work_is_one_line(services, tmp_path: Path, capsys):
    folder = StateFolder.at(tmp_path / "state")
    folder.make()
    with folder.locked():
        for command in (["up"], ["down"], ["down", "--delete-data"]):
            assert run([*command, "--state", str(folder.path)]) == 1
            assert capsys.readouterr().err == f"error: another up or down is at work in {folder.path}\n"


def test_down_ends_what_runs_though_its_folder_is_gone(services, tmp_path: Path):
    up(UpSettings(state=tmp_path / "state"), services)
    shutil.rmtree(tmp_path / "state")

    assert down(DownSettings(state=tmp_path / "state", grace_seconds=1)) == {"ended": 1}
    assert not (tmp_path / "state").exists()


def test_status_of_services_that_are_gone_is_a_table_and_one_line(services, tmp_path: Path, capsys):
    up(UpSettings(state=tmp_path / "state"), services)
    down(DownSettings(state=tmp_path / "state", grace_seconds=1))
    folder = StateFolder.at(tmp_path / "state")
    capsys.readouterr()
    assert run(["status", "--state", str(folder.path)]) == 1
    assert (
        capsys.readouterr().err == f"error: no services were started in {folder.path}; `python -m cluster up` does it\n"
    )

    # a machine that was switched off
    up(UpSettings(state=folder.path), services)
    before = folder.read()
    down(DownSettings(state=folder.path, grace_seconds=1))
    folder.write(before)
    capsys.readouterr()
    assert run(["status", "--state", str(folder.path)]) == 1
    output = capsys.readouterr()
    assert "no" in output.out
    assert output.err.startswith("error: not answering, though started earlier: sleeper; ")


def test_a_folder_that_cannot_be_written_to_is_one_line(services, tmp_path: Path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(UserError, match=r"file.*Not a directory"):
        up(UpSettings(state=tmp_path / "file" / "state"), services)


class Slow(Sleeper):
    """Takes its time to answer, and keeps when."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def prepare(self, place: Place) -> list[str]:
        self.times.append(time.monotonic())
        return super().prepare(place)

    def answers(self, place: Place) -> bool:
        time.sleep(0.3)
        self.times.append(time.monotonic())
        return True


def test_a_state_chooses_ports_only_once_the_services_of_another_have_theirs(services, tmp_path: Path):
    slow, states = [Slow(), Slow()], [tmp_path / "first", tmp_path / "second"]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda number: up(UpSettings(state=states[number]), [slow[number]]), range(2)))
    for state in states:
        down(DownSettings(state=state, grace_seconds=1))
    first, second = sorted(service.times for service in slow)
    assert first[-1] <= second[0]


def test_down_deletes_what_a_killed_up_was_writing(services, tmp_path: Path):
    up(UpSettings(state=tmp_path / "s"), services)
    (tmp_path / "s" / "s3").mkdir()
    partial = [tmp_path / "s" / name for name in (".env.12.partial", "s3/.tls.key.0123456789abcdef.partial")]
    for path in partial:
        path.touch()
    down(DownSettings(state=tmp_path / "s", grace_seconds=1))
    assert not [path for path in partial if path.exists()]


class Listener(Sleeper):
    def prepare(self, place: Place) -> list[str]:
        code = (
            "import multiprocessing.connection, time\n"
            "listener = multiprocessing.connection.Listener(family='AF_UNIX')\n"
            "time.sleep(300)"
        )
        return [sys.executable, "-c", code]

    def environment(self, place: Place) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(place.folder.path / "sleeper")}

    def answers(self, place: Place) -> bool:
        return any((place.folder.path / "sleeper").glob("pymp-*/listener-*"))


def test_folders_of_sockets_of_what_was_ended_are_deleted(services, tmp_path_factory: pytest.TempPathFactory):
    state = tmp_path_factory.mktemp("l") / "s"
    up(UpSettings(state=state), [Listener()])
    down(DownSettings(state=state, grace_seconds=0))
    assert not list((state / "sleeper").glob("pymp-*"))
