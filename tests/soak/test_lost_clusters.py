"""Kills of a job, of Ray Train's controller and of a machine in one run, and a run that outlives its clusters."""

import numpy as np
import pytest
from running_jobs import (
    PROFILES,
    RunningJob,
    controller_process,
    losses,
    make_run_corpus,
    node_settings,
    processes_of_jobs,
    require_every_profile_once_per_epoch,
    require_no_process_of_jobs,
    training_rows,
    worker_processes,
)

from dataprep.corpus import Corpus
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import CheckpointStore
from pretrain.driver.run import run
from pretrain.monitoring.metrics_file import read_rows

EPOCHS = 10
STEPS = 60


@pytest.fixture(scope="module")
def corpus(s3_server, ray_session) -> Corpus:
    return make_run_corpus(s3_server.prefix("corpus"))


@pytest.fixture(scope="module")
def storage(s3_server) -> str:
    return s3_server.prefix("clusters")


@pytest.fixture(scope="module")
def uninterrupted(corpus, storage) -> np.ndarray:
    """Losses of a run that nothing happens to."""
    run(node_settings(corpus, storage, "uninterrupted", EPOCHS))
    return losses(Folder(storage) / "uninterrupted")


def validation_losses(storage: str, name: str) -> list[float]:
    return [row["validation_loss"] for row in read_rows(Folder(storage) / name) if "validation_loss" in row]


def test_a_terminated_job_killed_processes_and_a_lost_machine_leave_no_trace_in_the_losses(
    corpus, storage, uninterrupted, start_cluster, tmp_path
):
    """SIGTERM: a checkpoint, exit code 1, resumed. SIGKILL of Ray Train's controller: exit code 1, nothing left behind,
    resumed. SIGKILL of a worker. A machine is lost and replaced. Same losses."""
    others = processes_of_jobs()
    cluster = start_cluster(2)
    job = RunningJob(node_settings(corpus, storage, "broken", EPOCHS), cluster, tmp_path)
    job.until_checkpoint(4)
    job.terminate()
    assert job.wait() == 1
    assert "the same command resumes from its checkpoint" in job.output
    assert "Traceback" not in job.output
    stopped_at = CheckpointStore(job.folder / "checkpoints").steps()[-1]
    assert len(training_rows(job.folder)) == stopped_at, "the checkpoint is of the step it stopped at"

    job = RunningJob(node_settings(corpus, storage, "broken", EPOCHS), cluster, tmp_path)
    job.until_checkpoint(stopped_at + 4)
    controller_process().kill()
    assert job.wait() == 1
    assert "error: training failed" in job.output
    assert "Traceback" not in job.output
    require_no_process_of_jobs(30, but=others)

    job = RunningJob(node_settings(corpus, storage, "broken", EPOCHS), cluster, tmp_path)
    job.until_checkpoint(CheckpointStore(job.folder / "checkpoints").steps()[-1] + 4)
    resumed = job.output.count("resuming from")
    worker_processes()[-1].kill()
    job.until("a restart", lambda: job.output.count("resuming from") > resumed)
    job.until_checkpoint(CheckpointStore(job.folder / "checkpoints").steps()[-1] + 4)
    cluster.lose(cluster.node_of(worker_processes()[0]))
    cluster.add_node()
    assert job.wait() == 0, job.output
    rows = training_rows(job.folder)
    require_every_profile_once_per_epoch(rows, range(PROFILES), EPOCHS)
    np.testing.assert_allclose([row["loss"] for row in rows], uninterrupted, rtol=0, atol=1e-6)


def test_a_run_outlives_its_clusters_at_other_sizes_and_stages(corpus, storage, uninterrupted, start_cluster, tmp_path):
    """2 workers on ZeRO 1, then 1, then 3 on ZeRO 3: job and cluster are killed in mid-epoch in between.

    The cluster loses the job first: of that, no process may stay.
    """
    name = "resized"
    others = processes_of_jobs()
    for workers, stage, until in ((2, 1, 8), (1, 1, 32), (3, 3, None)):
        cluster = start_cluster(workers)
        job = RunningJob(
            node_settings(corpus, storage, name, EPOCHS, workers={"count": workers}, zero={"stage": stage}),
            cluster,
            tmp_path,
        )
        if until is not None:
            job.until_checkpoint(until)
            job.kill()
            require_no_process_of_jobs(30, but=others)
        else:
            assert job.wait() == 0, job.output
        cluster.shutdown()
    rows = training_rows(Folder(storage) / name)
    assert len(rows) == STEPS
    require_every_profile_once_per_epoch(rows, range(PROFILES), EPOCHS)
    validation, expected = validation_losses(storage, name), validation_losses(storage, "uninterrupted")
    assert len(validation) == len(expected) == EPOCHS
    changes = np.diff(validation) / validation[:-1]
    assert changes.max() < 0.01, "across each resize it goes on falling"
    # Another order within epochs: 7 % apart when this was written. To start over at the last resize would be 50 %.
    np.testing.assert_allclose(validation, expected, rtol=0.15)
