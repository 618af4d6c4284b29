"""Settings of the cluster commands."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from dataprep.runtime.command_line import CommandSettings


def _default_cpus() -> int:
    return max(8, os.cpu_count() or 1)


class LocalSettings(CommandSettings):
    """What every command on the embedded services needs to know: where they keep their state."""

    state: Path = Field(Path(".local"), description="folder of credentials, logs and data of the embedded services")


class UpSettings(LocalSettings):
    """Settings of ``up``."""

    # Ray counts CPUs, it does not measure them. A training worker holds one for as long as it trains, and the tasks
    # that read and prepare its data need some at the same time: with only the two cores of a small machine on offer,
    # the workers would take both and wait for ever for data that no task may read.
    cpus: int = Field(
        default_factory=_default_cpus, ge=1, description="CPUs that Ray may allocate; more than there are cores is fine"
    )
    object_store_megabytes: int = Field(1024, ge=80, description="bound on the memory of Ray's object store")
    timeout_seconds: float = Field(180.0, gt=0, description="how long to wait for each service to answer")


class DownSettings(LocalSettings):
    """Settings of ``down``."""

    delete_data: bool = Field(False, description="also delete the bucket, the MLflow database, logs and credentials")
    grace_seconds: float = Field(5.0, ge=0, description="time between asking a process to end and ending it")


class StatusSettings(LocalSettings):
    """Settings of ``status``."""


class SubmitSettings(LocalSettings):
    """Settings of ``submit``; the command to run follows after ``--``."""

    address: str | None = Field(
        None, description="dashboard of the cluster, http://HOST:8265; without it RAY_API_SERVER_ADDRESS or the state"
    )
    token_file: Path | None = Field(
        None, description="file with the token of the cluster at --address; plain HTTP shows it to the network between"
    )
    working_dir: Path = Field(Path(), description="folder that is sent along and becomes the job's")
    name: str | None = Field(None, description="submission id of the job; generated if not given")
    wait: bool = Field(True, description="follow the log and exit as the job does")
