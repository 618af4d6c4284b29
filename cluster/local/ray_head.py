"""The embedded Ray head."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from cluster.local.service import LOOPBACK, Place, get, job_environment, own_environment, program
from cluster.local.state import StateFolder
from dataprep.runtime.command_line import UserError

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
            program("ray"),
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
        environment = {**_RAY_ON_ONE_MACHINE, **own_environment(), **job_environment(place)}
        # jobs are to ask the cluster that runs them, under the address that Ray gives them
        del environment["RAY_ADDRESS"], environment["RAY_API_SERVER_ADDRESS"]
        # what `ray job stop` leaves a job for its last checkpoint; Ray's own 3 s would be the end of it
        environment["RAY_JOB_STOP_WAIT_TIME_S"] = "600"
        # as in dataprep.runtime.allocator, for all workers at once: their processes can then be used again
        environment["MALLOC_ARENA_MAX"] = "1"
        return environment

    def answers(self, place: Place) -> bool:
        nodes = get(f"{place.address('dashboard')}/nodes?view=summary", place.credentials.ray_token)
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
