"""The embedded Ray head."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from cluster.local.service import LOOPBACK, Place, get, job_environment, own_environment, program
from cluster.local.state import StateFolder
from dataprep.runtime.allocator import malloc_settings
from dataprep.runtime.command_line import UserError

# A Unix socket's path may have 107 characters (103 on macOS); Ray appends up to 64 to its folder.
_RAY_FOLDER_CHARACTERS = 39
# Python's multiprocessing, which Ray's dashboard uses, appends up to 32 to the folder of temporary files.
_TEMPORARY_FOLDER_CHARACTERS = 70
# Ray puts the path of its folder into command lines that it splits at blanks.
_PLAIN_PATH = re.compile(r"[\w./+-]+", re.ASCII)


class RayHead:
    """Ray's head node with its dashboard. Every request needs the token."""

    name = folder = "ray"
    ports: Mapping[str, int | None] = {
        "dashboard": 8265,
        "ray": 6379,
        "ray_client": 10001,
        "ray_agent": None,
    }

    def prepare(self, place: Place) -> list[str]:
        place.folder.write_private(place.folder.token_file.name, place.credentials.ray_token)
        home = ray_folder(place.folder)
        _make_private(home.parent)
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
        ]

    def environment(self, place: Place) -> dict[str, str]:
        return node_environment(place)

    def answers(self, place: Place) -> bool:
        nodes = get(f"{place.address('dashboard')}/nodes?view=summary", f"Bearer {place.credentials.ray_token}")
        return nodes is not None and b'"ALIVE"' in nodes

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        # the next head makes a session of its own; of this one only the logs are of use
        home = ray_folder(folder)
        if not _is_private(home.parent):
            return
        logs, kept = home / "session_latest" / "logs", folder.path / "logs" / "ray-session"
        if logs.is_dir() and folder.is_ours:
            shutil.rmtree(kept, ignore_errors=True)
            shutil.move(logs.resolve(), kept)
        shutil.rmtree(home, ignore_errors=True)
        if home.parent != folder.path:
            home.parent.rmdir()


def node_environment(place: Place) -> dict[str, str]:
    """The environment of a node, which jobs and workers on it inherit."""
    environment = {**own_environment(), **job_environment(place)}
    # jobs are to ask the cluster that runs them, under the address that Ray gives them
    del environment["RAY_ADDRESS"], environment["RAY_API_SERVER_ADDRESS"]
    # what `ray job stop` leaves a job for its last checkpoint; Ray's own 3 s would be the end of it
    environment["RAY_JOB_STOP_WAIT_TIME_S"] = "600"
    # for all workers at once: their processes can then be used again
    environment.update(malloc_settings(environment))
    if len(environment.get("TMPDIR", "")) > _TEMPORARY_FOLDER_CHARACTERS:
        # as batch systems have it: sockets could not be made there, and the node would never be ready
        del environment["TMPDIR"]
    return environment


def ray_folder(folder: StateFolder) -> Path:
    """Ray's folder for sessions, sockets and logs: in the state folder, if the path to it is short and plain."""
    inside = folder.path / "ray"
    if len(str(inside)) <= _RAY_FOLDER_CHARACTERS and _PLAIN_PATH.fullmatch(str(inside)):
        return inside
    # Ray opens its own folder to everybody, so it gets one below ours
    return Path(f"/tmp/bulkformer-{sha256(str(folder.path).encode()).hexdigest()[:8]}/ray")  # noqa: S108


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(folder):
        raise UserError(f"{folder}, which Ray is to use, belongs to another user; choose a shorter --state")


def _is_private(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == 0o700
