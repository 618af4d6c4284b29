"""Pretraining as its user starts it: a command in a process of its own, on a Ray cluster of several raylets."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from made_corpora import make_corpus
from ray.cluster_utils import Cluster

from dataprep.corpus import Corpus
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import CheckpointStore
from pretrain.config import RunSettings
from pretrain.monitoring.metrics_file import Row, read_rows

# Of the train split of the corpus that runs are tried on.
PROFILES = 70
# Most seconds that anything here may take.
PATIENCE_SECONDS = 300
START_PATIENCE_SECONDS = "25"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
    """Wait until something holds; fails with the complaint, made then, if it does not within so many seconds."""
    give_up_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up_at, complaint()
        time.sleep(0.1)


def wait_while_running(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something holds; fails with what the process has said where that ends, or does not get on."""
    wait_until(lambda: holds() or process.poll() is not None, 240, lambda: "the command does not get on")
    assert process.poll() is None, process.stderr.read() if process.stderr else ""


class RayCluster:
    """A head that holds no workers, and nodes of one worker each (of 2 CPUs: see :func:`node_settings`).

    With a ``dashboard``, as real clusters have, a run frees what killed ones still hold
    (:mod:`pretrain.driver.leftovers`).
    """

    def __init__(self, nodes: int, dashboard: bool = False) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "include_dashboard": dashboard,
                "dashboard_port": free_port(),
                "object_store_memory": 200 * 2**20,
            },
        )
        self.nodes = [self.add_node() for _ in range(nodes)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add_node(self, **options: Any):
        return self._cluster.add_node(num_cpus=3, object_store_memory=200 * 2**20, **options)

    def lose(self, node) -> None:
        """Its processes are killed, as when a machine goes away."""
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node, seconds: float) -> None:
        """Announce that the node will be taken away after so many whole seconds, as clouds do with spot machines.

        Ray's command is the only way that needs none of its private modules, though its help does not list it.
        """
        ray = str(Path(sys.executable).with_name("ray"))
        announcement = {
            "--address": self.address,
            "--node-id": node.node_id,
            "--reason": "DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message": "spot machine",
            "--deadline-remaining-seconds": str(round(seconds)),
        }
        options = [part for option in announcement.items() for part in option]
        subprocess.run([ray, "drain-node", *options], check=True, capture_output=True)

    def node_of(self, process: psutil.Process):
        """The node that a worker process runs on."""
        raylets = {ancestor.pid for ancestor in process.parents()}
        for node in self._cluster.list_all_nodes():
            if any(info.process.pid in raylets for info in node.all_processes.get("raylet", [])):
                return node
        raise AssertionError(f"process {process.pid} is on no node")

    def shutdown(self) -> None:
        self._cluster.shutdown()


class RunningJob:
    """``python -m pretrain run`` with some settings."""

    def __init__(self, settings: RunSettings, cluster: RayCluster, folder: Path) -> None:
        self.settings = settings
        self.folder = Folder(settings.storage) / settings.name
        self._config = folder / f"{settings.name}.yaml"
        self._config.write_text(json.dumps(settings.resolved()))  # JSON is YAML
        self._log = folder / f"{settings.name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pretrain", "run", "--config", str(self._config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ray waits so long for a machine that has just gone before it does with fewer; 60 s by default
                env=os.environ
                | {"RAY_ADDRESS": cluster.address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": START_PATIENCE_SECONDS},
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.output}") from None

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until something holds; the job must not end before."""

        def holds_while_running() -> bool:
            if holds():
                return True
            assert self._process.poll() is None, f"the job ended before {what}:\n{self.output}"
            return False

        wait_until(holds_while_running, PATIENCE_SECONDS, lambda: f"no sign of {what}:\n{self.output}")

    def until_checkpoint(self, step: int) -> None:
        store = CheckpointStore(self.folder / "checkpoints")
        self.until(f"a checkpoint of step {step}", lambda: any(done >= step for done in store.steps()))

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def worker_processes() -> list[psutil.Process]:
    """Ray Train's workers among the descendants of this process."""
    return _descendants("RayTrainWorker")


def controller_process() -> psutil.Process:
    """Ray Train's controller among the descendants of this process, the one started last."""
    return max(_descendants("TrainController"), key=psutil.Process.create_time)


def processes_of_jobs() -> list[psutil.Process]:
    """Whatever exists among the descendants of this process because of a job, and must be gone when that is."""
    return _descendants("RayTrainWorker", "TrainController", "PlacementGroupCleaner", "RunCoordinator", "pretrain run")


def require_no_process_of_jobs(seconds: float, but: Collection[psutil.Process] = ()) -> None:
    """Check that all of them are gone after so many seconds at most, ``but`` those of runs of this very process."""

    def orphans() -> list[psutil.Process]:
        return [process for process in processes_of_jobs() if process not in but]

    wait_until(lambda: not orphans(), seconds, lambda: f"processes outlive their jobs: {orphans()}")


def _descendants(*named: str) -> list[psutil.Process]:
    """Those whose command line has one of these parts; others may come and go meanwhile."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            line = " ".join(child.cmdline())
            if any(name in line for name in named):
                found.append(child)
    return found


def make_run_corpus(address: str) -> Corpus:
    """A corpus of ``PROFILES`` in several shards, six steps of a run of :func:`node_settings` an epoch."""
    return make_corpus(address, {"train": PROFILES, "validation": 8, "test": 0}, rows_per_shard=24)


def losses(run: Folder) -> np.ndarray:
    """The loss of each optimizer step."""
    return np.array([row["loss"] for row in training_rows(run)])


def training_rows(run: Folder) -> list[Row]:
    """The rows of optimizer steps; each step must be there once, in order."""
    rows = [row for row in read_rows(run) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), "each step is there once, in order"
    return rows


def require_every_profile_once_per_epoch(rows: list[Row], row_ids: range, epochs: int) -> None:
    """Check it by the row ids that the steps say they have used (``tracking.row_ids``)."""
    used: dict[int, Counter[int]] = defaultdict(Counter)
    for row in rows:
        used[row["epoch"]].update(row["row_ids"])
    assert sorted(used) == list(range(epochs))
    for epoch, counts in used.items():
        assert counts == Counter(row_ids), f"epoch {epoch}: not every profile exactly once"


def node_settings(corpus: Corpus, storage: str, name: str, epochs: int, **changes: Any) -> RunSettings:
    """A run whose steps, of 12 profiles one by one, take long enough to be interrupted; a node for each worker."""
    base = {
        "epochs": epochs,
        "batch": {"global_profiles": 12, "micro_profiles": 1},
        "optimizer": {"learning_rate": 1e-3},
        "workers": {"count": 2, "cpus_each": 2, "threads_each": 1},
        "data": {"shuffle_window_profiles": 16, "prefetch_windows": 1},
        "checkpoint": {"every_steps": 4},
        "tracking": {"row_ids": True},
    }
    for key, value in changes.items():
        base[key] = base[key] | value if isinstance(base.get(key), dict) else value
    return RunSettings(corpus=corpus.folder.uri, storage=storage, name=name, **base)
