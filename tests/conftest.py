"""Real services for the tests of every package: an S3 server, an MLflow server, Ray.

Each is started when the first test asks for it, serves the whole session, and is ended by its own pid.
"""

import itertools
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.config import DownSettings, UpSettings
from cluster.local.lifecycle import down, stop, up
from cluster.local.object_store import ObjectStore
from cluster.local.service import BUCKET, FOREIGN_VARIABLES, Place, Service, job_environment
from cluster.local.state import StateFolder
from cluster.local.tracking_server import Tracking

if TYPE_CHECKING:
    from running_jobs import RayCluster

# Settings of the shell that the tests are started from; the tests have services of their own.
_FOREIGN_PREFIXES = ("AWS_", "MLFLOW_", "RAY_")
# Read by Ray, DeepSpeed and PyTorch when they are imported, which test modules do and this one must not.
_ENVIRONMENT = {
    # see dataprep.runtime.allocator
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    "MALLOC_ARENA_MAX": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # `make test` gives one to each of the two processes that run side by side
    "OMP_NUM_THREADS": os.environ.get("TEST_THREADS", "2"),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # a token of this session's own: without one Ray would put one into the user's home and leave it there
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    # listen on 127.0.0.1 only; see cluster.local.service
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
for _name in [name for name in os.environ if name.startswith(_FOREIGN_PREFIXES) and name != "AWS_CA_BUNDLE"]:
    del os.environ[_name]
os.environ.update(_ENVIRONMENT)
# The same tests on all machines: GPUs are hidden, unless TEST_WITH_GPU=1 asks for the tests that need one as well.
if os.environ.get("TEST_WITH_GPU") != "1":
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"})

# Logical: workers of a training group and the tasks that read for them hold one each at the same time.
RAY_CPUS = 8


def pytest_configure() -> None:
    # by default a terminated session ends on the spot and leaves its services running
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))
    # a shell's background job ignores it, as would every command that a test interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class RunningService:
    """A real service for the session. Tests of an outage stop it and start it again; ports and data stay."""

    service: Service
    state: Path

    def start(self) -> None:
        up(UpSettings(state=self.state), [self.service])

    def stop(self) -> None:
        folder = StateFolder.at(self.state)
        stop(self.service, folder, folder.read())

    @property
    def address(self) -> str:
        folder = StateFolder.at(self.state)
        return f"http://127.0.0.1:{folder.read().ports[self.service.name]}"


@dataclass
class S3Server(RunningService):
    """The S3 server. Its address and credentials are in the AWS_* variables of the session."""

    bucket: str = BUCKET
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def prefix(self, name: str = "test") -> str:
        """``s3://bucket/...`` that nobody has used yet."""
        return f"s3://{self.bucket}/tests/{name}-{next(self._numbers)}"


@pytest.fixture(scope="session")
def services_state() -> Iterator[Path]:
    """State folder of the session's services; whatever runs in it is ended with the session."""
    # not pytest's folder: the path has to be short enough for Unix sockets
    folder = Path(tempfile.mkdtemp(prefix="bulkformer-tests-", dir="/tmp"))
    try:
        yield folder
    finally:
        down(DownSettings(state=folder, grace_seconds=2.0))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _session_environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="session")
def s3_server(services_state: Path, _session_environment: pytest.MonkeyPatch) -> S3Server:
    """A running S3 server with one bucket; the environment of the session points to it."""
    server = S3Server(ObjectStore(), services_state)
    server.start()
    _point_to_services(services_state, _session_environment, "AWS_", "NO_PROXY", "no_proxy")
    return server


@pytest.fixture(scope="session")
def mlflow_server(
    s3_server: S3Server, services_state: Path, _session_environment: pytest.MonkeyPatch
) -> RunningService:
    """A running MLflow server with artifacts in the bucket; MLFLOW_TRACKING_URI of the session points to it."""
    server = RunningService(Tracking(), services_state)
    server.start()
    _point_to_services(services_state, _session_environment, "MLFLOW_")
    import ray

    if ray.is_initialized():
        # workers have the environment of the moment in which Ray was started
        ray.shutdown()
        _start_ray()
    return server


@pytest.fixture(scope="session")
def ray_session(s3_server: S3Server) -> Iterator[None]:
    """Ray in this process, with the S3 server (and MLflow, if a test asked for it) in its workers' environment."""
    import ray

    _start_ray()
    yield
    ray.shutdown()


def _start_ray() -> None:
    import ray

    ray.init(
        address="local",
        num_cpus=RAY_CPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        object_store_memory=512 * 2**20,
    )


def _point_to_services(state: Path, patch: pytest.MonkeyPatch, *prefixes: str) -> None:
    folder = StateFolder.at(state)
    place = Place(folder, folder.read().ports, folder.credentials(), UpSettings(state=state))
    for name in FOREIGN_VARIABLES:
        if name.startswith(prefixes):
            patch.delenv(name, raising=False)
    for name, value in job_environment(place).items():
        if name.startswith(prefixes):
            patch.setenv(name, value)


@pytest.fixture
def start_cluster() -> "Iterator[Callable[..., RayCluster]]":
    """Starts Ray clusters of a head and so many nodes, for jobs in processes of their own; ended with the test."""
    from running_jobs import RayCluster

    started: list[RayCluster] = []

    def start(nodes: int, dashboard: bool = False) -> RayCluster:
        started.append(RayCluster(nodes, dashboard))
        return started[-1]

    yield start
    for cluster in started:
        cluster.shutdown()
