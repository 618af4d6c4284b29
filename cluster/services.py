"""The three embedded services: how each is started, and how one sees that it answers.

All listen on 127.0.0.1 only. SeaweedFS stands for an S3 service, MLflow keeps its database in SQLite and its artifacts
in the bucket, and Ray is one head node. On a cluster each is replaced by the real one; jobs see the same environment
variables.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import stat
import sysconfig
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import s3fs
from botocore.exceptions import BotoCoreError, ClientError

from cluster.config import UpSettings
from cluster.state import Credentials, StateFolder
from dataprep.runtime.command_line import UserError

LOOPBACK = "127.0.0.1"
BUCKET = "bulkformer"
REGION = "us-east-1"
_ANSWER_SECONDS = 5.0
# A Unix socket's path may have 107 characters (103 on macOS); Ray appends up to 64 to its folder.
_RAY_FOLDER_CHARACTERS = 39
# What Ray does for a cluster and not for those who train, less often or not at all: on a machine of two cores every
# process that wakes up takes the core from a worker that trains (docs/performance.md). The dashboard's charts move less
# often.
_RAY_ON_ONE_MACHINE = {
    "METRICS_RECORD_INTERVAL_S": "60",  # instead of 5: the dashboard's own memory
    "REPORTER_UPDATE_INTERVAL_MS": "15000",  # 5000: CPU and memory of all processes
    "SCAN_EVENT_DIR_INTERVAL_SECONDS": "10",  # 2
    "RAY_metrics_report_interval_ms": "60000",  # 10000: every process to the agent, for a Prometheus that asks for it
    # idle processes that are kept; Ray's own number is that of the CPU slots, and here those are more than the cores
    "RAY_num_workers_soft_limit": str(os.cpu_count() or 1),
    # an actor of each training that asks whether a machine is to be taken away: not the only one
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
# These would send a client elsewhere or with other credentials than ours.
FOREIGN_VARIABLES = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL_S3",
    "MLFLOW_RUN_ID",
    "MLFLOW_S3_ENDPOINT_URL",
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_TOKEN",
)


@dataclass(frozen=True)
class Place:
    """Where and with what the services run."""

    folder: StateFolder
    ports: dict[str, int]
    credentials: Credentials
    settings: UpSettings

    def address(self, port: str) -> str:
        return f"http://{LOOPBACK}:{self.ports[port]}"


class Service(Protocol):
    """One embedded service."""

    name: str
    # its ports by name, with the usual number or None for any; the first one is the service's address
    ports: Mapping[str, int | None]

    def prepare(self, place: Place) -> list[str]:
        """Write the files it needs and return its command line; it runs in a folder of its name in the state."""

    def environment(self, place: Place) -> dict[str, str]: ...

    def answers(self, place: Place) -> bool: ...

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        """Remove what the service leaves outside the state folder, or needs no longer, when it is ended."""


class ObjectStore:
    """SeaweedFS: master, volume server, filer and S3 gateway in one process."""

    name = "s3"
    ports: Mapping[str, int | None] = {
        "s3": 8333,
        "s3_grpc": None,
        "s3_master": None,
        "s3_master_grpc": None,
        "s3_volume": None,
        "s3_volume_grpc": None,
        "s3_filer": None,
        "s3_filer_grpc": None,
    }

    def prepare(self, place: Place) -> list[str]:
        home = place.folder.path / "s3"
        (home / "data").mkdir(mode=0o700, exist_ok=True)
        place.folder.write_private("s3/identities.json", json.dumps(_identities(place.credentials)))
        place.folder.write_private("s3/security.toml", _internal_keys(place.credentials))
        port = place.ports
        return [
            _program("weed"),
            f"-logdir={home}",
            "-logtostderr=true",
            "server",
            f"-dir={home / 'data'}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-master.telemetry=false",
            # the only master still waits this long for others before it elects itself
            "-master.electionTimeout=1s",
            f"-master.port={port['s3_master']}",
            f"-master.port.grpc={port['s3_master_grpc']}",
            # every bucket takes volumes of its own; they are not allocated in advance
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=200",
            "-volume.preStopSeconds=0",
            f"-volume.port={port['s3_volume']}",
            f"-volume.port.grpc={port['s3_volume_grpc']}",
            "-filer",
            f"-filer.port={port['s3_filer']}",
            f"-filer.port.grpc={port['s3_filer_grpc']}",
            "-s3",
            f"-s3.port={port['s3']}",
            f"-s3.port.grpc={port['s3_grpc']}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={home / 'identities.json'}",
            "-s3.iam=false",
            # a misspelt bucket is an error here, as it is in the cloud
            "-s3.autoCreateBucket=false",
        ]

    def environment(self, place: Place) -> dict[str, str]:
        # AWS_* in the environment would be a second identity of the gateway
        return {name: value for name, value in _own_environment().items() if not name.startswith("AWS_")}

    def answers(self, place: Place) -> bool:
        """Whether an object can be written; the bucket is made on the way."""
        client = s3fs.S3FileSystem(
            **storage_options(place),
            config_kwargs={
                "connect_timeout": _ANSWER_SECONDS,
                "read_timeout": _ANSWER_SECONDS,
                "retries": {"max_attempts": 0},
            },
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        try:
            if not client.exists(BUCKET):
                client.mkdir(BUCKET)
            client.pipe_file(f"{BUCKET}/.answers", b"")
        except (OSError, ClientError, BotoCoreError):
            return False
        return True

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        # SeaweedFS puts sockets into /tmp, whatever it is told, and leaves them when it is ended
        for name, port in ports.items():
            if name in self.ports:
                for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
                    if socket.stat().st_uid == os.getuid():
                        socket.unlink(missing_ok=True)


class Tracking:
    """MLflow server. Clients send artifacts to it and need no credentials of the bucket."""

    name = "mlflow"
    ports: Mapping[str, int | None] = {"mlflow": 5000}

    def prepare(self, place: Place) -> list[str]:
        home = place.folder.path / "mlflow"
        return [
            _program("mlflow"),
            "server",
            f"--backend-store-uri=sqlite:///{home / 'mlflow.db'}",
            f"--artifacts-destination=s3://{BUCKET}/mlflow",
            f"--host={LOOPBACK}",
            f"--port={place.ports['mlflow']}",
            # SQLite has one writer: more would only wait for each other
            "--workers=1",
        ]

    def environment(self, place: Place) -> dict[str, str]:
        environment = {**_own_environment(), **job_environment(place), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        del environment["MLFLOW_TRACKING_URI"]
        return environment

    def answers(self, place: Place) -> bool:
        return _get(f"{place.address('mlflow')}/health") == b"OK"

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        return


class RayHead:
    """Ray's head node with its dashboard. Every request needs the token."""

    name = "ray"
    ports: Mapping[str, int | None] = {
        "dashboard": 8265,
        "ray": 6379,
        "ray_client": 10001,
        "ray_agent": None,
    }

    def prepare(self, place: Place) -> list[str]:
        place.folder.write_private(place.folder.token_file.name, place.credentials.ray_token)
        home = ray_folder(place.folder)
        home.mkdir(mode=0o700, exist_ok=True)
        settings = place.settings
        return [
            _program("ray"),
            "start",
            "--head",
            "--block",
            f"--temp-dir={home}",
            f"--node-ip-address={LOOPBACK}",
            f"--port={place.ports['ray']}",
            f"--ray-client-server-port={place.ports['ray_client']}",
            f"--dashboard-host={LOOPBACK}",
            f"--dashboard-port={place.ports['dashboard']}",
            f"--dashboard-agent-listen-port={place.ports['ray_agent']}",
            # any free port: the usual range would meet that of another Ray on this machine
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--num-cpus={settings.cpus}",
            f"--object-store-memory={settings.object_store_megabytes * 2**20}",
            "--disable-usage-stats",
            "--log-color=false",
            # it sends what workers print to drivers, and ours ask for none of it; logs of jobs do not go through it
            "--include-log-monitor=false",
        ]

    def environment(self, place: Place) -> dict[str, str]:
        environment = {**_RAY_ON_ONE_MACHINE, **_own_environment(), **job_environment(place)}
        # jobs are to ask the cluster that runs them, under the address that Ray gives them
        del environment["RAY_ADDRESS"], environment["RAY_API_SERVER_ADDRESS"]
        # what `ray job stop` leaves a job for its last checkpoint; Ray's own 3 s would be the end of it
        environment["RAY_JOB_STOP_WAIT_TIME_S"] = "600"
        # as in dataprep.runtime.ray_session, for all workers at once: their processes can then be used again
        environment["MALLOC_ARENA_MAX"] = "1"
        return environment

    def answers(self, place: Place) -> bool:
        nodes = _get(f"{place.address('dashboard')}/nodes?view=summary", place.credentials.ray_token)
        return nodes is not None and b'"ALIVE"' in nodes

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        # the next head makes a session of its own; of this one only the logs are of use
        home = ray_folder(folder)
        logs, kept = home / "session_latest" / "logs", folder.path / "logs" / "ray-session"
        if logs.is_dir():
            shutil.rmtree(kept, ignore_errors=True)
            shutil.move(logs.resolve(), kept)
        shutil.rmtree(home, ignore_errors=True)
        if home.parent != folder.path:
            home.parent.rmdir()


