"""The embedded services as a user has them: up, used, damaged, up again, down."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import s3fs
from local_services import started_processes
from running_jobs import wait_until
from stranger import grpc_call, http_request, listening_ports, needs_root, outcomes

from cluster.__main__ import run
from cluster.config import DownSettings, UpSettings
from cluster.local.lifecycle import SERVICES, down, stop, up
from cluster.local.object_store import ObjectStore
from cluster.local.state import StateFolder

ROOT = Path(__file__).parents[3]
MAIN_PORTS = {"s3": "s3", "mlflow": "mlflow", "ray": "dashboard"}
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

ACTOR = """
import ray, time
ray.init(log_to_driver=False)
@ray.remote
class Napper:
    def nap(self): time.sleep(600)
ray.get(Napper.remote().nap.remote())
"""
RAY_CALLS = (
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/ShutdownRaylet",
    "/ray.rpc.ObjectManagerService/FreeObjects",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.CoreWorkerService/Exit",
    "/ray.rpc.LogService/ListLogs",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.RayletDriver/ClusterInfo",
    "/ray.rpc.RayletDataStreamer/Datapath",
)
RAY_REQUESTS = (
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/logs"),
    ("GET", "/api/jobs/"),
    ("GET", "/api/v0/tasks"),
    ("GET", "/worker/traceback?pid=1"),
    ("GET", "/api/packages/gcs/x.zip"),
    ("POST", "/api/job_agent/jobs/"),
    ("POST", "/get_or_create_runtime_env"),
    ("DELETE", "/api/jobs/long"),
)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """State folder of services that are up. In a deep folder, so Ray's sockets have to go elsewhere."""
    folder = tmp_path_factory.mktemp("a-folder-with-a-rather-long-name") / ".local"
    up(UpSettings(state=folder))
    yield folder
    down(DownSettings(state=folder, grace_seconds=2))


