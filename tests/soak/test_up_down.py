"""`cluster up` and `down` many times, two copies at once, and an `up` that is killed: `make soak`."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from local_services import started_processes

from cluster.local.ray_head import ray_folder
from cluster.local.state import StateFolder

ROOT = Path(__file__).parents[2]
TIMES = int(os.environ.get("SOAK_UPS", "20"))
# what holds data, logs and settings; all else has to be gone after `down`
KEPT = {
    "bulkformer-services.json", "state.json", "credentials.json", "ray-token", "env", "lock", ".gitignore",
    ".rayignore", "logs", "s3", "mlflow",
}  # fmt: skip
KEPT_OF_S3 = {"data", "tls.crt", "tls.key", "identities.json", "security.toml"}
RANDOM = random.Random(0)
# psutil tells a process from a later one of the same number
Listener = tuple[int, psutil.Process]


class Copy:
    """The services of one state folder, used by commands, with a folder for temporary files of its own."""

    def __init__(self, folder: Path) -> None:
        self.state, self._temporary = folder / "s", folder / "t"
        self._temporary.mkdir(parents=True)
        self._listeners: set[Listener] = set()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        foreign = ("AWS_", "RAY_A", "MLFLOW_TR")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        command = [sys.executable, "-m", "cluster", arguments[0], "--state", str(self.state), *arguments[1:]]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | {"TMPDIR": str(self._temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> float:
        """Run a command to its end, which has to be a good one. Returns its seconds."""
        began = time.monotonic()
        finish(self.start(*arguments))
        return time.monotonic() - began

    def note_ports(self) -> set[int]:
        """The ports on which the services listen now, those that they were given among them."""
        ports = {port for port, _ in listening(started_processes(self.state))}
        given = ports | set(StateFolder.at(self.state).read().ports.values())
        self._listeners |= {each for each in listening(list(psutil.process_iter())) if each[0] in given}
        return ports

    def require_nothing_left(self) -> None:
        """No process, no port on which anything listens, no file but data, logs and settings."""
        folder = StateFolder.at(self.state)
        assert not [process.cmdline() for process in started_processes(self.state)]
        # a port that was given back may be another program's by now: the same process must not have it any more
        assert not self._listeners & listening(list(psutil.process_iter()))
        if self.state.exists():
            assert {path.name for path in self.state.iterdir()} <= KEPT
        if (self.state / "s3").exists():
            assert {path.name for path in (self.state / "s3").iterdir()} <= KEPT_OF_S3
        assert not ray_folder(folder).exists()
        assert not [path.name for path in self._temporary.iterdir()]
        ports = folder.read().ports.values()
        assert not [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


def finish(command: subprocess.Popen[str]) -> None:
    said = command.communicate(timeout=400)[1]
    assert command.returncode == 0, said


def listening(processes: list[psutil.Process]) -> set[Listener]:
    found: set[Listener] = set()
    for process in processes:
        try:
            connections = process.net_connections("inet")
        except psutil.Error:
            continue
        ports = [each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN]
        found |= {(port, process) for port in ports}
    return found


@pytest.fixture
def copies(tmp_path_factory: pytest.TempPathFactory):
    made = [Copy(tmp_path_factory.mktemp("c")) for _ in range(2)]
    yield made
    for copy in made:
        copy.run("down", "--grace-seconds", "0")


@pytest.mark.timeout(5400)
def test_nothing_but_data_is_left_however_often_services_are_started_and_ended(copies):
    copy = copies[0]
    for number in range(TIMES):
        started = copy.run("up", "--nodes", str(1 + number % 2))
        assert len(copy.note_ports()) > 10
        ended = copy.run("down")
        copy.require_nothing_left()
        print(f"{number + 1}: up {started:.1f} s, down {ended:.1f} s", flush=True)


@pytest.mark.timeout(900)
def test_two_copies_that_are_started_together_do_not_meet(copies):
    for command in [copy.start("up") for copy in copies]:
        finish(command)
    first, second = copies
    assert not first.note_ports() & second.note_ports()
    running = {process.pid for process in started_processes(second.state)}
    first.run("down")
    first.require_nothing_left()
    assert {process.pid for process in started_processes(second.state)} >= running
    second.run("status")
    second.run("down")
    second.require_nothing_left()


@pytest.mark.timeout(5400)
def test_down_cleans_up_after_an_up_that_was_killed(copies):
    copy = copies[0]
    for number in range(TIMES):
        command, seconds = copy.start("up", "--nodes", "2"), RANDOM.uniform(0.5, 20.0)
        try:
            command.wait(seconds)
        except subprocess.TimeoutExpired:
            command.send_signal(signal.SIGKILL)
        command.communicate()
        left = len(started_processes(copy.state))
        copy.run("down", "--grace-seconds", "2")
        copy.require_nothing_left()
        print(f"{number + 1}: killed after {seconds:.1f} s, {left} processes ended", flush=True)
