"""`submit` and `jobs` from outside the checkout, on a cluster that wants a token, over connections that break."""

import json
import os
import pty
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cutting_proxy import CuttingProxy
from running_jobs import wait_until

from cluster.local.service import get

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys, time
for step in range(int(sys.argv[1])):
    print(f"step {step}/{sys.argv[1]}", flush=True)
    time.sleep(0.25)
sys.exit(int(sys.argv[2]))
"""


class Head:
    """Ray's head, with a token, on ports that stay the same when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, folder / "token"
        self.token.write_text(secrets.token_hex(32))
        with socket.socket() as one, socket.socket() as other, socket.socket() as third, socket.socket() as fourth:
            sockets = (one, other, third, fourth)
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            self.gcs, self.dashboard, self.agent, self.client = (each.getsockname()[1] for each in sockets)
        self.start()

    def start(self) -> None:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
        }
        command = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={self.gcs}",
                   "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}",
                   f"--ray-client-server-port={self.client}",
                   f"--dashboard-agent-listen-port={self.agent}", "--min-worker-port=0", "--max-worker-port=0",
                   f"--temp-dir={self.folder}/ray", "--num-cpus=4", "--object-store-memory=100000000",
                   "--disable-usage-stats"]  # fmt: skip
        with (self.folder / "ray.log").open("ab") as output:
            self.process = psutil.Popen(command, env=variables, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        wait_until(self._answers, 120, lambda: (self.folder / "ray.log").read_text()[-2000:])

    def _answers(self) -> bool:
        nodes = get(f"http://127.0.0.1:{self.dashboard}/nodes?view=summary", f"Bearer {self.token.read_text()}")
        return nodes is not None and b'"ALIVE"' in nodes

    def stop(self) -> None:
        ours = [*self.process.children(recursive=True), self.process]
        for process in ours:
            process.kill()
        psutil.wait_procs(ours, timeout=30)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # a short path, below which Ray makes sockets
    with tempfile.TemporaryDirectory(prefix="jobs-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        started = Head(Path(folder))
        yield started
        started.stop()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, which is no checkout of this project."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "job.py").write_text(SCRIPT)
    return folder


def command(head: Head, port: int, name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "cluster", name, "--state", str(head.folder / "none"), "--address",
            f"http://127.0.0.1:{port}", "--token-file", str(head.token), *arguments]  # fmt: skip


def start(work: Path, line: list[str], **pipes: int) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_A", "AWS_", "MLFLOW_TR"))}
    environment = clean | {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes
    return subprocess.Popen(line, cwd=work, env=environment, text=True, start_new_session=True, **given)


def steps(count: int) -> str:
    return "".join(f"step {step}/{count}\n" for step in range(count))


def said_by_job(output: str) -> str:
    """What stands after Ray's own lines, with which the log begins."""
    return output.partition("python job.py 24 ")[2].partition("\n")[2]


def listed(head: Head, work: Path) -> dict[str, dict]:
    output, errors = start(work, command(head, head.dashboard, "jobs", "--json")).communicate(timeout=60)
    assert output, errors
    return {row["job"]: row for row in json.loads(output)}


def test_a_cut_stream_neither_hides_nor_repeats_a_line_and_the_exit_code_is_that_of_the_job(head: Head, work: Path):
    proxy = CuttingProxy(head.dashboard)
    submitted = [
        start(work, command(head, proxy.port, "submit", "--name", name, "--", "python", "job.py", "24", code))
        for name, code in (("good", "0"), ("bad", "3"))
    ]

    beginnings = [following.stdout.readline() for following in submitted]
    cut = proxy.cut()
    # not communicate(), which would lose what readline() has read ahead
    outputs = [beginning + following.stdout.read() for beginning, following in zip(beginnings, submitted, strict=True)]
    errors = [following.stderr.read() for following in submitted]
    proxy.close()

    assert cut >= 2
    assert [following.wait(timeout=60) for following in submitted] == [0, 1]
    assert [said_by_job(output) for output in outputs] == [steps(24), steps(24)]
    assert errors[1].splitlines()[-1].startswith("error: job bad failed")


def test_the_same_name_and_command_again_follows_the_job_that_is_there_and_another_command_is_refused(head, work):
    submit = command(head, head.dashboard, "submit", "--name", "good", "--", "python", "job.py", "24")
    again, other = start(work, [*submit, "0"]), start(work, [*submit, "1"])
    (output, errors), (_, refusal) = again.communicate(timeout=60), other.communicate(timeout=60)

    assert (again.returncode, said_by_job(output)) == (0, steps(24))
    assert "job good is there already" in errors
    assert other.returncode == 1
    assert "the cluster refused the job" in refusal


def test_ctrl_c_asks_and_a_job_that_is_stopped_ends_as_such(head: Head, work: Path):
    ours, theirs = pty.openpty()
    line = command(head, head.dashboard, "submit", "--name", "asked", "--", "python", "job.py", "2400", "0")
    following = start(work, line, stdin=theirs, stderr=theirs)
    os.close(theirs)
    following.stdout.readline()

    following.send_signal(signal.SIGINT)
    said = b""
    while b"further?" not in said:
        said += os.read(ours, 1024)
    os.write(ours, b"s\n")
    following.stdout.read()

    assert following.wait(timeout=60) == 1
    assert listed(head, work)["asked"]["state"] == "STOPPED"
    os.close(ours)


def test_jobs_shows_states_and_steps_and_no_other_token_is_asked_for(head: Head, work: Path):
    rows = listed(head, work)

    assert {name: rows[name]["state"] for name in ("good", "bad")} == {"good": "SUCCEEDED", "bad": "FAILED"}
    assert (rows["good"]["step"], rows["good"]["steps"]) == (23, 24)
    assert rows["good"]["command"] == "python job.py 24 0"


def test_a_head_that_is_started_anew_is_waited_for_and_the_loss_of_the_job_said(head: Head, work: Path):
    line = command(head, head.dashboard, "submit", "--name", "lost", "--", "python", "job.py", "2400", "0")
    following = start(work, line)
    following.stdout.readline()

    head.stop()
    head.start()
    _, errors = following.communicate(timeout=120)

    assert following.returncode == 1
    assert "the cluster does not answer; waiting" in errors
    assert errors.splitlines()[-1].startswith("error: the cluster does not know job lost any more")