def cluster(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m cluster`` as a user would, without the variables of this session."""
    foreign = ("AWS_", "RAY_A", "MLFLOW_TR")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    command = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, timeout=300)


def pids(state: Path) -> dict[str, int]:
    return {name: process.pid for name, process in StateFolder.at(state).read().processes.items()}


def address(state: Path, port: str) -> str:
    return f"http://127.0.0.1:{StateFolder.at(state).read().ports[port]}"


def secrets_of(state: Path) -> list[str]:
    return list(vars(StateFolder.at(state).credentials()).values())


def get(url: str, token: str | None = None) -> str:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        return answer.read().decode()


def http_status(url: str, token: str | None = None) -> int:
    try:
        get(url, token)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def test_everything_listens_on_loopback_only(state: Path):
    listening = {
        connection.laddr.ip
        for process in started_processes(state)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }
    assert listening
    assert listening <= LOOPBACK


def test_no_file_of_the_state_can_be_opened_by_others(state: Path):
    assert state.stat().st_mode & 0o777 == 0o700
    secret = [path for path in state.iterdir() if path.is_file()]
    assert {"credentials.json", "env", "ray-token", "state.json"} <= {path.name for path in secret}
    assert not [path for path in secret if path.stat().st_mode & 0o077]


def test_a_second_up_leaves_what_runs_alone(state: Path):
    before, environment = pids(state), (state / "env").read_text()

    again = cluster("up", "--state", str(state))

    assert again.returncode == 0, again.stderr
    assert again.stderr.count("already running") == len(SERVICES)
    assert again.stdout.splitlines() == [f"{name:<7} {address(state, port)}" for name, port in MAIN_PORTS.items()]
    assert pids(state) == before
    assert (state / "env").read_text() == environment


def test_status_shows_all_services_and_no_secret(state: Path):
    table = cluster("status", "--state", str(state))
    as_json = cluster("status", "--state", str(state), "--json")

    assert table.returncode == 0, table.stderr
    assert all(service.name in table.stdout for service in SERVICES)
    assert not table.stderr
    rows = json.loads(as_json.stdout)
    assert {row["service"]: row["pid"] for row in rows} == pids(state)
    assert all(row["answers"] for row in rows)
    assert not [secret for secret in secrets_of(state) if secret in table.stdout + as_json.stdout + as_json.stderr]


def test_the_object_store_refuses_wrong_credentials_and_unknown_buckets(state: Path):
    credentials = StateFolder.at(state).credentials()
    wrong = s3fs.S3FileSystem(
        key=credentials.s3_access_key, secret="wrong", endpoint_url=address(state, "s3"), skip_instance_cache=True
    )
    with pytest.raises(PermissionError):
        wrong.ls("bulkformer")

    right = s3fs.S3FileSystem(
        key=credentials.s3_access_key,
        secret=credentials.s3_secret_key,
        endpoint_url=address(state, "s3"),
        skip_instance_cache=True,
    )
    with pytest.raises(FileNotFoundError):
        right.pipe_file("misspelt/x", b"")


@pytest.mark.parametrize("path", ["/api/jobs/", "/nodes?view=summary", "/api/packages/gcs/x.zip"])
def test_ray_refuses_a_missing_and_a_wrong_token(state: Path, path: str):
    url = address(state, "dashboard") + path

    assert http_status(url) == 401
    assert http_status(url, "0" * 64) == 403
    assert http_status(url, StateFolder.at(state).credentials().ray_token) in (200, 404)


def test_a_job_that_succeeds_exits_0_and_one_that_fails_exits_1(state: Path):
    script = 'import sys; print("given:", sys.argv[1:]); sys.exit(int(sys.argv[1] == "3"))'

    good = cluster("submit", "--state", str(state), "--json", "--", "python", "-c", script, "--a_b", "c d, [e]")
    bad = cluster("submit", "--state", str(state), "--name", "bad", "--", "python", "-c", script, "3")

    assert good.returncode == 0, good.stderr
    assert "given: ['--a_b', 'c d, [e]']" in good.stdout
    assert json.loads(good.stdout.splitlines()[-1])["status"] == "SUCCEEDED"
    assert bad.returncode == 1
    assert bad.stderr.splitlines()[-1].startswith("error: job bad failed")


def test_a_job_and_its_tasks_have_the_credentials_without_being_sent_them(state: Path, tmp_path: Path):
    (tmp_path / "job.py").write_text(
        "import os, sys, ray\n"
        "ray.init(log_to_driver=False)\n"
        "@ray.remote\n"
        "def names():\n"
        "    return [name for name in os.environ if name.startswith(('AWS_', 'MLFLOW_TR'))], sys.executable\n"
        "print('driver', names._function())\n"
        "print('task', ray.get(names.remote()))\n"
        "print('runtime env', ray.get_runtime_context().runtime_env)\n"
    )

    job = cluster("submit", "--state", str(state), "--name", "inherits", "--working-dir", str(tmp_path), "--",
                  "python", "job.py")  # fmt: skip

    assert job.returncode == 0, job.stderr + job.stdout
    for where in ("driver", "task"):
        line = next(line for line in job.stdout.splitlines() if line.startswith(where))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI"):
            assert name in line
        # it may be reached through a link
        assert any(str(prefix) in line for prefix in (sys.prefix, Path(sys.prefix).resolve()))
    assert not [secret for secret in secrets_of(state) if secret in job.stdout + job.stderr]


def test_ctrl_c_leaves_the_job_running_and_says_how_to_end_it(state: Path):
    command = [sys.executable, "-m", "cluster", "submit", "--state", str(state), "--name", "long", "--", "sleep", "600"]

    def hear_interrupts() -> None:
        # a background process of a shell, as CI may be, is started deaf to them, and so are its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    ) as following:
        assert "job long submitted" in following.stderr.readline()
        time.sleep(2)
        following.send_signal(signal.SIGINT)
        message = following.stderr.read()

    assert following.returncode == 1
    assert message.startswith("error: job long keeps running; ")
    token = StateFolder.at(state).credentials().ray_token
    assert '"status": "STOPPED"' not in get(f"{address(state, 'dashboard')}/api/jobs/long", token)
    assert '"status": "FAILED"' not in get(f"{address(state, 'dashboard')}/api/jobs/long", token)


def test_what_ray_tells_of_its_jobs_holds_no_secret(state: Path):
    answer = get(f"{address(state, 'dashboard')}/api/jobs/", StateFolder.at(state).credentials().ray_token)

    assert "inherits" in answer
    assert not [secret for secret in secrets_of(state) if secret in answer]


def has_worker(head: psutil.Process) -> bool:
    """Whether the actor of the job below is at work; other processes may come and go meanwhile."""
    for child in head.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "Napper" in " ".join(child.cmdline()):
                return True
    return False


@needs_root
def test_no_port_of_ray_does_anything_for_another_user(state: Path):
    """With a job at work (the one that goes on after ctrl-C), so that there are workers as well."""
    submitted = cluster("submit", "--state", str(state), "--detach", "--", "python", "-c", ACTOR)
    assert submitted.returncode == 0, submitted.stderr
    head = psutil.Process(pids(state)["ray"])
    wait_until(lambda: has_worker(head), 90, lambda: "the job has no worker")
    ports = listening_ports([head, *head.children(recursive=True)])
    assert len(ports) > 10
    calls = [grpc_call(port, method) for port in ports for method in RAY_CALLS]
    requests = [http_request(port, *request) for port in ports for request in RAY_REQUESTS]

    answers = outcomes([*calls, *requests])

    # by a port of another protocol, or by one that has no such method
    refused = ("UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE", "UNKNOWN")
    assert not [answer for answer in answers[: len(calls)] if not answer.startswith(refused)]
    assert any(answer.startswith("UNAUTHENTICATED") for answer in answers)
    public = ("# HELP", "success", "raylet: success", "<!doctype html>")  # measurements, health, the empty dashboard
    given = [answer for answer in answers[len(calls) :] if answer.startswith("2")]
    assert not [answer for answer in given if not answer.removeprefix("200 ").startswith(public)]
    assert not [secret for secret in secrets_of(state) if any(secret in answer for answer in answers)]
    assert cluster("status", "--state", str(state)).returncode == 0


def test_the_submission_command_of_ray_works_with_the_settings_of_the_shell(state: Path):
    script = f'. {state}/env && ray job submit --working-dir . -- python -c "import pretrain; print(pretrain.__file__)"'
    environment = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}

    shell = subprocess.run(["sh", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)

    assert shell.returncode == 0, shell.stderr
    # the copy that was sent along, not what happens to be installed
    assert "working_dir_files" in shell.stdout


def test_logs_hold_no_secret(state: Path):
    for log in (state / "logs").glob("*.log"):
        content = log.read_text(errors="replace")
        assert not [secret for secret in secrets_of(state) if secret in content], log


def test_a_service_that_died_is_started_again_and_the_others_stay(state: Path):
    before = pids(state)
    psutil.Process(before["mlflow"]).kill()
    assert cluster("status", "--state", str(state)).returncode == 1

    again = cluster("up", "--state", str(state))

    assert again.returncode == 0, again.stderr
    after = pids(state)
    assert after["mlflow"] != before["mlflow"]
    assert {**after, "mlflow": before["mlflow"]} == before
    assert cluster("status", "--state", str(state)).returncode == 0


def test_a_ray_head_that_lost_its_parent_process_is_replaced_as_a_whole(state: Path):
    before = {process.pid for process in started_processes(state)}
    psutil.Process(pids(state)["ray"]).kill()

    again = cluster("up", "--state", str(state))

    assert again.returncode == 0, again.stderr
    raylets = [process for process in started_processes(state) if process.name() == "raylet"]
    assert len(raylets) == 1
    assert raylets[0].pid not in before


def test_down_leaves_no_process_and_keeps_the_data(state: Path):
    # a job in a session of its own that ignores being asked to end
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    assert cluster("submit", "--state", str(state), "--detach", "--", "python", "-c", script).returncode == 0
    running = started_processes(state)
    assert len(running) > 10

    ended = cluster("down", "--state", str(state), "--grace-seconds", "2")

    assert ended.returncode == 0, ended.stderr
    assert not started_processes(state)
    assert not [process for process in running if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert (state / "mlflow" / "mlflow.db").exists()
    assert list((state / "logs" / "ray-session").iterdir())
    ports = StateFolder.at(state).read().ports
    # of its own ports: what another one, killed long ago, has left may have the number of one of Ray's
    sockets = [Path("/tmp").glob(f"seaweedfs-*-{ports[name]}.sock") for name in ObjectStore.ports]
    assert not [socket for of_port in sockets for socket in of_port]


def test_down_can_be_repeated_and_status_then_says_that_nothing_runs(state: Path):
    again = cluster("down", "--state", str(state))

    assert again.returncode == 0
    assert "nothing was running" in again.stderr
    assert cluster("status", "--state", str(state)).returncode == 1


def test_data_and_address_outlive_down_and_up_and_delete_data_removes_all(tmp_path: Path):
    store, settings = ObjectStore(), UpSettings(state=tmp_path / "s")
    before = up(settings, [store])
    write(tmp_path / "s", b"kept")
    down(DownSettings(state=tmp_path / "s"))

    assert up(settings, [store]) == before
    assert read(tmp_path / "s") == b"kept"

    down(DownSettings(state=tmp_path / "s", delete_data=True))
    assert not (tmp_path / "s").exists()
    assert not started_processes(tmp_path / "s")


def test_a_taken_port_is_avoided(tmp_path: Path):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # whoever has the usual port, it is not free
        with contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", 8333))
            taken.listen()
        addresses = up(UpSettings(state=tmp_path / "s"), [ObjectStore()])
        down(DownSettings(state=tmp_path / "s", grace_seconds=0))
    assert addresses["s3"] != "http://127.0.0.1:8333"


def test_a_state_left_by_a_machine_that_was_rebooted_ends_nobody_and_starts_anew(tmp_path: Path):
    store, folder = ObjectStore(), StateFolder.at(tmp_path / "s")
    up(UpSettings(state=folder.path), [store])
    stop(store, folder, folder.read())
    with subprocess.Popen(["sleep", "600"]) as bystander:
        # after the reboot another program has the pid
        content = json.loads((folder.path / "state.json").read_text())
        content["processes"]["s3"]["pid"] = bystander.pid
        content["processes"]["s3"]["started_at"] -= 3600
        (folder.path / "state.json").write_text(json.dumps(content))

        up(UpSettings(state=folder.path), [store])
        assert pids(folder.path)["s3"] != bystander.pid
        down(DownSettings(state=folder.path, delete_data=True, grace_seconds=0))

        assert bystander.poll() is None
        bystander.kill()


def test_down_finds_the_services_without_their_state(tmp_path: Path):
    up(UpSettings(state=tmp_path / "s"), [ObjectStore()])
    (tmp_path / "s" / "state.json").write_text("damaged")

    down(DownSettings(state=tmp_path / "s", grace_seconds=1))

    assert not started_processes(tmp_path / "s")


def test_a_service_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path, capsys):
    StateFolder.at(tmp_path / "s").make()
    StateFolder.at(tmp_path / "s").credentials()
    (tmp_path / "s" / "s3" / "data").mkdir(parents=True)
    # a file where a folder should be
    (tmp_path / "s" / "s3" / "data" / "filerldb2").write_text("not a database")

    code = run(["up", "--state", str(tmp_path / "s"), "--timeout-seconds", "20"])
    run(["down", "--state", str(tmp_path / "s")])

    error = capsys.readouterr().err
    assert code == 1
    assert "error: s3 ended while it was starting. The end of" in error
    assert "filerldb2" in error


def write(state: Path, content: bytes) -> None:
    _bucket(state).pipe_file("bulkformer/x", content)


def read(state: Path) -> bytes:
    return _bucket(state).cat_file("bulkformer/x")


def _bucket(state: Path) -> s3fs.S3FileSystem:
    credentials = StateFolder.at(state).credentials()
    return s3fs.S3FileSystem(
        key=credentials.s3_access_key,
        secret=credentials.s3_secret_key,
        endpoint_url=address(state, "s3"),
        skip_instance_cache=True,
    )
