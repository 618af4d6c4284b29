"""Further nodes beside the head: which are started, found again and ended, seen with ones that only sleep."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from cluster.__main__ import run
from cluster.config import UpSettings
from cluster.local import lifecycle
from cluster.local.processes import MARK
from cluster.local.ray_head import RayHead
from cluster.local.ray_node import RayNode, is_alive
from cluster.local.service import Place
from cluster.local.state import State, StateFolder


class SleepingHead(RayHead):
    ports: Mapping[str, int | None] = {"dashboard": None, "ray": None}

    def prepare(self, place: Place) -> list[str]:
        return ["/bin/sleep", "300"]

    def environment(self, place: Place) -> dict[str, str]:
        return dict(os.environ)

    def answers(self, place: Place) -> bool:
        return True


class SleepingNode(RayNode):
    def prepare(self, place: Place) -> list[str]:
        assert "ray" in StateFolder(place.folder.path).read().processes, "the head comes first"
        return ["/bin/sleep", "300"]

    def environment(self, place: Place) -> dict[str, str]:
        return dict(os.environ)

    def answers(self, place: Place) -> bool:
        return True


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setattr(lifecycle, "SERVICES", (SleepingHead(),))
    monkeypatch.setattr(lifecycle, "RayNode", SleepingNode)
    monkeypatch.setattr(lifecycle, "job_environment", lambda place: {})
    yield tmp_path / "state"
    for name in ("state", "other"):
        assert run(["down", "--state", str(tmp_path / name), "--grace-seconds", "1"]) == 0


def up(state: Path, nodes: int | None = None) -> dict[str, int]:
    settings = UpSettings(state=state) if nodes is None else UpSettings(state=state, nodes=nodes)
    lifecycle.up(settings, lifecycle.SERVICES)
    return pids(state)


def pids(state: Path) -> dict[str, int]:
    return {name: process.pid for name, process in StateFolder.at(state).read().processes.items()}


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def kill(pid: int) -> None:
    process = psutil.Process(pid)
    process.kill()
    process.wait(10)


def down(state: Path, *arguments: str) -> int:
    return run(["down", "--state", str(state), *arguments])


def test_a_lost_node_comes_back_when_it_is_asked_for_and_the_others_stay(state: Path, capsys):
    before = up(state, 3)
    assert list(before) == ["ray", "ray-2", "ray-3"]

    assert down(state, "--node", "2") == 0
    assert not alive(before["ray-2"])
    assert pids(state) == {"ray": before["ray"], "ray-3": before["ray-3"]}
    assert run(["status", "--state", str(state)]) == 0
    assert "ray-3" in (shown := capsys.readouterr().out.splitlines()[-1])
    assert "ray-2" not in shown

    assert up(state) == {"ray": before["ray"], "ray-3": before["ray-3"]}, "lost, not to be started again unasked"
    after = up(state, 3)
    assert after["ray-2"] != before["ray-2"]
    assert {**after, "ray-2": before["ray-2"]} == before


def test_another_number_adds_nodes_and_takes_none_away(state: Path, capsys):
    three = up(state, 3)

    assert up(state, 2) == up(state) == three
    assert "more than 2 nodes were started: `down --node 3` ends one of them" in capsys.readouterr().err
    four = up(state, 4)
    assert {name: pid for name, pid in four.items() if name != "ray-4"} == three


def test_a_node_that_died_is_started_again_and_all_are_with_a_new_head(state: Path):
    first = up(state, 2)
    kill(first["ray-2"])
    second = up(state)
    assert second["ray"] == first["ray"]
    assert second["ray-2"] != first["ray-2"]

    kill(second["ray"])
    third = up(state)
    assert not set(third.values()) & set(second.values())
    assert not alive(second["ray-2"])


def test_nodes_that_a_killed_up_left_or_a_damaged_state_hides_are_ended(state: Path):
    up(state, 2)
    folder = StateFolder.at(state)
    with subprocess.Popen(["/bin/sleep", "300"], env={**os.environ, MARK: folder.mark("ray-7")}):
        (state / "state.json").write_text("damaged")
        assert lifecycle.down(lifecycle.DownSettings(state=state, grace_seconds=1)) == {"ended": 3}
    assert folder.read() == State()


def test_what_an_interrupted_up_has_started_is_ended_by_the_next_down(state: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(self: RayNode, place: Place) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(SleepingNode, "answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        up(state, 3)
    running = pids(state)
    assert list(running) == ["ray", "ray-2", "ray-3"]

    assert down(state) == 0

    assert not [pid for pid in running.values() if alive(pid)]


def test_two_folders_on_one_machine_do_not_meet(state: Path, tmp_path: Path):
    one, other = up(state, 2), up(tmp_path / "other", 2)
    ports = [set(StateFolder.at(folder).read().ports.values()) for folder in (state, tmp_path / "other")]
    assert not ports[0] & ports[1]

    assert down(state, "--node", "2") == 0
    assert down(state) == 0

    assert not [pid for pid in one.values() if alive(pid)]
    assert all(alive(pid) for pid in other.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--node", "9"], "node 9 does not run in "),
        (["--node", "1"], "node: Input should be greater than or equal to 2"),
        (["--node", "2", "--delete-data"], "--delete-data would have no effect with --node"),
    ],
)
def test_a_node_that_cannot_be_lost_is_one_line(state: Path, arguments, message: str, capsys):
    up(state, 2)
    capsys.readouterr()

    assert down(state, *arguments) != 0

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_node_is_alive_if_one_of_its_name_is():
    def summary(*nodes: tuple[str, str]) -> bytes:
        return json.dumps(
            {"data": {"summary": [{"raylet": {"nodeName": name, "state": state}} for name, state in nodes]}}
        ).encode()

    assert is_alive("ray-2", summary(("ray-2", "DEAD"), ("ray-2", "ALIVE")))
    assert not is_alive("ray-2", summary(("ray-2", "DEAD"), ("ray-3", "ALIVE")))
    assert not is_alive("ray-2", b'{"data": {"summary": [{"raylet": {}}]}}')
