"""Machines that go away under a run: lost, announced, replaced, all at once. Several raylets, jobs of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from made_corpora import make_corpus
from running_jobs import RayCluster, RunningJob, require_every_profile_once_per_epoch, training_rows, worker_processes

from dataprep.corpus import Corpus
from dataprep.storage import Folder
from pretrain.checkpoint import CheckpointStore
from pretrain.config import RunSettings
from pretrain.tracking import read_rows

PROFILES = 70
STEPS_IN_EPOCH = 6


@pytest.fixture(scope="module")
def corpus(s3_server) -> Corpus:
    return make_corpus(s3_server.prefix("corpus"), {"train": PROFILES, "validation": 8, "test": 0}, rows_per_shard=24)


@pytest.fixture(scope="module")
def storage(s3_server) -> str:
    return s3_server.prefix("nodes")


@pytest.fixture
def start_cluster() -> Iterator[Callable[[int], RayCluster]]:
    started: list[RayCluster] = []

    def start(nodes: int) -> RayCluster:
        started.append(RayCluster(nodes))
        return started[-1]

    yield start
    for cluster in started:
        cluster.shutdown()


def settings(corpus: Corpus, storage: str, name: str, epochs: int, **changes) -> RunSettings:
    """Steps of 12 profiles one by one, so that they take long enough to be interrupted; workers of a node each."""
    base = {
        "epochs": epochs,
        "batch": {"global_profiles": 12, "micro_profiles": 1},
        "optimizer": {"learning_rate": 1e-3},
        "workers": {"count": 2, "cpus_each": 2, "threads_each": 1},
        "data": {"shuffle_window_profiles": 16},
        "checkpoint": {"every_steps": 4},
        "tracking": {"row_ids": True},
    }
    for key, value in changes.items():
        base[key] = base[key] | value if isinstance(base.get(key), dict) else value
    return RunSettings(corpus=corpus.folder.uri, storage=storage, name=name, **base)


def test_machines_are_lost_come_back_and_go_with_notice(corpus, storage, start_cluster, tmp_path):
    """Two workers, one after a loss, two again when there is a machine for it, one after an announced departure."""
    cluster = start_cluster(2)
    epochs = 60
    elastic = {"min_count": 1, "resize_check_seconds": 3.0}
    job = RunningJob(settings(corpus, storage, "elastic", epochs, workers=elastic), cluster, tmp_path)
    job.until_checkpoint(8)
    cluster.lose(cluster.nodes[1])
    job.until("one worker", lambda: "going on from the checkpoint of step" in job.output)
    cluster.nodes[1] = cluster.add_node()
    job.until("two workers", lambda: job.output.count("going on from the checkpoint of step") == 2)
    at = CheckpointStore(job.folder / "checkpoints").steps()[-1]
    job.until_checkpoint(at + 4)
    cluster.drain(cluster.nodes[1], seconds=8)
    job.until("the notice", lambda: "NODE GOES AWAY" in job.output)
    job.until("one worker", lambda: job.output.count("going on from the checkpoint of step") == 3)
    assert job.wait() == 0, job.output
    rows = training_rows(job.folder)
    assert len(rows) == epochs * STEPS_IN_EPOCH
    require_every_profile_once_per_epoch(rows, range(PROFILES), epochs)
    validation = [row["validation_loss"] for row in read_rows(job.folder) if "validation_loss" in row]
    assert len(validation) == epochs
    assert validation[-1] < 0.7 * validation[0], "training went on from where it was, each time"


def test_a_terminated_job_and_a_lost_machine_leave_no_trace_in_the_losses(corpus, storage, start_cluster, tmp_path):
    """SIGTERM: a checkpoint, exit code 1, resumed. Then a machine is lost and replaced. Same losses to 1e-6."""
    cluster = start_cluster(2)
    whole = RunningJob(settings(corpus, storage, "whole", 10), cluster, tmp_path)
    assert whole.wait() == 0, whole.output

    job = RunningJob(settings(corpus, storage, "broken", 10), cluster, tmp_path)
    job.until_checkpoint(4)
    job.terminate()
    assert job.wait() == 1
    assert "the same command goes on from its checkpoint" in job.output
    assert "Traceback" not in job.output
    stopped_at = CheckpointStore(job.folder / "checkpoints").steps()[-1]
    assert len(training_rows(job.folder)) == stopped_at, "the checkpoint is of the step it stopped at"

    job = RunningJob(settings(corpus, storage, "broken", 10), cluster, tmp_path)
    job.until_checkpoint(stopped_at + 4)
    cluster.lose(cluster.node_of(worker_processes()[0]))
    cluster.add_node()
    assert job.wait() == 0, job.output
    rows = training_rows(job.folder)
    require_every_profile_once_per_epoch(rows, range(PROFILES), 10)
    expected = [row["loss"] for row in training_rows(whole.folder)]
    np.testing.assert_allclose([row["loss"] for row in rows], expected, rtol=0, atol=1e-6)


def test_a_run_outlives_its_clusters_at_other_sizes_and_stages(corpus, storage, start_cluster, tmp_path):
    """2 workers on ZeRO 1, then 1, then 3 on ZeRO 3: job and cluster are killed in mid-epoch in between."""
    epochs = 6
    name = "resized"
    for workers, stage, until in ((2, 1, 8), (1, 1, 16), (3, 3, None)):
        cluster = start_cluster(workers)
        job = RunningJob(
            settings(corpus, storage, name, epochs, workers={"count": workers}, zero={"stage": stage}),
            cluster,
            Path(tmp_path),
        )
        if until is not None:
            job.until_checkpoint(until)
            job.kill()
        else:
            assert job.wait() == 0, job.output
        cluster.shutdown()
    rows = training_rows(Folder(storage) / name)
    assert len(rows) == epochs * STEPS_IN_EPOCH
    require_every_profile_once_per_epoch(rows, range(PROFILES), epochs)
    validation = [row["validation_loss"] for row in read_rows(job.folder) if "validation_loss" in row]
    assert len(validation) == epochs
    assert validation == sorted(validation, reverse=True) or validation[-1] < validation[0]
