"""MLflow as the embedded tracking server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from cluster.local.service import BUCKET, LOOPBACK, Place, get, job_environment, own_environment, program
from cluster.local.state import StateFolder
from cluster.local.tracking_app import basic_authorization
from dataprep.runtime.command_line import UserError

# the name of cluster.local.tracking_app among MLflow's plugins, in pyproject.toml
_APP = "bulkformer"
_CODE = Path(__file__).parents[2]


class Tracking:
    """MLflow server behind a password. Clients send artifacts to it and need no credentials of the bucket."""

    name = folder = "mlflow"
    ports: Mapping[str, int | None] = {"mlflow": 5000}

    def prepare(self, place: Place) -> list[str]:
        if not entry_points(group="mlflow.app", name=_APP):
            raise UserError("this version is not installed here: `make install`, or `pip install` as before")
        return [
            program("mlflow"),
            "server",
            f"--app-name={_APP}",
            # below its working directory: special characters of the path to it would mean something in an address
            "--backend-store-uri=sqlite:///mlflow.db",
            f"--artifacts-destination=s3://{BUCKET}/mlflow",
            f"--host={LOOPBACK}",
            f"--port={place.ports['mlflow']}",
            # SQLite has one writer: more would only wait for each other
            "--workers=1",
        ]

    def environment(self, place: Place) -> dict[str, str]:
        environment = {**own_environment(), **job_environment(place), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        del environment["MLFLOW_TRACKING_URI"]
        # the application of this very code, also where another copy of it is the installed one
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_CODE), environment.get("PYTHONPATH"))))
        return environment

    def answers(self, place: Place) -> bool:
        variables = job_environment(place)
        authorization = basic_authorization(
            variables["MLFLOW_TRACKING_USERNAME"], variables["MLFLOW_TRACKING_PASSWORD"]
        )
        return get(f"{place.address('mlflow')}/health", authorization) == b"OK"

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        return
