"""Machines that go away under a run: lost and replaced, or all at once. Several raylets, jobs of their own."""

import numpy as np
import pytest
from made_corpora import make_corpus
from running_jobs import (
    RunningJob,
    node_settings,
    require_every_profile_once_per_epoch,
    training_rows,
    worker_processes,
)

from dataprep.corpus import Corpus
from dataprep.storage import Folder
from pretrain.checkpoint import CheckpointStore
from pretrain.tracking import read_rows

PROFILES = 70
STEPS_IN_EPOCH = 6


@pytest.fixture(scope="module")
def corpus(s3_server) -> Corpus:
    return make_corpus(s3_server.prefix("corpus"), {"train": PROFILES, "validation": 8, "test": 0}, rows_per_shard=24)


@pytest.fixture(scope="module")
def storage(s3_server) -> str:
    return s3_server.prefix("nodes")


def test_a_terminated_job_and_a_lost_machine_leave_no_trace_in_the_losses(corpus, storage, start_cluster, tmp_path):
    """SIGTERM: a checkpoint, exit code 1, resumed. Then a machine is lost and replaced. Same losses to 1e-6."""
    cluster = start_cluster(2)
    whole = RunningJob(node_settings(corpus, storage, "whole", 10), cluster, tmp_path)
    assert whole.wait() == 0, whole.output

    job = RunningJob(node_settings(corpus, storage, "broken", 10), cluster, tmp_path)
    job.until_checkpoint(4)
    job.terminate()
    assert job.wait() == 1
    assert "the same command goes on from its checkpoint" in job.output
    assert "Traceback" not in job.output
    stopped_at = CheckpointStore(job.folder / "checkpoints").steps()[-1]
    assert len(training_rows(job.folder)) == stopped_at, "the checkpoint is of the step it stopped at"

    job = RunningJob(node_settings(corpus, storage, "broken", 10), cluster, tmp_path)
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
            node_settings(corpus, storage, name, epochs, workers={"count": workers}, zero={"stage": stage}),
            cluster,
            tmp_path,
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
