"""What the embedded services have in common.

All listen on 127.0.0.1 only. SeaweedFS stands for an S3 service, MLflow keeps its database in SQLite and its artifacts
in the bucket, and Ray is a head node, with further nodes where they are asked for. On a cluster each is replaced by the
real one; jobs see the same environment variables.
"""

from __future__ import annotations

import http.client
import os
import shutil
import sysconfig
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.config import UpSettings
from cluster.local.state import Credentials, StateFolder
from dataprep.runtime.command_line import UserError

LOOPBACK = "127.0.0.1"
BUCKET = "bulkformer"
REGION = "us-east-1"
MLFLOW_USER = "bulkformer"
ANSWER_SECONDS = 5.0
# These would send a client elsewhere or with other credentials than ours.
FOREIGN_VARIABLES = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL_S3",
    "MLFLOW_RUN_ID",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_TOKEN",
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
    # where it runs, in the state folder
    folder: str
    # its ports by name, with the usual number or None for any; the first one is the service's address
    ports: Mapping[str, int | None]

    def prepare(self, place: Place) -> list[str]:
        """Write the files it needs and return its command line."""

    def environment(self, place: Place) -> dict[str, str]: ...

    def answers(self, place: Place) -> bool: ...

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        """Remove what the service leaves outside the state folder, or needs no longer, when it is ended."""


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
        "MLFLOW_TRACKING_USERNAME": MLFLOW_USER,
        "MLFLOW_TRACKING_PASSWORD": place.credentials.mlflow_password,
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


def own_environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    # jobs find `python` on the PATH of Ray's head: it has to be the one of this environment
    environment["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    return environment


def program(name: str) -> str:
    found = shutil.which(name, path=own_environment()["PATH"])
    if found is None:
        raise UserError(f"{name} is not installed here: pip install 'bulkformer-ray[services]'")
    return found


def get(url: str, authorization: str) -> bytes | None:
    """Body of an answer with status 200, else None."""
    request = urllib.request.Request(url, headers={"Authorization": authorization})  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as answer:
            return bytes(answer.read())
    except (OSError, http.client.HTTPException):
        return None
