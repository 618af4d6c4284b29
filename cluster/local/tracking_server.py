"""MLflow as the embedded tracking server."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.local.service import BUCKET, LOOPBACK, Place, get, job_environment, own_environment, program
from cluster.local.state import StateFolder


class Tracking:
    """MLflow server. Clients send artifacts to it and need no credentials of the bucket."""

    name = "mlflow"
    ports: Mapping[str, int | None] = {"mlflow": 5000}

    def prepare(self, place: Place) -> list[str]:
        home = place.folder.path / "mlflow"
        return [
            program("mlflow"),
            "server",
            f"--backend-store-uri=sqlite:///{home / 'mlflow.db'}",
            f"--artifacts-destination=s3://{BUCKET}/mlflow",
            f"--host={LOOPBACK}",
            f"--port={place.ports['mlflow']}",
            # SQLite has one writer: more would only wait for each other
            "--workers=1",
        ]

    def environment(self, place: Place) -> dict[str, str]:
        environment = {**own_environment(), **job_environment(place), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        del environment["MLFLOW_TRACKING_URI"]
        return environment

    def answers(self, place: Place) -> bool:
        return get(f"{place.address('mlflow')}/health") == b"OK"

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        return