SERVICES: tuple[Service, ...] = (ObjectStore(), Tracking(), RayHead())


def job_environment(place: Place) -> dict[str, str]:
    """What a shell or a job needs to use the services.

    Ray's head is started with it, so that jobs and their workers inherit it. It never goes into a runtime
    environment, which everybody who can open the dashboard can read.
    """
    return {
        "AWS_ACCESS_KEY_ID": place.credentials.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": place.credentials.s3_secret_key,
        "AWS_ENDPOINT_URL": place.address("s3"),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "MLFLOW_TRACKING_URI": place.address("mlflow"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_ADDRESS": f"{LOOPBACK}:{place.ports['ray']}",
        "RAY_API_SERVER_ADDRESS": place.address("dashboard"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(place.folder.token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Makes Ray take 127.0.0.1 as the node's address and listen there only, as it does on macOS. With the
        # machine's own address it would listen on every interface.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        **_without_proxy(),
    }


def _without_proxy() -> dict[str, str]:
    """A proxy of the site cannot reach this machine's loopback."""
    exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    value = ",".join(filter(None, (exceptions, LOOPBACK, "localhost")))
    return {"NO_PROXY": value, "no_proxy": value}


def storage_options(place: Place) -> dict[str, str]:
    """Arguments of s3fs for the embedded object store."""
    return {
        "key": place.credentials.s3_access_key,
        "secret": place.credentials.s3_secret_key,
        "endpoint_url": place.address("s3"),
    }


def ray_folder(folder: StateFolder) -> Path:
    """Ray's folder for sessions, sockets and logs: in the state folder where the path is short enough for sockets."""
    inside = folder.path / "ray"
    if len(str(inside)) <= _RAY_FOLDER_CHARACTERS:
        return inside
    digest = sha256(str(folder.path).encode()).hexdigest()[:8]
    # Ray opens its own folder to everybody, so it gets one below ours
    private = Path("/tmp") / f"bulkformer-{digest}"  # noqa: S108
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.lstat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != 0o700 or private.is_symlink():
        raise UserError(f"{private}, which Ray is to use, belongs to somebody else; choose a shorter --state")
    return private / "ray"


def _identities(credentials: Credentials) -> dict[str, object]:
    return {
        "identities": [
            {
                "name": "bulkformer",
                "credentials": [{"accessKey": credentials.s3_access_key, "secretKey": credentials.s3_secret_key}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }


def _internal_keys(credentials: Credentials) -> str:
    """Have the filer and volume servers behind the gateway refuse whoever does not hold the key."""
    sections = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    return "".join(f'[{section}]\nkey = "{credentials.s3_internal_key}"\n' for section in sections)


def _own_environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    # jobs find `python` on the PATH of Ray's head: it has to be the one of this environment
    environment["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    return environment


def _program(name: str) -> str:
    found = shutil.which(name, path=_own_environment()["PATH"])
    if found is None:
        raise UserError(f"{name} is not installed here: pip install 'bulkformer-ray[services]'")
    return found


def _get(url: str, token: str | None = None) -> bytes | None:
    """Body of an answer with status 200, else None."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
            return bytes(answer.read())
    except (OSError, http.client.HTTPException):
        return None
