"""Settings of the cluster commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dataprep.runtime.command_line import CommandSettings, refuse_without_effect


def _default_cpus() -> int:
    return max(8, os.cpu_count() or 1)


class LocalSettings(CommandSettings):
    """What every command on the embedded services needs to know: where they keep their state."""

    state: Path = Field(Path(".local"), description="folder of credentials, logs and data of the embedded services")


class UpSettings(LocalSettings):
    """Settings of ``up``."""

    nodes: int = Field(
        1, ge=1, le=32, description="Ray nodes that there are to be at least, the head among them; to try losing one"
    )
    # Ray counts CPUs, it does not measure them. A training worker holds one for as long as it trains, and the tasks
    # that read and prepare its data need some at the same time: with only the two cores of a small machine on offer,
    # the workers would take both and wait for ever for data that no task may read.
    cpus: int = Field(
        default_factory=_default_cpus,
        ge=1,
        description="CPUs that Ray may allocate on each node; more than there are cores is fine",
    )
    object_store_megabytes: int = Field(1024, ge=80, description="bound on the memory of a node's object store")
    timeout_seconds: float = Field(180.0, gt=0, description="how long to wait for each service to answer")


class DownSettings(LocalSettings):
    """Settings of ``down``."""

    node: int | None = Field(
        None, ge=2, description="end only this Ray node, at once, as when its machine is lost; the head is node 1"
    )
    delete_data: bool = Field(False, description="also delete the bucket, the MLflow database, logs and credentials")
    grace_seconds: float = Field(5.0, ge=0, description="time between asking a process to end and ending it")

    @model_validator(mode="after")
    def _check(self) -> DownSettings:
        if self.node is not None:
            refuse_without_effect(self, ("delete_data", "grace_seconds"), "with --node")
        return self


class StatusSettings(LocalSettings):
    """Settings of ``status``."""


class CheckSettings(CommandSettings):
    """Settings of ``check``. A gigabyte has 10^9 bytes, a megabyte 10^6."""

    storage: str | None = Field(None, description="where runs are to be kept: s3://BUCKET/PREFIX, or a shared folder")
    nodes: int | None = Field(None, ge=1, description="nodes that there should be at least, the head among them")
    gpus: int | None = Field(None, ge=1, description="GPUs that there should be at least")
    devices: bool = Field(True, description="also compute and all-reduce on each GPU, or on the CPUs of each node")
    size: str = Field("37M", description="size of the model that takes a training step, as of pretrain run")
    micro_batch: int = Field(1, ge=1, description="profiles in that step")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="of that step")
    genes: int = Field(20_010, ge=2, description="vocabulary of that step")
    timeout_seconds: float = Field(300.0, gt=0, description="how long to wait for the measurements of all nodes")
    max_clock_offset_seconds: float = Field(2.0, gt=0, description="between a node's clock and the driver's")
    min_free_disk_gigabytes: float = Field(20.0, ge=0, description="in Ray's folder and in that of temporary files")
    min_shared_memory_gigabytes: float = Field(1.0, ge=0, description="size of /dev/shm; containers have 0.06")
    storage_test_megabytes: int = Field(32, ge=1, le=64, description="size of the file that each node writes and reads")
    min_storage_megabytes_per_second: float = Field(10.0, ge=0, description="of each node, writing and reading")
    all_reduce_megabytes: int = Field(64, ge=1, description="what is summed over all devices")
    min_all_reduce_within_gigabytes_per_second: float = Field(
        4.0, ge=0, description="of GPUs of one node; PCIe 3 gives 10, NVLink above 100"
    )
    min_all_reduce_between_gigabytes_per_second: float = Field(
        0.5, ge=0, description="of GPUs on all nodes; a network of 10 Gbit/s gives 1"
    )
    min_share_of_median_gpu: float = Field(
        0.7, ge=0, le=1, description="speed of each GPU, of the median's: all wait for the slowest"
    )


class ClusterSettings(LocalSettings):
    """Which cluster a command is for."""

    address: str | None = Field(
        None, description="dashboard of the cluster, http://HOST:8265; without it RAY_API_SERVER_ADDRESS or the state"
    )
    token_file: Path | None = Field(
        None, description="file with the token of the cluster at --address; plain HTTP shows it to the network between"
    )


class SubmitSettings(ClusterSettings):
    """Settings of ``submit``; the command to run follows after ``--``."""

    working_dir: Path = Field(Path(), description="folder that is sent along and becomes the job's")
    name: str | None = Field(
        None, description="submission id of the job; generated if not given. A job of that name and command is followed"
    )
    detach: bool = Field(
        False, description="exit once the job is submitted; else follow the log and exit as the job does"
    )
    patience_seconds: float = Field(600.0, ge=0, description="how long to wait for a cluster that does not answer")
    dry_run: bool = Field(False, description="print the `ray job submit` line that does the same, and send nothing")


class JobsSettings(ClusterSettings):
    """Settings of ``jobs``."""

    last: int = Field(10, ge=1, description="how many jobs to list, the newest ones")
